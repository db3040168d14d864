//! Wait queues, mutexes, condition variables, semaphores, completions.

use super::cpu::SLICE_NS;
use super::*;
use std::collections::VecDeque;

#[test]
fn every_item_that_is_announced_once_is_taken_once() {
    everywhere(15, |sim| {
        let scheduler = sim.scheduler();
        let items = Arc::new((AtomicU64::new(0), WaitQueue::new(sim)));
        let takers: Vec<_> = (0..5)
            .map(|_| {
                let items = Arc::clone(&items);
                let take = move || {
                    for _ in 0..8 {
                        items.1.wait_until(|| {
                            let one_less = |items: u64| items.checked_sub(1);
                            let took = items.0.try_update(SeqCst, SeqCst, one_less).is_ok();
                            // Still in the queue, with what was waited for: a wake-up now is for another.
                            compute(sim, sim.random(20));
                            took
                        });
                    }
                };
                scheduler.spawn("taker", take).unwrap()
            })
            .collect();
        for _ in 0..40 {
            compute(sim, sim.random(30));
            items.0.fetch_add(1, SeqCst);
            sim.step();
            items.1.wake_one();
        }
        takers.into_iter().for_each(JoinHandle::join);
        assert_eq!((items.0.load(SeqCst), items.1.waiters()), (0, 0));
    });
}

#[test]
fn a_wake_up_for_one_who_gave_up_goes_to_another() {
    everywhere(25, |sim| {
        let scheduler = sim.scheduler();
        let items = Arc::new((AtomicU64::new(0), WaitQueue::new(sim)));
        let take = |items: &AtomicU64| items.try_update(SeqCst, SeqCst, |items| items.checked_sub(1)).is_ok();
        let impatient: Vec<_> = (0..4)
            .map(|_| {
                let items = Arc::clone(&items);
                let body = move || {
                    let deadline_ns = sim.now_ns() + sim.random(40_000);
                    items.1.wait_until_deadline(deadline_ns, || take(&items.0))
                };
                scheduler.spawn("impatient", body).unwrap()
            })
            .collect();
        let patient = Arc::clone(&items);
        let patient = scheduler.spawn("patient", move || patient.1.wait_until(|| take(&patient.0))).unwrap();
        // One item for each, announced once; the impatient may leave theirs to the patient one.
        for _ in 0..5 {
            compute(sim, sim.random(10));
            items.0.fetch_add(1, SeqCst);
            items.1.wake_one();
        }
        patient.join();
        let taken = impatient.into_iter().map(JoinHandle::join).filter(|took| *took).count();
        assert_eq!(items.0.load(SeqCst) as usize + taken, 4);
    });
}

#[test]
fn a_wake_up_for_one_who_needs_it_no_more_goes_to_another() {
    everywhere(3, |sim| {
        let scheduler = sim.scheduler();
        let take = |items: &AtomicU64| items.try_update(SeqCst, SeqCst, |items| items.checked_sub(1)).is_ok();
        let items = Arc::new((AtomicU64::new(1), WaitQueue::new(sim), AtomicBool::new(false)));
        let (first, second) = (Arc::clone(&items), Arc::clone(&items));
        // Finds an item at once, and is slow to leave the queue.
        let content = scheduler.spawn("content", move || {
            first.1.wait_until(|| {
                let took = take(&first.0);
                while took && !first.2.load(SeqCst) {
                    sim.step();
                }
                took
            });
        });
        while items.0.load(SeqCst) > 0 {
            scheduler.yield_now();
        }
        let other = scheduler.spawn("other", move || second.1.wait_until(|| take(&second.0)));
        while items.1.waiters() < 2 {
            scheduler.yield_now();
        }
        items.0.fetch_add(1, SeqCst);
        assert!(items.1.wake_one(), "the first in the queue, who has got all it wants");
        items.2.store(true, SeqCst);
        content.unwrap().join();
        other.unwrap().join();
    });
}

#[test]
fn threads_are_woken_while_they_move() {
    for seed in 0..60 {
        // Slices of some forty steps: threads are preempted, and given away, while they stand in the queue.
        run(Config { step_ns: 200_000, interleave: 2, ..Config::new(3, seed) }, |sim| {
            let items = Arc::new((AtomicU64::new(0), WaitQueue::new(sim)));
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let items = Arc::clone(&items);
                    let body = move || {
                        for _ in 0..10 {
                            items.0.fetch_add(1, SeqCst);
                            items.1.wake_one();
                            items.1.wait_until(|| {
                                compute(sim, sim.random(8));
                                items.0.try_update(SeqCst, SeqCst, |items| items.checked_sub(1)).is_ok()
                            });
                        }
                    };
                    sim.scheduler().spawn("mover", body).unwrap()
                })
                .collect();
            threads.into_iter().for_each(JoinHandle::join);
            assert_eq!(items.0.load(SeqCst), 0);
        });
    }
}

