//! What must not be done is reported, with names: most of it in debug builds only.

use super::*;

/// What a failing run says.
#[cfg(debug_assertions)]
fn failure(config: Config, main: impl FnOnce(Sim) + Send + 'static) -> std::string::String {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(config, main)));
    *caught.expect_err("the run must fail").downcast().unwrap()
}

/// A thread that takes `first`, waits until all have theirs, and takes `second`.
#[cfg(debug_assertions)]
fn take_two(
    sim: Sim,
    name: &str,
    first: &Arc<Mutex<(), Sim>>,
    second: &Arc<Mutex<(), Sim>>,
    have: &Arc<Semaphore<Sim>>,
    go: &Arc<Completion<Sim>>,
) -> JoinHandle<(), Sim> {
    let (first, second, have, go) = (Arc::clone(first), Arc::clone(second), Arc::clone(have), Arc::clone(go));
    let body = move || {
        let held = first.lock();
        have.release();
        go.wait();
        drop(second.lock());
        drop(held);
    };
    sim.scheduler().spawn(name, body).unwrap()
}

#[cfg(debug_assertions)]
#[test]
fn a_circle_of_three_is_named() {
    for cpus in 1..=3 {
        for seed in 0..5 {
            let text = failure(Config::new(cpus, seed), |sim| {
                let names = ["map", "heap", "log"];
                let locks = names.map(|name| Arc::new(Mutex::new(sim, name, ())));
                let (have, go) = (Arc::new(Semaphore::new(sim, 0)), Arc::new(Completion::new(sim)));
                let threads: Vec<_> = ["a", "b", "c"]
                    .iter()
                    .enumerate()
                    .map(|(i, name)| take_two(sim, name, &locks[i], &locks[(i + 1) % 3], &have, &go))
                    .collect();
                (0..3).for_each(|_| have.acquire());
                go.complete();
                threads.into_iter().for_each(JoinHandle::join);
            });
            assert!(text.contains("deadlock: "), "{text}");
            for part in [r#"mutex "map", held by"#, r#"mutex "heap", held by"#, r#"mutex "log", held by"#] {
                assert_eq!(text.matches(part).count(), 1, "{text}");
            }
            for thread in [r#""a""#, r#""b""#, r#""c""#] {
                assert_eq!(text.matches(thread).count(), 2, "{text}");
            }
        }
    }
}

#[test]
fn the_right_order_is_no_deadlock() {
    everywhere(20, |sim| {
        let locks = Arc::new([Mutex::new(sim, "first", ()), Mutex::new(sim, "second", ())]);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let locks = Arc::clone(&locks);
                let body = move || {
                    for _ in 0..8 {
                        let first = locks[0].lock();
                        compute(sim, sim.random(4));
                        let second = locks[1].lock();
                        compute(sim, sim.random(4));
                        if sim.random(2) == 0 {
                            drop(first);
                            drop(second);
                        }
                    }
                };
                sim.scheduler().spawn("orderly", body).unwrap()
            })
            .collect();
        threads.into_iter().for_each(JoinHandle::join);
    });
}

#[test]
#[should_panic(expected = r#""main" takes mutex "twice", which it holds"#)]
fn a_mutex_taken_twice_is_reported() {
    run(Config::new(1, 1), |sim| {
        let mutex = Mutex::new(sim, "twice", ());
        let _guard = mutex.lock();
        let _again = mutex.lock();
    });
}

