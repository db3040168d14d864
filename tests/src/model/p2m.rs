//! The domain's map of guest frames, and the page-table pages that it costs.

use super::host::Mfn;
use ebb::units::Gfn;
use std::collections::HashMap;
use std::vec::Vec;

/// Frames that one entry of the upper level maps.
pub(super) const BLOCK: u64 = 512;

/// What is behind a guest frame number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Nothing.
    Hole,
    /// Memory: this host frame.
    Ram(Mfn),
    /// Memory to be, on the first touch.
    PopulateOnDemand,
    /// A page that the toolstack put there and its daemons use.
    Special(Mfn),
    /// Memory that somebody outside holds a reference to: a backend's mapping, Xen's view of a `vcpu_info`.
    Pinned(Mfn),
    /// The shared info page.
    SharedInfo,
    /// A frame of the grant table.
    GrantFrame(u32),
    /// A mapping of another domain's grant.
    GrantMapping,
    /// A mapping of another domain's frame.
    ForeignMapping,
    /// A device's registers.
    Device,
}

impl Slot {
    /// The host frame that the domain is charged for.
    pub(super) fn charged(self) -> Option<Mfn> {
        match self {
            Self::Ram(mfn) | Self::Special(mfn) | Self::Pinned(mfn) => Some(mfn),
            _ => None,
        }
    }
}

/// The page-table pages are used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PoolEmpty;

/// How a 2 MiB region is mapped.
#[derive(Clone, Copy, Default, Debug)]
struct Region {
    /// By one large entry.
    large: bool,
    /// By a table of small ones, which stays until a large entry replaces it.
    table: bool,
}

/// Guest frame number to what is there.
pub(super) struct P2m {
    ram: Vec<Slot>,
    beyond: HashMap<u64, Slot>,
    regions: HashMap<u64, Region>,
    /// Page-table pages left, or `None` for plenty.
    pool: Option<u64>,
    highest: u64,
}

impl P2m {
    pub(super) fn new(ram_frames: u64, pool: Option<u64>) -> Self {
        Self {
            ram: std::vec![Slot::Hole; ram_frames as usize],
            beyond: HashMap::new(),
            regions: HashMap::new(),
            pool,
            highest: 0,
        }
    }

    pub(super) fn get(&self, frame: Gfn) -> Slot {
        match self.ram.get(frame.get() as usize) {
            Some(slot) => *slot,
            None => self.beyond.get(&frame.get()).copied().unwrap_or(Slot::Hole),
        }
    }

    /// Whether one entry maps the whole region around `frame`.
    pub(super) fn is_large(&self, frame: Gfn) -> bool {
        self.regions.get(&(frame.get() / BLOCK)).is_some_and(|region| region.large)
    }

    /// Changes one small entry. Splitting a large one, and the first small one of a region, take a page.
    pub(super) fn set(&mut self, frame: Gfn, slot: Slot) -> Result<(), PoolEmpty> {
        let region = self.regions.entry(frame.get() / BLOCK).or_default();
        if region.large || (!region.table && slot != Slot::Hole) {
            match &mut self.pool {
                Some(0) => return Err(PoolEmpty),
                Some(left) => *left -= 1,
                None => {}
            }
            *region = Region { large: false, table: true };
        }
        self.store(frame, slot);
        Ok(())
    }

    /// Maps a whole aligned region by one large entry, which gives its table back. `slot` is asked per frame.
    pub(super) fn set_large(&mut self, first: Gfn, slot: impl Fn(u64) -> Slot) {
        assert!(first.get().is_multiple_of(BLOCK), "model: a large entry is aligned");
        let region = self.regions.entry(first.get() / BLOCK).or_default();
        if let (true, Some(left)) = (region.table, &mut self.pool) {
            *left += 1;
        }
        let mapped = slot(0) != Slot::Hole;
        *region = Region { large: mapped, table: false };
        for index in 0..BLOCK {
            self.store(Gfn::new(first.get() + index), slot(index));
        }
    }

    fn store(&mut self, frame: Gfn, slot: Slot) {
        if slot != Slot::Hole {
            self.highest = self.highest.max(frame.get());
        }
        match self.ram.get_mut(frame.get() as usize) {
            Some(place) => *place = slot,
            None if slot == Slot::Hole => drop(self.beyond.remove(&frame.get())),
            None => drop(self.beyond.insert(frame.get(), slot)),
        }
    }

    /// The highest frame number that was ever mapped.
    pub(super) fn highest(&self) -> Gfn {
        Gfn::new(self.highest)
    }

    pub(super) fn pool_left(&self) -> Option<u64> {
        self.pool
    }

    /// Every frame that is not a hole.
    pub(super) fn mapped(&self) -> impl Iterator<Item = (Gfn, Slot)> {
        let ram = self.ram.iter().enumerate().map(|(frame, slot)| (Gfn::new(frame as u64), *slot));
        let beyond = self.beyond.iter().map(|(frame, slot)| (Gfn::new(*frame), *slot));
        ram.chain(beyond).filter(|(_, slot)| *slot != Slot::Hole)
    }

    /// Where a page that exists once is mapped.
    pub(super) fn find(&self, wanted: Slot) -> Option<Gfn> {
        self.mapped().find(|(_, slot)| *slot == wanted).map(|(frame, _)| frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_takes_a_page_that_a_large_entry_gives_back() {
        let mut p2m = P2m::new(1024, Some(1));
        p2m.set_large(Gfn::new(0), |index| Slot::Ram(index as Mfn));
        p2m.set_large(Gfn::new(512), |index| Slot::Ram(512 + index as Mfn));
        assert_eq!(p2m.set(Gfn::new(3), Slot::Hole), Ok(()));
        assert!(!p2m.is_large(Gfn::new(0)) && p2m.is_large(Gfn::new(512)));
        assert_eq!(p2m.set(Gfn::new(515), Slot::Hole), Err(PoolEmpty));
        assert_eq!(p2m.get(Gfn::new(515)), Slot::Ram(515), "nothing changed");
        p2m.set_large(Gfn::new(0), |index| Slot::Ram(index as Mfn));
        assert_eq!(p2m.pool_left(), Some(1));
    }

    #[test]
    fn the_highest_frame_only_grows() {
        let mut p2m = P2m::new(8, None);
        p2m.set(Gfn::new(0xFEFFF), Slot::Special(1)).unwrap();
        p2m.set(Gfn::new(0xFEFFF), Slot::Hole).unwrap();
        assert_eq!(p2m.highest(), Gfn::new(0xFEFFF));
    }
}
