//! Pages come home: partial swapoff, and draining before the domain is suspended.

use core::sync::atomic::Ordering;

use percpu::Platform;
use policy::selfshrink::devices::{Share, compatible, plan};

use super::map::Content;
use super::{Area, Frontswap, SWAP_TYPES, Slot, SwapType};

/// Whoever can make room for a page and load it: the swap code.
pub trait Home {
    /// Brings the page of a slot home: makes a frame, loads it, maps it, frees the slot. Answers whether it is home; if
    /// not, it stays where it is and is left alone in this round.
    ///
    /// Called without locks; may block, and calls [`Frontswap::load`] and [`Frontswap::invalidate_page`].
    fn bring_home(&self, slot: Slot) -> bool;
}

impl<F: Fn(Slot) -> bool> Home for F {
    fn bring_home(&self, slot: Slot) -> bool {
        self(slot)
    }
}

/// Which swap types are asked for how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// As the original: one type, the first that passes the check, even if it has nothing.
    Original,
    /// All of them in order, until enough is home.
    #[default]
    Fixed,
}

/// While this lives, no tier that forgets over a suspend has any page, nor takes one.
#[must_use = "stores go to the hypervisor again as soon as this is dropped"]
#[derive(Debug)]
pub struct Drained<'f, 't, P: Platform>(&'f Frontswap<'t, P>);

impl<P: Platform> Drop for Drained<'_, '_, P> {
    fn drop(&mut self) {
        self.0.drains.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<'t, P: Platform> Frontswap<'t, P> {
    /// Brings pages home until tiers have `target` at most: `frontswap_shrink`. `room_frames` is how much memory may be
    /// used for that. Best effort; answers how many came home.
    pub fn shrink(&self, target: u64, room_frames: u64, choice: Choice, home: &impl Home) -> u64 {
        let counts: [u64; SWAP_TYPES] =
            core::array::from_fn(|number| SwapType::new(number as u8).map_or(0, |swap| self.pages_of(swap)));
        // Types that are not in use are not on the original's list.
        let in_use = self.areas.iter().rposition(|area| area.get().is_some()).map_or(0, |last| last + 1);
        let counts = &counts[..in_use];
        match choice {
            Choice::Original => compatible(counts, target, room_frames).map_or(0, |(device, share)| {
                let most = match share {
                    Share::All => u64::MAX,
                    Share::Pages(pages) => pages,
                };
                self.unuse(device, most, home)
            }),
            Choice::Fixed => {
                plan(counts, target, room_frames).map(|(device, pages)| self.unuse(device, pages, home)).sum()
            }
        }
    }

    /// Brings up to `most` pages of a type home, in one pass over its slots.
    fn unuse(&self, device: usize, most: u64, home: &impl Home) -> u64 {
        let swap = u8::try_from(device).ok().and_then(SwapType::new);
        let Some((swap, area)) = swap.and_then(|swap| Some((swap, self.area(swap)?))) else { return 0 };
        self.pass(swap, area, most, home, |_| true)
    }

    fn pass(
        &self,
        swap: SwapType,
        area: &Area,
        most: u64,
        home: &impl Home,
        wanted: impl Fn(usize) -> bool,
    ) -> u64 {
        let (mut count, mut from) = (0, 0);
        while count < most
            && let Some(offset) = area.map.next(from)
        {
            from = offset + 1;
            // A busy slot is waited for: what it will say counts.
            let content = area.map.hold(offset, self.platform).map(|held| held.content);
            if let Some(Content::In { tier, .. }) = content
                && wanted(tier)
            {
                count += u64::from(home.bring_home(Slot { swap, offset }));
            }
        }
        count
    }

    /// Pages that are in tiers which forget over a suspend.
    fn perishable(&self) -> u64 {
        let mut count = 0;
        for area in self.areas.iter().filter_map(|area| area.get()) {
            let mut from = 0;
            while let Some(offset) = area.map.next(from) {
                from = offset + 1;
                let content = area.map.hold(offset, self.platform).map(|held| held.content);
                if let Some(Content::In { tier, .. }) = content {
                    count += u64::from(!self.tiers[tier].survives_suspend());
                }
            }
        }
        count
    }

    /// Brings everything home that a suspend would lose, and keeps it so while the answer lives.
    ///
    /// # Errors
    ///
    /// How many pages would not come. Nothing is held back then; a suspend would lose them.
    pub fn drain(&self, home: &impl Home) -> Result<Drained<'_, 't, P>, u64> {
        // First say so, then look: a store that has not seen it yet holds its slot already, which is waited for.
        self.drains.fetch_add(1, Ordering::SeqCst);
        super::Map::look_again();
        let drained = Drained(self);
        for number in 0..SWAP_TYPES as u8 {
            let Some((swap, area)) = SwapType::new(number).and_then(|swap| Some((swap, self.area(swap)?)))
            else {
                continue;
            };
            self.pass(swap, area, u64::MAX, home, |tier| !self.tiers[tier].survives_suspend());
        }
        match self.perishable() {
            0 => Ok(drained),
            left => Err(left),
        }
    }
}
