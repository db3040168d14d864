//! The machine: CPUs with interrupts and timers, virtual time, and who has the baton.

use super::context::{Baton, Phase, SimContext, SimStack, lock};
use crate::task::{CpuId, CpuStats, Cpus, Platform, Scheduler, StackSource};
use std::boxed::Box;
use std::collections::VecDeque;
use std::format;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::vec::Vec;

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Simulated CPUs.
    pub cpus: usize,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// One step in this many may go to another CPU.
    pub interleave: u64,
    /// The longest that a step takes, in nanoseconds of virtual time.
    pub step_ns: u64,
    /// Stacks that there are.
    pub stacks: usize,
    /// Stacks that ended threads may keep.
    pub spare_stacks: u32,
    /// Steps after which a run counts as one that will never end.
    pub steps: u64,
}

impl Config {
    /// An ordinary machine.
    #[must_use]
    pub const fn new(cpus: usize, seed: u64) -> Self {
        Self { cpus, seed, interleave: 6, step_ns: 2_000, stacks: 20_000, spare_stacks: 4, steps: 20_000_000 }
    }
}

/// How a run went that went well.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps taken.
    pub steps: u64,
    /// Virtual time at the end, in nanoseconds.
    pub now_ns: u64,
    /// What each CPU did.
    pub cpus: Vec<CpuStats>,
    /// Quiescent states that the CPUs reported, extended ones not included.
    pub quiescent: u64,
    /// Times that a timer was set or stopped.
    pub timers_set: u64,
    /// Stacks in use at the end, all kept for later threads.
    pub stacks: usize,
}

/// A simulated machine; the handle is what the scheduler knows as its platform. Machines are never freed.
#[derive(Clone, Copy)]
pub struct Sim(&'static Machine);

impl core::fmt::Debug for Sim {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Sim").field(&self.0.config).finish()
    }
}

struct Machine {
    config: Config,
    scheduler: OnceLock<Scheduler<Sim>>,
    state: Mutex<State>,
    outcome: Mutex<Option<Result<(), String>>>,
    ended: Condvar,
}

struct State {
    random: u64,
    now_ns: u64,
    steps: u64,
    /// The CPU that has the baton.
    active: usize,
    cpus: Vec<Vcpu>,
    booted: bool,
    main_returned: bool,
    /// The run has ended: whoever gets the baton leaves.
    over: bool,
    stacks: usize,
    stacks_made: usize,
    quiescent: u64,
    timers_set: u64,
}

type Handler = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Vcpu {
    /// The context that runs on it.
    context: Arc<Baton>,
    irqs_on: bool,
    preempt: u32,
    halted: bool,
    kicked: bool,
    timer_ns: Option<u64>,
    devices: VecDeque<Handler>,
    extended: bool,
}

impl Vcpu {
    fn has_interrupt(&self, now_ns: u64) -> bool {
        self.kicked || !self.devices.is_empty() || self.timer_ns.is_some_and(|at| at <= now_ns)
    }
}

impl State {
    /// The next random number below `bound` (xorshift64*).
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn here(&mut self) -> &mut Vcpu {
        &mut self.cpus[self.active]
    }

    /// A CPU that can go on, at random, `except` one.
    fn choose(&mut self, except: Option<usize>) -> Option<usize> {
        let now_ns = self.now_ns;
        let can = |(number, cpu): (usize, &Vcpu)| {
            ((!cpu.halted || cpu.has_interrupt(now_ns)) && Some(number) != except).then_some(number)
        };
        let able: Vec<usize> = self.cpus.iter().enumerate().filter_map(can).collect();
        (!able.is_empty()).then(|| able[self.below(able.len() as u64) as usize])
    }
}

/// Ends a thread of the host whose machine is over.
struct Over;

