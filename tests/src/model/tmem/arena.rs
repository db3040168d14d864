//! Where tmem keeps its own structures: pieces of whole pages.
//!
//! How many pages a client is charged for its metadata follows from the sizes of the structures and from how Xen's
//! pool allocator cuts pages up: two-level segregated lists with 16 bytes in front of every piece. This keeps those
//! books without the bytes. Source: Xen 4.12 `xen/common/xmalloc_tlsf.c`; the figures of the conformance cases
//! (249, 247, 241 and 137 pages put into 256) come out of it.

use crate::model::host::Mfn;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Bytes in front of every piece.
const HEADER: u64 = 16;
/// A free piece is at least this long, header not counted.
const SMALLEST: u64 = 16;
/// What a page has room for: two headers less, one of which ends it.
const LARGEST: u64 = 4096 - 2 * HEADER;
/// Below this, lists are 4 bytes apart.
const SMALL: u64 = 128;
/// Lists to each power of two above it, as a power of two.
const LISTS: u32 = 5;

/// Which list: power of two, part of it.
type Bin = (u32, u64);

#[derive(Clone, Copy)]
struct Block {
    bytes: u64,
    free: bool,
}

/// A piece that was taken, by the address of its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece(u64);

/// A page of the arena, and the domain that is charged for it, if one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    pub(super) mfn: Mfn,
    pub(super) charged: Option<u16>,
}

/// Pages, cut up.
#[derive(Default)]
pub(super) struct Arena {
    regions: BTreeMap<u64, Region>,
    blocks: BTreeMap<u64, Block>,
    bins: BTreeMap<Bin, Vec<u64>>,
    next: u64,
}

/// The list that a free piece of this size is in.
fn bin_of(bytes: u64) -> Bin {
    if bytes < SMALL {
        return (0, bytes / 4);
    }
    let power = bytes.ilog2();
    (power, (bytes >> (power - LISTS)) - (1 << LISTS))
}

/// The size that is looked for, from which every list has pieces that are long enough.
fn searched(bytes: u64) -> (u64, Bin) {
    let bytes = bytes.max(SMALLEST).next_multiple_of(16);
    if bytes < SMALL {
        return (bytes, bin_of(bytes));
    }
    let step = (1 << (bytes.ilog2() - LISTS)) - 1;
    ((bytes + step) & !step, bin_of(bytes + step))
}

impl Arena {
    /// Whether a page more would not help.
    pub(super) fn is_too_large(bytes: u64) -> bool {
        searched(bytes).0 > LARGEST
    }

    /// A piece of at least this size, or `None` if there has to be a page more.
    pub(super) fn take(&mut self, bytes: u64) -> Option<Piece> {
        let (bytes, first) = searched(bytes);
        let (bin, at) = self.bins.range(first..).find_map(|(bin, list)| Some((*bin, *list.last()?)))?;
        self.unlist(bin, at);
        let found = self.block(at).bytes;
        let rest = found - bytes;
        if rest >= HEADER + SMALLEST {
            self.blocks.insert(at, Block { bytes, free: false });
            self.list(at + HEADER + bytes, rest - HEADER);
        } else {
            self.blocks.insert(at, Block { bytes: found, free: false });
        }
        Some(Piece(at))
    }

    /// Another page.
    pub(super) fn add(&mut self, region: Region) {
        let base = self.next;
        self.next += 4096;
        self.regions.insert(base, region);
        self.list(base, LARGEST);
    }

    /// A piece back; a page of which nothing is in use comes out.
    pub(super) fn give(&mut self, piece: Piece) -> Option<Region> {
        let Piece(mut at) = piece;
        let mut bytes = self.block(at).bytes;
        assert!(!self.block(at).free, "model: a piece of metadata is given back twice");
        let base = at / 4096 * 4096;
        let next = at + HEADER + bytes;
        if let Some(after) = self.blocks.get(&next).copied().filter(|block| block.free && next < base + 4096)
        {
            self.unlist(bin_of(after.bytes), next);
            self.blocks.remove(&next);
            bytes += HEADER + after.bytes;
        }
        let before = self.blocks.range(base..at).next_back().map(|(at, block)| (*at, *block));
        if let Some((before, block)) = before.filter(|(_, block)| block.free) {
            self.unlist(bin_of(block.bytes), before);
            self.blocks.remove(&at);
            bytes += HEADER + block.bytes;
            at = before;
        }
        if bytes == LARGEST {
            self.blocks.remove(&at);
            return self.regions.remove(&base);
        }
        self.list(at, bytes);
        None
    }

    /// Its pages.
    pub(super) fn regions(&self) -> impl Iterator<Item = Region> {
        self.regions.values().copied()
    }

    /// How many pages it has.
    pub(super) fn pages(&self) -> u64 {
        self.regions.len() as u64
    }

    fn block(&self, at: u64) -> Block {
        *self.blocks.get(&at).expect("model: a piece of metadata that there is")
    }

    fn list(&mut self, at: u64, bytes: u64) {
        self.blocks.insert(at, Block { bytes, free: true });
        self.bins.entry(bin_of(bytes)).or_default().push(at);
    }

    fn unlist(&mut self, bin: Bin, at: u64) {
        let list = self.bins.get_mut(&bin).expect("model: a free piece is in its list");
        let place = list.iter().rposition(|other| *other == at).expect("model: a free piece is in its list");
        list.remove(place);
        if list.is_empty() {
            self.bins.remove(&bin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_page() -> Arena {
        let mut arena = Arena::default();
        assert_eq!(arena.take(72), None, "there is no page yet");
        arena.add(Region { mfn: 1, charged: None });
        arena
    }

    #[test]
    fn a_page_holds_42_descriptors_and_comes_back_with_the_last() {
        let mut arena = with_page();
        let pieces: Vec<_> = core::iter::from_fn(|| arena.take(72)).collect();
        assert_eq!(pieces.len(), 42, "96 bytes each, of 4080");
        let (last, others) = pieces.split_last().unwrap();
        assert!(others.iter().all(|piece| arena.give(*piece).is_none()));
        assert_eq!(arena.give(*last), Some(Region { mfn: 1, charged: None }));
        assert_eq!((arena.pages(), arena.blocks.len(), arena.bins.len()), (0, 0, 0));
    }

    #[test]
    fn a_page_holds_seven_nodes() {
        let mut arena = with_page();
        assert_eq!(core::iter::from_fn(|| arena.take(528)).count(), 7, "544 bytes each");
    }

    #[test]
    fn neighbours_join() {
        let mut arena = with_page();
        let [a, b, c] = [120, 120, 528].map(|bytes| arena.take(bytes).unwrap());
        assert_eq!((arena.give(a), arena.give(c)), (None, None));
        assert!(arena.give(b).is_some(), "the page is whole again");
    }

    #[test]
    fn a_whole_page_is_too_large() {
        assert!(Arena::is_too_large(LARGEST), "sizes are rounded up to what a list holds");
        assert!(!Arena::is_too_large(LARGEST - 32));
    }
}
