//! The policy's settings out of the tunables: names on one side, fields on the other.

use crate::tunable::{Id, Tunables};
use crate::units::Frames;
use policy::{Arithmetic, Generation, Policy, Settings};

/// The settings in force. Every value is one that its row of the table accepts, so none needs a second look.
///
/// # Panics
///
/// If the table offers a word that the policy does not know.
#[must_use]
pub fn settings(tunables: &Tunables) -> Settings {
    // The table's ranges end where an u32 does.
    let number = |id| u32::try_from(tunables.number(id)).unwrap_or(u32::MAX);
    let (policy, generation, arithmetic) = words(tunables);
    Settings {
        selfballooning: tunables.is_on(Id::Selfballooning),
        policy,
        generation,
        arithmetic,
        selfballoon_interval: number(Id::SelfballoonInterval),
        selfballoon_downhysteresis: number(Id::SelfballoonDownhysteresis),
        selfballoon_uphysteresis: number(Id::SelfballoonUphysteresis),
        selfballoon_min_usable_mb: number(Id::SelfballoonMinUsableMb),
        selfballoon_reserved_mb: tunables
            .value(Id::SelfballoonReservedMb)
            .map(|_| number(Id::SelfballoonReservedMb)),
        selfballoon_reach_goal: tunables.is_on(Id::SelfballoonReachGoal),
        frontswap_selfshrinking: tunables.is_on(Id::FrontswapSelfshrinking),
        frontswap_hysteresis: number(Id::FrontswapHysteresis),
        frontswap_inertia: number(Id::FrontswapInertia),
        pressure_decay_s: number(Id::PressureDecayS),
        pressure_headroom_mb: number(Id::PressureHeadroomMb),
        pressure_headroom_percent: number(Id::PressureHeadroomPercent),
        pressure_probe: tunables.is_on(Id::PressureProbe),
    }
}

fn words(tunables: &Tunables) -> (Policy, Generation, Arithmetic) {
    let words = (
        tunables.word(Id::Policy).parse(),
        tunables.word(Id::Generation).parse(),
        tunables.word(Id::Arithmetic).parse(),
    );
    match words {
        (Ok(policy), Ok(generation), Ok(arithmetic)) => (policy, generation, arithmetic),
        _ => unreachable!("a tunable offers a word that the policy does not know"),
    }
}

/// Computes the values that are computed at start, for a guest that has `present` memory then, unless somebody has set
/// them.
pub fn resolve(tunables: &Tunables, present: Frames) {
    let mut settings = settings(tunables);
    settings.resolve_reserve(present.get());
    if let Some(reserved_mb) = settings.selfballoon_reserved_mb {
        tunables.resolve(Id::SelfballoonReservedMb, reserved_mb.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunable::Group;
    use std::collections::BTreeSet;
    use std::string::ToString;

    #[test]
    fn the_tables_defaults_are_the_policys() {
        assert_eq!(settings(&Tunables::new()), Settings::default());
    }

    #[test]
    fn both_tables_have_the_same_names_and_ranges() {
        let ours: BTreeSet<_> = Id::all()
            .map(|id| id.declaration())
            .filter(|row| row.group == Group::Selfballoon)
            .map(|row| row.name)
            .collect();
        for tunable in policy::Tunable::ALL {
            let spec = tunable.spec();
            assert!(ours.contains(spec.name), "{} is no tunable", spec.name);
            let tunables = Tunables::new();
            tunables.serve(Group::Selfballoon);
            let id = tunables.named(&std::format!("selfballoon/{}", spec.name)).unwrap();
            for value in [spec.min, spec.max] {
                assert!(tunables.set(id, &value.to_string()).is_ok(), "{} {value}", spec.name);
                assert_eq!(settings(&tunables).get(tunable), value, "{}", spec.name);
            }
            assert!(tunables.set(id, &(spec.max + 1).to_string()).is_err(), "{}", spec.name);
        }
    }

    #[test]
    fn every_word_is_understood() {
        for (id, words) in [
            (Id::Policy, &["committed", "pressure"][..]),
            (Id::Generation, &["first", "second", "last"]),
            (Id::Arithmetic, &["compatible", "fixed"]),
        ] {
            for word in words {
                let tunables = Tunables::new();
                tunables.set(id, word).unwrap();
                let settings = settings(&tunables);
                let shown = [
                    settings.policy.to_string(),
                    settings.generation.to_string(),
                    settings.arithmetic.to_string(),
                ];
                assert!(shown.contains(&(*word).to_string()));
            }
        }
    }

    #[test]
    fn the_reserve_is_computed_unless_it_was_set() {
        let tunables = Tunables::new();
        resolve(&tunables, Frames::new(256 * 1000));
        assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(100));
        resolve(&tunables, Frames::new(256 * 10));
        assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(100), "once");
        let tunables = Tunables::new();
        tunables.set(Id::SelfballoonReservedMb, "7").unwrap();
        resolve(&tunables, Frames::new(256 * 1000));
        assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(7));
    }
}
