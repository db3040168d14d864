//! A chunk: 2 MiB of paged memory whose 512 pages are given out in runs.
//!
//! A page is used, or free. A free page is *clean*, without a frame and without a promise, or *dirty*: it still has what
//! it was charged for, until somebody uses it again or it is discarded. Pages that are being discarded count as used.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::classes::{Class, MOST_OBJECTS};
use crate::mm::paged::Mask;

/// Pages of a chunk.
pub(super) const PAGES: usize = 512;

/// Whether a bit is set.
fn get(mask: &Mask, page: usize) -> bool {
    mask[page / 64] >> (page % 64) & 1 != 0
}

fn set(mask: &mut Mask, page: usize, to: bool) {
    let bit = 1 << (page % 64);
    if to {
        mask[page / 64] |= bit;
    } else {
        mask[page / 64] &= !bit;
    }
}

fn count(mask: &Mask) -> usize {
    mask.iter().map(|word| word.count_ones() as usize).sum()
}

/// What lives in a slab: at its first page's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slab {
    /// Set bits are free objects.
    free: [u64; MOST_OBJECTS / 64],
    /// `None`: no slab begins at this page.
    pub(super) class: Option<Class>,
    pub(super) used: u8,
    /// Pages from here back to the first page of the slab that this page is part of.
    back: u8,
    /// Neighbours in the list of slabs with room.
    pub(super) next: u32,
    pub(super) previous: u32,
}

impl Slab {
    pub(super) const NONE: Self = Self {
        free: [0; MOST_OBJECTS / 64],
        class: None,
        used: 0,
        back: 0,
        next: u32::MAX,
        previous: u32::MAX,
    };

    fn new(class: Class) -> Self {
        let mut free = [0; MOST_OBJECTS / 64];
        for object in 0..class.objects() {
            free[object / 64] |= 1 << (object % 64);
        }
        Self { free, class: Some(class), ..Self::NONE }
    }

    /// Takes a free object, if there is one.
    pub(super) fn take(&mut self) -> Option<usize> {
        let (at, word) = self.free.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros() as usize;
        *word &= *word - 1;
        self.used += 1;
        Some(at * 64 + bit)
    }

    /// Takes an object back; false if it is free already.
    pub(super) fn put(&mut self, object: usize) -> bool {
        let (at, bit) = (object / 64, 1 << (object % 64));
        if self.free[at] & bit != 0 {
            return false;
        }
        self.free[at] |= bit;
        self.used -= 1;
        true
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.iter().all(|word| *word == 0)
    }
}

/// A chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Where it begins.
    pub(super) address: usize,
    free: Mask,
    dirty: Mask,
    /// No run of free pages is longer.
    longest: usize,
    pub(super) slabs: Box<[Slab]>,
}

impl Chunk {
    /// A chunk of clean free pages; `None` if there is no memory for its books.
    pub(super) fn new(address: usize) -> Option<Self> {
        let mut slabs = Vec::new();
        slabs.try_reserve_exact(PAGES).ok()?;
        slabs.resize(PAGES, Slab::NONE);
        let free = [u64::MAX; PAGES / 64];
        Some(Self { address, free, dirty: [0; PAGES / 64], longest: PAGES, slabs: slabs.into_boxed_slice() })
    }

    /// Free pages.
    pub(super) fn free_pages(&self) -> usize {
        count(&self.free)
    }

    /// Dirty pages.
    pub(super) fn dirty_pages(&self) -> usize {
        count(&self.dirty)
    }

    /// The first run of `pages` free pages, and how many of them are clean.
    pub(super) fn find(&mut self, pages: usize) -> Option<(usize, usize)> {
        if self.longest < pages {
            return None;
        }
        let (mut run, mut longest) = (0, 0);
        for page in 0..PAGES {
            run = if get(&self.free, page) { run + 1 } else { 0 };
            longest = longest.max(run);
            if run == pages {
                let first = page + 1 - pages;
                let clean = (first..=page).filter(|page| !get(&self.dirty, *page)).count();
                return Some((first, clean));
            }
        }
        self.longest = longest;
        None
    }

    /// Uses a run that [`find`](Self::find) found.
    pub(super) fn take(&mut self, first: usize, pages: usize) {
        for page in first..first + pages {
            debug_assert!(get(&self.free, page));
            set(&mut self.free, page, false);
            set(&mut self.dirty, page, false);
        }
    }

