//! Arrays of which only the parts in use are there.
//!
//! Books that have a place for everything that could ever be cost a share of all memory, also in a guest that needs
//! none of them. A [`Sparse`] array is cut into chunks, and a chunk is made when something is to be kept in it; until
//! then it costs one pointer. A chunk that was made stays as long as the array: whoever has a reference into it need
//! not fear for it, and nothing is locked.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use once_cell::race::OnceBox;

/// There is no memory for a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoChunk;

impl core::fmt::Display for NoChunk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no kernel memory for books")
    }
}

impl core::error::Error for NoChunk {}

/// An array of `len` values, in chunks of `N`. Values of a chunk that was not made are their type's default.
#[derive(Debug)]
pub struct Sparse<T, const N: usize> {
    chunks: Box<[OnceBox<[T; N]>]>,
    len: u64,
}

impl<T: Default, const N: usize> Sparse<T, N> {
    /// An array of `len` values, of which no chunk is made.
    ///
    /// # Errors
    ///
    /// If the heap has no memory for a pointer per chunk.
    pub fn new(len: u64) -> Result<Self, TryReserveError> {
        let count = usize::try_from(len.div_ceil(N as u64)).unwrap_or(usize::MAX);
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count)?;
        chunks.extend((0..count).map(|_| OnceBox::new()));
        Ok(Self { chunks: chunks.into_boxed_slice(), len })
    }

    /// Values that there can be.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there can be none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Chunks that there can be.
    #[must_use]
    pub const fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// A chunk, if it was made. Any context.
    #[must_use]
    pub fn chunk(&self, number: usize) -> Option<&[T; N]> {
        self.chunks.get(number)?.get()
    }

    /// A value; `None` beyond the end, and where the chunk was not made. Any context.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        self.chunk((index / N as u64) as usize)?.get((index % N as u64) as usize)
    }

    /// Makes a chunk, if it was not made. Of several who do so at a time, one is the first, and all get the same one.
    /// Takes memory from the heap; waits for nobody.
    ///
    /// # Errors
    ///
    /// [`NoChunk`].
    ///
    /// # Panics
    ///
    /// If it lies beyond the end.
    pub fn make(&self, number: usize) -> Result<&[T; N], NoChunk> {
        Ok(self.make_first(number)?.0)
    }

    /// The same, and answers whether the caller is the one who has made it.
    ///
    /// # Errors
    ///
    /// [`NoChunk`].
    ///
    /// # Panics
    ///
    /// If it lies beyond the end.
    pub fn make_first(&self, number: usize) -> Result<(&[T; N], bool), NoChunk> {
        let place = &self.chunks[number];
        if let Some(chunk) = place.get() {
            return Ok((chunk, false));
        }
        let mut values = Vec::new();
        values.try_reserve_exact(N).map_err(|_| NoChunk)?;
        values.resize_with(N, T::default);
        let chunk = values.into_boxed_slice().try_into().map_err(|_| NoChunk)?;
        let first = place.set(chunk).is_ok();
        Ok((place.get().ok_or(NoChunk)?, first))
    }

    /// Makes the chunk of a value, and answers the value; `None` beyond the end.
    ///
    /// # Errors
    ///
    /// [`NoChunk`].
    pub fn make_for(&self, index: u64) -> Result<Option<&T>, NoChunk> {
        if index >= self.len {
            return Ok(None);
        }
        Ok(self.make((index / N as u64) as usize)?.get((index % N as u64) as usize))
    }

    /// The values of all chunks that were made, each with its place. Ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.from(0)
    }

    /// The same from `first` on.
    pub fn from(&self, first: u64) -> impl Iterator<Item = (u64, &T)> {
        let whole = usize::try_from(first / N as u64).unwrap_or(usize::MAX);
        let chunks = self.chunks.get(whole..).unwrap_or_default().iter().zip(whole as u64..);
        let made = chunks.filter_map(|(chunk, number)| Some((number * N as u64, chunk.get()?)));
        made.flat_map(|(start, chunk)| (start..).zip(chunk))
            .skip_while(move |(index, _)| *index < first)
            .take_while(|(index, _)| *index < self.len)
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let made = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        (size_of_val(&*self.chunks) + made * size_of::<[T; N]>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU8, Ordering};
    use std::thread;

    #[test]
    fn only_what_was_made_is_there() {
        let array = Sparse::<AtomicU8, 8>::new(20).unwrap();
        assert_eq!((array.len(), array.chunks(), array.bytes()), (20, 3, 24));
        assert!((0..21).all(|index| array.get(index).is_none()) && array.iter().next().is_none());
        array.make_for(17).unwrap().unwrap().store(5, Ordering::Relaxed);
        assert!(array.get(15).is_none() && array.get(20).is_none(), "beyond the end there is nothing");
        let values: Vec<_> =
            array.iter().map(|(index, value)| (index, value.load(Ordering::Relaxed))).collect();
        assert_eq!(values, [(16, 0), (17, 5), (18, 0), (19, 0)]);
        assert_eq!(array.bytes(), 24 + 8);
        assert!(array.make_for(20).unwrap().is_none());
        array.make(0).unwrap();
        assert_eq!(array.from(6).map(|(index, _)| index).collect::<Vec<_>>(), [6, 7, 16, 17, 18, 19]);
        assert_eq!(array.from(19).count(), 1);
        assert_eq!((array.from(20).count(), array.from(u64::MAX).count()), (0, 0));
        assert!(Sparse::<u64, 512>::new(0).unwrap().is_empty());
    }

    #[test]
    fn those_who_make_a_chunk_at_the_same_time_get_the_same_one() {
        for _ in 0..100 {
            let array = Sparse::<AtomicU8, 64>::new(64).unwrap();
            thread::scope(|scope| {
                for index in 0..4 {
                    let array = &array;
                    scope.spawn(move || {
                        array.make_for(index).unwrap().unwrap().fetch_add(1, Ordering::Relaxed);
                        array.make_for(9).unwrap().unwrap().fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(array.get(9).unwrap().load(Ordering::Relaxed), 4);
            assert!((0..4).all(|index| array.get(index).unwrap().load(Ordering::Relaxed) == 1));
        }
    }
}
