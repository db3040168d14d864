//! Statements 64 to 70: RCU. (64 to 67 also as loom models; 68 is measured in the guest.)

use crate::support::{Reader, cpu, machine, on};
use percpu::host::{Host, Machine};
use percpu::rcu::{Deferred, Head, Laziness};
use percpu::{Cpus, Misuse, Report};
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;

/// A boxed value that says when it is dropped.
struct Noted(u32, Arc<Mutex<Vec<u32>>>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(self.0);
    }
}

fn noted(number: u32, notes: &Arc<Mutex<Vec<u32>>>) -> Box<Deferred<Noted>> {
    Deferred::boxed(Noted(number, Arc::clone(notes)))
}

fn never_lazy(cpus: usize) -> Host {
    Machine::with_laziness(cpus, Laziness { limit_ns: u64::MAX, limit_count: usize::MAX })
}

#[test]
fn s064_no_callback_while_an_older_reader_is_inside() {
    let (host, _cpu) = machine(3);
    let notes = Arc::default();
    let reader = Reader::start(host, 1);
    host.rcu().drop_soon(noted(1, &notes));
    for _ in 0..10 {
        host.rcu().advance();
    }
    let stall = host.rcu().stall().expect("a grace period is running");
    assert_eq!((stall.period, stall.waiting_for), (1, 0b10), "and waits for CPU 1");
    // A younger reader does not matter.
    let younger = Reader::start(host, 2);
    assert!(notes.lock().unwrap().is_empty());
    reader.finish();
    assert_eq!(host.rcu().advance().callbacks, 1);
    assert_eq!(host.rcu().stall(), None);
    younger.finish();
}

#[test]
fn s065_nested_sections_and_handlers_are_one_section() {
    let (host, _cpu) = machine(1);
    let notes = Arc::default();
    let outer = host.rcu().read_lock();
    let inner = host.rcu().read_lock();
    host.rcu().drop_soon(noted(1, &notes));
    drop(inner);
    // Neither here nor in a handler is there a quiescent state: refused and reported.
    host.rcu().quiesce();
    host.interrupt(|| host.rcu().quiesce());
    host.rcu().advance();
    assert!(notes.lock().unwrap().is_empty());
    assert_eq!(
        host.take_reports(),
        [
            Report::QuiescentInReadSection,
            Report::QuiescentInReadSection,
            Report::BlockingForbidden { what: "Rcu::advance" }
        ]
    );
    drop(outer);
    host.rcu().barrier().unwrap();
    assert_eq!(*notes.lock().unwrap(), [1]);
}

#[test]
fn s066_an_idle_cpu_delays_nobody_and_its_handlers_are_readers() {
    let (host, _cpu) = machine(2);
    let (say, hear) = std::sync::mpsc::channel();
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let idler = thread::spawn(move || {
        let _cpu = host.enter(cpu(1));
        host.idle(|| {
            say.send(0).unwrap();
            told.recv().unwrap();
            host.interrupt(|| {
                let section = host.rcu().read_lock();
                say.send(1).unwrap();
                told.recv().unwrap();
                drop(section);
            });
            say.send(2).unwrap();
            told.recv().unwrap();
        });
    });
    assert_eq!(hear.recv(), Ok(0));
    host.rcu().synchronize().unwrap();
    assert_eq!(host.rcu().periods(), 1, "while the other CPU slept");
    tell.send(()).unwrap();
    assert_eq!(hear.recv(), Ok(1));
    let notes = Arc::default();
    host.rcu().drop_soon(noted(1, &notes));
    host.rcu().advance();
    assert_eq!(host.rcu().stall().map(|stall| stall.waiting_for), Some(0b10), "its handler is a reader");
    assert!(notes.lock().unwrap().is_empty());
    tell.send(()).unwrap();
    assert_eq!(hear.recv(), Ok(2));
    host.rcu().barrier().unwrap();
    assert_eq!(*notes.lock().unwrap(), [1], "and idle again behind it");
    tell.send(()).unwrap();
    idler.join().unwrap();
}

