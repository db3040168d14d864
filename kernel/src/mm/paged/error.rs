//! Why paged memory refuses.

use core::fmt;

use super::entry::SwapEntry;
use super::swap::Lost;
use crate::mm::frame::AllocError;
use crate::units::{Frames, Gfn};

/// A promise of memory that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitError {
    /// What was asked for.
    pub asked: Frames,
    /// What is promised already.
    pub committed: Frames,
    /// The most that may be promised.
    pub limit: Frames,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, committed, limit } = self;
        write!(f, "{asked} asked for, {committed} committed, {limit} at most")
    }
}

impl core::error::Error for CommitError {}

/// Why a region could not be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveError {
    /// A region of no pages.
    Empty,
    /// The commit limit.
    Commit(CommitError),
    /// No range of addresses is long enough.
    NoAddresses,
    /// The kernel has no memory for the books, or for page tables.
    NoBooks,
}

impl From<CommitError> for ReserveError {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a region has at least one page"),
            Self::Commit(error) => write!(f, "too much memory promised: {error}"),
            Self::NoAddresses => f.write_str("no range of addresses for paged memory is long enough"),
            Self::NoBooks => f.write_str("no kernel memory for the books of paged memory"),
        }
    }
}

impl core::error::Error for ReserveError {}

/// Why an access cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// The address is in no region.
    NoRegion,
    /// There is no frame, and nobody could get one.
    NoFrame(AllocError),
    /// The contents were swapped out, and there is nobody to bring them back.
    Swapped(SwapEntry),
    /// The contents were swapped out, and are lost.
    Lost(SwapEntry, Lost),
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRegion => f.write_str("no region is there"),
            Self::NoFrame(error) => write!(f, "memory is exhausted: {error}"),
            Self::Swapped(entry) => {
                write!(f, "swapped out to slot {} of type {}, out of reach", entry.slot(), entry.kind())
            }
            Self::Lost(entry, lost) => {
                write!(f, "swapped out to slot {} of type {}, and {lost}", entry.slot(), entry.kind())
            }
        }
    }
}

impl core::error::Error for FaultError {}

/// A range of pages that is not inside the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutsideRegion;

impl fmt::Display for OutsideRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pages are not inside the region")
    }
}

impl core::error::Error for OutsideRegion {}

/// Why a region could not be filled with frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PopulateError {
    /// Some of the pages are not in the region; nothing was filled.
    Outside,
    /// The pages before this one, counted from the region's first, were filled.
    Page(u64, FaultError),
}

impl fmt::Display for PopulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => OutsideRegion.fmt(f),
            Self::Page(page, error) => write!(f, "page {page}: {error}"),
        }
    }
}

impl core::error::Error for PopulateError {}

/// Why a frame was not migrated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrateError {
    /// It is not a frame of paged memory, or not any more.
    NotPaged(Gfn),
    /// There is no frame to move it to.
    NoFrame(AllocError),
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPaged(frame) => write!(f, "{frame} holds no page of paged memory"),
            Self::NoFrame(error) => write!(f, "no frame to move to: {error}"),
        }
    }
}

impl core::error::Error for MigrateError {}
