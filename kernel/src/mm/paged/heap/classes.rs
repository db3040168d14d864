//! Sizes of small objects.
//!
//! A slab is one page, or a few, cut into objects of one size. The sizes are chosen so that little of a slab is left
//! over: up to a third more than was asked for beyond 48 bytes,
//! and less than 3 % at the end of a slab.

use core::alloc::Layout;

use crate::units::FRAME_SIZE;

/// Objects in a slab at most.
pub(super) const MOST_OBJECTS: usize = 128;
/// How many classes there are.
pub(super) const CLASSES: usize = SIZES.len();

/// Bytes of an object, pages of a slab.
const SIZES: [(u16, u8); 24] = [
    (32, 1),
    (48, 1),
    (64, 1),
    (80, 1),
    (96, 1),
    (112, 1),
    (128, 1),
    (160, 1),
    (192, 1),
    (224, 1),
    (256, 1),
    (336, 1),
    (400, 1),
    (448, 1),
    (512, 1),
    (576, 1),
    (672, 1),
    (816, 1),
    (1024, 1),
    (1360, 1),
    (1632, 2),
    (2048, 1),
    (2720, 2),
    (3072, 3),
];

/// A class, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class(u8);

impl Class {
    /// The smallest class whose objects have the size and the alignment; `None` for what is not small.
    pub(super) fn of(layout: Layout) -> Option<Self> {
        let fits = |(size, _): &(u16, u8)| {
            let size = usize::from(*size);
            size >= layout.size() && size.is_multiple_of(layout.align())
        };
        SIZES.iter().position(fits).map(|number| Self(number as u8))
    }

    pub(super) const fn number(self) -> usize {
        self.0 as usize
    }

    /// Bytes of an object.
    pub(super) const fn size(self) -> usize {
        SIZES[self.0 as usize].0 as usize
    }

    /// Pages of a slab.
    pub(super) const fn pages(self) -> usize {
        SIZES[self.0 as usize].1 as usize
    }

    /// Objects in a slab.
    pub(super) const fn objects(self) -> usize {
        self.pages() * FRAME_SIZE / self.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_fits_and_wastes_little() {
        for number in 0..CLASSES {
            let class = Class(number as u8);
            assert!(class.objects() <= MOST_OBJECTS, "{class:?}");
            let left = class.pages() * FRAME_SIZE - class.objects() * class.size();
            assert!(left * 33 <= class.pages() * FRAME_SIZE, "{class:?} leaves {left}");
            assert!(class.size().is_multiple_of(16), "{class:?}");
            assert!(number == 0 || SIZES[number - 1].0 < SIZES[number].0);
        }
        for size in 1..=3072 {
            let class = Class::of(Layout::from_size_align(size, 8).unwrap()).unwrap();
            assert!(class.size() >= size);
            assert!(size <= 48 || class.size() <= size + size / 3 + 1, "{size} takes {}", class.size());
        }
        assert_eq!(Class::of(Layout::from_size_align(3073, 8).unwrap()), None);
    }

    #[test]
    fn alignment_is_kept() {
        for shift in 0..=11 {
            for size in [1, 33, 100, 1000, 2000] {
                let layout = Layout::from_size_align(size, 1 << shift).unwrap();
                let class = Class::of(layout).unwrap();
                assert!(class.size() >= size && class.size().is_multiple_of(1 << shift), "{layout:?}");
            }
        }
        assert_eq!(Class::of(Layout::from_size_align(100, 4096).unwrap()), None);
    }
}
