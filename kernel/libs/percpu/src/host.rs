//! The platform whose CPUs are threads, for programs and tests on the host.
//!
//! A [`Machine`] has a number of CPUs; a thread takes one with [`Host::enter`] and is that CPU until it leaves. It
//! passes quiescent states where it says so ([`Rcu::quiesce`]) and whenever it waits. There is no preemption, and
//! interrupts are function calls ([`Host::interrupt`]).
#![expect(unsafe_code, reason = "an implementation of the platform traits")]

use crate::platform::{CpuId, Cpus, Platform, WordIndex, Words};
use crate::primitive::{AtomicBool, AtomicU64, Ordering};
use crate::rcu::{Laziness, Rcu};
use crate::report::Report;
use crate::words::WordPool;
use core::cell::Cell;
use core::ops::Deref;
use core::time::Duration;
use std::boxed::Box;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::vec::Vec;

/// Groups of 64 words in each CPU's area.
const GROUPS: usize = 16;

/// A longest wait without a look: nothing depends on it, it only bounds what a lost wake-up could cost.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Some CPUs, their words, and a domain of RCU.
#[derive(Debug)]
pub struct Machine {
    areas: Vec<Box<[AtomicU64]>>,
    pool: WordPool<GROUPS>,
    taken: Vec<AtomicBool>,
    rcu: OnceLock<Rcu<Host>>,
    began: Instant,
    skipped_ns: AtomicU64,
    kicks: Vec<AtomicU64>,
    reports: Mutex<Vec<Report>>,
    /// Counts everything that a waiter might wait for.
    events: Mutex<u64>,
    changed: Condvar,
}

/// A machine, as the platform handle. Machines are never freed.
#[derive(Clone, Copy, Debug)]
pub struct Host(&'static Machine);

impl Deref for Host {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        self.0
    }
}

/// What a thread is.
#[derive(Clone, Copy)]
struct Current {
    /// The address of the machine.
    machine: usize,
    cpu: CpuId,
    pins: usize,
    irqs_off: usize,
    handlers: usize,
    idle: bool,
}

std::thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// The thread is a CPU while this lives.
#[derive(Debug)]
#[must_use = "the thread leaves its CPU as soon as this is dropped"]
pub struct OnCpu {
    host: Host,
    cpu: CpuId,
    not_send: core::marker::PhantomData<*mut ()>,
}

impl OnCpu {
    /// Moves this thread to another CPU, as a scheduler would: the old one goes offline.
    ///
    /// # Panics
    ///
    /// In a read section, or if the CPU is taken or does not exist.
    pub fn move_to(&mut self, cpu: CpuId) {
        assert!(self.host.may_block(), "a thread is not moved in a read section");
        let host = self.host;
        self.leave();
        host.take(cpu);
        self.cpu = cpu;
    }

    fn leave(&self) {
        // SAFETY: the thread is this CPU, in no section (checked by the callers), and stops being it.
        unsafe { self.host.rcu().idle_enter(self.cpu) };
        CURRENT.set(None);
        self.host.taken[self.cpu.get()].store(false, Ordering::Release);
    }
}

impl Machine {
    /// A machine with `cpus` CPUs, all offline, lazy as [`Laziness::DEFAULT`].
    ///
    /// # Panics
    ///
    /// For no CPUs or more than [`MAX_CPUS`](crate::MAX_CPUS).
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "the handle is what everybody wants")]
    pub fn new(cpus: usize) -> Host {
        Self::with_laziness(cpus, Laziness::DEFAULT)
    }

    /// A machine with these lazy limits.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn with_laziness(cpus: usize, laziness: Laziness) -> Host {
        assert!((1..=crate::MAX_CPUS).contains(&cpus), "a machine has 1 to {} CPUs", crate::MAX_CPUS);
        let area = || (0..WordPool::<GROUPS>::WORDS).map(|_| AtomicU64::new(0)).collect();
        let host = Host(Box::leak(Box::new(Self {
            areas: (0..cpus).map(|_| area()).collect(),
            pool: WordPool::new(),
            taken: (0..cpus).map(|_| AtomicBool::new(false)).collect(),
            rcu: OnceLock::new(),
            began: Instant::now(),
            skipped_ns: AtomicU64::new(0),
            kicks: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
            reports: Mutex::default(),
            events: Mutex::new(0),
            changed: Condvar::new(),
        })));
        host.0.rcu.get_or_init(|| Rcu::new(host, laziness));
        host
    }

    /// The reports so far, which are forgotten.
    pub fn take_reports(&self) -> Vec<Report> {
        core::mem::take(&mut lock(&self.reports))
    }

    /// Words in use.
    #[must_use]
    pub fn words_in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// How often `cpu` was asked to hurry.
    #[must_use]
    pub fn kicks(&self, cpu: CpuId) -> u64 {
        self.kicks.get(cpu.get()).map_or(0, |kicks| kicks.load(Ordering::Relaxed))
    }

    /// Moves the clock on.
    pub fn skip_ns(&self, ns: u64) {
        self.skipped_ns.fetch_add(ns, Ordering::Relaxed);
        self.something_happened();
    }

    /// The area of a CPU: where a real one would point GS.
    #[must_use]
    pub fn area(&self, cpu: CpuId) -> &[AtomicU64] {
        self.areas.get(cpu.get()).map_or(&[], |area| area)
    }

    fn something_happened(&self) {
        *lock(&self.events) += 1;
        self.changed.notify_all();
    }
}

