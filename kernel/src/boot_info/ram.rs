//! Which frames are RAM: a loader's map, made sorted, disjoint and whole.

use crate::port::{MapEntry, MemoryKind};
use crate::units::{ADDRESS_LIMIT, FRAME_SIZE, FrameRange, Frames, Gfn};
use core::fmt;

/// Entries that a memory map may have. libxl writes fewer than ten.
pub const MAX_ENTRIES: usize = 128;
/// Ranges that a [`RamMap`] may have: those of a full map, and some to cut holes into.
const MAX_RANGES: usize = MAX_ENTRIES + 32;

/// Sorted, disjoint, non-empty ranges of frames, no two of them adjacent when built from a map.
#[derive(Clone)]
pub struct RamMap {
    ranges: [FrameRange; MAX_RANGES],
    count: usize,
}

/// A range could not be cut out: too many pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyRanges;

impl RamMap {
    /// No RAM.
    #[must_use]
    pub const fn empty() -> Self {
        Self { ranges: [FrameRange::EMPTY; MAX_RANGES], count: 0 }
    }

    /// The frames that are RAM in all of their bytes by `entries`, and how many entries made no sense.
    ///
    /// The entries may come in any order and may overlap; where they contradict each other, what is not RAM
    /// wins. An entry that is empty or leaves the address space is dropped and counted. Of more than
    /// [`MAX_ENTRIES`] entries the rest is dropped and counted.
    #[must_use]
    pub fn from_entries(entries: &[MapEntry]) -> (Self, usize) {
        let mut sane: [(u64, u64, bool); MAX_ENTRIES] = [(0, 0, false); MAX_ENTRIES];
        let mut count = 0;
        for entry in entries {
            if let Some(end) = entry.start.checked_add(entry.size)
                && entry.size > 0
                && end <= ADDRESS_LIMIT
                && count < MAX_ENTRIES
            {
                sane[count] = (entry.start, end, entry.kind == MemoryKind::Ram);
                count += 1;
            }
        }
        let sane = &sane[..count];
        (Self::from_sane(sane), entries.len() - count)
    }

    /// As [`from_entries`](Self::from_entries), of at most [`MAX_ENTRIES`] non-empty byte ranges that say
    /// whether they are RAM. Cuts the address space at every boundary and looks at each piece; in bytes, so that
    /// RAM which two entries share a frame of is not lost.
    fn from_sane(entries: &[(u64, u64, bool)]) -> Self {
        let mut cuts = [0; 2 * MAX_ENTRIES];
        for (pair, (start, end, _)) in cuts.chunks_exact_mut(2).zip(entries) {
            pair.copy_from_slice(&[*start, *end]);
        }
        let cuts = &mut cuts[..2 * entries.len()];
        cuts.sort_unstable();

        let mut map = Self::empty();
        let mut run: Option<(u64, u64)> = None;
        for pair in cuts.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            if start == end {
                continue;
            }
            let covers = |ram| entries.iter().any(|e| e.0 <= start && end <= e.1 && e.2 == ram);
            let is_ram = covers(true) && !covers(false);
            match &mut run {
                Some(run) if is_ram => run.1 = end,
                None if is_ram => run = Some((start, end)),
                _ => {
                    if let Some(run) = run.take() {
                        map.push_bytes(run);
                    }
                }
            }
        }
        if let Some(run) = run {
            map.push_bytes(run);
        }
        map
    }

    /// Appends the whole frames of a byte range beyond all others.
    ///
    /// A range begins where an entry begins or ends, so there are never more than fit.
    fn push_bytes(&mut self, (start, end): (u64, u64)) {
        let size = FRAME_SIZE as u64;
        let range = FrameRange::new(Gfn::new(start.div_ceil(size)), Gfn::new(end / size));
        if !range.is_empty() {
            self.ranges[self.count] = range;
            self.count += 1;
        }
    }

    /// The ranges, from the lowest.
    #[must_use]
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges[..self.count]
    }

    /// How many frames in all.
    #[must_use]
    pub fn frames(&self) -> Frames {
        self.ranges().iter().fold(Frames::ZERO, |sum, range| sum + range.count())
    }

    /// The first frame above all ranges; 0 if there are none.
    #[must_use]
    pub fn end(&self) -> Gfn {
        self.ranges().last().map_or(Gfn::new(0), |range| range.end())
    }

    /// Whether `frame` is RAM.
    #[must_use]
    pub fn contains(&self, frame: Gfn) -> bool {
        self.ranges().iter().any(|range| range.contains(frame))
    }

    /// Takes the frames of `hole` out, as far as they are there.
    ///
    /// # Errors
    ///
    /// If that would make more ranges than fit; then nothing has changed.
    pub fn remove(&mut self, hole: FrameRange) -> Result<(), TooManyRanges> {
        let mut left = Self::empty();
        for range in self.ranges() {
            let below = FrameRange::new(range.start(), range.end().min(hole.start()));
            let above = FrameRange::new(range.start().max(hole.end()), range.end());
            let pieces = if hole.is_empty() { [*range, FrameRange::EMPTY] } else { [below, above] };
            for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                *left.ranges.get_mut(left.count).ok_or(TooManyRanges)? = piece;
                left.count += 1;
            }
        }
        *self = left;
        Ok(())
    }

    /// Takes `count` adjacent frames from the lowest range that has them; `None` if no range does, or for 0.
    pub fn take(&mut self, count: Frames) -> Option<FrameRange> {
        if count == Frames::ZERO {
            return None;
        }
        let index = self.ranges().iter().position(|range| range.count() >= count)?;
        let range = &mut self.ranges[index];
        let taken = FrameRange::new(range.start(), range.start() + count);
        *range = FrameRange::new(taken.end(), range.end());
        if range.is_empty() {
            self.ranges.copy_within(index + 1..self.count, index);
            self.count -= 1;
        }
        Some(taken)
    }
}

