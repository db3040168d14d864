//! Random histories of a reference count against a sequential oracle, and against nothing but its invariants on
//! several CPUs at once. A million operations each; the seeds are printed, and fixed.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "references without guards, because the history decides when they go back")]

use percpu::host::{Host, Machine, OnCpu};
use percpu::{CpuId, Dying, Events, Misuse, Owner, PercpuRef, Reusable, Start};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

/// A small generator of repeatable randomness (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound
    }
}

#[derive(Default)]
struct Seen {
    released: AtomicU64,
    confirmed: AtomicU64,
    switched: AtomicU64,
}

struct Watch(Arc<Seen>);

impl Events for Watch {
    fn release(&self) {
        self.0.released.fetch_add(1, SeqCst);
    }
    fn confirmed(&self) {
        self.0.confirmed.fetch_add(1, SeqCst);
    }
    fn switched(&self) {
        self.0.switched.fetch_add(1, SeqCst);
    }
}

type Count = PercpuRef<Host, Watch, Reusable>;

enum Capability<'a> {
    Owner(Owner<'a, Host, Watch, Reusable>),
    Dying(Dying<'a, Host, Watch, Reusable>),
}

/// What the count should be: as in the definition, without per-CPU words, biases and grace periods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Oracle {
    /// References of users.
    held: u64,
    alive: bool,
    sticky: bool,
    atomic: bool,
    /// A switch to atomic mode waits for a grace period; it holds one reference (a killed owner's, or its own).
    pending: bool,
    confirm: bool,
    announce: bool,
    released: u64,
    confirmed: u64,
    switched: u64,
    dead_and_released: bool,
}

impl Oracle {
    fn references(&self) -> u64 {
        // The owner's, until its kill; and that of a switch, or what a kill has left to it.
        self.held + u64::from(self.alive) + u64::from(self.pending)
    }

    fn settle(&mut self) {
        if !self.alive && !self.pending && self.held == 0 && !self.dead_and_released {
            self.dead_and_released = true;
            self.released += 1;
        }
    }

    fn grace_period(&mut self) {
        if self.pending {
            self.switched += u64::from(std::mem::take(&mut self.announce));
            self.confirmed += u64::from(std::mem::take(&mut self.confirm));
            self.pending = false;
            self.settle();
        }
    }

    fn kill(&mut self, confirm: bool) {
        self.alive = false;
        if self.pending {
            self.confirm |= confirm;
        } else if self.atomic {
            self.confirmed += u64::from(confirm);
            self.settle();
        } else {
            self.atomic = true;
            self.pending = true;
            self.confirm = confirm;
        }
    }

    fn make_atomic(&mut self) {
        self.sticky = true;
        if self.atomic {
            self.switched += 1;
        } else {
            self.atomic = true;
            self.pending = true;
            self.announce = true;
        }
    }

    fn make_percpu(&mut self) {
        self.sticky = false;
        if self.alive {
            self.atomic = false;
        }
    }

    fn live_again(&mut self) {
        self.alive = true;
        self.dead_and_released = false;
        self.atomic = self.sticky;
    }
}