/// A panic elsewhere leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// The domain of RCU.
    ///
    /// # Panics
    ///
    /// Never: a machine is made with one.
    #[must_use]
    pub fn rcu(self) -> &'static Rcu<Self> {
        match self.0.rcu.get() {
            Some(rcu) => rcu,
            None => unreachable!("a machine is made with a domain"),
        }
    }

    /// Makes this thread CPU `cpu`, and that online.
    ///
    /// # Panics
    ///
    /// If the thread is a CPU already, or the CPU is taken or does not exist.
    pub fn enter(self, cpu: CpuId) -> OnCpu {
        self.take(cpu);
        OnCpu { host: self, cpu, not_send: core::marker::PhantomData }
    }

    fn take(self, cpu: CpuId) {
        assert!(CURRENT.get().is_none(), "the thread is a CPU already");
        assert!(cpu.get() < self.areas.len(), "the machine has no {cpu}");
        assert!(!self.taken[cpu.get()].swap(true, Ordering::Acquire), "{cpu} is taken");
        let machine = core::ptr::from_ref(self.0).addr();
        CURRENT.set(Some(Current { machine, cpu, pins: 0, irqs_off: 0, handlers: 0, idle: false }));
        // SAFETY: this thread has just become that CPU.
        unsafe { self.rcu().idle_exit(cpu) };
    }

    /// Runs `handler` as an interrupt handler of this CPU.
    pub fn interrupt<R>(self, handler: impl FnOnce() -> R) -> R {
        let cpu = self.current_cpu();
        // SAFETY: this thread is that CPU, and interrupts cannot happen by themselves.
        let entry = unsafe { self.rcu().irq_enter(cpu) };
        self.change(|current| current.handlers += 1);
        let result = handler();
        self.change(|current| current.handlers -= 1);
        // SAFETY: the handler is over.
        unsafe { self.rcu().irq_exit(entry) };
        result
    }

    /// Runs `outside` while this CPU idles: grace periods do not wait for it.
    ///
    /// # Panics
    ///
    /// In a read section.
    pub fn idle<R>(self, outside: impl FnOnce() -> R) -> R {
        assert!(self.may_block(), "a CPU does not idle in a read section");
        let cpu = self.current_cpu();
        // SAFETY: the CPU is in no section, and `idle_exit` follows before its next one: a pin on an idle CPU
        // panics, but in a handler.
        unsafe { self.rcu().idle_enter(cpu) };
        self.change(|current| current.idle = true);
        let result = outside();
        self.change(|current| current.idle = false);
        // SAFETY: this thread is that CPU.
        unsafe { self.rcu().idle_exit(cpu) };
        result
    }

    /// A thread that is `cpu` and calls [`Rcu::advance`] whenever there is work, until the answer is dropped.
    #[must_use = "the worker stops when this is dropped"]
    pub fn start_worker(self, cpu: CpuId) -> Worker {
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let thread = thread::spawn(move || {
            let _cpu = self.enter(cpu);
            while !stop.load(Ordering::Acquire) {
                let before = *lock(&self.events);
                let next = self.rcu().advance();
                let timeout = next.call_again_ns.map_or(LOOK_AGAIN, |at| {
                    Duration::from_nanos(at.saturating_sub(self.now_ns())).min(LOOK_AGAIN)
                });
                self.idle(|| self.sleep(before, timeout, stop));
            }
        });
        Worker { host: self, stop, thread: Some(thread) }
    }

    /// Sleeps until something has happened since `before`.
    fn sleep(self, before: u64, timeout: Duration, stop: &AtomicBool) {
        let events = lock(&self.events);
        drop(self.changed.wait_timeout_while(events, timeout, |events| {
            *events == before && !stop.load(Ordering::Acquire)
        }));
    }

    fn current(self) -> Current {
        let current = CURRENT.get().filter(|current| current.machine == core::ptr::from_ref(self.0).addr());
        match current {
            Some(current) => current,
            None => unreachable!("this thread is not a CPU of the machine: call `enter` first"),
        }
    }

    fn begin_section(self, change: impl FnOnce(&mut Current)) {
        let current = self.current();
        assert!(!current.idle || current.handlers > 0, "a read section on an idle CPU");
        self.change(change);
    }

    fn change(self, change: impl FnOnce(&mut Current)) {
        let mut current = self.current();
        change(&mut current);
        CURRENT.set(Some(current));
    }
}

