//! The fault path: a page gets a frame when it is first touched.

use core::ops::Range;
use core::sync::atomic::Ordering;

use percpu::Platform;

use super::entry::{Pte, State};
use super::error::{FaultError, PopulateError};
use super::memory::{Mmu, Table};
use super::place::Page;
use super::region::Region;
use super::slot::{Locked, Slot};
use super::{Gib, LockKind, Paged};
use crate::mm::frame::{AllocError, Contents, Extent, Request, Use};
use crate::units::Frames;

/// What the code may do that touched a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// It is a thread, with interrupts and preemption on.
    MayBlock,
    /// Interrupts are off, a spin lock is held, or a read section is open.
    MayNotBlock,
}

/// How a page came to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// It got a frame.
    Filled,
    /// It was there already: another CPU was faster. Or it was about to leave, and stays.
    WasThere,
    /// It was elsewhere, and was fetched into a frame.
    Fetched,
}

/// Who gets memory when there is none: the balloon, reclaim.
pub trait Shortage: Sync {
    /// Tries to have at least `need` frames free, and answers whether it freed some, so that another try makes sense.
    ///
    /// Called with no lock of paged memory held. In [`Context::MayBlock`] it may block, which is for the implementation
    /// to arrange where a fault has turned interrupts off. It must not touch paged memory that may lack a frame, must
    /// end, and answers false if it could do nothing.
    fn relieve(&self, need: Frames, context: Context) -> bool;
}

/// Frames that are asked for in a shortage, so that the next faults need not ask.
const NEED: Frames = Frames::new(64);
/// Times that one fault believes a shortage to be relieved.
const MOST_TRIES: u32 = 64;

/// What there is of a page that somebody needs.
enum Found {
    /// It is in a frame.
    There,
    /// It was never touched.
    Nothing,
    /// It is elsewhere; the entry that says where.
    Away(Pte),
}

