//! The seam to swap: where the contents of pages go that are not in memory.
//!
//! Paged memory decides which page leaves and when it is needed again; behind [`Swap`] is whoever keeps the contents
//! meanwhile, and names them by a [`SwapEntry`], which the page's own table entry then holds.

use core::fmt;

use percpu::{Platform, SpinLock};

use super::entry::MOST_EVICTORS;
use super::memory::Mmu;
use super::{LockKind, Paged, SwapEntry};
use crate::mm::frame::{AllocError, Extent, Request, Use};
use crate::mm::page::Page;

/// Why a page was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no room for any page, as far as can be told.
    Full,
    /// There is none for this page: it does not get small.
    Unsuitable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "swap is full",
            Self::Unsuitable => "swap has no place for such a page",
        })
    }
}

impl core::error::Error for Refused {}

/// A page that was taken and cannot be had again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Who had it.
    pub holder: &'static str,
    /// What it says, in a few words.
    pub why: &'static str,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost by {}: {}", self.holder, self.why)
    }
}

impl core::error::Error for Lost {}

/// Who keeps pages that are not in memory.
///
/// An entry is in use from the [`store`](Self::store) that answers it to the [`free`](Self::free) that names it, which
/// comes once. Of one entry, nothing happens twice at a time, except that it is never loaded while it is stored or
/// freed. No method may touch paged memory, or wait for memory.
pub trait Swap: Sync {
    /// Keeps a copy of the page. Pages whose numbers, `near`, share all but the lowest nine bits are neighbours, and may
    /// be kept together. Called from threads, with interrupts on; it may block, but not for whoever frees memory.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing is kept.
    fn store(&self, near: u64, page: &Page<'_>) -> Result<SwapEntry, Refused>;

    /// Fills the page with what was stored, which stays until it is freed. Any context but a handler of interrupts; it
    /// must not block.
    ///
    /// # Errors
    ///
    /// [`Lost`]: the page holds anything.
    fn load(&self, entry: SwapEntry, page: &mut Page<'_>) -> Result<(), Lost>;

    /// Forgets what was stored. Context as for [`load`](Self::load).
    fn free(&self, entry: SwapEntry);
}

/// Frames that evictors copy pages into; an evictor's number is the place of its frame.
#[derive(Debug)]
pub(super) struct Bounces([Option<Extent>; MOST_EVICTORS]);

/// Somebody who evicts, with a number that nobody else has meanwhile.
#[derive(Debug)]
pub(super) struct Evictor {
    pub(super) number: u8,
    pub(super) bounce: Extent,
}

/// Swap, as it is attached.
pub(super) struct Attached {
    pub(super) swap: &'static dyn Swap,
    bounces: SpinLock<Bounces>,
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Has pages go to `swap` when memory is short. Takes a frame for each of as many threads as may evict at a time:
    /// one more than there are CPUs, up to 32. Only the first call counts.
    ///
    /// # Errors
    ///
    /// If there is no frame; then nothing has changed.
    ///
    /// # Safety
    ///
    /// `swap` keeps what [`Swap`] says: a load that succeeds fills the page with what was stored under the entry, byte for
    /// byte, and nothing else is ever stored under it until it is freed. The pages hold the application's objects, which
    /// are different ones, or none, if their bytes change.
    #[expect(unsafe_code, reason = "declares what swap must keep")]
    pub unsafe fn set_swap(&self, swap: &'static dyn Swap) -> Result<(), AllocError> {
        self.swap.try_call_once(|| {
            let mut bounces = [const { None }; MOST_EVICTORS];
            let count = (self.platform.cpu_count() + 1).min(MOST_EVICTORS);
            for number in 0..count {
                match self.frames.alloc(Request::new(Use::Kernel, self.cpu())) {
                    Ok(extent) => bounces[number] = Some(extent),
                    Err(error) => {
                        for extent in bounces.into_iter().flatten() {
                            self.give_back(extent, crate::mm::frame::Contents::Unknown);
                        }
                        return Err(error);
                    }
                }
            }
            let bounces = SpinLock::new("frames of evictors", Bounces(bounces));
            Ok(Attached { swap, bounces })
        })?;
        Ok(())
    }

    /// Whether pages have somewhere to go.
    #[must_use]
    pub fn has_swap(&self) -> bool {
        self.swap.is_completed()
    }

    /// Swap, for an entry that it gave.
    pub(super) fn swap_of_entry(&self) -> &'static dyn Swap {
        match self.swap.get() {
            Some(attached) => attached.swap,
            None => unreachable!("paged memory: a page is in swap, and there is none"),
        }
    }

    /// Makes the caller an evictor, if it can be one now.
    pub(super) fn begin_evicting(&self, attached: &Attached) -> Option<Evictor> {
        let mut bounces = attached.bounces.lock(self.platform);
        let (number, place) = bounces.0.iter_mut().enumerate().find(|(_, place)| place.is_some())?;
        Some(Evictor { number: number as u8, bounce: place.take()? })
    }

    /// The caller has evicted.
    pub(super) fn end_evicting(&self, attached: &Attached, evictor: Evictor) {
        attached.bounces.lock(self.platform).0[usize::from(evictor.number)] = Some(evictor.bounce);
    }
}
