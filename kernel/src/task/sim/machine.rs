//! The machine: CPUs with interrupts and timers, virtual time, and who has the baton.

use super::context::{Baton, Phase, SimContext, lock};
use crate::task::{CpuId, CpuStats, Cpus, Platform, Scheduler};
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
    /// Times that a timer was set.
    pub timers_set: u64,
    /// Stacks in use at the end, all kept for later threads.
    pub stacks: usize,
}

/// A simulated machine; the handle is what the scheduler knows as its platform. Machines are never freed.
#[derive(Clone, Copy)]
pub struct Sim(pub(super) &'static Machine);

impl core::fmt::Debug for Sim {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Sim").field(&self.0.config).finish()
    }
}

pub(super) struct Machine {
    pub(super) config: Config,
    pub(super) scheduler: OnceLock<Scheduler<Sim>>,
    pub(super) state: Mutex<State>,
    pub(super) outcome: Mutex<Option<Result<(), String>>>,
    pub(super) ended: Condvar,
}

pub(super) struct State {
    pub(super) random: u64,
    pub(super) now_ns: u64,
    pub(super) steps: u64,
    /// The CPU that has the baton.
    pub(super) active: usize,
    pub(super) cpus: Vec<Vcpu>,
    pub(super) booted: bool,
    pub(super) main_returned: bool,
    /// The run has ended: whoever gets the baton leaves.
    pub(super) over: bool,
    pub(super) stacks: usize,
    pub(super) stacks_made: usize,
    pub(super) quiescent: u64,
    pub(super) timers_set: u64,
    pub(super) idle_hook: Option<IdleHook>,
}

pub(super) type Handler = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Vcpu {
    /// The context that runs on it.
    pub(super) context: Arc<Baton>,
    pub(super) irqs_on: bool,
    pub(super) preempt: u32,
    pub(super) halted: bool,
    pub(super) kicked: bool,
    pub(super) timer_ns: Option<u64>,
    pub(super) devices: VecDeque<Handler>,
    pub(super) extended: bool,
}

/// Called by a CPU that is about to halt.
type IdleHook = Arc<dyn Fn() + Send + Sync>;

impl Vcpu {
    fn has_interrupt(&self, now_ns: u64) -> bool {
        self.kicked || !self.devices.is_empty() || self.timer_ns.is_some_and(|at| at <= now_ns)
    }
}

impl State {
    /// The next random number below `bound` (xorshift64*).
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    pub(super) fn here(&mut self) -> &mut Vcpu {
        &mut self.cpus[self.active]
    }

    /// A CPU that can go on, at random, `except` one.
    pub(super) fn choose(&mut self, except: Option<usize>) -> Option<usize> {
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
            idle_hook: None,
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

    pub(super) fn end(self, how: Result<(), String>) {
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

    pub(super) fn step_of(self, interleave: u64) {
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
    pub(super) fn hand_over(self, mut state: std::sync::MutexGuard<'_, State>, to: usize) {
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

    /// Calls `hook` whenever a CPU announces that it halts, as those do who wait for that.
    pub fn at_idle(self, hook: impl Fn() + Send + Sync + 'static) {
        lock(&self.0.state).idle_hook = Some(Arc::new(hook));
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

impl Sim {
    /// Gives the CPU and the baton to a context that waits.
    pub(super) fn resume(self, to: &SimContext) {
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
    pub(super) fn rest(self) -> ! {
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
