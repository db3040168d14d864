//! What the crate needs from whoever runs it, in three traits by concern.
//!
//! [`Cpus`]: which CPU this is, and how to stay on it. [`Words`]: per-CPU words and the add to one's own. On them
//! rest locks, per-CPU data and the fast paths. [`Platform`] adds what the slow paths need: time, waking, waiting,
//! and where reports go. A platform is a small copyable handle: in a kernel a zero-sized type over GS, on the host
//! a reference to a machine whose CPUs are threads.
#![expect(unsafe_code, reason = "traits on whose truth the safety of per-CPU access rests")]

use crate::primitive::{AtomicU64, AtomicUsize, Ordering};
use crate::report::Report;
use crate::{mutation, mutation::Mutation};
use core::fmt;
use core::marker::PhantomData;

/// The most CPUs that this build knows.
#[cfg(not(loom))]
pub const MAX_CPUS: usize = 32;
/// The most CPUs that this build knows: few, because the model checker visits each.
#[cfg(loom)]
pub const MAX_CPUS: usize = 3;

/// A CPU, by number from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct CpuId(u32);

impl CpuId {
    /// The boot CPU.
    pub const BOOT: Self = Self(0);

    /// The CPU with this number, or `None` from [`MAX_CPUS`] on.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below MAX_CPUS")]
    pub const fn new(number: usize) -> Option<Self> {
        if number < MAX_CPUS { Some(Self(number as u32)) } else { None }
    }

    /// The number, below [`MAX_CPUS`].
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// CPUs 0 to `count - 1`, at most [`MAX_CPUS`].
    pub fn first(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map_while(Self::new)
    }
}

impl fmt::Debug for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Which CPU this is, and how to stay on it.
///
/// # Safety
///
/// An implementation must keep these promises, on which the memory safety of the crate rests:
/// - between `preempt_disable` and the matching `preempt_enable` (they nest) the running code stays on one CPU, no
///   other thread runs there, and [`current_cpu`](Self::current_cpu) answers that CPU;
/// - between `irq_save` and the matching `irq_restore` no interrupt handler runs on this CPU either;
/// - no two CPUs have one number, and all numbers are below `cpu_count`;
/// - [`may_block`](Self::may_block) is false between those pairs and in interrupt handlers.
pub unsafe trait Cpus: Copy + Send + Sync + 'static {
    /// How many CPUs there can be: at least 1, at most [`MAX_CPUS`], never changing.
    fn cpu_count(self) -> usize;

    /// Begins a section that is not preempted. Nests; cheap (a per-CPU increment in a kernel).
    fn preempt_disable(self);

    /// Ends what [`preempt_disable`](Self::preempt_disable) began.
    ///
    /// # Safety
    ///
    /// Exactly one call for one `preempt_disable`, by the code that made it.
    unsafe fn preempt_enable(self);

    /// The CPU. Meaningful only while preemption or interrupts are off.
    fn current_cpu(self) -> CpuId;

    /// Turns interrupts off and answers how they were.
    fn irq_save(self) -> usize;

    /// Turns interrupts back to how they were.
    ///
    /// # Safety
    ///
    /// `state` is from the matching [`irq_save`](Self::irq_save) of this CPU, innermost first.
    unsafe fn irq_restore(self, state: usize);

    /// Relaxes a CPU that spins, with interrupts off, for the `rounds`-th time in a row. A guest may tell its
    /// hypervisor after many rounds that it waits: the holder's virtual CPU may not be running.
    #[inline]
    fn relax(self, rounds: u32) {
        let _ = rounds;
        core::hint::spin_loop();
    }

    /// Whether the running code may block: it is a thread, with preemption and interrupts on.
    fn may_block(self) -> bool;
}

/// A per-CPU word, by number: one 64-bit word in the area of every CPU.
///
/// Not `Copy`: who holds it owns the word on all CPUs, until it goes back with [`Words::free_word`].
#[derive(Debug, PartialEq, Eq)]
pub struct WordIndex(u32);

impl WordIndex {
    /// The word with this number.
    ///
    /// # Safety
    ///
    /// Nobody else holds this number: it is fresh from the pool of the platform.
    #[must_use]
    pub const unsafe fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(&self) -> usize {
        self.0 as usize
    }