/// One history: every operation is compared with the oracle, and every few the whole state.
fn history(host: Host, this: &mut OnCpu, random: &mut Random, operations: u64, cpus: u64) {
    let starts = [Start::Percpu, Start::Atomic, Start::Dead, Start::DeadAtomic];
    let start = starts[random.below(4) as usize];
    let (alive, atomic) =
        (matches!(start, Start::Percpu | Start::Atomic), matches!(start, Start::Atomic | Start::DeadAtomic));
    let mut oracle = Oracle {
        alive,
        sticky: atomic,
        atomic: atomic || !alive,
        dead_and_released: !alive,
        ..Oracle::default()
    };
    let seen = Arc::new(Seen::default());
    let count: Count = PercpuRef::reusable(host.rcu(), "history", Watch(Arc::clone(&seen)), start).unwrap();
    let mut capability = Some(if alive {
        Capability::Owner(count.owner().unwrap())
    } else {
        Capability::Dying(count.dying().unwrap())
    });
    for step in 0..operations {
        match random.below(100) {
            0..20 => this.move_to(CpuId::new(random.below(cpus) as usize).unwrap()),
            20..40 => {
                if oracle.references() > 0 {
                    let n = 1 + random.below(3);
                    // SAFETY: there are references, and these go back below.
                    unsafe { count.get_raw(n) };
                    oracle.held += n;
                }
            }
            40..65 => {
                if oracle.held > 0 {
                    let n = 1 + random.below(oracle.held.min(4));
                    // SAFETY: the history has that many.
                    unsafe { PercpuRef::put_raw(&count, n) };
                    oracle.held -= n;
                    oracle.settle();
                }
            }
            65..72 => {
                let got = count.tryget();
                assert_eq!(got.is_some(), oracle.references() > 0);
                if let Some(reference) = got {
                    reference.into_raw();
                    oracle.held += 1;
                }
            }
            72..78 => {
                let got = count.tryget_live();
                // On one thread at a time the tags are seen at once.
                assert_eq!(got.is_some(), oracle.alive);
                drop(got);
            }
            78..86 => {
                host.rcu().advance();
                oracle.grace_period();
            }
            86..93 => {
                capability = Some(match capability.take().unwrap() {
                    Capability::Owner(owner) => {
                        let confirm = random.below(2) == 0;
                        oracle.kill(confirm);
                        Capability::Dying(if confirm { owner.kill_and_confirm() } else { owner.kill() })
                    }
                    Capability::Dying(dying) if random.below(2) == 0 => {
                        let expected = if oracle.pending {
                            Some(Misuse::Pending)
                        } else if oracle.held > 0 {
                            Some(Misuse::NotZero)
                        } else {
                            oracle.live_again();
                            None
                        };
                        match dying.reinit() {
                            Ok(owner) => {
                                assert_eq!(expected, None);
                                Capability::Owner(owner)
                            }
                            Err(refused) => {
                                assert_eq!(Some(refused.why), expected);
                                Capability::Dying(refused.token)
                            }
                        }
                    }
                    Capability::Dying(dying) => {
                        // Waits for a pending switch, which it can end itself here.
                        oracle.grace_period();
                        oracle.live_again();
                        Capability::Owner(dying.resurrect().unwrap())
                    }
                });
            }
            _ => {
                // Waits, as above.
                oracle.grace_period();
                let to_atomic = random.below(2) == 0;
                match capability.as_ref().unwrap() {
                    Capability::Owner(owner) if to_atomic => owner.switch_to_atomic().unwrap(),
                    Capability::Owner(owner) => owner.switch_to_percpu().unwrap(),
                    Capability::Dying(dying) if to_atomic => dying.switch_to_atomic().unwrap(),
                    Capability::Dying(dying) => dying.switch_to_percpu().unwrap(),
                }
                if to_atomic { oracle.make_atomic() } else { oracle.make_percpu() }
            }
        }
        assert_eq!(count.is_zero(), oracle.references() == 0, "step {step}: {oracle:?}");
        assert_eq!(count.is_dying(), !oracle.alive, "step {step}: {oracle:?}");
        let events = [&seen.released, &seen.confirmed, &seen.switched].map(|event| event.load(SeqCst));
        assert_eq!(events, [oracle.released, oracle.confirmed, oracle.switched], "step {step}: {oracle:?}");
        let found = count.inspect().unwrap();
        assert_eq!(found.references, oracle.references() as i64, "step {step}: {oracle:?}");
        assert_eq!(
            (found.atomic, found.switching, found.sticky_atomic),
            (oracle.atomic, oracle.pending, oracle.sticky),
            "step {step}: {oracle:?}"
        );
    }
    // SAFETY: the history has that many.
    unsafe { PercpuRef::put_raw(&count, oracle.held) };
    drop(capability);
    host.rcu().barrier().unwrap();
    drop(count);
    assert_eq!(Arc::strong_count(&seen), 1, "the block was freed");
}

