//! Every tunable: its name, unit, range and default.
//!
//! The fields of [`Settings`] are open, so that a study can set what it likes; the fixed arithmetic copes with any
//! value. What an operator writes goes through [`Settings::set`], which refuses what is out of range.

use core::fmt;
use core::str::FromStr;

use crate::math::mib_frames;

/// The largest number of MiB that a setting takes: 16 TiB less one, whose count of frames still fits 32 bits.
pub const MAX_MIB: u32 = (1 << 24) - 1;
/// The largest interval: a day.
pub const MAX_INTERVAL_S: u32 = 86_400;

/// What decides the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Committed memory, as the original did.
    #[default]
    Committed,
    /// Measured use and pressure.
    Pressure,
}

/// Which version of Linux's driver the committed policy follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Generation {
    /// The first (Linux 3.1): no floor, counts in the balloon's own pages.
    First,
    /// From the fix of 2011-09 to 2013: with the floor; `reserved_mb`, which its later half has, defaults to 0.
    Second,
    /// The last (until Linux 5.2): 10 % reserve, the frontswap term counted from the start.
    #[default]
    Last,
}

/// Whether the original's defects are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Bit for bit what the original computed on a 64-bit machine.
    Compatible,
    /// Without its defects, the same everywhere else.
    #[default]
    Fixed,
}

/// The settings of all policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the balloon's target is decided here. Off: the toolstack's target is followed.
    pub selfballooning: bool,
    /// What decides.
    pub policy: Policy,
    /// Whose formula the committed policy uses.
    pub generation: Generation,
    /// Whether the original's defects are kept.
    pub arithmetic: Arithmetic,
    /// Seconds between two runs.
    pub selfballoon_interval: u32,
    /// What part of the way a run goes down: one part in this many.
    pub selfballoon_downhysteresis: u32,
    /// What part of the way a run goes up: one part in this many.
    pub selfballoon_uphysteresis: u32,
    /// The floor in MiB above the kernel's reserve; 0 is the automatic floor.
    pub selfballoon_min_usable_mb: u32,
    /// MiB held on top of what is committed; `None` until [`Settings::resolve_reserve`] computes the default.
    pub selfballoon_reserved_mb: Option<u32>,
    /// Whether a run always moves by a frame at least. Off, it can stop short of the goal, as the original does.
    /// The fixed arithmetic only.
    pub selfballoon_reach_goal: bool,
    /// Whether pages are brought home from frontswap.
    pub frontswap_selfshrinking: bool,
    /// What part of the pages in frontswap one shrink brings home: one part in this many.
    pub frontswap_hysteresis: u32,
    /// Quiet runs to wait before a shrink.
    pub frontswap_inertia: u32,
    /// The pressure policy: seconds in which an excess shrinks to a third.
    pub pressure_decay_s: u32,
    /// The pressure policy: the least headroom, in MiB.
    pub pressure_headroom_mb: u32,
    /// The pressure policy: the least headroom, in per cent of what is used.
    pub pressure_headroom_percent: u32,
    /// The pressure policy: whether it looks for pages that nobody uses, by pushing inactive ones out to swap.
    pub pressure_probe: bool,
}

impl Default for Settings {
    /// The last version's defaults, both switches on, without its defects.
    fn default() -> Self {
        Self {
            selfballooning: true,
            policy: Policy::Committed,
            generation: Generation::Last,
            arithmetic: Arithmetic::Fixed,
            selfballoon_interval: 5,
            selfballoon_downhysteresis: 8,
            selfballoon_uphysteresis: 1,
            selfballoon_min_usable_mb: 0,
            selfballoon_reserved_mb: None,
            selfballoon_reach_goal: true,
            frontswap_selfshrinking: true,
            frontswap_hysteresis: 20,
            frontswap_inertia: 3,
            pressure_decay_s: 10,
            pressure_headroom_mb: 4,
            pressure_headroom_percent: 5,
            pressure_probe: true,
        }
    }
}

/// A setting that is a number or a switch (0, 1). [`Policy`], [`Generation`] and [`Arithmetic`] are words, and
/// parse on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the field of Settings of the same name")]
pub enum Tunable {
    Selfballooning,
    SelfballoonInterval,
    SelfballoonDownhysteresis,
    SelfballoonUphysteresis,
    SelfballoonMinUsableMb,
    SelfballoonReservedMb,
    SelfballoonReachGoal,
    FrontswapSelfshrinking,
    FrontswapHysteresis,
    FrontswapInertia,
    PressureDecayS,
    PressureHeadroomMb,
    PressureHeadroomPercent,
    PressureProbe,
}