    /// Bytes from the first word to this one: what the tagged word of a reference count holds.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.get() * size_of::<u64>()
    }
}

/// Tag bits of the tagged word of a reference count: [`WordIndex::offset`] leaves the low three bits free.
pub const TAGS: usize = 0b11;

/// Per-CPU words, and the add to one's own.
///
/// # Safety
///
/// An implementation must keep these promises:
/// - `alloc_word` hands out a word only once until it is freed, and an access by the new holder happens after every
///   access of the old one;
/// - `word` answers the same memory for the same pair, and different memory for different pairs;
/// - a `local_…` operation is one indivisible step for everything else that runs on this CPU, interrupt handlers
///   included, and touches the word of the CPU that executes it;
/// - in `local_add` and its two relatives the load of the tagged word and the add are one read section: this CPU
///   reports no quiescent state ([`Rcu::quiescent`](crate::rcu::Rcu::quiescent)) between the two.
pub unsafe trait Words: Cpus {
    /// A word on every CPU, content undefined, or `None` if there are no more.
    fn alloc_word(self) -> Option<WordIndex>;

    /// Takes a word back.
    fn free_word(self, word: WordIndex);

    /// The word of one CPU. Others than its owner write it only when the owner cannot.
    fn word(self, cpu: CpuId, number: usize) -> &'static AtomicU64;

    /// If `tagged` carries no tag, adds `delta` to this CPU's word at that offset and answers true; if it carries
    /// one, changes nothing and answers false.
    ///
    /// The default pins, tests, loads, adds and stores; no read-modify-write instruction, so that the model checker
    /// sees a lost update if two CPUs ever share a word. It is enough where interrupts do not exist.
    /// [`crate::gs`] does it in four instructions.
    ///
    /// # Safety
    ///
    /// `tagged` holds a tag or the [offset](WordIndex::offset) of a word of this platform that the caller owns.
    #[inline]
    unsafe fn local_add(self, tagged: &AtomicUsize, delta: u64) -> bool {
        let pin = CpuPin::new(self);
        let word = tagged.load(mutation::ordering(Ordering::Acquire, Mutation::RelaxedModeLoad));
        let tags = if mutation::made(Mutation::TestAtomicOnly) { 0b01 } else { TAGS };
        if word & tags != 0 {
            return false;
        }
        assert!(word.is_multiple_of(size_of::<u64>()), "a tag leaked into the address of a per-CPU word");
        let slot = self.word(pin.cpu(), word / size_of::<u64>());
        slot.store(slot.load(Ordering::Relaxed).wrapping_add(delta), Ordering::Relaxed);
        true
    }

    /// [`local_add`](Self::local_add) of 1.
    ///
    /// # Safety
    ///
    /// As for `local_add`.
    #[inline]
    unsafe fn local_inc(self, tagged: &AtomicUsize) -> bool {
        // SAFETY: the contracts are the same.
        unsafe { self.local_add(tagged, 1) }
    }

    /// [`local_add`](Self::local_add) of -1.
    ///
    /// # Safety
    ///
    /// As for `local_add`.
    #[inline]
    unsafe fn local_dec(self, tagged: &AtomicUsize) -> bool {
        // SAFETY: the contracts are the same.
        unsafe { self.local_add(tagged, u64::MAX) }
    }

    /// Adds `amount` to this CPU's word, taken as signed, if the result stays strictly between `-bound` and
    /// `bound`; else changes nothing and answers false. `bound` is positive.
    #[inline]
    fn local_add_within(self, word: &WordIndex, amount: i64, bound: i64) -> bool {
        let irq = IrqOff::new(self);
        let slot = self.word(irq.cpu(), word.get());
        let Some(sum) = slot.load(Ordering::Relaxed).cast_signed().checked_add(amount) else { return false };
        if sum <= -bound || sum >= bound {
            return false;
        }
        slot.store(sum.cast_unsigned(), Ordering::Relaxed);
        true
    }
}

