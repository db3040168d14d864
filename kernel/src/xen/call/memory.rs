//! Reservation and guest frame map: [`MemoryOps`].

use super::address_of;
use crate::port::{Completed, MapEntry, MemoryKind, MemoryOps, SpecialPage};
use crate::units::{Frames, Gfn, Order};
use crate::xen::{Transport, Xen};
use xen_abi::{DOMID_SELF, Errno, hypercall, memory};

/// How many entries of a memory map are asked for at most. The toolstack makes fewer than 16.
const MAP_ENTRIES: usize = 64;

impl<T: Transport> Xen<T> {
    /// The commands whose argument is a domain and whose answer is a number.
    fn of_self(&self, command: u32) -> Result<u64, Errno> {
        let mut domid = DOMID_SELF;
        // SAFETY: these commands read a 16-bit domain number, no more, and change nothing.
        unsafe { self.command(hypercall::MEMORY_OP, command, &mut domid) }
    }

    /// The three reservation commands.
    ///
    /// # Safety
    ///
    /// `list` is 0 or the linear address of `count` frame numbers, and the command does to those frames what
    /// [`MemoryOps`] allows.
    unsafe fn reserve(
        &self,
        command: u32,
        order: Order,
        list: u64,
        count: usize,
    ) -> Result<Completed, Errno> {
        let mut reservation = memory::Reservation {
            extent_start: list,
            nr_extents: count as u64,
            extent_order: u32::from(order.get()),
            mem_flags: 0,
            domid: DOMID_SELF,
            reserved: [0; 3],
        };
        // SAFETY: the structure of these commands; the list and the frames are our caller's promise.
        let done = unsafe { self.command(hypercall::MEMORY_OP, command, &mut reservation) }?;
        // Xen counts the extents of the list that it was given; more than those is not Xen.
        usize::try_from(done).ok().filter(|done| *done <= count).map(Completed::new).ok_or(Errno::EIO)
    }
}

// SAFETY: Xen touches the frames of the extents and no others, and counts an extent of `populate_physmap` once
// it is mapped. A model transport keeps to the same ABI: that is the contract of `Transport`.
unsafe impl<T: Transport> MemoryOps for Xen<T> {
    fn current_reservation(&self) -> Result<Frames, Errno> {
        self.of_self(memory::CURRENT_RESERVATION).map(Frames::new)
    }

    fn maximum_reservation(&self) -> Result<Frames, Errno> {
        self.of_self(memory::MAXIMUM_RESERVATION).map(Frames::new)
    }

    fn maximum_gpfn(&self) -> Result<Gfn, Errno> {
        self.of_self(memory::MAXIMUM_GPFN).map(Gfn::new)
    }

    fn memory_map(&self, entries: &mut [MapEntry]) -> Result<usize, Errno> {
        let mut buffer = [memory::E820Entry::default(); MAP_ENTRIES];
        let room = entries.len().min(MAP_ENTRIES);
        let mut map = memory::MemoryMap {
            nr_entries: u32::try_from(room).unwrap_or(u32::MAX),
            reserved: 0,
            buffer: buffer.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the structure of this command; the buffer has room for the entries that it names, and both
        // outlive the call.
        unsafe { self.command(hypercall::MEMORY_OP, memory::MEMORY_MAP, &mut map) }?;
        let written = room.min(map.nr_entries as usize);
        for (entry, raw) in entries.iter_mut().zip(&buffer[..written]) {
            *entry = MapEntry { start: raw.start, size: raw.size, kind: kind_of(raw.kind) };
        }
        Ok(written)
    }

    unsafe fn decrease_reservation(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno> {
        // SAFETY: a `Gfn` is a `u64` (transparent), so the list is what the command reads; nothing lives in the
        // frames, as our caller promised.
        unsafe { self.reserve(memory::DECREASE_RESERVATION, order, address_of(extents), extents.len()) }
    }

    unsafe fn populate_physmap(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno> {
        // SAFETY: a `Gfn` is a `u64` (transparent), so the list is what the command reads; nothing lives in the
        // frames, as our caller promised.
        unsafe { self.reserve(memory::POPULATE_PHYSMAP, order, address_of(extents), extents.len()) }
    }

    fn increase_reservation(&self, order: Order, count: usize) -> Result<Completed, Errno> {
        // SAFETY: without a list Xen writes no frame numbers, and on a translated guest it maps nothing: no
        // frame of ours changes.
        unsafe { self.reserve(memory::INCREASE_RESERVATION, order, 0, count) }
    }

    unsafe fn map_special(&self, page: SpecialPage, at: Gfn) -> Result<(), Errno> {
        let (space, index) = match page {
            SpecialPage::SharedInfo => (memory::SPACE_SHARED_INFO, 0),
            SpecialPage::GrantTable(frame) => (memory::SPACE_GRANT_TABLE, u64::from(frame)),
        };
        let mut add = memory::AddToPhysmap { domid: DOMID_SELF, size: 0, space, index, gpfn: at.get() };
        // SAFETY: the structure of this command; nothing lives at the frame, as our caller promised.
        unsafe { self.command(hypercall::MEMORY_OP, memory::ADD_TO_PHYSMAP, &mut add) }.map(drop)
    }

    unsafe fn unmap_special(&self, at: Gfn) -> Result<(), Errno> {
        let mut remove = memory::RemoveFromPhysmap { domid: DOMID_SELF, reserved: [0; 3], gpfn: at.get() };
        // SAFETY: the structure of this command; nobody uses the frame, as our caller promised.
        unsafe { self.command(hypercall::MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut remove) }.map(drop)
    }
}

/// The meaning of an E820 type.
fn kind_of(raw: u32) -> MemoryKind {
    match raw {
        memory::E820_RAM => MemoryKind::Ram,
        memory::E820_RESERVED => MemoryKind::Reserved,
        memory::E820_ACPI => MemoryKind::Acpi,
        memory::E820_NVS => MemoryKind::Nvs,
        memory::E820_UNUSABLE => MemoryKind::Unusable,
        other => MemoryKind::Other(other),
    }
}
