//! The kernel's part of the address space that grows: page tables on demand, under one lock.
//!
//! The direct map, the image, the window and the CPUs' slots are complete when boot ends and are not touched here.
//! What is mapped later (the heap, stacks of threads) lies elsewhere and takes its page tables from the frame
//! allocator.
#![expect(unsafe_code, reason = "a second view of the page tables, of a part of its own")]

use crate::frames::KernelFrames;
use ebb::arch::paging::{Access, AddressSpace, MapError};
use ebb::arch::tables::{DirectTables, FrameSource};
use ebb::mm::frame::{Request, Use};
use ebb::units::{FRAME_SIZE, FrameRange, Gfn, Order, VcpuId};
use spin::mutex::SpinMutex;
use x86_64::instructions::interrupts::without_interrupts;

/// Frames for page tables, kept for ever.
struct TableFrames(&'static KernelFrames);

// SAFETY: each frame is allocated, and its token is given up for good, so nobody else ever has it.
unsafe impl FrameSource for TableFrames {
    fn frame(&mut self) -> Option<Gfn> {
        let extent = self.0.alloc(Request::new(Use::Kernel, VcpuId::new(0))).ok()?;
        self.0.detach(extent).ok()
    }
}

static SPACE: SpinMutex<Option<AddressSpace<DirectTables<TableFrames>>>> = SpinMutex::new(None);

/// Takes charge of the address space whose root is `root`.
///
/// # Safety
///
/// `root` is the root of the page tables in use, and the direct map shows all of them. Called once.
pub(crate) unsafe fn start(root: Gfn, frames: &'static KernelFrames) {
    // SAFETY: the direct map covers the tables; this view changes only parts that no other view does.
    let tables = unsafe { DirectTables::new(TableFrames(frames)) };
    without_interrupts(|| *SPACE.lock() = Some(AddressSpace::from_root(root, tables)));
}

/// Maps consecutive frames at `address`, page by page, for reading and writing. Any context; never blocks.
///
/// The part of the address space must be the caller's own, and not one that boot built.
///
/// # Errors
///
/// As [`AddressSpace::map`]; what was mapped until then stays.
pub(crate) fn map(address: u64, frames: FrameRange) -> Result<(), MapError> {
    without_interrupts(|| {
        let mut space = SPACE.lock();
        let space = space.as_mut().ok_or(MapError::OutOfTables)?;
        for (page, frame) in frames.iter().enumerate() {
            let at = address + (page * FRAME_SIZE) as u64;
            space.map(at, frame, Order::FRAME, Access::Write)?;
        }
        Ok(())
    })
}

/// The page directory on the way to `address`, made if need be; `None` if there is no frame for it. Any context; never
/// blocks. The part of the address space must be the caller's own.
pub(crate) fn directory(address: u64) -> Option<Gfn> {
    without_interrupts(|| SPACE.lock().as_mut()?.directory(address).ok())
}
