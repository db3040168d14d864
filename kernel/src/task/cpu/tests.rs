//! The decisions, without a machine: a CPU is a value, and time is a number.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

impl Threads for Vec<Sched> {
    fn sched(&self, index: u32) -> &Sched {
        &self[index as usize]
    }
}

const IDLE: u32 = 0;
const ELSEWHERE: CpuId = match CpuId::new(5) {
    Some(cpu) => cpu,
    None => panic!("a CPU"),
};

/// A CPU with its idle thread, and `count` threads in its queue.
fn cpu(count: u32) -> (CpuState, Vec<Sched>) {
    let threads: Vec<_> = (0..=count).map(|_| Sched::new()).collect();
    let mut cpu = CpuState::new(CpuId::BOOT);
    cpu.adopt(&threads, IDLE);
    for index in 1..=count {
        threads.sched(index).begin(CpuId::BOOT, None);
        cpu.queue(&threads, index);
    }
    (cpu, threads)
}

/// Decides, switches, and settles with the one before.
fn turn(cpu: &mut CpuState, threads: &Vec<Sched>, why: Why, now_ns: u64) -> (Option<u32>, Finished) {
    let next = cpu.pick(threads, why, now_ns);
    (next, cpu.finish(threads, |_| None))
}

const UNTIL_WOKEN: Why = Why::Blocked { deadline_ns: None };

#[test]
fn threads_take_turns() {
    let (mut cpu, threads) = cpu(3);
    let order: Vec<_> = (0..7).map(|_| turn(&mut cpu, &threads, Why::Yielded, 0).0).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1].map(Some));
    assert_eq!((cpu.load(), threads.sched(1).picked()), (3, 3));
}

#[test]
fn who_is_alone_stays() {
    let (mut cpu, threads) = cpu(1);
    assert_eq!(turn(&mut cpu, &threads, Why::Yielded, 0).0, Some(1));
    assert_eq!(turn(&mut cpu, &threads, Why::Yielded, 0).0, None);
    assert_eq!(turn(&mut cpu, &threads, Why::Preempted, 0).0, None);
    assert_eq!(turn(&mut cpu, &threads, UNTIL_WOKEN, 0).0, Some(IDLE));
    assert_eq!(cpu.load(), 0);
}

#[test]
fn one_who_was_to_leave_and_did_not_block_is_asked_again() {
    // Its slice is over, and before it makes room it wants to block, but has a token, or its time is past already.
    for (woken, why) in [(true, UNTIL_WOKEN), (false, Why::Blocked { deadline_ns: Some(SLICE_NS) })] {
        let (mut cpu, threads) = cpu(2);
        turn(&mut cpu, &threads, Why::Yielded, 0);
        assert!(cpu.next_arming(&threads) == Some(SLICE_NS) && cpu.end_slice(SLICE_NS));
        cpu.disarmed();
        if woken {
            assert_eq!(cpu.wake(&threads, 1), Woken::Awake);
        }
        assert_eq!(turn(&mut cpu, &threads, why, SLICE_NS).0, None, "it stays");
        // Or else the other would wait for as long as this one does not block.
        assert_eq!(cpu.next_arming(&threads), Some(SLICE_NS));
        assert!(cpu.end_slice(SLICE_NS + 1));
    }
}

#[test]
fn a_thread_that_leaves_cannot_be_taken_before_it_has_left() {
    let (mut cpu, threads) = cpu(2);
    turn(&mut cpu, &threads, Why::Yielded, 0);
    assert_eq!(cpu.pick(&threads, Why::Preempted, 0), Some(2));
    // Its stack is in use until `finish`.
    assert_eq!(cpu.release(&threads, ELSEWHERE), None);
    assert_eq!(threads.sched(1).state(), State::Running);
    assert_eq!(cpu.finish(&threads, |_| None), Finished::Settled);
    assert_eq!(cpu.release(&threads, ELSEWHERE), Some(1));
    assert_eq!(threads.sched(1).home(), ELSEWHERE);
}

