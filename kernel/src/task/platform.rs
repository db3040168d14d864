//! What the scheduler needs from the machine below it, in three traits by concern.
//!
//! [`Cpus`]: which CPU this is and what may come between. [`StackSource`]: memory for stacks. [`Platform`]: time,
//! sleep, kicks and the switch. A platform is a small copyable handle: in the kernel a zero-sized type, on the
//! host a reference to a simulated machine ([`sim`](super::sim)). It knows its scheduler, and whatever enters the
//! kernel from below calls that scheduler:
//!
//! | what happened | call, in this order |
//! |---|---|
//! | any interrupt came | [`Scheduler::interrupt_enter`], first of all |
//! | the one-shot timer fired | [`Scheduler::timer_interrupt`] |
//! | a kick arrived | [`Scheduler::kick_interrupt`] |
//! | the interrupt is over | [`Scheduler::wants_switch`]; if so, anything that must be said of the interrupted code, then [`Scheduler::preempt`] |
//! | the preemption count fell to 0 | [`Scheduler::preempt_point`] |
//! | a new context runs for the first time | [`Scheduler::thread_main`] |

use super::Scheduler;
use core::marker::PhantomData;

pub use percpu::{CpuId, MAX_CPUS};

const _: () = assert!(MAX_CPUS <= u32::BITS as usize, "sets of CPUs are masks of 32 bits, CPUs are bytes");

/// A set of `cpu` alone, as a mask with bit 0 for CPU 0.
pub(super) const fn mask(cpu: CpuId) -> u32 {
    1 << cpu.get()
}

/// Which CPU this is, and what may come between two instructions.
pub trait Cpus: Copy + Send + Sync + 'static {
    /// How many CPUs there can be, online or not: at least 1, at most [`MAX_CPUS`], never changing.
    fn cpu_count(self) -> usize;

    /// The CPU. Meaningful only while preemption or interrupts are off.
    fn current_cpu(self) -> CpuId;

    /// Begins a section that is not preempted: adds one to this CPU's preemption count.
    fn preempt_disable(self);

    /// Takes one from the preemption count; if that makes it 0 and interrupts are on, calls
    /// [`Scheduler::preempt_point`].
    ///
    /// For [`Pin`] alone, once for each [`preempt_disable`](Self::preempt_disable) of its own: others count on the
    /// count, too.
    fn preempt_enable(self);

    /// The preemption count. At a switch of threads it is 0 on both sides, so it is the CPU's and the thread's.
    fn preempt_count(self) -> u32;

    /// Turns interrupts off, and answers whether they were on.
    fn irq_save(self) -> bool;

    /// Turns interrupts on if `on`, else leaves them off.
    fn irq_restore(self, on: bool);

    /// Whether interrupts are on. False in interrupt handlers.
    fn irqs_on(self) -> bool;

    /// One round of waiting for another CPU, interrupts on or off.
    fn relax(self) {
        core::hint::spin_loop();
    }
}

/// Memory for stacks.
pub trait StackSource {
    /// A stack, owned: writable memory with an unmapped page below it, so that an overflow faults.
    type Stack: Send;

    /// A stack, or `None` if there is no memory for one. Called by a thread, and before there are threads; may
    /// block where its caller may.
    fn allocate_stack(self) -> Option<Self::Stack>;

    /// Takes a stack back. Called by threads only, with preemption and interrupts on; may block.
    fn free_stack(self, stack: Self::Stack);
}

/// Time, sleep, kicks and the switch.
pub trait Platform: Cpus + StackSource {
    /// A running or suspended flow of control; `Default` is one without a stack.
    type Context: Default + Send + Sync;

    /// The scheduler of this machine.
    fn scheduler(self) -> &'static Scheduler<Self>;

    /// System time in nanoseconds; the same for all CPUs, never going back.
    fn now_ns(self) -> u64;

