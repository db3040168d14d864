//! Regions: reserved, released, and discarded in part.
//!
//! Who holds a token may do with the region what it likes, for it answers for every pointer into it. Who has only an
//! address has to promise that it is its own.
#![expect(unsafe_code, reason = "declares what one may do who has only a region's address")]

use core::fmt;
use core::mem;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use percpu::Platform;

use super::batch::Batch;
use super::book::Full;
use super::entry::{Pte, State};
use super::error::{OutsideRegion, ReserveError};
use super::memory::Mmu;
use super::place::{Page, SLOT_PAGES};
use super::{LockKind, Paged};
use crate::units::{FRAME_SIZE, Frames};

/// The pages of 2 MiB of a region, a bit for each.
pub type Mask = [u64; SLOT_PAGES as usize / 64];

/// Who promises the memory of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charge {
    /// The region, all of it, for as long as it is reserved.
    Whole,
    /// Whoever reserves it, by [`Paged::charge`], before pages are used.
    ByCaller,
}

/// A range of pages in the window. Who holds this, or has its address in return for it, owns them.
///
/// Not `Copy`: it goes back to [`Paged::release`] once. Dropping it loses the addresses and the promise, and debug
/// builds say so in the log.
#[must_use = "the region stays reserved for ever unless it is released"]
pub struct Region {
    address: u64,
    pages: u64,
    charge: Charge,
}

impl Region {
    /// Where it begins: a multiple of 2 MiB.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Where it begins. The memory behind it may be accessed until the region is released; for a
    /// [`Charge::ByCaller`] as far as it was charged.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(self.address as usize))
            .unwrap_or_else(|| unreachable!("the window does not begin at 0"))
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> Frames {
        Frames::new(self.pages)
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pages as usize * FRAME_SIZE
    }

