//! Moving pages to other frames, so that whole blocks come free.
//!
//! For a batch of pages: their entries are replaced by marks that say "moving"; all CPUs forget; the contents are
//! copied; the entries come back with the new frames. Between the first and the last step whoever touches such a page
//! faults and spins, so no access sees an old copy or is lost. Interrupts are off from the first mark to the last
//! mapping: a handler of this CPU that touched such a page would wait for itself. That takes one flush and at most
//! [`BATCH`] copies.
//!
//! While a page is marked, its old frame belongs to the mover. Who discards or releases the page meanwhile takes the
//! mark away and nothing else; the mover finds its mark gone and frees both frames.

use core::sync::atomic::Ordering;

use percpu::{IrqOff, Platform};

use super::entry::{Pte, State};
use super::error::MigrateError;
use super::memory::{Mmu, Table};
use super::place::Page;
use super::{LockKind, Paged};
use crate::mm::frame::{AllocError, Contents, Extent, FrameState, Held, Request, SparseBlock, Use};
use crate::smp::Flush;
use crate::units::{BLOCK_FRAMES, Frames, Gfn, Order};

/// Pages that are moved at a time.
const BATCH: usize = 16;

/// A page on its way.
struct Move {
    page: Page,
    from: Gfn,
    /// The frame that it is to have; gone once the page is marked, or found elsewhere.
    to: Option<Extent>,
    marked: Option<Marked>,
}

