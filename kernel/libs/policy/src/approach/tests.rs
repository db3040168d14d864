//! The driver's own rules: off, urgent, ceiling, delay, room.

use super::{Decision, State, decide, wants_a_run};
use crate::selfshrink::Action;
use crate::{Arithmetic, Observation, Policy, Reason, Settings};

const POLICIES: [Policy; 2] = [Policy::Committed, Policy::Pressure];

/// 400 MiB held, 100 MiB used, 120 MiB committed.
fn domain() -> Observation {
    Observation {
        committed_frames: 30_720,
        current_frames: 102_400,
        reservation_frames: 103_000,
        total_reserve_frames: 1500,
        span_frames: 131_072,
        ceiling_frames: 131_072,
        static_max_frames: 131_072,
        free_frames: 76_800,
        low_frames: 1000,
        ..Observation::default()
    }
}

fn run(settings: &Settings, observation: &Observation) -> Decision {
    decide(settings, &State::default(), observation).0
}

#[test]
fn off_follows_the_toolstack_exactly() {
    for policy in POLICIES {
        let settings = Settings { selfballooning: false, policy, ..Settings::default() };
        for (ceiling, target) in [(0, 0), (1, 1), (90_000, 90_000), (131_072, 131_072), (u64::MAX, 131_072)] {
            let decision = run(&settings, &Observation { ceiling_frames: ceiling, ..domain() });
            assert_eq!((decision.target_frames, decision.reason), (target, Reason::Followed));
            assert_eq!(decision.next_run_s, Some(5), "self-shrinking still runs");
        }
        let settings = Settings { frontswap_selfshrinking: false, ..settings };
        let decision = run(&settings, &domain());
        assert_eq!((decision.next_run_s, decision.shrink), (None, Action::Off));
    }
}

#[test]
fn an_urgent_run_does_not_shrink_unless_the_ceiling_demands_it() {
    for policy in POLICIES {
        let settings = Settings { policy, ..Settings::default() };
        let urgent = Observation { urgent: true, ..domain() };
        assert!(run(&settings, &domain()).target_frames < 103_000);
        let decision = run(&settings, &urgent);
        assert_eq!((decision.target_frames, decision.reason), (103_000, Reason::Urgent));
        let decision = run(&settings, &Observation { ceiling_frames: 50_000, ..urgent });
        assert_eq!((decision.target_frames, decision.reason), (50_000, Reason::Ceiling));
    }
}

#[test]
fn an_urgent_run_grows() {
    for policy in POLICIES {
        let settings = Settings { policy, ..Settings::default() };
        let short = Observation { committed_frames: 110_000, free_frames: 500, urgent: true, ..domain() };
        let decision = run(&settings, &short);
        assert!(decision.target_frames > 103_000, "{policy}");
        assert_eq!(decision.reason, Reason::Growing, "{policy}");
    }
}

#[test]
fn the_original_meets_the_ceiling_here() {
    let settings = Settings { arithmetic: Arithmetic::Compatible, ..Settings::default() };
    let greedy = Observation { committed_frames: 1 << 40, ..domain() };
    let decision = run(&settings, &greedy);
    assert_eq!((decision.target_frames, decision.reason), (131_072, Reason::Ceiling));
}

#[test]
fn delays() {
    let interval = |selfballoon_interval, arithmetic| {
        run(&Settings { selfballoon_interval, arithmetic, ..Settings::default() }, &domain()).next_run_s
    };
    assert_eq!(interval(7, Arithmetic::Fixed), Some(7));
    assert_eq!(interval(0, Arithmetic::Fixed), Some(1));
    assert_eq!(interval(7, Arithmetic::Compatible), Some(7));
    // 17_179_870 * 250 = 2^32 + 204
    assert_eq!(interval(17_179_870, Arithmetic::Compatible), Some(1));
    assert_eq!(interval(17_179_870, Arithmetic::Fixed), Some(17_179_870));
}

#[test]
fn a_change_of_settings_wants_a_run_when_it_changes_who_decides() {
    let with = |selfballooning, frontswap_selfshrinking| Settings {
        selfballooning,
        frontswap_selfshrinking,
        ..Settings::default()
    };
    for (before, after, expected) in [
        (with(false, false), with(false, true), true),
        (with(true, false), with(true, true), false),
        (with(true, true), with(true, false), false),
        (with(false, true), with(true, true), true),
        (with(true, true), with(false, true), true),
        (with(false, true), with(false, false), false),
        (Settings::default(), Settings { policy: Policy::Pressure, ..Settings::default() }, true),
        (Settings::default(), Settings { selfballoon_interval: 1, ..Settings::default() }, false),
    ] {
        assert_eq!(wants_a_run(&before, &after), expected, "{before:?} {after:?}");
    }
}

