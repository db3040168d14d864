//! The table of a shard's slots, which grows as the shard takes frames.
//!
//! A pool that could have most of the memory would otherwise pay for that from the start, in a guest that may never
//! swap. What has come stays.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::slot::Slot;

/// Slots that come together: 4 KiB.
const CHUNK: usize = 128;

/// Slots, by number from 0 on.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// All but the last have [`CHUNK`] slots.
    chunks: Vec<Box<[Slot<T>]>>,
    most: usize,
}

impl<T> Table<T> {
    /// A table of no slots, which can come to have `most`.
    pub(super) const fn new(most: usize) -> Self {
        Self { chunks: Vec::new(), most }
    }

    /// Slots that there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Whether it can grow.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// Makes more slots, vacant ones that are a list which goes on with `vacant`, and answers the first of them. `None` if
    /// there can be no more, or if the heap has no memory.
    pub(super) fn grow(&mut self, vacant: u32) -> Option<u32> {
        let first = self.len();
        let count = (self.most - first).min(CHUNK);
        if count == 0 {
            return None;
        }
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(count).ok()?;
        self.chunks.try_reserve(1).ok()?;
        let next = |at: usize| if at + 1 < count { (first + at + 1) as u32 } else { vacant };
        chunk.extend((0..count).map(|at| Slot::Vacant { next: next(at) }));
        self.chunks.push(chunk.into_boxed_slice());
        Some(first as u32)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Slot<T>> {
        self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<T>> {
        self.chunks.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot<T>> {
        self.chunks.iter_mut().flatten()
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> u64 {
        (self.chunks.capacity() * size_of::<Box<[Slot<T>]>>() + self.len() * size_of::<Slot<T>>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot::NONE;
    use super::*;

    #[test]
    fn it_grows_by_chunks_of_vacant_slots_up_to_its_bound() {
        let mut table = Table::<u64>::new(300);
        assert!(table.get(0).is_none() && table.bytes() == 0);
        let mut vacant = NONE;
        for expected in [0, 128, 256] {
            assert!(!table.is_full());
            vacant = table.grow(vacant).unwrap();
            assert_eq!(vacant, expected);
        }
        assert!(table.is_full() && table.len() == 300 && table.grow(NONE).is_none());
        let mut list = Vec::new();
        while let Some(Slot::Vacant { next }) = table.get(vacant) {
            list.push(vacant);
            vacant = *next;
        }
        let expected: Vec<u32> = (256..300).chain(128..256).chain(0..128).collect();
        assert_eq!((list, vacant), (expected, NONE));
        assert!(table.get(300).is_none() && table.get_mut(NONE).is_none());
        assert_eq!((table.iter().count(), table.iter_mut().count()), (300, 300));
        assert!(Table::<u64>::new(0).grow(NONE).is_none());
    }
}
