//! What a page-table entry of the window says, to the processor and to us.
//!
//! | bits | present | moving | swapped out | leaving |
//! |---|---|---|---|---|
//! | 0 | 1 | 0 | 0 | 0 |
//! | 1–3 | writable, and two that stay 0 | 1 | 2 | 3 |
//! | 4–8 | the processor's: 5 accessed, 6 dirty | 0 | the swap type | who evicts it |
//! | 9 | ours: on the active list | 0 | 0 | 0 |
//! | 12–45 | the frame, up to bit 51 | the frame that is on its way | the slot | the frame that it is in |
//! | 46–61 | 0 | 0 | when it was evicted | 0 |
//! | 63 | no execution | 0 | 0 | 0 |
//!
//! A word of zero is a page that nobody has touched: its contents are zeros. The processor looks at an entry without
//! bit 0 no further (Intel SDM volume 3, 4.5; AMD APM volume 2, 5.3).

use crate::units::{FRAME_SHIFT, Gfn};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const ACTIVE: u64 = 1 << 9;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

const KIND_MASK: u64 = 0b1111;
const KIND_MOVING: u64 = 1 << 1;
const KIND_SWAPPED: u64 = 2 << 1;
const KIND_LEAVING: u64 = 3 << 1;

const SWAP_TYPE_SHIFT: u32 = 4;
const SWAP_TYPES: u8 = 32;
const SWAP_SLOT_SHIFT: u32 = 12;
const SWAP_SLOTS: u64 = 1 << 34;
const STAMP_SHIFT: u32 = 46;

/// Who may evict at a time.
pub(super) const MOST_EVICTORS: usize = SWAP_TYPES as usize;

/// Where the contents of a page are that is not in memory: a swap type, below 32, and a slot of it, below 2^34.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SwapEntry {
    kind: u8,
    slot: u64,
}

impl SwapEntry {
    /// The slot of a swap type; `None` if either is too large.
    #[must_use]
    pub const fn new(kind: u8, slot: u64) -> Option<Self> {
        if kind < SWAP_TYPES && slot < SWAP_SLOTS { Some(Self { kind, slot }) } else { None }
    }

    /// The swap type.
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.kind
    }

    /// The slot.
    #[must_use]
    pub const fn slot(self) -> u64 {
        self.slot
    }
}

/// An entry, as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pte(u64);

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Zeros, without a frame.
    Untouched,
    /// In a frame.
    Present(Gfn),
    /// Being copied out of this frame, which belongs to who copies.
    Moving(Gfn),
    /// Elsewhere.
    Swapped(SwapEntry),
    /// In a frame still, which whoever evicts it copies. Whoever touches the page keeps it.
    Leaving(Gfn),
}

impl Pte {
    pub(super) const UNTOUCHED: Self = Self(0);

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// A table below, in an entry of a directory.
    pub(super) const fn table(frame: Gfn) -> Self {
        Self(frame.start().get() | PRESENT | WRITABLE)
    }

    /// A page in a frame, fresh: nobody has accessed it, as far as the entry says.
    pub(super) const fn page(frame: Gfn) -> Self {
        Self(frame.start().get() | PRESENT | WRITABLE | NO_EXECUTE)
    }

    /// The same page in another frame, equally active, accessed and dirty.
    pub(super) const fn moved_to(self, frame: Gfn) -> Self {
        Self(self.0 & !ADDRESS | frame.start().get())
    }

    /// A page that is being copied out of `frame`.
    pub(super) const fn moving(frame: Gfn) -> Self {
        Self(frame.start().get() | KIND_MOVING)
    }

    /// A page whose contents are elsewhere, since the time that `stamp` tells.
    pub(super) const fn swapped(entry: SwapEntry, stamp: u16) -> Self {
        let place = entry.slot << SWAP_SLOT_SHIFT | (entry.kind as u64) << SWAP_TYPE_SHIFT;
        Self((stamp as u64) << STAMP_SHIFT | place | KIND_SWAPPED)
    }

    /// When a page was evicted whose contents are elsewhere.
    pub(super) const fn stamp(self) -> u16 {
        (self.0 >> STAMP_SHIFT) as u16
    }

    /// A page in `frame` that `evictor`, below [`MOST_EVICTORS`], is about to take out. No two marks of different
    /// evictors are the same.
    pub(super) const fn leaving(frame: Gfn, evictor: u8) -> Self {
        Self(frame.start().get() | (evictor as u64) << SWAP_TYPE_SHIFT | KIND_LEAVING)
    }

