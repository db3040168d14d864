//! Statements 11 to 18: the fast path. (16 and 17 are about instructions: `tests/gs.rs`.)

use crate::support::{Random, cpu, machine, on, one_shot, reusable, see};
use percpu::{PercpuRef, Start, Words};
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn s011_gets_and_puts_anywhere_leave_the_count() {
    let (host, mut this) = machine(4);
    let (count, log) = one_shot(host);
    let owner = count.owner().unwrap();
    let seed = 11;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut held = Vec::new();
    for _ in 0..2_000 {
        this.move_to(cpu(random.below(4) as usize));
        if held.is_empty() || random.below(2) == 0 {
            held.push(owner.get());
        } else {
            drop(held.swap_remove(random.below(held.len() as u64) as usize));
        }
        assert_eq!(see(&count).references, 1 + held.len() as i64);
    }
    this.move_to(cpu(0));
    drop(held);
    assert_eq!(see(&count).references, 1);
    assert_eq!(log.released(), 0);
}

#[test]
fn s012_get_here_put_there_for_all_pairs() {
    let (host, mut this) = machine(4);
    let (count, _) = one_shot(host);
    let owner = count.owner().unwrap();
    for from in 0..4 {
        for to in 0..4 {
            let reference = {
                this.move_to(cpu(from));
                owner.get()
            };
            this.move_to(cpu(to));
            assert_eq!(see(&count).references, 2);
            drop(reference);
            assert_eq!(see(&count).references, 1, "get on {from}, put on {to}");
        }
    }
    this.move_to(cpu(0));
    let word = see(&count).word.unwrap();
    let words: Vec<i64> = (0..4).map(|at| host.word(cpu(at), word).load(Relaxed).cast_signed()).collect();
    assert_eq!(words, [0; 4]);
    drop(owner);
}

#[test]
fn s013_many_at_once_are_as_many_singly_and_none_is_nothing() {
    let (host, _cpu) = machine(2);
    for start in [Start::Percpu, Start::Atomic] {
        let (count, log) = reusable(host, start);
        let owner = count.owner().unwrap();
        let mut many = owner.get_many(5);
        assert_eq!(see(&count).references, 6);
        let one = many.pop().unwrap();
        let more = one.get_many(3);
        assert_eq!((many.len(), more.len(), see(&count).references), (4, 3, 9));
        drop((many, more, one));
        assert_eq!(see(&count).references, 1);

        let mut none = owner.get_many(0);
        assert!(none.is_empty() && none.pop().is_none());
        drop(none);
        assert!(count.tryget_many(0).is_some());
        assert_eq!((see(&count).references, log.released()), (1, 0));
    }
    // None of a dead one: neither a release nor a reference.
    let (dead, log) = reusable(host, Start::Dead);
    // SAFETY: no references are taken, so none exist.
    unsafe { PercpuRef::put_raw(&dead, 0) };
    assert_eq!((see(&dead).references, log.released()), (0, 0));
    assert!(host.take_reports().is_empty());
}

#[test]
fn s014_words_that_wrap_make_no_difference() {
    let (host, _cpu) = machine(3);
    let (count, log) = one_shot(host);
    let word = see(&count).word.unwrap();
    // They sum to 2 modulo 2^64.
    let presets = [u64::MAX - 1, (1 << 63) + 5, (1 << 63) - 1];
    for (at, preset) in presets.into_iter().enumerate() {
        host.word(cpu(at), word).store(preset, Relaxed);
    }
    assert_eq!(see(&count).references, 3);
    let owner = count.owner().unwrap();
    drop([owner.get(), owner.get(), owner.get()]);
    let _dying = owner.kill();
    host.rcu().barrier().unwrap();
    assert_eq!((see(&count).references, log.released()), (2, 0));
    // SAFETY: the presets stand for two references.
    unsafe { PercpuRef::put_raw(&count, 2) };
    assert_eq!(log.released(), 1);
    assert!(host.take_reports().is_empty());
}

#[test]
fn s015_a_put_in_percpu_mode_never_releases() {
    let (host, _cpu) = machine(2);
    let (count, log) = one_shot(host);
    // SAFETY: a misuse, contained: more puts than gets, taken back below.
    unsafe { PercpuRef::put_raw(&count, 1) };
    assert_eq!((see(&count).references, log.released()), (0, 0));
    // SAFETY: as above.
    unsafe { PercpuRef::put_raw(&count, 5) };
    assert_eq!((see(&count).references, log.released()), (-5, 0));
    // SAFETY: the owner's reference exists after all.
    unsafe { count.get_raw(6) };
    assert_eq!(see(&count).references, 1);
}

#[test]
fn s018_a_tagged_word_is_no_address() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    let kept = owner.get();
    let word = see(&count).word.unwrap();
    let areas = || -> Vec<u64> {
        [0, 1].iter().flat_map(|at| host.area(cpu(*at)).iter().map(|word| word.load(Relaxed))).collect()
    };
    let dying = owner.kill();
    let before = areas();
    // ATOMIC and DEAD are set: everything goes to the shared count, and the words stay as they are.
    drop(kept.clone());
    drop(count.tryget());
    drop(count.tryget_live());
    on(host, 1, || drop(kept.clone()));
    assert_eq!(areas(), before);
    host.rcu().barrier().unwrap();
    drop(kept);
    let _owner = dying.reinit().unwrap();
    assert_eq!(host.word(cpu(0), word).load(Relaxed), 0);
}
