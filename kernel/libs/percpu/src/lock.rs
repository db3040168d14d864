//! The spin lock of this crate: with interrupts off while it is held, and able to name a deadlock.
//!
//! [`Latch`] is the bare lock. [`SpinLock`] owns data, turns interrupts off first (so that a handler on the same
//! CPU cannot want a lock that its victim holds) and, in debug builds, remembers which CPU holds it: a CPU that
//! takes a lock twice is reported by name and stopped, one that waits very long is reported once.
//!
//! It is not first come, first served, and must not be. In a guest the next in a queue may be a virtual CPU that the
//! hypervisor has put aside, and then a free lock waits for a time slice of the host while all who run spin behind
//! it: with 4 virtual CPUs on 2 processors that made work under such locks several hundred times slower. Here
//! whoever runs takes the lock. Only a *holder* that is put aside holds the others up, and they tell the hypervisor
//! so ([`Cpus::relax`](crate::Cpus::relax)). Nobody is promised a turn; what is done under these locks is short.
//!
//! Under the model checker `SpinLock` rests on loom's mutex, to keep the models small; `Latch` is modelled by
//! itself.
#![expect(unsafe_code, reason = "a lock gives out its content")]

use crate::mutation::{Mutation, ordering};
use crate::platform::{CpuId, IrqOff, Pinned, Platform};
use crate::primitive::{AtomicBool, CellPointer, Ordering, PlainOrdering, PlainU32, RawCell};
use crate::report::Report;
use core::ops::{Deref, DerefMut};

/// A spin lock without content: whoever finds it free takes it.
#[derive(Debug)]
pub struct Latch {
    held: AtomicBool,
}

/// Holds a [`Latch`] until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct LatchGuard<'a>(&'a Latch);

impl Default for Latch {
    fn default() -> Self {
        Self::new()
    }
}

impl Latch {
    crate::const_fn! {
        /// A free lock.
        #[must_use]
        pub fn new() -> Self {
            Self { held: AtomicBool::new(false) }
        }
    }

    /// Takes the lock; each round that it has to wait it calls `waiting`, which relaxes the CPU, with the number of
    /// rounds so far.
    ///
    /// Interrupts must be off, or no handler may want this lock.
    #[inline]
    pub fn lock(&self, mut waiting: impl FnMut(u32)) -> LatchGuard<'_> {
        let mut rounds = 0_u32;
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            // Loads only: those who wait share the line until the holder writes it.
            while self.held.load(Ordering::Relaxed) {
                rounds = rounds.saturating_add(1);
                waiting(rounds);
            }
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<LatchGuard<'_>> {
        let acquire = ordering(Ordering::Acquire, Mutation::RelaxedLock);
        self.held.compare_exchange(false, true, acquire, Ordering::Relaxed).ok()?;
        Some(LatchGuard(self))
    }
}

impl Drop for LatchGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.held.store(false, ordering(Ordering::Release, Mutation::RelaxedUnlock));
    }
}

#[cfg(not(loom))]
type Raw = Latch;
#[cfg(not(loom))]
type RawGuard<'a> = LatchGuard<'a>;
#[cfg(loom)]
type Raw = loom::sync::Mutex<()>;
#[cfg(loom)]
type RawGuard<'a> = loom::sync::MutexGuard<'a, ()>;

#[cfg(not(loom))]
const fn raw() -> Raw {
    Latch::new()
}
#[cfg(loom)]
fn raw() -> Raw {
    Raw::new(())
}

/// No CPU holds the lock, or it is not known.
const NOBODY: u32 = u32::MAX;

/// Rounds of waiting after which a stuck lock is reported: seconds, on any processor.
#[cfg(not(loom))]
const STUCK_ROUNDS: u32 = 1 << 30;

/// Data behind a [`Latch`] that is held with interrupts off.
#[derive(Debug)]
pub struct SpinLock<T> {
    raw: Raw,
    /// Only a diagnosis: the number of the CPU that holds the lock, in debug builds. Not part of the model.
    holder: PlainU32,
    name: &'static str,
    data: RawCell<T>,
}

