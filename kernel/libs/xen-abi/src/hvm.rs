//! `hvm_op`: parameters and services for HVM guests, PVH included.
//!
//! Source: Xen `xen/include/public/hvm/hvm_op.h` and `xen/include/public/hvm/params.h`. `xen-sys` binds neither.

/// Write a parameter: [`Param`].
pub const SET_PARAM: u32 = 0;
/// Read a parameter: [`Param`].
pub const GET_PARAM: u32 = 1;
/// What Xen has at a frame: [`GetMemType`].
pub const GET_MEM_TYPE: u32 = 15;
/// Deliver events to a vCPU through its local APIC: [`UpcallVector`].
pub const SET_EVTCHN_UPCALL_VECTOR: u32 = 23;

/// Parameter: how upcalls are delivered; see [`callback_vector`].
pub const PARAM_CALLBACK_IRQ: u32 = 0;
/// Parameter: frame of the xenstore ring.
pub const PARAM_STORE_PFN: u32 = 1;
/// Parameter: port of the xenstore ring.
pub const PARAM_STORE_EVTCHN: u32 = 2;
/// Parameter: helper for real mode, of no use in long mode.
pub const PARAM_VM86_TSS: u32 = 15;
/// Parameter: frame of the console ring.
pub const PARAM_CONSOLE_PFN: u32 = 17;
/// Parameter: port of the console ring.
pub const PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Parameter: where ACPI registers are.
pub const PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
/// Parameter: address of the generation identifier.
pub const PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
/// Parameter: alternate frame maps; ours to read only.
pub const PARAM_ALTP2M: u32 = 35;
/// Parameter: width of the FPU's saved instruction pointer.
pub const PARAM_X87_FIP_WIDTH: u32 = 36;
/// Parameter: helper for real mode, of no use in long mode.
pub const PARAM_VM86_TSS_SIZED: u32 = 37;
/// How many parameters Xen 4.17 has; from here on, `-EINVAL`.
pub const NR_PARAMS: u32 = 39;

/// Memory type: RAM, also if it is not populated yet.
pub const MEM_RAM_RW: u16 = 0;
/// Memory type: read-only RAM.
pub const MEM_RAM_RO: u16 = 1;
/// Memory type: a hole, or a device.
pub const MEM_MMIO_DM: u16 = 2;

/// The lowest vector that a local APIC delivers.
pub const LOWEST_UPCALL_VECTOR: u8 = 0x10;

/// The value of [`PARAM_CALLBACK_IRQ`] for upcalls through an interrupt vector, with no APIC involved.
#[must_use]
pub const fn callback_vector(vector: u8) -> u64 {
    2 << 56 | vector as u64
}

/// Argument of [`SET_PARAM`] and [`GET_PARAM`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Param {
    /// `DOMID_SELF`.
    pub domid: u16,
    /// Zero.
    pub reserved: u16,
    /// Which.
    pub index: u32,
    /// In or out.
    pub value: u64,
}

crate::layout!(Param: 16 { domid @ 0, index @ 4, value @ 8 });

/// Argument of [`SET_EVTCHN_UPCALL_VECTOR`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UpcallVector {
    /// The vCPU.
    pub vcpu: u32,
    /// The vector; at least [`LOWEST_UPCALL_VECTOR`].
    pub vector: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

crate::layout!(UpcallVector: 8 { vcpu @ 0, vector @ 4 });

/// Argument of [`GET_MEM_TYPE`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GetMemType {
    /// `DOMID_SELF`.
    pub domid: u16,
    /// Out: one of the `MEM_*` types.
    pub mem_type: u16,
    /// Zero.
    pub reserved: [u16; 2],
    /// The frame.
    pub pfn: u64,
}

crate::layout!(GetMemType: 16 { domid @ 0, mem_type @ 2, pfn @ 8 });
