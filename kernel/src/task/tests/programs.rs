//! Random programs: threads that do a bit of everything, in an order that a seed decides.

use super::*;

/// What the threads of one program share.
struct World {
    mutexes: Vec<Mutex<u64, Sim>>,
    semaphore: Semaphore<Sim>,
    tokens: AtomicU64,
    arrived: WaitQueue<Sim>,
    /// For each thread number, whether it runs right now.
    running: Vec<AtomicBool>,
    locked: AtomicU64,
    live: AtomicUsize,
}

const THREADS: usize = 64;

fn act(sim: Sim, world: &Arc<World>, depth: u32) {
    let scheduler = sim.scheduler();
    for _ in 0..6 {
        assert_single(sim, world);
        match sim.random(11) {
            0 => scheduler.yield_now(),
            1 => scheduler.sleep_for(sim.random(200_000)),
            2 => compute(sim, sim.random(40)),
            3 | 4 => {
                let at = sim.random(world.mutexes.len() as u64) as usize;
                let mut guard = world.mutexes[at].lock();
                let value = *guard;
                if sim.random(3) == 0 {
                    scheduler.sleep_for(sim.random(10_000));
                }
                sim.step();
                *guard = value + 1;
                world.locked.fetch_add(1, SeqCst);
            }
            5 => {
                world.semaphore.acquire();
                compute(sim, sim.random(10));
                world.semaphore.release();
            }
            6 => {
                world.tokens.fetch_add(1, SeqCst);
                world.arrived.wake_one();
                let deadline_ns = sim.now_ns() + sim.random(50_000);
                let one_less = |tokens: u64| tokens.checked_sub(1);
                let take = || world.tokens.try_update(SeqCst, SeqCst, one_less).is_ok();
                let _ = world.arrived.wait_until_deadline(deadline_ns, take);
            }
            7 => {
                let pin = Pin::new(sim);
                let cpu = pin.cpu();
                compute(sim, sim.random(10));
                assert_eq!(sim.current_cpu(), cpu);
            }
            8 => {
                let world = Arc::clone(world);
                let cpu = CpuId::new(sim.random(scheduler.online().count() as u64) as usize).unwrap();
                sim.interrupt(cpu, move || {
                    world.arrived.wake_one();
                });
            }
            _ if depth < 3 && world.live.load(SeqCst) < THREADS / 2 => {
                let inner = Arc::clone(world);
                world.live.fetch_add(1, SeqCst);
                let body = move || {
                    act(sim, &inner, depth + 1);
                    inner.live.fetch_sub(1, SeqCst);
                    depth
                };
                let thread = scheduler.spawn("child", body).unwrap();
                if sim.random(3) == 0 {
                    thread.detach();
                } else {
                    act(sim, world, depth + 2);
                    assert_eq!(thread.join(), depth);
                }
            }
            _ => {}
        }
    }
}

/// No thread runs twice at a time.
fn assert_single(sim: Sim, world: &World) {
    let index = sim.scheduler().current().index() as usize % THREADS;
    let pin = Pin::new(sim);
    assert!(!world.running[index].swap(true, SeqCst), "a thread runs on two CPUs");
    compute(sim, 3);
    world.running[index].store(false, SeqCst);
    drop(pin);
}

#[test]
fn random_programs_come_to_their_end() {
    let mut totals = CpuStats::default();
    for cpus in 1..=4 {
        for seed in 0..60 {
            let config = Config { interleave: 2 + seed % 9, ..Config::new(cpus, seed) };
            let outcome = run(config, move |sim| {
                let world = Arc::new(World {
                    mutexes: (0..3).map(|_| Mutex::new(sim, "shared", 0)).collect(),
                    semaphore: Semaphore::new(sim, 2),
                    tokens: AtomicU64::new(0),
                    arrived: WaitQueue::new(sim),
                    running: (0..THREADS).map(|_| AtomicBool::new(false)).collect(),
                    locked: AtomicU64::new(0),
                    live: AtomicUsize::new(0),
                });
                act(sim, &world, 0);
                act(sim, &world, 0);
                while world.live.load(SeqCst) > 0 {
                    sim.scheduler().sleep_for(100_000);
                }
                let counted: u64 = world.mutexes.iter().map(|mutex| *mutex.lock()).sum();
                assert_eq!(counted, world.locked.load(SeqCst), "an increment under a mutex was lost");
                assert_eq!((world.semaphore.permits(), world.arrived.waiters()), (2, 0));
            });
            for cpu in outcome.cpus {
                totals.switches += cpu.switches;
                totals.steals += cpu.steals;
                totals.gifts += cpu.gifts;
                totals.kicks += cpu.kicks;
            }
        }
    }
    // The runs have been where they were meant to go.
    assert!(totals.switches > 10_000 && totals.steals > 100 && totals.kicks > 100, "{totals:?}");
}

#[test]
fn one_seed_is_one_run() {
    let steps = |seed| {
        run(Config::new(3, seed), |sim| {
            let threads: Vec<_> = (0..6)
                .map(|_| {
                    let body = move || {
                        compute(sim, sim.random(100));
                        sim.scheduler().sleep_for(sim.random(100_000));
                    };
                    sim.scheduler().spawn("some", body).unwrap()
                })
                .collect();
            threads.into_iter().for_each(JoinHandle::join);
        })
        .steps
    };
    assert_eq!(steps(11), steps(11));
    assert_ne!(steps(11), steps(12));
}
