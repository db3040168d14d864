//! A host that has no memory, limits that fall below what is used, calls that fail half-way.

use super::guest::{S, plain};
use super::machine::{PACE, TICK_NS, elastic, mib};
use ebb::balloon::{LONGEST_WAIT_NS, Reason};
use ebb::tunable::Id;
use ebb::units::{Frames, VcpuId};
use std::sync::atomic::Ordering;
use xen_abi::{Errno, hypercall, memory};

const LOW_FLOOR: (Id, &str) = (Id::SelfballoonMinUsableMb, "8");
const QUICK: (Id, &str) = (Id::SelfballoonInterval, "1");
const AT_ONCE: (Id, &str) = (Id::SelfballoonDownhysteresis, "1");

#[test]
fn a_host_that_runs_out_during_growth_and_recovers() {
    elastic(&plain(64), &[LOW_FLOOR], |machine| {
        machine.load_until(mib(8), 200 * S, |_| {});
        let before = machine.charged();
        machine.guest.model.host_take_all_but(mib(10));
        machine.load_until(mib(48), machine.now_ns + 60 * S, |_| {});
        assert_eq!(machine.charged(), before + mib(10), "all that the host had");
        assert!(machine.application.failures > 0);
        assert_eq!(machine.application.last_failure, Some(Reason::Host));
        machine.check();
        // The next page that somebody wants is there as soon as the host has it.
        machine.guest.model.host_give_back();
        let failures = machine.application.failures;
        machine.load_until(mib(48), machine.now_ns + 2 * S, |_| {});
        assert_eq!((machine.application.resident(), machine.application.failures), (mib(48), failures));
        machine.check();
        machine.end(64);
    });
}

#[test]
fn populate_refused_for_minutes_is_asked_ever_more_rarely() {
    elastic(&plain(64), &[LOW_FLOOR], |machine| {
        machine.load_until(mib(4), 300 * S, |_| {});
        // A promise that nobody has called in yet: only the worker wants to grow. All decisions say so.
        machine.guest.model.host_take_all_but(Frames::ZERO);
        let status = || machine.guest.balloon.status();
        let (calls, steps) = (status().exchange.populate_calls, machine.steps);
        machine.application.committed = mib(40);
        machine.pass(600 * S);
        let calls = status().exchange.populate_calls - calls;
        // 1 + 2 + 4 + 8 + 16 s, and then every 32 s: 23 tries, of one list of blocks and one of pieces each.
        assert!((20..=2 * 25).contains(&calls), "{calls} calls in ten minutes");
        // One decision each five seconds, and the tries: the worker does not run hot.
        assert!(machine.steps - steps < 120 + 30, "{} steps", machine.steps - steps);
        assert_eq!(status().held_up.map(|(reason, _)| reason), Some(Reason::Host), "and it says why");
        machine.check();
        machine.guest.model.host_give_back();
        machine.pass(LONGEST_WAIT_NS + S);
        assert!(machine.charged() > mib(40), "within the longest wait: {}", machine.charged());
        assert_eq!(status().held_up, None);
        machine.check();
        machine.end(64);
    });
}

#[test]
fn a_limit_below_use_is_lived_with() {
    elastic(&plain(64), &[LOW_FLOOR, QUICK], |machine| {
        machine.load_until(mib(30), 30 * S, |_| {});
        let charged = machine.charged();
        machine.guest.model.set_limit(charged - mib(10));
        machine.load_until(mib(44), machine.now_ns + 100 * S, |machine| {
            assert!(machine.charged() <= charged);
        });
        assert_eq!(machine.application.last_failure, Some(Reason::Limit));
        machine.check();
        // Down it goes all the same, and then up to the limit.
        machine.load_until(mib(4), machine.now_ns + 100 * S, |_| {});
        assert!(machine.charged() < charged - mib(12));
        machine.load_until(mib(44), machine.now_ns + 100 * S, |_| {});
        assert_eq!(machine.charged(), charged - mib(10));
        machine.check();
        machine.guest.model.set_target_mib(64);
        machine.load_until(mib(44), machine.now_ns + 2 * S, |_| {});
        assert_eq!(machine.application.resident(), mib(44));
        machine.check();
        machine.end(64);
    });
}

#[test]
fn blocks_whose_release_fails_half_way_are_finished() {
    elastic(&plain(64), &[LOW_FLOOR, QUICK, AT_ONCE], |machine| {
        for after in [0, 1, 17, 255, 511] {
            machine.load_until(mib(44), machine.now_ns + 3 * S, |_| {});
            // The first call of the way down ends in its third block, and the one after that in its first.
            machine.guest.model.cut_short(memory::DECREASE_RESERVATION, 0, 2, after);
            machine.guest.model.cut_short(memory::DECREASE_RESERVATION, 1, 0, after);
            let splits = machine.guest.balloon.status().exchange.release_splits;
            machine.load_until(mib(4), machine.now_ns + 10 * S, |_| {});
            let status = machine.guest.balloon.status();
            assert!(status.exchange.release_splits > splits, "after {after}: {:?}", status.exchange);
            assert_eq!(machine.charged(), Frames::new(machine.decision.expect("there was one").target_frames));
            assert_eq!(status.limbo, Frames::ZERO);
            machine.check();
        }
        assert_eq!(machine.application.failures, 0);
        machine.end(64);
    });
}

