//! The counts, derived again from the slots; and settling what is in doubt.

use core::fmt;

use percpu::Platform;

use super::super::primitive::Ordering;
use super::map::{Content, MAX_TIERS};
use super::{Frontswap, Slot, SwapType};

/// What the slots say, all together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// Slots whose page is in a tier.
    pub pages: u64,
    /// The same by tier.
    pub in_tier: [u64; MAX_TIERS],
    /// Slots of which some tier may keep an old page: those that are in doubt, and pages that were passed on.
    pub doubtful: u64,
}

/// A count is not what it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Imbalance {
    /// The pages of a swap type.
    Swap {
        /// Which.
        swap: SwapType,
        /// As counted.
        counted: u64,
        /// As the slots have it.
        found: u64,
    },
    /// The pages of a tier.
    Tier {
        /// Which, in the order in which they are tried.
        tier: usize,
        /// As counted.
        counted: u64,
        /// As the slots have it.
        found: u64,
    },
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swap { swap, counted, found } => write!(f, "{swap} counts {counted} pages and has {found}"),
            Self::Tier { tier, counted, found } => {
                write!(f, "tier {tier} counts {counted} pages and has {found}")
            }
        }
    }
}

impl core::error::Error for Imbalance {}

impl<P: Platform> Frontswap<'_, P> {
    /// Derives every count from the slots. Means something only while nobody stores, invalidates or passes on.
    ///
    /// # Errors
    ///
    /// The first [`Imbalance`].
    pub fn validate(&self) -> Result<Census, Imbalance> {
        let mut census = Census { pages: 0, in_tier: [0; MAX_TIERS], doubtful: 0 };
        for (swap, area) in self.known() {
            let (mut from, mut found) = (0, 0);
            while let Some(offset) = area.map.next(from) {
                from = offset + 1;
                match area.map.settled(offset, self.platform) {
                    Some(Content::In { tier, residue, .. }) => {
                        census.in_tier[tier] += 1;
                        census.doubtful += u64::from(residue);
                        found += 1;
                    }
                    Some(Content::Doubtful) => census.doubtful += 1,
                    Some(Content::Empty) | None => {}
                }
            }
            let counted = area.pages.load(Ordering::Relaxed);
            if counted != found {
                return Err(Imbalance::Swap { swap, counted, found });
            }
            census.pages += found;
        }
        for (tier, found) in census.in_tier.into_iter().enumerate() {
            let counted = self.pages_in(tier);
            if counted != found {
                return Err(Imbalance::Tier { tier, counted, found });
            }
        }
        Ok(census)
    }

    /// Tries once more to remove old pages that could not be removed at the time, which a tier may be keeping, and be
    /// charged for, until the slot is used again. Answers how many slots are still in doubt. Costs nothing where there is no
    /// doubt. For threads.
    pub fn settle(&self) -> u64 {
        if !self.doubts.swap(false, Ordering::Relaxed) {
            return 0;
        }
        let mut left = 0;
        for (swap, area) in self.known() {
            let mut from = 0;
            while let Some(offset) = area.map.next(from) {
                from = offset + 1;
                if !matches!(
                    area.map.peek(offset),
                    Some(Content::Doubtful | Content::In { residue: true, .. })
                ) {
                    continue;
                }
                // Not preempted: somebody may want the page.
                let Some(mut held) = area.map.hold_pinned(offset, self.platform) else { continue };
                let slot = Slot { swap, offset };
                if held.moving {
                    // Some tier is being given the page.
                    self.doubts.store(true, Ordering::Relaxed);
                    left += 1;
                    continue;
                }
                let settled = match held.content {
                    Content::Doubtful => self.empty(area, slot, &mut held),
                    Content::In { tier, residue: true, .. } => self.empty_all_but(Some(tier), slot),
                    Content::In { .. } | Content::Empty => continue,
                };
                match (settled, &mut held.content) {
                    (Ok(()), Content::In { residue, .. }) => *residue = false,
                    (Ok(()), _) => {}
                    (Err(_), _) => {
                        self.doubts.store(true, Ordering::Relaxed);
                        left += 1;
                    }
                }
            }
        }
        left
    }
}
