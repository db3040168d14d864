//! What an operator may set, and what the pool tells.

use core::sync::atomic::{AtomicU64, Ordering};

use super::shard::{HEADER, TAG, size_in_log};
use crate::units::{FRAME_SIZE, Frames};

/// How a pool is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The most frames that the pool can ever have. Its tables take 32 bytes for each that it has had at a time.
    pub capacity: Frames,
    /// Parts that CPUs can use at the same time: 1 to [`MOST_SHARDS`](super::MOST_SHARDS); the number of CPUs is
    /// enough.
    pub shards: usize,
    /// Whether every page has a checksum. For good: what is stored has one, or has none.
    pub checksum: bool,
    /// What can be changed later.
    pub settings: Settings,
}

/// What can be changed at any time. Values out of range count as the nearest in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The most frames that the pool may take. A pool that has more keeps them, and takes no more.
    pub limit: Frames,
    /// The most bytes that a compressed page may have; others are refused. 1 to [`Settings::MOST_BYTES`].
    pub most_bytes: usize,
    /// How many hundredths of the compressed bytes a shard may take beyond them, before stores slide it together. What
    /// headers, tags, entries and tables take counts, but a 200th of the log may lie dead in any case. 0 slides all the
    /// time; from 1000 on it is all left to [`compact`](super::Pool::compact). The less, the more is copied.
    pub overhead_percent: u64,
    /// The most frames that are slid after a store that took one: each is a page's worth of copying.
    pub slides: u64,
}

impl Settings {
    /// The most that fits.
    pub const MOST_BYTES: usize = FRAME_SIZE - HEADER - TAG;

    /// Limited to `limit`; three quarters of a page; 6 %.
    #[must_use]
    pub const fn new(limit: Frames) -> Self {
        Self { limit, most_bytes: FRAME_SIZE / 4 * 3, overhead_percent: 6, slides: 64 }
    }

    /// Limited to this share, in hundredths, of `all`.
    #[must_use]
    pub fn percent_of(all: Frames, percent: u64) -> Self {
        let limit = u128::from(all.get()) * u128::from(percent.min(100)) / 100;
        Self::new(Frames::new(u64::try_from(limit).unwrap_or(u64::MAX)))
    }
}

const _: () = assert!(size_in_log(TAG + Settings::MOST_BYTES) == FRAME_SIZE);

/// The settings that stores look at; the limit is where frames are taken.
#[derive(Debug, Default)]
pub(super) struct Dials {
    most_bytes: AtomicU64,
    overhead_percent: AtomicU64,
    slides: AtomicU64,
}

impl Dials {
    /// From this overhead on, stores do not slide.
    pub(super) const LEAVE: u64 = 1000;

    pub(super) fn new(settings: &Settings) -> Self {
        let dials = Self::default();
        dials.set(settings);
        dials
    }

    pub(super) fn set(&self, settings: &Settings) {
        let most_bytes = settings.most_bytes.clamp(1, Settings::MOST_BYTES);
        self.most_bytes.store(most_bytes as u64, Ordering::Relaxed);
        self.overhead_percent.store(settings.overhead_percent.min(Self::LEAVE), Ordering::Relaxed);
        self.slides.store(settings.slides, Ordering::Relaxed);
    }

    pub(super) fn most_bytes(&self) -> usize {
        self.most_bytes.load(Ordering::Relaxed) as usize
    }

    pub(super) fn overhead_percent(&self) -> u64 {
        self.overhead_percent.load(Ordering::Relaxed)
    }

    pub(super) fn slides(&self) -> u64 {
        self.slides.load(Ordering::Relaxed)
    }
}

/// What a pool tells: the first seven are what there is now, the others were counted since it was made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Pages stored.
    pub stored: u64,
    /// Bytes of these pages, compressed.
    pub compressed_bytes: u64,
    /// The same with tags, headers and padding.
    pub live_bytes: u64,
    /// Frames that hold objects.
    pub log_frames: u64,
    /// Frames that hold entries.
    pub entry_frames: u64,
    /// The tables of slots, as far as they have grown.
    pub table_bytes: u64,
    /// What compression works in, for all CPUs. Does not grow with what is stored.
    pub scratch_bytes: u64,
    /// Pages taken.
    pub stores: u64,
    /// Pages loaded.
    pub loads: u64,
    /// Pages refused because they do not become small.
    pub refused_incompressible: u64,
    /// Pages refused because of the limit.
    pub refused_limit: u64,
    /// Pages refused because there was no frame.
    pub refused_no_frame: u64,
    /// Pages that were freed after [`coldest`](super::Pool::coldest) had named them: they are elsewhere now, mostly.
    pub evicted: u64,
    /// Loads that found a corrupt page.
    pub corrupt: u64,
    /// Frames that were given up because a header in them, or an entry, was not sound.
    pub damaged_frames: u64,
    /// Objects moved to compact the pool.
    pub moved: u64,
    /// Frames that this has emptied.
    pub emptied: u64,
}

impl Stats {
    /// Frames in the pool.
    #[must_use]
    pub const fn frames(&self) -> Frames {
        Frames::new(self.log_frames + self.entry_frames)
    }

    /// Bytes that the pool holds beyond the compressed bytes that it was asked to keep: frames and tables, as far as
    /// they grow with what can be stored.
    #[must_use]
    pub const fn overhead_bytes(&self) -> u64 {
        (self.frames().get() * FRAME_SIZE as u64 + self.table_bytes).saturating_sub(self.compressed_bytes)
    }
}