    /// Has this CPU interrupted at `deadline_ns`, or soon after if that is past. Replaces what was set before.
    /// Interrupts are off. An interrupt too early, or too many, does no harm.
    ///
    /// Answers false if the deadline has passed and no interrupt will come, true otherwise.
    fn arm_timer(self, deadline_ns: u64) -> bool;

    /// Interrupts another CPU, soon. Any context.
    fn kick(self, cpu: CpuId);

    /// With interrupts off, asks `ready`; if the answer is no, sleeps until an interrupt has been handled. Turning
    /// interrupts on and sleeping is one step, so that an interrupt after `ready` was asked ends the sleep.
    /// Interrupts are on when this returns.
    fn halt_unless(self, ready: impl FnOnce() -> bool);

    /// Makes `context` that of the calling code, which the machine began with and which has a stack already.
    fn adopt(self, context: &'static Self::Context);

    /// Puts a call of [`Scheduler::thread_main`] with `thread` on `stack`, for the first switch to make; when that
    /// call returns, what it answers is resumed for good, and the context is through.
    fn prepare(self, context: &'static Self::Context, stack: Self::Stack, thread: u32);

    /// The stack of a context that is through; the context has none then.
    fn take_stack(self, context: &Self::Context) -> Self::Stack;

    /// Suspends the running code as `from` and resumes `to`; returns when `from` is resumed. Interrupts are off,
    /// before and after; the CPU may be another one after.
    fn switch(self, from: &Self::Context, to: &Self::Context);

    /// Whether `address` lies in the unmapped page below the stack of `context`.
    fn is_guard(self, context: &Self::Context, address: usize) -> bool;

    /// This CPU passes a quiescent state: no code on it is inside a read section. Called at each decision of the
    /// scheduler, whether it switches or not, with interrupts off and no lock held; may wake threads.
    fn quiescent(self) {}

    /// This CPU is about to halt: until [`idle_exit`](Self::idle_exit) it enters no read section. Called as
    /// [`quiescent`](Self::quiescent).
    fn idle_enter(self) {}

    /// Ends what [`idle_enter`](Self::idle_enter) began. Interrupts are off; may be in an interrupt handler.
    fn idle_exit(self) {}
}

/// Preemption is off while this lives: the code stays on its CPU. Nests; must be dropped by the thread that made it.
#[derive(Debug)]
#[must_use = "preemption is on again as soon as this is dropped"]
pub struct Pin<P: Cpus> {
    platform: P,
    cpu: CpuId,
    not_send: PhantomData<*mut ()>,
}

impl<P: Cpus> Pin<P> {
    /// Turns preemption off. Any context.
    #[inline]
    pub fn new(platform: P) -> Self {
        platform.preempt_disable();
        Self { platform, cpu: platform.current_cpu(), not_send: PhantomData }
    }

    /// The CPU.
    #[inline]
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl<P: Cpus> Drop for Pin<P> {
    #[inline]
    fn drop(&mut self) {
        self.platform.preempt_enable();
    }
}

/// Interrupts are off on this CPU while this lives. Nests; must be dropped in reverse order, by the thread that
/// made it.
#[derive(Debug)]
#[must_use = "interrupts are on again as soon as this is dropped"]
pub struct IrqOff<P: Cpus> {
    platform: P,
    were_on: bool,
    not_send: PhantomData<*mut ()>,
}

impl<P: Cpus> IrqOff<P> {
    /// Turns interrupts off. Any context.
    #[inline]
    pub fn new(platform: P) -> Self {
        Self { platform, were_on: platform.irq_save(), not_send: PhantomData }
    }

    /// The CPU. Not a field: a scheduler that switches threads inside the section comes back on another one.
    #[inline]
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.platform.current_cpu()
    }

    /// Whether interrupts were on before.
    #[inline]
    #[must_use]
    pub fn were_on(&self) -> bool {
        self.were_on
    }
}

impl<P: Cpus> Drop for IrqOff<P> {
    #[inline]
    fn drop(&mut self) {
        self.platform.irq_restore(self.were_on);
    }
}
