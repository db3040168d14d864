//! The seam to the machine: page tables of the window, frames as bytes, and forgetting of translations.
//!
//! The real machine reaches frames through the direct map; the tests have frames in arrays, and CPUs with translations
//! of their own that they forget only when told. [`Memory`] is the only place of paged memory that touches a frame.
#![expect(unsafe_code, reason = "page tables and the contents of frames")]

use core::sync::atomic::{AtomicU64, Ordering};

use super::entry::Pte;
use percpu::Platform;

use super::place::Page;
use super::{LockKind, Paged};
use crate::mm::frame::{Extent, Misuse};
use crate::mm::page;
use crate::smp::Flush;
use crate::units::{Gfn, Order};

/// A frame as words: a page table, or the contents of a page.
pub type Words = [AtomicU64; 512];

/// What paged memory needs of the machine.
///
/// # Safety
///
/// - `words` answers the frame's own memory, always the same, readable and writable.
/// - `directory` answers a frame that is a table of the processor's address space, whose 512 entries cover the GiB of
///   addresses around `address`, are zero at first, and are changed by paged memory only, for good.
/// - After `flush` no CPU uses a translation of what it names that it took from an entry as it was before the call, nor
///   a table that was reachable only before.
/// - A value of the type is in the hands of those only whose extents come from the allocator that was given the memory of
///   this machine. A token is taken for the proof that its frames are its holder's, here and in
///   [`Page::of`](crate::mm::page::Page::of), and anybody can make an allocator of frames that are somebody else's.
pub unsafe trait Mmu: Send + Sync {
    /// The frame as 512 words.
    ///
    /// # Safety
    ///
    /// The frame is RAM, and the caller's: as a table of the window or as an allocated frame. Others access it through
    /// atomics, or as a page of the window.
    unsafe fn words(&self, frame: Gfn) -> &Words;

    /// The table whose entries cover 2 MiB each, for the GiB that holds `address`; `None` if there is no frame for it.
    /// Any context.
    fn directory(&self, address: u64) -> Option<Gfn>;

    /// Has all CPUs forget. Any context; waits for other CPUs. While a CPU waits with interrupts off for a lock whose
    /// holder may touch paged memory, it must answer, or both wait for ever.
    fn flush(&self, what: Flush);

    /// Fills a frame with zeros.
    ///
    /// # Safety
    ///
    /// As for `words`, and nobody else accesses the frame.
    unsafe fn zero(&self, frame: Gfn) {
        // SAFETY: the caller's promise.
        for word in unsafe { self.words(frame) } {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Copies a frame.
    ///
    /// # Safety
    ///
    /// As for `words`, and nobody writes to either or reads `to`.
    unsafe fn copy(&self, from: Gfn, to: Gfn) {
        // SAFETY: the caller's promise.
        let from = unsafe { self.words(from) };
        // SAFETY: the caller's promise.
        let to = unsafe { self.words(to) };
        for (from, to) in from.iter().zip(to) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Frames that paged memory holds, under the names that they have there.
#[derive(Debug)]
pub(super) struct Memory<M>(M);

/// A page table of the window, which covers one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Table(Gfn);

impl Table {
    /// The table in this frame, which a slot's word names.
    ///
    /// Only frames that [`Memory::make_table`] has prepared get there.
    pub(super) const fn in_frame(frame: Gfn) -> Self {
        Self(frame)
    }

    /// Its frame.
    pub(super) const fn frame(self) -> Gfn {
        self.0
    }
}

/// The directory of a GiB of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Directory(Gfn);

impl<M: Mmu> Memory<M> {
    pub(super) const fn new(mmu: M) -> Self {
        Self(mmu)
    }

    pub(super) fn flush(&self, what: Flush) {
        self.0.flush(what);
    }

    /// The directory around `address`.
    pub(super) fn directory(&self, address: u64) -> Option<Directory> {
        self.0.directory(address).map(Directory)
    }

    /// Makes an empty table of a frame, which the caller has just allocated.
    pub(super) fn make_table(&self, frame: Gfn, is_zero: bool) -> Table {
        if !is_zero {
            self.zero(frame);
        }
        Table(frame)
    }

    /// Fills a frame with zeros that the caller has just allocated.
    pub(super) fn zero(&self, frame: Gfn) {
        // SAFETY: the caller holds the frame's token, and no entry has ever named the frame since it was allocated: so it
        // is RAM of ours, and nobody else reaches it.
        unsafe { self.0.zero(frame) }
    }

    /// Copies the frame `from`, whose mapping is withdrawn on all CPUs, to `to`, which is mapped nowhere yet.
    pub(super) fn copy(&self, from: Gfn, to: Gfn) {
        // SAFETY: both are allocated, and no CPU writes to either: the one is marked, and was forgotten by all CPUs since,
        // so that touching it faults and waits, or takes the mark away under the lock that the caller holds; the other is
        // the caller's, and mapped nowhere yet.
        unsafe { self.0.copy(from, to) }
    }

    /// A frame that the caller has, lent to somebody who fills it or copies it; `None` if the extent is larger than one.
    pub(super) fn lend<'a>(&'a self, frame: &'a mut Extent) -> Option<page::Page<'a>> {
        page::Page::of(frame, &self.0)
    }

    /// Entry `index`, below 512, of a table.
    pub(super) fn entry(&self, table: Table, index: usize) -> &AtomicU64 {
        // SAFETY: a frame that was allocated for this table, and is freed only by who took it out of its slot.
        let words = unsafe { self.0.words(table.0) };
        &words[index]
    }

    /// Lets the table cover its slot. The slot is locked.
    pub(super) fn link(&self, directory: Directory, page: Page, table: Table) {
        self.directory_entry(directory, page).store(Pte::table(table.0).bits(), Ordering::Release);
    }

    /// Takes the slot's table out. The slot is locked. CPUs may use the table until they forget.
    pub(super) fn unlink(&self, directory: Directory, page: Page) {
        self.directory_entry(directory, page).store(0, Ordering::Release);
    }

    fn directory_entry(&self, directory: Directory, page: Page) -> &AtomicU64 {
        // SAFETY: `Mmu::directory` gave it, for this use, for good.
        let words = unsafe { self.0.words(directory.0) };
        &words[page.index_in_directory()]
    }
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Makes a token of a frame of ours that an entry or a slot named, which is gone there and forgotten by all CPUs.
    ///
    /// # Errors
    ///
    /// [`Misuse`], if the allocator does not know it as such: the page tables, or its books, are corrupt.
    pub(super) fn take_back(&self, frame: Gfn) -> Result<Extent, Misuse> {
        // SAFETY: paged memory detached it (`hold`), and whoever calls took the entry away that named it, which one
        // caller can do; by then no CPU reaches the frame.
        unsafe { self.frames.attach(frame, Order::FRAME) }
    }
}
