//! How times are spread: the median and the tail of what was measured many times.

/// Some of the times, by their rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Half of them took no longer, in nanoseconds.
    pub p50_ns: u64,
    /// 90 of 100 took no longer.
    pub p90_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Spread {
    /// Of these times, which are sorted; `None` of nothing.
    pub fn of(times_ns: &mut [u64]) -> Option<Self> {
        times_ns.sort_unstable();
        // The nearest rank: the least that is not below that share of them.
        let at = |percent: usize| times_ns.get((times_ns.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self {
            count: times_ns.len(),
            p50_ns: at(50)?,
            p90_ns: at(90)?,
            p99_ns: at(99)?,
            max_ns: at(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn ranks_are_the_nearest() {
        let mut times: Vec<u64> = (1..=100).rev().collect();
        let spread = Spread::of(&mut times).unwrap();
        assert_eq!(spread, Spread { count: 100, p50_ns: 50, p90_ns: 90, p99_ns: 99, max_ns: 100 });
        let spread = Spread::of(&mut [9, 3, 5]).unwrap();
        assert_eq!(spread, Spread { count: 3, p50_ns: 5, p90_ns: 9, p99_ns: 9, max_ns: 9 });
    }

    #[test]
    fn one_is_all_and_none_is_nothing() {
        assert_eq!(Spread::of(&mut [4]).map(|spread| (spread.p50_ns, spread.max_ns)), Some((4, 4)));
        assert_eq!(Spread::of(&mut []), None);
    }
}
