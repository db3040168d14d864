//! The bare lock by itself: the locks inside the other models are loom's.

use crate::machine::{Host, Model, tests};
use loom::cell::UnsafeCell;
use loom::thread;
use percpu::lock::{Latch, LatchGuard};
use std::sync::Arc;

struct Counter {
    lock: Latch,
    value: UnsafeCell<u32>,
}

// SAFETY: the value is touched with the lock held; loom reports it if that is not so.
unsafe impl Sync for Counter {}

/// Adds 1 under the guard, if there is one.
fn increment(counter: &Counter, guard: Option<LatchGuard<'_>>) -> u32 {
    let Some(guard) = guard else { return 0 };
    // SAFETY: the lock is held.
    counter.value.with_mut(|value| unsafe { *value += 1 });
    drop(guard);
    1
}

/// Two threads: with three, two that wait could yield to each other for ever, which loom does explore.
fn increments(other: fn(&Counter) -> u32) {
    let counter = Arc::new(Counter { lock: Latch::new(), value: UnsafeCell::new(0) });
    let thread = {
        let counter = Arc::clone(&counter);
        thread::spawn(move || other(&counter) + other(&counter))
    };
    let mine = increment(&counter, Some(counter.lock.lock(|_| thread::yield_now())));
    let mine = mine + increment(&counter, Some(counter.lock.lock(|_| thread::yield_now())));
    let theirs = thread.join().unwrap();
    // SAFETY: all threads are joined.
    assert_eq!(counter.value.with(|value| unsafe { *value }), mine + theirs);
}

fn lock_and_lock(_: Host) {
    increments(|counter| increment(counter, Some(counter.lock.lock(|_| thread::yield_now()))));
}

fn lock_and_try(_: Host) {
    increments(|counter| increment(counter, counter.lock.try_lock()));
}

const LOCK: Model = Model { name: "lock: two take it", cpus: 2, preemptions: None, run: lock_and_lock };
const TRY: Model =
    Model { name: "lock: one takes, one tries", cpus: 2, preemptions: None, run: lock_and_try };

tests! {
    the_lock_excludes: LOCK;
    trying_the_lock_excludes: TRY;
    mutant_relaxed_unlock: LOCK catches RelaxedUnlock;
    mutant_relaxed_lock: LOCK catches RelaxedLock;
    mutant_relaxed_try: TRY catches RelaxedLock;
}