#[test]
fn a_thread_that_moves_is_found() {
    for seed in 0..40 {
        run(Config { step_ns: 100_000, interleave: 2, ..Config::new(3, seed) }, |sim| {
            let scheduler = sim.scheduler();
            let movers: Vec<_> = (0..5)
                .map(|_| {
                    let body = move || {
                        for _ in 0..30 {
                            compute(sim, sim.random(20));
                            scheduler.sleep_for(sim.random(500_000));
                        }
                    };
                    scheduler.spawn("mover", body).unwrap()
                })
                .collect();
            // Wake-ups for no reason, at any moment, wherever the threads may be: each finds its thread's home.
            while !movers.iter().all(JoinHandle::is_finished) {
                let at = sim.random(movers.len() as u64) as usize;
                scheduler.wake(movers[at].id().index());
            }
            movers.into_iter().for_each(JoinHandle::join);
        });
    }
}

#[test]
fn a_wait_with_a_deadline_ends() {
    everywhere(5, |sim| {
        let queue = WaitQueue::new(sim);
        let deadline_ns = sim.now_ns() + 1_000_000;
        assert!(!queue.wait_until_deadline(deadline_ns, || false));
        assert!(sim.now_ns() >= deadline_ns);
        assert!(queue.wait_until_deadline(0, || true), "asked before the clock");
        assert_eq!(queue.waiters(), 0);
        assert!(!queue.wake_one());
    });
}

#[test]
fn waits_by_key_do_not_disturb_each_other() {
    everywhere(5, |sim| {
        let scheduler = sim.scheduler();
        let flags: Arc<Vec<AtomicBool>> = Arc::new((0..40).map(|_| AtomicBool::new(false)).collect());
        let waiters: Vec<_> = (0..40)
            .map(|key| {
                let flags = Arc::clone(&flags);
                let body = move || scheduler.wait_key(key << 4, || flags[key].load(SeqCst));
                scheduler.spawn("keyed", body).unwrap()
            })
            .collect();
        for key in (0..40).rev() {
            flags[key].store(true, SeqCst);
            scheduler.wake_key(key << 4);
        }
        waiters.into_iter().for_each(JoinHandle::join);
    });
}

#[test]
fn a_mutex_admits_one_at_a_time() {
    everywhere(10, |sim| {
        let counter = Arc::new(Mutex::new(sim, "counter", 0_u64));
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let counter = Arc::clone(&counter);
                let body = move || {
                    for _ in 0..15 {
                        let mut guard = counter.lock();
                        let before = *guard;
                        compute(sim, sim.random(5));
                        *guard = before + 1;
                        drop(guard);
                        compute(sim, sim.random(5));
                    }
                };
                sim.scheduler().spawn("adder", body).unwrap()
            })
            .collect();
        threads.into_iter().for_each(JoinHandle::join);
        assert_eq!(*counter.lock(), 90);
        assert_eq!(Arc::into_inner(counter).unwrap().into_inner(), 90);
    });
}

#[test]
fn a_mutex_is_handed_to_who_waits_longest() {
    for seed in 0..10 {
        run(Config::new(2, seed), |sim| {
            let scheduler = sim.scheduler();
            let order = Arc::new(Mutex::new(sim, "order", Vec::new()));
            let guard = order.lock();
            let mut threads = Vec::new();
            for i in 0..5 {
                let order = Arc::clone(&order);
                let queued = Arc::new(Completion::new(sim));
                let begun = Arc::clone(&queued);
                let body = move || {
                    begun.complete();
                    order.lock().push(i);
                };
                threads.push(scheduler.spawn("in line", body).unwrap());
                queued.wait();
                // Time enough to get from the announcement into the queue.
                scheduler.sleep_for(SLICE_NS);
            }
            drop(guard);
            threads.into_iter().for_each(JoinHandle::join);
            assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
        });
    }
}

#[test]
fn a_mutex_can_be_tried_and_waited_for_a_while() {
    everywhere(10, |sim| {
        let scheduler = sim.scheduler();
        let mutex = Arc::new(Mutex::new(sim, "busy", 0));
        let mut guard = mutex.try_lock().unwrap();
        assert_eq!(mutex.holder(), Some(scheduler.current()));
        let other = Arc::clone(&mutex);
        let thread = scheduler.spawn("impatient", move || {
            assert!(other.try_lock().is_none());
            assert!(other.lock_until(sim.now_ns() + 300_000).is_none());
            *other.lock_until(u64::MAX).unwrap() += 1;
        });
        scheduler.sleep_for(3_000_000);
        *guard += 1;
        drop(guard);
        thread.unwrap().join();
        assert_eq!(*mutex.lock(), 2);
        assert_eq!(mutex.holder(), None);
    });
}

