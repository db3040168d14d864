//! Threads: several CPUs at once, CPU numbers that collide, and a validator among them.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

const THREADS: u64 = 4;
const STEPS: u64 = if cfg!(debug_assertions) { 30_000 } else { 300_000 };

/// Allocates and frees at random; some extents are passed on to be freed elsewhere.
fn worker(frames: &FrameAllocator<'_, HostLocks>, seed: u64, inbox: &mpsc::Receiver<Extent>, next: &mpsc::SyncSender<Extent>) {
    let mut random = Random::new(seed);
    let mut held: Vec<Extent> = Vec::new();
    for step in 0..STEPS {
        // Now and then the thread believes to be on another CPU.
        let cpu = VcpuId::new(if random.below(16) == 0 { random.below(THREADS) } else { seed % THREADS } as u32);
        let usage = [Use::Kernel, Use::Paged, Use::PageCache, Use::Special][random.below(4) as usize];
        let large = if random.below(8) == 0 { random.below(10) as u8 } else { 0 };
        match random.below(8) {
            0..4 => {
                let request = Request::new(usage, cpu).order(order(large)).owner(Owner::new(seed).unwrap());
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
                    frames.give_back(extent).unwrap();
                }
            }
            _ if !held.is_empty() => {
                let extent = held.swap_remove(random.below(held.len() as u64) as usize);
                let size = extent.order();
                let first = frames.detach(extent).unwrap();
                let extent = frames.attach(first, size).unwrap();
                frames.free(extent, Contents::Unknown, cpu).unwrap();
            }
            _ => {}
        }
    }
    for extent in held {
        frames.free(extent, Contents::Unknown, VcpuId::new(seed as u32)).unwrap();
    }
}

#[test]
fn nothing_is_lost_or_handed_out_twice_under_contention() {
    let mut memory = Memory::of_blocks(24, THREADS as usize);
    let frames = memory.build::<HostLocks>(&[], 7);
    let done = AtomicBool::new(false);
    let validated = AtomicU64::new(0);
    thread::scope(|scope| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::sync_channel(64)).unzip();
        let mut workers = Vec::new();
        for (i, inbox) in receivers.into_iter().enumerate() {
            let next = senders[(i + 1) % senders.len()].clone();
            let frames = &frames;
            workers.push(scope.spawn(move || {
                worker(frames, i as u64 + 1, &inbox, &next);
                inbox
            }));
        }
        let validator = scope.spawn(|| {
            while !done.load(Relaxed) {
                match frames.validate() {
                    Ok(()) => drop(validated.fetch_add(1, Relaxed)),
                    Err(Inconsistency::Busy) => {}
                    Err(wrong) => panic!("while threads run: {wrong}"),
                }
                thread::yield_now();
            }
        });
        let inboxes: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        drop(senders);
        for extent in inboxes.iter().flat_map(mpsc::Receiver::try_iter) {
            frames.free(extent, Contents::Unknown, CPU).unwrap();
        }
        done.store(true, Relaxed);
        validator.join().unwrap();
    });
    frames.validate().unwrap();
    frames.drain();
    while let Some(extent) = frames.withdraw_frame() {
        frames.give_back(extent).unwrap();
    }
    frames.validate().unwrap();
    let stats = frames.stats();
    assert_eq!(stats.free, stats.managed, "leaked");
    assert_eq!((stats.whole_blocks, stats.misuses), (24, 0));
    assert!(validated.load(Relaxed) > 0, "the validator never got in");
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
                        let won = frames.attach(first, order(1));
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
