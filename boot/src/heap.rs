//! The kernel heap: for the few kernel structures whose number is known only at run time. The application's bulk
//! data does not live here.
#![expect(unsafe_code, reason = "the global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use ebb::arch::layout::direct_map;
use ebb::boot_info::{FrameRange, RamMap};
use ebb::units::{FRAME_SIZE, Frames};
use linked_list_allocator::Heap;
use spin::mutex::SpinMutex;
use x86_64::instructions::interrupts::without_interrupts;

/// A heap behind a lock. Usable with interrupts off and from interrupt handlers.
struct KernelHeap(SpinMutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(SpinMutex::new(Heap::empty()));

// SAFETY: `Heap` hands out disjoint blocks of the memory it was given, and the lock makes it one at a time.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        without_interrupts(|| self.0.lock().allocate_first_fit(layout))
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        // SAFETY: by the trait's contract the block is from `alloc`, with the same layout.
        without_interrupts(|| unsafe { self.0.lock().deallocate(pointer, layout) });
    }
}

/// The heap's size for a guest with this much RAM: a 32nd, within 64 and 256 KiB.
fn size_for(ram: Frames) -> Frames {
    Frames::new((ram.get() / 32).clamp(16, 64))
}

/// Takes frames for the heap out of `free`, and makes it usable. `None` if there is no run of frames for it.
///
/// # Safety
///
/// The frames of `free` are free, and mapped in the direct map for good. Called once.
pub(crate) unsafe fn start(ram: Frames, free: &mut RamMap) -> Option<FrameRange> {
    let arena = free.take(size_for(ram))?;
    let bottom = core::ptr::with_exposed_provenance_mut(direct_map(arena.start().start())? as usize);
    let size = arena.count().get() as usize * FRAME_SIZE;
    // SAFETY: memory that was free until here, mapped for good, and given to nobody else.
    without_interrupts(|| unsafe { HEAP.0.lock().init(bottom, size) });
    Some(arena)
}

/// Bytes of the heap in use, and free.
#[must_use]
pub fn usage() -> (usize, usize) {
    without_interrupts(|| {
        let heap = HEAP.0.lock();
        (heap.used(), heap.free())
    })
}