#[test]
fn s010_a_million_operations_agree_with_the_oracle() {
    const CPUS: u64 = 3;
    const HISTORIES: u64 = 1_000;
    let host = Machine::new(CPUS as usize);
    let mut this = host.enter(CpuId::BOOT);
    for seed in 0..HISTORIES {
        if seed % 100 == 0 {
            println!("seeds {seed} to {}", seed + 99);
        }
        history(host, &mut this, &mut Random(seed), 1_000, CPUS);
    }
    assert_eq!(host.words_in_use(), 0, "every init is matched");
    assert!(host.take_reports().is_empty());
    host.rcu().validate().unwrap();
}

#[test]
fn a_million_operations_on_all_cpus_keep_the_invariants() {
    const USERS: usize = 3;
    const OPERATIONS: u64 = 1_000_000;
    /// Changes of mode or life meanwhile, at least.
    const CYCLES: u64 = 200;
    let host = Machine::new(USERS + 1);
    let _cpu = host.enter(CpuId::BOOT);
    let seen = Arc::new(Seen::default());
    let count: Count =
        PercpuRef::reusable(host.rcu(), "raced", Watch(Arc::clone(&seen)), Start::Percpu).unwrap();
    let (done, cycles) = (AtomicU64::new(0), AtomicU64::new(0));
    let seed = 2026;
    println!("seed {seed}");
    let mut lives = 0;
    thread::scope(|scope| {
        for user in 1..=USERS {
            let (count, done, cycles) = (&count, &done, &cycles);
            scope.spawn(move || {
                let _cpu = host.enter(CpuId::new(user).unwrap());
                let mut random = Random(seed + user as u64);
                let mut kept = Vec::new();
                let mut operations = 0;
                while operations < OPERATIONS / USERS as u64 || cycles.load(Relaxed) < CYCLES {
                    for _ in 0..64 {
                        operations += 1;
                        match random.below(4) {
                            0 => kept.extend(count.tryget_live()),
                            1 => kept.extend(count.tryget()),
                            2 => kept.extend(kept.last().cloned()),
                            _ => kept.truncate(kept.len().saturating_sub(3)),
                        }
                    }
                    if kept.len() > 16 || random.below(4) == 0 {
                        kept.clear();
                    }
                    host.rcu().quiesce();
                }
                drop(kept);
                done.fetch_add(1, SeqCst);
            });
        }
        let mut random = Random(seed);
        let mut owner = count.owner().unwrap();
        while done.load(Relaxed) < USERS as u64 {
            match random.below(4) {
                0 => owner.switch_to_atomic().unwrap(),
                1 => {
                    host.rcu().barrier().unwrap();
                    owner.switch_to_percpu().unwrap();
                }
                2 => {
                    let dying = owner.kill_and_confirm();
                    host.rcu().barrier().unwrap();
                    owner = dying.resurrect().unwrap();
                }
                _ => {
                    let dying = owner.kill();
                    host.rcu().barrier().unwrap();
                    dying.wait_zero().unwrap();
                    owner = dying.reinit().unwrap();
                    lives += 1;
                }
            }
            host.rcu().barrier().unwrap();
            cycles.fetch_add(1, Relaxed);
        }
        drop(owner);
    });
    host.rcu().barrier().unwrap();
    println!(
        "{lives} lives, {} releases, {} grace periods",
        seen.released.load(SeqCst),
        host.rcu().periods()
    );
    assert_eq!(count.inspect().unwrap().references, 0);
    assert!(seen.released.load(SeqCst) > lives, "each life, those that were resurrected, and the last");
    assert!(host.take_reports().is_empty());
    host.rcu().validate().unwrap();
}
