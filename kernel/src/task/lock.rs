//! The spin lock of the scheduler: held with interrupts off, and taken by whoever finds it free.
//!
//! Not first come, first served: the next in a queue may be a virtual CPU that the hypervisor has put aside, and then
//! all who run wait for it beside a free lock. See [`percpu::lock`].

use super::platform::{Cpus, IrqOff};
use core::ops::{Deref, DerefMut};

/// Data that one CPU at a time may touch, for moments only.
///
/// Interrupts are off while it is held, so a handler on the same CPU never waits for what it interrupted. What
/// holds it must not block, and must not take it again.
#[derive(Debug)]
pub(crate) struct SpinLock<T, P> {
    platform: P,
    data: spin::mutex::SpinMutex<T>,
}

/// Holds a [`SpinLock`] until it is dropped.
#[must_use = "the lock is free again as soon as this is dropped"]
pub(crate) struct SpinGuard<'l, T, P: Cpus> {
    // In this order: the data is let go, interrupts come back.
    data: spin::mutex::SpinMutexGuard<'l, T>,
    _irq: IrqOff<P>,
}

impl<T, P: Cpus> SpinLock<T, P> {
    /// A free lock.
    pub(crate) const fn new(platform: P, data: T) -> Self {
        Self { platform, data: spin::mutex::SpinMutex::new(data) }
    }

    /// Takes the lock. Any context.
    pub(crate) fn lock(&self) -> SpinGuard<'_, T, P> {
        let irq = IrqOff::new(self.platform);
        loop {
            if let Some(data) = self.data.try_lock() {
                return SpinGuard { data, _irq: irq };
            }
            // Loads only: those who wait share the line until the holder writes it.
            while self.data.is_locked() {
                self.platform.relax();
            }
        }
    }

    /// Takes the lock if it is free. Any context, a panic included.
    pub(crate) fn try_lock(&self) -> Option<SpinGuard<'_, T, P>> {
        let irq = IrqOff::new(self.platform);
        self.data.try_lock().map(|data| SpinGuard { data, _irq: irq })
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
