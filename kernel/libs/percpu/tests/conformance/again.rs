//! Statements 51 to 57: reinit and resurrect. (55 also as loom models.)

use crate::support::{Reader, cpu, machine, on, reusable, see};
use percpu::{Misuse, Start};
use std::thread;

#[test]
fn s051_reinit_wants_dead_and_zero_and_else_changes_nothing() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let kept = owner.get();
    let dying = owner.kill();
    let before = see(&count);
    let refused = dying.reinit().expect_err("a switch is pending");
    assert_eq!(refused.why, Misuse::Pending);
    assert_eq!(see(&count), before);
    host.rcu().barrier().unwrap();
    let before = see(&count);
    let refused = refused.token.reinit().expect_err("a reference is out");
    assert_eq!(refused.why, Misuse::NotZero);
    assert_eq!(see(&count), before);
    drop(kept);
    assert_eq!(log.released(), 1);
    let _owner = refused.token.reinit().unwrap();
    // Living counts have no `reinit`: it is a method of `Dying`, and that is not to be had.
    assert_eq!(count.dying().err(), Some(Misuse::NotDying));
}

#[test]
fn s052_a_new_life_begins_with_one_reference() {
    let (host, _cpu) = machine(2);
    for (start, atomic) in [(Start::Percpu, false), (Start::Atomic, true)] {
        let (count, _) = reusable(host, start);
        let dying = count.owner().unwrap().kill();
        host.rcu().barrier().unwrap();
        let _owner = dying.reinit().unwrap();
        let seen = see(&count);
        assert_eq!((seen.references, seen.dying, seen.atomic), (1, false, atomic));
        assert!(count.tryget_live().is_some());
    }
}

#[test]
fn s053_a_resurrected_count_has_one_more() {
    let (host, _cpu) = machine(2);
    for start in [Start::Percpu, Start::Atomic] {
        for outstanding in [0, 1, 5] {
            let (count, log) = reusable(host, start);
            let owner = count.owner().unwrap();
            let held = owner.get_many(outstanding);
            let dying = owner.kill();
            host.rcu().barrier().unwrap();
            let owner = dying.resurrect().unwrap();
            let seen = see(&count);
            assert_eq!((seen.references, seen.dying), (outstanding as i64 + 1, false));
            assert_eq!(seen.atomic, start == Start::Atomic);
            drop(held);
            assert_eq!(see(&count).references, 1);
            assert_eq!(log.released(), usize::from(outstanding == 0));
            drop(owner);
        }
    }
}

#[test]
fn s054_a_resurrection_waits_for_a_pending_switch() {
    let (host, _cpu) = machine(3);
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let kept = owner.get();
    let reader = Reader::start(host, 1);
    let dying = owner.kill_and_confirm();
    assert!(see(&count).switching);
    let _worker = host.start_worker(cpu(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            // The kill has kicked the reader's CPU; there is no earlier sign.
            while host.kicks(cpu(1)) == 0 {
                thread::yield_now();
            }
            assert_eq!(log.confirmed(), 0);
            reader.finish();
        });
        let _owner = dying.resurrect().unwrap();
        assert_eq!(log.confirmed(), 1);
        let seen = see(&count);
        assert_eq!((seen.references, seen.dying, seen.atomic), (2, false, false));
        drop(kept);
        assert_eq!(see(&count).references, 1);
        assert_eq!(log.released(), 0);
    });
}

#[test]
fn s054_where_it_would_have_to_wait_and_must_not_it_is_refused() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::Percpu);
    let dying = count.owner().unwrap().kill();
    let section = host.rcu().read_lock();
    let before = see(&count);
    let refused = dying.resurrect().expect_err("in a read section");
    assert_eq!((refused.why, see(&count)), (Misuse::MayNotBlock, before));
    assert_eq!(refused.token.switch_to_percpu(), Err(Misuse::MayNotBlock));
    drop(section);
    host.rcu().barrier().unwrap();
    let _owner = refused.token.resurrect().unwrap();
    assert_eq!(host.take_reports().len(), 2, "both were reported");
}

#[test]
fn s055_tryget_during_reinit_leaves_the_count_consistent() {
    let (host, _cpu) = machine(3);
    let _worker = host.start_worker(cpu(2));
    let (count, log) = reusable(host, Start::Dead);
    let rounds = 300;
    let dying = thread::scope(|scope| {
        let mut dying = count.dying().unwrap();
        let (count, log) = (&count, &log);
        scope.spawn(move || {
            let _cpu = host.enter(cpu(1));
            while log.released() < rounds {
                drop((count.tryget_live(), count.tryget()));
                host.rcu().quiesce();
            }
        });
        for _ in 0..rounds {
            let owner = dying.reinit().unwrap();
            host.rcu().quiesce();
            dying = owner.kill();
            dying.wait_zero().unwrap();
        }
        dying
    });
    assert_eq!((see(&count).references, log.released()), (0, rounds));
    assert!(host.take_reports().is_empty());
    drop(dying);
}

#[test]
fn s056_each_life_ends_with_one_release() {
    let (host, _cpu) = machine(2);
    for start in [Start::Percpu, Start::Atomic] {
        let (count, log) = reusable(host, start);
        let mut owner = count.owner().unwrap();
        for life in 1..=10 {
            let kept = on(host, 1, || owner.get());
            let dying = owner.kill();
            host.rcu().barrier().unwrap();
            assert_eq!(log.released(), life - 1);
            drop(kept);
            assert_eq!(log.released(), life);
            owner = dying.reinit().unwrap();
        }
    }
}

#[test]
fn s057_only_the_dying_are_resurrected() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::Percpu);
    // An `Owner` has no `resurrect`, and of a living count there is no `Dying`.
    assert_eq!(count.dying().err(), Some(Misuse::NotDying));
    let owner = count.owner().unwrap();
    assert_eq!(count.dying().err(), Some(Misuse::NotDying));
    assert_eq!(see(&count).references, 1);
    drop(owner);
}
