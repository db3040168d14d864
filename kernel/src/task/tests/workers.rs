//! Delayed work.

use super::*;

fn counting(sim: Sim, next: Next) -> (Worker<Sim>, Arc<AtomicU64>) {
    let runs = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&runs);
    let worker = Worker::spawn(sim, "worker", move || {
        compute(sim, sim.random(20));
        count.fetch_add(1, SeqCst);
        next
    });
    (worker.unwrap(), runs)
}

#[test]
fn a_worker_runs_after_its_delay_and_again() {
    everywhere(5, |sim| {
        let times = Arc::new(Mutex::new(sim, "times", Vec::new()));
        let log = Arc::clone(&times);
        let worker = Worker::spawn(sim, "periodic", move || {
            log.lock().push(sim.now_ns());
            Next::After(1_000_000)
        });
        let worker = worker.unwrap();
        let start_ns = sim.now_ns();
        worker.run_after(5_000_000);
        assert!(worker.is_pending());
        while worker.runs() < 4 {
            sim.scheduler().sleep_for(500_000);
        }
        worker.stop();
        let times = times.lock();
        assert!(times[0] >= start_ns + 5_000_000);
        assert!(times.windows(2).all(|pair| pair[1] >= pair[0] + 1_000_000));
    });
}

#[test]
fn nothing_runs_unless_it_is_asked_for() {
    everywhere(3, |sim| {
        let (worker, runs) = counting(sim, Next::Idle);
        sim.scheduler().sleep_for(10_000_000);
        assert_eq!((runs.load(SeqCst), worker.is_pending()), (0, false));
        worker.stop();
    });
}

#[test]
fn requests_before_a_run_are_one_run() {
    everywhere(10, |sim| {
        let (worker, runs) = counting(sim, Next::Idle);
        worker.run_after(50_000_000);
        for _ in 0..5 {
            worker.run_after(30_000_000);
        }
        sim.scheduler().sleep_for(20_000_000);
        assert_eq!(runs.load(SeqCst), 0);
        sim.scheduler().sleep_for(60_000_000);
        assert_eq!(runs.load(SeqCst), 1, "the later time was replaced, and the requests are one");
        worker.stop();
    });
}

#[test]
fn run_now_does_not_wait_for_the_delay() {
    everywhere(10, |sim| {
        let (worker, runs) = counting(sim, Next::Idle);
        worker.run_after(1_000_000_000_000);
        worker.run_now();
        sim.scheduler().sleep_for(50_000_000);
        assert_eq!((runs.load(SeqCst), worker.is_pending()), (1, false));
        // From an interrupt as well.
        let worker = Arc::new(worker);
        let asked = Arc::clone(&worker);
        sim.interrupt(CpuId::BOOT, move || asked.run_now());
        sim.scheduler().sleep_for(50_000_000);
        assert_eq!(runs.load(SeqCst), 2);
        Arc::into_inner(worker).unwrap().stop();
    });
}

#[test]
fn flush_waits_for_a_run_that_began_afterwards() {
    everywhere(15, |sim| {
        let input = Arc::new(AtomicU64::new(0));
        let output = Arc::new(AtomicU64::new(0));
        let (from, to) = (Arc::clone(&input), Arc::clone(&output));
        let worker = Worker::spawn(sim, "copier", move || {
            let value = from.load(SeqCst);
            compute(sim, sim.random(50));
            to.store(value, SeqCst);
            Next::After(sim.random(100_000))
        });
        let worker = worker.unwrap();
        for i in 1..=10 {
            compute(sim, sim.random(100));
            input.store(i, SeqCst);
            assert!(worker.flush());
            assert_eq!(output.load(SeqCst), i);
        }
        worker.stop();
    });
}

#[test]
fn after_cancel_nothing_runs() {
    everywhere(25, |sim| {
        let (worker, runs) = counting(sim, Next::After(20_000));
        worker.run_now();
        compute(sim, sim.random(200));
        worker.cancel();
        let before = runs.load(SeqCst);
        assert!(!worker.is_pending() && !worker.cancel());
        sim.scheduler().sleep_for(1_000_000);
        assert_eq!(runs.load(SeqCst), before);
        // It can be used again.
        worker.run_after(10_000);
        while runs.load(SeqCst) == before {
            sim.scheduler().yield_now();
        }
        worker.stop();
    });
}

