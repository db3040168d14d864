//! Swap space: what paged memory's pages leave for. A slot for each page, and frontswap over the tiers behind it.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use percpu::Platform;

use super::slots::Slots;
use crate::mm::page::Page;
use crate::mm::paged::{Lost, Refused, Swap, SwapEntry};
use crate::tmem::frontswap::{Frontswap, Loaded, Stored};
use crate::tmem::tier::{Loss, Slot, SwapType};
use crate::units::Frames;

/// One swap type in use. There is no swap device: what no tier takes stays in memory.
pub struct SwapSpace<'t, P> {
    frontswap: &'t Frontswap<'t, P>,
    swap: SwapType,
    slots: Slots,
    /// Whether a refusal means that there is no room for any page.
    is_full: fn() -> bool,
    /// Stores under way, and [`CLOSED`].
    stores: AtomicU64,
}

/// No store begins.
const CLOSED: u64 = 1 << 63;

/// A store under way.
struct Storing<'s>(&'s AtomicU64);

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        // Release: whoever finds the last one gone finds what it did.
        self.0.fetch_sub(1, Ordering::Release);
    }
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
        Self { frontswap, swap, slots, is_full, stores: AtomicU64::new(0) }
    }

    /// Has books ready for slots that will be needed soon, as far as there is memory for them. For the time before memory
    /// is short; every store does the same.
    pub fn keep_ahead(&self) {
        self.slots.keep_ahead(|first| self.prepare(first));
    }

    /// Takes no page any more, has those that are here brought home, and then tears the swap type down and sets it up again,
    /// as if nothing had ever been stored. Answers whether that was possible. If it was, no page is taken until
    /// [`turn_on`](Self::turn_on); if there was no memory for the pages, or some are lost, all goes on as before.
    ///
    /// `bring_home` brings home what it can and answers how many pages that were; `out` says how many are out; `relax` lets
    /// others go on. For threads, not two at a time.
    pub fn turn_off(
        &self,
        mut bring_home: impl FnMut() -> Frames,
        out: impl Fn() -> Frames,
        mut relax: impl FnMut(),
    ) -> bool {
        self.stores.fetch_or(CLOSED, Ordering::SeqCst);
        loop {
            let came = bring_home();
            // In this order: a store has its slot before it is over, and none begins.
            let storing = self.stores.load(Ordering::SeqCst) != CLOSED;
            let used = self.slots.used();
            if !storing && used == 0 {
                break;
            }
            // Whoever evicts has a slot before the page counts as out.
            if came == Frames::ZERO && !storing && used <= out().get() {
                self.turn_on();
                return false;
            }
            relax();
        }
        if let Err(error) = self.frontswap.invalidate_area(self.swap) {
            log::error!("{}: a tier may keep old pages, which go before new ones come: {error}", self.swap);
        }
        if let Err(error) = self.frontswap.init(self.swap, self.slots.count()) {
            log::error!("{} stays out of use: {error}", self.swap);
        }
        true
    }

    /// Takes pages again.
    pub fn turn_on(&self) {
        self.stores.fetch_and(!CLOSED, Ordering::SeqCst);
    }

    /// A store begins, unless it is closed.
    fn begin_store(&self) -> Option<Storing<'_>> {
        let before = self.stores.fetch_add(1, Ordering::SeqCst);
        let storing = Storing(&self.stores);
        (before & CLOSED == 0).then_some(storing)
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
        let Some(_storing) = self.begin_store() else { return Err(Refused::Full) };
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
