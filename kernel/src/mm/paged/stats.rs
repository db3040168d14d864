//! The numbers that paged memory shows.

use percpu::{PercpuCounter, Platform};

use super::memory::Mmu;
use super::{LockKind, Overcommit, Paged};
use crate::units::Frames;

/// A snapshot of the counters. Each is exact by itself if nothing goes on; they are not taken in one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// What is promised.
    pub committed: Frames,
    /// The most that may be promised.
    pub limit: Frames,
    /// When promises are refused.
    pub overcommit: Overcommit,
    /// Promises that were refused.
    pub refused: u64,
    /// Regions.
    pub regions: usize,
    /// Pages with a frame.
    pub resident: Frames,
    /// Those of them that are active.
    pub active: Frames,
    /// The others.
    pub inactive: Frames,
    /// Frames for page tables.
    pub tables: Frames,
    /// Pages that got a frame.
    pub filled: u64,
    /// Frames that had to be zeroed for that: the others were known to be zero.
    pub zeroed: u64,
    /// Faults that found the page there.
    pub raced: u64,
    /// Frames that pages gave back.
    pub freed: u64,
    /// Pages that were moved to another frame.
    pub migrated: u64,
    /// Times that there was no frame for a page.
    pub shortages: u64,
    /// Pages that are elsewhere now.
    pub swapped: Frames,
    /// Pages that were evicted.
    pub swap_outs: u64,
    /// Pages that came back.
    pub swap_ins: u64,
    /// Those of them that were missed soon: before as many others were evicted as were in memory.
    pub refaulted: u64,
    /// Pages that were touched on their way out, and stayed.
    pub kept: u64,
    /// Pages that swap did not take.
    pub swap_refused: u64,
    /// Times that a page which swap should have had was lost.
    pub swap_lost: u64,
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// The counters. Visits every CPU's part.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let count = |counter: &PercpuCounter<P>| counter.sum_positive().cast_unsigned();
        let frames = |counter| Frames::new(count(counter));
        let resident = frames(&self.counts.resident);
        let active = frames(&self.counts.active);
        // A page that moves counts twice for a moment, and was freed by the old frame's name.
        Stats {
            committed: self.commit.sum(),
            limit: self.commit.limit(),
            overcommit: self.commit.policy(),
            refused: self.commit.refused(),
            regions: self.book.lock(self.platform).regions(),
            resident,
            active: active.min(resident),
            inactive: resident.saturating_sub(active),
            tables: frames(&self.counts.tables),
            filled: count(&self.counts.filled),
            zeroed: count(&self.counts.zeroed),
            raced: count(&self.counts.raced),
            freed: count(&self.counts.freed),
            migrated: count(&self.counts.migrated),
            shortages: count(&self.counts.shortages),
            swapped: frames(&self.counts.swapped),
            swap_outs: count(&self.counts.swap_outs),
            swap_ins: count(&self.counts.swap_ins),
            refaulted: count(&self.counts.refaulted),
            kept: count(&self.counts.kept),
            swap_refused: count(&self.counts.swap_refused),
            swap_lost: count(&self.counts.swap_lost),
        }
    }

    /// Pages that are elsewhere: within `cpus * (batch - 1)`, by one load.
    #[must_use]
    pub fn swapped(&self) -> Frames {
        Frames::new(self.counts.swapped.read_positive().cast_unsigned())
    }

    /// Pages with a frame: within `cpus * (batch - 1)`, by one load.
    #[must_use]
    pub fn resident(&self) -> Frames {
        Frames::new(self.counts.resident.read_positive().cast_unsigned())
    }
}
