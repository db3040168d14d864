//! The books: what the hypervisor should charge, and whether it does.
//!
//! `base = reservation + in the balloon + debt`, where `base` was learned at boot and the debt is zero unless the
//! guest was started with less memory than its map shows (populate on demand). Then the map's frames are there from
//! the first instruction, but the reservation is only what was paid for. Every release pays for a frame of debt
//! first, and only then lowers the reservation; and the toolstack can pay as well, by raising the target, without
//! telling. So the debt is known as an upper bound, and learned anew whenever the hypervisor is asked.
//!
//! RAM, the special pages and the ACPI tables are in the base. Grant frames and the shared info page are not
//! charged. What makes the books disagree is a leak: a frame populated over, or released while somebody outside
//! held it.

use core::fmt;
use core::ops::RangeInclusive;
use core::sync::atomic::Ordering;

use super::Balloon;
use crate::mm::frame::{Inconsistency, LockKind};
use crate::port::MemoryOps;
use crate::units::Frames;
use xen_abi::Errno;

/// No frames are charged beside the balloon's.
const NOTHING: RangeInclusive<u64> = 0..=0;
/// How often a quiet moment is looked for.
const LOOKS: u32 = 1000;

/// Books that agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accounts {
    /// What the hypervisor charges.
    pub reservation: Frames,
    /// What is in the balloon.
    pub ballooned: Frames,
    /// What is still owed.
    pub debt: Frames,
}

/// What is wrong with the books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disagreement {
    /// Calls were under way all the time: ask again.
    Busy,
    /// The frame table keeps another number of frames than the balloon counts.
    Table {
        /// In the frame table.
        kept: Frames,
        /// In the balloon's count.
        counted: Frames,
    },
    /// The hypervisor charges another number of frames than it should.
    Reservation {
        /// The hypervisor's number.
        charged: Frames,
        /// The number that follows from the books.
        expected: Frames,
    },
    /// The frame table disagrees with itself.
    Frames(Inconsistency),
    /// There is no hypervisor to ask.
    Unanswered(Errno),
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the balloon was busy all the time"),
            Self::Table { kept, counted } => {
                write!(f, "the frame table keeps {kept} for the balloon, which counts {counted}")
            }
            Self::Reservation { charged, expected } => {
                write!(f, "the hypervisor charges {charged}, which should be {expected}")
            }
            Self::Frames(inconsistency) => write!(f, "{inconsistency:?}"),
            Self::Unanswered(errno) => write!(f, "the hypervisor does not say what it charges: {errno:?}"),
        }
    }
}

impl core::error::Error for Disagreement {}

impl<P: MemoryOps, D, L: LockKind> Balloon<'_, '_, P, D, L> {
    /// Compares the balloon's count with the frame table's and with the hypervisor's, and learns the debt.
    ///
    /// Needs a moment in which no step and no emergency is under way, and looks for one a bounded number of times.
    ///
    /// # Errors
    ///
    /// [`Disagreement`]. [`Busy`](Disagreement::Busy) says nothing about the books.
    pub fn check_accounts(&self) -> Result<Accounts, Disagreement> {
        self.check_accounts_beside(|| NOTHING)
    }

    /// The same, where the hypervisor charges frames that the balloon knows nothing of: what it keeps in tmem. `beside`
    /// says how many, as far as that can be known, and is asked several times: the moment must be quiet there, too.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_accounts_beside(
        &self,
        beside: impl Fn() -> RangeInclusive<u64>,
    ) -> Result<Accounts, Disagreement> {
        let mut found = Disagreement::Busy;
        for _ in 0..LOOKS {
            let begun = self.begun.load(Ordering::SeqCst);
            if self.under_way.load(Ordering::SeqCst) == 0 {
                let extra = beside();
                let kept = self.exchange.frames().stats().ballooned;
                let counted = Frames::new(self.held.load(Ordering::SeqCst));
                let charged = self.exchange.port().current_reservation().map_err(Disagreement::Unanswered)?;
                let debt = self.debt.load(Ordering::SeqCst);
                if self.begun.load(Ordering::SeqCst) == begun && beside() == extra {
                    match self.compare(charged, kept, counted, debt, &extra) {
                        // What is charged beside is counted a moment before or after it is charged.
                        Err(disagreement @ Disagreement::Reservation { .. }) if extra != NOTHING => {
                            found = disagreement;
                        }
                        outcome => return outcome,
                    }
                }
            }
            core::hint::spin_loop();
        }
        Err(found)
    }

    fn compare(
        &self,
        charged: Frames,
        kept: Frames,
        counted: Frames,
        debt: u64,
        beside: &RangeInclusive<u64>,
    ) -> Result<Accounts, Disagreement> {
        if kept != counted {
            return Err(Disagreement::Table { kept, counted });
        }
        // Frames in doubt may or may not be charged.
        let doubt = self.exchange.doubtful().get();
        let rest = self.base.checked_sub(counted.get());
        // What the balloon's own frames are charged, at the most and at the least.
        let most = charged.get().saturating_sub(*beside.start());
        let least = charged.get().saturating_sub(*beside.end());
        let owed = rest.filter(|rest| *rest >= least).map(|rest| rest.saturating_sub(most));
        match owed {
            Some(owed) if owed <= debt + doubt => {
                let owed = owed.min(debt);
                let exact = beside.start() == beside.end();
                if exact {
                    // If somebody has released in the meantime, the debt is theirs to tell.
                    let _ = self.debt.compare_exchange(debt, owed, Ordering::SeqCst, Ordering::SeqCst);
                }
                Ok(Accounts { reservation: charged, ballooned: counted, debt: Frames::new(owed) })
            }
            _ => {
                let expected = Frames::new(self.base.saturating_sub(counted.get()).saturating_sub(debt));
                Err(Disagreement::Reservation { charged, expected })
            }
        }
    }

    /// The same, and everything that the frame table counts is derived again. Takes time.
    ///
    /// # Errors
    ///
    /// [`Disagreement`].
    pub fn validate(&self) -> Result<Accounts, Disagreement> {
        self.validate_beside(|| NOTHING)
    }

    /// The same, where the hypervisor charges other frames, too: see
    /// [`check_accounts_beside`](Self::check_accounts_beside).
    ///
    /// # Errors
    ///
    /// [`Disagreement`].
    pub fn validate_beside(
        &self,
        beside: impl Fn() -> RangeInclusive<u64>,
    ) -> Result<Accounts, Disagreement> {
        self.exchange.frames().validate().map_err(Disagreement::Frames)?;
        self.check_accounts_beside(beside)
    }
}
