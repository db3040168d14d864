//! Blocks that come and go: what the direct map needs when memory leaves the machine and returns.
//!
//! A block of the direct map is one entry until a single frame out of it is taken away; from then on a table maps
//! what is left. When nothing is left, the table has no use any more, and the block may become one entry again. The
//! table is handed to the caller, who must not use its frame for anything else before no processor can be walking
//! it: after a flush.

use super::{Access, ENTRIES};
use super::{AddressSpace, Entry, MapError, Tables, check, index, level_of};
use crate::units::{Gfn, Order};

impl<T: Tables> AddressSpace<T> {
    /// Takes away all that is mapped in the block at `address`, and answers the table that mapped it frame by frame,
    /// if one did. Needs no memory, and cannot fail.
    ///
    /// # Panics
    ///
    /// If `address` does not begin a block, or is not canonical.
    pub fn clear_block(&mut self, address: u64) -> Option<Gfn> {
        let (directory, slot) = self.directory_entry(address)?;
        let entry = self.entry(directory, slot);
        if entry.is_present() {
            self.set(directory, slot, Entry::ABSENT);
        }
        (entry.is_present() && !entry.is_large()).then(|| entry.frame())
    }

    /// Maps the block at `address` by one entry, and answers the table that was there, if there was one.
    ///
    /// # Errors
    ///
    /// If any frame of the block is mapped, or there is no frame for a table above.
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    pub fn set_block(&mut self, address: u64, frame: Gfn, access: Access) -> Result<Option<Gfn>, MapError> {
        let Some((directory, slot)) = self.directory_entry(address) else {
            return self.map(address, frame, Order::BLOCK, access).map(|()| None);
        };
        let entry = self.entry(directory, slot);
        let table = match (entry.is_present(), entry.is_large()) {
            (false, _) => None,
            (true, true) => return Err(MapError::Occupied(address)),
            (true, false) => Some(entry.frame()),
        };
        let in_use = |table| (0..ENTRIES as usize).any(|at| self.entry(table, at).is_present());
        if table.is_some_and(in_use) {
            return Err(MapError::Occupied(address));
        }
        // Absent first: a walk sees the table, nothing, or the block, and all of them are true.
        self.set(directory, slot, Entry::ABSENT);
        self.map(address, frame, Order::BLOCK, access)?;
        Ok(table)
    }

    /// The directory and the slot in it of the block at `address`; `None` if there is no directory.
    fn directory_entry(&self, address: u64) -> Option<(Gfn, usize)> {
        check(address, Order::BLOCK);
        let level = level_of(Order::BLOCK);
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            let entry = self.entry(table, index(address, above));
            if !entry.is_present() || entry.is_large() {
                return None;
            }
            table = entry.frame();
        }
        Some((table, index(address, level)))
    }
}
