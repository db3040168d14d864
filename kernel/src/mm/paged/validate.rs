//! Re-deriving the books: what the page tables say against what is counted, and against the frame table.

use core::fmt;
use core::sync::atomic::Ordering;

use percpu::Platform;

use super::entry::{Pte, State};
use super::memory::Mmu;
use super::place::{Page, SLOT_PAGES};
use super::{LockKind, Paged};
use crate::mm::frame::{FrameState, Use};
use crate::units::{Gfn, Order};

/// Books that do not agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inconsistency {
    /// A count, and what was found instead.
    Count {
        /// What is counted.
        what: &'static str,
        /// The counter.
        counted: u64,
        /// What there is.
        found: u64,
    },
    /// A page outside of all regions has an entry.
    Unreserved(u64),
    /// The frame of a page is not held for it.
    Frame {
        /// The page, counted from the window's first.
        page: u64,
        /// The frame.
        frame: Gfn,
    },
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { what, counted, found } => write!(f, "{what}: {counted} counted, {found} found"),
            Self::Unreserved(page) => write!(f, "page {page:#x} of the window has an entry, and no region"),
            Self::Frame { page, frame } => write!(f, "{frame} is not held for page {page:#x} of the window"),
        }
    }
}

impl core::error::Error for Inconsistency {}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Checks everything that can be checked. Meaningful only while nobody touches, evicts or scans pages: a machine's own
    /// threads do so at any time, unless they are held.
    ///
    /// # Errors
    ///
    /// The first inconsistency.
    pub fn validate(&self) -> Result<(), Inconsistency> {
        let (mut resident, mut active, mut tables, mut reserved, mut regions) = (0, 0, 0, 0, 0);
        let mut swapped = 0;
        for (number, _, slot) in self.slots() {
            let locked = slot.lock(self.platform);
            let word = locked.word();
            reserved += u64::from(word.pages() > 0);
            regions += u64::from(word.begins());
            let Some(table) = word.table() else {
                agree("entries of a slot without a table", word.used(), 0)?;
                continue;
            };
            tables += 1;
            let mut used = 0;
            for index in 0..SLOT_PAGES {
                let page = Page(Page::of_slot(number).0 + index);
                let pte = Pte::from_bits(self.memory.entry(table, page.index()).load(Ordering::Relaxed));
                if pte == Pte::UNTOUCHED {
                    continue;
                }
                used += 1;
                if index >= word.pages() {
                    return Err(Inconsistency::Unreserved(page.0));
                }
                active += u64::from(pte.is_active());
                match pte.state() {
                    State::Present(frame) | State::Leaving(frame) => {
                        resident += 1;
                        self.check_frame(page, frame)?;
                    }
                    State::Swapped(_) => swapped += 1,
                    State::Moving(_) | State::Untouched => {}
                }
            }
            agree("entries in use of a slot", word.used(), used)?;
        }
        let stats = self.stats();
        agree("resident pages", stats.resident.get(), resident)?;
        agree("active pages", self.counts.active.sum().cast_unsigned(), active)?;
        agree("swapped pages", stats.swapped.get(), swapped)?;
        agree("page tables", stats.tables.get(), tables)?;
        agree("regions", stats.regions as u64, regions)?;
        let free = self.book.lock(self.platform).free_slots() as u64;
        agree("slots", self.span.slots() as u64, free + reserved + 1)
    }

    fn check_frame(&self, page: Page, frame: Gfn) -> Result<(), Inconsistency> {
        match self.frames.state(frame) {
            FrameState::Used(held)
                if held.usage == Use::Paged
                    && held.detached
                    && held.first == frame
                    && held.order == Order::FRAME
                    && held.owner == page.owner() =>
            {
                Ok(())
            }
            _ => Err(Inconsistency::Frame { page: page.0, frame }),
        }
    }
}

fn agree(what: &'static str, counted: u64, found: u64) -> Result<(), Inconsistency> {
    if counted == found { Ok(()) } else { Err(Inconsistency::Count { what, counted, found }) }
}
