//! Grace periods: no reader that was there before one is still inside after it, idle CPUs are not waited for, and
//! callbacks wait for a grace period that begins after they were queued.

use crate::machine::{Host, Model, tests};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use percpu::CpuId;
use percpu::rcu::Head;
use std::ptr::NonNull;
use std::sync::Arc;

/// Two versions of something; readers look at the current one, the writer destroys the old one after a grace
/// period. Loom reports a reader that is still there as a race.
struct Versions {
    current: AtomicUsize,
    content: [UnsafeCell<u32>; 2],
}

// SAFETY: readers read the current version in a section; the writer writes the old one after a grace period. That
// this excludes them is what the models check.
unsafe impl Sync for Versions {}

impl Versions {
    fn new() -> Arc<Self> {
        Arc::new(Self { current: AtomicUsize::new(0), content: [UnsafeCell::new(1), UnsafeCell::new(1)] })
    }

    fn read(&self, host: Host) {
        let _section = host.rcu().read_lock();
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: see above.
        let value = self.content[current].with(|content| unsafe { *content });
        assert_eq!(value, 1, "a reader saw a version that was destroyed");
    }

    fn destroy(&self, version: usize) {
        // SAFETY: see above.
        self.content[version].with_mut(|content| unsafe { *content = 0 });
    }
}

/// The reader reads, passes a quiescent state, reads again, goes idle, wakes and reads again.
fn reader(host: Host, versions: &Versions) {
    versions.read(host);
    host.rcu().quiesce();
    versions.read(host);
    host.leave();
    host.enter(1);
    versions.read(host);
    host.leave();
}

fn synchronize(host: Host) {
    host.enter(0);
    let versions = Versions::new();
    // Online before the grace period begins, or not: both are explored.
    let other = {
        let versions = Arc::clone(&versions);
        thread::spawn(move || {
            host.enter(1);
            reader(host, &versions);
        })
    };
    versions.current.store(1, Ordering::Release);
    host.rcu().synchronize().unwrap();
    versions.destroy(0);
    other.join().unwrap();
    host.leave();
    assert_eq!(host.reports(), 0);
    host.rcu().validate().unwrap();
}

/// A callback with what it destroys.
#[repr(C)]
struct Destroy {
    head: Head,
    versions: Arc<Versions>,
    version: usize,
    ran: AtomicUsize,
}

impl Destroy {
    fn new(versions: &Arc<Versions>, version: usize) -> Arc<Self> {
        let versions = Arc::clone(versions);
        Arc::new(Self { head: Head::new(), versions, version, ran: AtomicUsize::new(0) })
    }

    /// # Safety
    ///
    /// `head` is that of a `Destroy` that is alive.
    unsafe fn run(head: NonNull<Head>) {
        // SAFETY: our contract, and the head is the first field.
        let this = unsafe { head.cast::<Destroy>().as_ref() };
        this.versions.destroy(this.version);
        assert_eq!(this.ran.fetch_add(1, Ordering::Relaxed), 0, "a callback ran twice");
    }

    fn head(self: &Arc<Self>) -> NonNull<Head> {
        NonNull::from(&**self).cast()
    }
}

/// A grace period is under way when the callback is queued: it must wait for the next.
fn callback_during_a_period(host: Host) {
    host.enter(0);
    let versions = Versions::new();
    let first = Arc::new(Head::new());
    let other = {
        let versions = Arc::clone(&versions);
        thread::spawn(move || {
            host.enter(1);
            versions.read(host);
            host.rcu().quiesce();
            versions.read(host);
            host.leave();
        })
    };
    unsafe fn nothing(_: NonNull<Head>) {}
    // SAFETY: the head lives until the end of the model.
    unsafe { host.rcu().call_hurry(NonNull::from(&*first), nothing) };
    versions.current.store(1, Ordering::Release);
    let destroy = Destroy::new(&versions, 0);
    // SAFETY: lives until the end of the model.
    unsafe { host.rcu().call(destroy.head(), Destroy::run) };
    host.rcu().advance();
    other.join().unwrap();
    host.rcu().barrier().unwrap();
    assert_eq!(destroy.ran.load(Ordering::Relaxed), 1);
    assert!(!first.is_queued());
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// An idle CPU gets an interrupt, whose handler reads.
fn interrupt_of_an_idle_cpu(host: Host) {
    host.enter(0);
    let versions = Versions::new();
    let other = {
        let versions = Arc::clone(&versions);
        thread::spawn(move || {
            host.enter(1);
            host.leave();
            // SAFETY: this thread is CPU 1, which is idle.
            let entry = unsafe { host.rcu().irq_enter(CpuId::new(1).unwrap()) };
            versions.read(host);
            // SAFETY: the handler is over.
            unsafe { host.rcu().irq_exit(entry) };
        })
    };
    versions.current.store(1, Ordering::Release);
    host.rcu().synchronize().unwrap();
    versions.destroy(0);
    other.join().unwrap();
    host.leave();
}

/// A CPU goes idle and stays so, before, during or after the begin of a grace period.
fn idle_cpu_delays_nobody(host: Host) {
    host.enter(0);
    let other = thread::spawn(move || {
        host.enter(1);
        host.leave();
    });
    host.rcu().synchronize().unwrap();
    other.join().unwrap();
    host.rcu().synchronize().unwrap();
    host.leave();
    assert_eq!(host.rcu().periods(), 2);
}

const SYNCHRONIZE: Model = Model { name: "rcu: synchronize", cpus: 2, preemptions: None, run: synchronize };
const CALLBACK: Model = Model {
    name: "rcu: callback during a period",
    cpus: 2,
    preemptions: None,
    run: callback_during_a_period,
};
const INTERRUPT: Model = Model {
    name: "rcu: interrupt of an idle CPU",
    cpus: 2,
    preemptions: None,
    run: interrupt_of_an_idle_cpu,
};
const IDLE: Model =
    Model { name: "rcu: an idle CPU", cpus: 2, preemptions: None, run: idle_cpu_delays_nobody };

tests! {
    s064_s065_no_reader_outlives_a_grace_period: SYNCHRONIZE;
    s067_a_callback_waits_for_the_next_period: CALLBACK;
    s066_waking_an_idle_cpu_misses_no_reader: INTERRUPT;
    s066_an_idle_cpu_delays_nobody: IDLE;
    mutant_relaxed_quiescent_load: SYNCHRONIZE catches RelaxedQuiescentLoad;
    mutant_relaxed_quiescent_store: SYNCHRONIZE catches RelaxedQuiescentStore;
    mutant_relaxed_scan: SYNCHRONIZE catches RelaxedScan;
    mutant_no_idle_fence: INTERRUPT catches NoIdleFence;
    mutant_no_start_fence: INTERRUPT catches NoStartFence;
    mutant_join_running: CALLBACK catches JoinRunning;
    mutant_wait_for_idle: IDLE catches WaitForIdle;
}
