//! Statements 6 and 10 with an allocator that fails when told to, and counts.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "a global allocator")]

use percpu::host::Machine;
use percpu::{CpuId, Misuse, PercpuRef, Start};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Allocations until one fails, and allocations minus frees, of this thread.
    static FAILS_IN: Cell<Option<u32>> = const { Cell::new(None) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Failing;

// SAFETY: forwards to the system's allocator, or answers that there is no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match FAILS_IN.get() {
            Some(0) => return std::ptr::null_mut(),
            Some(left) => FAILS_IN.set(Some(left - 1)),
            None => {}
        }
        LIVE.set(LIVE.get() + 1);
        // SAFETY: the contracts are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - 1);
        // SAFETY: the contracts are the same.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

#[test]
fn s006_no_block_is_an_error_that_leaks_nothing() {
    let host = Machine::new(2);
    let _cpu = host.enter(CpuId::BOOT);
    let witness = Arc::new(());
    let events = {
        let witness = Arc::clone(&witness);
        move || drop(Arc::clone(&witness))
    };
    let before = LIVE.get();
    FAILS_IN.set(Some(0));
    let failed = PercpuRef::reusable(host.rcu(), "no memory", events, Start::Percpu).map(drop);
    FAILS_IN.set(None);
    assert_eq!(failed, Err(Misuse::NoMemory));
    assert_eq!(host.words_in_use(), 0, "the word went back");
    assert_eq!(Arc::strong_count(&witness), 1, "and the events were dropped");
    assert_eq!(LIVE.get(), before);
}

#[test]
fn s010_every_init_is_matched_whatever_happens_in_between() {
    let host = Machine::new(2);
    let _cpu = host.enter(CpuId::BOOT);
    let before = LIVE.get();
    for round in 0..200 {
        let start = [Start::Percpu, Start::Atomic, Start::Dead, Start::DeadAtomic][round % 4];
        let count = PercpuRef::reusable(host.rcu(), "matched", || {}, start).unwrap();
        if let Ok(owner) = count.owner() {
            match round / 4 % 4 {
                0 => std::mem::forget(owner),
                1 => drop(owner),
                2 => drop(owner.kill().resurrect().map_err(|refused| refused.why)),
                _ => owner.switch_to_atomic().unwrap(),
            }
        }
        // In half of the rounds with a switch pending: the rest is left to it.
        if round % 8 < 4 {
            host.rcu().barrier().unwrap();
        }
        drop(count);
    }
    host.rcu().barrier().unwrap();
    assert_eq!(host.words_in_use(), 0);
    assert!(host.take_reports().is_empty());
    assert_eq!(LIVE.get(), before, "allocations without a free");
}

#[test]
fn neither_kill_nor_call_nor_fold_allocates() {
    let host = Machine::new(2);
    let _cpu = host.enter(CpuId::BOOT);
    let count = PercpuRef::reusable(host.rcu(), "frugal", || {}, Start::Percpu).unwrap();
    let owner = count.owner().unwrap();
    let retired = percpu::rcu::Deferred::boxed(7);
    FAILS_IN.set(Some(0));
    let reference = owner.get();
    host.rcu().drop_later(retired);
    let dying = owner.kill_and_confirm();
    host.rcu().barrier().unwrap();
    drop(reference);
    let zero = dying.is_zero();
    let lives = dying.reinit().is_ok();
    FAILS_IN.set(None);
    assert!(zero && lives);
}
