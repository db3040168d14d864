//! The control law, rule by rule.

use super::{Answer, HOLD_MAX_NS, HOLD_MIN_NS, NS_PER_S, PROBE_PART, State, decide};
use crate::{Activity, Observation, Policy, Reason, Settings};

const MIB: u64 = crate::FRAMES_PER_MIB;

fn settings() -> Settings {
    Settings { policy: Policy::Pressure, selfballoon_interval: 1, ..Settings::default() }
}

/// A domain that holds `current` and uses `used`, a second after the last run.
fn domain(current: u64, used: u64) -> Observation {
    Observation {
        current_frames: current,
        reservation_frames: current,
        free_frames: current - used,
        total_reserve_frames: 4 * MIB,
        low_frames: 4 * MIB,
        ceiling_frames: 1024 * MIB,
        static_max_frames: 1024 * MIB,
        activity: Activity { elapsed_ns: NS_PER_S, resident_frames: used, ..Activity::default() },
        ..Observation::default()
    }
}

fn with(observation: Observation, change: impl FnOnce(&mut Activity)) -> Observation {
    let mut observation = observation;
    change(&mut observation.activity);
    observation
}

/// Runs with the balloon obeying at once and use following `used`, which is called with the run's number.
fn play(runs: u64, start: u64, used: impl Fn(u64) -> u64) -> std::vec::Vec<Answer> {
    let (mut state, mut holds) = (State::default(), start);
    (0..runs)
        .map(|run| {
            let (answer, next) = decide(&settings(), &state, &domain(holds.max(used(run)), used(run)));
            (state, holds) = (next, answer.reservation_frames);
            answer
        })
        .collect()
}

#[test]
fn a_constant_load_ends_at_a_constant_target_near_its_use() {
    let answers = play(200, 800 * MIB, |_| 100 * MIB);
    let settled = answers[100].target_frames;
    // use, 4 MiB watermark, 5 % headroom, at most the band
    assert!((109 * MIB..=111 * MIB).contains(&settled), "{settled}");
    assert!(answers[100..].iter().all(|answer| answer.target_frames == settled));
    assert!(answers.windows(2).all(|pair| pair[1].target_frames <= pair[0].target_frames), "no overshoot");
    for pair in answers.windows(2) {
        let step = pair[0].target_frames - pair[1].target_frames;
        assert!(step <= pair[0].target_frames / 8 + 1, "bounded step");
    }
}

#[test]
fn growth_is_followed_at_once_and_covered_for_the_next_run() {
    let answers = play(20, 64 * MIB, |run| (40 + 10 * run) * MIB);
    for (run, answer) in answers.iter().enumerate().skip(3) {
        let next_use = (40 + 10 * (run as u64 + 1)) * MIB;
        assert!(answer.target_frames >= next_use + 4 * MIB, "run {run}: {answer:?}");
        assert_eq!(answer.reason, Reason::Growing);
    }
}

#[test]
fn a_load_that_is_gone_is_let_go_within_some_decays() {
    let answers = play(80, 300 * MIB, |run| if run < 10 { 250 * MIB } else { 50 * MIB });
    assert!(answers[9].target_frames >= 254 * MIB);
    assert!(answers[20].target_frames < 200 * MIB, "after one decay: {:?}", answers[20]);
    assert!(answers[60].target_frames < 70 * MIB, "after five: {:?}", answers[60]);
}

#[test]
fn a_fast_swing_is_held_at_its_peak_and_moves_little() {
    let answers = play(300, 200 * MIB, |run| if run % 4 < 2 { 50 * MIB } else { 150 * MIB });
    let late = answers[200..].iter().map(|answer| answer.target_frames);
    let (low, high) = (late.clone().min().unwrap(), late.max().unwrap());
    assert!(low >= 150 * MIB * 4 / 5, "{low}");
    assert!(high - low <= 100 * MIB * 4 / 10, "swing of 100 MiB, period 4 s, decay 10 s: {}", high - low);
}

#[test]
fn small_swings_move_nothing() {
    let answers = play(300, 200 * MIB, |run| 100 * MIB + 100 * (run % 3));
    let late: std::vec::Vec<_> = answers[200..].iter().map(|answer| answer.target_frames).collect();
    assert!(late.iter().all(|target| *target == late[0]), "{late:?}");
}

