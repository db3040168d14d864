//! Frames for a shard, counted against the pool's limit.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::mm::pool_frames::PoolFrames;

/// Why there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Short {
    /// The shard's table is full.
    Slots,
    /// The pool is at its limit.
    Limit,
    /// There is no frame.
    Frame,
}

/// Where all shards of a pool take frames from.
#[derive(Debug)]
pub(super) struct Supply<F> {
    frames: F,
    taken: AtomicU64,
    limit: AtomicU64,
}

impl<F: PoolFrames> Supply<F> {
    pub(super) const fn new(frames: F, limit: u64) -> Self {
        Self { frames, taken: AtomicU64::new(0), limit: AtomicU64::new(limit) }
    }

    pub(super) fn take(&self) -> Result<F::Frame, Short> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |taken| if taken < limit { Some(taken + 1) } else { None };
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Short::Limit)?;
        self.frames.allocate().ok_or_else(|| {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            Short::Frame
        })
    }

    pub(super) fn give(&self, frame: F::Frame) {
        self.frames.free(frame);
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) const fn frames(&self) -> &F {
        &self.frames
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}
