//! Watermarks and the numbers that the allocator shows.

use crate::units::{Frames, Kib};

use super::block::ORDERS;

/// How much free memory is too little.
///
/// The sizes follow the documented behaviour of Linux's `min_free_kbytes` and `watermark_scale_factor`
/// (Documentation/admin-guide/sysctl/vm.rst): `min` is 4 × √(memory in KiB) KiB, between 128 KiB and 64 MiB; `low`
/// and `high` follow at distances of a quarter of `min`, or a thousandth of the memory if that is more.
///
/// They are computed from the memory that is *present*, not from the maximum reservation: a guest of 64 GiB that
/// was ballooned down to 64 MiB keeps a reserve for 64 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermarks {
    /// Below this, only requests that may dig into the reserve are served.
    pub min: Frames,
    /// Below this, somebody should look for memory.
    pub low: Frames,
    /// Up to here they should look.
    pub high: Frames,
}

impl Watermarks {
    /// The marks for a guest that has this much memory now.
    #[must_use]
    pub fn for_present(present: Frames) -> Self {
        let min_kib = (present.to_kib().get() * 16).isqrt().clamp(128, 65536);
        // A guest too small for the lower bound keeps a quarter of what it has.
        let min = Frames::from_kib_floor(Kib::new(min_kib)).get().min(present.get() / 4);
        let step = (min / 4).max(present.get() / 1000);
        Self { min: Frames::new(min), low: Frames::new(min + step), high: Frames::new(min + 2 * step) }
    }

    /// What self-ballooning calls `totalreserve_pages`: the memory that must stay free beside what is committed,
    /// so that nobody has to wait for reclaim.
    ///
    /// The original sums, over its zones, the high watermark and the memory that other zones may not use. There is
    /// one zone here, so it is the high watermark. Because it depends on the present memory, and grows more slowly
    /// than that does, a goal of `committed + totalreserve` has exactly one fixed point and iterating towards it
    /// converges.
    #[must_use]
    pub const fn total_reserve(&self) -> Frames {
        self.high
    }
}

/// A snapshot of the allocator's counters, taken under its lock.
///
/// `managed = free + cached + pinned + movable + ballooned`, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Frames of memory that the allocator may hand out, present or ballooned.
    pub managed: Frames,
    /// Frames of memory that it was told to leave alone.
    pub reserved: Frames,
    /// Free frames, without those in magazines.
    pub free: Frames,
    /// Free extents of each order.
    pub free_by_order: [u32; ORDERS],
    /// Blocks of 2 MiB that are wholly free.
    pub whole_blocks: u64,
    /// Free frames known to be zero, without those in magazines.
    pub known_zero: Frames,
    /// Free frames in magazines.
    pub cached: Frames,
    /// Frames in pinned use.
    pub pinned: Frames,
    /// Frames in movable use.
    pub movable: Frames,
    /// Frames in the balloon.
    pub ballooned: Frames,
    /// Blocks that lie in the balloon as a whole and are deposited in the frame table.
    pub ballooned_blocks: u64,
    /// Requests for pinned frames that had to open a movable block.
    pub pinned_steals: u64,
    /// Requests for movable frames that went into a pinned block.
    pub movable_steals: u64,
    /// Requests that got nothing.
    pub failures: u64,
    /// Calls that were refused as misuse.
    pub misuses: u64,
    /// The marks for the present memory.
    pub watermarks: Watermarks,
}

impl Stats {
    /// Frames with memory behind them, the reserved ones apart.
    #[must_use]
    pub fn present(&self) -> Frames {
        self.managed - self.ballooned
    }

    /// Free frames, wherever they are kept.
    #[must_use]
    pub fn available(&self) -> Frames {
        self.free + self.cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(mib: u64) -> Frames {
        Frames::new(mib * 256)
    }

    #[test]
    fn marks_follow_the_documented_formula() {
        // 4 GiB: 4 × √4194304 = 8192 KiB; a thousandth of 1048576 frames is 1048.
        let marks = Watermarks::for_present(mib(4096));
        assert_eq!(
            (marks.min, marks.low, marks.high),
            (Frames::new(2048), Frames::new(3096), Frames::new(4144))
        );
        assert_eq!(marks.total_reserve(), marks.high);
        // 16 MiB: 512 KiB.
        let marks = Watermarks::for_present(mib(16));
        assert_eq!(
            (marks.min, marks.low, marks.high),
            (Frames::new(128), Frames::new(160), Frames::new(192))
        );
    }

    #[test]
    fn marks_are_bounded_at_both_ends() {
        assert_eq!(Watermarks::for_present(mib(1 << 20)).min, mib(64));
        assert_eq!(Watermarks::for_present(mib(1)).min, Frames::new(32));
        assert_eq!(Watermarks::for_present(Frames::ZERO).high, Frames::ZERO);
    }

    #[test]
    fn the_reserve_grows_more_slowly_than_the_memory() {
        let mut before = 0;
        for size in 1..4096 {
            let reserve = Watermarks::for_present(mib(size)).total_reserve().get();
            assert!(reserve >= before && reserve - before < 256, "{size} MiB");
            before = reserve;
        }
    }
}
