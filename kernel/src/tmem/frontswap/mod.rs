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
//! | `shrink.rs` | pages come home: partial swapoff, draining before a suspend |
//!
//! **Context.** Operations may block, for whoever works on the same slot. Different slots do not meet.

mod hypervisor;
mod map;
mod shrink;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use percpu::Platform;
use spin::once::Once;

use self::map::{Content, Held, Map};
use super::tier::{Load, Loss, Refusal, SWAP_TYPES, Slot, Store, SwapType, Tier};
use crate::mm::page::Page;
use xen_abi::Errno;

pub use self::hypervisor::Hypervisor;
pub use self::map::MAX_TIERS;
pub use self::shrink::{Choice, Drained, Home};

/// One swap type in use.
#[derive(Debug)]
struct Area {
    map: Map,
    /// Slots that say that a tier has them.
    pages: AtomicU64,
    /// Stores are taken: between `init` and `invalidate_area`.
    active: AtomicBool,
}

/// What a store ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not stored is still only in memory"]
pub enum Stored {
    /// A tier has the page; nothing is to be written to the swap device.
    Done,
    /// A tier has the page, and it is to be written to the swap device, too: write-through.
    WriteToo,
    /// No tier has it: it is for the swap device, or stays.
    No,
}

/// A page that a tier had promised to keep, and did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Which page.
    pub slot: Slot,
    /// The tier that had it; `None` if it was in doubt since a store failed there.
    pub tier: Option<&'static str>,
    /// What it says now.
    pub why: Loss,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the page in {} is lost: {}: {}", self.slot, self.tier.unwrap_or("no tier"), self.why)
    }
}

impl core::error::Error for Lost {}

/// What a load ended with, apart from [`Lost`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not loaded holds something else"]
pub enum Loaded {
    /// The page holds what was stored, and the tier keeps its copy.
    Copy,
    /// The page holds what was stored, and is the only one now: exclusive gets. It is dirty.
    Only,
    /// No tier has it: it is on the swap device, or was never stored.
    NotHere,
}

/// What has happened so far. The names are the original's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Loads that a tier served.
    pub loads: u64,
    /// Stores that a tier took.
    pub succ_stores: u64,
    /// Stores that none took.
    pub failed_stores: u64,
    /// Pages that were invalidated and were there; not by area, and not by a second store.
    pub invalidates: u64,
    /// Loads that ended in [`Lost`].
    pub lost: u64,
}

/// Why a swap type could not be put to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// It is in use.
    InUse,
    /// It was in use before, with fewer slots than are asked for now.
    Smaller,
    /// That many slots cannot be.
    TooMany,
    /// There is no memory for its books.
    NoMemory,
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "the swap type is in use",
            Self::Smaller => "the swap type had fewer slots before",
            Self::TooMany => "too many slots",
            Self::NoMemory => "no kernel memory for its books",
        })
    }
}

impl core::error::Error for InitError {}

/// The front end, over tiers that are tried in their order.
pub struct Frontswap<'t, P> {
    platform: P,
    tiers: &'t [&'t dyn Tier],
    areas: [Once<Area>; SWAP_TYPES],
    write_through: AtomicBool,
    exclusive_gets: AtomicBool,
    /// How many drains want that no tier that forgets takes anything.
    drains: AtomicU64,
    loads: AtomicU64,
    succ_stores: AtomicU64,
    failed_stores: AtomicU64,
    invalidates: AtomicU64,
    lost: AtomicU64,
}

