//! Random histories of references against a sequential oracle.

use super::{Clean, Random, count, misuse, references};
use crate::threads::{Thread, spawn};
use crate::{ensure, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ebb_boot::cases::Not;
use ebb_boot::{case, rcu, threads};
use percpu::Start;

/// What a count should be, one operation after the other.
struct Oracle {
    held: u64,
    alive: bool,
    sticky: bool,
    released: u64,
    confirmed: u64,
    switched: u64,
}

/// One history: gets, puts, changes of mode and lives at random, each compared with the oracle, on whichever CPUs the
/// scheduler chooses. Every switch is waited for, so that what is seen does not depend on when it ends.
fn history(seed: u64, operations: u64) -> Result<(), Not> {
    let (count, seen) = count("history", Start::Percpu)?;
    let mut random = Random(seed);
    let mut oracle = Oracle { held: 0, alive: true, sticky: false, released: 0, confirmed: 0, switched: 0 };
    let mut held = Vec::new();
    let (mut owner, mut dying) = (Some(count.owner().map_err(misuse)?), None);
    for step in 0..operations {
        match random.below(1000) {
            0..450 => {
                let got = count.tryget();
                let wanted = oracle.alive || oracle.held > 0;
                ensure(got.is_some() == wanted, &format!("seed {seed} step {step}: tryget"))?;
                oracle.held += u64::from(wanted);
                held.extend(got);
            }
            450..900 if !held.is_empty() => {
                let index = random.below(held.len() as u64) as usize;
                drop(held.swap_remove(index));
                oracle.held -= 1;
                oracle.released += u64::from(oracle.held == 0 && !oracle.alive);
            }
            900..970 => {
                let got = count.tryget_live().is_some();
                ensure(got == oracle.alive, &format!("seed {seed} step {step}: tryget_live"))?;
            }
            970..996 => threads().yield_now(),
            996..998 => match (owner.take(), dying.take()) {
                (Some(alive), _) => {
                    let was_sticky = oracle.sticky;
                    dying = Some(alive.kill_and_confirm());
                    oracle.alive = false;
                    rcu().barrier().map_err(misuse)?;
                    oracle.confirmed += 1;
                    oracle.released += u64::from(oracle.held == 0);
                    ensure(was_sticky == oracle.sticky, "unreachable")?;
                }
                (None, Some(dead)) if oracle.held == 0 => {
                    owner = Some(dead.reinit().map_err(|refused| misuse(refused.why))?);
                    oracle.alive = true;
                }
                (None, Some(dead)) => {
                    owner = Some(dead.resurrect().map_err(|refused| misuse(refused.why))?);
                    oracle.alive = true;
                }
                (None, None) => return Err("neither alive nor dying".into()),
            },
            998.. => {
                if let Some(owner) = &owner {
                    if oracle.sticky {
                        owner.switch_to_percpu().map_err(misuse)?;
                    } else {
                        owner.switch_to_atomic_sync().map_err(misuse)?;
                        oracle.switched += 1;
                    }
                    oracle.sticky = !oracle.sticky;
                }
            }
            _ => {}
        }
        if step % 16 == 0 {
            let place = format!("seed {seed} step {step}");
            let wanted = (oracle.held + u64::from(oracle.alive)) as i64;
            same(&format!("{place}: references"), references(&count), wanted)?;
            same(&place, seen.all(), [oracle.released, oracle.confirmed, oracle.switched])?;
        }
    }
    drop(held);
    drop((owner, dying));
    rcu().barrier().map_err(misuse)?;
    drop(count);
    same("the block was freed", Arc::strong_count(&seen), 1)
}

/// Histories that run side by side: 125,000 operations, so that the eight cases are a million. All of them at once,
/// because each waits most of the time: every change of mode waits for grace periods, of tens of milliseconds on Xen,
/// and those who wait together share one.
fn histories(first_seed: u64) -> Result<(), Not> {
    const HISTORIES: u64 = 50;
    const LENGTH: u64 = 2_500;
    let clean = Clean::begin();
    let begin = |seed| spawn("history", move || history(seed, LENGTH));
    let all: Vec<_> = (first_seed..first_seed + HISTORIES).map(begin).collect::<Result<_, _>>()?;
    all.into_iter().map(Thread::join).collect::<Result<Vec<_>, _>>()?;
    clean.end()
}

case!("percpu.s010_random_histories_agree_with_the_oracle_1", |_| histories(0));
case!("percpu.s010_random_histories_agree_with_the_oracle_2", |_| histories(1_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_3", |_| histories(2_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_4", |_| histories(3_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_5", |_| histories(4_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_6", |_| histories(5_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_7", |_| histories(6_000));
case!("percpu.s010_random_histories_agree_with_the_oracle_8", |_| histories(7_000));