#[test]
fn a_shrink_leaves_the_watermark_and_the_headroom() {
    for (policy, free, expected) in [
        (Policy::Committed, 76_800, Action::Shrink { to_frames: 950 }),
        (Policy::Committed, 1020, Action::Shrink { to_frames: 980 }),
        (Policy::Committed, 1000, Action::NoRoom),
        (Policy::Pressure, 76_800, Action::Shrink { to_frames: 950 }),
        (Policy::Pressure, 1020, Action::NoRoom),
    ] {
        let settings = Settings { policy, frontswap_inertia: 1, ..Settings::default() };
        let observation =
            Observation { frontswap_frames: 1000, frontswap_enabled: true, free_frames: free, ..domain() };
        let (first, state) = decide(&settings, &State::default(), &observation);
        assert_eq!(first.shrink, Action::Reload);
        assert_eq!(decide(&settings, &state, &observation).0.shrink, expected, "{policy} {free}");
    }
}

#[test]
fn pages_come_home_only_above_what_reclaim_would_free_again() {
    let settings = Settings { frontswap_inertia: 1, frontswap_hysteresis: 1, ..Settings::default() };
    let out = Observation { frontswap_frames: 1000, frontswap_enabled: true, high_frames: 2000, ..domain() };
    let (_, state) = decide(&settings, &State::default(), &out);
    for (free_frames, expected) in
        [(1500, Action::NoRoom), (2000, Action::NoRoom), (2300, Action::Shrink { to_frames: 700 })]
    {
        let observation = Observation { free_frames, ..out };
        assert_eq!(decide(&settings, &state, &observation).0.shrink, expected, "{free_frames}");
    }
}

#[test]
fn inertia_counts_intervals_and_not_runs_of_need() {
    for arithmetic in [Arithmetic::Fixed, Arithmetic::Compatible] {
        let settings = Settings { arithmetic, ..Settings::default() };
        let timer = Observation { frontswap_frames: 1000, frontswap_enabled: true, ..domain() };
        let (_, mut state) = decide(&settings, &State::default(), &timer);
        // Pages go and come all the while: neither is growth for these runs, nor the end of it.
        for frontswap_frames in (900..1100).chain((900..1100).rev()) {
            let need = Observation { frontswap_frames, urgent: true, ..timer };
            let (decision, next) = decide(&settings, &state, &need);
            assert_eq!((decision.shrink, next.shrink), (Action::Early, state.shrink));
            state = next;
        }
        let mut actions = std::vec::Vec::new();
        for _ in 0..3 {
            let decision;
            (decision, state) = decide(&settings, &state, &timer);
            actions.push(decision.shrink);
        }
        let shrink = Action::Shrink { to_frames: 950 };
        assert_eq!(actions, [Action::Wait { runs: 2 }, Action::Wait { runs: 1 }, shrink]);
        let off = Settings { frontswap_selfshrinking: false, ..settings };
        let need = Observation { urgent: true, ..timer };
        assert_eq!(decide(&off, &state, &need).0.shrink, Action::Off);
    }
}

#[test]
fn self_shrinking_rests_while_the_pressure_policy_probes() {
    let mut observation = domain();
    (observation.frontswap_frames, observation.activity.evictable) = (1000, true);
    let shrink = |policy, pressure_probe, frontswap_selfshrinking| {
        let settings = Settings { policy, pressure_probe, frontswap_selfshrinking, ..Settings::default() };
        let (decision, state) = decide(&settings, &State::default(), &observation);
        (decision.shrink, state.shrink == State::default().shrink)
    };
    assert_eq!(shrink(Policy::Pressure, true, true), (Action::Held, true));
    assert_eq!(shrink(Policy::Pressure, true, false), (Action::Off, true));
    assert_eq!(shrink(Policy::Pressure, false, true), (Action::Reload, false));
    assert_eq!(shrink(Policy::Committed, true, true), (Action::Reload, false));
}

#[test]
fn a_stalled_shrink_is_not_counted_in_the_goal() {
    let settings = Settings { frontswap_inertia: 1, selfballoon_reserved_mb: Some(0), ..Settings::default() };
    let observation = Observation { frontswap_frames: 1000, frontswap_enabled: true, ..domain() };
    let mut state = State::default();
    let mut goals = std::vec::Vec::new();
    for _ in 0..6 {
        let decision;
        (decision, state) = decide(&settings, &state, &observation);
        goals.push(decision.goal_frames);
    }
    let with = 30_720 + 1500 + 600 + 1000;
    assert_eq!(goals, [with, with, with, with, with, with - 1000]);
}

#[test]
fn a_change_of_policy_forgets_what_pressure_had_learnt() {
    let pressure = Settings { policy: Policy::Pressure, ..Settings::default() };
    let (_, learnt) = decide(&pressure, &State::default(), &domain());
    assert_ne!(learnt.pressure, State::default().pressure);
    let (_, forgot) = decide(&Settings::default(), &learnt, &domain());
    assert_eq!(forgot.pressure, State::default().pressure);
}