#[test]
fn stalls_double_the_headroom_up_to_half_of_what_is_used() {
    let calm = domain(120 * MIB, 100 * MIB);
    let stall = with(calm, |activity| activity.stalls = 1);
    let waited = with(calm, |activity| activity.stall_ns = 5);
    let (first, mut state) = decide(&settings(), &State::default(), &calm);
    assert_eq!(first.headroom_frames, 5 * MIB);
    for (observation, headroom) in [(stall, 10), (waited, 20), (stall, 40), (stall, 50), (stall, 50)] {
        let answer;
        (answer, state) = decide(&settings(), &state, &observation);
        assert_eq!(answer.headroom_frames, headroom * MIB);
    }
    let (after, _) = decide(&settings(), &state, &calm);
    assert!((48 * MIB..50 * MIB).contains(&after.headroom_frames), "decays slowly: {after:?}");
    let (answer, _) = decide(&settings(), &state, &with(domain(100 * MIB, 99 * MIB), |a| a.stalls = 1));
    assert_eq!(answer.reason, Reason::Stalled);
}

#[test]
fn allocations_that_are_freed_again_ask_for_a_part_of_them() {
    let churn = with(domain(300 * MIB, 200 * MIB), |activity| activity.allocated_frames = 400 * MIB);
    let (answer, _) = decide(&settings(), &State::default(), &churn);
    assert_eq!(answer.headroom_frames, 50 * MIB);
    // Early by far: rates are not blown up by more than four.
    let early = with(churn, |activity| (activity.elapsed_ns, activity.allocated_frames) = (1, 40 * MIB));
    assert_eq!(decide(&settings(), &State::default(), &early).0.headroom_frames, 20 * MIB);
}

#[test]
fn refaults_ask_for_room_but_not_for_more_than_is_out() {
    let pressed = |refaulted, out| {
        let observation = Observation { frontswap_frames: out, ..domain(106 * MIB, 100 * MIB) };
        with(observation, |activity| activity.refaulted_frames = refaulted)
    };
    let goal = |refaulted, out| decide(&settings(), &State::default(), &pressed(refaulted, out)).0;
    let calm = goal(0, 1000).goal_frames;
    assert_eq!(goal(50, 1000).goal_frames, calm, "one page in 512 is noise");
    assert_eq!(goal(500, 1000).goal_frames, calm + 500);
    assert_eq!(goal(5000, 1000).goal_frames, calm + 1000);
    assert_eq!(goal(500, 1000).reason, Reason::Refaulted);
}

#[test]
fn probing_evicts_a_part_of_the_inactive_and_backs_off_under_pressure() {
    let calm = with(domain(200 * MIB, 100 * MIB), |activity| {
        (activity.inactive_frames, activity.evictable) = (64 * MIB, true);
    });
    let pressed = with(calm, |activity| activity.refaulted_frames = 1000);
    let mut state = State::default();
    let mut holds = std::vec::Vec::new();
    for _ in 0..8 {
        let (answer, next) = decide(&settings(), &state, &calm);
        assert_eq!(answer.evict_frames, 64 * MIB / PROBE_PART);
        let (answer, next) = decide(&settings(), &next, &pressed);
        assert_eq!(answer.evict_frames, 0);
        state = next;
        let mut quiet = 0;
        while state.hold_left_ns > NS_PER_S {
            let (answer, next) = decide(&settings(), &state, &calm);
            assert_eq!(answer.evict_frames, 0, "still held");
            state = next;
            quiet += 1;
        }
        holds.push(quiet + 1);
    }
    assert_eq!(holds.first(), Some(&(HOLD_MIN_NS / NS_PER_S)));
    assert!(holds.windows(2).all(|pair| pair[1] + 1 >= pair[0]), "{holds:?}");
    let longest = HOLD_MAX_NS / NS_PER_S;
    assert!(holds.last().is_some_and(|last| (longest - 1..=longest).contains(last)), "{holds:?}");
    // Calm for long: forgotten.
    for _ in 0..700 {
        (_, state) = decide(&settings(), &state, &calm);
    }
    assert_eq!(state.hold_next_ns, HOLD_MIN_NS);
}

#[test]
fn nothing_is_evicted_where_it_cannot_go_or_must_not() {
    let inactive = with(domain(200 * MIB, 100 * MIB), |activity| activity.inactive_frames = 64 * MIB);
    let evictable = with(inactive, |activity| activity.evictable = true);
    let evict =
        |settings: &Settings, observation| decide(settings, &State::default(), &observation).0.evict_frames;
    assert_eq!(evict(&settings(), evictable), 4 * MIB);
    assert_eq!(evict(&settings(), inactive), 0);
    assert_eq!(evict(&Settings { pressure_probe: false, ..settings() }, evictable), 0);
    assert_eq!(evict(&settings(), Observation { urgent: true, ..evictable }), 0);
}

#[test]
fn what_was_evicted_on_order_leaves_the_envelope_at_once() {
    let calm = with(domain(200 * MIB, 100 * MIB), |activity| {
        (activity.inactive_frames, activity.evictable) = (64 * MIB, true);
    });
    let (_, state) = decide(&settings(), &State::default(), &calm);
    let (answer, _) = decide(&settings(), &state, &domain(200 * MIB, 96 * MIB));
    assert_eq!(answer.envelope_frames, 96 * MIB);
    let (answer, _) = decide(&settings(), &state, &domain(200 * MIB, 40 * MIB));
    assert!(answer.envelope_frames > 85 * MIB, "the rest decays");
}

