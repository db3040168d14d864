//! Xen's public ABI as plain data: hypercall numbers, structures, constants and error codes.
//!
//! Only what a 64-bit x86 PVH domU uses, in Xen's own layout, with each size and offset asserted when the crate
//! compiles. Nothing here calls anything.
//!
//! What the `xen-sys` crate has and has right is re-exported under our names: hypercall, command and status
//! numbers, and the layouts of the event, scheduling and shared-page structures, which our own definitions are
//! checked against. The rest is defined here, because `xen-sys` does not bind memory, vCPU, version, HVM,
//! console or xenstore headers. Its hypercall functions are not used: they need a hypercall page at a fixed
//! symbol, pass the fifth argument in `r9` where Xen reads `r8`, and pass `SCHEDOP_shutdown` its reason by value
//! where Xen reads a structure.
//!
//! Structures derive `Default` for "all zero", which is also what reserved fields must hold.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;
pub mod event;
pub mod hvm;
pub mod hypercall;
pub mod memory;
pub mod ring;
pub mod sched;
pub mod shared_info;
pub mod tmem;
pub mod vcpu;
pub mod version;

pub use errno::Errno;

/// The calling domain, in place of its number.
pub const DOMID_SELF: u16 = 0x7FF0;
/// Pages that belong to devices.
pub const DOMID_IO: u16 = 0x7FF1;
/// Pages that belong to Xen.
pub const DOMID_XEN: u16 = 0x7FF2;
/// The owner of copy-on-write pages.
pub const DOMID_COW: u16 = 0x7FF3;
/// No domain at all.
pub const DOMID_INVALID: u16 = 0x7FF4;

/// Asserts the size of a structure and the offsets of its fields.
macro_rules! layout {
    ($name:ty: $size:literal { $($field:ident @ $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$name>() == $size, "size");
            $(assert!(core::mem::offset_of!($name, $field) == $offset, stringify!($field));)*
        };
    };
}

/// Asserts that a structure of ours is as large as the one of `xen-sys`, with fields at the same offsets.
macro_rules! same_layout {
    ($ours:ty, $theirs:ty { $($field:ident = $other:ident),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ours>() == size_of::<$theirs>(), "size");
            $(assert!(
                core::mem::offset_of!($ours, $field) == core::mem::offset_of!($theirs, $other),
                stringify!($field)
            );)*
        };
    };
}

use {layout, same_layout};
