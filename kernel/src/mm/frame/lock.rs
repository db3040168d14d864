//! The seam for exclusion: the only file that names a lock type.
//!
//! Two things need it. The buddy system is under a lock; an interrupt handler may allocate, so the kernel's choice
//! must keep interrupts off while it is held. A magazine is behind a [`Gate`], which is tried and never waited for;
//! what the gate costs is what the fast path costs, so there are two of them.

use super::primitive::{AtomicBool, Ordering, compiler_fence};

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

    /// The gate of a magazine.
    type Gate: Gate;
}

/// Exclusive use of a CPU's magazine.
pub trait Gate: Send + Sync {
    /// An open gate.
    const OPEN: Self;

    /// Whether any CPU may pass. If not, callers must stay on the CPU whose number they give, without being
    /// preempted, until the call returns; interrupts may come.
    const SHARED: bool;

    /// Passes, and closes the gate behind the caller; `false` if somebody is inside.
    fn try_enter(&self) -> bool;

    /// Opens the gate again.
    fn leave(&self);
}

/// A gate for anybody: CPU numbers are hints, and a wrong one costs time, nothing else. One atomic exchange.
#[derive(Debug)]
pub struct SharedGate(AtomicBool);

impl Gate for SharedGate {
    const OPEN: Self = Self(AtomicBool::new(false));
    const SHARED: bool = true;

    #[inline]
    fn try_enter(&self) -> bool {
        // Acquire: what the last one inside wrote, to the stacks and to the frames' entries, is visible here.
        !self.0.swap(true, Ordering::Acquire)
    }

    #[inline]
    fn leave(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A gate for one CPU: two plain stores, no locked instruction.
///
/// It keeps out interrupt handlers of its own CPU, and nobody else. A handler that comes between the look and the
/// store leaves the gate as it found it, because handlers nest; a *thread* that came there could be inside for
/// long, so preemption has to be off, and other CPUs must not try. What breaks that rule can hand out a frame twice;
/// a kernel therefore gives this gate only to a wrapper that turns preemption off and looks up the CPU itself.
#[derive(Debug)]
pub struct LocalGate(AtomicBool);

impl Gate for LocalGate {
    const OPEN: Self = Self(AtomicBool::new(false));
    const SHARED: bool = false;

    #[inline]
    fn try_enter(&self) -> bool {
        // Acquire and release for the compiler's sake, and to let a thread move to another CPU between calls; on
        // x86 they are plain moves.
        if self.0.load(Ordering::Acquire) {
            return false;
        }
        self.0.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        true
    }

    #[inline]
    fn leave(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Fair ticket spin locks that leave interrupts alone: for the host, and for a single CPU without handlers that
/// allocate.
#[derive(Debug)]
pub enum TicketLocks {}

impl LockKind for TicketLocks {
    type Of<T: Send> = spin::mutex::TicketMutex<T>;
    type Gate = SharedGate;
}

/// Ticket spin locks with magazines for one CPU each: for a single CPU, or a caller that keeps [`LocalGate`]'s rule.
#[derive(Debug)]
pub enum LocalLocks {}

impl LockKind for LocalLocks {
    type Of<T: Send> = spin::mutex::TicketMutex<T>;
    type Gate = LocalGate;
}

impl<T> Exclusive<T> for spin::mutex::TicketMutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock())
    }
}
