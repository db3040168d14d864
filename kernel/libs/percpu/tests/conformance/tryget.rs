//! Statements 19 to 26: tryget. (26 is a compile-fail example of `PercpuRef::tryget_live_rcu`.)

use crate::support::{Reader, machine, on, one_shot, reusable, see};
use percpu::{PercpuRef, Start};

#[test]
fn s019_percpu_tryget_always_succeeds() {
    let (host, _cpu) = machine(2);
    let (count, _) = one_shot(host);
    assert!((0..100).all(|_| count.tryget().is_some()));
    assert!(count.tryget_many(7).is_some());
    assert!(on(host, 1, || count.tryget_live().is_some()));
}

#[test]
fn s020_atomic_tryget_fails_only_at_zero() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Atomic);
    let owner = count.owner().unwrap();
    let kept = count.tryget().expect("not zero");
    let _dying = owner.kill();
    assert!(count.tryget().is_some(), "one is left");
    drop(kept);
    assert_eq!(log.released(), 1);
    assert!(count.tryget().is_none());
}

#[test]
fn s021_s022_a_dying_count_gives_references_but_no_live_ones() {
    let (host, _cpu) = machine(2);
    let (count, _) = one_shot(host);
    let owner = count.owner().unwrap();
    let kept = owner.get();
    let _dying = owner.kill();
    host.rcu().barrier().unwrap();
    assert!(count.is_dying() && !count.is_zero());
    assert!(count.tryget().is_some());
    assert!(count.tryget_live().is_none());
    assert!(count.tryget_live_rcu(&host.rcu().read_lock()).is_none());
    drop(kept);
}

#[test]
fn s023_a_refused_tryget_changes_nothing() {
    let (host, _cpu) = machine(2);
    let (count, _) = one_shot(host);
    let owner = count.owner().unwrap();
    let kept = owner.get();
    let _dying = owner.kill();
    host.rcu().barrier().unwrap();
    assert!(count.tryget_live().is_none());
    assert_eq!(see(&count).references, 1);
    drop(kept);
    assert!(count.tryget().is_none() && count.tryget_many(3).is_none());
    assert_eq!(see(&count).references, 0);
}

#[test]
fn s024_after_the_confirmation_no_live_reference_until_a_new_life() {
    let (host, _cpu) = machine(3);
    let (count, log) = reusable(host, Start::Percpu);
    let dying = count.owner().unwrap().kill_and_confirm();
    assert_eq!(log.confirmed(), 0);
    host.rcu().barrier().unwrap();
    assert_eq!(log.confirmed(), 1);
    for other in [1, 2] {
        assert!(on(host, other, || (0..100).all(|_| count.tryget_live().is_none())));
    }
    let _owner = dying.reinit().unwrap();
    assert!(on(host, 1, || count.tryget_live().is_some()));
}

#[test]
fn s025_a_live_reference_between_kill_and_confirmation_counts() {
    // A CPU that has seen the tags already is refused; one that has not yet would succeed in per-CPU mode. On the
    // host every thread sees them at once, so the late one is made by hand: its add comes after the kill, in the
    // section that began before it.
    let (host, _cpu) = machine(2);
    let (count, log) = one_shot(host);
    let owner = count.owner().unwrap();
    let reader = Reader::start(host, 1);
    let word = see(&count).word.unwrap();
    let _dying = owner.kill_and_confirm();
    host.rcu().advance();
    host.area(crate::support::cpu(1))[word].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!((log.confirmed(), log.released()), (0, 0));
    reader.finish();
    host.rcu().barrier().unwrap();
    assert_eq!((log.confirmed(), log.released()), (1, 0), "the late reference delays the release");
    // SAFETY: the late reference.
    unsafe { PercpuRef::put_raw(&count, 1) };
    assert_eq!(log.released(), 1);
    assert!(host.take_reports().is_empty());
}