/// Runs `main` as the first thread of a machine, until the machine is at rest.
///
/// # Panics
///
/// If the run fails, with the reason and the seed.
pub fn run(config: Config, main: impl FnOnce(Sim) + Send + 'static) -> Outcome {
    let cpu = || Vcpu { preempt: 0, ..Vcpu::default() };
    let sim = Sim(Box::leak(Box::new(Machine {
        config,
        scheduler: OnceLock::new(),
        state: Mutex::new(State {
            random: config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now_ns: 1_000_000,
            steps: 0,
            active: 0,
            cpus: (0..config.cpus).map(|_| cpu()).collect(),
            booted: false,
            main_returned: false,
            over: false,
            stacks: 0,
            stacks_made: 0,
            quiescent: 0,
            timers_set: 0,
        }),
        outcome: Mutex::new(None),
        ended: Condvar::new(),
    })));
    sim.0.scheduler.get_or_init(|| Scheduler::new(sim, config.spare_stacks));
    let batons: Vec<_> = lock(&sim.0.state).cpus.iter().map(|cpu| Arc::clone(&cpu.context)).collect();
    let mut main = Some(main);
    for (number, baton) in batons.iter().enumerate() {
        let (baton, main) = (Arc::clone(baton), if number == 0 { main.take() } else { None });
        sim.on_host_thread(move || {
            baton.await_it();
            sim.boot(main);
        });
    }
    batons[0].pass();
    let mut outcome = lock(&sim.0.outcome);
    while outcome.is_none() {
        outcome = sim.0.ended.wait(outcome).unwrap_or_else(PoisonError::into_inner);
    }
    if let Some(Err(why)) = &*outcome {
        let message = format!("seed {}, {} CPUs: {why}", config.seed, config.cpus);
        drop(outcome);
        std::panic::resume_unwind(Box::new(message));
    }
    let state = lock(&sim.0.state);
    Outcome {
        steps: state.steps,
        now_ns: state.now_ns,
        cpus: CpuId::first(config.cpus).map(|cpu| sim.scheduler().cpu_stats(cpu)).collect(),
        quiescent: state.quiescent,
        timers_set: state.timers_set,
        stacks: state.stacks,
    }
}

impl Sim {
    /// A host thread whose panics end the run.
    fn on_host_thread(self, body: impl FnOnce() + Send + 'static) {
        let guarded = move || {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            if let Err(payload) = caught
                && !payload.is::<Over>()
            {
                let text = payload.downcast_ref::<String>().cloned();
                let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
                self.end(Err(text.unwrap_or_else(|| "a panic without a message".to_string())));
            }
        };
        let spawned = std::thread::Builder::new().stack_size(512 << 10).spawn(guarded);
        if let Err(error) = spawned {
            self.end(Err(format!("the host has no more threads: {error}")));
        }
    }

    fn end(self, how: Result<(), String>) {
        lock(&self.0.outcome).get_or_insert(how);
        self.0.ended.notify_all();
    }

    /// What a CPU does from power-on.
    fn boot(self, main: Option<impl FnOnce(Self) + Send + 'static>) {
        let scheduler = self.scheduler();
        let adopted = scheduler.adopt_cpu();
        assert!(adopted.is_ok(), "the host is out of memory");
        let next = lock(&self.0.state).active + 1;
        if let Some(main) = main {
            let body = move || {
                main(self);
                lock(&self.0.state).main_returned = true;
            };
            let spawned = scheduler.spawn("main", body);
            assert!(spawned.is_ok(), "no main thread: {spawned:?}");
        }
        let mut state = lock(&self.0.state);
        state.booted = next == self.0.config.cpus;
        if state.booted {
            drop(state);
        } else {
            // One after the other, so that all are online when work begins.
            self.hand_over(state, next);
        }
        self.irq_restore(true);
        scheduler.idle()
    }

    /// A point between two instructions: time passes, another CPU may go on, an interrupt may come.
    pub fn step(self) {
        self.step_of(self.0.config.interleave);
    }

    fn step_of(self, interleave: u64) {
        if std::thread::panicking() {
            return;
        }
        let mut state = lock(&self.0.state);
        state.steps += 1;
        if state.steps > self.0.config.steps {
            drop(state);
            unreachable!("the run does not come to an end");
        }
        state.now_ns += 1 + state.below(self.0.config.step_ns);
        if state.below(2_000) == 0 {
            // An interrupt that nobody asked for.
            state.here().kicked = true;
        }
        let me = state.active;
        if state.booted && state.below(interleave) == 0 {
            let to = state.choose(None).unwrap_or(me);
            self.hand_over(state, to);
        } else {
            drop(state);
        }
        self.interrupts();
    }

    /// Gives the baton to CPU `to` and waits until it is back.
    fn hand_over(self, mut state: std::sync::MutexGuard<'_, State>, to: usize) {
        if to == state.active {
            return;
        }
        let mine = Arc::clone(&state.here().context);
        state.active = to;
        let theirs = Arc::clone(&state.here().context);
        drop(state);
        theirs.pass();
        mine.await_it();
        self.leave_if_over();
    }

