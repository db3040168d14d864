//! The kernel heap: for the few kernel structures whose number is known only at run time. The application's bulk
//! data does not live here.
//!
//! It has two stages. Until there is a frame allocator, a small fixed piece of RAM serves; afterwards, a heap that
//! grows by extents of frames, within a bound. Memory goes back to the stage that it came from.
#![expect(unsafe_code, reason = "the global allocator")]

use crate::frames::{KernelFrames, KernelLocks};
use crate::{platform, reclaim, relief, space};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use ebb::arch::layout::{HEAP, direct_map};
use ebb::boot_info::RamMap;
use ebb::mm::frame::{AllocError, Extent, Request, Use};
use ebb::mm::heap::{Arena, Extents, FromFrames, Heap, HeapError, SharedHeap};
use ebb::units::{FRAME_SIZE, FrameRange, Frames, Order, VcpuId};
use linked_list_allocator::Heap as Holes;
use spin::mutex::SpinMutex;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

/// RAM for the first stage: 64 KiB.
const FIRST: Frames = Frames::new(16);

/// The part of the address space that the second stage grows into.
struct HeapSpace {
    capacity: usize,
    frames: &'static KernelFrames,
}

// SAFETY: the range is this heap's by the address layout, and `space::map` maps writable memory that stays; an
// extent's token is given up only when all of it is mapped.
unsafe impl Arena for HeapSpace {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(HEAP as usize))
            .unwrap_or_else(|| unreachable!("the heap is in the upper half"))
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn map(&mut self, offset: usize, extent: Extent) -> Result<(), Extent> {
        let end = extent.first() + extent.frames();
        // What a failure leaves mapped is mapped again, over the same page tables, by nobody: the heap stops there.
        if space::map(HEAP + offset as u64, FrameRange::new(extent.first(), end)).is_err() {
            return Err(extent);
        }
        self.frames.detach(extent).map(drop).map_err(|rejected| rejected.extent)
    }
}

/// How much of the frame allocator's reserve an allocation may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reserve {
    /// Nothing: it can wait for pages to leave, which needs the reserve.
    Keep,
    /// Half of it: it cannot wait.
    Half,
    /// All of it: it has pages leave.
    All,
}

impl Reserve {
    /// What the running code may take, once there is nothing else.
    fn here() -> Self {
        if !platform::may_block() {
            Self::Half
        } else if reclaim::is_reclaiming() {
            Self::All
        } else {
            Self::Keep
        }
    }
}

/// Frames for the second stage: the allocator's, and what the balloon can bring.
struct HeapFrames {
    source: FromFrames<'static, 'static, KernelLocks>,
    /// For the allocation that is being served.
    reserve: Reserve,
}

impl Extents for HeapFrames {
    fn take(&self, order: Order) -> Result<Extent, AllocError> {
        let (frames, request) = (self.source.frames, self.source.request.order(order));
        relief::alloc(frames, request, order.frames()).or_else(|refused| {
            let stats = frames.stats();
            let least = match self.reserve {
                Reserve::Keep => return Err(refused),
                Reserve::Half => Frames::new(stats.watermarks.min.get() / 2) + order.frames(),
                Reserve::All => Frames::ZERO,
            };
            if stats.available() < least {
                return Err(refused);
            }
            frames.alloc(request.emergency()).map_err(|_| refused)
        })
    }

    fn give_back(&self, extent: Extent) {
        self.source.give_back(extent);
    }
}

type Second = SharedHeap<KernelLocks, HeapSpace, HeapFrames>;

/// Both stages. Usable with interrupts off and from interrupt handlers.
struct KernelHeap {
    first: SpinMutex<Holes>,
    /// Where the first stage begins and ends; nothing as long as it is not there.
    start: AtomicUsize,
    end: AtomicUsize,
    second: Once<Second>,
}

#[global_allocator]
static KERNEL_HEAP: KernelHeap = KernelHeap {
    first: SpinMutex::new(Holes::empty()),
    start: AtomicUsize::new(0),
    end: AtomicUsize::new(0),
    second: Once::new(),
};

