//! Who runs when: preemption, fairness, balance, the timer.

use super::cpu::SLICE_NS;
use super::*;

#[test]
fn a_thread_that_never_yields_starves_nobody() {
    for cpus in 1..=3 {
        for seed in 0..5 {
            run(Config::new(cpus, seed), move |sim| {
                let stop = Arc::new(AtomicBool::new(false));
                let hogs: Vec<_> = (0..cpus * 2)
                    .map(|_| {
                        let stop = Arc::clone(&stop);
                        let body = move || {
                            while !stop.load(SeqCst) {
                                sim.step();
                            }
                        };
                        sim.scheduler().spawn("hog", body).unwrap()
                    })
                    .collect();
                // Main goes on although it gives the CPU away to threads that never give it back.
                for _ in 0..3 {
                    sim.scheduler().sleep_for(1_000_000);
                    sim.scheduler().yield_now();
                }
                stop.store(true, SeqCst);
                hogs.into_iter().for_each(JoinHandle::join);
            });
        }
    }
}

#[test]
fn threads_that_compute_get_equal_shares() {
    for (cpus, threads) in [(1, 3), (2, 4), (2, 3), (3, 7)] {
        for seed in 0..3 {
            run(Config { step_ns: 20_000, ..Config::new(cpus, seed) }, move |sim| {
                let end_ns = sim.now_ns() + 60 * SLICE_NS;
                let workers: Vec<_> = (0..threads)
                    .map(|_| {
                        let body = move || {
                            let mut done = 0_u64;
                            while sim.now_ns() < end_ns {
                                done += 1;
                            }
                            done
                        };
                        sim.scheduler().spawn("share", body).unwrap()
                    })
                    .collect();
                let shares: Vec<_> = workers.into_iter().map(JoinHandle::join).collect();
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                // With 3 threads on 2 CPUs one has a CPU to itself: twice the share of the others.
                let fair = if threads % cpus == 0 { 2 } else { 4 };
                assert!(*most <= least * fair, "{threads} threads on {cpus} CPUs: {shares:?}");
            });
        }
    }
}

#[test]
fn all_cpus_work_when_there_is_work() {
    for seed in 0..10 {
        let outcome = run(Config::new(4, seed), |sim| {
            let threads: Vec<_> =
                (0..8).map(|_| sim.scheduler().spawn("work", move || compute(sim, 3_000)).unwrap()).collect();
            threads.into_iter().for_each(JoinHandle::join);
        });
        let switches: Vec<_> = outcome.cpus.iter().map(|cpu| cpu.switches).collect();
        assert!(switches.iter().all(|switches| *switches > 0), "{switches:?}");
    }
}

#[test]
fn work_that_waits_behind_a_hog_is_taken_by_an_idle_cpu() {
    for seed in 0..20 {
        run(Config::new(2, seed), |sim| {
            let scheduler = sim.scheduler();
            let stop = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&stop);
            let hog = scheduler.spawn_on(CpuId::BOOT, "hog", move || {
                let pin = Pin::new(sim);
                while !flag.load(SeqCst) {
                    sim.step();
                }
                drop(pin);
            });
            // While the hog pins CPU 0 for good, everything else must get by on CPU 1.
            let others: Vec<_> = (0..4).map(|i| scheduler.spawn("other", move || i).unwrap()).collect();
            assert_eq!(others.into_iter().map(JoinHandle::join).sum::<i32>(), 6);
            stop.store(true, SeqCst);
            hog.unwrap().join();
        });
    }
}

#[test]
fn pinned_code_is_not_preempted_and_interrupts_are_made_up_for() {
    for seed in 0..10 {
        run(Config::new(1, seed), |sim| {
            let scheduler = sim.scheduler();
            let others = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&others);
            let stop = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&stop);
            let other = scheduler.spawn("other", move || {
                while !flag.load(SeqCst) {
                    count.fetch_add(1, SeqCst);
                    sim.step();
                }
            });
            scheduler.sleep_for(SLICE_NS);
            let pin = Pin::new(sim);
            let before = others.load(SeqCst);
            let until_ns = sim.now_ns() + 3 * SLICE_NS;
            while sim.now_ns() < until_ns {
                assert_eq!(others.load(SeqCst), before);
            }
            drop(pin);
            assert!(others.load(SeqCst) > before, "the switch that was put off happens at once");
            stop.store(true, SeqCst);
            other.unwrap().join();
        });
    }
}

