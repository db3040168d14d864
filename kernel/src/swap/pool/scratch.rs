//! What a CPU compresses and decompresses in, so that neither allocates.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::error::NoMemory;
use super::lz4::{Packer, Places};
use super::shard::{HEADER, Object, TAG};
use crate::swap::Page;

/// The work memory of a CPU: made where it stays, because it is too much for a kernel's stack.
pub(super) struct Scratch {
    packer: Packer,
    /// The object on its way into the log, or out of it.
    pub(super) object: Box<Object>,
    /// The object that is being moved inside of the log.
    pub(super) spare: Box<Object>,
}

impl Scratch {
    /// How much it is.
    pub(super) const BYTES: usize = size_of::<Self>() + size_of::<Places>() + 2 * size_of::<Object>();

    /// Work memory for `count` CPUs.
    pub(super) fn several<T>(count: usize, wrap: impl Fn(Self) -> T) -> Result<Box<[T]>, NoMemory> {
        let mut all = Vec::new();
        all.try_reserve_exact(count).map_err(|_| NoMemory { bytes: count * size_of::<T>() })?;
        for _ in 0..count {
            all.push(wrap(Self::new()?));
        }
        Ok(all.into_boxed_slice())
    }

    fn new() -> Result<Self, NoMemory> {
        Ok(Self { packer: Packer::new(zeros()?), object: zeros()?, spare: zeros()? })
    }

    /// Compresses the page into the object, behind its header and the tag, if the result has at most `most` bytes, and
    /// answers how many bytes of data that makes. `None` if the result would have more.
    pub(super) fn pack(&mut self, page: &Page, tag: u32, most: usize) -> Option<usize> {
        let (first, room) = self.object[HEADER..].split_first_chunk_mut()?;
        let most = most.min(room.len());
        let length = self.packer.pack(page, &mut room[..most])?;
        *first = tag.to_le_bytes();
        Some(TAG + length)
    }
}

/// So many zeros, on the heap from the beginning.
fn zeros<T: Copy + Default, const COUNT: usize>() -> Result<Box<[T; COUNT]>, NoMemory> {
    let bytes = COUNT * size_of::<T>();
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(COUNT).map_err(|_| NoMemory { bytes })?;
    zeros.resize(COUNT, T::default());
    zeros.into_boxed_slice().try_into().map_err(|_| NoMemory { bytes })
}
