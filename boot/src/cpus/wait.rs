//! Waiting for another CPU, with a bound.
//!
//! First by spinning: it is a matter of a microsecond if the other one runs. Under Xen it may not run, and where vCPUs
//! outnumber processors one that only spins keeps it from running. So after some rounds the waiting CPU takes a nap: it
//! announces that, looks once more, and has Xen block it until its doorbell rings. Whoever does what others may wait
//! for rings those who have announced a nap.

use super::{interrupts, local};
use core::hint::spin_loop;
use ebb::arch::local as gs;
use ebb::smp::{CpuId, SharedCpuSet};

/// Rounds that are waited in any case: a machine that stood still, paused by its host, finds its deadline over at
/// once, and the other CPU has not had a chance.
const LEAST_ROUNDS: u32 = 64 * SPIN_ROUNDS;
/// Rounds that are waited at most, where the clock does not advance.
const MOST_ROUNDS: u32 = 1_000_000_000;
/// Rounds between naps.
const SPIN_ROUNDS: u32 = 256;
/// How long a nap lasts if nobody rings: what is waited for may be no deed of another CPU.
const NAP_NS: u64 = 2_000_000;

/// Those who nap, or are about to.
static NAPPING: SharedCpuSet = SharedCpuSet::new();

/// Makes a function that waits one round at each call, and answers false when `bound_ns` is over. Between calls, the
/// caller looks whether the wait is over. On one CPU.
pub(crate) fn at_most(bound_ns: u64) -> impl FnMut() -> bool {
    let deadline_ns = super::now_ns().saturating_add(bound_ns);
    let mut rounds = 0_u32;
    move || {
        rounds = rounds.saturating_add(1);
        spin_loop();
        match rounds % SPIN_ROUNDS {
            0 => {
                interrupts::nap(NAP_NS);
                NAPPING.remove(gs::cpu());
                rounds < LEAST_ROUNDS || (rounds < MOST_ROUNDS && super::now_ns() < deadline_ns)
            }
            // The caller looks once more after this: what is done from now on comes with a ring.
            last if last == SPIN_ROUNDS - 1 && interrupts::naps() => {
                NAPPING.insert(gs::cpu());
                true
            }
            _ => true,
        }
    }
}

/// Rings those who nap, because this CPU, `me`, has done something that may be waited for. Any context.
pub(super) fn wake_nappers(me: CpuId) {
    for cpu in NAPPING.get().without(me).iter() {
        if let Some(local) = local::of(cpu) {
            interrupts::ring(cpu, local);
        }
    }
}
