//! Statements 39 to 50: changes of mode.

use crate::support::{Random, Reader, cpu, machine, on, one_shot, reusable, see};
use percpu::host::Machine;
use percpu::rcu::{Head, Laziness};
use percpu::{PercpuRef, Start, Words};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

#[test]
fn s039_gets_and_puts_during_a_switch_are_counted() {
    let (host, _cpu) = machine(3);
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let mut held: Vec<_> = (0..4).map(|_| owner.get()).collect();
    let reader = Reader::start(host, 2);
    owner.switch_to_atomic().unwrap();
    assert!(see(&count).switching);
    // Pending: some go to the shared count, and one that began before still to a word.
    held.push(owner.get());
    on(host, 1, || drop(held.pop()));
    drop(held.pop());
    host.word(cpu(1), see(&count).word.unwrap()).fetch_sub(1, Relaxed);
    std::mem::forget(held.pop());
    reader.finish();
    host.rcu().barrier().unwrap();
    assert_eq!(log.switched(), 1);
    assert_eq!(see(&count).references, 1 + held.len() as i64);
}

#[test]
fn s040_the_waiting_variant_returns_after_the_fold() {
    let (host, _cpu) = machine(2);
    let _worker = host.start_worker(cpu(1));
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let _held = owner.get_many(3);
    owner.switch_to_atomic_sync().unwrap();
    let seen = see(&count);
    assert!(seen.atomic && !seen.switching);
    assert_eq!(seen.references, 4, "not even the reference of the switch is left");
    assert_eq!(log.switched(), 1);
}

#[test]
fn s041_an_atomic_count_is_switched_at_once() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Atomic);
    let owner = count.owner().unwrap();
    owner.switch_to_atomic().unwrap();
    assert_eq!(log.switched(), 1);
    let dying = owner.kill();
    dying.switch_to_atomic().unwrap();
    assert_eq!(log.switched(), 2);
    assert_eq!(host.rcu().periods(), 0);
}

#[test]
fn s042_atomic_stays_through_kill_and_reinit_until_switched_back() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    owner.switch_to_atomic().unwrap();
    host.rcu().barrier().unwrap();
    let owner = owner.kill().reinit().unwrap();
    assert!(see(&count).atomic && see(&count).sticky_atomic);
    owner.switch_to_percpu().unwrap();
    assert!(!see(&count).atomic && !see(&count).sticky_atomic);
    let dying = owner.kill();
    host.rcu().barrier().unwrap();
    let _owner = dying.reinit().unwrap();
    assert!(!see(&count).atomic);
}

#[test]
fn s043_switching_a_dead_count_shows_at_reinit() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::DeadAtomic);
    let dying = count.dying().unwrap();
    dying.switch_to_percpu().unwrap();
    assert!(see(&count).atomic && count.is_dying() && count.is_zero());
    assert!(count.tryget().is_none());
    let _owner = dying.reinit().unwrap();
    assert!(!see(&count).atomic);
}

#[test]
fn s044_the_second_switch_waits_for_the_first() {
    let (host, _cpu) = machine(3);
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let reader = Reader::start(host, 1);
    owner.switch_to_atomic().unwrap();
    let _worker = host.start_worker(cpu(2));
    thread::scope(|scope| {
        // The end of the first switch is in sight only once the second is waiting for it.
        scope.spawn(|| {
            while host.rcu().periods() == 0 && host.kicks(cpu(1)) == 0 {
                thread::yield_now();
            }
            assert_eq!(log.switched(), 0);
            reader.finish();
        });
        owner.switch_to_percpu().unwrap();
    });
    assert_eq!(log.switched(), 1, "the first was over before the second began");
    let seen = see(&count);
    assert!(!seen.atomic && !seen.switching && !seen.sticky_atomic);
    assert_eq!(seen.references, 1);
}

#[test]
fn s045_the_words_are_zero_before_they_are_open() {
    let (host, _cpu) = machine(3);
    let (count, _) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let _held = owner.get_many(9);
    owner.switch_to_atomic().unwrap();
    host.rcu().barrier().unwrap();
    let word = see(&count).word.unwrap();
    assert_eq!(host.word(cpu(0), word).load(Relaxed), 9, "left behind by the fold");
    owner.switch_to_percpu().unwrap();
    assert!((0..3).all(|at| host.word(cpu(at), word).load(Relaxed) == 0));
    assert_eq!(see(&count).references, 10);
}

