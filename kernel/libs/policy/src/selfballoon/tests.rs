//! Rules of one run that the vectors do not show.

use super::{decide, floor, floor_of, runs_bound};
use crate::{Arithmetic, Generation, Observation, Reason, Settings, selfshrink};

const SETTINGS: Settings = Settings {
    selfballooning: true,
    policy: crate::Policy::Committed,
    generation: Generation::Last,
    arithmetic: Arithmetic::Fixed,
    selfballoon_interval: 5,
    selfballoon_downhysteresis: 8,
    selfballoon_uphysteresis: 1,
    selfballoon_min_usable_mb: 0,
    selfballoon_reserved_mb: Some(0),
    selfballoon_reach_goal: true,
    frontswap_selfshrinking: true,
    frontswap_hysteresis: 20,
    frontswap_inertia: 3,
    pressure_decay_s: 10,
    pressure_headroom_mb: 4,
    pressure_headroom_percent: 5,
    pressure_probe: true,
};

/// A domain of 256 MiB of which 236 MiB are usable.
fn domain() -> Observation {
    Observation {
        committed_frames: 20_000,
        current_frames: 60_000,
        reservation_frames: 65_000,
        total_reserve_frames: 1500,
        span_frames: 65_536,
        ceiling_frames: 65_000,
        static_max_frames: 65_000,
        ..Observation::default()
    }
}

fn run(settings: &Settings, observation: &Observation) -> super::Answer {
    decide(settings, observation, &selfshrink::State::default())
}

#[test]
fn the_ceiling_is_obeyed_at_once_and_below_the_floor() {
    for ceiling in [65_000, 50_000, 25_000, 10_000, 5000, 1, 0] {
        let observation = Observation { ceiling_frames: ceiling, ..domain() };
        let answer = run(&SETTINGS, &observation);
        // On its own the domain would go to 55_188 usable frames, a reservation of 60_188.
        assert_eq!(answer.reservation_frames, ceiling.min(60_188), "ceiling {ceiling}");
        let reason = if ceiling == 65_000 { Reason::Shrinking } else { Reason::Ceiling };
        assert_eq!(answer.reason, reason, "ceiling {ceiling}");
        assert!(
            floor_of(&SETTINGS, &observation).frames <= ceiling.saturating_sub(5000),
            "ceiling {ceiling}"
        );
    }
}

#[test]
fn a_raised_ceiling_is_used_only_for_what_is_committed() {
    let small = Observation { current_frames: 25_000, reservation_frames: 30_000, ..domain() };
    let answer = run(&SETTINGS, &small);
    assert_eq!((answer.target_frames, answer.reason), (25_000 - 3500 / 8, Reason::Shrinking));
    let busy = Observation { committed_frames: 40_000, ..small };
    let answer = run(&SETTINGS, &busy);
    assert_eq!((answer.reservation_frames, answer.reason), (46_500, Reason::Growing));
    let capped = Observation { ceiling_frames: 40_000, ..busy };
    let answer = run(&SETTINGS, &capped);
    assert_eq!((answer.reservation_frames, answer.reason), (40_000, Reason::Ceiling));
}

#[test]
fn the_static_maximum_is_a_ceiling_too() {
    let observation = Observation { ceiling_frames: u64::MAX, committed_frames: 1 << 40, ..domain() };
    let answer = run(&SETTINGS, &observation);
    assert_eq!((answer.reservation_frames, answer.reason), (65_000, Reason::Ceiling));
}

#[test]
fn the_first_generation_counts_in_the_balloons_pages() {
    for arithmetic in [Arithmetic::Compatible, Arithmetic::Fixed] {
        let settings = Settings { generation: Generation::First, arithmetic, ..SETTINGS };
        let answer = run(&settings, &domain());
        assert_eq!(answer.goal_frames, 25_000, "committed and the difference of the counts: no reserve");
        assert_eq!(answer.reservation_frames, 65_000 - 40_000 / 8);
        assert_eq!(answer.floor, floor::Floor::NONE);
        let empty =
            Observation { committed_frames: 0, current_frames: 100, reservation_frames: 100, ..domain() };
        let answer = run(&settings, &empty);
        assert_eq!(answer.goal_frames, 0, "nothing holds it up");
    }
}

#[test]
fn the_frontswap_term_by_generation() {
    let with = |enabled| Observation { frontswap_frames: 3000, frontswap_enabled: enabled, ..domain() };
    for (generation, selfshrinking, enabled, counted) in [
        (Generation::First, true, true, true),
        (Generation::First, true, false, false),
        (Generation::Second, true, true, true),
        (Generation::Second, true, false, false),
        (Generation::Last, true, true, true),
        (Generation::Last, true, false, true),
        (Generation::First, false, true, false),
        (Generation::Second, false, true, false),
        (Generation::Last, false, true, false),
    ] {
        for arithmetic in [Arithmetic::Compatible, Arithmetic::Fixed] {
            let settings =
                Settings { generation, arithmetic, frontswap_selfshrinking: selfshrinking, ..SETTINGS };
            let more = run(&settings, &with(enabled)).goal_frames - run(&settings, &domain()).goal_frames;
            assert_eq!(more, if counted { 3000 } else { 0 }, "{generation} {selfshrinking} {enabled}");
        }
    }
}

#[test]
fn the_bound_of_runs_is_small_where_it_should_be() {
    assert_eq!(runs_bound(0, 8), 0);
    assert_eq!(runs_bound(5, 8), 5);
    assert_eq!(runs_bound(7, 0), 7, "a divisor of 0 counts as 1");
    assert!(runs_bound(788_500, 8) < 300);
    assert_eq!(runs_bound(u64::MAX, 1), 129);
}
