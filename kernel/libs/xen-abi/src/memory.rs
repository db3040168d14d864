//! `memory_op`: the domain's reservation and its map of guest frames.
//!
//! The first register holds the command in its low [`COMMAND_BITS`] bits and must hold zeros above them: Xen
//! keeps its own progress there when it restarts a long call.
//!
//! Source: Xen `xen/include/public/memory.h`. `xen-sys` does not bind this header.

/// Bits of the command register that name the command; Xen restarts a call with its progress above them.
pub const COMMAND_BITS: u32 = 6;

/// Charge frames to the domain, mapped nowhere: useless and harmful on a translated guest.
pub const INCREASE_RESERVATION: u32 = 0;
/// Give extents back to Xen.
pub const DECREASE_RESERVATION: u32 = 1;
/// The host's highest frame number, plus one.
pub const MAXIMUM_RAM_PAGE: u32 = 2;
/// `tot_pages` of a domain.
pub const CURRENT_RESERVATION: u32 = 3;
/// `max_pages` of a domain.
pub const MAXIMUM_RESERVATION: u32 = 4;
/// Fill holes with memory.
pub const POPULATE_PHYSMAP: u32 = 6;
/// Map a page that Xen owns, or move a frame.
pub const ADD_TO_PHYSMAP: u32 = 7;
/// The E820 map.
pub const MEMORY_MAP: u32 = 9;
/// The host's memory map; dom0 only.
pub const MACHINE_MEMORY_MAP: u32 = 10;
/// Exchange frames; only for PV.
pub const EXCHANGE: u32 = 11;
/// The highest guest frame that was ever mapped.
pub const MAXIMUM_GPFN: u32 = 14;
/// Unmap a frame without freeing it.
pub const REMOVE_FROM_PHYSMAP: u32 = 15;
/// Set the populate-on-demand target; toolstack only.
pub const SET_POD_TARGET: u32 = 16;
/// Read the populate-on-demand target; toolstack only.
pub const GET_POD_TARGET: u32 = 17;
/// Reserve host memory for a domain; toolstack only.
pub const CLAIM_PAGES: u32 = 24;

/// The most extents that Xen takes in one call; for more, it does nothing and answers 0.
pub const MAX_EXTENTS: u64 = 0x03FF_FFFF;
/// The largest order that Xen takes from an ordinary domU (`CONFIG_DOMU_MAX_ORDER`; a boot option can change
/// it). Above it, a call does nothing and answers 0.
pub const DOMU_MAX_ORDER: u32 = 9;

/// Flag for [`Reservation::mem_flags`]: mark the extents populate-on-demand instead of populating them. Xen does
/// nothing when a domain asks this for itself.
pub const MEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// Flag for [`Reservation::mem_flags`]: only memory of the named node will do.
pub const MEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;

/// `xen_memory_reservation`: a list of extents of one order.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Reservation {
    /// Linear address of an array of `u64` frame numbers. Input only on a translated guest.
    pub extent_start: u64,
    /// Length of the array.
    pub nr_extents: u64,
    /// log2 of the frames in each extent.
    pub extent_order: u32,
    /// Node and address-width constraints. Pass 0: everything else makes some Xen do nothing.
    pub mem_flags: u32,
    /// Whose reservation: `DOMID_SELF`.
    pub domid: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

crate::layout!(Reservation: 32 {
    extent_start @ 0, nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24,
});

/// `xen_memory_exchange`: frames for other frames. Only for PV; on PVH it shows the order limit, which it checks
/// first (`-EPERM`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Exchange {
    /// What is given.
    pub input: Reservation,
    /// What is wanted.
    pub output: Reservation,
    /// In and out: extents of the input done so far.
    pub nr_exchanged: u64,
}

crate::layout!(Exchange: 72 { input @ 0, output @ 32, nr_exchanged @ 64 });

/// Space of [`AddToPhysmap`]: the shared info page.
pub const SPACE_SHARED_INFO: u32 = 0;
/// Space of [`AddToPhysmap`]: frames of the grant table.
pub const SPACE_GRANT_TABLE: u32 = 1;
/// Space of [`AddToPhysmap`]: move a frame of the domain itself.
pub const SPACE_GMFN: u32 = 2;
/// Space of [`AddToPhysmap`]: move a range of frames.
pub const SPACE_GMFN_RANGE: u32 = 3;
/// Space of the batch form only: a frame of another domain.
pub const SPACE_GMFN_FOREIGN: u32 = 4;
/// Space of [`AddToPhysmap`]: device memory; refused to a domU.
pub const SPACE_DEV_MMIO: u32 = 5;

/// `xen_add_to_physmap`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct AddToPhysmap {
    /// `DOMID_SELF`.
    pub domid: u16,
    /// Count, for [`SPACE_GMFN_RANGE`] only.
    pub size: u16,
    /// Where the page comes from.
    pub space: u32,
    /// Which page of the space.
    pub index: u64,
    /// The guest frame at which it appears.
    pub gpfn: u64,
}

crate::layout!(AddToPhysmap: 24 { domid @ 0, size @ 2, space @ 4, index @ 8, gpfn @ 16 });

/// `xen_remove_from_physmap`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// `DOMID_SELF`.
    pub domid: u16,
    /// Zero.
    pub reserved: [u16; 3],
    /// The guest frame to unmap.
    pub gpfn: u64,
}

crate::layout!(RemoveFromPhysmap: 16 { domid @ 0, gpfn @ 8 });

/// `xen_memory_map`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MemoryMap {
    /// In: room in the buffer, in entries. Out: entries written.
    pub nr_entries: u32,
    /// Zero.
    pub reserved: u32,
    /// Linear address of an array of [`E820Entry`].
    pub buffer: u64,
}

crate::layout!(MemoryMap: 16 { nr_entries @ 0, buffer @ 8 });

/// An entry of the E820 map as `memory_op` writes it: packed, 20 bytes. (The entries in `start_info` have 24.)
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))]
pub struct E820Entry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// One of the `E820_*` types.
    pub kind: u32,
}

crate::layout!(E820Entry: 20 { start @ 0, size @ 8, kind @ 16 });

/// Usable memory.
pub const E820_RAM: u32 = 1;
/// Not to be touched.
pub const E820_RESERVED: u32 = 2;
/// ACPI tables.
pub const E820_ACPI: u32 = 3;
/// ACPI non-volatile storage.
pub const E820_NVS: u32 = 4;
/// Broken memory.
pub const E820_UNUSABLE: u32 = 5;
