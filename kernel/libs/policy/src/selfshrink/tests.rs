//! The seven sequences, and what the fixed arithmetic adds.

use std::vec::Vec;

use super::Action::{self, DividedByZero, NoRoom, Off, Reload, Shrink, Wait};
use super::State;
use crate::{Arithmetic, Generation, Settings};

fn settings(generation: Generation, arithmetic: Arithmetic) -> Settings {
    Settings { generation, arithmetic, ..Settings::default() }
}

const EARLY: [Generation; 2] = [Generation::First, Generation::Second];

/// The compatible settings of the generations before the last, and those of the last; the fixed arithmetic always
/// goes like the last.
fn before() -> Vec<Settings> {
    EARLY.map(|generation| settings(generation, Arithmetic::Compatible)).into()
}

fn last() -> Vec<Settings> {
    let mut all: Vec<_> = EARLY.map(|generation| settings(generation, Arithmetic::Fixed)).into();
    all.push(settings(Generation::Last, Arithmetic::Compatible));
    all.push(settings(Generation::Last, Arithmetic::Fixed));
    all
}

/// Runs with these observations.
fn observe(settings: &Settings, observed: &[u64]) -> Vec<Action> {
    let mut state = State::default();
    observed
        .iter()
        .map(|&held| {
            let (next, action) = state.step(settings, held, u64::MAX);
            state = next;
            action
        })
        .collect()
}

/// Runs with shrinks obeyed fully.
fn obey(settings: &Settings, start: u64, runs: usize) -> Vec<Action> {
    let (mut state, mut held) = (State::default(), start);
    (0..runs)
        .map(|_| {
            let (next, action) = state.step(settings, held, u64::MAX);
            state = next;
            if let Shrink { to_frames } = action {
                held = to_frames;
            }
            action
        })
        .collect()
}

fn to(to_frames: u64) -> Action {
    Shrink { to_frames }
}

const W2: Action = Wait { runs: 2 };
const W1: Action = Wait { runs: 1 };

#[test]
fn s1_a_thousand_pages_without_new_stores() {
    let start = [Reload, W2, W1];
    for settings in before() {
        let expected = [&start[..], &[950, 903, 858, 816, 776, 738].map(to)].concat();
        assert_eq!(obey(&settings, 1000, 9), expected, "{settings:?}");
    }
    for settings in last() {
        let expected = [Reload, W2, W1, to(950), W2, W1, to(903), W2, W1, to(858)];
        assert_eq!(obey(&settings, 1000, 10), expected, "{settings:?}");
    }
}

#[test]
fn s2_a_few_pages_end_in_one_step() {
    for settings in before() {
        let expected = [&[Reload, W2, W1][..], &[24, 23, 22, 21, 20, 0].map(to), &[Reload]].concat();
        assert_eq!(obey(&settings, 25, 10), expected, "{settings:?}");
    }
    for settings in last() {
        let actions = obey(&settings, 25, 13);
        for (run, left) in [(4, 24), (7, 23), (10, 22), (13, 21)] {
            assert_eq!(actions[run - 1], to(left), "run {run} {settings:?}");
        }
        assert_eq!(actions.iter().filter(|action| matches!(action, Shrink { .. })).count(), 4);
    }
}

#[test]
fn s3_to_s6_growth_starts_again_and_falling_is_not_growth() {
    for settings in before().into_iter().chain(last()) {
        assert_eq!(
            observe(&settings, &[0, 500, 500, 500, 600, 600, 600, 600]),
            [Reload, Reload, W2, W1, Reload, W2, W1, to(570)],
            "S3 {settings:?}"
        );
        assert_eq!(
            observe(&settings, &[100, 100, 100, 100, 0, 50, 50, 50, 50]),
            [Reload, W2, W1, to(95), Reload, Reload, W2, W1, to(48)],
            "S4 {settings:?}"
        );
        assert_eq!(observe(&settings, &[40, 30, 20, 10]), [Reload, W2, W1, to(0)], "S5 {settings:?}");
        let quick = Settings { frontswap_inertia: 1, ..settings };
        assert_eq!(observe(&quick, &[40, 40, 40]), [Reload, to(38), to(38)], "S6 {settings:?}");
    }
}

