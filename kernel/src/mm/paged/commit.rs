//! Commitments: how much memory was promised, and when one more promise is too much.
//!
//! Memory that is reserved is filled when it is touched, and a load or a store cannot return an error. So the place to
//! refuse is the reservation: as long as what is promised can be had, no access finds memory exhausted.
//!
//! The count is what Linux calls `Committed_AS`, and what selfballooning steers by. The three policies are those of
//! Linux's `vm.overcommit_memory`, by number and by name (Documentation/mm/overcommit-accounting.rst).

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use percpu::{PercpuCounter, Platform};

use super::error::CommitError;
use crate::units::Frames;

/// When a promise is refused. The tunable `vm.overcommit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Overcommit {
    /// 0: a single promise beyond the limit is refused; the sum of many may pass it. Touching more memory than there
    /// is ends the guest.
    Heuristic = 0,
    /// 1: never refused. Touching more memory than there is ends the guest.
    Always = 1,
    /// 2: the sum of all promises stays within the limit.
    Strict = 2,
}

impl Overcommit {
    /// The policy with this number.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Heuristic),
            1 => Some(Self::Always),
            2 => Some(Self::Strict),
            _ => None,
        }
    }
}

impl fmt::Display for Overcommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Heuristic => "heuristic",
            Self::Always => "always",
            Self::Strict => "strict",
        })
    }
}

/// The promises.
#[derive(Debug)]
pub(super) struct Commit<P: Platform> {
    /// In frames.
    promised: PercpuCounter<P>,
    limit_frames: AtomicU64,
    policy: AtomicU8,
    refused: AtomicU64,
}

impl<P: Platform> Commit<P> {
    /// Nothing promised yet, and no more than `limit`, strictly.
    pub(super) const fn new(promised: PercpuCounter<P>, limit: Frames) -> Self {
        Self {
            promised,
            limit_frames: AtomicU64::new(limit.get()),
            policy: AtomicU8::new(Overcommit::Strict as u8),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn policy(&self) -> Overcommit {
        Overcommit::new(self.policy.load(Ordering::Relaxed)).unwrap_or(Overcommit::Strict)
    }

    pub(super) fn set_policy(&self, policy: Overcommit) {
        self.policy.store(policy as u8, Ordering::Relaxed);
    }

    pub(super) fn limit(&self) -> Frames {
        Frames::new(self.limit_frames.load(Ordering::Relaxed))
    }

    pub(super) fn set_limit(&self, limit: Frames) {
        self.limit_frames.store(limit.get(), Ordering::Relaxed);
    }

    /// What is promised: within `cpus * (batch - 1)` frames, by one load.
    pub(super) fn roughly(&self) -> Frames {
        Frames::new(self.promised.read_positive().cast_unsigned())
    }

    /// What is promised, from all CPUs' parts.
    pub(super) fn sum(&self) -> Frames {
        Frames::new(self.promised.sum_positive().cast_unsigned())
    }

    /// Promises that were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Promises `more`, if the policy allows.
    pub(super) fn charge(&self, more: Frames) -> Result<(), CommitError> {
        let limit = self.limit();
        let amount = i64::try_from(more.get()).unwrap_or(i64::MAX);
        let fits = match self.policy() {
            Overcommit::Always => true,
            Overcommit::Heuristic => more <= limit,
            Overcommit::Strict => {
                let limit = i64::try_from(limit.get()).unwrap_or(i64::MAX);
                // An amount that would overflow the sum does not fit either.
                if more.get() <= limit.cast_unsigned() && self.promised.limited_add(limit, amount) {
                    return Ok(());
                }
                false
            }
        };
        if fits {
            self.promised.add(amount);
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(CommitError { asked: more, committed: self.sum(), limit })
    }

    /// Takes a promise back that [`charge`](Self::charge) gave.
    pub(super) fn uncharge(&self, less: Frames) {
        self.promised.add(-i64::try_from(less.get()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percpu::CpuId;
    use percpu::host::{Host, Machine, OnCpu};

    fn commit(limit: u64) -> (Commit<Host>, OnCpu) {
        let host = Machine::new(2);
        let cpu = host.enter(CpuId::BOOT);
        (Commit::new(PercpuCounter::new(host, 32).unwrap(), Frames::new(limit)), cpu)
    }

    #[test]
    fn strict_promises_up_to_the_limit_and_not_one_frame_more() {
        let (commit, _cpu) = commit(100);
        commit.charge(Frames::new(99)).unwrap();
        let error = commit.charge(Frames::new(2)).unwrap_err();
        let (asked, committed, limit) = (Frames::new(2), Frames::new(99), Frames::new(100));
        assert_eq!(error, CommitError { asked, committed, limit });
        commit.charge(Frames::new(1)).unwrap();
        assert!(commit.charge(Frames::new(1)).is_err());
        commit.uncharge(Frames::new(50));
        commit.charge(Frames::new(50)).unwrap();
        assert_eq!((commit.sum(), commit.refused()), (Frames::new(100), 2));
    }

    #[test]
    fn absurd_amounts_are_refused_and_change_nothing() {
        let (commit, _cpu) = commit(100);
        for asked in [u64::MAX, u64::MAX / 2, i64::MAX as u64, 101] {
            assert!(commit.charge(Frames::new(asked)).is_err(), "{asked}");
        }
        assert_eq!(commit.sum(), Frames::ZERO);
    }

    #[test]
    fn heuristic_refuses_what_alone_is_too_much() {
        let (commit, _cpu) = commit(100);
        commit.set_policy(Overcommit::Heuristic);
        assert!(commit.charge(Frames::new(101)).is_err());
        commit.charge(Frames::new(100)).unwrap();
        commit.charge(Frames::new(100)).unwrap();
        assert_eq!(commit.sum(), Frames::new(200));
        // Back to strict: nothing more until enough was taken back.
        commit.set_policy(Overcommit::Strict);
        assert!(commit.charge(Frames::new(1)).is_err());
        commit.uncharge(Frames::new(101));
        commit.charge(Frames::new(1)).unwrap();
    }

    #[test]
    fn always_refuses_nothing() {
        let (commit, _cpu) = commit(0);
        commit.set_policy(Overcommit::Always);
        commit.charge(Frames::new(1 << 30)).unwrap();
        assert_eq!(commit.sum(), Frames::new(1 << 30));
    }

    #[test]
    fn the_numbers_are_those_of_linux() {
        let all = [Overcommit::Heuristic, Overcommit::Always, Overcommit::Strict];
        assert_eq!([0, 1, 2].map(|number| Overcommit::new(number).unwrap()), all);
        assert_eq!(Overcommit::new(3), None);
    }
}
