//! A place for pages that were evicted: what [`frontswap`](super::frontswap) tries in order.
//!
//! A tier is a small back end: the hypervisor's tmem, a compressed pool in the guest, pages that are one word repeated.
//! It maps a [`Slot`] to a page of bytes, and keeps these promises, on which the absence of stale and lost data rests:
//!
//! - **Exact.** A load that answers [`Load::Loaded`] has written all 4096 bytes of the last store of that slot that was
//!   answered with [`Store::Stored`].
//! - **Nothing after a refusal.** Once a store was refused, the tier holds nothing of that slot, whatever it held
//!   before. If it cannot promise that, it says [`Store::Doubtful`].
//! - **Persistent.** What was stored stays until it is invalidated, overwritten or the tier is shut down; a page that was
//!   lost is reported as [`Load::Failed`] if the tier knows.
//!
//! Frontswap serialises the operations on one slot; operations on different slots run in parallel, on any CPU. A tier
//! does not call frontswap back, with one exception: a tier that passes pages on does so through
//! [`Frontswap::demote`](super::frontswap::Frontswap::demote), outside its own operations.

use core::fmt;

use crate::mm::page::Page;
use xen_abi::Errno;

/// A swap type: one swap device's worth of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SwapType(u8);

/// Swap types that there can be.
pub const SWAP_TYPES: usize = 32;

impl SwapType {
    /// The swap type with this number, below [`SWAP_TYPES`].
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < SWAP_TYPES { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for SwapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swap {}", self.0)
    }
}

/// Where an evicted page belongs: a place of a swap type. The name of its contents until it is freed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// The swap type.
    pub swap: SwapType,
    /// The place in it, in pages.
    pub offset: u64,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {:#x} of {}", self.offset, self.swap)
    }
}

/// Why a tier did not take a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is full, or memory is.
    Full,
    /// The page does not suit it: it would not get smaller, it is not one word repeated.
    Unsuitable,
    /// The tier is frozen, being shut down, or not there.
    Unavailable,
    /// The slot has no name in the tier.
    NoName,
    /// It answered something that makes no sense, or an error that should not happen.
    Broken(Errno),
}

/// What a store ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not stored is still only in memory"]
pub enum Store {
    /// The tier has a copy of the page.
    Stored,
    /// The tier holds nothing of this slot.
    Refused(Refusal),
    /// The page was not stored, and an older one could not be removed: the slot must not be loaded from this tier
    /// again, nor used again, until an invalidation succeeds.
    Doubtful(Errno),
}

/// Why a page that a tier should have cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The tier says that it does not have it.
    Missing,
    /// The tier is gone: its pool was destroyed, its service restarted.
    TierGone,
    /// What the tier has is not what was stored (a checksum, or a decoder, says so).
    Corrupt,
    /// The hypervisor would not write to the page.
    BadFrame,
    /// An answer that makes no sense.
    Broken(Errno),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it has no such page"),
            Self::TierGone => f.write_str("it is gone"),
            Self::Corrupt => f.write_str("its copy is corrupt"),
            Self::BadFrame => f.write_str("it would not write to the frame"),
            Self::Broken(error) => write!(f, "it answered {error}"),
        }
    }
}

/// What a load ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not loaded holds something else"]
pub enum Load {
    /// The page holds what was stored; the tier keeps its copy.
    Loaded,
    /// The page does not hold it, and may hold anything.
    Failed(Loss),
}

/// A back end of frontswap. See the module for what it promises.
///
/// **Context.** Called from threads. [`store`](Self::store) runs when memory is short: it must not wait for memory.
pub trait Tier: Sync {
    /// A name for people and counters.
    fn name(&self) -> &'static str;

    /// Swap type `swap` with `slots` places comes into use. May be told about one that it knows.
    ///
    /// # Errors
    ///
    /// If it cannot serve it; it will be asked all the same, and refuses.
    fn init(&self, swap: SwapType, slots: u64) -> Result<(), Refusal> {
        let _ = (swap, slots);
        Ok(())
    }

    /// Makes the books of a slot and of those around it, so that a [`store`](Self::store) there needs none.
    ///
    /// # Errors
    ///
    /// If there is no memory for them.
    fn prepare(&self, slot: Slot) -> Result<(), Refusal> {
        let _ = slot;
        Ok(())
    }

    /// Keeps a copy of the page, in place of any older one of the slot.
    fn store(&self, slot: Slot, page: &Page<'_>) -> Store;

    /// Fills the page with what was stored.
    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load;

    /// Forgets the slot, whether there is a page or not.
    ///
    /// # Errors
    ///
    /// If an old page may still be there.
    fn invalidate(&self, slot: Slot) -> Result<(), Errno>;

    /// Forgets all slots of a swap type, of which no other operation is running.
    ///
    /// # Errors
    ///
    /// If old pages may still be there.
    fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno>;

    /// Whether its pages are still there after the domain was suspended and resumed.
    fn survives_suspend(&self) -> bool {
        true
    }
}

impl<T: Tier + ?Sized> Tier for &T {
    fn name(&self) -> &'static str {
        (**self).name()
    }
    fn init(&self, swap: SwapType, slots: u64) -> Result<(), Refusal> {
        (**self).init(swap, slots)
    }
    fn prepare(&self, slot: Slot) -> Result<(), Refusal> {
        (**self).prepare(slot)
    }
    fn store(&self, slot: Slot, page: &Page<'_>) -> Store {
        (**self).store(slot, page)
    }
    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load {
        (**self).load(slot, page)
    }
    fn invalidate(&self, slot: Slot) -> Result<(), Errno> {
        (**self).invalidate(slot)
    }
    fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno> {
        (**self).invalidate_area(swap)
    }
    fn survives_suspend(&self) -> bool {
        (**self).survives_suspend()
    }
}