#[cfg(debug_assertions)]
#[test]
fn joining_a_thread_that_waits_for_what_one_holds_is_reported() {
    let text = failure(Config::new(2, 2), |sim| {
        let mutex = Arc::new(Mutex::new(sim, "held", ()));
        let guard = mutex.lock();
        let other = Arc::clone(&mutex);
        sim.scheduler().spawn("child", move || drop(other.lock())).unwrap().join();
        drop(guard);
    });
    assert!(text.contains(r#""main" waits for the end of thread"#), "{text}");
    assert!(text.contains(r#""child" waits for mutex "held", held by thread"#), "{text}");
}

#[cfg(debug_assertions)]
#[test]
fn those_who_wait_know_the_new_holder() {
    let text = failure(Config::new(2, 3), |sim| {
        let scheduler = sim.scheduler();
        let handed = Arc::new(Mutex::new(sim, "handed over", ()));
        let other = Arc::new(Mutex::new(sim, "other", ()));
        let go = Arc::new(Completion::new(sim));
        let guard = handed.lock();
        let (first, second, signal) = (Arc::clone(&handed), Arc::clone(&other), Arc::clone(&go));
        let heir = scheduler.spawn("heir", move || {
            let _held = first.lock();
            signal.wait();
            drop(second.lock());
        });
        scheduler.sleep_for(20_000_000);
        let (first, second) = (Arc::clone(&handed), Arc::clone(&other));
        let waiter = scheduler.spawn("waiter", move || {
            let _held = second.lock();
            drop(first.lock());
        });
        scheduler.sleep_for(20_000_000);
        // The waiter waits for main now; after this, for the heir.
        drop(guard);
        scheduler.sleep_for(20_000_000);
        go.complete();
        heir.unwrap().join();
        waiter.unwrap().join();
    });
    assert!(text.contains(r#""heir" waits for mutex "other", held by thread"#), "{text}");
    assert!(text.contains(r#""waiter" waits for mutex "handed over", held by thread"#), "{text}");
    assert!(!text.contains("main"), "it holds nothing any more: {text}");
}

#[cfg(debug_assertions)]
#[test]
fn a_very_long_wait_is_reported() {
    let text = failure(Config::new(2, 2), |sim| {
        sim.scheduler().set_stuck_limit_ns(2_000_000_000);
        let mutex = Arc::new(Mutex::new(sim, "slow", ()));
        let other = Arc::clone(&mutex);
        let sleeper = sim.scheduler().spawn("sleeper", move || {
            let _guard = other.lock();
            sim.scheduler().sleep_for(5_000_000_000);
        });
        while mutex.holder().is_none() {
            sim.step();
        }
        drop(mutex.lock());
        sleeper.unwrap().join();
    });
    assert!(text.contains(r#""main" has waited 2 s for mutex "slow", held by thread"#), "{text}");
    assert!(text.contains(r#""sleeper""#), "{text}");
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "sleep_until may block, with preemption off or in a read section (1 deep)")]
fn pinned_code_does_not_sleep() {
    run(Config::new(1, 1), |sim| {
        let _pin = Pin::new(sim);
        sim.scheduler().sleep_for(1);
    });
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "Mutex::lock may block, with interrupts off or in an interrupt handler")]
fn interrupt_handlers_do_not_block() {
    run(Config::new(1, 1), |sim| {
        let mutex = Mutex::new(sim, "not for handlers", ());
        sim.interrupt(CpuId::BOOT, move || drop(mutex.lock()));
        compute(sim, 100);
    });
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "WaitQueue::wait_until may block, with interrupts off")]
fn code_with_interrupts_off_does_not_block() {
    run(Config::new(1, 1), |sim| {
        let _irq = IrqOff::new(sim);
        WaitQueue::new(sim).wait_until(|| true);
    });
}

#[test]
fn may_block_tells_threads_from_the_rest() {
    run(Config::new(1, 1), |sim| {
        let scheduler = sim.scheduler();
        assert!(scheduler.may_block());
        let pin = Pin::new(sim);
        assert!(!scheduler.may_block());
        drop(pin);
        let irq = IrqOff::new(sim);
        assert!(!scheduler.may_block());
        drop(irq);
        sim.interrupt(CpuId::BOOT, move || assert!(!scheduler.may_block()));
        compute(sim, 10);
        assert!(scheduler.may_block());
    });
}