/// What is to be known about a tunable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name, as in the original where it has one.
    pub name: &'static str,
    /// The unit, for people.
    pub unit: &'static str,
    /// The least value.
    pub min: u64,
    /// The greatest value.
    pub max: u64,
    /// The value at start; `None` if it is computed then.
    pub default: Option<u64>,
    /// What it does, for people.
    pub help: &'static str,
}

impl Tunable {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Selfballooning,
        Self::SelfballoonInterval,
        Self::SelfballoonDownhysteresis,
        Self::SelfballoonUphysteresis,
        Self::SelfballoonMinUsableMb,
        Self::SelfballoonReservedMb,
        Self::SelfballoonReachGoal,
        Self::FrontswapSelfshrinking,
        Self::FrontswapHysteresis,
        Self::FrontswapInertia,
        Self::PressureDecayS,
        Self::PressureHeadroomMb,
        Self::PressureHeadroomPercent,
        Self::PressureProbe,
    ];

    /// Its name, unit, range, default and meaning.
    #[must_use]
    pub const fn spec(self) -> Spec {
        const fn spec(
            name: &'static str,
            unit: &'static str,
            (min, max): (u64, u64),
            default: Option<u64>,
            help: &'static str,
        ) -> Spec {
            Spec { name, unit, min, max, default, help }
        }
        const SWITCH: (u64, u64) = (0, 1);
        const DIVISOR: (u64, u64) = (1, u32::MAX as u64);
        const MIB: (u64, u64) = (0, MAX_MIB as u64);
        match self {
            Self::Selfballooning => spec(
                "selfballooning",
                "",
                SWITCH,
                Some(1),
                "decide the balloon's target; 0: follow the toolstack's",
            ),
            Self::SelfballoonInterval => {
                spec("selfballoon_interval", "s", (1, MAX_INTERVAL_S as u64), Some(5), "between two runs")
            }
            Self::SelfballoonDownhysteresis => spec(
                "selfballoon_downhysteresis",
                "",
                DIVISOR,
                Some(8),
                "a run goes down 1 part in this many",
            ),
            Self::SelfballoonUphysteresis => {
                spec("selfballoon_uphysteresis", "", DIVISOR, Some(1), "a run goes up 1 part in this many")
            }
            Self::SelfballoonMinUsableMb => spec(
                "selfballoon_min_usable_mb",
                "MiB",
                MIB,
                Some(0),
                "the floor above the reserve; 0: automatic",
            ),
            Self::SelfballoonReservedMb => spec(
                "selfballoon_reserved_mb",
                "MiB",
                MIB,
                None,
                "held on top of what is committed; at start 10 % of the memory",
            ),
            Self::SelfballoonReachGoal => spec(
                "selfballoon_reach_goal",
                "",
                SWITCH,
                Some(1),
                "move by a frame at least until at the goal",
            ),
            Self::FrontswapSelfshrinking => {
                spec("frontswap_selfshrinking", "", SWITCH, Some(1), "bring pages home from frontswap")
            }
            Self::FrontswapHysteresis => spec(
                "frontswap_hysteresis",
                "",
                DIVISOR,
                Some(20),
                "a shrink brings home 1 part in this many",
            ),
            Self::FrontswapInertia => {
                spec("frontswap_inertia", "runs", DIVISOR, Some(3), "quiet runs before a shrink")
            }
            Self::PressureDecayS => spec(
                "pressure_decay_s",
                "s",
                (1, 3600),
                Some(10),
                "in which an excess shrinks to a third (policy=pressure)",
            ),
            Self::PressureHeadroomMb => {
                spec("pressure_headroom_mb", "MiB", MIB, Some(4), "the least headroom (policy=pressure)")
            }
            Self::PressureHeadroomPercent => spec(
                "pressure_headroom_percent",
                "%",
                (0, 100),
                Some(5),
                "the least headroom, of what is used (policy=pressure)",
            ),
            Self::PressureProbe => spec(
                "pressure_probe",
                "",
                SWITCH,
                Some(1),
                "push out to swap what nobody uses (policy=pressure)",
            ),
        }
    }

    /// The tunable of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tunable| tunable.spec().name == name)
    }
}

