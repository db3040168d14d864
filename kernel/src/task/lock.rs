//! The spin lock of the scheduler: first come, first served, and held with interrupts off.
//!
//! The turns are taken by tickets; the data lies in a lock of the `spin` crate, which is free whenever it is
//! somebody's turn. That second lock costs one uncontended exchange and spares this module all `unsafe`.

use super::platform::{Cpus, IrqOff};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// Data that one CPU at a time may touch, for moments only.
///
/// Interrupts are off while it is held, so a handler on the same CPU never waits for what it interrupted. What
/// holds it must not block, and must not take it again.
#[derive(Debug)]
pub(crate) struct SpinLock<T, P> {
    platform: P,
    next: AtomicU32,
    serving: AtomicU32,
    data: spin::mutex::SpinMutex<T>,
}

/// Holds a [`SpinLock`] until it is dropped.
#[must_use = "the lock is free again as soon as this is dropped"]
pub(crate) struct SpinGuard<'l, T, P: Cpus> {
    // In this order: the data is let go, the next ticket is served, interrupts come back.
    data: spin::mutex::SpinMutexGuard<'l, T>,
    _turn: Turn<'l>,
    _irq: IrqOff<P>,
}

/// The turn of one ticket; the next one's when dropped.
struct Turn<'l>(&'l AtomicU32);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Only whose turn it is writes, so load and store need not be one step.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }
}

impl<T, P: Cpus> SpinLock<T, P> {
    /// A free lock.
    pub(crate) const fn new(platform: P, data: T) -> Self {
        let (next, serving) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { platform, next, serving, data: spin::mutex::SpinMutex::new(data) }
    }

    /// Takes the lock. Any context.
    pub(crate) fn lock(&self) -> SpinGuard<'_, T, P> {
        let irq = IrqOff::new(self.platform);
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        while self.serving.load(Ordering::Acquire) != ticket {
            self.platform.relax();
        }
        self.enter(irq)
    }

    /// Takes the lock if it is free. Any context, a panic included.
    pub(crate) fn try_lock(&self) -> Option<SpinGuard<'_, T, P>> {
        let irq = IrqOff::new(self.platform);
        let serving = self.serving.load(Ordering::Acquire);
        let drawn = serving.wrapping_add(1);
        self.next.compare_exchange(serving, drawn, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(self.enter(irq))
    }

    fn enter(&self, irq: IrqOff<P>) -> SpinGuard<'_, T, P> {
        let turn = Turn(&self.serving);
        let Some(data) = self.data.try_lock() else {
            unreachable!("the data of a spin lock is in use by one whose turn is over")
        };
        SpinGuard { data, _turn: turn, _irq: irq }
    }
}

impl<T, P: Cpus> Deref for SpinGuard<'_, T, P> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T, P: Cpus> DerefMut for SpinGuard<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}