#[test]
fn a_hypervisor_that_takes_nothing_back_for_minutes() {
    elastic(&plain(64), &[LOW_FLOOR, QUICK, AT_ONCE], |machine| {
        machine.load_until(mib(4), 10 * S, |_| {});
        machine.load_until(mib(44), machine.now_ns + 3 * S, |_| {});
        let release = Some(u64::from(memory::DECREASE_RESERVATION));
        (0..180).for_each(|_| machine.guest.model.refuse(hypercall::MEMORY_OP, release, Errno::EPERM));
        let (charged, calls) = (machine.charged(), machine.guest.balloon.status().exchange.release_calls);
        machine.load_until(mib(4), machine.now_ns + 300 * S, |_| {});
        let status = machine.guest.balloon.status();
        assert_eq!((machine.charged(), status.limbo), (charged, Frames::ZERO));
        assert_eq!(status.held_down.map(|(reason, _)| reason), Some(Reason::Release));
        // Fourteen tries: each of a list, of its first block again, and of that one's pieces.
        let calls = status.exchange.release_calls - calls;
        assert!((14..=14 * 6).contains(&calls), "{calls} calls in five minutes");
        machine.check();
        // The rest of the refusals is used up by trying, and then all is as it should be.
        machine.load_until(mib(4), machine.now_ns + 1200 * S, |_| {});
        assert_eq!(machine.charged(), Frames::new(machine.decision.expect("there was one").target_frames));
        assert_eq!(machine.guest.balloon.status().held_down, None);
        machine.check();
        machine.end(64);
    });
}

#[test]
fn a_direct_map_without_tables_delays_and_nothing_else() {
    elastic(&plain(64), &[LOW_FLOOR, QUICK, AT_ONCE], |machine| {
        machine.guest.map.limit_tables(Some(0));
        for size in [4, 40, 4, 30, 4] {
            machine.load_until(mib(size), machine.now_ns + 20 * S, |_| {});
            assert_eq!((machine.application.resident(), machine.application.failures), (mib(size), 0));
            machine.check();
        }
        machine.end(64);
    });
}

#[test]
fn emergencies_on_all_cpus_race_with_the_worker() {
    elastic(&plain(64), &[LOW_FLOOR, QUICK, AT_ONCE], |machine| {
        for round in 0..6 {
            // Everything is given away, and then everybody wants something at once.
            machine.load_until(mib(4), machine.now_ns + 6 * S, |_| {});
            let emergencies = machine.guest.balloon.status().emergencies;
            std::thread::scope(|scope| {
                let application = &machine.application;
                let threads: Vec<_> = (1..4)
                    .map(|cpu| scope.spawn(move || application.storm(VcpuId::new(cpu), 6, 4500, 77 * round + u64::from(cpu))))
                    .collect();
                let mut scratch = ebb::balloon::Scratch::new();
                let mut now_ns = machine.now_ns;
                while threads.iter().any(|thread| !thread.is_finished()) {
                    // The worker shrinks whenever it may.
                    now_ns += 2 * S;
                    let budget = ebb::balloon::Budget::DEFAULT;
                    let _ = machine.guest.balloon.step(now_ns, &budget, &mut scratch, application);
                    std::thread::yield_now();
                }
                for thread in threads {
                    thread.join().expect("no thread saw a lost frame");
                }
            });
            assert!(machine.guest.balloon.status().emergencies > emergencies);
            assert!(machine.application.urgent.load(Ordering::Acquire), "the worker is told");
            // Time has gone on meanwhile.
            machine.now_ns += 3600 * S;
            machine.pass(TICK_NS);
            machine.check();
        }
        machine.load_until(mib(30), machine.now_ns + 10 * S, |_| {});
        assert_eq!(machine.application.resident(), mib(30));
        machine.check();
        machine.end(64);
    });
}

#[test]
fn a_spike_is_served_before_the_worker_knows() {
    elastic(&plain(64), &[LOW_FLOOR, (Id::SelfballoonInterval, "3600"), AT_ONCE], |machine| {
        machine.load_until(mib(4), 3601 * S, |_| {});
        let (charged, decisions) = (machine.charged(), machine.decisions);
        // All in one go, and no time passes.
        let limit = machine.commit_limit();
        assert!(machine.application.want(mib(44), limit, Frames::new(u64::MAX)));
        assert!(PACE < mib(44) && machine.decisions == decisions);
        assert!(machine.charged() > charged + mib(30));
        // The run that the emergencies have asked for makes the reserve whole, and gives nothing away.
        machine.pass(TICK_NS);
        assert_eq!(machine.decisions - decisions, 1);
        assert!(machine.charged() >= mib(44) + mib(6), "{}", machine.charged());
        // What is given up again is kept until the next run is due.
        let charged = machine.charged();
        machine.load_until(mib(4), machine.now_ns + 1800 * S, |_| {});
        assert_eq!(machine.charged(), charged);
        machine.load_until(mib(4), machine.now_ns + 1900 * S, |_| {});
        assert!(machine.charged() + mib(30) < charged, "{}", machine.charged());
        assert_eq!(machine.application.failures, 0);
        machine.check();
        machine.end(64);
    });
}
