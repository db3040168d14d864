//! The machine as the scheduler sees it. Every call is a point where anything may happen.

use super::context::{Phase, SimContext, SimStack, lock};
use super::machine::Sim;
use crate::task::{CpuId, Cpus, Platform, Scheduler, StackSource};
use std::string::ToString;
use std::sync::Arc;

impl Cpus for Sim {
    fn cpu_count(self) -> usize {
        self.0.config.cpus
    }

    fn current_cpu(self) -> CpuId {
        CpuId::new(lock(&self.0.state).active).unwrap_or(CpuId::BOOT)
    }

    fn preempt_disable(self) {
        self.step();
        lock(&self.0.state).here().preempt += 1;
    }

    fn preempt_enable(self) {
        let mut state = lock(&self.0.state);
        let cpu = state.here();
        assert!(cpu.preempt > 0, "preemption is enabled more often than disabled");
        cpu.preempt -= 1;
        let point = cpu.preempt == 0 && cpu.irqs_on;
        drop(state);
        if point && !std::thread::panicking() {
            self.scheduler().preempt_point();
        }
    }

    fn preempt_count(self) -> u32 {
        lock(&self.0.state).here().preempt
    }

    fn irq_save(self) -> bool {
        self.step();
        core::mem::replace(&mut lock(&self.0.state).here().irqs_on, false)
    }

    fn irq_restore(self, on: bool) {
        lock(&self.0.state).here().irqs_on = on;
        self.step();
    }

    fn irqs_on(self) -> bool {
        lock(&self.0.state).here().irqs_on
    }

    fn relax(self) {
        if std::thread::panicking() {
            // Another context holds the lock and will never run again.
            self.end(Err("a panic, while a spin lock was held elsewhere; its message is above".to_string()));
            loop {
                std::thread::park();
            }
        }
        self.step_of(1);
    }
}

impl StackSource for Sim {
    type Stack = SimStack;

    fn allocate_stack(self) -> Option<SimStack> {
        self.step();
        let mut state = lock(&self.0.state);
        (state.stacks < self.0.config.stacks).then(|| {
            state.stacks += 1;
            state.stacks_made += 1;
            SimStack { number: state.stacks_made }
        })
    }

    fn free_stack(self, stack: SimStack) {
        assert!(
            self.irqs_on() && self.preempt_count() == 0,
            "stack {} is freed where it must not be",
            stack.number
        );
        lock(&self.0.state).stacks -= 1;
        self.step();
    }
}

impl Platform for Sim {
    type Context = SimContext;

    fn scheduler(self) -> &'static Scheduler<Self> {
        self.0.scheduler.get_or_init(|| unreachable!("a machine begins with a scheduler"))
    }

    fn now_ns(self) -> u64 {
        self.step();
        lock(&self.0.state).now_ns
    }

    fn arm_timer(self, deadline_ns: u64) -> bool {
        assert!(!self.irqs_on(), "a timer is set with interrupts on");
        self.step();
        let mut state = lock(&self.0.state);
        state.timers_set += 1;
        let past = deadline_ns <= state.now_ns;
        // Some timers answer so, others fire at once.
        let refused = past && state.below(2) == 0;
        state.here().timer_ns = (!refused).then_some(deadline_ns);
        !refused
    }

    fn kick(self, cpu: CpuId) {
        lock(&self.0.state).cpus[cpu.get()].kicked = true;
        self.step();
    }

    fn halt_unless(self, ready: impl FnOnce() -> bool) {
        assert!(!self.irqs_on(), "a halt begins with interrupts off");
        if !ready() {
            let mut state = lock(&self.0.state);
            (state.here().irqs_on, state.here().halted) = (true, true);
            let next = state.choose(None);
            let timers = state.cpus.iter().filter_map(|cpu| cpu.timer_ns).min();
            match (next, timers) {
                (Some(next), _) => self.hand_over(state, next),
                (None, Some(at)) => {
                    state.now_ns = state.now_ns.max(at);
                    let next = state.choose(None).unwrap_or(state.active);
                    self.hand_over(state, next);
                }
                (None, None) => {
                    drop(state);
                    self.rest();
                }
            }
            lock(&self.0.state).here().halted = false;
        }
        self.irq_restore(true);
    }

    fn adopt(self, context: &'static SimContext) {
        let baton = Arc::clone(&lock(&self.0.state).here().context);
        let mut inner = lock(&context.inner);
        (inner.phase, inner.baton) = (Phase::Running, baton);
    }

    fn prepare(self, context: &'static SimContext, stack: SimStack, thread: u32) {
        context.change(&[Phase::Empty], Phase::Prepared(thread));
        lock(&context.inner).stack = Some(stack);
    }

    fn take_stack(self, context: &SimContext) -> SimStack {
        context.change(&[Phase::Finished], Phase::Empty);
        let stack = lock(&context.inner).stack.take();
        stack.unwrap_or_else(|| unreachable!("a finished context has a stack"))
    }

    fn switch(self, from: &SimContext, to: &SimContext) {
        let mut state = lock(&self.0.state);
        let cpu = state.here();
        assert!(!cpu.irqs_on && cpu.preempt == 0, "a switch with interrupts on, or with preemption off");
        drop(state);
        let mine = from.change(&[Phase::Running], Phase::Suspended);
        self.resume(to);
        mine.await_it();
    }

    fn is_guard(self, context: &SimContext, address: usize) -> bool {
        lock(&context.inner).stack.as_ref().is_some_and(|stack| stack.number << 12 == address)
    }

    fn quiescent(self) {
        let mut state = lock(&self.0.state);
        state.quiescent += 1;
        let cpu = state.here();
        assert!(cpu.preempt == 0, "a quiescent state inside a read section");
        assert!(!cpu.extended, "a quiescent state of a CPU that is announced as halted");
    }

    fn idle_enter(self) {
        let was = core::mem::replace(&mut lock(&self.0.state).here().extended, true);
        assert!(!was, "a CPU is announced as halted twice");
        let hook = lock(&self.0.state).idle_hook.clone();
        if let Some(hook) = hook {
            hook();
        }
        self.step();
    }

    fn idle_exit(self) {
        let was = core::mem::replace(&mut lock(&self.0.state).here().extended, false);
        assert!(was, "a CPU that was not announced as halted goes on");
    }
}