#[test]
fn a_wake_up_at_any_moment_of_blocking_is_not_lost() {
    // Before the decision.
    let (mut one, threads) = cpu(1);
    turn(&mut one, &threads, Why::Yielded, 0);
    assert_eq!(one.wake(&threads, 1), Woken::Awake);
    assert_eq!(turn(&mut one, &threads, UNTIL_WOKEN, 0).0, None);
    // The token is used up.
    assert_eq!(turn(&mut one, &threads, UNTIL_WOKEN, 0).0, Some(IDLE));

    // Between decision and settlement, with a deadline that is then forgotten.
    let (mut two, threads) = cpu(1);
    turn(&mut two, &threads, Why::Yielded, 0);
    assert_eq!(two.pick(&threads, Why::Blocked { deadline_ns: Some(9) }, 0), Some(IDLE));
    assert_eq!(two.wake(&threads, 1), Woken::Awake);
    assert_eq!(two.finish(&threads, |_| None), Finished::Settled);
    assert_eq!((threads.sched(1).state(), two.load()), (State::Queued, 1));
    assert_eq!(two.expire(&threads, 10), 0);

    // After settlement.
    let (mut three, threads) = cpu(1);
    turn(&mut three, &threads, Why::Yielded, 0);
    turn(&mut three, &threads, Why::Blocked { deadline_ns: Some(9) }, 0);
    assert_eq!(threads.sched(1).state(), State::Blocked);
    assert_eq!(three.wake(&threads, 1), Woken::Runnable);
    assert_eq!(three.queue(&threads, 1), Need::Reschedule);
    assert_eq!(three.wake(&threads, 1), Woken::Awake, "a second wake-up leaves a token");
    assert_eq!(three.expire(&threads, 10), 0);
}

#[test]
fn deadlines_wake_and_past_ones_do_not_block() {
    let (mut cpu, threads) = cpu(1);
    turn(&mut cpu, &threads, Why::Yielded, 0);
    assert_eq!(turn(&mut cpu, &threads, Why::Blocked { deadline_ns: Some(5) }, 5).0, None);
    assert_eq!(turn(&mut cpu, &threads, Why::Blocked { deadline_ns: Some(7) }, 5).0, Some(IDLE));
    assert_eq!(cpu.next_arming(&threads), Some(7));
    assert_eq!(cpu.next_arming(&threads), None, "set already");
    cpu.disarmed();
    assert_eq!((cpu.expire(&threads, 6), cpu.expire(&threads, 7)), (0, 1));
    assert!(cpu.end_slice(7), "the idle thread makes room at once");
}

#[test]
fn a_slice_ends_only_for_somebody() {
    let (mut cpu, threads) = cpu(2);
    turn(&mut cpu, &threads, Why::Yielded, 100);
    assert_eq!(cpu.next_arming(&threads), Some(100 + SLICE_NS));
    assert!(!cpu.end_slice(99 + SLICE_NS));
    assert!(cpu.end_slice(100 + SLICE_NS));
    assert!(!cpu.end_slice(100 + SLICE_NS), "once is enough");
    cpu.disarmed();
    assert_eq!(cpu.next_arming(&threads), None, "a thread that may not be preempted is not nagged");
    turn(&mut cpu, &threads, Why::Preempted, 200 + SLICE_NS);
    assert_eq!(cpu.next_arming(&threads), Some(200 + 2 * SLICE_NS), "the next one's");
    turn(&mut cpu, &threads, Why::Yielded, 300 + SLICE_NS);
    assert_eq!(cpu.next_arming(&threads), None, "set for earlier than needed");
    cpu.disarmed();
    assert!(!cpu.end_slice(200 + 2 * SLICE_NS));
    assert_eq!(cpu.next_arming(&threads), Some(300 + 2 * SLICE_NS));
    cpu.disarmed();
    turn(&mut cpu, &threads, Why::Exited, 400 + SLICE_NS);
    assert_eq!(cpu.next_arming(&threads), None, "nobody waits");
    assert!(!cpu.end_slice(u64::MAX));
}

#[test]
fn one_who_comes_tells_what_the_cpu_must_know() {
    let (mut cpu, threads) = cpu(3);
    assert_eq!(cpu.release(&threads, ELSEWHERE), Some(1));
    assert_eq!(cpu.release(&threads, ELSEWHERE), Some(2));
    turn(&mut cpu, &threads, Why::Yielded, 0);
    assert_eq!(cpu.current(), 3);
    threads.sched(1).set_home(CpuId::BOOT);
    assert_eq!(cpu.queue(&threads, 1), Need::Rearm, "there was no tick");
    assert_eq!(cpu.next_arming(&threads), Some(SLICE_NS));
    threads.sched(2).set_home(CpuId::BOOT);
    assert_eq!(cpu.queue(&threads, 2), Need::Nothing);
}