    /// Never: a region has at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region of {} pages at {:#x}", self.pages, self.address)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            log::error!("leaked: {self:?} was dropped instead of released");
        }
    }
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Reserves a region of `pages` pages. They hold zeros, and cost nothing but the promise until they are touched.
    /// Time grows with the number of 2 MiB pieces.
    ///
    /// # Errors
    ///
    /// [`ReserveError`]; then nothing is reserved.
    pub fn reserve(&self, pages: Frames, charge: Charge) -> Result<Region, ReserveError> {
        let pages = pages.get();
        if pages == 0 {
            return Err(ReserveError::Empty);
        }
        if charge == Charge::Whole {
            self.commit.charge(Frames::new(pages))?;
        }
        self.take_addresses(pages, charge).map_err(|full| {
            if charge == Charge::Whole {
                self.commit.uncharge(Frames::new(pages));
            }
            match full {
                Full::NoRun => ReserveError::NoAddresses,
                Full::NoMemory => ReserveError::NoBooks,
            }
        })
    }

    fn take_addresses(&self, pages: u64, charge: Charge) -> Result<Region, Full> {
        let slots = usize::try_from(pages.div_ceil(SLOT_PAGES)).map_err(|_| Full::NoRun)?;
        let first = self.book.lock(self.platform).take(slots)?;
        for slot in (first..first + slots).step_by(super::GIB_SLOTS).chain([first + slots - 1]) {
            if let Err(full) = self.make_gib(Page::of_slot(slot)) {
                self.book.lock(self.platform).give_back(first, slots);
                return Err(full);
            }
        }
        for number in 0..slots {
            let (_, slot) = self.slot_of_region(Page::of_slot(first + number));
            let covered = (pages - number as u64 * SLOT_PAGES).min(SLOT_PAGES);
            let mut locked = slot.lock(self.platform);
            assert!(locked.word().pages() == 0, "two regions of paged memory share a slot");
            locked.set_region(covered, number == 0, number + 1 < slots);
            locked.set_charged(number == 0 && charge == Charge::Whole);
            slot.set_tag(0);
        }
        Ok(Region { address: self.span.address(Page::of_slot(first)), pages, charge })
    }

    /// Releases a region: its frames are free, its addresses fault, and its promise is taken back. Nobody may use its
    /// memory any more. Flushes, once for every 64 MiB.
    ///
    /// # Panics
    ///
    /// If the region is another's.
    pub fn release(&self, region: Region) {
        let first = self.page_of(&region);
        self.clear(first.0..first.0 + region.pages, true);
        if region.charge == Charge::Whole {
            self.commit.uncharge(region.pages());
        }
        let slots = region.pages.div_ceil(SLOT_PAGES) as usize;
        self.book.lock(self.platform).give_back(first.slot(), slots);
        mem::forget(region);
    }

    /// Gives the frames of some pages back, counted from the region's first. They hold zeros again. Nobody may access
    /// them meanwhile: what is written then may be lost.
    ///
    /// # Errors
    ///
    /// [`OutsideRegion`] if some of the pages are not in the region; then nothing has changed.
    pub fn discard(&self, region: &Region, pages: Range<u64>) -> Result<(), OutsideRegion> {
        let pages = self.range_of(region, pages)?;
        self.clear(pages, false);
        Ok(())
    }

    /// Gives the frames of some pages back, those in `mask` of the 2 MiB that begin at `address`, with one flush: as
    /// [`discard`](Self::discard), for one who knows a region by its address. Pages that are in no region are left
    /// alone.
    ///
    /// # Safety
    ///
    /// The pages are the caller's, as if it held the region's token, and what lives in them is not used any more, or
    /// may become zeros.
    pub unsafe fn discard_masked(&self, address: u64, mask: &Mask) {
        let Some(start) = self.span.page(address).filter(|page| page.index() == 0) else { return };
        if self.slot(start).is_none() {
            return;
        }
        let mut batch = Batch::new();
        let is_set = |page: u64| mask[page as usize / 64] >> (page % 64) & 1 != 0;
        let mut next = 0;
        while next < SLOT_PAGES {
            let end = (next..SLOT_PAGES).find(|page| is_set(*page) != is_set(next)).unwrap_or(SLOT_PAGES);
            if is_set(next) {
                self.clear_in_slot(start.0 + next..start.0 + end, false, &mut batch);
            }
            next = end;
        }
        self.finish(&mut batch);
    }

    /// Gives up the token of a region that will be known by its address. [`attach`](Self::attach) makes a token of it
    /// again.
    #[must_use = "the address is all that is left of the region"]
    pub fn detach(&self, region: Region) -> NonNull<u8> {
        let (_, slot) = self.slot_of_region(self.page_of(&region));
        slot.lock(self.platform).set_token_out(false);
        let start = region.start();
        mem::forget(region);
        start
    }

    /// Makes a token of a detached region, if one begins at `address`. Of several callers, one wins. Time grows with the
    /// region.
    ///
    /// # Safety
    ///
    /// The region, if there is one, is the caller's: it has detached it, or acts for who has. An allocator's large
    /// objects are detached regions, whose addresses anybody may see.
    ///
    /// ```compile_fail,E0133
    /// # use ebb::mm::{frame::LockKind, paged::{Mmu, Paged}};
    /// # use core::ptr::NonNull;
    /// fn takes_a_vector_away<L: LockKind, M: Mmu, P: percpu::Platform>(paged: &Paged<L, M, P>, at: NonNull<u8>) {
    ///     paged.release(paged.attach(at).unwrap());
    /// }
    /// ```
    pub unsafe fn attach(&self, address: NonNull<u8>) -> Option<Region> {
        let address = address.addr().get() as u64;
        let first = self.span.page(address)?;
        let (_, slot) = self.slot(first)?;
        if address != self.span.address(first) || first.index() != 0 {
            return None;
        }
        let mut word = {
            let mut locked = slot.lock(self.platform);
            if !locked.word().begins() || locked.word().token_is_out() {
                return None;
            }
            locked.set_token_out(true);
            locked.word()
        };
        let charge = if word.is_charged() { Charge::Whole } else { Charge::ByCaller };
        let mut pages = word.pages();
        while word.goes_on() {
            word = self.slot_of_region(Page(first.0 + pages)).1.peek();
            pages += word.pages();
        }
        Some(Region { address, pages, charge })
    }

    /// Leaves a word with every 2 MiB of a region, for [`tag_at`](Self::tag_at).
    pub fn set_tag(&self, region: &Region, tag: usize) {
        let first = self.page_of(region).0;
        for page in (first..first + region.pages).step_by(SLOT_PAGES as usize) {
            self.slot_of_region(Page(page)).1.set_tag(tag);
        }
    }

    /// The word that was left with the region around `address`; 0 if none was, or no region is there. Two loads.
    #[must_use]
    pub fn tag_at(&self, address: u64) -> usize {
        self.span.page(address).and_then(|page| self.slot(page)).map_or(0, |(_, slot)| slot.tag())
    }

    /// The first page of a region of ours.
    fn page_of(&self, region: &Region) -> Page {
        match self.span.page(region.address) {
            Some(page) => page,
            None => unreachable!("{region:?} belongs to another window"),
        }
    }

    /// Pages of a region, in the window.
    pub(super) fn range_of(&self, region: &Region, pages: Range<u64>) -> Result<Range<u64>, OutsideRegion> {
        if pages.start > pages.end || pages.end > region.pages {
            return Err(OutsideRegion);
        }
        let first = self.page_of(region).0;
        Ok(first + pages.start..first + pages.end)
    }

    /// Unmaps pages of one region and frees what was behind them. With `release` their slots belong to no region
    /// afterwards; the pages are then all of the region.
    fn clear(&self, pages: Range<u64>, release: bool) {
        let mut batch = Batch::new();
        let mut next = pages.start;
        while next < pages.end {
            let end = ((next / SLOT_PAGES + 1) * SLOT_PAGES).min(pages.end);
            self.clear_in_slot(next..end, release, &mut batch);
            next = end;
        }
        self.finish(&mut batch);
    }

    /// The same for pages of one slot.
    fn clear_in_slot(&self, mut pages: Range<u64>, release: bool, batch: &mut Batch) {
        let first = Page(pages.start);
        let (gib, slot) = self.slot_of_region(first);
        let start = Page::of_slot(first.slot());
        loop {
            if !batch.has_room_for_table() || !batch.has_room() {
                self.finish(batch);
            }
            let mut active = 0;
            let mut locked = slot.lock(self.platform);
            let whole = first == start && pages.end - start.0 >= locked.word().pages();
            if !whole && let Some(table) = locked.word().table() {
                while !pages.is_empty() && locked.word().used() > 0 && batch.has_room() {
                    let page = Page(pages.start);
                    let pte = self.memory.entry(table, page.index()).swap(0, Ordering::AcqRel);
                    let pte = Pte::from_bits(pte);
                    match pte.state() {
                        State::Untouched => {}
                        State::Present(_) | State::Leaving(_) | State::Swapped(_) => {
                            locked.count_unused();
                            active += i64::from(pte.is_active());
                            batch.add(page, pte);
                        }
                        // Who moves it, or fetches it, finds it gone, and frees it.
                        State::Moving(_) => locked.count_unused(),
                    }
                    pages.start += 1;
                }
            }
            let nothing_left = locked.word().used() == 0;
            if (whole || nothing_left)
                && let Some((table, _)) = locked.take_table()
            {
                self.memory.unlink(gib.directory, start);
                batch.add_table(start, table);
            }
            if release {
                locked.set_region(0, false, false);
            }
            let done = whole || nothing_left || pages.is_empty();
            drop(locked);
            self.counts.active.add(-active);
            if done {
                return;
            }
        }
    }
}
