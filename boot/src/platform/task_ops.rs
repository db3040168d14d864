//! What the scheduler needs of the machine.
#![expect(unsafe_code, reason = "ends sections without preemption, and tells RCU of quiescent states")]

use super::{Kernel, RCU, stacks, threads};
use crate::cpus;
use crate::domain::Processor;
use core::sync::atomic::Ordering;
use ebb::arch::context::{Context, Stack};
use ebb::arch::local as gs;
use ebb::smp::CpuId;
use ebb::task::{Cpus, Platform, Scheduler, StackSource};
use ebb::units::FRAME_SIZE;
use ebb::xen::wait::Halt;
use x86_64::instructions::interrupts;

impl Cpus for Kernel {
    fn cpu_count(self) -> usize {
        super::CPUS.load(Ordering::Relaxed)
    }

    #[inline]
    fn current_cpu(self) -> CpuId {
        gs::cpu()
    }

    #[inline]
    fn preempt_disable(self) {
        gs::preempt_disable();
    }

    #[inline]
    fn preempt_enable(self) {
        // SAFETY: the trait's contract: the scheduler's guards, each once for one `preempt_disable` of its own.
        if unsafe { gs::preempt_enable() } {
            preemption_is_on(gs::cpu());
        }
    }

    #[inline]
    fn preempt_count(self) -> u32 {
        gs::preempt_count()
    }

    fn irq_save(self) -> bool {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        were_on
    }

    fn irq_restore(self, on: bool) {
        if on {
            interrupts::enable();
        }
    }

    fn irqs_on(self) -> bool {
        interrupts::are_enabled()
    }

    fn relax(self) {
        cpus::relax();
    }
}

/// The preemption count of `cpu` has fallen to 0. On another CPU in the next line, the question is a hint: whoever is
/// switched to has been told already.
#[inline(always)]
pub(crate) fn preemption_is_on(cpu: CpuId) {
    if let Some(threads) = super::SCHEDULER.get()
        && threads.is_due(cpu)
    {
        threads.preempt_point();
    }
}

impl StackSource for Kernel {
    type Stack = Stack;

    fn allocate_stack(self) -> Option<Stack> {
        stacks::allocate()
    }

    fn free_stack(self, stack: Stack) {
        stacks::free(stack);
    }
}

/// The first code of a thread.
fn enter(thread: usize) -> &'static Context {
    threads().thread_main(thread as u32)
}

impl Platform for Kernel {
    type Context = Context;

    fn scheduler(self) -> &'static Scheduler<Self> {
        threads()
    }

    fn now_ns(self) -> u64 {
        cpus::now_ns()
    }

    fn arm_timer(self, deadline_ns: u64) -> bool {
        cpus::arm_threads_timer(deadline_ns)
    }

    fn kick(self, cpu: CpuId) {
        crate::Cpus(()).kick(cpu);
    }

    fn halt_unless(self, ready: impl FnOnce() -> bool) {
        // What it holds, others may need meanwhile.
        crate::frames::park();
        Processor.halt_unless(ready);
    }

    fn adopt(self, context: &'static Context) {
        context.adopt();
    }

    fn prepare(self, context: &'static Context, stack: Stack, thread: u32) {
        context.prepare(stack, enter, thread as usize);
    }

    fn take_stack(self, context: &Context) -> Stack {
        context.take_stack()
    }

    fn switch(self, from: &Context, to: &Context) {
        from.switch(to);
    }

    fn is_guard(self, context: &Context, address: usize) -> bool {
        context.stack().is_some_and(|stack| (stack.start - FRAME_SIZE..stack.start).contains(&address))
    }

    fn quiescent(self) {
        // SAFETY: the scheduler calls this with preemption on and interrupts off, on this CPU: no section is open in
        // the thread, and an interrupt handler that opened one has closed it. An interrupted fast path has been sent
        // back by `interrupt_exit`.
        unsafe { RCU.quiescent(gs::cpu()) };
    }

    fn idle_enter(self) {
        // SAFETY: as above; the idle thread enters no section, and an interrupt begins with `interrupt_enter`, which
        // takes this back.
        unsafe { RCU.idle_enter(gs::cpu()) };
    }

    fn idle_exit(self) {
        // SAFETY: runs on this CPU, with interrupts off.
        unsafe { RCU.idle_exit(gs::cpu()) };
    }
}
