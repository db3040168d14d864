//! The seam for the allocator's lock: the only file that names a lock type.
//!
//! The lock covers the buddy system alone; the per-CPU magazines in front of it do without. An interrupt handler
//! may allocate, so the kernel's choice must keep interrupts off while it is held. The host uses `spin`'s ticket
//! lock as it is.

/// A value that one caller at a time may change.
pub trait Exclusive<T> {
    /// Wraps `value`.
    fn new(value: T) -> Self;

    /// Runs `work` with the value to itself. Must not be nested on the same lock.
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

/// A kind of lock, before it is known what it protects.
pub trait LockKind {
    /// The lock for a `T`.
    type Of<T: Send>: Exclusive<T> + Send + Sync;
}

/// Fair ticket spin locks that leave interrupts alone: for the host, and for a single CPU without handlers that
/// allocate.
#[derive(Debug)]
pub enum TicketLocks {}

impl LockKind for TicketLocks {
    type Of<T: Send> = spin::mutex::TicketMutex<T>;
}

impl<T> Exclusive<T> for spin::mutex::TicketMutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock())
    }
}
