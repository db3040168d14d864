//! Creation, identity, end.

use super::*;

#[test]
fn a_machine_without_work_comes_to_rest() {
    everywhere(3, |_| {});
}

#[test]
fn threads_answer_when_they_are_joined() {
    everywhere(10, |sim| {
        let threads: Vec<_> = (0..10_u64)
            .map(|i| {
                let body = move || {
                    compute(sim, i * 3);
                    i * i
                };
                sim.scheduler().spawn("square", body).unwrap()
            })
            .collect();
        let answers: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        assert_eq!(answers, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
    });
}

#[test]
fn results_of_any_type_and_size_arrive() {
    run(Config::new(2, 7), |sim| {
        let scheduler = sim.scheduler();
        scheduler.spawn("nothing", || ()).unwrap().join();
        assert_eq!(scheduler.spawn("large", || [7_u64; 100]).unwrap().join(), [7; 100]);
        assert_eq!(scheduler.spawn("owned", || Vec::from([1, 2])).unwrap().join(), [1, 2]);
    });
}

#[test]
fn ten_thousand_threads_one_after_the_other() {
    let outcome = run(Config::new(2, 1), |sim| {
        for i in 0..10_000_u32 {
            assert_eq!(sim.scheduler().spawn("one of many", move || i).unwrap().join(), i);
        }
        assert!(sim.scheduler().census().threads <= 4, "blocks are used again");
    });
    assert!(outcome.stacks <= 6);
}

#[test]
fn ten_thousand_threads_at_a_time() {
    let config = Config { steps: u64::MAX, ..Config::new(2, 1) };
    let outcome = run(config, |sim| {
        let sum = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..10_000_u64)
            .map(|i| {
                let sum = Arc::clone(&sum);
                sim.scheduler().spawn("one of many", move || sum.fetch_add(i, SeqCst)).unwrap()
            })
            .collect();
        threads.into_iter().for_each(|thread| {
            thread.join();
        });
        assert_eq!(sum.load(SeqCst), 49_995_000);
    });
    assert!(outcome.stacks <= 6, "the stacks of ended threads are freed");
}

#[test]
fn detached_threads_leave_nothing_behind() {
    // That nothing is left is what the end of a run checks.
    everywhere(5, |sim| {
        let done = Arc::new(AtomicUsize::new(0));
        for i in 0..20 {
            let count = Arc::clone(&done);
            let body = move || {
                compute(sim, i);
                count.fetch_add(1, SeqCst);
                Vec::from([i])
            };
            let thread = sim.scheduler().spawn("detached", body).unwrap();
            if i % 2 == 0 {
                // Some of them have ended by now, others not.
                compute(sim, 40);
            }
            thread.detach();
        }
        while done.load(SeqCst) < 20 {
            sim.scheduler().yield_now();
        }
    });
}

#[test]
fn the_result_of_a_detached_thread_is_dropped() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    everywhere(10, |sim| {
        let drops = Arc::new(AtomicUsize::new(0));
        for wait in [0, 100] {
            let result = Dropped(Arc::clone(&drops));
            let thread = sim.scheduler().spawn("generous", move || result).unwrap();
            compute(sim, wait);
            drop(thread);
        }
        while drops.load(SeqCst) < 2 {
            sim.scheduler().yield_now();
        }
    });
}

#[test]
fn a_thread_knows_who_it_is_and_numbers_are_not_used_twice() {
    run(Config::new(2, 3), |sim| {
        let scheduler = sim.scheduler();
        let mut seen = Vec::new();
        for _ in 0..5 {
            let thread = scheduler.spawn("who", move || scheduler.current()).unwrap();
            let id = thread.id();
            assert_eq!(scheduler.name(id).unwrap().as_str(), "who");
            assert_eq!(thread.join(), id);
            assert!(!seen.contains(&id));
            seen.push(id);
            while scheduler.census().threads > 3 {
                scheduler.yield_now();
            }
            assert_eq!(scheduler.name(id), None, "it has ended");
        }
        assert!(seen.iter().any(|id| id.generation() > 1), "the block was used again");
    });
}

