//! What the tests share: an object that logs its events, and CPUs to order about.

use percpu::host::{Host, Machine, OnCpu};
use percpu::{CpuId, Events, Inspection, Kind, OneShot, PercpuRef, Reusable, Start};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// What has happened to an object.
#[derive(Debug, Default)]
pub(crate) struct Log {
    released: AtomicUsize,
    confirmed: AtomicUsize,
    switched: AtomicUsize,
}

impl Log {
    pub(crate) fn released(&self) -> usize {
        self.released.load(SeqCst)
    }
    pub(crate) fn confirmed(&self) -> usize {
        self.confirmed.load(SeqCst)
    }
    pub(crate) fn switched(&self) -> usize {
        self.switched.load(SeqCst)
    }
}

/// The events of an object that logs them.
#[derive(Debug)]
pub(crate) struct Watch(pub(crate) Arc<Log>);

impl Events for Watch {
    fn release(&self) {
        self.0.released.fetch_add(1, SeqCst);
    }
    fn confirmed(&self) {
        assert_eq!(self.0.released(), 0, "confirmed after the release");
        self.0.confirmed.fetch_add(1, SeqCst);
    }
    fn switched(&self) {
        self.0.switched.fetch_add(1, SeqCst);
    }
}

pub(crate) fn cpu(number: usize) -> CpuId {
    CpuId::new(number).unwrap()
}

/// A machine, and this thread as its CPU 0.
pub(crate) fn machine(cpus: usize) -> (Host, OnCpu) {
    let host = Machine::new(cpus);
    (host, host.enter(cpu(0)))
}

/// Runs `work` on another CPU, while this one idles.
pub(crate) fn on<R: Send>(host: Host, number: usize, work: impl FnOnce() -> R + Send) -> R {
    host.idle(|| {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _cpu = host.enter(cpu(number));
                work()
            });
            thread.join().unwrap()
        })
    })
}

pub(crate) type Single = PercpuRef<Host, Watch, OneShot>;
pub(crate) type Many = PercpuRef<Host, Watch, Reusable>;

pub(crate) fn one_shot(host: Host) -> (Single, Arc<Log>) {
    let log = Arc::new(Log::default());
    (PercpuRef::one_shot(host.rcu(), "one-shot", Watch(Arc::clone(&log))).unwrap(), log)
}

pub(crate) fn reusable(host: Host, start: Start) -> (Many, Arc<Log>) {
    let log = Arc::new(Log::default());
    (PercpuRef::reusable(host.rcu(), "reusable", Watch(Arc::clone(&log)), start).unwrap(), log)
}

pub(crate) fn see<K: Kind>(count: &PercpuRef<Host, Watch, K>) -> Inspection {
    count.inspect().expect("not exited")
}

/// A CPU that sits in a read section until it is told to leave: as long, no grace period ends.
#[derive(Debug)]
pub(crate) struct Reader {
    leave: Sender<()>,
    thread: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn start(host: Host, number: usize) -> Self {
        let (leave, told): (Sender<()>, Receiver<()>) = channel();
        let (inside, is_inside) = channel();
        let thread = thread::spawn(move || {
            let _cpu = host.enter(cpu(number));
            let section = host.rcu().read_lock();
            inside.send(()).unwrap();
            told.recv().unwrap();
            drop(section);
        });
        is_inside.recv().unwrap();
        Self { leave, thread }
    }

    pub(crate) fn finish(self) {
        self.leave.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// A small generator of repeatable randomness (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound
    }
}