#[test]
fn s067_a_callback_queued_during_a_period_waits_for_the_next() {
    let (host, _cpu) = machine(2);
    let notes = Arc::default();
    let reader = Reader::start(host, 1);
    host.rcu().drop_soon(noted(1, &notes));
    host.rcu().drop_soon(noted(2, &notes)); // period 1 is running
    host.rcu().drop_later(noted(3, &notes));
    reader.finish();
    let blocker = Reader::start(host, 1); // began in period 1: saw it, and delays period 2
    host.rcu().advance();
    assert_eq!((host.rcu().periods(), &*notes.lock().unwrap()), (1, &vec![1]));
    blocker.finish();
    host.rcu().advance();
    assert_eq!((host.rcu().periods(), &*notes.lock().unwrap()), (2, &vec![1, 2, 3]));
}

#[test]
fn s068_hurry_is_bounded_in_steps_and_lazy_by_the_limits() {
    // On an idle machine: one `advance`.
    let host = never_lazy(2);
    let _cpu = host.enter(cpu(0));
    let notes = Arc::default();
    host.rcu().drop_soon(noted(1, &notes));
    assert_eq!(host.rcu().advance().callbacks, 1);
    // With a CPU that is in a section: it is kicked, and one `advance` after it has left.
    let reader = Reader::start(host, 1);
    host.rcu().drop_soon(noted(2, &notes));
    assert_eq!(host.kicks(cpu(1)), 1);
    reader.finish();
    assert_eq!(host.rcu().advance().callbacks, 1);
    // Lazy: never by itself here.
    host.rcu().drop_later(noted(3, &notes));
    assert_eq!(host.rcu().advance().callbacks, 0);
    host.rcu().barrier().unwrap();
}

#[test]
fn s068_lazy_is_bounded_by_time() {
    let host = Machine::with_laziness(1, Laziness { limit_ns: 1_000_000_000, limit_count: usize::MAX });
    let _cpu = host.enter(cpu(0));
    let notes = Arc::default();
    host.rcu().drop_later(noted(1, &notes));
    let first = host.rcu().advance();
    assert_eq!(first.callbacks, 0);
    let again = first.call_again_ns.expect("says when");
    let now = percpu::Platform::now_ns(host);
    assert!(again <= now + 1_000_000_000);
    host.skip_ns(again - now);
    assert_eq!(host.rcu().advance().callbacks, 1);
    assert_eq!(host.rcu().advance().call_again_ns, None);
}

#[test]
fn s068_lazy_is_bounded_by_number() {
    let host = Machine::with_laziness(1, Laziness { limit_ns: u64::MAX, limit_count: 100 });
    let _cpu = host.enter(cpu(0));
    let notes = Arc::default();
    for number in 0..99 {
        host.rcu().drop_later(noted(number, &notes));
    }
    assert_eq!(host.rcu().advance().callbacks, 0);
    host.rcu().drop_later(noted(99, &notes));
    assert_eq!(host.rcu().advance().callbacks, 100);
    assert_eq!(*notes.lock().unwrap(), (0..100).collect::<Vec<_>>(), "in order");
}

#[test]
fn s068_a_worker_bounds_hurry_without_anybody_asking() {
    let host = never_lazy(3);
    let _worker = host.start_worker(cpu(1));
    let _cpu = host.enter(cpu(0));
    for _ in 0..50 {
        // Blocks until the worker has ended the grace period; the wait has a bound of its own in the host.
        host.rcu().synchronize().unwrap();
    }
    assert!(host.rcu().periods() >= 50);
}

