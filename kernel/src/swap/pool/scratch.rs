//! What a CPU compresses and decompresses in, so that neither allocates.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::error::{Corruption, NoMemory};
use super::shard::{HEADER, Object};
use crate::swap::Page;
use crate::units::FRAME_SIZE;

/// What LZ4 wants to have room for, however little it writes.
const MOST_OUTPUT: usize = get_maximum_output_size(FRAME_SIZE);

/// The work memory of a CPU.
pub(super) struct Scratch {
    table: CompressTable,
    packed: [u8; MOST_OUTPUT],
    /// The object on its way into the log, or out of it.
    pub(super) object: Object,
    /// The object that is being moved inside of the log.
    pub(super) spare: Object,
}

impl Scratch {
    /// Work memory for `count` CPUs.
    pub(super) fn several<T>(count: usize, wrap: impl Fn(Self) -> T) -> Result<Box<[T]>, NoMemory> {
        let mut all = Vec::new();
        all.try_reserve_exact(count).map_err(|_| NoMemory { bytes: count * size_of::<T>() })?;
        all.resize_with(count, || wrap(Self::new()));
        Ok(all.into_boxed_slice())
    }

    const fn new() -> Self {
        Self {
            table: CompressTable::small(),
            packed: [0; MOST_OUTPUT],
            object: [0; FRAME_SIZE],
            spare: [0; FRAME_SIZE],
        }
    }

    /// Compresses the page into the object, behind its header, if the result has at most `most` bytes. Says how many
    /// it has, either way.
    pub(super) fn pack(&mut self, page: &Page, most: usize) -> Result<usize, usize> {
        let Ok(length) = compress_into_with_table(page, &mut self.packed, &mut self.table) else {
            unreachable!("LZ4: {MOST_OUTPUT} bytes are not enough for a page");
        };
        match self.object.get_mut(HEADER..HEADER + length) {
            Some(room) if length <= most => {
                room.copy_from_slice(&self.packed[..length]);
                Ok(length)
            }
            _ => Err(length),
        }
    }
}

/// Decompresses a page.
pub(super) fn unpack(data: &[u8], into: &mut Page) -> Result<(), Corruption> {
    match decompress_into(data, into) {
        Ok(FRAME_SIZE) => Ok(()),
        _ => Err(Corruption::Encoding),
    }
}
