//! The worker against emergencies on every CPU.

use super::guest::{BLOCK, Guest, S, booted, plain};
use ebb::balloon::{Budget, NoEvacuation, Outcome, Scratch};
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::units::{Frames, Order, VcpuId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const THREADS: u32 = 4;
/// Turns of the worker, at least; more until there was an emergency.
const TURNS: u64 = 60;

fn tag(extent: &Extent, index: u64) -> u64 {
    0x7A60_0000_0000 + extent.first().get() + index
}

fn corners(extent: &Extent) -> [u64; 2] {
    [0, extent.frames().get() - 1]
}

/// An application on one CPU: takes what it can get, checks that it keeps what was written, and gives it up again.
fn application(guest: &Guest<'_>, cpu: u32, done: &AtomicBool, brought: &AtomicU64) {
    let cpu = VcpuId::new(cpu);
    let mut held = Vec::new();
    let mut round = 0_u64;
    while !done.load(Ordering::Relaxed) {
        round += 1;
        let order =
            if (round + u64::from(cpu.get())).is_multiple_of(5) { Order::BLOCK } else { Order::FRAME };
        let want = if order == Order::BLOCK { 1 } else { 40 };
        for _ in 0..want {
            let request = Request::new(Use::Paged, cpu).order(order);
            let mut extent = guest.frames.alloc(request);
            for _ in 0..3 {
                if extent.is_err() {
                    let deflated = guest.balloon.deflate_now(order.frames());
                    brought.fetch_add(deflated.frames.get(), Ordering::Relaxed);
                    extent = guest.frames.alloc(request);
                }
            }
            let Ok(extent) = extent else { break };
            for index in corners(&extent) {
                guest.model.write(extent.first() + Frames::new(index), 1, tag(&extent, index));
            }
            held.push(extent);
        }
        let keep = if round.is_multiple_of(3) { 0 } else { held.len() / 2 };
        for extent in held.drain(keep..) {
            for index in corners(&extent) {
                let seen = guest.model.read(extent.first() + Frames::new(index), 1);
                assert_eq!(seen, tag(&extent, index), "{extent:?} lost what was written");
            }
            guest.frames.free(extent, Contents::Unknown, cpu).expect("our own");
        }
    }
    guest.give_up(held);
}

#[test]
fn emergencies_on_all_cpus_race_with_the_worker_and_nothing_is_lost() {
    booted(&plain(32), THREADS as usize, |guest| {
        let (done, brought) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let applications: Vec<_> = (0..THREADS)
                .map(|cpu| {
                    let (done, brought) = (&done, &brought);
                    scope.spawn(move || application(guest, cpu, done, brought))
                })
                .collect();
            let worker = scope.spawn(|| {
                let mut scratch = Scratch::new();
                let (mut now, mut turns) = (0, 0_u64);
                while turns < TURNS || (brought.load(Ordering::Relaxed) == 0 && turns < 50 * TURNS) {
                    turns += 1;
                    // Time flies, so that no emergency holds the worker for long.
                    now += S;
                    let out = if turns.is_multiple_of(7) { 2 * BLOCK } else { 14 * BLOCK + turns % 300 };
                    guest.balloon.set_target(guest.plan.base - Frames::new(out));
                    let budget = Budget { frames: Frames::new(4 * BLOCK), list: 2, ..Budget::DEFAULT };
                    let step = guest.balloon.step(now, &budget, &mut scratch, &NoEvacuation);
                    assert_ne!(step.outcome, Outcome::Busy, "there is one worker");
                    std::thread::yield_now();
                }
                done.store(true, Ordering::Relaxed);
            });
            for application in applications {
                application.join().expect("no application saw a lost frame");
            }
            worker.join().expect("the worker ends");
        });
        guest.check();
        assert!(brought.load(Ordering::Relaxed) > 0, "there were emergencies");
        guest.frames.drain(super::guest::CPU);
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 15, "every frame is back");
    });
}

#[test]
fn together_they_stay_below_the_ceiling() {
    booted(&plain(64), THREADS as usize, |guest| {
        let _ = guest.hold_out(24 * BLOCK);
        let ceiling = guest.plan.base - Frames::new(10 * BLOCK + 13);
        guest.balloon.set_ceiling(ceiling);
        let brought: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| guest.balloon.deflate_now(Frames::new(3 * BLOCK)).frames.get()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert!(guest.model.charged() <= ceiling);
        assert_eq!(guest.model.charged(), guest.plan.base - Frames::new(24 * BLOCK - brought));
        guest.check();
    });
}

#[test]
fn two_workers_take_turns() {
    booted(&plain(32), 2, |guest| {
        let busy = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for worker in 0..2_u64 {
                let busy = &busy;
                scope.spawn(move || {
                    let mut scratch = Scratch::new();
                    for turn in 0..100 {
                        let out = (turn * 7 + worker * 3) % 12 * BLOCK;
                        guest.balloon.set_target(guest.plan.base - Frames::new(out));
                        let step =
                            guest.balloon.step(turn * S, &Budget::DEFAULT, &mut scratch, &NoEvacuation);
                        busy.fetch_add(u64::from(step.outcome == Outcome::Busy), Ordering::Relaxed);
                    }
                });
            }
        });
        guest.check();
        assert_eq!(guest.balloon.status().steps + busy.load(Ordering::Relaxed), 200);
    });
}
