//! What operations answer, and what is counted of them.

use core::fmt;
use core::sync::atomic::{AtomicU64 as Count, Ordering};

use super::super::tier::Loss;
use super::Slot;

/// What a store ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not stored is still only in memory"]
pub enum Stored {
    /// A tier has the page; nothing is to be written to the swap device.
    Done,
    /// A tier has the page, and it is to be written to the swap device, too: write-through.
    WriteToo,
    /// No tier has it: it is for the swap device, or stays.
    No,
}

/// A page that a tier had promised to keep, and did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Which page.
    pub slot: Slot,
    /// The tier that had it; `None` if it was in doubt since a store failed there.
    pub tier: Option<&'static str>,
    /// What it says now.
    pub why: Loss,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the page in {} is lost: {}: {}", self.slot, self.tier.unwrap_or("no tier"), self.why)
    }
}

impl core::error::Error for Lost {}

/// What came of offering a page to tiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offered {
    /// This one has it.
    Taken(usize),
    /// None has.
    Refused,
    /// None has, and one may keep something older.
    Doubtful,
}

/// What a load ended with, apart from [`Lost`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not loaded holds something else"]
pub enum Loaded {
    /// The page holds what was stored, and the tier keeps its copy.
    Copy,
    /// The page holds what was stored, and is the only one now: exclusive gets. It is dirty.
    Only,
    /// No tier has it: it is on the swap device, or was never stored.
    NotHere,
}

/// What has happened so far. The names are the original's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Loads that a tier served.
    pub loads: u64,
    /// Stores that a tier took.
    pub succ_stores: u64,
    /// Stores that none took.
    pub failed_stores: u64,
    /// Pages that were invalidated and were there; not by area, and not by a second store.
    pub invalidates: u64,
    /// Loads that ended in [`Lost`].
    pub lost: u64,
    /// Cold pages that went on to a later tier, to make room.
    pub written_on: u64,
    /// Cold pages that came home, because no later tier took them.
    pub brought_home: u64,
    /// Cold pages that should have left, and that nobody took.
    pub stayed: u64,
}

/// Why a swap type could not be put to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// It is in use.
    InUse,
    /// It was in use before, with fewer slots than are asked for now.
    Smaller,
    /// That many slots cannot be.
    TooMany,
    /// There is no memory for its books.
    NoMemory,
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "the swap type is in use",
            Self::Smaller => "the swap type had fewer slots before",
            Self::TooMany => "too many slots",
            Self::NoMemory => "no kernel memory for its books",
        })
    }
}

impl core::error::Error for InitError {}

/// [`Counters`], as they are counted.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) loads: Count,
    pub(super) succ_stores: Count,
    pub(super) failed_stores: Count,
    pub(super) invalidates: Count,
    pub(super) lost: Count,
    pub(super) written_on: Count,
    pub(super) brought_home: Count,
    pub(super) stayed: Count,
}

/// One more.
pub(super) fn add(counter: &Count) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    pub(super) fn read(&self) -> Counters {
        let read = |counter: &Count| counter.load(Ordering::Relaxed);
        Counters {
            loads: read(&self.loads),
            succ_stores: read(&self.succ_stores),
            failed_stores: read(&self.failed_stores),
            invalidates: read(&self.invalidates),
            lost: read(&self.lost),
            written_on: read(&self.written_on),
            brought_home: read(&self.brought_home),
            stayed: read(&self.stayed),
        }
    }
}