#[test]
fn the_floor_is_what_was_set_or_the_least_headroom() {
    let idle = domain(10 * MIB, 0);
    let late = with(idle, |activity| activity.elapsed_ns = u64::MAX);
    let (answer, _) = decide(&settings(), &State::default(), &late);
    assert_eq!((answer.target_frames, answer.floor.frames), (8 * MIB, 8 * MIB));
    let set = Settings { selfballoon_min_usable_mb: 64, ..settings() };
    let (answer, _) = decide(&set, &State::default(), &idle);
    assert_eq!((answer.target_frames, answer.reason), (68 * MIB, Reason::Floor));
    let low = Observation { ceiling_frames: 20 * MIB, ..idle };
    let (answer, _) = decide(&set, &State::default(), &low);
    assert_eq!((answer.target_frames, answer.reason), (20 * MIB, Reason::Ceiling));
}

#[test]
fn a_small_distance_is_not_worth_moving_and_grows_with_the_headroom() {
    // 100 MiB used, 4 MiB watermark, 5 MiB headroom: the band is a block, 2 MiB.
    let reason = |holds| decide(&settings(), &State::default(), &domain(holds, 100 * MIB)).0.reason;
    assert_eq!(reason(109 * MIB), Reason::AtGoal);
    assert_eq!(reason(111 * MIB - 1), Reason::Band);
    assert_eq!(reason(111 * MIB), Reason::Shrinking);
    // With 40 MiB of headroom it is a quarter of that.
    let busy = |holds| {
        let churn = with(domain(holds, 100 * MIB), |activity| activity.allocated_frames = 320 * MIB);
        decide(&settings(), &State::default(), &churn).0.reason
    };
    assert_eq!(busy(154 * MIB - 1), Reason::Band);
    assert_eq!(busy(154 * MIB), Reason::Shrinking);
}

#[test]
fn decay_arrives_however_often_it_is_asked() {
    let (_, mut state) = decide(&settings(), &State::default(), &domain(2000, 1005));
    let soon = with(domain(2000, 1000), |activity| activity.elapsed_ns = 1);
    for left in [1004, 1003, 1002, 1001, 1000, 1000] {
        let answer;
        (answer, state) = decide(&settings(), &state, &soon);
        assert_eq!(answer.envelope_frames, left);
    }
}

#[test]
fn the_low_watermark_is_kept_free_below_the_headroom() {
    let goal = |low_frames, total_reserve_frames| {
        let observation = Observation { low_frames, total_reserve_frames, ..domain(200 * MIB, 100 * MIB) };
        decide(&settings(), &State::default(), &observation).0.goal_frames
    };
    assert_eq!(goal(0, 4 * MIB), 105 * MIB);
    assert_eq!(goal(4 * MIB, 4 * MIB), 109 * MIB);
    assert_eq!(goal(6 * MIB, 40 * MIB), 111 * MIB, "what the kernel uses is not counted twice");
}

#[test]
fn an_early_run_evicts_its_part_and_a_late_one_no_more() {
    let evict = |elapsed_ns| {
        let observation = with(domain(200 * MIB, 100 * MIB), |activity| {
            (activity.inactive_frames, activity.evictable) = (64 * MIB, true);
            activity.elapsed_ns = elapsed_ns;
        });
        decide(&settings(), &State::default(), &observation).0.evict_frames
    };
    assert_eq!(evict(NS_PER_S / 4), MIB);
    assert_eq!(evict(NS_PER_S), 4 * MIB);
    assert_eq!(evict(100 * NS_PER_S), 4 * MIB);
}

#[test]
fn pressure_during_a_hold_does_not_lengthen_the_next() {
    let pressed = with(domain(200 * MIB, 100 * MIB), |activity| {
        (activity.inactive_frames, activity.evictable, activity.stalls) = (64 * MIB, true, 1);
    });
    let mut state = State::default();
    for _ in 0..20 {
        (_, state) = decide(&settings(), &state, &pressed);
        assert_eq!((state.hold_left_ns, state.hold_next_ns), (HOLD_MIN_NS, 2 * HOLD_MIN_NS));
    }
}

#[test]
fn a_stall_pauses_probing_too() {
    let calm = with(domain(200 * MIB, 100 * MIB), |activity| {
        (activity.inactive_frames, activity.evictable) = (64 * MIB, true);
    });
    let (answer, state) = decide(&settings(), &State::default(), &with(calm, |activity| activity.stalls = 1));
    assert_eq!((answer.evict_frames, state.hold_left_ns), (0, HOLD_MIN_NS));
    assert_eq!(decide(&settings(), &state, &calm).0.evict_frames, 0);
}
