//! Pages come back from swap.
//!
//! Whoever needs a page that is elsewhere takes a frame, marks the page's entry as moving, with that frame, and fills
//! it. Others who need the page find the mark and wait, so it is loaded once. Interrupts are off meanwhile, as for any
//! mark that others wait for. Who discards or releases the page takes the mark away; whoever fetched it then frees both
//! the frame and the place in swap.
//!
//! **Soon missed.** The entry of a page that is elsewhere remembers when it was evicted, by the number of evictions
//! until then. A page that is needed again before as many others have left as are in memory is a *refault*: twice the
//! memory would have kept it. Such a page begins on the active list.

use core::sync::atomic::Ordering;

use percpu::{IrqOff, Platform};

use super::entry::{Pte, State};
use super::error::FaultError;
use super::fault::{Reserve, Served};
use super::memory::Mmu;
use super::place::{Page, SLOT_PAGES};
use super::slot::Slot;
use super::{LockKind, Paged, SwapEntry};
use crate::mm::frame::{Contents, Request, Use};
use crate::units::Frames;

/// log2 of the evictions that a stamp's unit is. So 2^20 evictions can be told apart from none.
const STAMP_UNIT_SHIFT: u32 = 4;

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Fetches the page whose entry was `away`; `None` if it is something else meanwhile.
    pub(super) fn fetch(
        &self,
        slot: &Slot,
        page: Page,
        away: Pte,
        reserve: Reserve,
    ) -> Result<Option<Served>, FaultError> {
        let State::Swapped(place) = away.state() else { return Ok(None) };
        let swap = self.swap_of_entry();
        let request = Request::new(Use::Paged, self.cpu()).owner(page.owner());
        let mut frame = self.take(request, reserve).map_err(FaultError::NoFrame)?;
        let mark = Pte::moving(frame.first());
        // From the mark to the mapping nothing else runs on this CPU.
        let irq = IrqOff::new(self.platform);
        if !self.replace(slot, page, away, mark) {
            drop(irq);
            self.give_back(frame, Contents::Unknown);
            return Ok(None);
        }
        let loaded = match self.memory.lend(&mut frame) {
            Some(mut lent) => swap.load(place, &mut lent),
            None => unreachable!("one frame was asked for"),
        };
        if let Err(lost) = loaded {
            self.counts.swap_lost.add(1);
            let is_back = self.replace(slot, page, mark, away);
            drop(irq);
            self.give_back(frame, Contents::Unknown);
            if is_back {
                return Err(FaultError::Lost(place, lost));
            }
            self.free_swapped(place);
            return Ok(None);
        }
        let soon = self.was_soon(away.stamp());
        let frame = self.hold(frame);
        let fresh = Pte::page(frame);
        let arrived = self.replace(slot, page, mark, if soon { fresh.activated() } else { fresh });
        if arrived {
            self.counts.active.add(i64::from(soon));
            self.counts.resident.add(1);
        }
        drop(irq);
        self.free_swapped(place);
        if !arrived {
            match self.take_back(frame) {
                Ok(extent) => self.give_back(extent, Contents::Unknown),
                Err(misuse) => {
                    unreachable!("paged memory: the frame of a fetched page is not ours: {misuse}")
                }
            }
            return Ok(None);
        }
        self.counts.swap_ins.add(1);
        self.counts.refaulted.add(i64::from(soon));
        Ok(Some(Served::Fetched))
    }

    /// Brings pages back that are elsewhere, up to `most`, as long as `room` says that there is room for one more: a
    /// partial swapoff. Answers how many came. Stops where there is no free frame; a page that is lost stays where it
    /// is, for whoever needs it to be told. For threads.
    pub fn bring_home(&self, most: Frames, room: impl FnMut() -> bool) -> Frames {
        self.bring_home_of(most, room, |_| true)
    }

    /// The same for pages whose entry is `wanted`, of which it asks with a slot locked.
    pub fn bring_home_of(
        &self,
        most: Frames,
        mut room: impl FnMut() -> bool,
        wanted: impl Fn(SwapEntry) -> bool,
    ) -> Frames {
        let mut home = 0;
        for (number, _, slot) in self.slots() {
            let first = Page::of_slot(number).0;
            let mut index = 0;
            while let Some(found) = self.next_away(slot, index, &wanted) {
                if home >= most.get() || !room() {
                    return Frames::new(home);
                }
                index = found.0 + 1;
                match self.fetch(slot, Page(first + found.0 as u64), found.1, Reserve::Keep) {
                    Ok(fetched) => home += u64::from(fetched.is_some()),
                    Err(FaultError::NoFrame(_)) => return Frames::new(home),
                    Err(lost) => log::error!("paged memory: a page stays away: {lost}"),
                }
            }
        }
        Frames::new(home)
    }

    /// The first page of a slot that is elsewhere, in a `wanted` place, from `index` on, and its entry.
    fn next_away(
        &self,
        slot: &Slot,
        index: usize,
        wanted: &impl Fn(SwapEntry) -> bool,
    ) -> Option<(usize, Pte)> {
        slot.peek().table()?;
        let locked = slot.lock(self.platform);
        let table = locked.word().table()?;
        (index..SLOT_PAGES as usize).find_map(|index| {
            let pte = Pte::from_bits(self.memory.entry(table, index).load(Ordering::Relaxed));
            matches!(pte.state(), State::Swapped(place) if wanted(place)).then_some((index, pte))
        })
    }

    /// Changes a page's entry that the processor does not change, if it is still `from`, and answers whether it was.
    pub(super) fn replace(&self, slot: &Slot, page: Page, from: Pte, to: Pte) -> bool {
        let locked = slot.lock(self.platform);
        let Some(table) = locked.word().table() else { return false };
        let entry = self.memory.entry(table, page.index());
        // Release: the contents are complete before a mapping is there.
        entry.compare_exchange(from.bits(), to.bits(), Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The page in this place is not needed any more.
    pub(super) fn free_swapped(&self, place: SwapEntry) {
        self.swap_of_entry().free(place);
        self.counts.swapped.add(-1);
    }

    /// What an entry remembers of the time at which its page is evicted. The clock goes on.
    pub(super) fn stamp(&self) -> u16 {
        (self.evictions.fetch_add(1, Ordering::Relaxed) >> STAMP_UNIT_SHIFT) as u16
    }

    /// Whether a page that was evicted then would be in memory if there were twice as much.
    fn was_soon(&self, stamp: u16) -> bool {
        let now = (self.evictions.load(Ordering::Relaxed) >> STAMP_UNIT_SHIFT) as u16;
        u64::from(now.wrapping_sub(stamp)) << STAMP_UNIT_SHIFT <= self.resident().get()
    }
}