    fn leave_if_over(self) {
        if lock(&self.0.state).over {
            std::panic::resume_unwind(Box::new(Over));
        }
    }

    /// Handles the interrupts of the active CPU, if they are on.
    fn interrupts(self) {
        loop {
            let mut state = lock(&self.0.state);
            let now_ns = state.now_ns;
            let cpu = state.here();
            if !cpu.irqs_on || !cpu.has_interrupt(now_ns) {
                return;
            }
            cpu.irqs_on = false;
            let kicked = core::mem::take(&mut cpu.kicked);
            let timer = cpu.timer_ns.take_if(|at| *at <= now_ns).is_some();
            let device = cpu.devices.pop_front();
            drop(state);
            let scheduler = self.scheduler();
            scheduler.interrupt_enter();
            assert!(
                !lock(&self.0.state).here().extended,
                "a handler runs while its CPU is announced as halted"
            );
            if timer {
                scheduler.timer_interrupt();
            }
            if kicked {
                scheduler.kick_interrupt();
            }
            if let Some(handler) = device {
                handler();
            }
            if scheduler.wants_switch() {
                scheduler.preempt();
            }
            lock(&self.0.state).here().irqs_on = true;
        }
    }

    /// Runs `handler` as an interrupt of `cpu`, soon.
    pub fn interrupt(self, cpu: CpuId, handler: impl FnOnce() + Send + 'static) {
        lock(&self.0.state).cpus[cpu.get()].devices.push_back(Box::new(handler));
        self.step();
    }

    /// A random number below `bound`, from the run's generator.
    #[must_use]
    pub fn random(self, bound: u64) -> u64 {
        lock(&self.0.state).below(bound)
    }

    /// Nobody can go on and no timer is set.
    fn at_rest(self) -> Result<(), String> {
        let state = lock(&self.0.state);
        if !state.main_returned {
            return Err("deadlock: every CPU is halted for ever, and the main thread has not returned".into());
        }
        if let Some(cpu) = state.cpus.iter().position(|cpu| cpu.preempt != 0) {
            return Err(format!("CPU {cpu} is halted with preemption off"));
        }
        let (stacks, spare) = (state.stacks, self.0.config.spare_stacks as usize);
        drop(state);
        let census = self.scheduler().census();
        if census.threads as usize != self.0.config.cpus {
            return Err(format!("{} threads are left behind", census.threads as usize - self.0.config.cpus));
        }
        if stacks != census.spare_stacks as usize || stacks > spare + self.0.config.cpus {
            return Err(format!("{stacks} stacks are in use, {} of them spare", census.spare_stacks));
        }
        self.scheduler().validate().map_err(ToString::to_string)
    }
}

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

    fn arm_timer(self, deadline_ns: Option<u64>) -> bool {
        assert!(!self.irqs_on(), "a timer is set with interrupts on");
        self.step();
        let mut state = lock(&self.0.state);
        state.timers_set += 1;
        let past = deadline_ns.is_some_and(|at| at <= state.now_ns);
        // Some timers answer so, others fire at once.
        let refused = past && state.below(2) == 0;
        state.here().timer_ns = deadline_ns.filter(|_| !refused);
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
        self.step();
    }

    fn idle_exit(self) {
        let was = core::mem::replace(&mut lock(&self.0.state).here().extended, false);
        assert!(was, "a CPU that was not announced as halted goes on");
    }
}

impl Sim {
    /// Gives the CPU and the baton to a context that waits.
    fn resume(self, to: &SimContext) {
        let phase = lock(&to.inner).phase;
        let baton = to.change(&[Phase::Suspended, Phase::Prepared(phase.thread())], Phase::Running);
        lock(&self.0.state).here().context = Arc::clone(&baton);
        if let Phase::Prepared(thread) = phase {
            let scheduler = self.scheduler();
            self.on_host_thread(move || {
                let own = scheduler.context(thread);
                lock(&own.inner).baton.clone().await_it();
                let next = scheduler.thread_main(thread);
                own.change(&[Phase::Running], Phase::Finished);
                self.resume(next);
            });
        }
        baton.pass();
    }

    /// The machine is at rest: the run ends, and with it the idle contexts.
    fn rest(self) -> ! {
        let how = self.at_rest();
        let mut state = lock(&self.0.state);
        state.over = true;
        for cpu in &state.cpus {
            cpu.context.pass();
        }
        drop(state);
        self.end(how);
        std::panic::resume_unwind(Box::new(Over))
    }
}