/// Allocates from the second stage. Its lock opens before anybody waits for memory.
fn second_stage(second: &Second, layout: Layout) -> *mut u8 {
    let mut reserve = Reserve::Keep;
    let mut tries = 0;
    loop {
        let allocated = second.with(|heap| {
            heap.source_mut().reserve = reserve;
            heap.allocate(layout)
        });
        match allocated {
            Ok(memory) => {
                // The reserve may have been used.
                reclaim::pass_on_calls(platform::may_block);
                return memory.as_ptr();
            }
            Err(HeapError::NoFrames(_)) if reserve == Reserve::Keep => {}
            Err(_) => return core::ptr::null_mut(),
        }
        reserve = Reserve::here();
        if reserve != Reserve::Keep {
            continue;
        }
        tries += 1;
        if tries > relief::MOST_TRIES || !relief::wait(Frames::new(layout.size().div_ceil(FRAME_SIZE) as u64))
        {
            // No pages will leave. A little may be left.
            reserve = Reserve::Half;
        }
    }
}

// SAFETY: each stage hands out disjoint blocks of memory that is its own, and takes back only those.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.second.get() {
            Some(second) => second_stage(second, layout),
            None => without_interrupts(|| self.first.lock().allocate_first_fit(layout))
                .map_or(core::ptr::null_mut(), NonNull::as_ptr),
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let first = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        if !first.contains(&pointer.addr()) {
            if let Some(second) = self.second.get() {
                // SAFETY: the caller's promise: it is not of the first stage, so it is of this one.
                unsafe { second.dealloc(pointer, layout) };
            }
            return;
        }
        let Some(pointer) = NonNull::new(pointer) else { return };
        // SAFETY: by the trait's contract the block is from `alloc`, with the same layout, and by its address from
        // the first stage.
        without_interrupts(|| unsafe { self.first.lock().deallocate(pointer, layout) });
    }
}

/// Takes frames for the first stage out of `free`, and makes it usable. `None` if there is no run of frames for it.
///
/// # Safety
///
/// The frames of `free` are free, and mapped in the direct map for good. Called once.
pub(crate) unsafe fn start(free: &mut RamMap) -> Option<()> {
    let arena = free.take(FIRST)?;
    let address = direct_map(arena.start().start())? as usize;
    let bottom = core::ptr::with_exposed_provenance_mut(address);
    let size = arena.count().get() as usize * FRAME_SIZE;
    // SAFETY: memory that was free until here, mapped for good, and given to nobody else.
    without_interrupts(|| unsafe { KERNEL_HEAP.first.lock().init(bottom, size) });
    KERNEL_HEAP.start.store(address, Ordering::Relaxed);
    KERNEL_HEAP.end.store(address + size, Ordering::Relaxed);
    Some(())
}

/// Begins the second stage, which may come to an eighth of `ram`, and to a MiB in any case.
pub(crate) fn grow_from(frames: &'static KernelFrames, ram: Frames) {
    const MIB: usize = 1 << 20;
    let capacity = (ram.get() as usize / 8 * FRAME_SIZE).max(MIB);
    let source = FromFrames { frames, request: Request::new(Use::Kernel, VcpuId::new(0)) };
    let source = HeapFrames { source, reserve: Reserve::Half };
    KERNEL_HEAP.second.call_once(|| SharedHeap::new(Heap::new(HeapSpace { capacity, frames }, source)));
}

/// Bytes of the heap in use, and backed by memory.
#[must_use]
pub fn usage() -> (usize, usize) {
    let (used, size) = without_interrupts(|| {
        let first = KERNEL_HEAP.first.lock();
        (first.used(), first.size())
    });
    let second = KERNEL_HEAP.second.get().map(|second| second.with(|heap| (heap.used(), heap.backed())));
    let (more_used, backed) = second.unwrap_or_default();
    (used + more_used, size + backed)
}