#[test]
fn while_it_is_held_nothing_runs_and_what_is_due_follows() {
    everywhere(25, |sim| {
        let (worker, runs) = counting(sim, Next::Idle);
        let first = worker.hold();
        let second = worker.hold();
        worker.run_now();
        sim.scheduler().sleep_for(1_000_000);
        drop(first);
        worker.run_after(20_000);
        sim.scheduler().sleep_for(1_000_000);
        assert_eq!((runs.load(SeqCst), worker.is_pending()), (0, true));
        drop(second);
        while runs.load(SeqCst) == 0 {
            sim.scheduler().yield_now();
        }
        // Held while nothing is due, it misses nothing either.
        let held = worker.hold();
        sim.scheduler().sleep_for(1_000_000);
        drop(held);
        worker.run_now();
        while runs.load(SeqCst) == 1 {
            sim.scheduler().yield_now();
        }
        worker.stop();
    });
}

#[test]
fn who_holds_a_worker_finds_its_work_at_rest() {
    everywhere(25, |sim| {
        let inside = Arc::new(AtomicBool::new(false));
        let works = Arc::clone(&inside);
        let worker = Worker::spawn(sim, "restless", move || {
            works.store(true, SeqCst);
            compute(sim, sim.random(50));
            sim.scheduler().yield_now();
            works.store(false, SeqCst);
            Next::After(sim.random(2_000))
        });
        let worker = Arc::new(worker.unwrap());
        worker.run_now();
        let holder = || {
            let (worker, inside) = (Arc::clone(&worker), Arc::clone(&inside));
            let hold = move || {
                for _ in 0..5 {
                    compute(sim, sim.random(100));
                    let held = worker.hold();
                    assert!(!inside.load(SeqCst), "it works while it is held");
                    compute(sim, sim.random(50));
                    assert!(!inside.load(SeqCst), "it began while it was held");
                    drop(held);
                }
            };
            sim.scheduler().spawn("holder", hold).unwrap()
        };
        let holders = [holder(), holder()];
        holders.into_iter().for_each(|holder| holder.join());
        let runs = worker.runs();
        while worker.runs() == runs {
            sim.scheduler().yield_now();
        }
        while Arc::strong_count(&worker) > 1 {
            sim.scheduler().yield_now();
        }
        Arc::into_inner(worker).unwrap().stop();
    });
}

#[test]
fn what_is_asked_for_during_a_run_counts_more_than_what_the_run_wants() {
    everywhere(5, |sim| {
        let scheduler = sim.scheduler();
        let gates = Arc::new((Semaphore::new(sim, 0), Semaphore::new(sim, 0)));
        let inside = Arc::clone(&gates);
        let worker = Worker::spawn(sim, "slow", move || {
            inside.0.release();
            inside.1.acquire();
            Next::After(1_000)
        });
        let worker = worker.unwrap();
        worker.run_now();
        gates.0.acquire();
        worker.run_after(100_000_000);
        gates.1.release();
        scheduler.sleep_for(50_000_000);
        assert_eq!((worker.runs(), worker.is_pending()), (1, true));
        gates.1.release();
        scheduler.sleep_for(100_000_000);
        assert!(worker.runs() >= 2);
        gates.1.release();
        worker.stop();
    });
}

#[test]
fn a_flush_that_is_cancelled_says_so() {
    everywhere(25, |sim| {
        let (worker, runs) = counting(sim, Next::Idle);
        let worker = Arc::new(worker);
        let flusher = Arc::clone(&worker);
        let thread = sim.scheduler().spawn("flusher", move || flusher.flush()).unwrap();
        compute(sim, sim.random(100));
        worker.cancel();
        if thread.join() {
            assert!(runs.load(SeqCst) >= 1);
        } else {
            assert!(!worker.is_pending());
        }
        while Arc::strong_count(&worker) > 1 {
            sim.scheduler().yield_now();
        }
        Arc::into_inner(worker).unwrap().stop();
    });
}

#[test]
fn a_worker_that_is_dropped_ends() {
    // That its thread is gone is what the end of a run checks.
    everywhere(10, |sim| {
        let (worker, _) = counting(sim, Next::After(1_000));
        worker.run_now();
        compute(sim, sim.random(200));
        drop(worker);
    });
}

#[test]
#[should_panic(expected = "the function of a worker waits for itself: cancel")]
fn a_worker_does_not_wait_for_itself() {
    run(Config::new(1, 1), |sim| {
        let slot = Arc::new(Mutex::new(sim, "slot", None::<Worker<Sim>>));
        let own = Arc::clone(&slot);
        let worker = Worker::spawn(sim, "selfish", move || {
            if let Some(worker) = &*own.lock() {
                worker.cancel();
            }
            Next::Idle
        });
        let mut guard = slot.lock();
        *guard = Some(worker.unwrap());
        guard.as_ref().unwrap().run_now();
        drop(guard);
        sim.scheduler().sleep_for(1_000_000);
    });
}