    /// The same page, on the active list.
    pub(super) const fn activated(self) -> Self {
        Self(self.0 | ACTIVE)
    }

    /// What it says.
    ///
    /// # Panics
    ///
    /// If nobody here has written it: memory is corrupt.
    pub(super) fn state(self) -> State {
        let frame = Gfn::new((self.0 & ADDRESS) >> FRAME_SHIFT);
        if self.0 & PRESENT != 0 {
            return State::Present(frame);
        }
        match self.0 & KIND_MASK {
            0 if self.0 == 0 => State::Untouched,
            KIND_MOVING => State::Moving(frame),
            KIND_SWAPPED => {
                let kind = (self.0 >> SWAP_TYPE_SHIFT) as u8 % SWAP_TYPES;
                State::Swapped(SwapEntry { kind, slot: self.0 >> SWAP_SLOT_SHIFT & (SWAP_SLOTS - 1) })
            }
            KIND_LEAVING => State::Leaving(frame),
            _ => unreachable!("paged memory: corrupt page-table entry {:#x}", self.0),
        }
    }

    /// Whether the processor has seen an access since the mark was last taken away.
    pub(super) const fn is_accessed(self) -> bool {
        self.0 & ACCESSED != 0
    }

    /// Whether the page is on the active list.
    pub(super) const fn is_active(self) -> bool {
        self.0 & PRESENT != 0 && self.0 & ACTIVE != 0
    }

    /// Bits that a look by the scanner takes away or adds: `(clear, set)`.
    pub(super) const fn marks(active: bool) -> (u64, u64) {
        if active { (ACCESSED, ACTIVE) } else { (ACCESSED | ACTIVE, 0) }
    }

    /// The entry without what the processor changes by itself.
    #[cfg(test)]
    pub(super) const fn settled(self) -> u64 {
        self.0 & !(ACCESSED | DIRTY)
    }
}

const _: () = assert!(DIRTY & (ACTIVE | KIND_MASK) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_encoding() {
        let frame = Gfn::new(0xF_FFFF_1234);
        assert_eq!(Pte::UNTOUCHED.state(), State::Untouched);
        assert_eq!(Pte::page(frame).state(), State::Present(frame));
        assert_eq!(Pte::moving(frame).state(), State::Moving(frame));
        assert_eq!(Pte::moving(Gfn::new(0)).state(), State::Moving(Gfn::new(0)));
        for kind in [0, 1, 31] {
            for slot in [0, 1, SWAP_SLOTS - 1] {
                for stamp in [0, 1, u16::MAX] {
                    let entry = SwapEntry::new(kind, slot).unwrap();
                    let pte = Pte::swapped(entry, stamp);
                    assert_eq!((pte.state(), pte.stamp()), (State::Swapped(entry), stamp));
                    assert_eq!(pte.bits() & PRESENT, 0, "the processor must not take it for a page");
                }
            }
        }
        for evictor in [0, 1, MOST_EVICTORS as u8 - 1] {
            let pte = Pte::leaving(frame, evictor);
            assert_eq!((pte.state(), pte.bits() & PRESENT), (State::Leaving(frame), 0));
            assert!(!pte.is_active() && pte != Pte::leaving(frame, evictor ^ 1));
        }
        assert_eq!(SwapEntry::new(32, 0), None);
        assert_eq!(SwapEntry::new(0, SWAP_SLOTS), None);
    }

    #[test]
    fn a_move_keeps_what_is_known_of_the_page() {
        let (old, new) = (Gfn::new(5), Gfn::new(9));
        let (_, active) = Pte::marks(true);
        let before = Pte::from_bits(Pte::page(old).bits() | active | ACCESSED | DIRTY);
        let after = before.moved_to(new);
        assert_eq!(after.state(), State::Present(new));
        assert!(after.is_active() && after.is_accessed());
        assert_eq!(after.bits() ^ before.bits(), old.start().get() ^ new.start().get());
        assert_eq!(before.settled(), Pte::page(old).bits() | active);
    }

    #[test]
    #[should_panic(expected = "corrupt page-table entry 0x8")]
    fn an_entry_that_nobody_wrote_is_named() {
        let _ = Pte::from_bits(8).state();
    }
}