/// What the slow paths need: time, waking, waiting, and where reports go.
///
/// Every method but [`wait_until`](Self::wait_until) may be called with interrupts off and from interrupt handlers.
pub trait Platform: Words {
    /// A clock that never goes back, in nanoseconds.
    fn now_ns(self) -> u64;

    /// Makes `cpu` pass a quiescent state soon (by an IPI): called only for a hurried grace period.
    fn kick(self, cpu: CpuId);

    /// Some RCU has work: soon, [`Rcu::advance`](crate::rcu::Rcu::advance) must be called by a thread. May only set
    /// a flag and wake that thread, because the scheduler itself may be the caller.
    fn rcu_work(self);

    /// Blocks the calling thread until `done` answers true: asks at once, and again after each
    /// [`wake_all`](Self::wake_all) of `key` that began after the last answer.
    ///
    /// While it blocks, the CPU must be able to pass quiescent states. `done` does not block, takes locks of this
    /// crate and may run with interrupts off. Called only where [`Cpus::may_block`] is true, or has been reported.
    fn wait_until(self, key: usize, done: &dyn Fn() -> bool);

    /// Wakes whoever waits for `key`, an address that may be stale: it is only compared. Called with no lock of
    /// this crate held.
    fn wake_all(self, key: usize);

    /// Takes a report of misuse or trouble. Must not panic if the caller is to go on.
    fn report(self, report: Report);

    /// Reports code that is about to block where it must not: inside a read section, with a lock held or in an
    /// interrupt handler. Debug builds only; `what` names the operation.
    #[inline]
    fn assert_may_block(self, what: &'static str) {
        if cfg!(debug_assertions) && !self.may_block() {
            self.report(Report::BlockingForbidden { what });
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Proof that the running code stays on one CPU while the value lives.
pub trait Pinned: sealed::Sealed {
    /// That CPU.
    fn cpu(&self) -> CpuId;
}

/// Preemption is off while this lives, so the code stays on its CPU. Nests; must be dropped where it was made.
#[derive(Debug)]
#[must_use = "preemption is on again as soon as this is dropped"]
pub struct CpuPin<P: Cpus> {
    platform: P,
    cpu: CpuId,
    not_send: PhantomData<*mut ()>,
}

impl<P: Cpus> CpuPin<P> {
    /// Turns preemption off.
    #[inline]
    pub fn new(platform: P) -> Self {
        platform.preempt_disable();
        Self { platform, cpu: platform.current_cpu(), not_send: PhantomData }
    }

    /// The platform.
    #[inline]
    pub fn platform(&self) -> P {
        self.platform
    }
}

impl<P: Cpus> sealed::Sealed for CpuPin<P> {}

impl<P: Cpus> Pinned for CpuPin<P> {
    #[inline]
    fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl<P: Cpus> Drop for CpuPin<P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `new` disabled it once, and the value cannot leave its thread.
        unsafe { self.platform.preempt_enable() };
    }
}

/// Interrupts are off on this CPU while this lives. Nests; guards must be dropped in reverse order: the outermost turns
/// interrupts on again, whatever else there is. What must not be true of memory then is not rested on this value alone:
/// [`PerCpu::get_exclusive`](crate::PerCpu::get_exclusive) has its caller promise the order.
#[derive(Debug)]
#[must_use = "interrupts are on again as soon as this is dropped"]
pub struct IrqOff<P: Cpus> {
    platform: P,
    cpu: CpuId,
    state: usize,
    not_send: PhantomData<*mut ()>,
}

impl<P: Cpus> IrqOff<P> {
    /// Turns interrupts off.
    #[inline]
    pub fn new(platform: P) -> Self {
        let state = platform.irq_save();
        Self { platform, cpu: platform.current_cpu(), state, not_send: PhantomData }
    }
}

impl<P: Cpus> sealed::Sealed for IrqOff<P> {}

impl<P: Cpus> Pinned for IrqOff<P> {
    #[inline]
    fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl<P: Cpus> Drop for IrqOff<P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the state is from `new` on this CPU; the value cannot leave its thread, and holders drop guards
        // in reverse order (the documented contract of the type, kept by every user in this crate).
        unsafe { self.platform.irq_restore(self.state) };
    }
}