/// Whether the last frames may be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserve {
    Keep,
    Use,
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Serves an access to `address` that found no page. Afterwards the access may be tried again.
    ///
    /// Any context; `context` is that of the code that touched the page. Interrupts stay as they are. It takes a free
    /// frame; if there is none, it asks the [`Shortage`], and at last takes one from the allocator's reserve, because an
    /// access cannot be refused. Under [`Overcommit::Strict`](super::Overcommit::Strict), with a limit that the domain
    /// can have, that suffices; under the other policies memory may be exhausted all the same.
    ///
    /// # Errors
    ///
    /// [`FaultError`]: the access cannot be served, and whoever made it cannot go on.
    pub fn fault(&self, address: u64, context: Context) -> Result<Served, FaultError> {
        let page = self.span.page(address).ok_or(FaultError::NoRegion)?;
        match self.fill_patiently(page, context) {
            Err(FaultError::NoFrame(_)) => self.fill(page, Reserve::Use),
            other => other,
        }
    }

    /// Gives frames to some pages of a region, counted from its first, so that touching them takes no fault (as long as
    /// nothing is evicted). Unlike an access this can fail with a value. The allocator's reserve is left alone.
    ///
    /// # Errors
    ///
    /// [`PopulateError`]; the pages before the one that failed stay filled.
    pub fn populate(&self, region: &Region, pages: Range<u64>) -> Result<(), PopulateError> {
        let first = pages.start;
        let pages = self.range_of(region, pages).map_err(|_| PopulateError::Outside)?;
        let context = if self.platform.may_block() { Context::MayBlock } else { Context::MayNotBlock };
        for (page, number) in pages.zip(first..) {
            self.fill_patiently(Page(page), context).map_err(|error| PopulateError::Page(number, error))?;
        }
        Ok(())
    }

    /// Fills a page; when there is no frame, as often as the shortage is relieved.
    fn fill_patiently(&self, page: Page, context: Context) -> Result<Served, FaultError> {
        let mut tries = 0;
        loop {
            let refused = match self.fill(page, Reserve::Keep) {
                Err(refused @ FaultError::NoFrame(_)) => refused,
                other => return other,
            };
            tries += 1;
            self.counts.shortages.add(1);
            let relieved = self.shortage.get().is_some_and(|shortage| shortage.relieve(NEED, context));
            if !relieved || tries == MOST_TRIES {
                return Err(refused);
            }
        }
    }

    /// Fills a page, with zeros or with what it held.
    fn fill(&self, page: Page, reserve: Reserve) -> Result<Served, FaultError> {
        let (gib, slot) = self.slot(page).ok_or(FaultError::NoRegion)?;
        loop {
            // The lock opens here.
            let found = self.look(slot, page)?.0;
            let served = match found {
                Found::There => {
                    self.counts.raced.add(1);
                    return Ok(Served::WasThere);
                }
                Found::Away(entry) => self.fetch(slot, page, entry, reserve)?,
                Found::Nothing => {
                    // Zeroed with no lock held, so that others can use the slot meanwhile.
                    let frame = self.take_frame(page, reserve)?;
                    let mut table = None;
                    let filled = self.install(gib, slot, page, frame, &mut table, reserve);
                    if let Some(spare) = table.take() {
                        self.give_back(spare, Contents::Zero);
                    }
                    filled?
                }
            };
            // If not, the page has changed meanwhile.
            if let Some(served) = served {
                return Ok(served);
            }
        }
    }

    /// What there is of the page. Waits while it is being moved or fetched; keeps it if it is about to leave. With the
    /// slot locked.
    fn look<'s>(&self, slot: &'s Slot, page: Page) -> Result<(Found, Locked<'s, P>), FaultError> {
        let mut rounds = 0_u32;
        loop {
            let locked = slot.lock(self.platform);
            if page.index() as u64 >= locked.word().pages() {
                return Err(FaultError::NoRegion);
            }
            let Some(table) = locked.word().table() else { return Ok((Found::Nothing, locked)) };
            let entry = self.memory.entry(table, page.index());
            let found = Pte::from_bits(entry.load(Ordering::Relaxed));
            match found.state() {
                State::Untouched => return Ok((Found::Nothing, locked)),
                State::Present(_) => return Ok((Found::There, locked)),
                State::Swapped(_) => return Ok((Found::Away(found), locked)),
                State::Leaving(frame) => {
                    // The frame is the page's until whoever evicts it finds this mark as it was.
                    entry.store(Pte::page(frame).bits(), Ordering::Release);
                    self.counts.kept.add(1);
                    return Ok((Found::There, locked));
                }
                State::Moving(_) => {
                    drop(locked);
                    rounds = rounds.saturating_add(1);
                    self.platform.relax(rounds);
                }
            }
        }
    }

    /// Maps `page` to `frame`, unless it has changed meanwhile, which answers `None`. If the slot needs a table, one
    /// comes from `spare`, which is filled on the way.
    fn install(
        &self,
        gib: &Gib,
        slot: &Slot,
        page: Page,
        frame: Extent,
        spare: &mut Option<Extent>,
        reserve: Reserve,
    ) -> Result<Option<Served>, FaultError> {
        loop {
            let (found, mut locked) = match self.look(slot, page) {
                Ok(found) => found,
                Err(error) => {
                    self.give_back(frame, Contents::Zero);
                    return Err(error);
                }
            };
            if !matches!(found, Found::Nothing) {
                drop(locked);
                self.give_back(frame, Contents::Zero);
                return Ok(None);
            }
            let table = match (locked.word().table(), spare.take()) {
                (Some(table), unneeded) => {
                    *spare = unneeded;
                    table
                }
                (None, Some(extent)) => {
                    let table = self.memory.make_table(self.hold(extent), true);
                    locked.set_table(table);
                    self.memory.link(gib.directory, page, table);
                    self.counts.tables.add(1);
                    table
                }
                (None, None) => {
                    drop(locked);
                    match self.take_table_frame(reserve) {
                        Ok(extent) => *spare = Some(extent),
                        Err(error) => {
                            self.give_back(frame, Contents::Zero);
                            return Err(FaultError::NoFrame(error));
                        }
                    }
                    continue;
                }
            };
            self.map(&mut locked, table, page, frame);
            return Ok(Some(Served::Filled));
        }
    }

    /// Maps an untouched page of a locked slot.
    fn map(&self, locked: &mut Locked<'_, P>, table: Table, page: Page, frame: Extent) {
        let frame = self.hold(frame);
        locked.count_used();
        // Release: the zeros are there before the mapping is.
        self.memory.entry(table, page.index()).store(Pte::page(frame).bits(), Ordering::Release);
        self.counts.resident.add(1);
        self.counts.filled.add(1);
    }

    /// A frame of zeros for `page`.
    fn take_frame(&self, page: Page, reserve: Reserve) -> Result<Extent, FaultError> {
        let request = Request::new(Use::Paged, self.cpu()).prefer_zero().owner(page.owner());
        let extent = self.take(request, reserve).map_err(FaultError::NoFrame)?;
        if extent.contents() != Contents::Zero {
            self.memory.zero(extent.first());
            self.counts.zeroed.add(1);
        }
        Ok(extent)
    }

    /// A frame of zeros for a page table. Tables are few beside the pages, and without them frames are of no use.
    fn take_table_frame(&self, reserve: Reserve) -> Result<Extent, AllocError> {
        let extent = self.take(Request::new(Use::Kernel, self.cpu()).prefer_zero(), reserve)?;
        if extent.contents() != Contents::Zero {
            self.memory.zero(extent.first());
        }
        Ok(extent)
    }

    pub(super) fn take(&self, request: Request, reserve: Reserve) -> Result<Extent, AllocError> {
        match reserve {
            Reserve::Keep => self.frames.alloc(request),
            Reserve::Use => self.frames.alloc(request.emergency()),
        }
    }

    /// Gives up the token of a frame that an entry will name.
    pub(super) fn hold(&self, extent: Extent) -> crate::units::Gfn {
        match self.frames.detach(extent) {
            Ok(frame) => frame,
            Err(rejected) => unreachable!("the frame allocator refuses its own extent: {rejected}"),
        }
    }

    /// Gives back a frame that was not used after all.
    pub(super) fn give_back(&self, extent: Extent, contents: Contents) {
        if let Err(rejected) = self.frames.free(extent, contents, self.cpu()) {
            unreachable!("the frame allocator refuses its own extent: {rejected}");
        }
    }
}
