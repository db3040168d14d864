//! What the policy crate wants to know: its settings from the tunables, and the switches of the command line by the
//! names that users know from Linux.

use super::{Id, Tunables};
use crate::cmdline::{Item, Kind, Opt, Value};
use crate::units::Frames;
use policy::boot::Options;
use policy::{Arithmetic, Generation, Policy, Settings};

/// The switches of both generations of the original. What they come to, [`policy::boot::select`] says.
pub static SWITCHES: &[Opt] = &[
    Opt { name: "tmem", kind: Kind::Switch, help: "use the hypervisor's transcendent memory" },
    Opt { name: "tmem.selfballooning", kind: Kind::Switch, help: "0: follow the toolstack's target only" },
    Opt { name: "tmem.selfshrinking", kind: Kind::Switch, help: "0: bring no pages home from frontswap" },
    Opt { name: "tmem.selfshrink", kind: Kind::Switch, help: "the same as tmem.selfshrinking" },
    Opt { name: "tmem.frontswap", kind: Kind::Switch, help: "0: no frontswap" },
    Opt { name: "tmem.cleancache", kind: Kind::Switch, help: "0: no cleancache" },
    Opt { name: "noselfballooning", kind: Kind::Switch, help: "the same as tmem.selfballooning=0" },
    Opt { name: "selfballooning", kind: Kind::Switch, help: "choose our own target, below the toolstack's" },
    Opt { name: "noselfshrink", kind: Kind::Switch, help: "the same as tmem.selfshrinking=0" },
];

/// Takes the value of an option of [`SWITCHES`], and answers whether it was one.
pub fn apply_switch(options: &mut Options, item: &Item<'_>) -> bool {
    let Item::Option(opt, Value::Switch(on)) = item else { return false };
    match opt.name {
        "tmem" => options.tmem = *on,
        "tmem.selfballooning" => options.tmem_selfballooning = Some(*on),
        "tmem.selfshrinking" | "tmem.selfshrink" => options.tmem_selfshrinking = Some(*on),
        "tmem.frontswap" => options.tmem_frontswap = Some(*on),
        "tmem.cleancache" => options.tmem_cleancache = Some(*on),
        "noselfballooning" => options.noselfballooning = *on,
        "selfballooning" => options.selfballooning = *on,
        "noselfshrink" => options.noselfshrink = *on,
        _ => return false,
    }
    true
}