/// A worker thread, which stops when this is dropped.
#[derive(Debug)]
pub struct Worker {
    host: Host,
    stop: &'static AtomicBool,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.host.something_happened();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.host.report(Report::BlockingForbidden { what: "a worker that panicked" });
        }
    }
}

impl Drop for OnCpu {
    fn drop(&mut self) {
        if !self.host.may_block() {
            // Its guards still prove a read section, so the CPU has to stay.
            assert!(thread::panicking(), "a thread leaves its CPU in a read section");
            return;
        }
        self.leave();
    }
}

// SAFETY: a thread is one CPU and stays it while it is pinned (leaving asks for no pins); no two threads are one
// CPU at a time (`taken`); nothing preempts, and interrupts happen only as calls to `interrupt`.
unsafe impl Cpus for Host {
    fn cpu_count(self) -> usize {
        self.areas.len()
    }

    fn preempt_disable(self) {
        self.begin_section(|current| current.pins += 1);
    }

    unsafe fn preempt_enable(self) {
        self.change(|current| current.pins -= 1);
    }

    fn current_cpu(self) -> CpuId {
        self.current().cpu
    }

    fn irq_save(self) -> usize {
        let before = self.current().irqs_off;
        self.begin_section(|current| current.irqs_off += 1);
        before
    }

    unsafe fn irq_restore(self, state: usize) {
        self.change(|current| current.irqs_off = state);
    }

    fn relax(self, rounds: u32) {
        // There may be more CPUs than real ones.
        if rounds.is_multiple_of(64) {
            thread::yield_now();
        }
        core::hint::spin_loop();
    }

    fn may_block(self) -> bool {
        let current = self.current();
        current.pins == 0 && current.irqs_off == 0 && current.handlers == 0
    }
}

// SAFETY: the pool hands a word out once; areas are separate; a thread is the only one that is its CPU, and is not
// interrupted, so load and store are one step; it reports quiescent states only between operations.
unsafe impl Words for Host {
    fn alloc_word(self) -> Option<WordIndex> {
        // SAFETY: fresh from the pool.
        self.pool.alloc().map(|number| unsafe { WordIndex::new(number) })
    }

    fn free_word(self, word: WordIndex) {
        self.pool.free(word);
    }

    fn word(self, cpu: CpuId, number: usize) -> &'static AtomicU64 {
        &self.0.areas[cpu.get()][number]
    }
}

impl Platform for Host {
    fn now_ns(self) -> u64 {
        let real = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        real.saturating_add(self.skipped_ns.load(Ordering::Relaxed))
    }

    fn kick(self, cpu: CpuId) {
        self.kicks[cpu.get()].fetch_add(1, Ordering::Relaxed);
    }

    fn rcu_work(self) {
        self.something_happened();
    }

    fn wait_until(self, _key: usize, done: &dyn Fn() -> bool) {
        // One queue for all keys: waiters are few, and ask again.
        let never = AtomicBool::new(false);
        loop {
            let before = *lock(&self.events);
            if done() {
                return;
            }
            if self.may_block() {
                self.idle(|| self.sleep(before, LOOK_AGAIN, &never));
            } else {
                self.sleep(before, LOOK_AGAIN, &never);
            }
        }
    }

    fn wake_all(self, _key: usize) {
        self.something_happened();
    }

    fn report(self, report: Report) {
        lock(&self.reports).push(report);
    }
}
