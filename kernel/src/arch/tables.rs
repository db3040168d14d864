//! Page tables in real memory, reached through the direct map.
#![expect(unsafe_code, reason = "page tables in physical memory")]

use super::layout::direct_map;
use super::paging::{AddressSpace, OutOfTables, Tables};
use crate::units::{FRAME_SIZE, Gfn};
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// Page tables in frames of the direct map, more of them from `S`.
#[derive(Debug)]
pub struct DirectTables<S> {
    source: S,
}

/// Gives frames for page tables.
///
/// # Safety
///
/// Each frame is RAM in the direct map, free, and given once.
pub unsafe trait FrameSource {
    /// One more frame, of any content; `None` if there is none.
    fn frame(&mut self) -> Option<Gfn>;
}

impl<S: FrameSource> DirectTables<S> {
    /// Tables whose frames come from `source`.
    ///
    /// # Safety
    ///
    /// - The direct map covers every table that will be reached, writable.
    /// - Each part of the address space is changed by one processor at a time. Looking needs no lock, but interrupts off
    ///   where tables may be taken away: a table that was serves nothing else before every processor has answered a
    ///   flush, and one that is looking does not answer.
    /// - Who has the value, or an address space over it, reaches through it tables of that address space only, and takes
    ///   no mapping away that somebody uses: its functions are safe to call and write wherever they are told to.
    pub const unsafe fn new(source: S) -> Self {
        Self { source }
    }

    /// The source.
    pub const fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// The source back, for one who is done with tables.
    pub fn into_source(self) -> S {
        self.source
    }

    /// Entry `index` of `table`; atomic, because the processor reads it, and sets bits in it, at any time.
    fn entry(&self, table: Gfn, index: usize) -> &AtomicU64 {
        assert!(index < 512, "a page table has 512 entries");
        let base = direct_map(table.start());
        let Some(base) = base else { unreachable!("page tables lie within the direct map") };
        let pointer = core::ptr::with_exposed_provenance_mut::<u64>(base as usize).wrapping_add(index);
        // SAFETY: in the direct map and a table, now or until the next flush (constructor); aligned; atomics only.
        unsafe { AtomicU64::from_ptr(pointer) }
    }
}

impl<S: FrameSource> Tables for DirectTables<S> {
    fn allocate(&mut self) -> Result<Gfn, OutOfTables> {
        let table = self.source.frame().ok_or(OutOfTables)?;
        for index in 0..FRAME_SIZE / size_of::<u64>() {
            self.entry(table, index).store(0, Ordering::Relaxed);
        }
        Ok(table)
    }

    fn get(&self, table: Gfn, index: usize) -> u64 {
        self.entry(table, index).load(Ordering::Relaxed)
    }

    fn set(&mut self, table: Gfn, index: usize, entry: u64) {
        self.entry(table, index).store(entry, Ordering::Release);
    }
}

/// Makes `space` the address space of this processor.
///
/// # Safety
///
/// It maps everything in use at its present address, with the accesses that are used: code, data, this stack,
/// and the descriptor tables.
pub unsafe fn activate<T: Tables>(space: &AddressSpace<T>) {
    let root = PhysFrame::containing_address(PhysAddr::new(space.root().start().get()));
    // SAFETY: the caller's promise.
    unsafe { Cr3::write(root, Cr3Flags::empty()) }
}

/// Forgets this processor's translation of the page at `address`.
pub fn invalidate(address: u64) {
    x86_64::instructions::tlb::flush(x86_64::VirtAddr::new_truncate(address));
}

/// Forgets all of this processor's translations. None of ours are global, so that they all go.
pub fn invalidate_all() {
    x86_64::instructions::tlb::flush_all();
}
