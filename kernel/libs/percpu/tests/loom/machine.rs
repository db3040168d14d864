//! The platform of the models: CPUs are loom's threads, waiting is yielding.

use crate::explore::{Explored, explore};
use loom::sync::atomic::AtomicU64;
use percpu::mutation::{self, Mutation};
use percpu::rcu::Laziness;
use percpu::{CpuId, Cpus, Platform, Rcu, Report, WordIndex, WordPool, Words};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Per-CPU words of a model.
const WORDS: usize = 2;

pub(crate) struct Machine {
    cpus: usize,
    areas: Vec<Vec<AtomicU64>>,
    pool: WordPool<1>,
    rcu: OnceLock<Rcu<Host>>,
    /// Reports are counted; a model that expects none asserts so.
    reports: AtomicUsize,
}

#[derive(Clone, Copy)]
pub(crate) struct Host(*const Machine);

// SAFETY: the machine is `Sync` and outlives the model.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

loom::thread_local! {
    /// The CPU of the thread, its pins and its handlers.
    static CURRENT: Cell<(usize, usize)> = Cell::new((usize::MAX, 0));
}

impl Host {
    fn machine(self) -> &'static Machine {
        // SAFETY: `model` frees the machine after its last thread, and nothing of a model outlives it.
        unsafe { &*self.0 }
    }

    pub(crate) fn rcu(self) -> &'static Rcu<Host> {
        self.machine().rcu.get().unwrap()
    }

    /// This thread is `cpu`, online, from now on.
    pub(crate) fn enter(self, cpu: usize) {
        CURRENT.with(|current| current.set((cpu, 0)));
        // SAFETY: the thread is that CPU.
        unsafe { self.rcu().idle_exit(CpuId::new(cpu).unwrap()) };
    }

    /// This thread's CPU goes offline, or idle.
    pub(crate) fn leave(self) {
        // SAFETY: in no section, and none follows.
        unsafe { self.rcu().idle_enter(self.current_cpu()) };
    }

    pub(crate) fn reports(self) -> usize {
        self.machine().reports.load(Ordering::Relaxed)
    }
}

// SAFETY: as for the host's: a thread is one CPU, nothing preempts it, there are no interrupts.
unsafe impl Cpus for Host {
    fn cpu_count(self) -> usize {
        self.machine().cpus
    }
    fn preempt_disable(self) {
        CURRENT.with(|current| current.set((current.get().0, current.get().1 + 1)));
    }
    unsafe fn preempt_enable(self) {
        CURRENT.with(|current| current.set((current.get().0, current.get().1 - 1)));
    }
    fn current_cpu(self) -> CpuId {
        CpuId::new(CURRENT.with(Cell::get).0).expect("the thread is on a CPU")
    }
    fn irq_save(self) -> usize {
        self.preempt_disable();
        0
    }
    unsafe fn irq_restore(self, _: usize) {
        // SAFETY: `irq_save` disabled it.
        unsafe { self.preempt_enable() };
    }
    fn may_block(self) -> bool {
        CURRENT.with(Cell::get).1 == 0
    }
}

// SAFETY: as for the host's.
unsafe impl Words for Host {
    fn alloc_word(self) -> Option<WordIndex> {
        // SAFETY: fresh from the pool.
        self.machine().pool.alloc().map(|number| unsafe { WordIndex::new(number) })
    }
    fn free_word(self, word: WordIndex) {
        self.machine().pool.free(word);
    }
    fn word(self, cpu: CpuId, number: usize) -> &'static AtomicU64 {
        &self.machine().areas[cpu.get()][number]
    }
}

impl Platform for Host {
    fn now_ns(self) -> u64 {
        0
    }
    fn kick(self, _: CpuId) {}
    fn rcu_work(self) {}
    fn wait_until(self, _: usize, done: &dyn Fn() -> bool) {
        let cpu = self.current_cpu();
        while !done() {
            // SAFETY: a waiting thread is in no section.
            unsafe { self.rcu().idle_enter(cpu) };
            loom::thread::yield_now();
            // SAFETY: the thread is that CPU.
            unsafe { self.rcu().idle_exit(cpu) };
        }
    }
    fn wake_all(self, _: usize) {}
    fn report(self, _: Report) {
        self.machine().reports.fetch_add(1, Ordering::Relaxed);
    }
}

/// A model: what happens on a machine, and how far it is explored.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) cpus: usize,
    /// The most preemptions in one execution, or `None` for all executions.
    pub(crate) preemptions: Option<usize>,
    pub(crate) run: fn(Host),
}

impl Model {
    fn explore(self, mistake: Mutation) -> Explored {
        mutation::choose(mistake);
        let explored = explore(self.name, self.preemptions, move || {
            let area = || (0..WORDS).map(|_| AtomicU64::new(0)).collect();
            let machine = Box::into_raw(Box::new(Machine {
                cpus: self.cpus,
                areas: (0..self.cpus).map(|_| area()).collect(),
                pool: WordPool::new(),
                rcu: OnceLock::new(),
                reports: AtomicUsize::new(0),
            }));
            let host = Host(machine);
            let rcu = Rcu::new(host, Laziness { limit_ns: u64::MAX, limit_count: usize::MAX });
            assert!(host.machine().rcu.set(rcu).is_ok());
            (self.run)(host);
            // SAFETY: made above; the model has joined its threads. (A failed one leaks it.)
            drop(unsafe { Box::from_raw(machine) });
        });
        mutation::choose(Mutation::None);
        explored
    }

    /// It holds.
    pub(crate) fn holds(self) {
        self.explore(Mutation::None).holds();
    }

    /// It does not with this mistake, and loom finds that.
    pub(crate) fn catches(self, mistake: Mutation) {
        self.explore(mistake).catches(mistake);
    }
}

/// A test per line: that the model holds, or that it catches a mistake.
macro_rules! tests {
    ($($test:ident: $model:ident $(catches $mistake:ident)?;)+) => {$(
        #[test]
        fn $test() {
            tests!(@ $model $($mistake)?);
        }
    )+};
    (@ $model:ident) => { $model.holds() };
    (@ $model:ident $mistake:ident) => { $model.catches(percpu::mutation::Mutation::$mistake) };
}
pub(crate) use tests;