impl Tunables {
    /// The policies' settings as they are now. Each is valid; two that are set together may be seen one before the
    /// other.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            selfballooning: self.is_on(Id::Selfballooning),
            policy: [Policy::Committed, Policy::Pressure][self.choice(Id::Policy)],
            generation: [Generation::First, Generation::Second, Generation::Last]
                [self.choice(Id::Generation)],
            arithmetic: [Arithmetic::Compatible, Arithmetic::Fixed][self.choice(Id::Arithmetic)],
            selfballoon_interval: self.small(Id::SelfballoonInterval),
            selfballoon_downhysteresis: self.small(Id::SelfballoonDownhysteresis),
            selfballoon_uphysteresis: self.small(Id::SelfballoonUphysteresis),
            selfballoon_min_usable_mb: self.small(Id::SelfballoonMinUsableMb),
            selfballoon_reserved_mb: self
                .value(Id::SelfballoonReservedMb)
                .map(|_| self.small(Id::SelfballoonReservedMb)),
            selfballoon_reach_goal: self.is_on(Id::SelfballoonReachGoal),
            frontswap_selfshrinking: self.is_on(Id::FrontswapSelfshrinking),
            frontswap_hysteresis: self.small(Id::FrontswapHysteresis),
            frontswap_inertia: self.small(Id::FrontswapInertia),
            pressure_decay_s: self.small(Id::PressureDecayS),
            pressure_headroom_mb: self.small(Id::PressureHeadroomMb),
            pressure_headroom_percent: self.small(Id::PressureHeadroomPercent),
            pressure_probe: self.is_on(Id::PressureProbe),
        }
    }

    /// Computes the values that are computed at start, for a guest that has `present` memory then, unless somebody has
    /// set them.
    pub fn resolve_for(&self, present: Frames) {
        let mut settings = self.settings();
        settings.resolve_reserve(present.get());
        if let Some(reserved_mb) = settings.selfballoon_reserved_mb {
            self.resolve(Id::SelfballoonReservedMb, reserved_mb.into());
        }
    }

    fn choice(&self, id: Id) -> usize {
        self.number(id) as usize
    }

    fn small(&self, id: Id) -> u32 {
        let number = self.number(id);
        u32::try_from(number).unwrap_or_else(|_| unreachable!("{id:?} accepts {number}, which is no u32"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline;
    use crate::tunable::{Group, Initial, TABLE};
    use std::format;
    use std::string::ToString;

    /// The policy crate can be used alone, and so has a table of its own: the two say the same.
    #[test]
    fn the_table_agrees_with_the_policy() {
        let mut numbers = 0;
        for row in TABLE.iter().filter(|row| row.group == Group::Selfballoon) {
            let Some(spec) = policy::Tunable::named(row.name).map(policy::Tunable::spec) else {
                assert!(matches!(row.kind, Kind::Choice(_)), "{} is no tunable of the policy", row.name);
                continue;
            };
            numbers += 1;
            let range = match row.kind {
                Kind::Switch => (0, 1),
                Kind::Integer { min, max } => (min, max),
                Kind::Choice(_) | Kind::Text => unreachable!("{} is a number", row.name),
            };
            assert_eq!((range, row.unit), ((spec.min, spec.max), spec.unit), "{}", row.name);
            match row.initial {
                Initial::Value(value) => assert_eq!(Some(value), spec.default, "{}", row.name),
                Initial::AtStart(_) => assert_eq!(spec.default, None, "{}", row.name),
            }
        }
        assert_eq!(numbers, policy::Tunable::ALL.len(), "none is missing");
        assert_eq!(Tunables::new().settings(), Settings::default());
    }

    #[test]
    fn the_reserve_is_computed_unless_it_was_set() {
        let tunables = Tunables::new();
        tunables.resolve_for(Frames::new(256 * 1000));
        assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(100));
        tunables.resolve_for(Frames::new(256 * 10));
        assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(100), "once");
        let tunables = Tunables::new();
        tunables.set(Id::SelfballoonReservedMb, "7").unwrap();
        tunables.resolve_for(Frames::new(256 * 1000));
        assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(7));
    }

    #[test]
    fn every_setting_arrives() {
        for row in TABLE.iter().filter(|row| row.group == Group::Selfballoon) {
            let tunables = Tunables::new();
            let value = match row.kind {
                Kind::Choice(words) => {
                    words.iter().find(|word| **word != tunables.word(row.id)).unwrap().to_string()
                }
                _ if tunables.number(row.id) == 1 && row.kind == Kind::Switch => "0".to_string(),
                _ => format!("{}", 77),
            };
            tunables.set(row.id, &value).unwrap();
            let settings = tunables.settings();
            assert_ne!(settings, Settings::default(), "{}", row.name);
            if let Some(of_policy) = policy::Tunable::named(row.name) {
                assert_eq!(settings.get(of_policy), tunables.number(row.id), "{}", row.name);
            }
        }
        let tunables = Tunables::new();
        for (id, words) in [(Id::Policy, 2), (Id::Generation, 3), (Id::Arithmetic, 2)] {
            let Kind::Choice(accepted) = id.declaration().kind else { unreachable!("a choice") };
            assert_eq!(accepted.len(), words);
            for word in accepted {
                tunables.set(id, word).unwrap();
                let settings = tunables.settings();
                let said = match id {
                    Id::Policy => settings.policy.to_string(),
                    Id::Generation => settings.generation.to_string(),
                    _ => settings.arithmetic.to_string(),
                };
                assert_eq!(said, *word);
            }
        }
    }

    #[test]
    fn the_switches_of_both_generations() {
        let read = |line: &str| {
            let mut options = Options::default();
            cmdline::parse(line, &[SWITCHES], |item| assert!(apply_switch(&mut options, &item), "{item:?}"));
            options
        };
        assert_eq!(read(""), Options::default());
        assert_eq!(
            read("tmem noselfshrink"),
            Options { tmem: true, noselfshrink: true, ..Options::default() }
        );
        assert_eq!(
            read("tmem.selfballooning=0 tmem.selfshrink=0 tmem.frontswap=0 tmem.cleancache=1"),
            Options {
                tmem_selfballooning: Some(false),
                tmem_selfshrinking: Some(false),
                tmem_frontswap: Some(false),
                tmem_cleancache: Some(true),
                ..Options::default()
            }
        );
        assert_eq!(
            read("tmem.selfshrinking"),
            Options { tmem_selfshrinking: Some(true), ..Options::default() }
        );
        let both = Options { noselfballooning: true, selfballooning: true, ..Options::default() };
        assert_eq!(read("noselfballooning selfballooning"), both);
    }
}