#[test]
fn s046_back_and_forth_under_load_stays_exact() {
    const SWITCHES: usize = 50_000; // each way
    let (host, _cpu) = machine(3);
    let count = PercpuRef::reusable(host.rcu(), "switched", || {}, Start::Percpu).unwrap();
    let stop = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (count, stop) = (&count, &stop);
        scope.spawn(move || {
            let _cpu = host.enter(cpu(1));
            let mut random = Random(46);
            let mut kept = Vec::new();
            while stop.load(Relaxed) == 0 {
                for _ in 0..32 {
                    if kept.len() < 8 && random.below(2) == 0 {
                        kept.push(count.tryget().expect("alive"));
                    } else {
                        kept.pop();
                    }
                }
                host.rcu().quiesce();
            }
        });
        let owner = count.owner().unwrap();
        for _ in 0..SWITCHES {
            owner.switch_to_atomic().unwrap();
            while count.inspect().unwrap().switching {
                host.rcu().advance();
                thread::yield_now();
            }
            owner.switch_to_percpu().unwrap();
        }
        stop.store(1, Relaxed);
        std::mem::forget(owner);
    });
    assert_eq!(count.inspect().unwrap().references, 1);
    assert!(host.take_reports().is_empty());
}

#[test]
fn s047_a_one_shot_count_knows_no_switch() {
    // That `switch_to_atomic` does not exist there is a compile-fail example of `PercpuRef`. What the fold of a
    // one-shot count may therefore do, give the word away, cannot hit a living one.
    let (host, _cpu) = machine(2);
    let (count, log) = one_shot(host);
    let _dying = count.owner().unwrap().kill();
    host.rcu().barrier().unwrap();
    assert_eq!(see(&count).word, None);
    assert_eq!(log.released(), 1);
}

#[test]
fn s048_one_grace_period_for_a_switch_and_none_for_anything_else() {
    let (host, _cpu) = machine(2);
    let count = PercpuRef::reusable(host.rcu(), "counted", || {}, Start::Percpu).unwrap();
    let owner = count.owner().unwrap();
    let periods = |expected: u64| assert_eq!(host.rcu().periods(), expected);
    drop(owner.get_many(3));
    drop((count.tryget(), count.tryget_live()));
    periods(0);
    owner.switch_to_atomic().unwrap();
    host.rcu().advance();
    periods(1);
    owner.switch_to_percpu().unwrap();
    host.rcu().advance();
    periods(1);
    let dying = owner.kill_and_confirm();
    host.rcu().advance();
    assert!(dying.is_zero());
    periods(2);
    let owner = dying.reinit().unwrap();
    owner.switch_to_atomic().unwrap();
    host.rcu().advance();
    periods(3);
    let owner = owner.kill_and_confirm().resurrect().unwrap();
    drop(owner);
    host.rcu().advance();
    periods(3);
}

#[test]
fn s049_a_switch_does_not_wait_for_lazy_callbacks() {
    const LAZY: usize = 10_000;
    let host = Machine::with_laziness(2, Laziness { limit_ns: u64::MAX, limit_count: usize::MAX });
    let _cpu = host.enter(cpu(0));
    static RAN: AtomicUsize = AtomicUsize::new(0);
    unsafe fn count_it(_: NonNull<Head>) {
        RAN.fetch_add(1, SeqCst);
    }
    let heads: Vec<Head> = (0..LAZY).map(|_| Head::new()).collect();
    for head in &heads {
        // SAFETY: the heads outlive the barrier below.
        unsafe { host.rcu().call(NonNull::from(head), count_it) };
    }
    assert_eq!(host.rcu().advance().callbacks, 0, "nobody wants a grace period yet");
    let before = Arc::new(AtomicUsize::new(usize::MAX));
    let release = {
        let before = Arc::clone(&before);
        move || before.store(RAN.load(SeqCst), SeqCst)
    };
    let count = PercpuRef::one_shot(host.rcu(), "hurried", release).unwrap();
    let _dying = count.owner().unwrap().kill();
    assert!(host.rcu().advance().callbacks > LAZY, "the lazy ones came along");
    assert_eq!(before.load(SeqCst), 0, "but after it");
    host.rcu().barrier().unwrap();
    assert_eq!(RAN.load(SeqCst), LAZY);
}

#[test]
fn s050_pending_from_before_the_queue_until_after_the_fold() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    assert!(!see(&count).switching);
    owner.switch_to_atomic().unwrap();
    assert!(see(&count).switching);
    // Waiters are woken: one that waits on another CPU comes back (the worker folds).
    let _worker = host.start_worker(cpu(1));
    owner.switch_to_percpu().unwrap();
    assert!(!see(&count).switching);
    assert_eq!(log.switched(), 1);
}
