//! Places in the window: pages, and the slots of 512 pages that one page table covers.

use crate::mm::frame::Owner;
use crate::units::{BLOCK_FRAMES, FRAME_SHIFT, FRAME_SIZE};

/// log2 of the pages in a slot.
pub(super) const SLOT_SHIFT: u32 = 9;
/// Pages in a slot: what one page table covers, 2 MiB.
pub(super) const SLOT_PAGES: u64 = 1 << SLOT_SHIFT;
const _: () = assert!(SLOT_PAGES == BLOCK_FRAMES);
/// Slots in a GiB: what one directory covers.
pub(super) const GIB_SLOTS: usize = 512;

/// A page of the window, counted from the window's first.
///
/// The window begins at a multiple of 1 GiB, so the lower bits are those of the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Page(pub(super) u64);

impl Page {
    /// Its slot, counted likewise.
    pub(super) const fn slot(self) -> usize {
        (self.0 >> SLOT_SHIFT) as usize
    }

    /// Its place in the slot, and in the page table.
    pub(super) const fn index(self) -> usize {
        (self.0 & (SLOT_PAGES - 1)) as usize
    }

    /// The place of its slot in the directory.
    pub(super) const fn index_in_directory(self) -> usize {
        self.slot() % GIB_SLOTS
    }

    /// The first page of a slot.
    pub(super) const fn of_slot(slot: usize) -> Self {
        Self((slot as u64) << SLOT_SHIFT)
    }

    /// What the frame table says of the frame behind it. Never [`Owner::NONE`], because nothing is mapped in slot 0.
    pub(super) fn owner(self) -> Owner {
        match Owner::new(self.0) {
            Some(owner) => owner,
            None => unreachable!("a window has fewer than 2^48 pages"),
        }
    }
}

/// Where the window is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// Address of page 0.
    pub(super) base: u64,
    /// How many GiB.
    pub(super) gibs: usize,
}

impl Span {
    /// The page at an address, if it lies in the window.
    pub(super) const fn page(self, address: u64) -> Option<Page> {
        if address < self.base {
            return None;
        }
        let page = (address - self.base) >> FRAME_SHIFT;
        if page < (self.slots() as u64) << SLOT_SHIFT { Some(Page(page)) } else { None }
    }

    /// Where a page begins.
    pub(super) const fn address(self, page: Page) -> u64 {
        self.base + page.0 * FRAME_SIZE as u64
    }

    /// How many slots.
    pub(super) const fn slots(self) -> usize {
        self.gibs * GIB_SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_page_of_a_slot() {
        let span = Span { base: 0xFFFF_E000_0000_0000, gibs: 2 };
        let page = span.page(0xFFFF_E000_4020_3FFF).unwrap();
        assert_eq!((page.slot(), page.index(), page.index_in_directory()), (513, 3, 1));
        assert_eq!(span.address(page), 0xFFFF_E000_4020_3000);
        assert_eq!(Page::of_slot(513).0 + 3, page.0);
        assert_eq!(span.page(span.base - 1), None);
        assert_eq!(span.page(span.base + (2 << 30)), None);
        assert_eq!(span.page(span.base + (2 << 30) - 1).unwrap().slot(), 1023);
    }
}
