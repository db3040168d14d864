//! Statements 71 to 78: the per-CPU counter. (77 with real interrupts: `tests/gs.rs`.)

use crate::support::{Random, cpu, machine, on};
use percpu::host::Machine;
use percpu::{Misuse, PercpuCounter, WordPool};
use std::cmp::Ordering::{Equal, Greater, Less};
use std::thread;

const CPUS: usize = 4;

#[test]
fn s071_the_sum_is_exact_when_nobody_adds() {
    let host = Machine::new(CPUS);
    let counter = PercpuCounter::new(host, 32).unwrap();
    thread::scope(|scope| {
        for number in 0..CPUS {
            let counter = &counter;
            scope.spawn(move || {
                let _cpu = host.enter(cpu(number));
                let mut random = Random(71 + number as u64);
                for _ in 0..20_000 {
                    counter.add(random.below(60) as i64 - 20);
                }
            });
        }
    });
    let expected: i64 = (0..CPUS)
        .map(|number| {
            let mut random = Random(71 + number as u64);
            (0..20_000).map(|_| random.below(60) as i64 - 20).sum::<i64>()
        })
        .sum();
    let _cpu = host.enter(cpu(0));
    assert_eq!(counter.sum(), expected);
    assert_eq!(counter.sum_positive(), expected.max(0));
    counter.validate().unwrap();
}

#[test]
fn s072_read_is_within_the_bound() {
    let (host, mut this) = machine(CPUS);
    let counter = PercpuCounter::new(host, 10).unwrap();
    assert_eq!(counter.error_bound(), 36);
    // The worst case, both ways.
    for sign in [1, -1] {
        for number in 0..CPUS {
            this.move_to(cpu(number));
            counter.set(0);
        }
        for number in 0..CPUS {
            this.move_to(cpu(number));
            counter.add(9 * sign);
        }
        this.move_to(cpu(0));
        assert_eq!((counter.read(), counter.sum()), (0, 36 * sign));
    }
    let mut random = Random(72);
    for _ in 0..10_000 {
        this.move_to(cpu(random.below(CPUS as u64) as usize));
        counter.add(random.below(31) as i64 - 15);
        assert!((counter.read() - counter.sum()).abs() <= 36);
        counter.validate().unwrap();
    }
}

#[test]
fn s073_read_positive_is_never_negative() {
    let (host, _cpu) = machine(1);
    let counter = PercpuCounter::new(host, 4).unwrap();
    counter.add(-100);
    assert_eq!((counter.read(), counter.read_positive(), counter.sum_positive()), (-100, 0, 0));
    counter.add(107);
    assert_eq!(counter.read_positive(), 7);
}

#[test]
fn s074_compare_agrees_with_the_sum() {
    let (host, mut this) = machine(CPUS);
    let counter = PercpuCounter::new(host, 8).unwrap();
    for number in 0..CPUS {
        this.move_to(cpu(number));
        counter.add(7);
    }
    this.move_to(cpu(0));
    assert_eq!((counter.read(), counter.sum()), (0, 28));
    for with in -60..120 {
        assert_eq!(counter.compare(with), 28.cmp(&with), "with {with}");
    }
    assert_eq!(
        [i64::MIN, 28, i64::MAX].map(|with| counter.compare(with)),
        [Greater, Equal, Less],
        "also at the ends"
    );
}

#[test]
fn s075_a_batch_goes_straight_to_the_global_part() {
    let (host, _cpu) = machine(2);
    let counter = PercpuCounter::new(host, 16).unwrap();
    counter.add(15);
    assert_eq!(counter.read(), 0);
    counter.add(-15);
    for (amount, global) in [(16, 16), (-16, 0), (100, 100)] {
        counter.add(amount);
        assert_eq!(counter.read(), global);
    }
    // One that fills the batch takes the local part along.
    counter.add(10);
    counter.add(6);
    assert_eq!((counter.read(), counter.sum()), (116, 116));
    // Extremes neither overflow nor get lost.
    counter.set(0);
    counter.add(i64::MAX);
    counter.add(i64::MIN);
    assert_eq!(counter.sum(), -1);
}

