//! Threads: several CPUs at once, CPU numbers that collide or magazines that are one CPU's each, and a validator among
//! them.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

const THREADS: u64 = 4;
const ROUNDS: u64 = 8;
const STEPS: u64 = if cfg!(debug_assertions) { 10_000 } else { 100_000 };

/// One thread's state between rounds.
struct Worker {
    random: Random,
    cpu: u64,
    held: Vec<Extent>,
    inbox: mpsc::Receiver<Extent>,
    next: mpsc::SyncSender<Extent>,
}

/// Each thread is a CPU, and has its magazine to itself. Who waits for another looks some times.
enum OwnLocks {}

impl LockKind for OwnLocks {
    type Of<T: Send> = std::sync::Mutex<T>;
    type Gate = LocalGate;

    fn wait(done: &mut dyn FnMut() -> bool) -> bool {
        (0..20).any(|_| {
            thread::yield_now();
            done()
        })
    }
}

/// Allocates and frees at random; some extents are passed on to be freed elsewhere. Now and then a thread that `strays`
/// believes to be on another CPU.
fn work<L: LockKind>(frames: &FrameAllocator<'_, L>, worker: &mut Worker, strays: bool) {
    let Worker { random, cpu, held, inbox, next } = worker;
    let own = *cpu;
    let here = VcpuId::new(own as u32);
    for step in 0..STEPS {
        let strayed = strays && random.below(16) == 0;
        let cpu = if strayed { VcpuId::new(random.below(THREADS) as u32) } else { here };
        let usage = [Use::Kernel, Use::Paged, Use::PageCache, Use::Special][random.below(4) as usize];
        let large = if random.below(8) == 0 { random.below(10) as u8 } else { 0 };
        match random.below(8) {
            0..4 => {
                let request = Request::new(usage, cpu).order(order(large)).owner(Owner::new(own).unwrap());
                if let Ok(extent) = frames.alloc(request) {
                    held.push(extent);
                }
            }
            4 if !held.is_empty() => {
                let extent = held.swap_remove(random.below(held.len() as u64) as usize);
                if let Err(mpsc::TrySendError::Full(extent) | mpsc::TrySendError::Disconnected(extent)) =
                    next.try_send(extent)
                {
                    held.push(extent);
                }
            }
            5 => held.extend(inbox.try_recv()),
            6 if step % 64 == 0 => {
                if let Some(extent) = frames.take_frame_for_balloon(Contents::Unknown) {
                    frames.deposit(frames.mark_ballooned(extent).unwrap()).unwrap();
                }
                if let Some(extent) = frames.withdraw_frame() {
                    frames.take_back(extent).unwrap();
                }
            }
            _ if !held.is_empty() => {
                let extent = held.swap_remove(random.below(held.len() as u64) as usize);
                let size = extent.order();
                let first = frames.detach(extent).unwrap();
                let extent = frames.take_up(first, size).unwrap();
                frames.free(extent, Contents::Unknown, cpu).unwrap();
            }
            _ => {}
        }
        // As in an interrupt, and now and then asleep.
        frames.answer(here);
        if step % 512 == 0 {
            frames.park(here);
            thread::yield_now();
        }
    }
    frames.park(here);
}

#[test]
fn nothing_is_lost_or_handed_out_twice_under_contention() {
    let mut memory = Memory::of_blocks(24, THREADS as usize);
    under_contention(&memory.build::<HostLocks>(&[], 7), true);
}

#[test]
fn nothing_is_lost_or_handed_out_twice_where_each_cpu_has_its_magazine() {
    let Memory { ranges, mut entries, mut blocks, .. } = Memory::of_blocks(24, 0);
    // The first is the validator's.
    let mut magazines: Vec<_> = (0..=THREADS).map(|_| Magazine::new()).collect();
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut magazines };
    let config = Config { memory: &ranges, reserved: &[], id: 7 };
    under_contention(&FrameAllocator::<OwnLocks>::new(config, metadata).unwrap(), false);
}

/// Threads work, while another validates; with their hands full and at the end, the books are exact.
fn under_contention<L: LockKind>(frames: &FrameAllocator<'_, L>, strays: bool) {
    let first_cpu = u64::from(!strays);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::sync_channel(64)).unzip();
    let mut workers: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(i, inbox)| {
            let next = senders[(i + 1) % senders.len()].clone();
            Worker {
                random: Random::new(i as u64 + 1),
                cpu: i as u64 + first_cpu,
                held: Vec::new(),
                inbox,
                next,
            }
        })
        .collect();
    for round in 0..ROUNDS {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Validating while the others work: a magazine may be in use, but nothing may be wrong.
            let validator = scope.spawn(|| {
                while !done.load(Relaxed) {
                    match frames.validate() {
                        Ok(()) | Err(Inconsistency::Busy) => thread::yield_now(),
                        Err(wrong) => panic!("while threads run: {wrong}"),
                    }
                }
            });
            let working: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || work(frames, worker, strays))).collect();
            let finished: Vec<_> = working.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Relaxed);
            validator.join().unwrap();
            finished.into_iter().for_each(Result::unwrap);
        });
        frames.validate().unwrap();
        let queued: Vec<_> = workers.iter().flat_map(|worker| worker.inbox.try_iter()).collect();
        let held: u64 = workers.iter().flat_map(|w| &w.held).chain(&queued).map(|e| e.frames().get()).sum();
        let stats = frames.stats();
        assert_eq!((stats.pinned + stats.movable).get(), held, "round {round}");
        workers[0].held.extend(queued);
    }
    for extent in workers.into_iter().flat_map(|worker| worker.held) {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    frames.drain(CPU);
    while let Some(extent) = frames.withdraw_frame() {
        frames.take_back(extent).unwrap();
    }
    frames.validate().unwrap();
    let stats = frames.stats();
    assert_eq!(stats.free, stats.managed, "leaked");
    assert_eq!((stats.whole_blocks, stats.misuses), (24, 0));
}

#[test]
fn of_many_that_attach_the_same_number_one_wins() {
    let mut memory = Memory::of_blocks(1, 0);
    let frames = memory.build::<HostLocks>(&[], 7);
    for _ in 0..200 {
        let first = frames.detach(frames.alloc(kernel().order(order(1))).unwrap()).unwrap();
        let wins: usize = thread::scope(|scope| {
            let racers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let won = frames.take_up(first, order(1));
                        won.is_ok_and(|extent| frames.free(extent, Contents::Unknown, CPU).is_ok())
                    })
                })
                .collect();
            racers.into_iter().map(|racer| usize::from(racer.join().unwrap())).sum()
        });
        assert_eq!(wins, 1);
    }
    frames.validate().unwrap();
    assert_eq!(frames.stats().whole_blocks, 1);
}
