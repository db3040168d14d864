//! The ticket lock by itself: the locks inside the other models are loom's.

use crate::machine::{Host, Model, tests};
use loom::cell::UnsafeCell;
use loom::thread;
use percpu::lock::Ticket;
use std::sync::Arc;

struct Counter {
    lock: Ticket,
    value: UnsafeCell<u32>,
}

// SAFETY: the value is touched with the lock held; loom reports it if that is not so.
unsafe impl Sync for Counter {}

fn increments(_: Host) {
    let counter = Arc::new(Counter { lock: Ticket::new(), value: UnsafeCell::new(0) });
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let counter = Arc::clone(&counter);
            thread::spawn(move || {
                let guard = if n == 0 { Some(counter.lock.lock(|_| {})) } else { counter.lock.try_lock() };
                let Some(guard) = guard else { return 0 };
                // SAFETY: the lock is held.
                counter.value.with_mut(|value| unsafe { *value += 1 });
                drop(guard);
                1
            })
        })
        .collect();
    let guard = counter.lock.lock(|_| {});
    // SAFETY: the lock is held.
    counter.value.with_mut(|value| unsafe { *value += 1 });
    drop(guard);
    let increments: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    // SAFETY: all threads are joined.
    assert_eq!(counter.value.with(|value| unsafe { *value }), 1 + increments);
}

const TICKET: Model = Model { name: "ticket lock, 3 threads", preemptions: 3, run: increments };

tests! {
    the_ticket_lock_excludes: TICKET;
    mutant_relaxed_unlock: TICKET catches RelaxedUnlock;
    mutant_relaxed_lock: TICKET catches RelaxedLock;
}
