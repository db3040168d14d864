//! Statements 1 to 10: init and exit. (6 and 10 also in `tests/memory.rs`, which counts allocations.)

use crate::support::{machine, one_shot, reusable, see};
use percpu::{Misuse, PercpuRef, Start, WordPool};

#[test]
fn s001_a_plain_count_lives_per_cpu_with_one_reference() {
    let (host, _cpu) = machine(2);
    let (count, _) = one_shot(host);
    assert!(!count.is_zero());
    assert!(!count.is_dying());
    let seen = see(&count);
    assert!(!seen.atomic && !seen.switching && !seen.sticky_atomic);
    assert_eq!(seen.references, 1);
}

#[test]
fn s002_only_a_reusable_count_keeps_its_word_through_a_kill() {
    let (host, _cpu) = machine(2);
    let (single, _) = one_shot(host);
    let (many, _) = reusable(host, Start::Percpu);
    assert_eq!((see(&many).atomic, see(&many).references), (false, 1), "as statement 1");
    assert!(!many.is_zero() && !many.is_dying());
    let (first, second) = (single.owner().unwrap(), many.owner().unwrap());
    assert_eq!(host.words_in_use(), 2);
    let (_first, _second) = (first.kill(), second.kill());
    host.rcu().barrier().unwrap();
    assert_eq!(see(&single).word, None);
    assert!(see(&many).word.is_some());
    assert_eq!(host.words_in_use(), 1);
}

#[test]
fn s003_an_atomic_count_stays_atomic_until_told_otherwise() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::Atomic);
    let seen = see(&count);
    assert!(seen.atomic && seen.sticky_atomic && !seen.dying);
    assert_eq!(seen.references, 1);
    let owner = count.owner().unwrap().kill().reinit().unwrap();
    assert!(see(&count).atomic, "sticky");
    owner.switch_to_percpu().unwrap();
    assert!(!see(&count).atomic);
    let _owner = {
        let dying = owner.kill();
        host.rcu().barrier().unwrap();
        dying.reinit().unwrap()
    };
    assert!(!see(&count).atomic, "no longer sticky");
}

#[test]
fn s004_a_dead_count_gives_no_reference() {
    let (host, _cpu) = machine(2);
    for start in [Start::Dead, Start::DeadAtomic] {
        let (count, log) = reusable(host, start);
        assert!(count.is_zero() && count.is_dying());
        assert!(count.tryget().is_none());
        assert!(count.tryget_live().is_none());
        assert!(count.tryget_many(2).is_none());
        assert_eq!(count.owner().err(), Some(Misuse::Dying));
        assert_eq!(log.released(), 0);
    }
}

#[test]
fn s005_a_dead_count_lives_in_the_mode_it_was_made_for() {
    let (host, _cpu) = machine(2);
    for (start, atomic) in [(Start::Dead, false), (Start::DeadAtomic, true)] {
        let (count, _) = reusable(host, start);
        let _owner = count.dying().unwrap().reinit().unwrap();
        assert_eq!(see(&count).atomic, atomic);
        assert_eq!(see(&count).references, 1);
    }
}

#[test]
fn s006_no_word_left_is_an_error_that_leaks_nothing() {
    let (host, _cpu) = machine(1);
    let mut counts = Vec::new();
    let failed = loop {
        match PercpuRef::one_shot(host.rcu(), "many", || {}) {
            Ok(count) => counts.push(count),
            Err(why) => break why,
        }
    };
    assert_eq!(failed, Misuse::NoMemory);
    assert_eq!(counts.len(), WordPool::<16>::WORDS);
    counts.clear();
    assert_eq!(host.words_in_use(), 0);
    assert!(PercpuRef::one_shot(host.rcu(), "again", || {}).is_ok());
}

#[test]
fn s007_a_count_that_was_never_killed_leaves_without_release() {
    let (host, _cpu) = machine(2);
    let (mut count, log) = one_shot(host);
    drop(count.tryget());
    assert_eq!(count.exit(), Ok(()));
    assert_eq!(host.words_in_use(), 0);
    let (dropped, other) = one_shot(host);
    drop(dropped);
    assert_eq!(host.words_in_use(), 0);
    assert_eq!(log.released() + other.released(), 0);
    assert_eq!(host.rcu().periods(), 0, "no grace period is needed");
    assert!(host.take_reports().is_empty());
}

#[test]
fn s008_an_exited_count_tells_what_it_was() {
    let (host, _cpu) = machine(2);
    let (mut alive, _) = one_shot(host);
    alive.exit().unwrap();
    assert!(!alive.is_zero());
    assert!(alive.is_dying());

    let (mut dead, _) = reusable(host, Start::Dead);
    dead.exit().unwrap();
    assert!(dead.is_zero() && dead.is_dying());
    assert!(dead.tryget().is_none() && dead.tryget_live().is_none());
    assert_eq!(dead.inspect(), None);
    assert_eq!(dead.owner().err(), Some(Misuse::Exited));
}

#[test]
fn s009_exit_twice_is_harmless() {
    let (host, _cpu) = machine(2);
    let (mut count, _) = one_shot(host);
    assert_eq!(count.exit(), Ok(()));
    assert_eq!(count.exit(), Ok(()));
    drop(count);
    assert_eq!(host.words_in_use(), 0);
    assert!(host.take_reports().is_empty());
}
