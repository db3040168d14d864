//! The guest's own tiers, as frontswap knows them: a slot's page has a handle, and the handles are kept by slot.
//!
//! Each serves one swap type, with the slots that it was made for; it refuses what has no name there. Frontswap does one
//! thing at a time to a slot, so a handle needs no lock. The handles of 512 slots come when they are needed first.

use alloc::collections::TryReserveError;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use percpu::Cpus;

use super::pool::{self, Handle, Pool};
use crate::mm::page::Page;
use crate::mm::pool_frames::PoolFrames;
use crate::mm::sparse::Sparse;
use crate::tmem::tier::{Load, Loss, Refusal, Slot, Store, SwapType, Tier};
use crate::units::Frames;
use xen_abi::Errno;

/// Slots whose handles come together: 2 MiB of pages, and a frame of handles.
const CHUNK: usize = 512;

/// A number for each slot of a swap type, 0 at first.
#[derive(Debug)]
struct Handles {
    swap: SwapType,
    of: Sparse<AtomicU64, CHUNK>,
}

impl Handles {
    fn new(swap: SwapType, slots: u64) -> Result<Self, TryReserveError> {
        Ok(Self { swap, of: Sparse::new(slots)? })
    }

    /// The number of a slot that may have one.
    fn of(&self, slot: Slot) -> Option<&AtomicU64> {
        self.of.get(slot.offset).filter(|_| slot.swap == self.swap)
    }

    /// The number of a slot that is to have one.
    fn make(&self, slot: Slot) -> Result<&AtomicU64, Refusal> {
        if slot.swap != self.swap {
            return Err(Refusal::NoName);
        }
        self.of.make_for(slot.offset).map_err(|_| Refusal::Full)?.ok_or(Refusal::NoName)
    }

    fn serves(&self, swap: SwapType, slots: u64) -> Result<(), Refusal> {
        if swap == self.swap && slots <= self.of.len() { Ok(()) } else { Err(Refusal::NoName) }
    }

    /// The slots of this swap type that may have a number.
    fn slots(&self, swap: SwapType) -> impl Iterator<Item = Slot> {
        self.of.iter().filter(move |_| swap == self.swap).map(move |(offset, _)| Slot { swap, offset })
    }
}

/// Pages of one word, as a tier.
#[derive(Debug)]
pub struct SameTier {
    pages: AtomicU64,
    words: Handles,
    /// Whether a slot is in use, a bit for each.
    used: Sparse<AtomicU64, { CHUNK / 64 }>,
}

impl SameTier {
    /// The tier for `slots` slots of a swap type.
    ///
    /// # Errors
    ///
    /// If the heap has no memory for a few bytes per 2 MiB of slots.
    pub fn new(swap: SwapType, slots: u64) -> Result<Self, TryReserveError> {
        let used = Sparse::new(slots.div_ceil(64))?;
        Ok(Self { pages: AtomicU64::new(0), words: Handles::new(swap, slots)?, used })
    }

    /// Pages that it has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The word with a slot's bit, and the bit.
    fn bit(&self, slot: Slot) -> Option<(&AtomicU64, u64)> {
        let word = self.used.get(slot.offset / 64).filter(|_| slot.swap == self.words.swap)?;
        Some((word, 1 << (slot.offset % 64)))
    }
}

impl Tier for SameTier {
    fn name(&self) -> &'static str {
        "same-filled"
    }

    fn init(&self, swap: SwapType, slots: u64) -> Result<(), Refusal> {
        self.words.serves(swap, slots)
    }

    fn prepare(&self, slot: Slot) -> Result<(), Refusal> {
        self.words.make(slot)?;
        self.used.make_for(slot.offset / 64).map(drop).map_err(|_| Refusal::Full)
    }

    fn store(&self, slot: Slot, page: &Page<'_>) -> Store {
        let _ = self.invalidate(slot);
        let Some(word) = page.same_filled() else { return Store::Refused(Refusal::Unsuitable) };
        if let Err(refusal) = self.prepare(slot) {
            return Store::Refused(refusal);
        }
        let (Some(place), Some((used, bit))) = (self.words.of(slot), self.bit(slot)) else {
            return Store::Refused(Refusal::NoName);
        };
        place.store(word, Ordering::Relaxed);
        used.fetch_or(bit, Ordering::Relaxed);
        self.pages.fetch_add(1, Ordering::Relaxed);
        Store::Stored
    }

    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load {
        let in_use = self.bit(slot).is_some_and(|(used, bit)| used.load(Ordering::Relaxed) & bit != 0);
        let Some(word) = self.words.of(slot).filter(|_| in_use) else { return Load::Failed(Loss::Missing) };
        page.fill(word.load(Ordering::Relaxed));
        Load::Loaded
    }

    fn invalidate(&self, slot: Slot) -> Result<(), Errno> {
        if let Some((used, bit)) = self.bit(slot)
            && used.fetch_and(!bit, Ordering::Relaxed) & bit != 0
        {
            self.pages.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno> {
        self.words.slots(swap).try_for_each(|slot| self.invalidate(slot))
    }
}

/// Pages that a tier looks at, at most, for one that is still stored under its name.
const MOST_TRIES: usize = 8;

/// The compressed pool, as a tier.
///
/// It is *crowded*, and has its coldest pages leave for a later tier or for memory, where there are such, from its *high
/// mark* on: 15/16 of the frames that it may have. It also is after it was refused a frame, until a store succeeds.
pub struct PoolTier<F: PoolFrames, P: Cpus> {
    pool: Pool<F, P>,
    /// A handle and 1; or 0. In the pool, the tag of a page is its slot's offset.
    handles: Handles,
    /// There was no frame for the last store.
    starved: AtomicBool,
}

impl<F: PoolFrames, P: Cpus> fmt::Debug for PoolTier<F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pool.fmt(f)
    }
}

