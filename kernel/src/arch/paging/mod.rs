//! Page tables: mapping, unmapping and looking up, over frames reached through a trait.
//!
//! A mapping is readable, readable and writable, or readable and executable; there is no way to say writable and
//! executable. [`space`] holds the layout of the kernel's own address space. Nothing here executes an instruction:
//! whoever changes a live table also invalidates the translation.

mod block;
pub mod space;
pub mod window;

use crate::units::{BLOCK_FRAMES, FRAME_SHIFT, FRAME_SIZE, Gfn, Order};
use core::fmt;

/// Entries in a table.
const ENTRIES: u64 = 512;

/// Page tables as frames of 512 entries.
pub trait Tables {
    /// A zeroed frame for a table.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn allocate(&mut self) -> Result<Gfn, OutOfTables>;

    /// Entry `index`, below 512, of `table`.
    fn get(&self, table: Gfn, index: usize) -> u64;

    /// Sets entry `index`, below 512, of `table`.
    fn set(&mut self, table: Gfn, index: usize, entry: u64);
}

/// No frame was left for a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

/// Why a page could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame was left for a page table.
    OutOfTables,
    /// Something else is mapped there.
    Occupied(u64),
}

impl From<OutOfTables> for MapError {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfTables
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTables => f.write_str("no frame is left for page tables"),
            Self::Occupied(address) => write!(f, "something is mapped at {address:#x} already"),
        }
    }
}

impl core::error::Error for MapError {}

/// What a mapping allows. Never both writing and executing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
    /// Reading and executing.
    Execute,
}

/// One mapping, as looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The frame behind the address that was asked for.
    pub frame: Gfn,
    /// What the mapping allows.
    pub access: Access,
    /// The size of the page: a frame or a block.
    pub size: Order,
}

/// An entry of a table (Intel SDM volume 3, 4.5; AMD APM volume 2, 5.3).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const ABSENT: Self = Self(0);
    const PRESENT: u64 = 1 << 0;
    const WRITABLE: u64 = 1 << 1;
    /// In a directory: the entry is a 2 MiB page.
    const LARGE: u64 = 1 << 7;
    const NO_EXECUTE: u64 = 1 << 63;
    const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

    /// A table below: permissive, the last level decides.
    const fn table(frame: Gfn) -> Self {
        Self(frame.start().get() | Self::PRESENT | Self::WRITABLE)
    }

    const fn page(frame: Gfn, access: Access) -> Self {
        let access = match access {
            Access::Read => Self::NO_EXECUTE,
            Access::Write => Self::NO_EXECUTE | Self::WRITABLE,
            Access::Execute => 0,
        };
        Self(frame.start().get() | Self::PRESENT | access)
    }

    const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    const fn is_large(self) -> bool {
        self.0 & Self::LARGE != 0
    }

    const fn frame(self) -> Gfn {
        Gfn::new((self.0 & Self::ADDRESS) >> FRAME_SHIFT)
    }

    const fn access(self) -> Access {
        match (self.0 & Self::NO_EXECUTE != 0, self.0 & Self::WRITABLE != 0) {
            (true, true) => Access::Write,
            (true, false) => Access::Read,
            (false, _) => Access::Execute,
        }
    }
}

/// An address space, over whatever gives access to tables.
#[derive(Debug)]
pub struct AddressSpace<T> {
    root: Gfn,
    tables: T,
}

/// Index into the table of `level` (4 is the root) on the way to `address`.
const fn index(address: u64, level: u32) -> usize {
    ((address >> (FRAME_SHIFT + 9 * (level - 1))) & (ENTRIES - 1)) as usize
}

/// Whether the processor accepts `address`: its upper bits repeat bit 47.
const fn is_canonical(address: u64) -> bool {
    let upper = address.cast_signed() >> 47;
    upper == 0 || upper == -1
}

impl<T: Tables> AddressSpace<T> {
    /// An empty address space.
    ///
    /// # Errors
    ///
    /// If there is no frame for the root.
    pub fn new(mut tables: T) -> Result<Self, OutOfTables> {
        Ok(Self { root: tables.allocate()?, tables })
    }

    /// The address space whose root is `root`.
    pub const fn from_root(root: Gfn, tables: T) -> Self {
        Self { root, tables }
    }

    /// The frame of the root table.
    pub const fn root(&self) -> Gfn {
        self.root
    }

    /// The access to the tables. What is changed by it behind the address space's back is the caller's affair.
    pub const fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// The access to the tables, for one who is done with the address space.
    pub fn into_tables(self) -> T {
        self.tables
    }

