//! Frontswap: evicted pages go to a tier instead of to a disk.
//!
//! The front end knows for every slot of every swap type whether a tier has its page, and which. Its rules are those of
//! the original (Linux 3.5 to 6.5, `Documentation/vm/frontswap.txt`):
//!
//! - a store over a page that is there removes that first; a store that no tier takes leaves nothing behind;
//! - a load of a slot that no tier has asks nobody;
//! - a slot's page is the only copy, unless the mode was write-through when it was stored. So a load that fails is
//!   [`Lost`], an error of that one page, by name. The original read the disk then, where nothing had ever been written.
//!
//! | file | what lives there |
//! |---|---|
//! | `map.rs` | who has which slot, and the lock of each |
//! | `hypervisor.rs` | the hypervisor's tmem as a tier |
//! | `page.rs` | one page: stored, loaded, taken back |
//! | `outcome.rs` | what operations answer, and what is counted of them |
//! | `moving.rs` | cold pages leave a tier that has no room: for the next one, or for home |
//! | `shrink.rs` | pages come home: partial swapoff, draining before a suspend |
//! | `books.rs` | the counts, derived again; settling what is in doubt |
//!
//! **Context.** Operations may block, for whoever works on the same slot; a caller that must not block spins instead.
//! Such a caller may have taken the CPU from a thread, so a thread that works on a slot which somebody may be loading
//! (in `moving.rs`) is not preempted meanwhile. A store needs no such care: nobody loads a slot before its store
//! has ended. Different slots do not meet.

mod books;
mod hypervisor;
mod map;
mod moving;
mod outcome;
mod page;
mod shrink;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use core::fmt;
// What is only counted, or set. What decides who works on a slot comes from `primitive.rs`.
use core::sync::atomic::{AtomicBool as Setting, AtomicU64 as Count};

use percpu::Platform;
use spin::mutex::SpinMutex;
use spin::once::Once;

use self::map::{Content, Map};
use self::outcome::Counts;
use super::primitive::{AtomicBool, AtomicU64, Ordering};
use super::tier::{Refusal, SWAP_TYPES, Slot, SwapType, Tier};
use crate::mm::page::Page;
use xen_abi::Errno;

pub use self::books::{Census, Imbalance};
pub use self::hypervisor::Hypervisor;
pub use self::map::MAX_TIERS;
pub use self::moving::{MOVES_PER_STORE, Relief};
pub use self::outcome::{Counters, InitError, Loaded, Lost, Stored};
pub use self::shrink::{Choice, HeldOff, Home};

/// One swap type in use.
#[derive(Debug)]
struct Area {
    map: Map,
    /// Slots that say that a tier has them.
    pages: Count,
    /// Stores are taken: between `init` and `invalidate_area`.
    active: AtomicBool,
}

/// The front end, over tiers that are tried in their order.
pub struct Frontswap<'t, P> {
    platform: P,
    tiers: &'t [&'t dyn Tier],
    areas: [Once<Area>; SWAP_TYPES],
    /// Pages of each tier.
    in_tier: [Count; MAX_TIERS],
    write_through: Setting,
    exclusive_gets: Setting,
    /// How many drains want that no tier that forgets takes anything.
    drains: AtomicU64,
    /// A slot has come into doubt since [`settle`](Self::settle) found none.
    doubts: Setting,
    /// What pages are passed on through, one at a time. `None` while it is in use, or was never given.
    bounce: SpinMutex<Option<Page<'static>>>,
    counts: Counts,
}

impl<P> fmt::Debug for Frontswap<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontswap").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl<P> Frontswap<'_, P> {
    /// What has happened so far. Each number is exact; together they may be from different moments.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counts.read()
    }

    /// Stored pages are written to the swap device, too, from now on; off at first. A tier may then lose them.
    pub fn set_write_through(&self, on: bool) {
        self.write_through.store(on, Ordering::Relaxed);
    }

    /// A loaded page leaves its tier, from now on; off at first.
    pub fn set_exclusive_gets(&self, on: bool) {
        self.exclusive_gets.store(on, Ordering::Relaxed);
    }

    /// Pages that tiers have, of all swap types in use: `frontswap_curr_pages`.
    #[must_use]
    pub fn curr_pages(&self) -> u64 {
        self.areas.iter().filter_map(Once::get).map(|area| area.pages.load(Ordering::Relaxed)).sum()
    }

    /// Pages that tiers have of one swap type.
    #[must_use]
    pub fn pages_of(&self, swap: SwapType) -> u64 {
        self.area(swap).map_or(0, |area| area.pages.load(Ordering::Relaxed))
    }

    /// Pages that tier number `tier` has, in the order of [`tiers`](Self::tiers); 0 for one that is not there.
    #[must_use]
    pub fn pages_in(&self, tier: usize) -> u64 {
        self.in_tier.get(tier).map_or(0, |pages| pages.load(Ordering::Relaxed))
    }

    /// A tier has one page more.
    fn came(&self, area: &Area, tier: usize) {
        area.pages.fetch_add(1, Ordering::Relaxed);
        self.in_tier[tier].fetch_add(1, Ordering::Relaxed);
    }

    /// A tier has one page less.
    fn went(&self, area: &Area, tier: usize) {
        area.pages.fetch_sub(1, Ordering::Relaxed);
        self.in_tier[tier].fetch_sub(1, Ordering::Relaxed);
    }

    fn area(&self, swap: SwapType) -> Option<&Area> {
        self.areas.get(usize::from(swap.get()))?.get()
    }
}

