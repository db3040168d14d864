//! The timing rules: what is due when, and what a run before its time may do. The whole loop is tested on the model
//! hypervisor.

use super::*;
use crate::balloon::Reason;
use crate::mm::frame::{Stats, Watermarks};

const S: u64 = 1_000_000_000;
const MIB: u64 = 256;
const URGENT: Cause = Cause { urgent: true, changed: false };
const CHANGED: Cause = Cause { urgent: false, changed: true };

/// A guest of 128 MiB that holds all of it and has promised so much.
fn observed(committed_mib: u64) -> Observed {
    let (managed, used) = (Frames::new(126 * MIB), Frames::new(committed_mib * MIB));
    Observed {
        frames: Stats {
            managed,
            reserved: Frames::new(2 * MIB),
            free: managed - used,
            free_by_order: [0; 10],
            whole_blocks: 0,
            known_zero: Frames::ZERO,
            cached: Frames::ZERO,
            pinned: Frames::ZERO,
            movable: used,
            ballooned: Frames::ZERO,
            ballooned_blocks: 0,
            pinned_steals: 0,
            movable_steals: 0,
            failures: 0,
            misuses: 0,
            watermarks: Watermarks::for_present(managed),
        },
        committed: used,
        resident: used,
        active: used,
        inactive: Frames::ZERO,
        swapped: Frames::ZERO,
        swap: false,
        reservation: Frames::new(128 * MIB),
        base: Frames::new(128 * MIB),
        ceiling: Frames::new(128 * MIB),
        taken: 0,
        refaulted: 0,
        stalls: 0,
        stall_ns: 0,
    }
}

/// Decides if that is due, as a step does.
fn run(daemon: &mut Daemon, now_ns: u64, cause: Cause, settings: &Settings) -> Option<Decision> {
    daemon.is_due(now_ns, cause).then(|| daemon.decide(now_ns, cause, settings, &observed(8)))
}

fn shrinks(decision: Option<Decision>) -> bool {
    decision.is_some_and(|decision| decision.target_frames < 128 * MIB)
}

#[test]
fn the_first_step_decides_and_then_each_interval() {
    let (mut daemon, settings) = (Daemon::new(), Settings::default());
    assert!(shrinks(run(&mut daemon, 7 * S, Cause::TIMER, &settings)));
    assert_eq!(daemon.due_ns, Some(12 * S));
    assert_eq!(run(&mut daemon, 12 * S - 1, Cause::TIMER, &settings), None);
    assert!(shrinks(run(&mut daemon, 12 * S, Cause::TIMER, &settings)));
    // A run that comes late counts its interval from then: there is nothing to catch up on.
    assert!(shrinks(run(&mut daemon, 100 * S, Cause::TIMER, &settings)));
    assert_eq!(daemon.due_ns, Some(105 * S));
}

#[test]
fn runs_before_their_time_never_shrink_and_do_not_put_the_next_one_off() {
    let (mut daemon, settings) = (Daemon::new(), Settings::default());
    assert!(run(&mut daemon, 0, Cause::TIMER, &settings).is_some());
    // A thousand of them, all through the interval.
    for now_ns in (1..5 * S).step_by(5_000_000) {
        for cause in [URGENT, CHANGED] {
            let decision = run(&mut daemon, now_ns, cause, &settings);
            assert!(decision.is_some() && !shrinks(decision), "{decision:?}");
            assert_eq!(daemon.due_ns, Some(5 * S));
        }
    }
    assert!(shrinks(run(&mut daemon, 5 * S, Cause::TIMER, &settings)));
    // An urgent one on time does not shrink either, but counts as the run.
    assert!(!shrinks(run(&mut daemon, 10 * S, URGENT, &settings)));
    assert_eq!(daemon.due_ns, Some(15 * S));
    // One that a change has caused, on time, is as any other.
    assert!(shrinks(run(&mut daemon, 15 * S, CHANGED, &settings)));
}

#[test]
fn a_run_before_its_time_obeys_a_lower_ceiling() {
    let (mut daemon, settings) = (Daemon::new(), Settings::default());
    assert!(run(&mut daemon, 0, Cause::TIMER, &settings).is_some());
    let lower = Observed { ceiling: Frames::new(64 * MIB), ..observed(8) };
    let decision = daemon.decide(S, CHANGED, &settings, &lower);
    assert_eq!(decision.target_frames, 64 * MIB);
}

