//! Swap space: what paged memory's pages leave for. A slot for each page, and frontswap over the tiers behind it.

use core::fmt;

use percpu::Platform;

use super::slots::Slots;
use crate::mm::page::Page;
use crate::mm::paged::{Lost, Refused, Swap, SwapEntry};
use crate::tmem::frontswap::{Frontswap, Loaded, Stored};
use crate::tmem::tier::{Loss, Slot, SwapType};

/// One swap type in use. There is no swap device: what no tier takes stays in memory.
pub struct SwapSpace<'t, P> {
    frontswap: &'t Frontswap<'t, P>,
    swap: SwapType,
    slots: Slots,
    /// Whether a refusal means that there is no room for any page.
    is_full: fn() -> bool,
}

impl<P> fmt::Debug for SwapSpace<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwapSpace")
            .field("swap", &self.swap)
            .field("used", &self.slots.used())
            .finish_non_exhaustive()
    }
}

impl<'t, P: Platform> SwapSpace<'t, P> {
    /// The space of `slots`, which are those that `frontswap` was told of for `swap`. After a refusal `is_full` is asked
    /// whether another page is worth trying.
    #[must_use]
    pub const fn new(
        frontswap: &'t Frontswap<'t, P>,
        swap: SwapType,
        slots: Slots,
        is_full: fn() -> bool,
    ) -> Self {
        Self { frontswap, swap, slots, is_full }
    }

    /// Has books ready for slots that will be needed soon, as far as there is memory for them. For the time before memory
    /// is short; every store does the same.
    pub fn keep_ahead(&self) {
        self.slots.keep_ahead(|first| self.prepare(first));
    }

    /// Makes the books of slots around one.
    fn prepare(&self, first: u64) -> bool {
        self.frontswap.prepare(Slot { swap: self.swap, offset: first }).is_ok()
    }

    /// The slots.
    pub const fn slots(&self) -> &Slots {
        &self.slots
    }

    fn slot_of(&self, entry: SwapEntry) -> Slot {
        assert!(entry.kind() == self.swap.get(), "swap: a page of another type");
        Slot { swap: self.swap, offset: entry.slot() }
    }
}

const fn why(loss: Loss) -> &'static str {
    match loss {
        Loss::Missing => "it has no such page",
        Loss::TierGone => "it is gone",
        Loss::Corrupt => "its copy is corrupt",
        Loss::BadFrame => "it would not write to the frame",
        Loss::Broken(_) => "it answered an error",
    }
}

impl<P: Platform + Sync> Swap for SwapSpace<'_, P> {
    fn store(&self, near: u64, page: &Page<'_>) -> Result<SwapEntry, Refused> {
        self.keep_ahead();
        let offset = self.slots.take(near, |first| self.prepare(first)).ok_or(Refused::Full)?;
        let entry = SwapEntry::new(self.swap.get(), offset);
        match (entry, self.frontswap.store(Slot { swap: self.swap, offset }, page)) {
            (Some(entry), Stored::Done | Stored::WriteToo) => Ok(entry),
            _ => {
                self.slots.give_back(offset);
                Err(if (self.is_full)() { Refused::Full } else { Refused::Unsuitable })
            }
        }
    }

    fn load(&self, entry: SwapEntry, page: &mut Page<'_>) -> Result<(), Lost> {
        match self.frontswap.load(self.slot_of(entry), page) {
            Ok(Loaded::Copy | Loaded::Only) => Ok(()),
            Ok(Loaded::NotHere) => Err(Lost { holder: "frontswap", why: "no tier has it" }),
            Err(lost) => Err(Lost { holder: lost.tier.unwrap_or("frontswap"), why: why(lost.why) }),
        }
    }

    fn free(&self, entry: SwapEntry) {
        self.frontswap.invalidate_page(self.slot_of(entry));
        self.slots.give_back(entry.slot());
    }
}
