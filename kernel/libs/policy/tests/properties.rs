//! What holds for all settings and all observations.

use policy::selfballoon::{self, runs_bound};
use policy::{
    Activity, Arithmetic, Decision, Generation, Observation, Policy, Settings, State, approach, pressure,
    selfshrink,
};
use proptest::prelude::*;

/// Counts of frames, of all sizes, the extremes among them.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..2_000_000_u64,
        2 => any::<u64>().prop_flat_map(|value| (0..64_u32).prop_map(move |shift| value >> shift)),
        1 => prop_oneof![Just(0), Just(1), Just(u64::MAX - 1), Just(u64::MAX)],
    ]
}

/// Values of a 32-bit setting, whether its range has them or not.
fn divisor() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 1..50_u32, 2 => any::<u32>(), 1 => Just(0), 1 => Just(u32::MAX)]
}

fn activity() -> impl Strategy<Value = Activity> {
    ([count(), count(), count(), count()], [count(), count(), count(), count()], any::<bool>()).prop_map(
        |(
            [elapsed_ns, allocated_frames, refaulted_frames, stalls],
            [stall_ns, resident_frames, active_frames, inactive_frames],
            evictable,
        )| Activity {
            elapsed_ns,
            allocated_frames,
            refaulted_frames,
            stalls,
            stall_ns,
            resident_frames,
            active_frames,
            inactive_frames,
            evictable,
        },
    )
}

fn observation() -> impl Strategy<Value = Observation> {
    (
        [count(), count(), count(), count(), count()],
        [count(), count(), count(), count(), count(), count()],
        any::<bool>(),
        any::<bool>(),
        activity(),
    )
        .prop_map(|(counts, more, frontswap_enabled, urgent, activity)| {
            let [committed_frames, current_frames, reservation_frames, total_reserve_frames, span_frames] =
                counts;
            let [frontswap_frames, ceiling_frames, static_max_frames, free_frames, low_frames, high_frames] =
                more;
            Observation {
                committed_frames,
                current_frames,
                reservation_frames,
                total_reserve_frames,
                span_frames,
                frontswap_frames,
                frontswap_enabled,
                ceiling_frames,
                static_max_frames,
                free_frames,
                low_frames,
                high_frames,
                urgent,
                activity,
            }
        })
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        [any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()],
        prop_oneof![Just(Policy::Committed), Just(Policy::Pressure)],
        prop_oneof![Just(Generation::First), Just(Generation::Second), Just(Generation::Last)],
        prop_oneof![Just(Arithmetic::Compatible), Just(Arithmetic::Fixed)],
        [divisor(), divisor(), divisor(), divisor(), divisor()],
        [divisor(), divisor(), divisor(), divisor()],
        proptest::option::of(any::<u32>()),
    )
        .prop_map(|(switches, policy, generation, arithmetic, counts, more, selfballoon_reserved_mb)| {
            let [selfballooning, frontswap_selfshrinking, selfballoon_reach_goal, pressure_probe] = switches;
            let [
                selfballoon_interval,
                selfballoon_downhysteresis,
                selfballoon_uphysteresis,
                selfballoon_min_usable_mb,
                frontswap_hysteresis,
            ] = counts;
            let [frontswap_inertia, pressure_decay_s, pressure_headroom_mb, pressure_headroom_percent] = more;
            Settings {
                selfballooning,
                policy,
                generation,
                arithmetic,
                selfballoon_interval,
                selfballoon_downhysteresis,
                selfballoon_uphysteresis,
                selfballoon_min_usable_mb,
                selfballoon_reserved_mb,
                selfballoon_reach_goal,
                frontswap_selfshrinking,
                frontswap_hysteresis,
                frontswap_inertia,
                pressure_decay_s,
                pressure_headroom_mb,
                pressure_headroom_percent,
                pressure_probe,
            }
        })
}

/// A domain whose counts agree with each other, some of them small.
fn sane() -> impl Strategy<Value = Observation> {
    (1000..2_000_000_u64, 0..5000_u64).prop_flat_map(|(static_max, offset)| {
        let usable = static_max.saturating_sub(offset);
        (0..=usable, 0..3_000_000_u64, 0..20_000_u64, 0..=static_max, 0..=usable, 0..100_000_u64).prop_map(
            move |(current, committed, reserve, ceiling, free, hole)| Observation {
                committed_frames: committed,
                current_frames: current,
                reservation_frames: current + offset,
                total_reserve_frames: reserve,
                span_frames: usable + hole,
                ceiling_frames: ceiling,
                static_max_frames: static_max,
                free_frames: free.min(current),
                ..Observation::default()
            },
        )
    })
}

