//! What a step looks at.

use crate::mm::frame::Stats;
use crate::units::Frames;
use policy::{Activity, Observation};

/// One look at the guest. Counters count from boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The frame allocator's numbers.
    pub frames: Stats,
    /// Paged memory that was promised.
    pub committed: Frames,
    /// Paged memory that is there.
    pub resident: Frames,
    /// Of it, what was used lately.
    pub active: Frames,
    /// Of it, what was not.
    pub inactive: Frames,
    /// Pages that are out in swap.
    pub swapped: Frames,
    /// Whether pages can go there.
    pub swap: bool,
    /// The reservation, as the hypervisor charges it.
    pub reservation: Frames,
    /// The reservation with an empty balloon.
    pub base: Frames,
    /// The most that the toolstack allows now, as a reservation.
    pub ceiling: Frames,
    /// Counter: frames that paged memory took.
    pub taken: u64,
    /// Counter: pages that came back from swap soon after they had left.
    pub refaulted: u64,
    /// Counter: allocations that had to wait for memory.
    pub stalls: u64,
    /// Counter: how long they waited, in nanoseconds.
    pub stall_ns: u64,
}

impl Observed {
    /// What the policy is told. `last` is the last observation and how long ago it was.
    ///
    /// The original's words, and what they are here:
    ///
    /// | original | here |
    /// |---|---|
    /// | `totalram_pages` | the memory that the frame allocator has and that is present |
    /// | `totalreserve_pages` | the high watermark, *and* what the kernel itself has in use |
    /// | `vm_committed_as` | paged memory that was promised |
    /// | `max_pfn` | all memory that the frame allocator may ever have: there are no holes in it |
    ///
    /// The kernel's own memory counts as reserved because it is out of the application's reach; the original left it
    /// out, and its users had their processes killed for it (Linux, bc1b0df59e3f).
    pub(super) fn for_policy(&self, last: Option<(u64, &Self)>, urgent: bool) -> Observation {
        let stats = &self.frames;
        let since = |now: u64, of: fn(&Self) -> u64| last.map_or(0, |(_, last)| now.saturating_sub(of(last)));
        Observation {
            committed_frames: self.committed.get(),
            current_frames: stats.present().get(),
            reservation_frames: self.reservation.get(),
            total_reserve_frames: (stats.watermarks.total_reserve() + stats.pinned).get(),
            span_frames: stats.managed.get(),
            frontswap_frames: self.swapped.get(),
            frontswap_enabled: self.swap,
            ceiling_frames: self.ceiling.get(),
            static_max_frames: self.base.get(),
            free_frames: stats.available().get(),
            low_frames: stats.watermarks.low.get(),
            high_frames: stats.watermarks.high.get(),
            urgent,
            activity: Activity {
                elapsed_ns: last.map_or(0, |(elapsed_ns, _)| elapsed_ns),
                allocated_frames: since(self.taken, |last| last.taken),
                refaulted_frames: since(self.refaulted, |last| last.refaulted),
                stalls: since(self.stalls, |last| last.stalls),
                stall_ns: since(self.stall_ns, |last| last.stall_ns),
                resident_frames: self.resident.get(),
                active_frames: self.active.get(),
                inactive_frames: self.inactive.get(),
                evictable: self.swap,
            },
        }
    }
}