/// A value outside the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// Which.
    pub tunable: Tunable,
    /// What was asked for.
    pub value: u64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec { name, min, max, .. } = self.tunable.spec();
        write!(f, "{name} takes {min} to {max}, not {}", self.value)
    }
}

impl core::error::Error for OutOfRange {}

impl Settings {
    /// The value of a tunable; a switch reads 0 or 1, a reserve that is not computed yet reads 0.
    #[must_use]
    pub fn get(&self, tunable: Tunable) -> u64 {
        match tunable {
            Tunable::Selfballooning => self.selfballooning.into(),
            Tunable::SelfballoonInterval => self.selfballoon_interval.into(),
            Tunable::SelfballoonDownhysteresis => self.selfballoon_downhysteresis.into(),
            Tunable::SelfballoonUphysteresis => self.selfballoon_uphysteresis.into(),
            Tunable::SelfballoonMinUsableMb => self.selfballoon_min_usable_mb.into(),
            Tunable::SelfballoonReservedMb => self.selfballoon_reserved_mb.unwrap_or(0).into(),
            Tunable::SelfballoonReachGoal => self.selfballoon_reach_goal.into(),
            Tunable::FrontswapSelfshrinking => self.frontswap_selfshrinking.into(),
            Tunable::FrontswapHysteresis => self.frontswap_hysteresis.into(),
            Tunable::FrontswapInertia => self.frontswap_inertia.into(),
            Tunable::PressureDecayS => self.pressure_decay_s.into(),
            Tunable::PressureHeadroomMb => self.pressure_headroom_mb.into(),
            Tunable::PressureHeadroomPercent => self.pressure_headroom_percent.into(),
            Tunable::PressureProbe => self.pressure_probe.into(),
        }
    }

    /// Sets a tunable.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`], and nothing has changed.
    pub fn set(&mut self, tunable: Tunable, value: u64) -> Result<(), OutOfRange> {
        let refused = OutOfRange { tunable, value };
        let spec = tunable.spec();
        if value < spec.min || value > spec.max {
            return Err(refused);
        }
        self.store(tunable, u32::try_from(value).map_err(|_| refused)?);
        Ok(())
    }

    /// Sets a tunable without a look at its range.
    pub(crate) fn store(&mut self, tunable: Tunable, value: u32) {
        match tunable {
            Tunable::Selfballooning => self.selfballooning = value != 0,
            Tunable::SelfballoonInterval => self.selfballoon_interval = value,
            Tunable::SelfballoonDownhysteresis => self.selfballoon_downhysteresis = value,
            Tunable::SelfballoonUphysteresis => self.selfballoon_uphysteresis = value,
            Tunable::SelfballoonMinUsableMb => self.selfballoon_min_usable_mb = value,
            Tunable::SelfballoonReservedMb => self.selfballoon_reserved_mb = Some(value),
            Tunable::SelfballoonReachGoal => self.selfballoon_reach_goal = value != 0,
            Tunable::FrontswapSelfshrinking => self.frontswap_selfshrinking = value != 0,
            Tunable::FrontswapHysteresis => self.frontswap_hysteresis = value,
            Tunable::FrontswapInertia => self.frontswap_inertia = value,
            Tunable::PressureDecayS => self.pressure_decay_s = value,
            Tunable::PressureHeadroomMb => self.pressure_headroom_mb = value,
            Tunable::PressureHeadroomPercent => self.pressure_headroom_percent = value,
            Tunable::PressureProbe => self.pressure_probe = value != 0,
        }
    }

    /// Computes the default of `selfballoon_reserved_mb` from the memory at start, unless it was set already: for
    /// the last generation 10 %, for the others 0.
    ///
    /// Called once, when the settings from the command line are in. A value that was set stays, 0 too.
    pub fn resolve_reserve(&mut self, current_frames: u64) {
        let tenth_mib = current_frames / 10 / crate::FRAMES_PER_MIB;
        let default = match self.generation {
            Generation::First | Generation::Second => 0,
            Generation::Last => u32::try_from(tenth_mib).map_or(MAX_MIB, |mib| mib.min(MAX_MIB)),
        };
        self.selfballoon_reserved_mb.get_or_insert(default);
    }