// SAFETY: the content is reached by one holder at a time, so sharing the lock moves it between CPUs at most.
unsafe impl<T: Send> Sync for SpinLock<T> {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl<T: Send> Send for SpinLock<T> {}

/// Holds a [`SpinLock`] until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct SpinGuard<'a, T, P: Platform> {
    // In this order: the access ends, the lock opens, interrupts come back.
    access: CellPointer<T>,
    _opens: Opens<'a>,
    irq: IrqOff<P>,
}

/// Clears the holder, then opens the lock.
#[derive(Debug)]
struct Opens<'a> {
    holder: &'a PlainU32,
    _raw: RawGuard<'a>,
}

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            self.holder.store(NOBODY, PlainOrdering::Relaxed);
        }
    }
}

impl<T> SpinLock<T> {
    crate::const_fn! {
        /// A free lock; `name` is for reports.
        #[must_use]
        pub fn new(name: &'static str, data: T) -> Self {
            Self {
                raw: raw(),
                holder: PlainU32::new(NOBODY),
                name,
                data: RawCell::new(data),
            }
        }
    }

    /// The CPU that holds the lock, as far as known (debug builds).
    #[must_use]
    pub fn holder(&self) -> Option<CpuId> {
        CpuId::new(self.holder.load(PlainOrdering::Relaxed) as usize)
    }

    /// Turns interrupts off and takes the lock. Any context; does not block, but spins.
    ///
    /// # Panics
    ///
    /// In debug builds, if this CPU holds the lock already.
    pub fn lock<P: Platform>(&self, platform: P) -> SpinGuard<'_, T, P> {
        let irq = IrqOff::new(platform);
        if cfg!(debug_assertions) && self.holder() == Some(irq.cpu()) {
            platform.report(Report::SelfDeadlock { lock: self.name, cpu: irq.cpu() });
            unreachable!("lock {}: {} holds it and takes it again", self.name, irq.cpu());
        }
        let raw = self.acquire(platform, &irq);
        if cfg!(debug_assertions) {
            let cpu = u32::try_from(irq.cpu().get()).unwrap_or(NOBODY);
            self.holder.store(cpu, PlainOrdering::Relaxed);
        }
        SpinGuard { access: self.data.access(), _opens: Opens { holder: &self.holder, _raw: raw }, irq }
    }

    #[cfg(not(loom))]
    fn acquire<P: Platform>(&self, platform: P, irq: &IrqOff<P>) -> RawGuard<'_> {
        self.raw.lock(|rounds| {
            if rounds == STUCK_ROUNDS {
                platform.report(Report::LockStuck {
                    lock: self.name,
                    waiter: irq.cpu(),
                    holder: self.holder(),
                });
            }
            platform.relax(rounds);
        })
    }

    #[cfg(loom)]
    #[expect(clippy::unwrap_used, reason = "loom's mutex is poisoned only after a model has failed")]
    fn acquire<P: Platform>(&self, _: P, _: &IrqOff<P>) -> RawGuard<'_> {
        self.raw.lock().unwrap()
    }
}

impl<T, P: Platform> SpinGuard<'_, T, P> {
    /// The CPU, on which the holder stays.
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.irq.cpu()
    }
}

impl<T, P: Platform> Deref for SpinGuard<'_, T, P> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held, and the borrow ends before the guard does.
        unsafe { self.access.get() }
    }
}

impl<T, P: Platform> DerefMut for SpinGuard<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the borrow of the guard is exclusive.
        unsafe { self.access.get_mut() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn one_who_waits_and_is_put_aside_holds_up_nobody_else() {
        let lock = Latch::new();
        let held = lock.lock(|_| unreachable!("the lock is free"));
        let (waits, is_waiting) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        std::thread::scope(|scope| {
            let lock = &lock;
            // Its first round of waiting lasts until it is told to go on: so does that of a virtual CPU which the
            // hypervisor does not run.
            let waiter = scope.spawn(move || {
                drop(lock.lock(|round| {
                    if round == 1 {
                        waits.send(()).unwrap();
                        may_go_on.recv().unwrap();
                    }
                    std::thread::yield_now();
                }));
            });
            is_waiting.recv().unwrap();
            assert!(lock.try_lock().is_none(), "it is held");
            drop(held);
            drop(lock.lock(|_| unreachable!("nobody holds it")));
            assert!(lock.try_lock().is_some(), "nobody holds it");
            go_on.send(()).unwrap();
            waiter.join().unwrap();
        });
        assert!(lock.try_lock().is_some(), "the waiter has let it go");
    }
}
