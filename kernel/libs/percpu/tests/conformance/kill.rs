//! Statements 27 to 38: kill and release. (30, 31 and 37 also as loom models.)

use crate::support::{Log, Random, Reader, Watch, cpu, machine, on, one_shot, reusable, see};
use percpu::host::Host;
use percpu::{Cpus, Events, Misuse, OneShot, PercpuRef, Start};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Arc, Barrier};
use std::thread;

#[test]
fn s027_a_kill_without_references_releases_once_after_a_grace_period() {
    let (host, _cpu) = machine(2);
    let (count, log) = one_shot(host);
    let reader = Reader::start(host, 1);
    let dying = count.owner().unwrap().kill();
    for _ in 0..3 {
        host.rcu().advance();
    }
    assert_eq!(log.released(), 0, "a reader is still there");
    assert!(!dying.is_zero());
    reader.finish();
    host.rcu().barrier().unwrap();
    assert_eq!(log.released(), 1);
    assert!(dying.is_zero());
    assert_eq!(dying.wait_zero(), Ok(()));
    assert_eq!(host.rcu().periods(), 1);
}

#[test]
fn s028_s038_an_atomic_count_is_released_inside_kill_without_a_grace_period() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Atomic);
    let reader = Reader::start(host, 1);
    let dying = count.owner().unwrap().kill();
    assert_eq!(log.released(), 1, "although a reader is there: no grace period is implied");
    assert!(dying.is_zero());
    assert_eq!(host.rcu().periods(), 0);
    reader.finish();
}

#[test]
fn s029_the_last_of_the_outstanding_puts_releases() {
    for outstanding in [1_u64, 2, 17] {
        let (host, _cpu) = machine(3);
        let (count, log) = one_shot(host);
        let owner = count.owner().unwrap();
        let mut held: Vec<_> = (0..outstanding).map(|_| owner.get()).collect();
        let dying = owner.kill();
        if outstanding == 2 {
            // Before the fold as well as after.
            on(host, 1, || held.pop());
        }
        host.rcu().barrier().unwrap();
        while let Some(reference) = held.pop() {
            assert_eq!(log.released(), 0);
            on(host, 2, || drop(reference));
        }
        assert_eq!(log.released(), 1);
        assert!(dying.is_zero());
    }
}

#[test]
fn s030_no_release_before_all_words_are_folded() {
    // Example 1 of the bias: the words owe 2, and the shared count is put down meanwhile.
    let (host, mut this) = machine(3);
    let (count, log) = one_shot(host);
    let owner = count.owner().unwrap();
    let mut held: Vec<_> = (0..5).map(|_| owner.get()).collect();
    this.move_to(cpu(1));
    held.truncate(2);
    this.move_to(cpu(0));
    let reader = Reader::start(host, 2);
    let _dying = owner.kill();
    held.clear();
    assert_eq!(log.released(), 0, "the shared count alone has passed zero");
    host.rcu().advance();
    assert_eq!(log.released(), 0);
    reader.finish();
    host.rcu().barrier().unwrap();
    assert_eq!(log.released(), 1);
    assert!(host.take_reports().is_empty());
}

/// Looks at its own count, by an address that is set when there is one.
struct Looks(Arc<AtomicPtr<PercpuRef<Host, Looks>>>, Arc<Log>, Host);

impl Events for Looks {
    fn release(&self) {
        // SAFETY: the test keeps the count, and has set its address.
        let count = unsafe { &*self.0.load(SeqCst) };
        // Takes the lock: if it were held, this would be reported as a deadlock.
        assert_eq!(count.inspect().expect("not exited").references, 0);
        assert!(!self.2.may_block(), "a release must not block, and is told so");
        Watch(Arc::clone(&self.1)).release();
    }
}