    /// Frees a run of used pages, which are dirty. False if one of them is free already.
    pub(super) fn put(&mut self, first: usize, pages: usize) -> bool {
        if (first..first + pages).any(|page| page >= PAGES || get(&self.free, page)) {
            return false;
        }
        for page in first..first + pages {
            set(&mut self.free, page, true);
            set(&mut self.dirty, page, true);
        }
        let mut from = first;
        while from > 0 && get(&self.free, from - 1) {
            from -= 1;
        }
        let mut end = first + pages;
        while end < PAGES && get(&self.free, end) {
            end += 1;
        }
        self.longest = self.longest.max(end - from);
        true
    }

    /// Makes the dirty pages used, and says which they were: they can be discarded then.
    pub(super) fn take_dirty(&mut self) -> Mask {
        let dirty = core::mem::take(&mut self.dirty);
        for (free, dirty) in self.free.iter_mut().zip(dirty) {
            *free &= !dirty;
        }
        dirty
    }

    /// Makes pages clean that [`take_dirty`](Self::take_dirty) gave, and answers how many there were.
    pub(super) fn put_clean(&mut self, pages: Mask) -> usize {
        for (free, pages) in self.free.iter_mut().zip(pages) {
            *free |= pages;
        }
        // A bound: the next search finds the truth.
        self.longest = PAGES;
        count(&pages)
    }

    /// Makes a slab of the run at `first`, which is used already.
    pub(super) fn make_slab(&mut self, first: usize, class: Class) {
        self.slabs[first] = Slab::new(class);
        for back in 1..class.pages() {
            self.slabs[first + back] = Slab { back: back as u8, ..Slab::NONE };
        }
    }

    /// The slab that a page is part of, by its first page.
    pub(super) fn slab_at(&self, page: usize) -> Option<(usize, Class)> {
        let first = page.checked_sub(usize::from(self.slabs.get(page)?.back))?;
        Some((first, self.slabs[first].class?))
    }

    /// Ends a slab. Its pages are still used.
    pub(super) fn end_slab(&mut self, first: usize, class: Class) {
        self.slabs[first..first + class.pages()].fill(Slab::NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::Layout;

    #[test]
    fn runs_are_found_from_the_bottom_and_joined() {
        let mut chunk = Chunk::new(0).unwrap();
        assert_eq!(chunk.find(512), Some((0, 512)));
        assert_eq!(chunk.find(513), None);
        for first in [0, 3, 6] {
            assert_eq!(chunk.find(3), Some((first, 3)));
            chunk.take(first, 3);
        }
        assert!(chunk.put(3, 3));
        assert!(!chunk.put(5, 1), "freed twice");
        assert!(!chunk.put(511, 2), "beyond the end");
        assert_eq!(chunk.find(3), Some((3, 0)), "dirty pages first, by their place");
        assert_eq!(chunk.find(4), Some((9, 4)));
        chunk.take(9, 503);
        assert_eq!(chunk.find(4), None);
        assert!(chunk.put(6, 3));
        assert_eq!(chunk.find(6), Some((3, 0)));
        assert_eq!((chunk.free_pages(), chunk.dirty_pages()), (6, 6));
    }

    #[test]
    fn what_is_being_discarded_is_nobodys() {
        let mut chunk = Chunk::new(0).unwrap();
        chunk.take(0, 512);
        assert!(chunk.put(10, 20));
        let dirty = chunk.take_dirty();
        assert_eq!(chunk.find(1), None);
        assert_eq!(chunk.put_clean(dirty), 20);
        assert_eq!(chunk.find(20), Some((10, 20)));
        assert_eq!(chunk.dirty_pages(), 0);
    }

    #[test]
    fn a_slab_gives_each_object_once() {
        let class = Class::of(Layout::from_size_align(3000, 8).unwrap()).unwrap();
        let mut chunk = Chunk::new(0).unwrap();
        chunk.take(0, 8);
        chunk.make_slab(5, class);
        for page in 5..8 {
            assert_eq!(chunk.slab_at(page), Some((5, class)));
        }
        assert_eq!(chunk.slab_at(4), None);
        let slab = &mut chunk.slabs[5];
        let objects: Vec<_> = core::iter::from_fn(|| slab.take()).collect();
        assert_eq!(objects, [0, 1, 2, 3]);
        assert!(slab.is_full());
        assert!(slab.put(2) && !slab.put(2));
        assert_eq!((slab.take(), slab.used), (Some(2), 4));
        chunk.end_slab(5, class);
        assert_eq!(chunk.slab_at(6), None);
    }
}