#[test]
fn s076_a_cpu_that_leaves_loses_nothing() {
    let (host, _cpu) = machine(CPUS);
    let counter = PercpuCounter::new(host, 32).unwrap();
    on(host, 1, || counter.add(5));
    on(host, 2, || {
        counter.add(-7);
        counter.sync_local();
    });
    assert_eq!((counter.read(), counter.sum()), (-7, -2));
    counter.fold_offline(cpu(1));
    assert_eq!((counter.read(), counter.sum()), (-2, -2));
}

#[test]
fn s077_adds_in_handlers_keep_the_bound() {
    let (host, _cpu) = machine(1);
    let counter = PercpuCounter::new(host, 4).unwrap();
    let mut random = Random(77);
    for _ in 0..5_000 {
        counter.add(random.below(7) as i64 - 3);
        host.interrupt(|| {
            counter.add(random.below(7) as i64 - 3);
            counter.validate().unwrap();
        });
        counter.validate().unwrap();
    }
    counter.add(i64::from(i32::MAX) * 4);
    counter.add(3);
    counter.validate().unwrap();
}

#[test]
fn s078_after_a_smaller_batch_and_a_sync_the_new_bound_holds() {
    let (host, mut this) = machine(CPUS);
    let counter = PercpuCounter::new(host, 1_000).unwrap();
    for number in 0..CPUS {
        this.move_to(cpu(number));
        counter.add(999);
    }
    counter.set_batch(10);
    assert!(counter.validate().is_err());
    for number in 0..CPUS {
        this.move_to(cpu(number));
        counter.sync_local();
    }
    this.move_to(cpu(0));
    counter.validate().unwrap();
    assert!((counter.read() - counter.sum()).abs() <= counter.error_bound());
    assert_eq!((counter.read(), counter.error_bound()), (4 * 999, 36));
}

#[test]
fn limited_adds_stop_at_the_limit() {
    let (host, _cpu) = machine(CPUS);
    let counter = PercpuCounter::new(host, 8).unwrap();
    let mut added = 0;
    while counter.limited_add(1_000, 3) {
        added += 3;
    }
    assert_eq!((added, counter.sum()), (999, 999));
    assert!(counter.limited_add(1_000, 1) && !counter.limited_add(1_000, 1));
    assert!(counter.limited_add(1_000, 0), "nothing always fits");
    // Downwards to a floor.
    while counter.limited_add(-50, -7) {}
    assert_eq!(counter.sum(), -50);
    assert!(!counter.limited_add(i64::MAX, -1), "below a floor of everything");
    assert_eq!(counter.sum(), -50);
}

#[test]
fn limited_adds_from_all_cpus_never_pass_the_limit() {
    const LIMIT: i64 = 5_000;
    let host = Machine::new(CPUS);
    let counter = PercpuCounter::new(host, 16).unwrap();
    let added: i64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..CPUS)
            .map(|number| {
                let counter = &counter;
                scope.spawn(move || {
                    let _cpu = host.enter(cpu(number));
                    let mut random = Random(79 + number as u64);
                    let mut added = 0;
                    for _ in 0..4_000 {
                        let amount = 1 + random.below(5) as i64;
                        if counter.limited_add(LIMIT, amount) {
                            added += amount;
                        }
                        assert!(counter.sum() <= LIMIT);
                    }
                    added
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let _cpu = host.enter(cpu(0));
    assert_eq!(counter.sum(), added);
    assert!(added > LIMIT - 5, "and reach it");
}

#[test]
fn a_counter_needs_a_word_and_gives_it_back() {
    let (host, _cpu) = machine(1);
    let all: Vec<_> = (0..WordPool::<16>::WORDS).map(|_| PercpuCounter::new(host, 1).unwrap()).collect();
    assert_eq!(PercpuCounter::new(host, 1).err(), Some(Misuse::NoMemory));
    drop(all);
    let counter = PercpuCounter::new(host, 0).unwrap();
    assert_eq!(counter.batch(), 1, "a batch of 1 counts exactly");
    counter.add(1);
    assert_eq!(counter.read(), 1);
    assert_eq!(PercpuCounter::<percpu::host::Host>::default_batch(host), 32);
}
