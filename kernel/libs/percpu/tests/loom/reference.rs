//! The reference count over the real RCU.

use crate::machine::{Host, Model, tests};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use percpu::{CpuId, Events, Kind, OneShot, PercpuRef, Reusable, Start, Words};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

/// What the references protect.
struct Object {
    payload: UnsafeCell<u32>,
    released: AtomicUsize,
    switched: AtomicUsize,
    /// In the model: who sees it knows that the confirmation has begun.
    confirmed: AtomicBool,
}

// SAFETY: the payload is read under references and written by the release. That this excludes races is what the
// models check.
unsafe impl Sync for Object {}

impl Object {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            payload: UnsafeCell::new(1),
            released: AtomicUsize::new(0),
            switched: AtomicUsize::new(0),
            confirmed: AtomicBool::new(false),
        })
    }

    fn touch(&self) {
        // SAFETY: under a reference.
        assert_eq!(self.payload.with(|payload| unsafe { *payload }), 1, "used after its release");
    }

    fn released(&self) -> usize {
        self.released.load(SeqCst)
    }
}

/// The events of the object, as a newtype so that closures keep their blanket implementation.
struct Watch(Arc<Object>);

impl Events for Watch {
    fn release(&self) {
        // SAFETY: nobody has a reference.
        self.0.payload.with_mut(|payload| unsafe { *payload = 0 });
        assert_eq!(self.0.released.fetch_add(1, SeqCst), 0, "released twice");
    }
    fn confirmed(&self) {
        assert_eq!(self.0.released(), 0, "confirmed after the release");
        assert!(!self.0.confirmed.swap(true, Ordering::AcqRel), "confirmed twice");
    }
    fn switched(&self) {
        self.0.switched.fetch_add(1, SeqCst);
    }
}

/// A count on the heap whose borrow ends with the model.
struct Shared<K: Kind>(*mut PercpuRef<Host, Watch, K>);

