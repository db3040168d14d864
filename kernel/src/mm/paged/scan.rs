//! Active and inactive pages, told apart by the processor's accessed bits.
//!
//! A page in memory is on one of two lists: *inactive*, where it begins, or *active*. The lists are not linked: which
//! one a page is on is a bit of its own page-table entry, so they cost no memory, and their order is that of the scan.
//! A hand goes round over the tables of the window. Where it finds a page accessed since it last came by, it puts it on
//! the active list; where not, it puts an active one on the inactive list, and leaves an inactive one as what to evict
//! first. So a page that is used less often than once a round becomes a candidate in the second.

use core::sync::atomic::{AtomicUsize, Ordering};

use percpu::Platform;

use super::entry::{Pte, State};
use super::memory::Mmu;
use super::place::SLOT_PAGES;
use super::{LockKind, Paged};
use crate::smp::Flush;
use crate::units::Frames;

/// Where the scan goes on.
#[derive(Debug)]
pub(super) struct Hand(AtomicUsize);

impl Hand {
    pub(super) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }
}

/// What a scan found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Pages that it looked at.
    pub pages: u64,
    /// Those that had been accessed since the last time.
    pub accessed: u64,
    /// Pages that became active.
    pub activated: u64,
    /// Pages that became inactive.
    pub deactivated: u64,
    /// Pages that were inactive and not accessed: candidates for eviction.
    pub idle: u64,
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Looks at the next pages in memory: at least `most` if there are as many, and at most a table more; each at most
    /// once. Flushes once, so that the processors mark accesses anew. Time grows with `most` and with the tables that
    /// are passed.
    pub fn scan(&self, most: Frames) -> Scanned {
        let mut found = Scanned::default();
        let slots = self.span.slots();
        let mut at = self.hand.0.load(Ordering::Relaxed) % slots.max(1);
        let mut passed = 0;
        while passed < slots && found.pages < most.get() {
            let gib = self.gibs.get(at / super::GIB_SLOTS).and_then(spin::once::Once::get);
            let step = match gib {
                Some(gib) => {
                    self.scan_slot(&gib.slots[at % super::GIB_SLOTS], &mut found);
                    1
                }
                None => super::GIB_SLOTS - at % super::GIB_SLOTS,
            };
            passed += step;
            at = (at + step) % slots;
        }
        // Two scans at a time look at some pages twice; that costs accuracy, nothing else.
        self.hand.0.store(at, Ordering::Relaxed);
        if found.accessed > 0 {
            self.memory.flush(Flush::All);
        }
        found
    }

    fn scan_slot(&self, slot: &super::Slot, found: &mut Scanned) {
        // Most slots have no table; one that gets one now was just touched.
        if slot.peek().table().is_none() {
            return;
        }
        let mut change = 0;
        let locked = slot.lock(self.platform);
        let Some(table) = locked.word().table() else { return };
        for index in 0..SLOT_PAGES as usize {
            let entry = self.memory.entry(table, index);
            let pte = Pte::from_bits(entry.load(Ordering::Relaxed));
            let State::Present(_) = pte.state() else { continue };
            found.pages += 1;
            let active = pte.is_accessed();
            match (pte.is_active(), active) {
                (false, true) => {
                    found.activated += 1;
                    change += 1;
                }
                (true, false) => {
                    found.deactivated += 1;
                    change -= 1;
                }
                (false, false) => found.idle += 1,
                (true, true) => {}
            }
            found.accessed += u64::from(active);
            // One after the other: the processor changes the entry too, and an access in between is not lost, it is
            // seen in the next round.
            let (clear, set) = Pte::marks(active);
            entry.fetch_and(!clear, Ordering::Relaxed);
            entry.fetch_or(set, Ordering::Relaxed);
        }
        drop(locked);
        self.counts.active.add(change);
    }
}