impl<P> fmt::Debug for Frontswap<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontswap").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<P> Frontswap<'_, P> {
    /// What has happened so far. Each number is exact; together they may be from different moments.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            loads: read(&self.loads),
            succ_stores: read(&self.succ_stores),
            failed_stores: read(&self.failed_stores),
            invalidates: read(&self.invalidates),
            lost: read(&self.lost),
        }
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
        let zero = || AtomicU64::new(0);
        Self {
            platform,
            tiers,
            areas: [const { Once::new() }; SWAP_TYPES],
            write_through: AtomicBool::new(false),
            exclusive_gets: AtomicBool::new(false),
            drains: zero(),
            loads: zero(),
            succ_stores: zero(),
            failed_stores: zero(),
            invalidates: zero(),
            lost: zero(),
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
            Ok(Area { map, pages: AtomicU64::new(0), active: AtomicBool::new(false) })
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

    fn hold(&self, slot: Slot) -> Option<(&Area, Held<'_, P>)> {
        let area = self.area(slot.swap)?;
        Some((area, area.map.hold(slot.offset, self.platform)?))
    }

    /// Removes what tiers have of a held slot. Afterwards it is empty, or doubtful.
    fn empty(&self, area: &Area, slot: Slot, held: &mut Held<'_, P>) -> Result<(), Errno> {
        let removed = match held.content {
            Content::Empty => return Ok(()),
            Content::In { tier, .. } => {
                area.pages.fetch_sub(1, Ordering::Relaxed);
                self.tiers[tier].invalidate(slot)
            }
            Content::Doubtful => self.tiers.iter().try_for_each(|tier| tier.invalidate(slot)),
        };
        held.content = if removed.is_ok() { Content::Empty } else { Content::Doubtful };
        removed
    }

    /// Offers a page to the tiers. An older page of the slot is removed, whatever comes of it.
    ///
    /// A slot beyond the end, or of a swap type that is not in use, is refused without a count, as without any tier.
    pub fn store(&self, slot: Slot, page: &Page<'_>) -> Stored {
        if self.tiers.is_empty() {
            return Stored::No;
        }
        if self.area(slot.swap).is_some_and(|area| area.map.make(slot.offset).is_err()) {
            add(&self.failed_stores);
            return Stored::No;
        }
        let Some((area, mut held)) = self.hold(slot) else { return Stored::No };
        // After the slot is held: whoever ends the use of the type looks at the slots after saying so.
        if !area.active.load(Ordering::SeqCst) {
            return Stored::No;
        }
        let stored =
            self.empty(area, slot, &mut held).is_ok() && self.store_in(0, area, slot, page, &mut held);
        if !stored {
            add(&self.failed_stores);
            return Stored::No;
        }
        add(&self.succ_stores);
        match held.content {
            Content::In { through: true, .. } => Stored::WriteToo,
            _ => Stored::Done,
        }
    }

    /// Tries the tiers from `first` on, for an empty slot.
    fn store_in(
        &self,
        first: usize,
        area: &Area,
        slot: Slot,
        page: &Page<'_>,
        held: &mut Held<'_, P>,
    ) -> bool {
        let draining = self.drains.load(Ordering::SeqCst) > 0;
        for (number, tier) in self.tiers.iter().enumerate().skip(first) {
            if draining && !tier.survives_suspend() {
                continue;
            }
            match tier.store(slot, page) {
                Store::Stored => {
                    let through = self.write_through.load(Ordering::Relaxed);
                    held.content = Content::In { tier: number, through };
                    area.pages.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Store::Refused(refusal) => {
                    if let Refusal::Broken(error) = refusal {
                        log::warn!("frontswap: {} answered {error} to a store", tier.name());
                    }
                }
                Store::Doubtful(error) => {
                    log::error!("frontswap: {} may keep an old page of {slot}: {error}", tier.name());
                    held.content = Content::Doubtful;
                    return false;
                }
            }
        }
        false
    }

    /// Fetches the page of a slot.
    ///
    /// # Errors
    ///
    /// [`Lost`]: a tier had the only copy, and cannot give it. The page holds anything; it must not be used. The slot
    /// still says that the tier has it, so that trying again is possible, until it is invalidated or stored again.
    pub fn load(&self, slot: Slot, page: &mut Page<'_>) -> Result<Loaded, Lost> {
        if self.area(slot.swap).and_then(|area| area.map.peek(slot.offset)) == Some(Content::Empty) {
            return Ok(Loaded::NotHere);
        }
        let Some((area, mut held)) = self.hold(slot) else { return Ok(Loaded::NotHere) };
        let (tier, through) = match held.content {
            Content::Empty => return Ok(Loaded::NotHere),
            Content::In { tier, through } => (self.tiers[tier], through),
            Content::Doubtful => {
                add(&self.lost);
                return Err(Lost { slot, tier: None, why: Loss::Missing });
            }
        };
        match tier.load(slot, page) {
            Load::Loaded => add(&self.loads),
            Load::Failed(why) if through => {
                // The swap device has it. What the tier may still have is of no use.
                log::warn!("frontswap: {} has lost {slot}, which is on the swap device: {why}", tier.name());
                let _ = self.empty(area, slot, &mut held);
                return Ok(Loaded::NotHere);
            }
            Load::Failed(why) => {
                add(&self.lost);
                let lost = Lost { slot, tier: Some(tier.name()), why };
                log::error!("frontswap: {lost}");
                return Err(lost);
            }
        }
        if self.exclusive_gets.load(Ordering::Relaxed) {
            // If it cannot be removed the slot is doubtful, and will not be loaded again.
            let _ = self.empty(area, slot, &mut held);
            return Ok(Loaded::Only);
        }
        Ok(Loaded::Copy)
    }

    /// The slot is free: its page is not wanted any more. Asks nobody if no tier has it.
    pub fn invalidate_page(&self, slot: Slot) {
        if self.area(slot.swap).and_then(|area| area.map.peek(slot.offset)) == Some(Content::Empty) {
            return;
        }
        let Some((area, mut held)) = self.hold(slot) else { return };
        if held.content == Content::Empty {
            return;
        }
        if let Content::In { .. } = held.content {
            add(&self.invalidates);
        }
        if let Err(error) = self.empty(area, slot, &mut held) {
            log::error!("frontswap: an old page of {slot} could not be removed: {error}");
        }
    }

    /// The swap type goes out of use: all its slots are free. Stores that come meanwhile are refused.
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
            drop(area.map.hold(offset, self.platform));
            from = offset + 1;
        }
        let mut outcome = Ok(());
        for tier in self.tiers {
            outcome = outcome.and(tier.invalidate_area(swap));
        }
        from = 0;
        while let Some(offset) = area.map.next(from) {
            if let Some(mut held) = area.map.hold(offset, self.platform) {
                if let Content::In { .. } = held.content {
                    area.pages.fetch_sub(1, Ordering::Relaxed);
                }
                held.content = if outcome.is_ok() { Content::Empty } else { Content::Doubtful };
            }
            from = offset + 1;
        }
        outcome
    }

    /// Passes a page on from the tier that has it to one that is tried later, through a page of the caller's. Answers
    /// whether it went; if not, it stays where it is.
    ///
    /// # Errors
    ///
    /// [`Lost`], as for [`load`](Self::load).
    pub fn demote(&self, slot: Slot, bounce: &mut Page<'_>) -> Result<bool, Lost> {
        let Some((area, mut held)) = self.hold(slot) else { return Ok(false) };
        let before @ Content::In { tier, .. } = held.content else { return Ok(false) };
        if let Load::Failed(why) = self.tiers[tier].load(slot, bounce) {
            add(&self.lost);
            return Err(Lost { slot, tier: Some(self.tiers[tier].name()), why });
        }
        held.content = Content::Empty;
        if !self.store_in(tier + 1, area, slot, bounce, &mut held) {
            // Even if one of the others is in doubt: who has the page is known.
            held.content = before;
            return Ok(false);
        }
        area.pages.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = self.tiers[tier].invalidate(slot) {
            log::warn!("frontswap: {} keeps a page of {slot} that went on: {error}", self.tiers[tier].name());
        }
        Ok(true)
    }
}