#[test]
fn no_stack_is_an_error_and_not_the_end() {
    run(Config { stacks: 3, spare_stacks: 0, ..Config::new(2, 5) }, |sim| {
        let scheduler = sim.scheduler();
        let gate = Arc::new(Semaphore::new(sim, 0));
        let wait = || {
            let gate = Arc::clone(&gate);
            move || gate.acquire()
        };
        let threads = [scheduler.spawn("one", wait()).unwrap(), scheduler.spawn("two", wait()).unwrap()];
        assert_eq!(scheduler.spawn("three", wait()).unwrap_err(), SpawnError::NoStack);
        assert_eq!(Arc::strong_count(&gate), 3, "the function that did not run has been dropped");
        gate.release();
        gate.release();
        threads.into_iter().for_each(JoinHandle::join);
        scheduler.spawn("four", || ()).unwrap().join();
    });
}

#[test]
fn a_thread_bound_to_a_cpu_runs_only_there() {
    for seed in 0..10 {
        run(Config::new(3, seed), |sim| {
            let scheduler = sim.scheduler();
            let threads: Vec<_> = (0..9)
                .map(|i| {
                    let cpu = CpuId::new(i % 3).unwrap();
                    let body = move || {
                        for _ in 0..20 {
                            compute(sim, 5);
                            let pin = Pin::new(sim);
                            assert_eq!(pin.cpu(), cpu);
                            drop(pin);
                            scheduler.yield_now();
                        }
                    };
                    scheduler.spawn_on(cpu, "bound", body).unwrap()
                })
                .collect();
            threads.into_iter().for_each(JoinHandle::join);
        });
    }
}

#[test]
fn a_cpu_that_does_not_exist_runs_nothing() {
    run(Config::new(2, 1), |sim| {
        let cpu = CpuId::new(2).unwrap();
        let refused = sim.scheduler().spawn_on(cpu, "nowhere", || ()).unwrap_err();
        assert_eq!(refused, SpawnError::Offline(cpu));
    });
}

#[test]
fn a_stack_overflow_is_named() {
    run(Config::new(1, 1), |sim| {
        let scheduler = sim.scheduler();
        let thread = scheduler.spawn("deep", move || {
            // The simulated stacks are numbered from 1; the main thread has the first.
            let pin = Pin::new(sim);
            assert_eq!(scheduler.overflowed(0x1000), None, "another's guard page");
            let (id, name) = scheduler.overflowed(0x2000).unwrap();
            drop(pin);
            assert_eq!((id, name.as_str()), (scheduler.current(), "deep"));
        });
        thread.unwrap().join();
    });
}

#[test]
fn stacks_that_are_kept_can_be_trimmed() {
    let outcome = run(Config { spare_stacks: 8, ..Config::new(2, 1) }, |sim| {
        let scheduler = sim.scheduler();
        let gate = Arc::new(Completion::new(sim));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let gate = Arc::clone(&gate);
                scheduler.spawn("brief", move || gate.wait()).unwrap()
            })
            .collect();
        gate.complete();
        threads.into_iter().for_each(JoinHandle::join);
        while scheduler.census().threads > 3 {
            scheduler.yield_now();
        }
        assert_eq!(scheduler.census().spare_stacks, 8);
        scheduler.trim(2);
        assert_eq!(scheduler.census().spare_stacks, 2);
        scheduler.trim(0);
        assert_eq!(scheduler.census().spare_stacks, 0);
    });
    assert_eq!(outcome.stacks, 1, "that of the main thread");
}

#[test]
#[should_panic(expected = "1 threads are left behind")]
fn a_thread_that_waits_for_ever_fails_the_run() {
    run(Config::new(1, 1), |sim| {
        let never = Semaphore::new(sim, 0);
        sim.scheduler().spawn("forgotten", move || never.acquire()).unwrap().detach();
    });
}
