//! Which CPU gets which work: the policy, as functions of the loads.
//!
//! A *load* is the number of threads that a CPU runs or could run. The loads are read without locks and may be
//! old; the mechanism checks what it takes. Three rules keep the CPUs even: a thread that wakes up goes where
//! nothing runs; a CPU without work takes some from the one that has most; and a CPU whose slice ends gives the
//! thread to one that has at least two fewer, so that three threads on two CPUs do not swap places for nothing.

use super::platform::{CpuId, mask};

/// Where a thread that becomes runnable goes. `home` is where it ran last, `idle` the set of CPUs that run nothing.
pub(crate) fn place(home: CpuId, idle: u32) -> CpuId {
    if idle == 0 || idle & mask(home) != 0 {
        return home;
    }
    // The next idle one after home, going round, so that many wake-ups from one CPU spread.
    let after = idle.rotate_right(home.get() as u32).trailing_zeros() as usize + home.get();
    CpuId::new(after % u32::BITS as usize).unwrap_or(home)
}

/// From which CPU one without work takes a thread: the one with the largest load, if that has one to spare.
pub(crate) fn victim(me: CpuId, loads: impl Iterator<Item = (CpuId, u32)>) -> Option<CpuId> {
    let most = loads.filter(|(cpu, load)| *cpu != me && *load >= 2).max_by_key(|(_, load)| *load);
    most.map(|(cpu, _)| cpu)
}

/// To which CPU one with load `mine` gives the thread whose slice ended, if to any.
pub(crate) fn beneficiary(me: CpuId, mine: u32, loads: impl Iterator<Item = (CpuId, u32)>) -> Option<CpuId> {
    let fewest = loads.filter(|(cpu, _)| *cpu != me).min_by_key(|(_, load)| *load);
    fewest.filter(|(_, load)| load + 2 <= mine).map(|(cpu, _)| cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cpu(number: usize) -> CpuId {
        CpuId::new(number).unwrap()
    }

    fn loads(loads: &[u32]) -> impl Iterator<Item = (CpuId, u32)> {
        CpuId::first(loads.len()).zip(loads.iter().copied())
    }

    #[test]
    fn a_thread_wakes_up_where_nothing_runs() {
        assert_eq!(place(cpu(1), 0b0000), cpu(1), "nobody idles");
        assert_eq!(place(cpu(1), 0b1010), cpu(1), "home idles");
        assert_eq!(place(cpu(1), 0b1001), cpu(3), "the next");
        assert_eq!(place(cpu(3), 0b0001), cpu(0), "the next, going round");
        assert_eq!(place(cpu(31), 1 << 30), cpu(30));
    }

    #[test]
    fn the_idle_take_from_the_busiest() {
        assert_eq!(victim(cpu(0), loads(&[0, 2, 5, 3])), Some(cpu(2)));
        assert_eq!(victim(cpu(0), loads(&[0, 1, 1, 1])), None, "what runs is not for the taking");
        assert_eq!(victim(cpu(0), loads(&[9])), None);
    }

    #[test]
    fn the_busy_give_to_the_least_busy() {
        assert_eq!(beneficiary(cpu(0), 4, loads(&[4, 3, 2, 3])), Some(cpu(2)));
        assert_eq!(beneficiary(cpu(0), 2, loads(&[2, 1])), None, "it would be the same the other way round");
        assert_eq!(beneficiary(cpu(0), 9, loads(&[9])), None);
    }

    proptest! {
        #[test]
        fn giving_never_makes_things_less_even(all in proptest::collection::vec(0..20_u32, 1..8)) {
            for me in CpuId::first(all.len()) {
                let mine = all[me.get()];
                if let Some(other) = beneficiary(me, mine, loads(&all)) {
                    prop_assert!(other != me);
                    prop_assert!(all[other.get()] + 1 < mine);
                }
            }
        }
    }
}
