//! Cold pages leave a tier that has no room.
//!
//! A tier that is *crowded* names its coldest pages, one after the other. Each goes on to the next later tier that takes
//! it; what none takes may come home, when memory has room, and stays otherwise. Stores do the first before they offer a
//! page to such a tier, for [`MOVES_PER_STORE`] pages at most; a thread that has time does both, by [`relieve`].
//! Nothing here is recursive: a page on its way is offered to later tiers as they are.
//!
//! **Races.** While a page is on its way its slot is marked, not held. A load finds it where it was. Who invalidates it
//! removes it from there, and who moves it finds that out at the end and takes it back from where he brought it. Stores
//! to the slot, and whoever ends the use of the swap type or drains, wait for that end. So nobody ever works on a slot
//! of a tier while somebody else does, and the map says at any moment who has the page.
//!
//! [`relieve`]: Frontswap::relieve

use percpu::{CpuPin, Platform};
use spin::mutex::SpinMutex;

use super::super::primitive::Ordering;
use super::super::tier::{Load, Slot, SwapType};
use super::map::Content;
use super::outcome::{Offered, add};
use super::{Area, Frontswap, Lost};
use crate::mm::page::Page;
use xen_abi::Errno;

/// Pages that a store passes on at most, before it offers its own.
pub const MOVES_PER_STORE: usize = 4;

/// Pages that [`Frontswap::relieve`] looks at in a tier.
const BATCH: usize = 32;

/// What lists begin with.
const NOWHERE: Slot = match SwapType::new(0) {
    Some(swap) => Slot { swap, offset: 0 },
    None => unreachable!(),
};

/// What became of the coldest pages of crowded tiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Relief {
    /// They are in a later tier.
    pub written_on: u64,
    /// They are in memory.
    pub brought_home: u64,
    /// They are where they were.
    pub stayed: u64,
}

/// The page that others pass through, as long as it is this one's turn.
struct Bounce<'f, P: Platform> {
    place: &'f SpinMutex<Option<Page<'static>>>,
    platform: P,
    page: Option<Page<'static>>,
}

impl<P: Platform> Drop for Bounce<'_, P> {
    fn drop(&mut self) {
        let _pin = CpuPin::new(self.platform);
        *self.place.lock() = self.page.take();
    }
}