/// What a marked page's entry was.
#[derive(Clone, Copy)]
struct Marked {
    table: Table,
    pte: Pte,
    to: Gfn,
}

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Moved,
    /// The page was not in this frame any more.
    Elsewhere,
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Moves the page in `frame` to another frame, which it answers, and frees this one. Concurrent accesses to the page
    /// wait; none is lost.
    ///
    /// # Errors
    ///
    /// [`MigrateError`]; then the page is where it was.
    pub fn migrate(&self, frame: Gfn) -> Result<Gfn, MigrateError> {
        let FrameState::Used(held) = self.frames.state(frame) else {
            return Err(MigrateError::NotPaged(frame));
        };
        let page = self.movable(&held).ok_or(MigrateError::NotPaged(frame))?;
        let to = self.frame_to_move_to(page).map_err(MigrateError::NoFrame)?;
        let new = to.first();
        let mut moves = [Some(Move { page, from: frame, to: Some(to), marked: None })];
        if self.move_all(&mut moves) == 1 { Ok(new) } else { Err(MigrateError::NotPaged(frame)) }
    }

    /// Moves the pages of paged memory out of a block, and answers how many it moved. Stops when there is no frame
    /// outside of the block to move to. Other movable frames stay, and so do pages that come into the block meanwhile:
    /// whether it is whole afterwards is for the caller to see.
    pub fn evacuate(&self, block: &SparseBlock) -> Frames {
        // Marks, and not lists: this runs on stacks of some KiB, below whoever steps the balloon.
        let mut held = Marks::new(block.first);
        self.frames.held_in_block(block.first, |extent| {
            if self.movable(&extent).is_some() {
                held.set(extent.first);
            }
        });
        let mut kept = Marks::new(block.first);
        let mut frames = held.iter().peekable();
        let mut moved = 0;
        let mut short = false;
        while frames.peek().is_some() && !short {
            let mut moves = [const { None }; BATCH];
            for place in &mut moves {
                let Some(from) = frames.next() else { break };
                // It may have gone since, or serve another page.
                let FrameState::Used(held) = self.frames.state(from) else { continue };
                let Some(page) = self.movable(&held) else { continue };
                let Some(to) = self.frame_outside(page, &mut kept) else {
                    short = true;
                    break;
                };
                *place = Some(Move { page, from, to: Some(to), marked: None });
            }
            moved += self.move_all(&mut moves);
        }
        for frame in kept.iter() {
            self.free_unused(frame);
        }
        Frames::new(moved)
    }

    /// The page that a frame holds, if it is one of ours.
    fn movable(&self, held: &Held) -> Option<Page> {
        let ours = held.usage == Use::Paged && held.detached && held.order == Order::FRAME;
        let page = Page(held.owner.get());
        (ours && page.slot() < self.span.slots()).then_some(page)
    }

    fn frame_to_move_to(&self, page: Page) -> Result<Extent, AllocError> {
        self.frames.alloc(Request::new(Use::Paged, self.cpu()).owner(page.owner()))
    }

    /// A frame outside of the block that is emptied. Frames inside of it are kept until that is done, or they would be
    /// given again.
    fn frame_outside(&self, page: Page, kept: &mut Marks) -> Option<Extent> {
        loop {
            let extent = self.frame_to_move_to(page).ok()?;
            if !kept.covers(extent.first()) {
                return Some(extent);
            }
            kept.set(self.hold(extent));
        }
    }

    /// Moves pages, and answers how many.
    fn move_all(&self, moves: &mut [Option<Move>]) -> u64 {
        let mut moved = 0_u64;
        {
            // From here to the last mapping nothing else runs on this CPU.
            let _irq = IrqOff::new(self.platform);
            let (mut first, mut last) = (u64::MAX, 0);
            for one in moves.iter_mut().flatten() {
                if self.mark(one) {
                    (first, last) = (first.min(one.page.0), last.max(one.page.0));
                }
            }
            if first <= last {
                let start = self.span.address(Page(first));
                self.memory.flush(Flush::pages(start, last - first + 1));
            }
            for one in moves.iter_mut().flatten() {
                if let Some(marked) = one.marked {
                    self.memory.copy(one.from, marked.to);
                    if self.arrive(one.page, one.from, marked) == Outcome::Moved {
                        moved += 1;
                        self.counts.resident.add(1);
                    } else {
                        self.counts.active.add(-i64::from(marked.pte.is_active()));
                        self.free_unused(marked.to);
                    }
                }
            }
        }
        for one in moves.iter_mut().filter_map(Option::take) {
            match (one.to, one.marked) {
                (Some(unused), _) => self.give_back(unused, Contents::Unknown),
                // Nobody reaches the old frame: not since the flush.
                (None, _) => self.free_frame(one.from),
            }
        }
        self.counts.migrated.add(moved.cast_signed());
        moved
    }

    /// Replaces the entry of a page that is still in its frame by a mark, and answers whether it was.
    fn mark(&self, one: &mut Move) -> bool {
        let Some((_, slot)) = self.slot(one.page) else { return false };
        let locked = slot.lock(self.platform);
        let Some(table) = locked.word().table() else { return false };
        let entry = self.memory.entry(table, one.page.index());
        let found = Pte::from_bits(entry.load(Ordering::Relaxed));
        if found.state() != State::Present(one.from) {
            return false;
        }
        let Some(to) = one.to.take() else { return false };
        // The processor may have set bits since; nobody else changes the entry while the slot is locked.
        let pte = Pte::from_bits(entry.swap(Pte::moving(one.from).bits(), Ordering::AcqRel));
        one.marked = Some(Marked { table, pte, to: self.hold(to) });
        true
    }

    /// Maps a marked page to its new frame, if the mark is still there.
    ///
    /// The mark names the old frame, which nobody else can have as long as it is ours; so a table that was freed and
    /// serves another slot or purpose does not show it.
    fn arrive(&self, page: Page, from: Gfn, marked: Marked) -> Outcome {
        let Some((_, slot)) = self.slot(page) else { return Outcome::Elsewhere };
        let locked = slot.lock(self.platform);
        if locked.word().table() != Some(marked.table) {
            return Outcome::Elsewhere;
        }
        let entry = self.memory.entry(marked.table, page.index());
        let (mark, new) = (Pte::moving(from).bits(), marked.pte.moved_to(marked.to).bits());
        // Release: the copy is complete before the mapping is there.
        match entry.compare_exchange(mark, new, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Outcome::Moved,
            Err(_) => Outcome::Elsewhere,
        }
    }

    /// Frees a frame that was held by number for a page that is gone.
    fn free_unused(&self, frame: Gfn) {
        match self.take_back(frame) {
            Ok(extent) => self.give_back(extent, Contents::Unknown),
            Err(misuse) => unreachable!("paged memory: the target of a move is not ours: {misuse}"),
        }
    }
}

/// Some frames of a block.
struct Marks {
    block: Gfn,
    bits: [u64; BLOCK_FRAMES as usize / 64],
}

impl Marks {
    const fn new(block: Gfn) -> Self {
        Self { block, bits: [0; BLOCK_FRAMES as usize / 64] }
    }

    /// Whether a frame is one of the block.
    const fn covers(&self, frame: Gfn) -> bool {
        frame.get() / BLOCK_FRAMES == self.block.get() / BLOCK_FRAMES
    }

    /// Marks a frame of the block.
    fn set(&mut self, frame: Gfn) {
        assert!(self.covers(frame), "{frame} is not in the block at {}", self.block);
        let index = (frame.get() % BLOCK_FRAMES) as usize;
        self.bits[index / 64] |= 1 << (index % 64);
    }

    /// The marked frames, lowest first.
    fn iter(&self) -> impl Iterator<Item = Gfn> + use<> {
        let (first, bits) = (self.block.get() / BLOCK_FRAMES * BLOCK_FRAMES, self.bits);
        (0..BLOCK_FRAMES)
            .filter(move |index| bits[*index as usize / 64] >> (index % 64) & 1 != 0)
            .map(move |index| Gfn::new(first + index))
    }
}