impl fmt::Debug for RamMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn entry(start: u64, size: u64, kind: MemoryKind) -> MapEntry {
        MapEntry { start, size, kind }
    }

    fn range(start: u64, end: u64) -> FrameRange {
        FrameRange::new(Gfn::new(start), Gfn::new(end))
    }

    #[test]
    fn a_map_of_libxl_is_sorted_and_its_holes_are_kept() {
        let (map, dropped) = RamMap::from_entries(&[
            entry(0, 0x1000_0000, MemoryKind::Ram),
            entry(0xFEFF_8000, 0x8000, MemoryKind::Reserved),
            entry(0xFC00_0000, 0x1000, MemoryKind::Acpi),
            entry(0x1_0000_0000, 0x1000_0000, MemoryKind::Ram),
        ]);
        assert_eq!(map.ranges(), [range(0, 0x10000), range(0x10_0000, 0x11_0000)]);
        assert_eq!(dropped, 0);
        assert_eq!(map.frames(), Frames::new(0x20000));
        assert_eq!(map.end(), Gfn::new(0x11_0000));
    }

    #[test]
    fn what_is_not_ram_wins() {
        let (map, _) = RamMap::from_entries(&[
            entry(0xFFFC0, 0x40, MemoryKind::Acpi),
            entry(0, 0x20_0000, MemoryKind::Ram),
        ]);
        assert_eq!(map.ranges(), [range(0, 0xFF), range(0x100, 0x200)]);
    }

    #[test]
    fn a_frame_shared_by_two_entries_of_ram_is_ram() {
        let (map, _) = RamMap::from_entries(&[
            entry(0x1800, 0x1800, MemoryKind::Ram),
            entry(0, 0x1800, MemoryKind::Ram),
        ]);
        assert_eq!(map.ranges(), [range(0, 3)]);
    }

    #[test]
    fn nonsense_is_dropped_and_counted() {
        let (map, dropped) = RamMap::from_entries(&[
            entry(0x1000, 0, MemoryKind::Ram),
            entry(u64::MAX - 10, 100, MemoryKind::Ram),
            entry(1 << 52, 0x1000, MemoryKind::Ram),
            entry(0x1000, 0x1000, MemoryKind::Ram),
        ]);
        assert_eq!(map.ranges(), [range(1, 2)]);
        assert_eq!(dropped, 3);
    }

    #[test]
    fn a_map_of_single_frames_fits_and_more_is_dropped() {
        let entries: Vec<_> = (0..200).map(|n| entry(n * 0x2000, 0x1000, MemoryKind::Ram)).collect();
        let (mut map, dropped) = RamMap::from_entries(&entries);
        assert_eq!((map.ranges().len(), dropped), (MAX_ENTRIES, 72));
        map.remove(range(0, 1)).unwrap();
        assert_eq!(map.ranges().len(), MAX_ENTRIES - 1);
    }

    #[test]
    fn cutting_holes_ends_with_an_error_that_changes_nothing() {
        let (mut map, _) = RamMap::from_entries(&[entry(0, 0x1000 * 1000, MemoryKind::Ram)]);
        let mut at = 1;
        while map.remove(range(at, at + 1)).is_ok() {
            at += 2;
        }
        assert_eq!(map.ranges().len(), MAX_RANGES);
        assert!(map.contains(Gfn::new(at)));
    }

    #[test]
    fn taking_is_from_below_and_never_splits() {
        let (mut map, _) = RamMap::from_entries(&[
            entry(0x1000, 0x2000, MemoryKind::Ram),
            entry(0x10000, 0x4000, MemoryKind::Ram),
        ]);
        assert_eq!(map.take(Frames::new(3)), Some(range(0x10, 0x13)));
        assert_eq!(map.take(Frames::new(2)), Some(range(1, 3)));
        assert_eq!(map.take(Frames::new(2)), None);
        assert_eq!(map.take(Frames::ZERO), None);
        assert_eq!(map.take(Frames::new(1)), Some(range(0x13, 0x14)));
        assert_eq!(map.ranges(), []);
    }

    /// Entries in units of a quarter of a frame, over 64 frames.
    fn small_entries() -> impl Strategy<Value = Vec<MapEntry>> {
        let kind = prop_oneof![3 => Just(MemoryKind::Ram), 1 => Just(MemoryKind::Reserved)];
        let entry = (0..256u64, 0..64u64, kind).prop_map(|(s, n, k)| entry(s * 0x400, n * 0x400, k));
        prop::collection::vec(entry, 0..12)
    }

    proptest! {
        #[test]
        fn a_frame_is_ram_if_and_only_if_all_of_it_is(entries in small_entries()) {
            let (map, _) = RamMap::from_entries(&entries);
            for frame in 0..80 {
                let all_ram = (frame * 4..frame * 4 + 4).map(|quarter| quarter * 0x400).all(|at| {
                    let here = |e: &&MapEntry| e.start <= at && at < e.start + e.size;
                    entries.iter().any(|e| here(&e))
                        && entries.iter().filter(here).all(|e| e.kind == MemoryKind::Ram)
                });
                prop_assert_eq!(map.contains(Gfn::new(frame)), all_ram, "frame {}", frame);
            }
            for pair in map.ranges().windows(2) {
                prop_assert!(pair[0].end() < pair[1].start());
            }
        }

        #[test]
        fn removing_leaves_exactly_the_rest(entries in small_entries(), start in 0..80u64, len in 0..80u64) {
            let (before, _) = RamMap::from_entries(&entries);
            let hole = range(start, start + len);
            let mut after = before.clone();
            after.remove(hole).unwrap();
            for frame in (0..80).map(Gfn::new) {
                prop_assert_eq!(after.contains(frame), before.contains(frame) && !hole.contains(frame));
            }
        }

        #[test]
        fn any_map_at_all_is_survived(
            raw in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..160)
        ) {
            let entries: Vec<_> = raw
                .iter()
                .map(|(s, n, ram)| entry(*s, *n, if *ram { MemoryKind::Ram } else { MemoryKind::Other(9) }))
                .collect();
            let (map, _) = RamMap::from_entries(&entries);
            prop_assert!(map.ranges().iter().all(|range| !range.is_empty()));
        }
    }
}
