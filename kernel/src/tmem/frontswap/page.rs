//! One page: stored, loaded, taken back.
//!
//! Whoever works on a slot holds it. What the tiers have of it and what it says change together under that.

use percpu::Platform;

use super::super::primitive::Ordering;
use super::super::tier::{Load, Loss, Refusal, Slot, Store};
use super::map::{Content, Held};
use super::outcome::{Loaded, Lost, Offered, Stored, add};
use super::{Area, Frontswap};
use crate::mm::page::Page;
use xen_abi::Errno;

impl<P: Platform> Frontswap<'_, P> {
    /// Takes hold of a slot of a swap type that is in use.
    fn hold(&self, slot: Slot) -> Option<(&Area, Held<'_, P>)> {
        let area = self.area(slot.swap)?;
        let held = area.map.hold(slot.offset, self.platform)?;
        // After the slot is held: whoever ends the use of the type looks at the slots after saying so.
        area.active.load(Ordering::SeqCst).then_some((area, held))
    }

    /// Removes what tiers have of a held slot. Afterwards it is empty, or doubtful. Whoever passes the page on finds out,
    /// and removes what he has brought elsewhere.
    pub(super) fn empty(&self, area: &Area, slot: Slot, held: &mut Held<'_, P>) -> Result<(), Errno> {
        let removed = match held.content {
            Content::Empty => return Ok(()),
            Content::In { tier, residue, .. } => {
                self.went(area, tier);
                let others = match residue {
                    // Some other tier is being given the page. So the slot is in doubt, until the next try.
                    true if held.moving => Err(Errno::EBUSY),
                    true => self.empty_all_but(Some(tier), slot),
                    false => Ok(()),
                };
                self.tiers[tier].invalidate(slot).and(others)
            }
            Content::Doubtful if held.moving => Err(Errno::EBUSY),
            Content::Doubtful => self.empty_all_but(None, slot),
        };
        held.content = self.content_after(removed);
        removed
    }

    /// Removes what all tiers but one have of a held slot, whatever becomes of each.
    pub(super) fn empty_all_but(&self, keeper: Option<usize>, slot: Slot) -> Result<(), Errno> {
        let mut outcome = Ok(());
        for (_, tier) in self.tiers.iter().enumerate().filter(|(number, _)| Some(*number) != keeper) {
            outcome = outcome.and(tier.invalidate(slot));
        }
        outcome
    }

    /// What a slot says whose pages were to be removed.
    pub(super) fn content_after(&self, removed: Result<(), Errno>) -> Content {
        if removed.is_ok() {
            return Content::Empty;
        }
        self.doubts.store(true, Ordering::Relaxed);
        Content::Doubtful
    }

    /// Offers a page to the tiers. An older page of the slot is removed, whatever comes of it.
    ///
    /// A slot beyond the end, or of a swap type that is not in use, is refused without a count, as without any tier.
    pub fn store(&self, slot: Slot, page: &Page<'_>) -> Stored {
        if self.tiers.is_empty() {
            return Stored::No;
        }
        let Some(area) = self.area(slot.swap) else { return Stored::No };
        if area.map.make(slot.offset).is_err() {
            add(&self.counts.failed_stores);
            return Stored::No;
        }
        let held = if self.platform.may_block() {
            area.map.hold_unmarked(slot.offset, self.platform)
        } else {
            area.map.hold(slot.offset, self.platform)
        };
        let Some(mut held) = held else { return Stored::No };
        // As in `hold`.
        if !area.active.load(Ordering::SeqCst) {
            return Stored::No;
        }
        let offered = match self.empty(area, slot, &mut held) {
            Ok(()) if !held.moving => self.offer(slot, page, 0, true),
            // Some tier is being given what was here before, and the caller must not wait for the end of that. Or
            // something older is in doubt.
            _ => Offered::Refused,
        };
        match offered {
            Offered::Taken(tier) => {
                let through = self.write_through.load(Ordering::Relaxed);
                held.content = Content::In { tier, through, residue: false };
                self.came(area, tier);
                add(&self.counts.succ_stores);
                return if through { Stored::WriteToo } else { Stored::Done };
            }
            Offered::Refused => {}
            Offered::Doubtful => held.content = self.content_after(Err(Errno::EIO)),
        }
        add(&self.counts.failed_stores);
        Stored::No
    }

    /// Offers the page of a slot, of which no tier has anything, to the tiers from `first` on. They may pass cold pages
    /// on before.
    pub(super) fn offer(&self, slot: Slot, page: &Page<'_>, first: usize, make_room: bool) -> Offered {
        let draining = self.drains.load(Ordering::SeqCst) > 0;
        for (number, tier) in self.tiers.iter().enumerate().skip(first) {
            if draining && !tier.survives_suspend() {
                continue;
            }
            if make_room {
                self.make_room_in(number);
            }
            match tier.store(slot, page) {
                Store::Stored => return Offered::Taken(number),
                Store::Refused(Refusal::Broken(error)) => {
                    log::warn!("frontswap: {} answered {error} to a store", tier.name());
                }
                Store::Refused(_) => {}
                Store::Doubtful(error) => {
                    log::error!("frontswap: {} may keep an old page of {slot}: {error}", tier.name());
                    return Offered::Doubtful;
                }
            }
        }
        Offered::Refused
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
            Content::In { tier, through, .. } => (self.tiers[tier], through),
            Content::Doubtful => {
                add(&self.counts.lost);
                return Err(Lost { slot, tier: None, why: Loss::Missing });
            }
        };
        match tier.load(slot, page) {
            Load::Loaded => add(&self.counts.loads),
            Load::Failed(why) if through => {
                // The swap device has it. What the tier may still have is of no use.
                log::warn!("frontswap: {} has lost {slot}, which is on the swap device: {why}", tier.name());
                let _ = self.empty(area, slot, &mut held);
                return Ok(Loaded::NotHere);
            }
            Load::Failed(why) => {
                add(&self.counts.lost);
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
            add(&self.counts.invalidates);
        }
        if let Err(error) = self.empty(area, slot, &mut held) {
            log::error!("frontswap: an old page of {slot} could not be removed: {error}");
        }
    }
}
