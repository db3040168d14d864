//! The heap over host memory.

use super::super::frame::{Block, Config, Entry, Magazine, Metadata, Owned, Owner, TicketLocks, Use};
use super::*;
use crate::units::{FrameRange, Frames, Gfn, VcpuId};
use proptest::prelude::*;
use std::vec::Vec;

/// An arena of host memory, which counts what is mapped and can refuse.
struct HostArena {
    memory: NonNull<u8>,
    capacity: usize,
    mapped: usize,
    extents: Vec<Extent>,
    refuse: bool,
}

impl HostArena {
    fn new(frames: usize) -> Self {
        let capacity = frames * FRAME_SIZE;
        // SAFETY: the size is not zero.
        let memory = unsafe { std::alloc::alloc(Self::layout(capacity)) };
        Self {
            memory: NonNull::new(memory).unwrap(),
            capacity,
            mapped: 0,
            extents: Vec::new(),
            refuse: false,
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, FRAME_SIZE).unwrap()
    }
}

impl Drop for HostArena {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout, and the heap that used it is gone.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), Self::layout(self.capacity)) };
        self.extents.drain(..).for_each(core::mem::forget);
    }
}

// SAFETY: the pointer in the arena is its own allocation and moves with it.
unsafe impl Send for HostArena {}

// SAFETY: the memory is there from the start and for as long as the arena; `map` insists on the order of offsets.
unsafe impl Arena for HostArena {
    fn base(&self) -> NonNull<u8> {
        self.memory
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn map(&mut self, offset: usize, extent: Extent) -> Result<(), Extent> {
        assert_eq!(offset, self.mapped, "the arena grows at its end");
        if self.refuse {
            return Err(extent);
        }
        self.mapped += FRAME_SIZE << extent.order().get();
        assert!(self.mapped <= self.capacity, "beyond the bound");
        self.extents.push(extent);
        Ok(())
    }
}

/// Runs `test` with a heap of at most `bound` frames over `memory` frames.
fn with_heap(
    memory: u64,
    bound: usize,
    test: impl FnOnce(&mut Heap<HostArena, FromFrames<'_, '_, TicketLocks>>, &FrameAllocator<'_>),
) {
    let map = [FrameRange::new(Gfn::new(0), Gfn::new(memory))];
    let blocks = memory.div_ceil(512) as usize;
    let mut entries: Vec<_> = (0..blocks * 512).map(|_| Entry::unused()).collect();
    let mut blocks: Vec<_> = (0..blocks).map(|_| Block::new()).collect();
    let mut magazines = [Magazine::new()];
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut magazines };
    let frames = FrameAllocator::new(Config { memory: &map, reserved: &[], id: 1 }, metadata).unwrap();
    let request = Request::new(Use::Kernel, VcpuId::new(0)).owner(Owner::new(5).unwrap()).emergency();
    let mut heap = Heap::new(HostArena::new(bound), FromFrames { frames: &frames, request });
    test(&mut heap, &frames);
    let backed = heap.backed() as u64 / FRAME_SIZE as u64;
    assert_eq!((frames.stats().pinned.get(), heap.arena.mapped), (backed, heap.backed()));
    frames.validate().unwrap();
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

#[test]
fn it_grows_by_extents_when_it_must() {
    with_heap(2048, 1024, |heap, frames| {
        assert_eq!((heap.backed(), frames.stats().pinned), (0, Frames::ZERO), "nothing before it is needed");
        let first = heap.allocate(bytes(100)).unwrap();
        assert_eq!(heap.backed(), 64 << 10);
        let large = heap.allocate(bytes(200 << 10)).unwrap();
        assert!(heap.backed() > 264 << 10);
        assert_eq!(heap.arena.extents.len(), 2, "one extent was enough");
        // SAFETY: both were allocated above with these layouts, and are not used again.
        unsafe { heap.deallocate(first, bytes(100)) };
        // SAFETY: as above.
        unsafe { heap.deallocate(large, bytes(200 << 10)) };
        assert_eq!(heap.used(), 0);
        let before = heap.backed();
        let again = heap.allocate(bytes(250 << 10)).unwrap();
        assert_eq!(heap.backed(), before, "freed memory serves again, across extents");
        // SAFETY: allocated above with this layout.
        unsafe { heap.deallocate(again, bytes(250 << 10)) };
    });
}

#[test]
fn more_than_a_block_spans_extents() {
    with_heap(4096, 2048, |heap, _| {
        let size = 5 << 20;
        let large = heap.allocate(bytes(size)).unwrap();
        // SAFETY: the heap handed out `size` bytes.
        unsafe { large.as_ptr().write_bytes(0xA5, size) };
        // SAFETY: allocated above with this layout.
        unsafe { heap.deallocate(large, bytes(size)) };
    });
}

#[test]
fn at_its_bound_it_fails_with_a_value() {
    with_heap(2048, 32, |heap, frames| {
        assert_eq!(heap.allocate(bytes(1 << 20)), Err(HeapError::ArenaFull));
        assert_eq!(heap.backed(), 0, "what cannot fit takes no frames");
        let mut held = Vec::new();
        let error = loop {
            match heap.allocate(bytes(1000)) {
                Ok(memory) => held.push(memory),
                Err(error) => break error,
            }
        };
        assert_eq!((error, heap.backed()), (HeapError::ArenaFull, 128 << 10));
        assert_eq!(held.len(), 128, "every KiB of the arena");
        assert_eq!(heap.allocate(bytes(usize::MAX / 4)), Err(HeapError::ArenaFull));
        assert_eq!(frames.stats().pinned, Frames::new(32));
        for memory in held {
            // SAFETY: each was allocated above with this layout.
            unsafe { heap.deallocate(memory, bytes(1000)) };
        }
        assert!(heap.allocate(bytes(127 << 10)).is_ok(), "what the classes kept is joined again");
    });
}

#[test]
fn small_objects_come_from_a_chunk_and_serve_again() {
    with_heap(2048, 1024, |heap, _| {
        let held: Vec<_> = (0..300).map(|_| heap.allocate(bytes(100)).unwrap()).collect();
        assert_eq!((heap.used(), heap.backed()), (300 * 128, 64 << 10));
        let mut addresses: Vec<_> = held.iter().map(|memory| memory.as_ptr().addr()).collect();
        addresses.sort_unstable();
        assert!(addresses.iter().all(|address| address.is_multiple_of(128)));
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] >= 128));
        for memory in held {
            // SAFETY: allocated above with this layout.
            unsafe { heap.deallocate(memory, bytes(100)) };
        }
        assert_eq!(heap.used(), 0);
        let again = heap.allocate(bytes(128)).unwrap();
        assert!(addresses.contains(&again.as_ptr().addr()));
        // SAFETY: allocated above with this layout.
        unsafe { heap.deallocate(again, bytes(128)) };
    });
}