#[test]
fn threads_bound_to_a_cpu_stay_there_and_get_there() {
    let (mut cpu, threads) = cpu(2);
    threads.sched(1).set_only(Some(CpuId::BOOT));
    assert_eq!(cpu.release(&threads, ELSEWHERE), Some(2), "the first that may move");
    assert_eq!(cpu.release(&threads, ELSEWHERE), None);
    assert_eq!(turn(&mut cpu, &threads, Why::Yielded, 0).0, Some(1));
    threads.sched(1).set_only(Some(ELSEWHERE));
    let sent = turn(&mut cpu, &threads, Why::Yielded, 0);
    assert_eq!(sent, (Some(IDLE), Finished::Send(1, ELSEWHERE)), "although nobody else waits");
}

#[test]
fn a_preempted_thread_may_be_given_away_and_a_yielding_one_not() {
    let (mut cpu, threads) = cpu(2);
    turn(&mut cpu, &threads, Why::Yielded, 0);
    assert_eq!(cpu.pick(&threads, Why::Yielded, 0), Some(2));
    assert_eq!(cpu.finish(&threads, |_| Some(ELSEWHERE)), Finished::Settled);
    assert_eq!(cpu.pick(&threads, Why::Preempted, 0), Some(1));
    let finished = cpu.finish(&threads, |load| {
        assert_eq!(load, 2);
        Some(ELSEWHERE)
    });
    assert_eq!(finished, Finished::Send(2, ELSEWHERE));
}

#[test]
fn the_dead_are_reported_once_and_not_woken() {
    let (mut cpu, threads) = cpu(1);
    turn(&mut cpu, &threads, Why::Yielded, 0);
    assert_eq!(turn(&mut cpu, &threads, Why::Exited, 0), (Some(IDLE), Finished::Dead(1)));
    assert_eq!(cpu.wake(&threads, 1), Woken::Awake);
    assert_eq!(cpu.finish(&threads, |_| None), Finished::Settled);
    assert_eq!((cpu.load(), threads.sched(1).state()), (0, State::Dead));
}

proptest! {
    /// Whatever happens, in whatever order: each thread is in one place, and none is forgotten.
    #[test]
    fn threads_are_neither_lost_nor_doubled(
        actions in proptest::collection::vec((0..7_u8, 1..6_u32, 0..50_u64), 0..200)
    ) {
        let (mut cpu, threads) = cpu(5);
        let mut now_ns = 0;
        for (action, index, time) in actions {
            now_ns += time;
            let busy = cpu.is_busy();
            let why = match action {
                0 => Some(Why::Yielded),
                1 => Some(Why::Preempted),
                2 if busy => Some(Why::Blocked { deadline_ns: None }),
                3 if busy => Some(Why::Blocked { deadline_ns: Some(now_ns + time) }),
                _ => None,
            };
            match (why, action) {
                (Some(why), _) => {
                    let picked = cpu.pick(&threads, why, now_ns);
                    if picked.is_some() && time % 2 == 0 {
                        // Somebody wakes while the switch is under way.
                        if cpu.wake(&threads, index) == Woken::Runnable {
                            cpu.queue(&threads, index);
                        }
                    }
                    prop_assert_eq!(cpu.finish(&threads, |_| None), Finished::Settled);
                }
                (None, 4) if cpu.wake(&threads, index) == Woken::Runnable => {
                    cpu.queue(&threads, index);
                }
                (None, 5) => {
                    cpu.expire(&threads, now_ns);
                }
                _ => {}
            }
            prop_assert_eq!(cpu.validate(&threads), Ok(()));
            let in_state = |state| (1..=5).filter(|i| threads.sched(*i).state() == state).count() as u32;
            prop_assert_eq!(in_state(State::Running), u32::from(cpu.is_busy()));
            prop_assert_eq!(in_state(State::Queued) + in_state(State::Running), cpu.load());
            prop_assert_eq!(in_state(State::Blocked), 5 - cpu.load());
            prop_assert!(cpu.timers.len() <= in_state(State::Blocked));
        }
        // All that were put to sleep can be woken.
        (1..=5).for_each(|index| {
            if cpu.wake(&threads, index) == Woken::Runnable {
                cpu.queue(&threads, index);
            }
        });
        prop_assert_eq!(cpu.load(), 5);
        prop_assert_eq!(cpu.timers.len(), 0);
    }
}
