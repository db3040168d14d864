//! Consecutive frames.

use super::{FRAME_SHIFT, FRAME_SIZE, Frames, Gfn, PhysAddr};
use core::fmt;

/// No x86 machine has physical addresses from here on.
pub(crate) const ADDRESS_LIMIT: u64 = 1 << 52;

/// Frames from `start` up to, but without, `end`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameRange {
    start: Gfn,
    end: Gfn,
}

impl FrameRange {
    /// No frames.
    pub const EMPTY: Self = Self { start: Gfn::new(0), end: Gfn::new(0) };

    /// The frames from `start` to before `end`, none if `end` is not above `start`.
    #[must_use]
    pub const fn new(start: Gfn, end: Gfn) -> Self {
        if end.get() > start.get() { Self { start, end } } else { Self { start, end: start } }
    }

    /// The `count` frames from `first` on, or `None` past the end of the number space.
    #[must_use]
    pub const fn counted(first: Gfn, count: Frames) -> Option<Self> {
        match first.checked_add(count) {
            Some(end) => Some(Self::new(first, end)),
            None => None,
        }
    }

    /// Every frame that `size` bytes from `start` touch, or `None` past the end of the address space.
    #[must_use]
    pub const fn touching(start: PhysAddr, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) if end.get() <= ADDRESS_LIMIT => {
                let end = Gfn::new(end.get().div_ceil(FRAME_SIZE as u64));
                Some(if size == 0 { Self::EMPTY } else { Self::new(Gfn::containing(start), end) })
            }
            _ => None,
        }
    }

    /// The first frame.
    #[must_use]
    pub const fn start(self) -> Gfn {
        self.start
    }

    /// The first frame beyond.
    #[must_use]
    pub const fn end(self) -> Gfn {
        self.end
    }

    /// How many frames.
    #[must_use]
    pub const fn count(self) -> Frames {
        Frames::new(self.end.get() - self.start.get())
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end.get() == self.start.get()
    }

    /// The frames, in ascending order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Gfn> {
        (self.start.get()..self.end.get()).map(Gfn::new)
    }

    /// Whether all of `other` is in here.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start.get() <= other.start.get() && other.end.get() <= self.end.get()
    }

    /// Whether `frame` is one of them.
    #[must_use]
    pub const fn contains(self, frame: Gfn) -> bool {
        self.start.get() <= frame.get() && frame.get() < self.end.get()
    }
}

impl fmt::Debug for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.get() << FRAME_SHIFT, self.end.get() << FRAME_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> FrameRange {
        FrameRange::new(Gfn::new(start), Gfn::new(end))
    }

    #[test]
    fn a_range_ends_before_its_end() {
        let five = range(2, 7);
        assert_eq!(five.count(), Frames::new(5));
        assert!(five.contains(Gfn::new(6)) && !five.contains(Gfn::new(7)));
        assert_eq!(five.iter().map(Gfn::get).sum::<u64>(), 2 + 3 + 4 + 5 + 6);
        assert!(range(7, 2).is_empty(), "backwards is empty");
    }

    #[test]
    fn a_range_covers_its_parts() {
        assert!(range(2, 7).covers(range(2, 7)) && range(2, 7).covers(range(4, 5)));
        assert!(!range(2, 7).covers(range(1, 3)) && !range(2, 7).covers(range(6, 8)));
    }

    #[test]
    fn a_count_past_the_end_is_no_range() {
        assert_eq!(FrameRange::counted(Gfn::new(3), Frames::new(2)), Some(range(3, 5)));
        assert_eq!(FrameRange::counted(Gfn::new(u64::MAX), Frames::new(2)), None);
    }

    #[test]
    fn touching_rounds_outward_and_refuses_the_impossible() {
        assert_eq!(FrameRange::touching(PhysAddr::new(0xFFF), 2), Some(range(0, 2)));
        assert_eq!(FrameRange::touching(PhysAddr::new(0xFFF), 0), Some(FrameRange::EMPTY));
        assert_eq!(FrameRange::touching(PhysAddr::new(1 << 52), 1), None);
        assert_eq!(FrameRange::touching(PhysAddr::new(2), u64::MAX), None);
    }
}
