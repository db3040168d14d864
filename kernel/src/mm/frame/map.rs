//! From a memory map to the size of the metadata.

use core::fmt;

use crate::units::{BLOCK_FRAMES, FrameRange, Gfn};

use super::block::{Block, NONE};
use super::entry::Entry;
use super::token::MOST_FRAMES;

/// What is wrong with a memory map, or with the metadata supplied for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No range holds a frame.
    Empty,
    /// A range is empty, or ends beyond the 2^40 frames that 52-bit physical addresses reach.
    BadRange(FrameRange),
    /// A range begins before the one in front of it ends.
    Unsorted(FrameRange),
    /// A reserved range is not wholly inside one range of memory.
    ReservedOutside(FrameRange),
    /// More than 8 TiB between the lowest and the highest frame.
    TooLarge,
    /// A slice of metadata has another length than [`Layout`] asks for.
    WrongMetadata,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the memory map has no memory"),
            Self::BadRange(range) => write!(f, "impossible range: {} at {}", range.count(), range.start()),
            Self::Unsorted(range) => write!(f, "range out of order or overlapping, at {}", range.start()),
            Self::ReservedOutside(range) => {
                write!(f, "reserved range outside of memory, at {}", range.start())
            }
            Self::TooLarge => f.write_str("the memory map spans more than 8 TiB"),
            Self::WrongMetadata => f.write_str("the metadata supplied does not fit the memory map"),
        }
    }
}

impl core::error::Error for MapError {}

/// Most blocks that a table describes: frame indices keep to 31 bits.
const MOST_BLOCKS: u64 = (1 << 31) / BLOCK_FRAMES;

/// How much metadata a memory map needs.
///
/// Per GiB of span: 2 MiB of entries, of which the 4 KiB page of a block is used only while part of that block is
/// handed out, and 160 KiB of block records: 0.21 % in all, and 0.015 % for memory that is free or ballooned in
/// whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    base: Gfn,
    blocks: usize,
}

impl Layout {
    /// The layout for ranges of memory in ascending order.
    ///
    /// # Errors
    ///
    /// [`MapError`] for a map that is empty, unsorted, overlapping, or spans more than 8 TiB.
    pub fn for_map(memory: &[FrameRange]) -> Result<Self, MapError> {
        check(memory)?;
        let (Some(first), Some(last)) = (memory.first(), memory.last()) else { return Err(MapError::Empty) };
        let base = first.start().get() / BLOCK_FRAMES * BLOCK_FRAMES;
        let blocks = (last.end().get() - base).div_ceil(BLOCK_FRAMES);
        if blocks > MOST_BLOCKS || blocks >= u64::from(NONE) {
            return Err(MapError::TooLarge);
        }
        Ok(Self { base: Gfn::new(base), blocks: blocks as usize })
    }

    /// The frame of the first entry: a multiple of 512.
    #[must_use]
    pub const fn base(&self) -> Gfn {
        self.base
    }

    /// How many [`Entry`]s.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.blocks * BLOCK_FRAMES as usize
    }

    /// How many [`Block`]s.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of entries and blocks together.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.entries() * size_of::<Entry>() + self.blocks * size_of::<Block>()
    }
}

fn check(ranges: &[FrameRange]) -> Result<(), MapError> {
    let mut end = 0;
    for range in ranges {
        if range.is_empty() || range.end().get() > MOST_FRAMES {
            return Err(MapError::BadRange(*range));
        }
        if range.start().get() < end {
            return Err(MapError::Unsorted(*range));
        }
        end = range.end().get();
    }
    Ok(())
}

/// Checks the reserved ranges against the memory: sorted, disjoint, each inside one range.
pub(super) fn check_reserved(memory: &[FrameRange], reserved: &[FrameRange]) -> Result<(), MapError> {
    check(reserved)?;
    let inside = |r: &&FrameRange| !memory.iter().any(|m| m.covers(**r));
    reserved.iter().find(inside).map_or(Ok(()), |range| Err(MapError::ReservedOutside(*range)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, count: u64) -> FrameRange {
        FrameRange::new(Gfn::new(first), Gfn::new(first + count))
    }

    #[test]
    fn the_table_spans_whole_blocks() {
        let layout = Layout::for_map(&[range(700, 10), range(0x10_0000, 1)]).unwrap();
        assert_eq!(layout.base(), Gfn::new(512));
        assert_eq!(layout.blocks(), 0x10_0000 / 512 - 1 + 1);
        assert_eq!(layout.entries(), layout.blocks() * 512);
    }

    #[test]
    fn a_gibibyte_costs_less_than_a_quarter_percent() {
        let layout = Layout::for_map(&[range(0, 1 << 18)]).unwrap();
        assert_eq!(layout.bytes(), (2 << 20) + (160 << 10));
        assert!(layout.bytes() * 400 < 1 << 30);
    }

    #[test]
    fn impossible_maps_are_refused_by_name() {
        assert_eq!(Layout::for_map(&[]), Err(MapError::Empty));
        assert_eq!(Layout::for_map(&[range(5, 0)]), Err(MapError::BadRange(range(5, 0))));
        assert_eq!(Layout::for_map(&[range(0, 1 << 53)]), Err(MapError::BadRange(range(0, 1 << 53))));
        assert_eq!(Layout::for_map(&[range(10, 10), range(19, 1)]), Err(MapError::Unsorted(range(19, 1))));
        assert_eq!(Layout::for_map(&[range(0, 1), range(1 << 39, 1)]), Err(MapError::TooLarge));
        assert!(Layout::for_map(&[range(10, 10), range(20, 1)]).is_ok(), "adjacent ranges are disjoint");
    }

    #[test]
    fn reserved_ranges_lie_in_memory() {
        let memory = [range(0, 100), range(200, 100)];
        assert_eq!(check_reserved(&memory, &[range(0, 100), range(250, 50)]), Ok(()));
        assert_eq!(check_reserved(&memory, &[range(90, 20)]), Err(MapError::ReservedOutside(range(90, 20))));
        assert_eq!(
            check_reserved(&memory, &[range(5, 5), range(7, 1)]),
            Err(MapError::Unsorted(range(7, 1)))
        );
    }
}