#[test]
fn s7_a_hysteresis_of_one_brings_all_home_at_once() {
    for settings in before().into_iter().chain(last()) {
        let all = Settings { frontswap_hysteresis: 1, ..settings };
        assert_eq!(obey(&all, 1000, 4), [Reload, W2, W1, to(0)], "{settings:?}");
    }
}

#[test]
fn runs_to_empty_a_thousand_pages() {
    for (settings, expected) in
        before().into_iter().map(|s| (s, 91)).chain(last().into_iter().map(|s| (s, 265)))
    {
        let run = obey(&settings, 1000, 400).iter().position(|action| *action == to(0)).map(|run| run + 1);
        assert_eq!(run, Some(expected), "{settings:?}");
    }
}

#[test]
fn room_bounds_a_shrink_in_the_fixed_arithmetic_only() {
    let fixed = settings(Generation::Last, Arithmetic::Fixed);
    let compatible = settings(Generation::Last, Arithmetic::Compatible);
    for (room, ours) in [(1000, to(950)), (50, to(950)), (20, to(980)), (0, NoRoom)] {
        for (settings, expected) in [(&fixed, ours), (&compatible, to(950))] {
            let state = State { held_frames: 1000, countdown: 1, ..State::default() };
            assert_eq!(state.step(settings, 1000, room).1, expected, "room {room}");
        }
    }
    let (state, _) = State { held_frames: 1000, countdown: 1, ..State::default() }.step(&fixed, 1000, 0);
    assert_eq!(state.step(&fixed, 1000, 7).1, to(993), "it does not wait again for room");
}

#[test]
fn shrinks_that_bring_nothing_home_stall_until_something_moves() {
    let settings = Settings { frontswap_inertia: 1, ..settings(Generation::Last, Arithmetic::Fixed) };
    let mut state = State::default();
    for (run, held, room, stalled) in [
        (1, 100, 50, false), // reload
        (2, 100, 50, false), // first order
        (3, 100, 50, false), // one fruitless, second order
        (4, 100, 0, false),  // two fruitless, no room: no order
        (5, 100, 50, false), // still two; third order
        (6, 100, 50, true),  // three
        (7, 100, 50, true),
        (8, 99, 50, false), // something came home
        (9, 99, 50, false), // one
        (10, 99, 50, false),
        (11, 99, 50, true),
        (12, 200, 50, false), // something new went out
    ] {
        (state, _) = state.step(&settings, held, room);
        assert_eq!(state.is_stalled(), stalled, "run {run}");
    }
}

#[test]
fn a_reload_starts_the_countdown_again() {
    let settings = settings(Generation::Last, Arithmetic::Fixed);
    let state = State { held_frames: 100, countdown: 1, ..State::default() };
    assert_eq!(state.step(&settings, 100, 100).1, to(95));
    assert_eq!(state.reload(&settings).step(&settings, 100, 100).1, W2);
}

#[test]
fn off_keeps_the_state() {
    let settings = Settings { frontswap_selfshrinking: false, ..Settings::default() };
    let state = State { held_frames: 7, countdown: 2, ordered: true, fruitless: 1 };
    assert_eq!(state.step(&settings, 100, 100), (state, Off));
}

#[test]
fn a_hysteresis_of_zero() {
    for (arithmetic, expected) in
        [(Arithmetic::Compatible, DividedByZero), (Arithmetic::Fixed, Shrink { to_frames: 0 })]
    {
        let settings = Settings { frontswap_hysteresis: 0, ..settings(Generation::Last, arithmetic) };
        assert_eq!(obey(&settings, 1000, 4)[3], expected, "{arithmetic}");
    }
}
