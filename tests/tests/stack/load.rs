//! The hypervisor's tmem given up and taken up again, and its pool destroyed, while other CPUs evict and fetch.

use super::application::{fill, holds};
use super::guest::plain;
use super::world::{TMEM, World};
use ebb::mm::paged::{Charge, FaultError};
use ebb::port::PoolKind;
use ebb::swap::pool::Settings;
use ebb::units::Frames;
use ebb_tests::model::{Config, Service};
use percpu::CpuId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// CPUs that work; the test itself is another.
const CPUS: u64 = 3;
/// Pages of each.
const PAGES: u64 = 24;
/// After this long a test that waits for a race gives up. On a host that is busy with other things, races are slow: 20 s
/// were too few once.
const BOUND: Duration = Duration::from_secs(100);

/// What the CPUs do, and have done.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    right: AtomicU64,
    lost: AtomicU64,
}

/// Has the others stop, also when the test fails.
struct Stop<'l>(&'l AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Load {
    /// Each CPU writes its own pages, evicts whatever there is, and reads what it wrote. A page that is lost is given up,
    /// if that may happen.
    fn run(&self, world: &'static World, may_lose: bool, meanwhile: impl FnOnce(&Self)) {
        let pages = CPUS * PAGES;
        let region = world.paged.reserve(Frames::new(pages), Charge::Whole).expect("there is memory");
        thread::scope(|scope| {
            let threads: Vec<_> = (1..=CPUS)
                .map(|cpu| {
                    let (load, region) = (self, &region);
                    scope.spawn(move || {
                        let _cpu = world.host.enter(CpuId::new(cpu as usize).expect("a CPU"));
                        let mut values = [0; PAGES as usize];
                        let mut round = cpu;
                        while !load.stop.load(Ordering::Acquire) {
                            round += CPUS + 1;
                            let own = (round % PAGES) as usize;
                            let page = (cpu - 1) * PAGES + own as u64;
                            let outcome = if round.is_multiple_of(3) {
                                // A third of them compress.
                                let value = if round.is_multiple_of(9) { 1 } else { 3 } + 5 * round;
                                let wrote = world.access(region, page, |words| fill(words, value));
                                wrote.map(|()| {
                                    values[own] = value;
                                    true
                                })
                            } else {
                                world.access(region, page, |words| holds(words, values[own]))
                            };
                            match outcome {
                                Ok(right) => {
                                    assert!(right, "page {page} is not what was written");
                                    load.right.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(FaultError::Lost(_, lost)) => {
                                    assert!(may_lose && lost.holder == "tmem", "page {page}: {lost}");
                                    load.lost.fetch_add(1, Ordering::Relaxed);
                                    world
                                        .paged
                                        .discard(region, page..page + 1)
                                        .expect("a page of the region");
                                    values[own] = 0;
                                }
                                Err(error) => unreachable!("page {page}: {error}"),
                            }
                            if round.is_multiple_of(5) {
                                let _ = world.paged.reclaim(Frames::new(8));
                            }
                            world.host.rcu().quiesce();
                        }
                    })
                })
                .collect();
            let stop = Stop(&self.stop);
            meanwhile(self);
            drop(stop);
            world.host.idle(|| threads.into_iter().for_each(|thread| thread.join().expect("no failure")));
        });
        world.paged.release(region);
    }

    /// Lets the others go on until so many accesses more were right.
    fn wait(&self, world: &World, more: u64, began: Instant) {
        let until = self.right.load(Ordering::Relaxed) + more;
        while self.right.load(Ordering::Relaxed) < until && began.elapsed() < BOUND {
            world.host.idle(thread::yield_now);
            world.host.rcu().quiesce();
        }
    }
}

fn world() -> (&'static World, percpu::host::OnCpu) {
    let config = Config { tmem: Service::Xen412, ..plain(16) };
    let (world, cpu) = World::new(&config, CPUS as usize + 1, 1);
    world.model.set_limit(world.base + Frames::new(300));
    world.compressed.pool().set(&Settings::new(Frames::new(1000)));
    (world, cpu)
}

#[test]
fn tmem_is_given_up_and_taken_up_while_others_evict_and_fetch() {
    let (world, _cpu) = world();
    let load = Load::default();
    let (mut lives, mut kept, mut used) = (0, 0, 0);
    load.run(world, false, |load| {
        let began = Instant::now();
        let mut open = world.pool.open(PoolKind::Persistent).expect("an honest hypervisor makes a pool");
        while (lives < 20 || used < 5) && began.elapsed() < BOUND {
            load.wait(world, 200, began);
            used += u64::from(world.front.pages_in(TMEM) > 0);
            open = match world.give_up(open) {
                Ok(()) => {
                    lives += 1;
                    assert_eq!(world.model.tmem_persistent_pages(), 0, "nothing goes where it was given up");
                    load.wait(world, 50, began);
                    world.pool.open(PoolKind::Persistent).expect("an honest hypervisor makes a pool")
                }
                Err(open) => {
                    kept += 1;
                    open
                }
            };
        }
        // Given up once more, it is closed; what it has at this moment must come home first.
        while let Err(still) = world.give_up(open) {
            assert!(began.elapsed() < 2 * BOUND, "pages that never come home");
            open = still;
        }
    });
    println!("{lives} lives, {kept} times it stayed, {:?} right", load.right);
    assert!(lives >= 20 && used >= 5, "{lives} lives, {used} of them with pages");
    world.is_clean();
}

#[test]
fn a_pool_that_is_destroyed_during_stores_loses_its_pages_by_name() {
    let (world, _cpu) = world();
    let load = Load::default();
    let mut lives = 0;
    load.run(world, true, |load| {
        let began = Instant::now();
        while (lives < 20 || load.lost.load(Ordering::Relaxed) < 20) && began.elapsed() < BOUND {
            let open = world.pool.open(PoolKind::Persistent).expect("an honest hypervisor makes a pool");
            load.wait(world, 200, began);
            assert_eq!(open.close(), Ok(()));
            assert_eq!(world.model.tmem_persistent_pages(), 0);
            lives += 1;
        }
    });
    println!("{lives} lives, {:?} right, {:?} lost", load.right, load.lost);
    assert!(lives >= 20 && load.lost.into_inner() >= 20);
    world.is_clean();
}
