//! What a decision looks at: one snapshot, taken by the caller, so that no figure is read twice in one run.

/// A domain as it stands now. Every count is in frames of 4 KiB.
///
/// Any value is accepted; figures that contradict each other give a poor target, never a panic, and never one
/// above the ceiling. What the caller does not know stays at its [`Default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Memory promised to applications (Linux: `vm_committed_as`).
    pub committed_frames: u64,
    /// Memory the domain manages now, used or free (Linux: `totalram_pages`).
    pub current_frames: u64,
    /// Memory charged to the domain now (Linux: the balloon's `current_pages`; Xen: current reservation).
    pub reservation_frames: u64,
    /// Memory out of applications' reach (Linux: `totalreserve_pages`, what the allocator keeps free). A kernel may
    /// add what it uses itself, which no one has committed.
    pub total_reserve_frames: u64,
    /// One more than the highest frame number, holes included (Linux: `max_pfn`).
    pub span_frames: u64,
    /// Pages out in frontswap, over all of its backends.
    pub frontswap_frames: u64,
    /// Whether frontswap has a backend at all.
    pub frontswap_enabled: bool,
    /// The toolstack's target, in the unit of `reservation_frames`: never to be exceeded. No limit: `u64::MAX`.
    pub ceiling_frames: u64,
    /// The most the domain may ever have, in the unit of `reservation_frames`. Unknown: `u64::MAX`.
    pub static_max_frames: u64,
    /// Free memory.
    pub free_frames: u64,
    /// The watermark below which the allocator starts to reclaim. Memory that self-shrinking and the pressure
    /// policy leave free.
    pub low_frames: u64,
    /// The watermark up to which reclaim frees memory once it has begun: pages that come home take no memory below it,
    /// for others would be pushed out again for that.
    pub high_frames: u64,
    /// Whether this run was asked for by an allocation in need rather than by the timer. Such a run never shrinks the
    /// domain, brings no pages home, and is none of those that self-shrinking waits for.
    pub urgent: bool,
    /// What happened since the last run; only the pressure policy looks at it.
    pub activity: Activity,
}

/// What happened since the last run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The time since the last run, in nanoseconds. 0 is taken for one interval.
    pub elapsed_ns: u64,
    /// Frames allocated, not counting what was freed meanwhile.
    pub allocated_frames: u64,
    /// Pages that came back from swap shortly after they had left ("refaults").
    pub refaulted_frames: u64,
    /// Allocations that had to wait: direct reclaim, or an emergency deflate of the balloon.
    pub stalls: u64,
    /// The time they waited, all together.
    pub stall_ns: u64,
    /// Pages of applications in memory.
    pub resident_frames: u64,
    /// Of these, how many were used lately.
    pub active_frames: u64,
    /// Of these, how many were not.
    pub inactive_frames: u64,
    /// Whether inactive pages have somewhere to go (a swap tier). Without one they are as good as pinned.
    pub evictable: bool,
}

impl Default for Observation {
    /// An empty domain without limits.
    fn default() -> Self {
        Self {
            committed_frames: 0,
            current_frames: 0,
            reservation_frames: 0,
            total_reserve_frames: 0,
            span_frames: 0,
            frontswap_frames: 0,
            frontswap_enabled: false,
            ceiling_frames: u64::MAX,
            static_max_frames: u64::MAX,
            free_frames: 0,
            low_frames: 0,
            high_frames: 0,
            urgent: false,
            activity: Activity::default(),
        }
    }
}

impl Observation {
    /// The highest reservation allowed now: the toolstack's target, or the static maximum if that is lower.
    #[must_use]
    pub fn limit_frames(&self) -> u64 {
        self.ceiling_frames.min(self.static_max_frames)
    }

    /// `reservation`, a count in the unit of `reservation_frames`, in the unit of `current_frames`.
    #[must_use]
    pub fn usable_from_reservation(&self, reservation: u64) -> u64 {
        crate::math::shift(reservation, self.reservation_frames, self.current_frames)
    }

    /// `usable`, a count in the unit of `current_frames`, in the unit of `reservation_frames`.
    #[must_use]
    pub fn reservation_from_usable(&self, usable: u64) -> u64 {
        crate::math::shift(usable, self.current_frames, self.reservation_frames)
    }
}
