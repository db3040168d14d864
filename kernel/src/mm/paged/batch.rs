//! What was unmapped: forgotten by all CPUs, and only then freed.
//!
//! A flush interrupts every CPU, so frames are collected: single ones where a part of a slot goes, whole tables with all
//! that they map where a slot goes.

use percpu::Platform;

use super::entry::{Pte, State};
use super::memory::{Mmu, Table};
use super::place::Page;
use super::{LockKind, Paged};
use crate::mm::frame::Contents;
use crate::smp::Flush;
use crate::units::Gfn;

/// Single pages in a batch.
const PAGES: usize = 512;
/// Tables in a batch.
const TABLES: usize = 32;

/// Collects what was unmapped.
#[derive(Debug)]
pub(super) struct Batch {
    /// The entries of pages, as they were.
    pages: [Pte; PAGES],
    count: usize,
    tables: [Option<Table>; TABLES],
    table_count: usize,
    /// The pages that CPUs may know lie between these two, the last one included.
    first: u64,
    last: u64,
}

impl Batch {
    pub(super) const fn new() -> Self {
        Self {
            pages: [Pte::UNTOUCHED; PAGES],
            count: 0,
            tables: [None; TABLES],
            table_count: 0,
            first: u64::MAX,
            last: 0,
        }
    }

    /// Whether it has room for another page.
    pub(super) const fn has_room(&self) -> bool {
        self.count < PAGES
    }

    /// Whether it has room for another table.
    pub(super) const fn has_room_for_table(&self) -> bool {
        self.table_count < TABLES
    }

    /// Adds what the entry of `page` was, which belongs to the page: a frame, or a place in swap.
    pub(super) fn add(&mut self, page: Page, entry: Pte) {
        self.pages[self.count] = entry;
        self.count += 1;
        if !matches!(entry.state(), State::Swapped(_)) {
            self.touch(page.0, page.0);
        }
    }

    /// Adds the table that covered the slot beginning at `page`, with all that it maps.
    pub(super) fn add_table(&mut self, page: Page, table: Table) {
        self.tables[self.table_count] = Some(table);
        self.table_count += 1;
        self.touch(page.0, page.0 + super::place::SLOT_PAGES - 1);
    }

    fn touch(&mut self, first: u64, last: u64) {
        self.first = self.first.min(first);
        self.last = self.last.max(last);
    }
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Has all CPUs forget what is in the batch, frees it, and empties the batch. With no lock held.
    pub(super) fn finish(&self, batch: &mut Batch) {
        if batch.count == 0 && batch.table_count == 0 {
            return;
        }
        if batch.first <= batch.last {
            let start = self.span.address(Page(batch.first));
            self.memory.flush(Flush::pages(start, batch.last - batch.first + 1));
        }
        for entry in &batch.pages[..batch.count] {
            self.free_contents(*entry);
        }
        let mut active = 0;
        for table in batch.tables[..batch.table_count].iter().flatten() {
            active += self.free_table(*table);
        }
        self.counts.active.add(-active);
        *batch = Batch::new();
    }

    /// Frees a table that no CPU uses, with all that it maps, and answers how many active pages there were.
    fn free_table(&self, table: Table) -> i64 {
        let mut active = 0;
        for index in 0..512 {
            let entry = self.memory.entry(table, index);
            let pte = Pte::from_bits(entry.load(core::sync::atomic::Ordering::Relaxed));
            if pte == Pte::UNTOUCHED {
                continue;
            }
            entry.store(0, core::sync::atomic::Ordering::Relaxed);
            active += i64::from(pte.is_active());
            self.free_contents(pte);
        }
        self.free(table.frame(), Contents::Zero);
        self.counts.tables.add(-1);
        active
    }

    /// Frees what a page was, by its entry, which is gone from its table and from all CPUs.
    fn free_contents(&self, entry: Pte) {
        match entry.state() {
            // Who was evicting it finds its mark gone, and leaves the frame alone.
            State::Present(frame) | State::Leaving(frame) => self.free_frame(frame),
            State::Swapped(entry) => self.free_swapped(entry),
            // Who moves it, or fetches it, finds it gone, and frees it.
            State::Moving(_) | State::Untouched => {}
        }
    }

    /// Frees the frame of a page, which no CPU reaches any more.
    pub(super) fn free_frame(&self, frame: Gfn) {
        self.free(frame, Contents::Unknown);
        self.counts.resident.add(-1);
        self.counts.freed.add(1);
    }

    /// Gives back a frame that is held by number.
    ///
    /// # Panics
    ///
    /// If the allocator does not know it as such: the page tables, or its books, are corrupt.
    fn free(&self, frame: Gfn, contents: Contents) {
        let freed = match self.take_back(frame) {
            Ok(extent) => self.frames.free(extent, contents, self.cpu()).map_err(|rejected| rejected.misuse),
            Err(misuse) => Err(misuse),
        };
        if let Err(misuse) = freed {
            unreachable!("paged memory: the frame allocator refuses a frame of a page: {misuse}");
        }
    }
}