    /// Maps the page of `size` at `address` to the frames that begin at `frame`.
    ///
    /// # Errors
    ///
    /// If something is mapped there, or there is no frame for a table; then nothing has changed but that a
    /// table may have been added.
    ///
    /// # Panics
    ///
    /// If `size` is neither a frame nor a block, or `address` or `frame` is not aligned to it, or `address` is
    /// not canonical.
    pub fn map(&mut self, address: u64, frame: Gfn, size: Order, access: Access) -> Result<(), MapError> {
        check(address, size);
        assert!(frame.is_aligned(size), "{frame} does not begin an extent of {size:?}");
        let level = level_of(size);
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            let entry = self.entry(table, index(address, above));
            table = if !entry.is_present() {
                let new = self.tables.allocate()?;
                self.set(table, index(address, above), Entry::table(new));
                new
            } else if entry.is_large() {
                return Err(MapError::Occupied(address));
            } else {
                entry.frame()
            };
        }
        if self.entry(table, index(address, level)).is_present() {
            return Err(MapError::Occupied(address));
        }
        let mut entry = Entry::page(frame, access);
        if level == 2 {
            entry.0 |= Entry::LARGE;
        }
        self.set(table, index(address, level), entry);
        Ok(())
    }

    /// The directory, the table whose entries are blocks, on the way to `address`; it is made if need be, and so are
    /// the tables above it.
    ///
    /// # Errors
    ///
    /// If there is no frame for a table; then nothing has changed but that a table above may have been added.
    ///
    /// # Panics
    ///
    /// If `address` is not canonical.
    pub fn directory(&mut self, address: u64) -> Result<Gfn, OutOfTables> {
        assert!(is_canonical(address), "no table can lead to {address:#x}");
        let mut table = self.root;
        for above in [4, 3] {
            let entry = self.entry(table, index(address, above));
            table = if entry.is_present() {
                entry.frame()
            } else {
                let new = self.tables.allocate()?;
                self.set(table, index(address, above), Entry::table(new));
                new
            };
        }
        Ok(table)
    }

    /// Takes the page of `size` at `address` away and answers what it was, `None` if nothing was mapped.
    ///
    /// A frame out of a block splits the block, which takes one frame for a table. A block that is mapped by
    /// single frames is not taken as one: `None`.
    ///
    /// # Errors
    ///
    /// If there is no frame for the split; then nothing has changed.
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    pub fn unmap(&mut self, address: u64, size: Order) -> Result<Option<Mapping>, OutOfTables> {
        self.change(address, size, |_| Entry::ABSENT)
    }

    /// Changes what the page of `size` at `address` allows, and answers what it was. As [`unmap`](Self::unmap).
    ///
    /// # Errors
    ///
    /// If there is no frame for the split; then nothing has changed.
    ///
    /// # Panics
    ///
    /// As [`map`](Self::map).
    pub fn protect(
        &mut self,
        address: u64,
        size: Order,
        access: Access,
    ) -> Result<Option<Mapping>, OutOfTables> {
        self.change(address, size, |entry| {
            Entry(Entry::page(entry.frame(), access).0 | entry.0 & Entry::LARGE)
        })
    }

    /// What `address` is mapped to; `None` also for an address that is not canonical.
    pub fn look_up(&self, address: u64) -> Option<Mapping> {
        if !is_canonical(address) {
            return None;
        }
        let mut table = self.root;
        for level in (1..=4).rev() {
            let entry = self.entry(table, index(address, level));
            if !entry.is_present() {
                return None;
            }
            if level == 2 && entry.is_large() {
                let offset = (address >> FRAME_SHIFT) % BLOCK_FRAMES;
                let frame = Gfn::new(entry.frame().get() + offset);
                return Some(Mapping { frame, access: entry.access(), size: Order::BLOCK });
            }
            if level == 1 {
                return Some(Mapping { frame: entry.frame(), access: entry.access(), size: Order::FRAME });
            }
            table = entry.frame();
        }
        None
    }

    /// Replaces the last-level entry of a page.
    fn change(
        &mut self,
        address: u64,
        size: Order,
        new: impl FnOnce(Entry) -> Entry,
    ) -> Result<Option<Mapping>, OutOfTables> {
        check(address, size);
        let level = level_of(size);
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            let at = index(address, above);
            let entry = self.entry(table, at);
            if !entry.is_present() {
                return Ok(None);
            }
            table =
                if above == 2 && entry.is_large() { self.split(table, at, entry)? } else { entry.frame() };
        }
        let entry = self.entry(table, index(address, level));
        if !entry.is_present() || (level == 2 && !entry.is_large()) {
            return Ok(None);
        }
        self.set(table, index(address, level), new(entry));
        Ok(Some(Mapping { frame: entry.frame(), access: entry.access(), size }))
    }

    /// Replaces the block entry `block` at `at` of `directory` by a table of the same frames, and answers it.
    fn split(&mut self, directory: Gfn, at: usize, block: Entry) -> Result<Gfn, OutOfTables> {
        let table = self.tables.allocate()?;
        for (slot, frame) in (0..).zip(block.frame().get()..block.frame().get() + ENTRIES) {
            self.set(table, slot, Entry::page(Gfn::new(frame), block.access()));
        }
        self.set(directory, at, Entry::table(table));
        Ok(table)
    }

    fn entry(&self, table: Gfn, index: usize) -> Entry {
        Entry(self.tables.get(table, index))
    }

    fn set(&mut self, table: Gfn, index: usize, entry: Entry) {
        self.tables.set(table, index, entry.0);
    }
}

/// The level whose entries are pages of `size`.
fn level_of(size: Order) -> u32 {
    match size {
        Order::FRAME => 1,
        Order::BLOCK => 2,
        _ => unreachable!("a page is a frame or a block"),
    }
}

fn check(address: u64, size: Order) {
    let bytes = FRAME_SIZE as u64 * size.frames().get();
    assert!(
        is_canonical(address) && address.is_multiple_of(bytes),
        "no page of {size:?} can be mapped at {address:#x}"
    );
}

#[cfg(test)]
mod tests;