impl<F: PoolFrames, P: Cpus> PoolTier<F, P> {
    /// The tier for `slots` slots of a swap type, over an empty pool.
    ///
    /// # Errors
    ///
    /// If the heap has no memory for a few bytes per 2 MiB of slots.
    pub fn new(pool: Pool<F, P>, swap: SwapType, slots: u64) -> Result<Self, TryReserveError> {
        let handles = Handles::new(swap, slots)?;
        Ok(Self { pool, handles, starved: AtomicBool::new(false) })
    }

    /// The pool.
    pub const fn pool(&self) -> &Pool<F, P> {
        &self.pool
    }

    /// Whether it has as many frames as it may.
    pub fn is_full(&self) -> bool {
        let (frames, limit) = self.pool.frames();
        frames >= limit
    }

    /// From how many frames on cold pages should leave.
    fn high_mark(limit: Frames) -> Frames {
        limit - Frames::new(limit.get() >> 4)
    }
}

impl<F: PoolFrames, P: Cpus> Tier for PoolTier<F, P> {
    fn name(&self) -> &'static str {
        "compressed pool"
    }

    fn init(&self, swap: SwapType, slots: u64) -> Result<(), Refusal> {
        self.handles.serves(swap, slots)
    }

    fn prepare(&self, slot: Slot) -> Result<(), Refusal> {
        self.handles.make(slot).map(drop)
    }

    fn store(&self, slot: Slot, page: &Page<'_>) -> Store {
        let place = match self.handles.make(slot) {
            Ok(place) => place,
            Err(refusal) => return Store::Refused(refusal),
        };
        let Ok(tag) = u32::try_from(slot.offset) else {
            return Store::Refused(Refusal::NoName);
        };
        let _ = self.invalidate(slot);
        match self.pool.store_tagged(page.bytes(), tag) {
            Ok(handle) => {
                place.store(handle.to_bits() + 1, Ordering::Relaxed);
                if self.starved.load(Ordering::Relaxed) {
                    self.starved.store(false, Ordering::Relaxed);
                }
                Store::Stored
            }
            Err(pool::Refused::Incompressible { .. }) => Store::Refused(Refusal::Unsuitable),
            Err(pool::Refused::Limit) => Store::Refused(Refusal::Full),
            Err(pool::Refused::NoFrame) => {
                self.starved.store(true, Ordering::Relaxed);
                Store::Refused(Refusal::Full)
            }
        }
    }

    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load {
        let handle = self.handles.of(slot).and_then(|place| place.load(Ordering::Relaxed).checked_sub(1));
        let Some(handle) = handle else { return Load::Failed(Loss::Missing) };
        match self.pool.load(Handle::from_bits(handle), page.bytes_mut()) {
            Ok(()) => Load::Loaded,
            Err(pool::Fault::NotStored) => Load::Failed(Loss::Missing),
            Err(pool::Fault::Corrupt(_)) => Load::Failed(Loss::Corrupt),
        }
    }

    fn invalidate(&self, slot: Slot) -> Result<(), Errno> {
        let handle = self.handles.of(slot).and_then(|place| place.swap(0, Ordering::Relaxed).checked_sub(1));
        if let Some(handle) = handle
            && let Err(fault) = self.pool.free(Handle::from_bits(handle))
        {
            // What was there cannot be reached under this name any more, whatever the pool makes of it.
            log::error!("compressed pool: {slot} was to be freed: {fault}");
        }
        Ok(())
    }

    fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno> {
        self.handles.slots(swap).try_for_each(|slot| self.invalidate(slot))
    }

    fn is_crowded(&self) -> bool {
        let (frames, limit) = self.pool.frames();
        frames >= Self::high_mark(limit) || self.starved.load(Ordering::Relaxed)
    }

    fn coldest(&self) -> Option<Slot> {
        for _ in 0..MOST_TRIES {
            let (handle, tag) = self.pool.coldest()?;
            let slot = Slot { swap: self.handles.swap, offset: u64::from(tag) };
            let stored = self.handles.of(slot).map(|place| place.load(Ordering::Relaxed));
            if stored == Some(handle.to_bits() + 1) {
                return Some(slot);
            }
            // It is being stored or freed at this moment, or its tag is corrupt.
            self.pool.spare(handle);
        }
        None
    }

    fn stays(&self, slot: Slot) {
        let handle = self.handles.of(slot).and_then(|place| place.load(Ordering::Relaxed).checked_sub(1));
        if let Some(handle) = handle {
            self.pool.spare(Handle::from_bits(handle));
        }
    }
}
