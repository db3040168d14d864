//! The seam for exclusion: the only file that names a lock type.
//!
//! Two things need it. The buddy system is under a lock; an interrupt handler may allocate, so the kernel's choice
//! must keep interrupts off while it is held. A magazine is behind a [`Gate`], which is tried and never waited for;
//! what the gate costs is what the fast path costs, so there are two of them.

use super::primitive::{AtomicBool, AtomicU8, Ordering, compiler_fence};

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

    /// Runs `work` with the number of the CPU whose magazine it is to use. `hint` is the CPU that the caller named.
    ///
    /// With a gate for one CPU, it must be the CPU that runs `work`, from the first instruction to the last. This
    /// believes the caller; a kernel turns preemption off, and looks up the number itself.
    #[inline(always)]
    fn pinned<R>(hint: usize, work: impl FnOnce(usize) -> R) -> R {
        work(hint)
    }

    /// Has CPU `cpu` call [`answer`](super::FrameAllocator::answer) soon, from an interrupt. Does not wait. Nothing
    /// happens here, where there are no interrupts: what is asked of a CPU, it does when it next uses its magazine.
    fn ring(cpu: usize) {
        let _ = cpu;
    }

    /// Waits until another CPU has done what it was rung for, with a bound, and says whether `done`. A caller that
    /// must not wait, as this one, looks once. Called with no lock and no magazine of the allocator, outside of
    /// [`pinned`](Self::pinned).
    fn wait(done: &mut dyn FnMut() -> bool) -> bool {
        done()
    }
}

/// Exclusive use of a CPU's magazine.
pub trait Gate: Send + Sync {
    /// The gate of a CPU that does not use its magazine yet.
    const NEW: Self;

    /// Passes, and closes the gate behind the caller; `false` if somebody is inside, or the gate is parked.
    fn try_enter(&self) -> bool;

    /// The same, and ends the parking.
    #[inline]
    fn try_enter_parked(&self) -> bool {
        self.try_enter()
    }

    /// Opens the gate again.
    fn leave(&self);

    /// Leaves, and leaves the gate to whoever comes first, because its own CPU will not need it for a while, or
    /// because another wants it.
    #[inline]
    fn leave_parked(&self) {
        self.leave();
    }

    /// Passes as any CPU, if that may be.
    fn try_enter_afar(&self) -> bool;

    /// Opens the gate again after that.
    fn leave_afar(&self);
}

/// A gate for anybody: CPU numbers are hints, and a wrong one costs time, nothing else. One atomic exchange.
#[derive(Debug)]
pub struct SharedGate(AtomicBool);

impl Gate for SharedGate {
    const NEW: Self = Self(AtomicBool::new(false));

    #[inline]
    fn try_enter(&self) -> bool {
        // Acquire: what the last one inside wrote, to the stacks and to the frames' entries, is visible here.
        !self.0.swap(true, Ordering::Acquire)
    }

    #[inline]
    fn leave(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn try_enter_afar(&self) -> bool {
        self.try_enter()
    }

    fn leave_afar(&self) {
        self.leave();
    }
}

/// A gate for one CPU: plain loads and stores, no locked instruction.
///
/// It keeps out interrupt handlers of its own CPU, and by itself nobody else. A handler that comes between the look
/// and the store leaves the gate as it found it, because handlers nest; a *thread* that came there could be inside for
/// long, so preemption has to be off, and other CPUs must not try. What breaks that rule can hand out a frame twice;
/// a kernel therefore turns preemption off and looks up the CPU in [`LockKind::pinned`].
///
/// A CPU that goes to sleep *parks* its gate, as does one that another has asked to. From then on nobody has it, the
/// CPU itself included, and whoever wants it takes it by an atomic exchange: others to empty the magazine or to look
/// at it, its own CPU to have it again.
///
/// ```text
///          try_enter           leave_parked        try_enter_afar
///   open ◀───────────▶ inside ─────────────▶ PARKED ◀────────────▶ AFAR
///            leave        ▲                    │      leave_afar
///                         └────────────────────┘
///                           try_enter_parked
/// ```
///
/// The two words are two because only the CPU itself may use plain stores, and only on a word that is its own. While
/// the gate is not its own, that word says closed.
#[derive(Debug)]
pub struct LocalGate {
    /// Written by the gate's CPU alone.
    closed: AtomicBool,
    parking: AtomicU8,
}

/// It is the CPU's own, open or not.
const OWN: u8 = 0;
/// Nobody has it.
const PARKED: u8 = 2;
/// Somebody has it, as any CPU.
const AFAR: u8 = 3;

impl Gate for LocalGate {
    const NEW: Self = Self { closed: AtomicBool::new(true), parking: AtomicU8::new(PARKED) };

    #[inline]
    fn try_enter(&self) -> bool {
        // Acquire and release for the compiler's sake, and to let a thread move to another CPU between calls; on
        // x86 they are plain moves.
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        self.closed.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // A handler that came after the look may have parked it, and closed it to say so: the store has changed
        // nothing then. One that comes now finds it closed.
        self.parking.load(Ordering::Relaxed) == OWN
    }

    fn try_enter_parked(&self) -> bool {
        // Acquire: what another CPU did inside is visible here.
        self.try_enter()
            || self.parking.compare_exchange(PARKED, OWN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn leave(&self) {
        self.closed.store(false, Ordering::Release);
    }

    fn leave_parked(&self) {
        // Release: what this CPU did inside is visible to the others.
        self.parking.store(PARKED, Ordering::Release);
    }

    fn try_enter_afar(&self) -> bool {
        self.parking.compare_exchange(PARKED, AFAR, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn leave_afar(&self) {
        // Nobody changes it while it is so.
        self.parking.store(PARKED, Ordering::Release);
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