impl<P: Platform> Frontswap<'_, P> {
    /// Gives a page for others to pass through from tier to tier; without one, none does by itself. Only the first counts
    /// at a time.
    pub fn set_bounce(&self, page: Page<'static>) {
        let _pin = CpuPin::new(self.platform);
        self.bounce.lock().get_or_insert(page);
    }

    fn bounce(&self) -> Option<Bounce<'_, P>> {
        let _pin = CpuPin::new(self.platform);
        let page = self.bounce.lock().take()?;
        Some(Bounce { place: &self.bounce, platform: self.platform, page: Some(page) })
    }

    /// Passes a page on from the tier that has it to one that is tried later, through a page of the caller's. Answers
    /// whether it went; if not, it stays where it is, or was invalidated meanwhile. A slot that somebody works on is left
    /// alone. For threads; does not wait for anybody but who loads or invalidates the page.
    ///
    /// # Errors
    ///
    /// [`Lost`], as for [`load`](Self::load).
    pub fn demote(&self, slot: Slot, bounce: &mut Page<'_>) -> Result<bool, Lost> {
        let Some(area) = self.area(slot.swap) else { return Ok(false) };
        let Some(tier) = self.begin_move(area, slot, bounce)? else { return Ok(false) };
        let offered = self.offer(slot, bounce, tier + 1, false);
        Ok(self.end_move(area, slot, tier, offered))
    }

    /// Copies the page of a slot, and marks it. Answers which tier has it; `None` if there is nothing to be moved.
    fn begin_move(&self, area: &Area, slot: Slot, bounce: &mut Page<'_>) -> Result<Option<usize>, Lost> {
        let Some(mut held) = area.map.try_hold_pinned(slot.offset, self.platform) else { return Ok(None) };
        // As in `hold`: whoever ends the use of the type says so before he looks for marks.
        if !area.active.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Content::In { tier, through, .. } = held.content else { return Ok(None) };
        if tier + 1 >= self.tiers.len() {
            return Ok(None);
        }
        match self.tiers[tier].load(slot, bounce) {
            Load::Loaded => {}
            // The swap device has it, and a load will say so.
            Load::Failed(_) if through => return Ok(None),
            Load::Failed(why) => {
                add(&self.counts.lost);
                return Err(Lost { slot, tier: Some(self.tiers[tier].name()), why });
            }
        }
        held.moving = true;
        Ok(Some(tier))
    }

    /// The page was offered to later tiers: says who has it now, and takes the mark away.
    fn end_move(&self, area: &Area, slot: Slot, from: usize, offered: Offered) -> bool {
        let Some(mut held) = area.map.hold_pinned(slot.offset, self.platform) else {
            unreachable!("frontswap: {slot} was there when its page began to move")
        };
        assert!(held.moving, "frontswap: {slot} was marked, and nobody else takes a mark away");
        held.moving = false;
        let went = match (held.content, offered) {
            (Content::In { tier, through, residue }, offered) => {
                assert!(tier == from, "frontswap: {slot} was stored while its page was moving");
                match offered {
                    Offered::Taken(to) => {
                        let left = self.forget(from, slot).is_err();
                        held.content = Content::In { tier: to, through, residue: residue || left };
                        self.came(area, to);
                        self.went(area, from);
                        true
                    }
                    // Who has the page is known, even if somebody else may have an old one.
                    Offered::Doubtful => {
                        self.doubts.store(true, Ordering::Relaxed);
                        held.content = Content::In { tier, through, residue: true };
                        false
                    }
                    Offered::Refused => false,
                }
            }
            // It was invalidated meanwhile.
            (Content::Empty | Content::Doubtful, Offered::Taken(to)) => {
                if self.forget(to, slot).is_err() {
                    held.content = Content::Doubtful;
                }
                false
            }
            (Content::Empty | Content::Doubtful, Offered::Doubtful) => {
                held.content = self.content_after(Err(Errno::EIO));
                false
            }
            (Content::Empty | Content::Doubtful, Offered::Refused) => false,
        };
        drop(held);
        went
    }

    /// Removes a page from a tier that it does not belong to.
    fn forget(&self, tier: usize, slot: Slot) -> Result<(), Errno> {
        let removed = self.tiers[tier].invalidate(slot);
        if let Err(error) = removed {
            log::warn!(
                "frontswap: {} keeps a page of {slot} that is not there: {error}",
                self.tiers[tier].name()
            );
            self.doubts.store(true, Ordering::Relaxed);
        }
        removed
    }

    /// Before a store to this tier.
    pub(super) fn make_room_in(&self, number: usize) {
        let tier = self.tiers[number];
        if number + 1 >= self.tiers.len() || !tier.is_crowded() {
            return;
        }
        let mut bounce = self.bounce();
        let Some(bounce) = bounce.as_mut().and_then(|bounce| bounce.page.as_mut()) else { return };
        for _ in 0..MOVES_PER_STORE {
            let Some(slot) = tier.coldest() else { return };
            match self.demote(slot, bounce) {
                Ok(true) => add(&self.counts.written_on),
                Ok(false) => {
                    tier.stays(slot);
                    add(&self.counts.stayed);
                    return;
                }
                // It is not named again, and whoever needs it will be told.
                Err(lost) => log::error!("frontswap: {lost}"),
            }
            if !tier.is_crowded() {
                return;
            }
        }
    }

    /// Makes room in crowded tiers: their coldest pages go on to later tiers. What does not go is given to `home`, which
    /// brings home what it can, and answers how much that was. A bounded piece of work; for threads.
    pub fn relieve(&self, mut home: impl FnMut(&[Slot]) -> u64) -> Relief {
        let mut relief = Relief::default();
        for tier in self.tiers {
            let (mut left, mut count) = ([NOWHERE; BATCH], 0);
            let mut bounce = self.bounce();
            for _ in 0..BATCH {
                let Some(slot) = tier.is_crowded().then(|| tier.coldest()).flatten() else { break };
                let bounce = bounce.as_mut().and_then(|bounce| bounce.page.as_mut());
                match bounce.map_or(Ok(false), |bounce| self.demote(slot, bounce)) {
                    Ok(true) => relief.written_on += 1,
                    Ok(false) => {
                        left[count] = slot;
                        count += 1;
                    }
                    Err(lost) => log::error!("frontswap: {lost}"),
                }
            }
            // Others may need it while pages come home.
            drop(bounce);
            if count > 0 {
                let came = home(&left[..count]).min(count as u64);
                left[..count].iter().for_each(|slot| tier.stays(*slot));
                relief.brought_home += came;
                relief.stayed += count as u64 - came;
            }
        }
        let more = |counter: &super::Count, pages| counter.fetch_add(pages, Ordering::Relaxed);
        more(&self.counts.written_on, relief.written_on);
        more(&self.counts.brought_home, relief.brought_home);
        more(&self.counts.stayed, relief.stayed);
        relief
    }
}