fn run(settings: &Settings, observation: &Observation) -> Decision {
    approach::decide(settings, &State::default(), observation).0
}

/// Without a file of failures: what failed once becomes a test of its own.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn never_above_the_ceiling_and_no_panic_for_any_sequence(
        settings in settings(),
        observations in proptest::collection::vec(observation(), 1..12),
    ) {
        let mut state = State::default();
        for observation in &observations {
            let (decision, next) = approach::decide(&settings, &state, observation);
            let limit = observation.ceiling_frames.min(observation.static_max_frames);
            prop_assert!(decision.target_frames <= limit);
            prop_assert!(decision.goal_frames <= limit);
            prop_assert!(decision.floor_frames <= limit);
            prop_assert_eq!(
                decision.next_run_s.is_some(),
                settings.selfballooning || settings.frontswap_selfshrinking
            );
            prop_assert_ne!(decision.next_run_s, Some(0), "a worker sleeps");
            if !settings.selfballooning {
                prop_assert_eq!(decision.target_frames, limit);
            }
            if observation.urgent && settings.selfballooning {
                prop_assert!(decision.target_frames >= observation.reservation_frames.min(limit));
            }
            state = next;
        }
    }

    /// `floor_frames` is already held down to the ceiling.
    #[test]
    fn never_below_the_floor_unless_the_ceiling_is_lower(settings in settings(), observation in observation()) {
        let settings = Settings { selfballooning: true, arithmetic: Arithmetic::Fixed, ..settings };
        let decision = run(&settings, &observation);
        prop_assert!(decision.target_frames >= decision.floor_frames, "{decision:?}");
    }

    #[test]
    fn the_floor_is_never_above_what_the_domain_can_have(settings in settings(), observation in observation()) {
        let most = observation.usable_from_reservation(observation.limit_frames());
        prop_assert!(selfballoon::floor_of(&settings, &observation).frames <= most);
        prop_assert!(pressure::floor_of(&settings, &observation).frames <= most);
    }

    /// A run goes towards the goal, or the floor if that is higher, and never past it.
    #[test]
    fn the_approach_is_monotone(observation in sane(), down in divisor(), up in divisor(), reach in any::<bool>()) {
        let settings = Settings {
            selfballoon_downhysteresis: down,
            selfballoon_uphysteresis: up,
            selfballoon_reach_goal: reach,
            selfballoon_reserved_mb: Some(0),
            ..Settings::default()
        };
        let decision = run(&settings, &observation);
        let (from, to) = (observation.reservation_frames, decision.goal_frames.max(decision.floor_frames));
        let target = decision.target_frames;
        prop_assert!((from.min(to)..=from.max(to)).contains(&target), "{decision:?}");
        if reach {
            prop_assert!(target != from || from == to, "it moves until it is there: {decision:?}");
        }
    }

    /// Where no defect can bite, the two arithmetics agree.
    #[test]
    fn the_arithmetics_agree_where_no_defect_is(observation in sane(), generation in prop_oneof![
        Just(Generation::First), Just(Generation::Second), Just(Generation::Last)
    ]) {
        let roomy = Observation {
            ceiling_frames: u64::MAX,
            static_max_frames: u64::MAX,
            span_frames: observation.span_frames.max(observation.total_reserve_frames),
            ..observation
        };
        let with = |arithmetic| {
            let settings = Settings { generation, arithmetic, selfballoon_reserved_mb: Some(7), ..Settings::default() };
            selfballoon::decide(&settings, &roomy, &selfshrink::State::default())
        };
        let (theirs, ours) = (with(Arithmetic::Compatible), with(Arithmetic::Fixed));
        prop_assert_eq!(theirs.goal_frames, ours.goal_frames);
        let distance = theirs.goal_frames.abs_diff(roomy.current_frames);
        if distance == 0 || distance >= 8 {
            prop_assert_eq!(theirs.raw_frames, ours.raw_frames);
        }
        let useful = roomy.span_frames - roomy.total_reserve_frames;
        let jump = (16_384..18_432).contains(&useful) || (131_072..166_315).contains(&useful);
        if !jump {
            prop_assert_eq!(theirs.floor.frames, ours.floor.frames);
        }
    }

    /// More committed memory never means a lower target; nor does a higher ceiling.
    #[test]
    fn targets_are_monotone_in_demand_and_in_the_ceiling(
        observation in sane(),
        more in 0..1_000_000_u64,
        policy in prop_oneof![Just(Policy::Committed), Just(Policy::Pressure)],
    ) {
        let settings = Settings { policy, selfballoon_reserved_mb: Some(0), ..Settings::default() };
        let demanding = Observation {
            committed_frames: observation.committed_frames + more,
            free_frames: observation.free_frames.saturating_sub(more),
            ..observation
        };
        prop_assert!(run(&settings, &demanding).goal_frames >= run(&settings, &observation).goal_frames);
        let roomier = Observation { ceiling_frames: observation.ceiling_frames + more, ..observation };
        prop_assert!(run(&settings, &roomier).target_frames >= run(&settings, &observation).target_frames);
    }

    /// A shrink of self-shrinking never grows frontswap, and takes no more than there is room for.
    #[test]
    fn shrinks_stay_within_their_room(
        settings in settings(),
        runs in proptest::collection::vec((count(), count()), 1..40),
    ) {
        let mut state = selfshrink::State::default();
        for (held, room) in runs {
            let (next, action) = state.step(&settings, held, room);
            state = next;
            if let selfshrink::Action::Shrink { to_frames } = action {
                prop_assert!(to_frames < held);
                if settings.arithmetic == Arithmetic::Fixed {
                    prop_assert!(held - to_frames <= room);
                }
            }
        }
    }

    /// The plan brings home the excess, or what there is room for, from pages that are there.
    #[test]
    fn the_plan_takes_what_is_there(
        counts in proptest::collection::vec(0..1_000_000_u64, 0..8),
        keep in 0..4_000_000_u64,
        room in 0..4_000_000_u64,
    ) {
        let mut sum = 0;
        for (device, pages) in selfshrink::devices::plan(&counts, keep, room) {
            prop_assert!(pages > 0 && pages <= counts[device]);
            sum += pages;
        }
        let total: u64 = counts.iter().sum();
        prop_assert_eq!(sum, total.saturating_sub(keep).min(room));
    }
}

