//! The virtual address space: which part serves what.
//!
//! | from | size | what |
//! |---|---|---|
//! | 0 | 128 TiB | nothing, so that a null or stray small pointer faults |
//! | [`DIRECT_MAP`] | 64 TiB | every frame of RAM, at its physical address; never executable |
//! | [`HEAP`] | 32 TiB | the kernel heap, as far as it has grown |
//! | [`PAGED`] | 4 TiB | paged memory: regions, filled with frames when they are touched |
//! | [`KERNEL_BASE`] | 1 GiB | the image, loaded at 1 MiB of physical memory |
//! | [`WINDOW`] | 2 MiB | single frames outside RAM: rings, `shared_info` |
//! | [`CPU_SLOTS`] | 4 MiB | stacks and areas of all CPUs but the first ([`slot`](super::slot)) |
//! | [`STACKS`] | 256 MiB | stacks of threads, each above an unmapped page |

use crate::units::{Gfn, PhysAddr};

/// Where physical address 0 appears in the direct map.
pub const DIRECT_MAP: u64 = 0xFFFF_8000_0000_0000;
/// Size of the direct map's part of the address space, in bytes.
pub const DIRECT_MAP_SIZE: u64 = 1 << 46;
/// Where the kernel heap begins.
pub const HEAP: u64 = 0xFFFF_C000_0000_0000;
/// Where paged memory begins. Nothing else is mapped in the entries of the root table that it covers.
pub const PAGED: u64 = 0xFFFF_E000_0000_0000;
/// Size of the part for paged memory, in bytes.
pub const PAGED_SIZE: u64 = 1 << 42;
/// What a virtual address of the image and its physical address differ by. The linker script knows it too.
pub const KERNEL_BASE: u64 = 0xFFFF_FFFF_8000_0000;
/// Where single frames outside RAM are mapped.
pub const WINDOW: u64 = 0xFFFF_FFFF_C000_0000;
/// Frames that fit the window: one page table.
pub const WINDOW_SLOTS: usize = 512;

/// Where the CPUs keep what is their own.
pub const CPU_SLOTS: u64 = WINDOW + (2 << 20);

/// Where threads have their stacks.
pub const STACKS: u64 = WINDOW + (16 << 20);
/// Address space for one stack and the unmapped page below it.
pub const STACK_SLOT: u64 = 64 << 10;
/// Stacks that fit.
pub const STACK_SLOTS: usize = 4096;

const _: () =
    assert!(CPU_SLOTS + super::slot::SLOTS_BYTES <= STACKS, "the CPUs' slots end before the stacks");
const _: () = assert!(
    PAGED.is_multiple_of(1 << 39) && PAGED_SIZE.is_multiple_of(1 << 39) && PAGED + PAGED_SIZE <= KERNEL_BASE,
    "paged memory has entries of the root table to itself"
);
const _: () = assert!(STACKS.checked_add(STACK_SLOT * STACK_SLOTS as u64).is_some(), "the stacks fit");

/// Where the direct map shows `address`, or `None` beyond the direct map.
#[must_use]
pub const fn direct_map(address: PhysAddr) -> Option<u64> {
    if address.get() < DIRECT_MAP_SIZE { Some(DIRECT_MAP + address.get()) } else { None }
}

/// The frame that the direct map shows at virtual address `address`, or `None` outside of the direct map.
#[must_use]
pub const fn direct_mapped(address: u64) -> Option<Gfn> {
    if address >= DIRECT_MAP && address - DIRECT_MAP < DIRECT_MAP_SIZE {
        Some(Gfn::containing(PhysAddr::new(address - DIRECT_MAP)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_map_goes_both_ways_and_ends() {
        let address = PhysAddr::new(0x1234_5000);
        assert_eq!(direct_map(address), Some(0xFFFF_8000_1234_5000));
        assert_eq!(direct_mapped(0xFFFF_8000_1234_5678), Some(Gfn::new(0x12345)));
        assert_eq!(direct_map(PhysAddr::new(DIRECT_MAP_SIZE)), None);
        assert_eq!(direct_mapped(0), None);
        assert_eq!(direct_mapped(KERNEL_BASE), None);
    }
}