impl<'t, P: Platform> Frontswap<'t, P> {
    /// No swap type is in use yet.
    ///
    /// # Panics
    ///
    /// With more than [`MAX_TIERS`] tiers.
    #[must_use]
    pub fn new(platform: P, tiers: &'t [&'t dyn Tier]) -> Self {
        assert!(tiers.len() <= MAX_TIERS, "frontswap has {MAX_TIERS} tiers at most");
        Self {
            platform,
            tiers,
            areas: [const { Once::new() }; SWAP_TYPES],
            in_tier: [const { Count::new(0) }; MAX_TIERS],
            write_through: Setting::new(false),
            exclusive_gets: Setting::new(false),
            drains: AtomicU64::new(0),
            doubts: Setting::new(false),
            bounce: SpinMutex::new(None),
            counts: Counts::default(),
        }
    }

    /// The tiers, in the order in which they are tried.
    #[must_use]
    pub const fn tiers(&self) -> &'t [&'t dyn Tier] {
        self.tiers
    }

    /// Swap type `swap` comes into use with `slots` slots, none of which a tier has. Tells every tier. The books stay for
    /// the next time; they grow with the slots that are used, see [`prepare`](Self::prepare).
    ///
    /// # Errors
    ///
    /// [`InitError`].
    pub fn init(&self, swap: SwapType, slots: u64) -> Result<(), InitError> {
        let place = self.areas.get(usize::from(swap.get())).ok_or(InitError::TooMany)?;
        let area = place.try_call_once(|| {
            let map = Map::new(slots).map_err(|_| InitError::NoMemory)?;
            Ok(Area { map, pages: Count::new(0), active: AtomicBool::new(false) })
        })?;
        if area.map.len() < slots {
            return Err(InitError::Smaller);
        }
        if area.active.swap(true, Ordering::SeqCst) {
            return Err(InitError::InUse);
        }
        for tier in self.tiers {
            if let Err(refusal) = tier.init(swap, slots) {
                log::warn!("frontswap: {} does not serve {swap}: {refusal:?}", tier.name());
            }
        }
        Ok(())
    }

    /// Makes the books of a slot and of its neighbours, the 512 around it, here and in all tiers: a store to any of them
    /// needs no memory for books then. Without this they come with the first store.
    ///
    /// # Errors
    ///
    /// If there is no memory for them, or no such slot.
    pub fn prepare(&self, slot: Slot) -> Result<(), Refusal> {
        let area = self.area(slot.swap).ok_or(Refusal::NoName)?;
        match area.map.make(slot.offset) {
            Ok(true) => self.tiers.iter().try_for_each(|tier| tier.prepare(slot)),
            Ok(false) => Err(Refusal::NoName),
            Err(_) => Err(Refusal::Full),
        }
    }

    /// The swap type goes out of use: all its slots are free. Stores that come meanwhile are refused, and loads find
    /// nothing.
    ///
    /// # Errors
    ///
    /// If old pages may still be in a tier; the type can be put to use again all the same, for a store removes what
    /// there is first.
    pub fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno> {
        let Some(area) = self.area(swap) else { return Ok(()) };
        area.active.store(false, Ordering::SeqCst);
        Map::look_again();
        // Whoever is still working on a slot is waited for; who comes later finds the type out of use.
        let mut from = 0;
        while let Some(offset) = area.map.next(from) {
            let _ = area.map.settled(offset, self.platform);
            from = offset + 1;
        }
        let mut outcome = Ok(());
        for tier in self.tiers {
            outcome = outcome.and(tier.invalidate_area(swap));
        }
        from = 0;
        while let Some(offset) = area.map.next(from) {
            if let Some(mut held) = area.map.hold(offset, self.platform) {
                if let Content::In { tier, .. } = held.content {
                    self.went(area, tier);
                }
                held.content = self.content_after(outcome);
            }
            from = offset + 1;
        }
        outcome
    }
}