proptest! {
    // Many runs in each case.
    #![proptest_config(cases(100))]

    /// With the balloon obeying at once, the target is reached within the bound, and kept.
    #[test]
    fn it_converges_within_the_bound(observation in sane(), down in 1..40_u32, up in 1..40_u32) {
        let settings = Settings {
            selfballoon_downhysteresis: down,
            selfballoon_uphysteresis: up,
            selfballoon_reserved_mb: Some(0),
            ..Settings::default()
        };
        let first = run(&settings, &observation);
        let end = first.goal_frames.max(first.floor_frames);
        let distance = observation.reservation_frames.abs_diff(end);
        let bound = runs_bound(distance, if observation.reservation_frames > end { down } else { up });
        let offset = observation.reservation_frames - observation.current_frames;
        let mut now = observation;
        for _ in 0..bound {
            now.reservation_frames = run(&settings, &now).target_frames;
            now.current_frames = now.reservation_frames.saturating_sub(offset);
        }
        let last = run(&settings, &now);
        prop_assert_eq!(now.reservation_frames, end);
        prop_assert_eq!(last.target_frames, end);
    }

    /// The pressure policy on a load that stands still: it settles, above what is used, and moves no more.
    #[test]
    fn pressure_settles_on_a_constant_load(
        used in 0..500_000_u64,
        start in 0..500_000_u64,
        interval in 1..20_u32,
        decay in 1..60_u32,
    ) {
        let settings = Settings {
            policy: Policy::Pressure,
            selfballoon_interval: interval,
            pressure_decay_s: decay,
            ..Settings::default()
        };
        let mut state = State::default();
        let mut holds = used + start;
        let mut observe = |holds: u64| {
            let observation = Observation {
                current_frames: holds,
                reservation_frames: holds,
                free_frames: holds - used,
                total_reserve_frames: 1000,
                low_frames: 1000,
                ..Observation::default()
            };
            let (decision, next) = approach::decide(&settings, &state, &observation);
            state = next;
            decision.target_frames
        };
        for _ in 0..300 {
            let target = observe(holds);
            prop_assert!(target >= used + 1000, "never into what is used");
            prop_assert!(target <= holds.max(used + 1000 + (used / 20).max(1024)), "never up without need");
            holds = target;
        }
        for _ in 0..20 {
            prop_assert_eq!(observe(holds), holds);
        }
        let least = (used / 20).max(1024);
        prop_assert!(holds <= used + 1000 + least + 512.max(least / 4));
    }
}
