//! Pages leave for swap, so that their frames can serve others.
//!
//! A hand goes round over the tables, by the rules of [`scan`](Paged::scan): a page that was accessed since the hand
//! last came by becomes active, one that was not becomes inactive, and one that is inactive already leaves. Only if all
//! that does not suffice, in the last of [`ROUNDS`] rounds, pages leave whatever they are.
//!
//! A page that leaves is marked so, with the number of who evicts it; all CPUs forget it, once for a batch; it is copied
//! out, under the slot's lock, into a frame of the evictor; swap takes the copy; and if the mark is still there, the
//! page is elsewhere from then on, and its frame free. Until then the frame is the page's. Whoever touches the page
//! takes the mark away and goes on with the same frame, without waiting, and whoever discards it frees the frame; the
//! evictor then has swap forget its copy. So nobody waits for an eviction, which may take as long as compression does,
//! with interrupts on.

use core::sync::atomic::{AtomicU64, Ordering};

use percpu::Platform;

use super::entry::{Pte, State};
use super::memory::Mmu;
use super::place::{GIB_SLOTS, Page, SLOT_PAGES, SLOT_SHIFT};
use super::swap::{Attached, Evictor, Refused};
use super::{LockKind, Paged};
use crate::smp::Flush;
use crate::units::{Frames, Gfn};

/// Pages that are forgotten with one flush.
const BATCH: usize = 64;
/// Times that the hand goes round at most: an active page that is not used any more leaves in the third.
const ROUNDS: u64 = 4;

/// The page where the next eviction begins to look.
#[derive(Debug)]
pub(super) struct Hand(AtomicU64);

impl Hand {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

/// What a reclaim came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Reclaimed {
    /// Frames that are free now. Others may have them before the caller does.
    pub freed: Frames,
    /// Pages that were touched or discarded on their way out.
    pub kept: u64,
    /// Pages that swap had no place for.
    pub refused: u64,
    /// Swap is full: more of the same is of no use now.
    pub full: bool,
    /// As many others are at it as can be. They free memory, too.
    pub busy: bool,
}

/// Pages that have been marked.
struct Batch {
    pages: [(Page, Gfn); BATCH],
    count: usize,
}

impl Batch {
    const fn new() -> Self {
        Self { pages: [(Page(0), Gfn::new(0)); BATCH], count: 0 }
    }

    fn pages(&self) -> &[(Page, Gfn)] {
        &self.pages[..self.count]
    }
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Takes pages out of memory until `want` frames have come free, or nothing more can be done. Time grows with what
    /// is wanted, and with the pages in memory if most of them are in use.
    ///
    /// For threads, with interrupts on: it may block if swap does. Takes no memory but what swap needs for the copies.
    pub fn reclaim(&self, want: Frames) -> Reclaimed {
        let mut outcome = Reclaimed::default();
        let Some(attached) = self.swap.get() else { return outcome };
        let Some(mut evictor) = self.begin_evicting(attached) else {
            return Reclaimed { busy: true, ..outcome };
        };
        let round = (self.span.slots() as u64) << SLOT_SHIFT;
        let (mut passed, mut batch) = (0, Batch::new());
        while outcome.freed < want && !outcome.full && (passed < ROUNDS * round || batch.count > 0) {
            let missing = (want - outcome.freed).get();
            let room = BATCH.min(usize::try_from(missing).unwrap_or(BATCH));
            while batch.count < room && passed < ROUNDS * round {
                let desperate = passed >= (ROUNDS - 1) * round;
                passed += self.choose(&evictor, &mut batch, room, desperate);
            }
            self.evict(attached, &mut evictor, &mut batch, &mut outcome);
        }
        self.end_evicting(attached, evictor);
        outcome
    }

    /// Goes on with the hand to the end of its slot, or until `room` pages are marked. Answers how many pages of the
    /// window it has passed.
    fn choose(&self, evictor: &Evictor, batch: &mut Batch, room: usize, desperate: bool) -> u64 {
        let from = self.evict_hand.0.load(Ordering::Relaxed);
        let page = Page(from % ((self.span.slots() as u64) << SLOT_SHIFT));
        let passed = match self.slot(page) {
            Some((_, slot)) => self.choose_in_slot(slot, page, evictor, batch, room, desperate),
            None => (((GIB_SLOTS - page.index_in_directory()) as u64) << SLOT_SHIFT) - page.index() as u64,
        };
        // Two evictors at a time look at some pages twice; that costs accuracy, nothing else.
        self.evict_hand.0.store(page.0 + passed, Ordering::Relaxed);
        passed
    }