impl<K: Kind> Shared<K> {
    fn new(count: PercpuRef<Host, Watch, K>) -> Self {
        Self(Box::into_raw(Box::new(count)))
    }
    fn get(&self) -> &'static PercpuRef<Host, Watch, K> {
        // SAFETY: freed by `free` only, after the last use.
        unsafe { &*self.0 }
    }
    fn free(self) {
        // SAFETY: threads are joined, and guards gone.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// The owner kills; the other CPU tries to get a reference, and puts one that was taken here.
fn kill(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count =
        Shared::<OneShot>::new(PercpuRef::one_shot(host.rcu(), "model", Watch(Arc::clone(&object))).unwrap());
    let owner = count.get().owner().unwrap();
    let moved = owner.get();
    let other = {
        let (object, count) = (Arc::clone(&object), count.get());
        thread::spawn(move || {
            host.enter(1);
            if let Some(reference) = count.tryget_live() {
                object.touch();
                drop(reference);
            }
            host.rcu().quiesce();
            object.touch();
            drop(moved);
            host.leave();
        })
    };
    object.touch();
    let dying = owner.kill();
    host.rcu().advance();
    host.rcu().advance();
    other.join().unwrap();
    host.rcu().barrier().unwrap();
    assert_eq!(object.released(), 1, "never released");
    assert!(dying.is_zero());
    drop(dying);
    count.free();
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// Two other CPUs put what was taken here, while this one kills and folds.
fn kill_among_three(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count =
        Shared::<OneShot>::new(PercpuRef::one_shot(host.rcu(), "model", Watch(Arc::clone(&object))).unwrap());
    let owner = count.get().owner().unwrap();
    let others: Vec<_> = [1, 2]
        .map(|cpu| {
            let (object, moved) = (Arc::clone(&object), owner.get());
            thread::spawn(move || {
                host.enter(cpu);
                object.touch();
                drop(moved);
                host.leave();
            })
        })
        .into();
    drop(owner.kill());
    host.rcu().advance();
    for other in others {
        other.join().unwrap();
    }
    host.rcu().barrier().unwrap();
    assert_eq!(object.released(), 1, "never released");
    count.free();
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// Kill with confirmation: who sees it gets no reference any more.
fn confirm(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count =
        Shared::<OneShot>::new(PercpuRef::one_shot(host.rcu(), "model", Watch(Arc::clone(&object))).unwrap());
    let owner = count.get().owner().unwrap();
    let other = {
        let (object, count) = (Arc::clone(&object), count.get());
        thread::spawn(move || {
            host.enter(1);
            for _ in 0..2 {
                let confirmed = object.confirmed.load(Ordering::Acquire);
                let reference = count.tryget_live();
                assert!(!confirmed || reference.is_none(), "a live reference after the confirmation");
                drop(reference);
                host.rcu().quiesce();
            }
            host.leave();
        })
    };
    let dying = owner.kill_and_confirm();
    host.rcu().advance();
    host.rcu().advance();
    other.join().unwrap();
    host.rcu().barrier().unwrap();
    assert!(object.confirmed.load(Ordering::Acquire));
    assert_eq!(object.released(), 1);
    drop(dying);
    count.free();
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// Back from atomic to per-CPU mode, while the other CPU takes and gives references.
fn switch_back(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count = Shared::<Reusable>::new(
        PercpuRef::reusable(host.rcu(), "model", Watch(Arc::clone(&object)), Start::Atomic).unwrap(),
    );
    let owner = count.get().owner().unwrap();
    // What an earlier per-CPU time left behind.
    let word = count.get().inspect().unwrap().word.unwrap();
    host.word(CpuId::new(1).unwrap(), word).store(7, Ordering::Relaxed);
    let moved = owner.get();
    let other = thread::spawn(move || {
        host.enter(1);
        let another = moved.clone();
        host.rcu().quiesce();
        drop(moved);
        another.into_raw();
        host.leave();
    });
    owner.switch_to_percpu().unwrap();
    host.rcu().advance();
    other.join().unwrap();
    owner.switch_to_atomic().unwrap();
    host.rcu().barrier().unwrap();
    assert_eq!(count.get().inspect().unwrap().references, 2, "a count was lost");
    // SAFETY: the other thread left one.
    unsafe { PercpuRef::put_raw(count.get(), 1) };
    drop(owner);
    assert_eq!(object.released(), 1);
    count.free();
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// Who waited for a switch may free the count; the callback runs on the other CPU.
fn free_after_switch(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count = Shared::<Reusable>::new(
        PercpuRef::reusable(host.rcu(), "model", Watch(Arc::clone(&object)), Start::Percpu).unwrap(),
    );
    let owner = count.get().owner().unwrap();
    owner.switch_to_atomic().unwrap();
    let other = {
        let object = Arc::clone(&object);
        thread::spawn(move || {
            host.enter(1);
            while object.switched.load(SeqCst) == 0 {
                host.rcu().advance();
                // Idle meanwhile, as a worker would be.
                host.leave();
                thread::yield_now();
                host.enter(1);
            }
            host.leave();
        })
    };
    owner.switch_to_atomic_sync().unwrap();
    assert!(object.switched.load(SeqCst) >= 1, "the wait was over before the switch was announced");
    let seen = count.get().inspect().unwrap();
    assert_eq!((seen.references, seen.switching), (1, false), "the switch is not over");
    core::mem::forget(owner);
    count.free();
    assert_eq!(object.released(), 0, "leaving without a kill does not release");
    other.join().unwrap();
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// The count is dropped while its kill is pending: the rest is left to the fold, on the other CPU.
fn drop_while_pending(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count =
        Shared::<OneShot>::new(PercpuRef::one_shot(host.rcu(), "model", Watch(Arc::clone(&object))).unwrap());
    drop(count.get().owner().unwrap());
    let other = thread::spawn(move || {
        host.enter(1);
        host.rcu().advance();
        host.rcu().advance();
        host.leave();
    });
    host.rcu().quiesce();
    count.free();
    other.join().unwrap();
    host.rcu().barrier().unwrap();
    assert_eq!(object.released(), 1);
    assert_eq!(Arc::strong_count(&object), 1, "the block was not freed");
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// A new life begins while the other CPU tries to get a live reference: it sees the object's new state.
fn reinit(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count = Shared::<Reusable>::new(
        PercpuRef::reusable(host.rcu(), "model", Watch(Arc::clone(&object)), Start::Dead).unwrap(),
    );
    let dying = count.get().dying().unwrap();
    // SAFETY: dead, so nobody touches it.
    object.payload.with_mut(|payload| unsafe { *payload = 0 });
    let other = {
        let (object, count) = (Arc::clone(&object), count.get());
        thread::spawn(move || {
            host.enter(1);
            if let Some(reference) = count.tryget_live() {
                object.touch();
                drop(reference);
            }
            drop(count.tryget());
            host.leave();
        })
    };
    // SAFETY: dead, so nobody touches it.
    object.payload.with_mut(|payload| unsafe { *payload = 1 });
    let owner = dying.reinit().unwrap();
    other.join().unwrap();
    assert_eq!(count.get().inspect().unwrap().references, 1);
    drop(owner.kill());
    host.rcu().barrier().unwrap();
    assert_eq!(object.released(), 1);
    count.free();
    host.leave();
    assert_eq!(host.reports(), 0);
}

/// The last put and a resurrection meet: the count lives with one reference, after a release or without.
fn resurrect(host: Host) {
    host.enter(0);
    let object = Object::new();
    let count = Shared::<Reusable>::new(
        PercpuRef::reusable(host.rcu(), "model", Watch(Arc::clone(&object)), Start::Atomic).unwrap(),
    );
    let owner = count.get().owner().unwrap();
    let moved = owner.get();
    let dying = owner.kill();
    let other = thread::spawn(move || {
        host.enter(1);
        drop(moved);
        host.leave();
    });
    let owner = dying.resurrect().unwrap();
    other.join().unwrap();
    assert_eq!(count.get().inspect().unwrap().references, 1);
    let released = object.released();
    object.released.store(0, SeqCst);
    drop(owner.kill());
    assert_eq!(object.released(), 1, "once per life ({released} in the first)");
    count.free();
    host.leave();
    assert_eq!(host.reports(), 0);
}

const KILL: Model = Model { name: "reference: kill", cpus: 2, preemptions: None, run: kill };
const THREE: Model =
    Model { name: "reference: kill, 3 CPUs", cpus: 3, preemptions: Some(2), run: kill_among_three };
const CONFIRM: Model =
    Model { name: "reference: kill and confirm", cpus: 2, preemptions: None, run: confirm };
const BACK: Model =
    Model { name: "reference: back to per-CPU mode", cpus: 2, preemptions: None, run: switch_back };
const FREE: Model =
    Model { name: "reference: free after a switch", cpus: 2, preemptions: Some(3), run: free_after_switch };
const ORPHAN: Model =
    Model { name: "reference: drop while pending", cpus: 2, preemptions: None, run: drop_while_pending };
const REINIT: Model = Model { name: "reference: reinit", cpus: 2, preemptions: None, run: reinit };
const RESURRECT: Model = Model { name: "reference: resurrect", cpus: 2, preemptions: None, run: resurrect };

tests! {
    s030_s031_s037_kill_and_puts_release_once: KILL;
    s037_kill_among_three_releases_once: THREE;
    s024_s034_no_live_reference_after_the_confirmation: CONFIRM;
    s039_s045_a_switch_back_loses_no_count: BACK;
    s050_s060_who_waited_may_free: FREE;
    s033_s060_a_drop_under_a_switch_leaves_the_rest_to_it: ORPHAN;
    s055_a_reinit_is_seen_whole: REINIT;
    s053_s055_a_resurrection_meets_the_last_put: RESURRECT;
    mutant_no_bias: KILL catches NoBias;
    mutant_unbias_first: KILL catches UnbiasFirst;
    mutant_no_grace_period: KILL catches NoGracePeriod;
    mutant_relaxed_put: KILL catches RelaxedPut;
    mutant_no_acquire_at_zero: KILL catches NoAcquireAtZero;
    mutant_test_atomic_only: KILL catches TestAtomicOnly;
    mutant_relaxed_clear: BACK catches RelaxedClear;
    mutant_relaxed_mode_load: BACK catches RelaxedModeLoad;
    mutant_clear_before_zero: BACK catches ClearBeforeZero;
    mutant_pending_cleared_early: FREE catches PendingClearedEarly;
}