#[test]
fn without_frames_it_fails_with_a_value() {
    with_heap(40, 1024, |heap, frames| {
        let kept =
            frames.alloc(Request::new(Use::Paged, VcpuId::new(0)).order(Order::FRAME).emergency()).unwrap();
        let error = heap.allocate(bytes(200 << 10)).unwrap_err();
        assert!(matches!(error, HeapError::NoFrames(AllocError::Exhausted { .. })), "{error}");
        assert!(heap.backed() > 0, "the pieces that were found stay");
        assert!(heap.allocate(bytes(100 << 10)).is_ok(), "and are of use");
        frames.free(kept, Contents::Unknown, VcpuId::new(0)).unwrap();
    });
}

#[test]
fn what_cannot_be_mapped_goes_back() {
    with_heap(2048, 1024, |heap, frames| {
        heap.arena.refuse = true;
        assert_eq!(heap.allocate(bytes(8)), Err(HeapError::NotMapped));
        assert_eq!(frames.stats().available(), Frames::new(2048));
        heap.arena.refuse = false;
        assert!(heap.allocate(bytes(8)).is_ok());
    });
}

#[test]
fn nothing_is_an_address_that_is_not_memory() {
    with_heap(64, 64, |heap, _| {
        let layout = Layout::from_size_align(0, 64).unwrap();
        let nothing = heap.allocate(layout).unwrap();
        assert_eq!((nothing.as_ptr().addr(), heap.backed()), (64, 0));
        // SAFETY: it came from `allocate` with this layout.
        unsafe { heap.deallocate(nothing, layout) };
    });
}

#[test]
fn under_a_lock_it_is_a_global_allocator() {
    struct Fixed(core::cell::Cell<u32>);
    impl Extents for Fixed {
        fn take(&self, order: Order) -> Result<Extent<Owned>, AllocError> {
            self.0.set(self.0.get() + 1);
            Err(AllocError::Exhausted { order, free: Frames::ZERO })
        }
        fn give_back(&self, _: Extent) {
            unreachable!("nothing was taken");
        }
    }
    let heap = SharedHeap::<TicketLocks, _, _>::new(Heap::new(HostArena::new(16), Fixed(Default::default())));
    // SAFETY: the layout is not empty.
    assert!(unsafe { heap.alloc(bytes(3000)) }.is_null(), "failure is null");
    // Every order from 64 KiB down was tried, once.
    heap.with(|heap| assert_eq!(heap.source.0.get(), 5));
    // SAFETY: null is what `alloc` returned; it is ignored.
    unsafe { heap.dealloc(ptr::null_mut(), bytes(3000)) };
}

proptest! {
    #[test]
    fn allocations_are_aligned_apart_and_keep_their_bytes(
        steps in prop::collection::vec((any::<bool>(), 0_usize..9000, 0_u32..13, any::<usize>()), 1..300)
    ) {
        with_heap(4096, 256, |heap, _| {
            let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
            for (i, (free, size, align, pick)) in steps.into_iter().enumerate() {
                if free && !live.is_empty() {
                    let (memory, layout, fill) = live.swap_remove(pick % live.len());
                    // SAFETY: the heap handed out that many bytes, and they were filled.
                    let bytes = unsafe { core::slice::from_raw_parts(memory.as_ptr(), layout.size()) };
                    assert!(bytes.iter().all(|byte| *byte == fill), "another allocation overlaps");
                    // SAFETY: it came from `allocate` with this layout.
                    unsafe { heap.deallocate(memory, layout) };
                } else {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    if let Ok(memory) = heap.allocate(layout) {
                        assert!(memory.as_ptr().addr().is_multiple_of(layout.align()));
                        // SAFETY: the heap handed out that many bytes.
                        unsafe { memory.as_ptr().write_bytes(i as u8, size) };
                        live.push((memory, layout, i as u8));
                    }
                }
                assert!(heap.backed() <= 256 * FRAME_SIZE);
            }
            for (memory, layout, _) in live {
                // SAFETY: it came from `allocate` with this layout.
                unsafe { heap.deallocate(memory, layout) };
            }
            assert_eq!(heap.used(), 0);
        });
    }
}