#[test]
fn a_shorter_interval_counts_at_once_and_a_longer_one_after_the_run_that_is_due() {
    let interval = |selfballoon_interval| Settings { selfballoon_interval, ..Settings::default() };
    let mut daemon = Daemon::new();
    assert!(run(&mut daemon, 0, Cause::TIMER, &interval(60)).is_some());
    assert!(!shrinks(run(&mut daemon, S, CHANGED, &interval(2))));
    assert_eq!(daemon.due_ns, Some(3 * S));
    assert!(!shrinks(run(&mut daemon, 2 * S, CHANGED, &interval(60))));
    assert_eq!(daemon.due_ns, Some(3 * S), "as it was");
    assert!(shrinks(run(&mut daemon, 3 * S, Cause::TIMER, &interval(60))));
    assert_eq!(daemon.due_ns, Some(63 * S));
}

#[test]
fn with_both_switches_off_nothing_is_due_until_one_is_on() {
    let off = Settings { selfballooning: false, frontswap_selfshrinking: false, ..Settings::default() };
    let mut daemon = Daemon::new();
    let decision = run(&mut daemon, 0, Cause::TIMER, &off);
    assert_eq!(decision.map(|decision| decision.target_frames), Some(128 * MIB), "the toolstack's target");
    assert_eq!(daemon.due_ns, None);
    assert_eq!(run(&mut daemon, u64::MAX, Cause::TIMER, &off), None);
    // Somebody is in need: decided, and then it rests again.
    assert!(run(&mut daemon, S, URGENT, &off).is_some());
    assert_eq!((daemon.due_ns, daemon.next_ns(S, Outcome::Reached)), (None, None));
    // On again: in an interval there is the first run.
    assert!(!shrinks(run(&mut daemon, 50 * S, CHANGED, &Settings::default())));
    assert_eq!(daemon.due_ns, Some(55 * S));
    // And off ends it at once, though a run was due.
    assert!(run(&mut daemon, 51 * S, CHANGED, &off).is_some());
    assert_eq!(daemon.due_ns, None);
}

#[test]
fn the_next_step_is_due_when_the_balloon_or_the_policy_wants_one() {
    let (mut daemon, settings) = (Daemon::new(), Settings::default());
    assert!(run(&mut daemon, 0, Cause::TIMER, &settings).is_some());
    assert_eq!(daemon.next_ns(S, Outcome::Reached), Some(5 * S));
    assert_eq!(daemon.next_ns(S, Outcome::More), Some(S), "at once");
    assert_eq!(daemon.next_ns(S, Outcome::Held(Reason::Host, 3 * S)), Some(3 * S));
    assert_eq!(
        daemon.next_ns(S, Outcome::Held(Reason::Host, 33 * S)),
        Some(5 * S),
        "the decision comes first"
    );
    assert_eq!(daemon.next_ns(S, Outcome::Busy), Some(S + BUSY_NS));
    // Without decisions there is still the balloon.
    let idle = Daemon::new();
    assert_eq!(idle.next_ns(S, Outcome::Held(Reason::Reserve, 2 * S)), Some(2 * S));
    assert_eq!(idle.next_ns(u64::MAX, Outcome::Busy), Some(u64::MAX), "the end of time is no problem");
}

#[test]
fn the_policy_is_told_what_has_changed_since_the_last_decision() {
    let first = Observed { taken: 100, stalls: 1, stall_ns: 5, refaulted: 2, ..observed(8) };
    let then = Observed { taken: 150, stalls: 4, stall_ns: 25, refaulted: 3, ..first };
    let activity = then.for_policy(Some((3 * S, &first)), false).activity;
    assert_eq!((activity.elapsed_ns, activity.allocated_frames, activity.refaulted_frames), (3 * S, 50, 1));
    assert_eq!((activity.stalls, activity.stall_ns), (3, 20));
    // The first has nothing to compare with, and a counter that went back counts nothing.
    let activity = first.for_policy(None, true).activity;
    assert_eq!((activity.elapsed_ns, activity.allocated_frames, activity.stalls), (0, 0, 0));
    assert_eq!(first.for_policy(Some((S, &then)), false).activity.allocated_frames, 0);
}