    /// `selfballoon_reserved_mb` in frames.
    #[must_use]
    pub(crate) fn reserved_frames(&self) -> u64 {
        mib_frames(self.selfballoon_reserved_mb.unwrap_or(0).into())
    }
}

/// A word that names no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The words that do, for people.
    pub accepted: &'static str,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted: {}", self.accepted)
    }
}

impl core::error::Error for UnknownWord {}

macro_rules! words {
    ($type:ident, $accepted:literal, $($word:literal => $variant:ident),+) => {
        impl FromStr for $type {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { accepted: $accepted }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }
    };
}

words!(Policy, "committed, pressure", "committed" => Committed, "pressure" => Pressure);
words!(Generation, "first, second, last", "first" => First, "second" => Second, "last" => Last);
words!(Arithmetic, "compatible, fixed", "compatible" => Compatible, "fixed" => Fixed);

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::{Generation, OutOfRange, Policy, Settings, Tunable};

    #[test]
    fn the_table_agrees_with_the_defaults() {
        let settings = Settings::default();
        for tunable in Tunable::ALL {
            let spec = tunable.spec();
            assert_eq!(Tunable::named(spec.name), Some(tunable), "{}", spec.name);
            if let Some(default) = spec.default {
                assert_eq!(settings.get(tunable), default, "{}", spec.name);
                assert!((spec.min..=spec.max).contains(&default), "{}", spec.name);
            }
        }
        assert_eq!(Tunable::named("nonsense"), None);
    }

    #[test]
    fn what_is_set_is_read_and_the_rest_stays() {
        for tunable in Tunable::ALL {
            let spec = tunable.spec();
            for value in [spec.min, spec.max] {
                let mut settings = Settings::default();
                assert_eq!(settings.set(tunable, value), Ok(()), "{}", spec.name);
                assert_eq!(settings.get(tunable), value, "{}", spec.name);
                for other in Tunable::ALL.into_iter().filter(|other| *other != tunable) {
                    assert_eq!(settings.get(other), Settings::default().get(other), "{}", spec.name);
                }
            }
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_and_changes_nothing() {
        for tunable in Tunable::ALL {
            let spec = tunable.spec();
            let below = spec.min.checked_sub(1);
            for value in [below, Some(spec.max + 1), Some(1 << 32), Some(u64::MAX)].into_iter().flatten() {
                let mut settings = Settings::default();
                assert_eq!(settings.set(tunable, value), Err(OutOfRange { tunable, value }), "{}", spec.name);
                assert_eq!(settings, Settings::default(), "{}", spec.name);
            }
        }
        let text = OutOfRange { tunable: Tunable::FrontswapInertia, value: 0 }.to_string();
        assert_eq!(text, "frontswap_inertia takes 1 to 4294967295, not 0");
    }

    #[test]
    fn the_reserve_is_ten_per_cent_unless_it_was_set() {
        let mut settings = Settings::default();
        settings.resolve_reserve(1_000_000);
        assert_eq!(settings.selfballoon_reserved_mb, Some(390));
        settings.resolve_reserve(10);
        assert_eq!(settings.selfballoon_reserved_mb, Some(390), "once");

        let mut settings = Settings { selfballoon_reserved_mb: Some(0), ..Settings::default() };
        settings.resolve_reserve(1_000_000);
        assert_eq!(settings.selfballoon_reserved_mb, Some(0), "0 is a value");

        for generation in [Generation::First, Generation::Second] {
            let mut settings = Settings { generation, ..Settings::default() };
            settings.resolve_reserve(1_000_000);
            assert_eq!(settings.selfballoon_reserved_mb, Some(0));
        }
        let mut settings = Settings::default();
        settings.resolve_reserve(u64::MAX);
        assert_eq!(settings.selfballoon_reserved_mb, Some(super::MAX_MIB));
    }

    #[test]
    fn words_parse_and_print() {
        assert_eq!("pressure".parse(), Ok(Policy::Pressure));
        assert_eq!(Generation::Second.to_string().parse(), Ok(Generation::Second));
        let refused = "Pressure".parse::<Policy>().map_err(|unknown| unknown.to_string());
        assert_eq!(refused, Err("accepted: committed, pressure".to_string()));
    }
}
