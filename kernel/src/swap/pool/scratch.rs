//! What a CPU compresses and decompresses in, so that neither allocates.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::error::{Corruption, NoMemory};
use super::shard::{HEADER, Object, TAG};
use crate::swap::Page;
use crate::units::FRAME_SIZE;

/// What LZ4 wants to have room for, however little it writes.
const MOST_OUTPUT: usize = get_maximum_output_size(FRAME_SIZE);

/// What LZ4 remembers where it has seen something in: 4096 numbers of 16 bits, on the heap.
const TABLE_BYTES: usize = 4096 * 2;

/// The work memory of a CPU: made where it stays, because it is too much for a kernel's stack.
pub(super) struct Scratch {
    table: CompressTable,
    packed: Box<[u8; MOST_OUTPUT]>,
    /// The object on its way into the log, or out of it.
    pub(super) object: Box<Object>,
    /// The object that is being moved inside of the log.
    pub(super) spare: Box<Object>,
}

impl Scratch {
    /// How much it is.
    pub(super) const BYTES: usize = size_of::<Self>() + TABLE_BYTES + MOST_OUTPUT + 2 * FRAME_SIZE;

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
        let (packed, object, spare) = (zeros()?, zeros()?, zeros()?);
        // The table cannot be refused, so first see whether there is room for it.
        drop(zeros::<TABLE_BYTES>()?);
        Ok(Self { table: CompressTable::small(), packed, object, spare })
    }

    /// Compresses the page into the object, behind its header and the tag, if the result has at most `most` bytes.
    /// Answers how many bytes of data that makes, or how many the result would have.
    pub(super) fn pack(&mut self, page: &Page, tag: u32, most: usize) -> Result<usize, usize> {
        let Ok(length) = compress_into_with_table(page, &mut *self.packed, &mut self.table) else {
            unreachable!("LZ4: {MOST_OUTPUT} bytes are not enough for a page");
        };
        let data = &mut self.object[HEADER..];
        match data.get_mut(..TAG + length).and_then(|data| data.split_first_chunk_mut()) {
            Some((first, room)) if length <= most => {
                *first = tag.to_le_bytes();
                room.copy_from_slice(&self.packed[..length]);
                Ok(TAG + length)
            }
            _ => Err(length),
        }
    }
}

/// So many zeros, on the heap from the beginning.
fn zeros<const BYTES: usize>() -> Result<Box<[u8; BYTES]>, NoMemory> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(BYTES).map_err(|_| NoMemory { bytes: BYTES })?;
    zeros.resize(BYTES, 0);
    zeros.into_boxed_slice().try_into().map_err(|_| NoMemory { bytes: BYTES })
}

/// Decompresses a page.
pub(super) fn unpack(compressed: &[u8], into: &mut Page) -> Result<(), Corruption> {
    match decompress_into(compressed, into) {
        Ok(FRAME_SIZE) => Ok(()),
        _ => Err(Corruption::Encoding),
    }
}