#[test]
fn one_thread_or_none_is_not_interrupted_by_ticks() {
    let outcome = run(Config::new(2, 4), |sim| {
        let until_ns = sim.now_ns() + 100 * SLICE_NS;
        while sim.now_ns() < until_ns {
            sim.step();
        }
    });
    assert!(outcome.timers_set < 10, "{outcome:?}");
}

#[test]
fn threads_that_take_turns_do_not_set_the_timer_each_time() {
    let outcome = run(Config::new(1, 5), |sim| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let body = move || (0..1_000).for_each(|_| sim.scheduler().yield_now());
                sim.scheduler().spawn("turn", body).unwrap()
            })
            .collect();
        threads.into_iter().for_each(JoinHandle::join);
    });
    assert!(outcome.cpus[0].switches > 2_000);
    assert!(outcome.timers_set < 2 * outcome.now_ns / SLICE_NS, "{outcome:?}");
}

#[test]
fn a_kick_makes_a_busy_cpu_pass_a_quiescent_state() {
    let count = |kicks: u32| {
        run(Config::new(1, 9), move |sim| {
            for _ in 0..kicks {
                compute(sim, 50);
                sim.interrupt(CpuId::BOOT, move || sim.scheduler().kick(CpuId::BOOT));
            }
            compute(sim, 50 * (50 - u64::from(kicks)));
        })
        .quiescent
    };
    assert!(count(50) >= count(0) + 50);
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    for cpus in 1..=3 {
        for seed in 0..10 {
            run(Config::new(cpus, seed), |sim| {
                let start_ns = sim.now_ns() + 20 * SLICE_NS;
                let sleepers: Vec<_> = (0..20_u64)
                    .map(|i| {
                        let deadline_ns = start_ns + (i * 7 % 20) * 2 * SLICE_NS;
                        let body = move || {
                            sim.scheduler().sleep_until(deadline_ns);
                            (deadline_ns, sim.now_ns())
                        };
                        sim.scheduler().spawn("sleeper", body).unwrap()
                    })
                    .collect();
                for (deadline_ns, woken_ns) in sleepers.into_iter().map(JoinHandle::join) {
                    assert!(woken_ns >= deadline_ns);
                    assert!(woken_ns < deadline_ns + SLICE_NS, "{} late", woken_ns - deadline_ns);
                }
            });
        }
    }
}

#[test]
fn a_deadline_in_the_past_does_not_block() {
    run(Config::new(1, 1), |sim| {
        sim.scheduler().sleep_until(0);
        sim.scheduler().sleep_for(0);
    });
}

#[test]
fn interrupts_wake_threads() {
    everywhere(10, |sim| {
        let event = Arc::new(Completion::new(sim));
        let waiter = Arc::clone(&event);
        let thread = sim.scheduler().spawn("waits for a device", move || waiter.wait()).unwrap();
        let count = sim.scheduler().online().count() as u64;
        let cpu = CpuId::new(sim.random(count) as usize).unwrap();
        sim.interrupt(cpu, move || event.complete());
        thread.join();
    });
}

#[test]
fn a_cpu_that_wakes_a_thread_while_it_goes_idle_does_not_halt() {
    everywhere(10, |sim| {
        let queue = Arc::new((AtomicU64::new(0), WaitQueue::new(sim)));
        let idles = Arc::clone(&queue);
        sim.at_idle(move || {
            idles.0.fetch_add(1, SeqCst);
            idles.1.wake_one();
        });
        for _ in 0..20 {
            let before = queue.0.load(SeqCst);
            queue.1.wait_until(|| queue.0.load(SeqCst) > before);
        }
        sim.at_idle(|| {});
    });
}