#[test]
fn s032_release_runs_outside_the_lock() {
    let (host, _cpu) = machine(2);
    for keep_one in [false, true] {
        let (address, log) = (Arc::new(AtomicPtr::default()), Arc::new(Log::default()));
        let events = Looks(Arc::clone(&address), Arc::clone(&log), host);
        let count = Box::new(PercpuRef::one_shot(host.rcu(), "looks", events).unwrap());
        address.store(std::ptr::from_ref(&*count).cast_mut(), SeqCst);
        let owner = count.owner().unwrap();
        // Released by the fold, or by a put.
        let kept = keep_one.then(|| owner.get());
        let _dying = owner.kill();
        host.rcu().barrier().unwrap();
        drop(kept);
        assert_eq!(log.released(), 1);
    }
    assert!(host.take_reports().is_empty());
}

/// An object with its count inside, which the release frees.
struct Object {
    count: PercpuRef<Host, Frees>,
    payload: Vec<u64>,
}

struct Frees(Arc<AtomicPtr<Object>>, Arc<AtomicUsize>);

impl Events for Frees {
    fn release(&self) {
        // SAFETY: a leaked box, whose last reference is gone; taken once.
        let mut object = unsafe { Box::from_raw(self.0.swap(std::ptr::null_mut(), SeqCst)) };
        assert_eq!(object.payload, [1, 2, 3]);
        assert_eq!(object.count.exit(), Err(Misuse::Releasing), "an exit is refused here, a drop is not");
        drop(object);
        self.1.fetch_add(1, SeqCst);
    }
}

#[test]
fn s033_release_may_free_the_embedding_object() {
    let (host, _cpu) = machine(2);
    for keep_one in [false, true] {
        let (address, freed) = (Arc::new(AtomicPtr::default()), Arc::new(AtomicUsize::new(0)));
        let events = Frees(Arc::clone(&address), Arc::clone(&freed));
        let count = PercpuRef::one_shot(host.rcu(), "embedded", events).unwrap();
        let object = Box::into_raw(Box::new(Object { count, payload: vec![1, 2, 3] }));
        address.store(object, SeqCst);
        // SAFETY: freed by the release, after which nothing below uses it.
        let count: &'static PercpuRef<_, _> = unsafe { &(*object).count };
        let owner = count.owner().unwrap();
        if keep_one {
            owner.get().into_raw();
        }
        let dying = owner.kill();
        // It would look at the count when it is dropped.
        std::mem::forget(dying);
        host.rcu().barrier().unwrap();
        if keep_one {
            assert_eq!(freed.load(SeqCst), 0);
            // SAFETY: the reference from above.
            unsafe { PercpuRef::put_raw(count, 1) };
        }
        assert_eq!(freed.load(SeqCst), 1);
        assert_eq!(Arc::strong_count(&freed), 1, "the block, and the events in it, are freed too");
        assert_eq!(host.words_in_use(), 0);
    }
    assert!(host.take_reports().is_empty());
}

#[test]
fn s034_the_confirmation_comes_once_before_the_release_with_a_valid_count() {
    struct Confirms(Arc<AtomicPtr<PercpuRef<Host, Confirms>>>, Arc<Log>);
    impl Events for Confirms {
        fn release(&self) {
            Watch(Arc::clone(&self.1)).release();
        }
        fn confirmed(&self) {
            // SAFETY: the test keeps the count, and has set its address.
            let count = unsafe { &*self.0.load(SeqCst) };
            assert!(count.is_dying() && !count.is_zero());
            assert!(count.tryget().is_some(), "the count is still valid");
            assert!(count.tryget_live().is_none());
            Watch(Arc::clone(&self.1)).confirmed();
        }
    }
    let (host, _cpu) = machine(2);
    let (address, log) = (Arc::new(AtomicPtr::default()), Arc::new(Log::default()));
    let events = Confirms(Arc::clone(&address), Arc::clone(&log));
    let count = Box::new(PercpuRef::one_shot(host.rcu(), "confirms", events).unwrap());
    address.store(std::ptr::from_ref(&*count).cast_mut(), SeqCst);
    let _dying = count.owner().unwrap().kill_and_confirm();
    assert_eq!((log.confirmed(), log.released()), (0, 0));
    host.rcu().barrier().unwrap();
    assert_eq!((log.confirmed(), log.released()), (1, 1));

    let (plain, log) = one_shot(host);
    let _dying = plain.owner().unwrap().kill();
    host.rcu().barrier().unwrap();
    assert_eq!((log.confirmed(), log.released()), (0, 1), "nobody asked for a confirmation");
}