#[test]
fn timed_and_patient_lockers_mix() {
    everywhere(10, |sim| {
        let mutex = Arc::new(Mutex::new(sim, "mixed", 0_u32));
        let threads: Vec<_> = (0..6_u64)
            .map(|i| {
                let mutex = Arc::clone(&mutex);
                let body = move || {
                    let mut taken = 0;
                    for _ in 0..10 {
                        let deadline_ns = sim.now_ns() + sim.random(30_000);
                        let guard =
                            if i % 2 == 0 { Some(mutex.lock()) } else { mutex.lock_until(deadline_ns) };
                        if let Some(mut guard) = guard {
                            *guard += 1;
                            taken += 1;
                            compute(sim, sim.random(10));
                        }
                    }
                    taken
                };
                sim.scheduler().spawn("locker", body).unwrap()
            })
            .collect();
        let taken: u32 = threads.into_iter().map(JoinHandle::join).sum();
        assert_eq!(*mutex.lock(), taken);
        assert!(taken >= 30);
    });
}

#[test]
fn a_bounded_queue_of_mutex_and_condition_variables_loses_nothing() {
    everywhere(10, |sim| {
        let scheduler = sim.scheduler();
        let queue = Mutex::new(sim, "queue", VecDeque::new());
        let shared = Arc::new((queue, Condvar::new(sim), Condvar::new(sim)));
        let producers = (0..3_u64).map(|p| {
            let shared = Arc::clone(&shared);
            let body = move || {
                for i in 0..12 {
                    let mut queue = shared.1.wait_while(shared.0.lock(), |queue| queue.len() == 2);
                    queue.push_back(p * 100 + i);
                    drop(queue);
                    shared.2.notify_one();
                }
                0
            };
            scheduler.spawn("producer", body).unwrap()
        });
        let producers: Vec<_> = producers.collect();
        let consumers = (0..4).map(|_| {
            let shared = Arc::clone(&shared);
            let body = move || {
                let mut sum = 0;
                for _ in 0..9 {
                    let mut queue = shared.2.wait_while(shared.0.lock(), |queue| queue.is_empty());
                    sum += queue.pop_front().unwrap();
                    drop(queue);
                    shared.1.notify_one();
                }
                sum
            };
            scheduler.spawn("consumer", body).unwrap()
        });
        let all: Vec<_> = consumers.collect::<Vec<_>>().into_iter().chain(producers).collect();
        assert_eq!(all.into_iter().map(JoinHandle::join).sum::<u64>(), 3 * 66 + 12 * 300);
    });
}

#[test]
fn a_condition_variable_times_out_and_notifies_all() {
    everywhere(5, |sim| {
        let scheduler = sim.scheduler();
        let shared = Arc::new((Mutex::new(sim, "flag", false), Condvar::new(sim)));
        let (guard, notified) = shared.1.wait_until(shared.0.lock(), sim.now_ns() + 100_000);
        assert!(!notified);
        drop(guard);
        assert!(!shared.1.notify_one());
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let shared = Arc::clone(&shared);
                let body = move || drop(shared.1.wait_while(shared.0.lock(), |flag| !*flag));
                scheduler.spawn("waiter", body).unwrap()
            })
            .collect();
        compute(sim, sim.random(300));
        *shared.0.lock() = true;
        shared.1.notify_all();
        waiters.into_iter().for_each(JoinHandle::join);
    });
}

#[test]
fn a_semaphore_admits_as_many_as_it_has_permits() {
    everywhere(10, |sim| {
        let state = Arc::new((Semaphore::new(sim, 2), AtomicUsize::new(0)));
        let threads: Vec<_> = (0..5)
            .map(|_| {
                let state = Arc::clone(&state);
                let body = move || {
                    for _ in 0..6 {
                        state.0.acquire();
                        assert!(state.1.fetch_add(1, SeqCst) < 2);
                        compute(sim, sim.random(10));
                        state.1.fetch_sub(1, SeqCst);
                        state.0.release();
                    }
                };
                sim.scheduler().spawn("guest", body).unwrap()
            })
            .collect();
        threads.into_iter().for_each(JoinHandle::join);
        assert_eq!(state.0.permits(), 2);
        assert!(state.0.acquire_until(0) && state.0.try_acquire());
        assert!(!state.0.try_acquire() && !state.0.acquire_until(sim.now_ns() + 1_000));
    });
}

#[test]
fn a_completion_is_for_ever() {
    everywhere(5, |sim| {
        let event = Completion::new(sim);
        assert!(!event.is_done() && !event.wait_until(sim.now_ns() + 1_000));
        event.complete();
        event.wait();
        assert!(event.is_done() && event.wait_until(0));
    });
}
