//! The direct map as the balloon sees it: memory that leaves is taken out, memory that returns is put back.
#![expect(unsafe_code, reason = "changes the kernel's own view of RAM, and overwrites RAM that nobody uses")]

use crate::space;
use ebb::arch::layout::direct_map;
use ebb::mm::direct_map::{DirectMap, NoTable};
use ebb::units::{FRAME_SIZE, Gfn, Order};

/// The direct map of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Ram;

impl DirectMap for Ram {
    unsafe fn hide(&self, first: Gfn, order: Order) -> Result<(), NoTable> {
        space::hide(first, order).map_err(|_| NoTable)
    }

    fn settle(&self) {
        space::settle();
    }

    fn show(&self, first: Gfn, order: Order) -> Result<(), NoTable> {
        space::show(first, order).map_err(|_| NoTable)
    }

    unsafe fn scrub(&self, first: Gfn, order: Order) {
        let Some(address) = direct_map(first.start()) else {
            unreachable!("the frame allocator has frames of the direct map only")
        };
        let bytes = order.frames().get() as usize * FRAME_SIZE;
        // SAFETY: the extent is RAM in the direct map, writable, and nobody's: the caller's promise.
        unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address as usize).write_bytes(0, bytes) };
    }
}
