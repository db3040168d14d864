//! The counter: a sum sees each add once, and the limit holds.

use crate::machine::{Host, Model, tests};
use loom::thread;
use percpu::PercpuCounter;
use std::sync::Arc;

/// One CPU adds past its batch while the other sums: the fold must not be seen twice, or not at all.
fn sum_during_a_fold(host: Host) {
    host.enter(0);
    let counter = Arc::new(PercpuCounter::new(host, 3).unwrap());
    counter.add(1);
    let other = {
        let counter = Arc::clone(&counter);
        thread::spawn(move || {
            host.enter(1);
            counter.add(2);
            counter.add(2);
            host.leave();
        })
    };
    let sum = counter.sum();
    assert!([1, 3, 5].contains(&sum), "a sum of {sum} is none of the states");
    other.join().unwrap();
    assert_eq!(counter.sum(), 5);
    counter.validate().unwrap();
    drop(counter);
    host.leave();
}

/// Both CPUs add up to a limit that has room for one of them.
fn adds_near_a_limit(host: Host) {
    host.enter(0);
    let counter = Arc::new(PercpuCounter::new(host, 2).unwrap());
    // Two CPUs with a batch of 2 may hold 2: at 0, a limit of 2 is just far enough for a local add.
    let other = {
        let counter = Arc::clone(&counter);
        thread::spawn(move || {
            host.enter(1);
            let added = counter.limited_add(2, 1);
            host.leave();
            u8::from(added)
        })
    };
    let mine = u8::from(counter.limited_add(2, 2));
    let theirs = other.join().unwrap();
    let sum = counter.sum();
    assert!(sum <= 2, "the sum {sum} is beyond the limit");
    assert_eq!(sum, i64::from(2 * mine + theirs), "an add was lost, or made although refused");
    assert!(mine + theirs > 0, "there was room for one");
    drop(counter);
    host.leave();
}

const SUM: Model =
    Model { name: "counter: sum during a fold", cpus: 2, preemptions: None, run: sum_during_a_fold };
const LIMIT: Model =
    Model { name: "counter: adds near a limit", cpus: 2, preemptions: None, run: adds_near_a_limit };

tests! {
    s071_s076_a_sum_sees_each_add_once: SUM;
    limited_adds_keep_the_limit: LIMIT;
    mutant_unlocked_fold: SUM catches UnlockedFold;
    mutant_limit_without_fence: LIMIT catches LimitWithoutFence;
}