    fn choose_in_slot(
        &self,
        slot: &super::Slot,
        first: Page,
        evictor: &Evictor,
        batch: &mut Batch,
        room: usize,
        desperate: bool,
    ) -> u64 {
        let rest = SLOT_PAGES - first.index() as u64;
        if slot.peek().table().is_none() {
            return rest;
        }
        let mut change = 0;
        let mut passed = 0;
        let locked = slot.lock(self.platform);
        let Some(table) = locked.word().table() else { return rest };
        while passed < rest && batch.count < room {
            let page = Page(first.0 + passed);
            passed += 1;
            let entry = self.memory.entry(table, page.index());
            let pte = Pte::from_bits(entry.load(Ordering::Relaxed));
            let State::Present(frame) = pte.state() else { continue };
            if desperate || !(pte.is_active() || pte.is_accessed()) {
                let mark = Pte::leaving(frame, evictor.number).bits();
                // If it is accessed at this moment it is not idle.
                if entry.compare_exchange(pte.bits(), mark, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    change -= i64::from(pte.is_active());
                    batch.pages[batch.count] = (page, frame);
                    batch.count += 1;
                }
                continue;
            }
            change += i64::from(pte.is_accessed()) - i64::from(pte.is_active());
            // One after the other, as in a scan.
            let (clear, set) = Pte::marks(pte.is_accessed());
            entry.fetch_and(!clear, Ordering::Relaxed);
            entry.fetch_or(set, Ordering::Relaxed);
        }
        drop(locked);
        self.counts.active.add(change);
        passed
    }

    /// Takes out what is marked.
    fn evict(&self, attached: &Attached, evictor: &mut Evictor, batch: &mut Batch, outcome: &mut Reclaimed) {
        let range = batch.pages().iter().fold(None, |range: Option<(u64, u64)>, (page, _)| {
            Some(range.map_or((page.0, page.0), |(first, last)| (first.min(page.0), last.max(page.0))))
        });
        let Some((first, last)) = range else { return };
        self.memory.flush(Flush::pages(self.span.address(Page(first)), last - first + 1));
        for (page, frame) in batch.pages() {
            let mark = Pte::leaving(*frame, evictor.number);
            let (_, slot) = self.slot_of_region(*page);
            if outcome.full {
                self.replace(slot, *page, mark, Pte::page(*frame));
                continue;
            }
            if !self.copy_out(slot, *page, *frame, mark, evictor) {
                outcome.kept += 1;
                continue;
            }
            let stored = match self.memory.lend(&mut evictor.bounce) {
                Some(lent) => attached.swap.store(page.0, &lent),
                None => unreachable!("an evictor has one frame"),
            };
            match stored {
                Ok(place) => {
                    // Before others can see it: whoever fetches the page subtracts.
                    self.counts.swapped.add(1);
                    if self.replace(slot, *page, mark, Pte::swapped(place, self.stamp())) {
                        self.free_frame(*frame);
                        self.counts.swap_outs.add(1);
                        outcome.freed += Frames::new(1);
                    } else {
                        self.free_swapped(place);
                        outcome.kept += 1;
                    }
                }
                Err(refused) => {
                    self.counts.swap_refused.add(1);
                    outcome.refused += 1;
                    outcome.full = refused == Refused::Full;
                    // On the active list it is not tried again soon.
                    if self.replace(slot, *page, mark, Pte::page(*frame).activated()) {
                        self.counts.active.add(1);
                    }
                }
            }
        }
        batch.count = 0;
    }

    /// Copies a page that is still marked, and answers whether it was. The mark keeps the frame from being freed as long
    /// as the slot is locked, and the flush since the mark keeps everybody from writing to it.
    fn copy_out(&self, slot: &super::Slot, page: Page, frame: Gfn, mark: Pte, evictor: &Evictor) -> bool {
        let locked = slot.lock(self.platform);
        let Some(table) = locked.word().table() else { return false };
        if self.memory.entry(table, page.index()).load(Ordering::Acquire) != mark.bits() {
            return false;
        }
        self.memory.copy(frame, evictor.bounce.first());
        true
    }
}