#[test]
fn s069_barrier_waits_for_everything_before_it_on_all_cpus() {
    let host = never_lazy(3);
    let _cpu = host.enter(cpu(0));
    let notes: Arc<Mutex<Vec<u32>>> = Arc::default();
    for other in [1, 2] {
        on(host, other, || {
            for number in 0..10 {
                host.rcu().drop_later(noted(100 * other as u32 + number, &notes));
            }
        });
    }
    host.rcu().drop_later(noted(1, &notes));
    host.rcu().drop_soon(noted(2, &notes));
    host.rcu().barrier().unwrap();
    assert_eq!(notes.lock().unwrap().len(), 22);
    for other in [1, 2] {
        let of_cpu: Vec<u32> =
            notes.lock().unwrap().iter().copied().filter(|note| note / 100 == other).collect();
        assert!(of_cpu.is_sorted(), "in the order of their calls");
    }
    host.rcu().validate().unwrap();
}

/// What a callback finds out about where it runs.
struct Asks(Host, Arc<Mutex<Vec<Result<(), Misuse>>>>, Option<Box<Deferred<Noted>>>);

impl Drop for Asks {
    fn drop(&mut self) {
        assert!(!self.0.may_block());
        let mut answers = self.1.lock().unwrap();
        answers.push(self.0.rcu().synchronize());
        answers.push(self.0.rcu().barrier());
        // But it may read, and queue another.
        drop(self.0.rcu().read_lock());
        self.0.rcu().drop_soon(self.2.take().expect("once"));
    }
}

#[test]
fn s070_a_callback_must_not_block_and_may_queue_more() {
    let (host, _cpu) = machine(2);
    let (answers, notes) = (Arc::default(), Arc::default());
    host.rcu().drop_soon(Deferred::boxed(Asks(host, Arc::clone(&answers), Some(noted(1, &notes)))));
    host.rcu().barrier().unwrap();
    assert_eq!(*answers.lock().unwrap(), [Err(Misuse::MayNotBlock); 2]);
    assert_eq!(
        host.take_reports(),
        ["Rcu::synchronize", "Rcu::barrier"].map(|what| Report::BlockingForbidden { what })
    );
    host.rcu().barrier().unwrap();
    assert_eq!(*notes.lock().unwrap(), [1]);
}

#[test]
fn blocking_in_a_section_or_with_a_lock_is_refused_and_reported() {
    let (host, _cpu) = machine(1);
    let lock = percpu::SpinLock::new("a lock", ());
    let guard = lock.lock(host);
    assert_eq!(host.rcu().synchronize(), Err(Misuse::MayNotBlock));
    drop(guard);
    let section = host.rcu().read_lock();
    assert_eq!(host.rcu().barrier(), Err(Misuse::MayNotBlock));
    percpu::Platform::assert_may_block(host, "a mutex");
    drop(section);
    let reports = host.take_reports();
    assert_eq!(reports.last(), Some(&Report::BlockingForbidden { what: "a mutex" }));
    assert_eq!(reports.len(), 3);
    assert_eq!(host.rcu().synchronize(), Ok(()));
}

#[test]
fn a_head_is_queued_once() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    unsafe fn ran(_: NonNull<Head>) {
        RAN.fetch_add(1, SeqCst);
    }
    let (host, _cpu) = machine(1);
    let head = Head::new();
    for _ in 0..2 {
        // SAFETY: the head outlives the barrier; the second call is a misuse, contained.
        unsafe { host.rcu().call(NonNull::from(&head), ran) };
    }
    assert_eq!(host.take_reports(), [Report::DoubleCall]);
    assert!(head.is_queued());
    host.rcu().barrier().unwrap();
    assert_eq!(RAN.load(SeqCst), 1);
    // Its owner's again.
    // SAFETY: as above.
    unsafe { host.rcu().call_hurry(NonNull::from(&head), ran) };
    host.rcu().barrier().unwrap();
    assert_eq!(RAN.load(SeqCst), 2);
}

#[test]
#[should_panic(expected = "lock one lock: cpu0 holds it")]
fn a_lock_taken_twice_is_named() {
    let (host, cpu) = machine(1);
    // The panic unwinds through guards; the CPU stays taken.
    let _cpu = std::mem::ManuallyDrop::new(cpu);
    let lock = percpu::SpinLock::new("one lock", ());
    let _first = lock.lock(host);
    let _second = lock.lock(host);
}