#[test]
fn s035_an_atomic_kill_is_confirmed_inside_the_call() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Atomic);
    let owner = count.owner().unwrap();
    let kept = owner.get();
    let _dying = owner.kill_and_confirm();
    assert_eq!((log.confirmed(), log.released()), (1, 0));
    drop(kept);
    assert_eq!((log.confirmed(), log.released()), (1, 1));
    assert_eq!(host.rcu().periods(), 0);
}

#[test]
fn s036_there_is_no_second_kill() {
    // Twice by one owner does not compile: see the examples of `PercpuRef`. There is no second owner either.
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    assert_eq!(count.owner().err(), Some(Misuse::Claimed));
    assert_eq!(count.dying().err(), Some(Misuse::NotDying));
    let kept = owner.get();
    let dying = owner.kill();
    assert_eq!(count.owner().err(), Some(Misuse::Dying));
    assert_eq!(count.dying().err(), Some(Misuse::Claimed));
    drop(dying);
    drop(count.dying().unwrap());
    host.rcu().barrier().unwrap();
    assert_eq!((see(&count).references, log.released()), (1, 0), "one reference was given up, not more");
    drop(kept);
    assert_eq!(log.released(), 1);
}

#[test]
fn s036_dropping_the_owner_is_a_kill() {
    let (host, _cpu) = machine(2);
    let (count, log) = one_shot(host);
    drop(count.owner().unwrap());
    assert!(count.is_dying());
    host.rcu().barrier().unwrap();
    assert_eq!(log.released(), 1);
    assert!(count.dying().unwrap().is_zero());
}

#[test]
fn s037_kill_and_puts_racing_on_all_cpus_release_once() {
    const CPUS: usize = 4;
    const ROUNDS: u64 = 300;
    let (host, _cpu) = machine(CPUS);
    let seed = 37;
    println!("seed {seed}");
    for round in 0..ROUNDS {
        let (object, used_after) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicUsize::new(0)));
        let released = Arc::new(AtomicUsize::new(0));
        let release = {
            let (object, released) = (Arc::clone(&object), Arc::clone(&released));
            move || {
                object.store(0, Relaxed);
                released.fetch_add(1, SeqCst);
            }
        };
        let count = PercpuRef::<_, _, OneShot>::one_shot(host.rcu(), "raced", release).unwrap();
        let start = Barrier::new(CPUS);
        thread::scope(|scope| {
            let (count, start, object, used_after) = (&count, &start, &object, &used_after);
            for number in 1..CPUS {
                scope.spawn(move || {
                    let _cpu = host.enter(cpu(number));
                    let mut random = Random(seed + round * 8 + number as u64);
                    start.wait();
                    while let Some(reference) = count.tryget_live() {
                        for _ in 0..random.below(4) {
                            let another = reference.clone();
                            used_after.fetch_add(usize::from(object.load(Relaxed) != 1), Relaxed);
                            drop(another);
                        }
                        drop(reference);
                        host.rcu().quiesce();
                        thread::yield_now();
                    }
                });
            }
            let owner = count.owner().unwrap();
            start.wait();
            let dying = owner.kill_and_confirm();
            host.rcu().barrier().unwrap();
            dying.wait_zero().unwrap();
        });
        assert_eq!(released.load(SeqCst), 1, "round {round}");
        assert_eq!(used_after.load(SeqCst), 0, "round {round}: a reference was used after the release");
    }
    assert!(host.take_reports().is_empty());
    host.rcu().validate().unwrap();
}
