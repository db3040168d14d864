//! The kernel heap: bytes for the kernel's own structures, in an arena that grows by extents of pinned frames.
//!
//! The arena is a range of addresses, reserved once and bounded for ever; its lower part is backed by memory. When an
//! allocation does not fit, the heap takes an extent from the frame allocator, has it mapped at the end of the backed
//! part, and tries again. It never gives memory back and never waits: if the arena is full or no frames are left,
//! the allocation fails with a value, and whoever asked decides.
//!
//! The free list behind it is `linked_list_allocator`: first fit over one list of holes, so an allocation takes time
//! in the number of holes. Small objects do not pay for that: they come from size classes in front. Bulk data of
//! applications does not belong here; it lives in paged memory.
//!
//! The heap is a value: where frames come from ([`Extents`]) and how they get an address ([`Arena`]) are parameters.
#![expect(unsafe_code, reason = "hands out and takes back raw memory; the arena's contract makes it valid")]

mod classes;

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap as Holes;

use self::classes::Classes;
use super::frame::{AllocError, Contents, Exclusive, Extent, FrameAllocator, LockKind, Request};
use crate::units::{FRAME_SIZE, Order};

/// Where the heap's frames come from.
pub trait Extents {
    /// An extent of pinned frames.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is none of this order.
    fn take(&self, order: Order) -> Result<Extent, AllocError>;

    /// Takes back an extent that could not be mapped.
    fn give_back(&self, extent: Extent);
}

/// Frames from the frame allocator.
pub struct FromFrames<'a, 'm, L: LockKind> {
    /// The allocator.
    pub frames: &'a FrameAllocator<'m, L>,
    /// What to ask it for; the order is the heap's choice.
    pub request: Request,
}

impl<L: LockKind> Extents for FromFrames<'_, '_, L> {
    fn take(&self, order: Order) -> Result<Extent, AllocError> {
        self.frames.alloc(self.request.order(order))
    }

    fn give_back(&self, extent: Extent) {
        if let Err(rejected) = self.frames.free(extent, Contents::Unknown, self.request.cpu()) {
            unreachable!("the allocator refuses its own extent: {rejected}");
        }
    }
}

/// A bounded range of addresses that can be backed from its start.
///
/// # Safety
///
/// `base` and `capacity` never change; the range does not wrap and nobody else uses it. After `map(offset, …)`
/// succeeded, the bytes from `base + offset` on, as many as the extent has, are readable, writable, and the caller's
/// alone for as long as the arena exists. So a value of the type is in the hands of those only whose extents come from
/// the allocator that was given the memory of this machine.
pub unsafe trait Arena {
    /// Where the range begins; a multiple of 4096.
    fn base(&self) -> NonNull<u8>;

    /// How many bytes it has, backed or not; a multiple of 4096.
    fn capacity(&self) -> usize;

    /// Backs the bytes from `offset` on with an extent, which the arena keeps.
    ///
    /// # Errors
    ///
    /// The extent, if it could not be mapped.
    fn map(&mut self, offset: usize, extent: Extent) -> Result<(), Extent>;
}

/// Why the heap has no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeapError {
    /// The arena is as large as it may become.
    ArenaFull,
    /// The frame allocator has no frame for it.
    NoFrames(AllocError),
    /// The mapping failed.
    NotMapped,
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArenaFull => f.write_str("the kernel heap has reached its bound"),
            Self::NoFrames(error) => write!(f, "no frames for the kernel heap: {error}"),
            Self::NotMapped => f.write_str("memory for the kernel heap could not be mapped"),
        }
    }
}

impl core::error::Error for HeapError {}

/// The heap grows by at least this much, if it can: 64 KiB.
const STEP: Order = match Order::new(4) {
    Some(order) => order,
    None => unreachable!(),
};

/// What the hole list may need beside the bytes asked for: rounding, and a header before and after.
const OVERHEAD: usize = 4 * size_of::<usize>();

/// The heap.
pub struct Heap<A: Arena, S: Extents> {
    classes: Classes,
    holes: Holes,
    arena: A,
    source: S,
    /// Bytes backed, from the arena's start.
    backed: usize,
}

impl<A: Arena, S: Extents> Heap<A, S> {
    /// An empty heap; the first allocation takes the first extent.
    pub const fn new(arena: A, source: S) -> Self {
        Self { classes: Classes::new(), holes: Holes::empty(), arena, source, backed: 0 }
    }

    /// Where its frames come from.
    pub const fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Bytes of memory behind the heap.
    pub const fn backed(&self) -> usize {
        self.backed
    }

    /// Bytes in use, rounding included.
    pub fn used(&self) -> usize {
        self.holes.used() - self.classes.idle()
    }

    /// Allocates memory of unknown contents. A layout of no bytes gets an address that is not memory.
    ///
    /// # Errors
    ///
    /// [`HeapError`]; what was backed on the way stays for later.
    pub fn allocate(&mut self, layout: Layout) -> Result<NonNull<u8>, HeapError> {
        if layout.size() == 0 {
            return Ok(layout.dangling_ptr());
        }
        match Classes::class_of(layout) {
            Some(class) => match self.classes.pop(class) {
                Some(object) => Ok(object),
                None => self.cut(class),
            },
            None => self.allocate_hole(layout),
        }
    }

    /// Frees memory.
    ///
    /// # Safety
    ///
    /// `memory` came from [`allocate`](Self::allocate) of this heap with the same layout, and is not used again.
    pub unsafe fn deallocate(&mut self, memory: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        match Classes::class_of(layout) {
            // SAFETY: by this function's contract the memory came from `allocate` with this layout, so it is an
            // object of this class, and nobody uses it.
            Some(class) => unsafe { self.classes.push(class, memory) },
            // SAFETY: likewise it came from `allocate_hole` with this layout.
            None => unsafe { self.holes.deallocate(memory, layout) },
        }
    }

    /// An object of a class, from a fresh chunk; the others go into the class's list.
    fn cut(&mut self, class: usize) -> Result<NonNull<u8>, HeapError> {
        let object = Classes::object(class);
        let chunk = Classes::chunk(class);
        let Ok(first) = self.try_hole(chunk) else { return self.allocate_hole(object) };
        for at in (object.size()..chunk.size()).step_by(object.size()).rev() {
            // SAFETY: `at` is inside the chunk, which the hole list has just handed out.
            let next = unsafe { first.add(at) };
            // SAFETY: the chunk is aligned to the object's size, and so is `at`, so this is an object of the class;
            // it came from this heap, and nobody uses it.
            unsafe { self.classes.push(class, next) };
        }
        Ok(first)
    }

    /// Memory from the hole list; if there is none, once more with what the classes do not use.
    fn allocate_hole(&mut self, layout: Layout) -> Result<NonNull<u8>, HeapError> {
        let refused = match self.try_hole(layout) {
            Ok(memory) => return Ok(memory),
            Err(refused) => refused,
        };
        while let Some((object, class)) = self.classes.pop_any() {
            // SAFETY: the object is part of memory that the hole list handed out, and nobody uses it. The list takes
            // back any part of that whose size is a multiple of 16, which the size of every class is.
            unsafe { self.holes.deallocate(object, Classes::object(class)) };
        }
        self.holes.allocate_first_fit(layout).map_err(|()| refused)
    }

    /// Memory from the hole list, which grows if need be.
    fn try_hole(&mut self, layout: Layout) -> Result<NonNull<u8>, HeapError> {
        if let Ok(found) = self.holes.allocate_first_fit(layout) {
            return Ok(found);
        }
        let need = layout.size().checked_add(layout.align()).and_then(|size| size.checked_add(OVERHEAD));
        let Some(need) = need.filter(|need| *need <= self.arena.capacity()) else {
            return Err(HeapError::ArenaFull);
        };
        // Near the bound the rest may still do, because it joins the last hole.
        let end = self.arena.capacity().min(self.backed + need);
        while self.backed < end {
            self.grow(end - self.backed)?;
        }
        self.holes.allocate_first_fit(layout).map_err(|()| HeapError::ArenaFull)
    }

    /// Backs at least one more frame, and `want` bytes in one extent if possible.
    fn grow(&mut self, want: usize) -> Result<(), HeapError> {
        let room = (self.arena.capacity() - self.backed) / FRAME_SIZE;
        let Some(largest) = room.checked_ilog2() else { return Err(HeapError::ArenaFull) };
        let wanted = want.div_ceil(FRAME_SIZE).next_power_of_two().trailing_zeros();
        let wanted = wanted.clamp(STEP.get().into(), Order::BLOCK.get().into()).min(largest);
        let mut refused = HeapError::ArenaFull;
        for order in (0..=wanted as u8).rev().filter_map(Order::new) {
            match self.source.take(order) {
                Ok(extent) => return self.add(extent),
                Err(error) => refused = HeapError::NoFrames(error),
            }
        }
        Err(refused)
    }

    fn add(&mut self, extent: Extent) -> Result<(), HeapError> {
        let bytes = FRAME_SIZE << extent.order().get();
        if let Err(extent) = self.arena.map(self.backed, extent) {
            self.source.give_back(extent);
            return Err(HeapError::NotMapped);
        }
        if self.backed == 0 {
            // SAFETY: the arena has backed `bytes` bytes from its base on, aligned to 4096 and for the heap alone;
            // this is done once, because `backed` only grows.
            unsafe { self.holes.init(self.arena.base().as_ptr(), bytes) };
        } else {
            // SAFETY: the heap ends at `base + backed` and the arena has just backed the `bytes` bytes behind that,
            // for the heap alone.
            unsafe { self.holes.extend(bytes) };
        }
        self.backed += bytes;
        Ok(())
    }
}

/// A heap under a lock: what a `#[global_allocator]` is made of. Failure is a null pointer.
pub struct SharedHeap<L: LockKind, A: Arena + Send, S: Extents + Send>(L::Of<Heap<A, S>>);

impl<L: LockKind, A: Arena + Send, S: Extents + Send> SharedHeap<L, A, S> {
    /// Puts a heap under a lock of its own.
    pub fn new(heap: Heap<A, S>) -> Self {
        Self(L::Of::new(heap))
    }

    /// Runs `work` with the heap to itself.
    pub fn with<R>(&self, work: impl FnOnce(&mut Heap<A, S>) -> R) -> R {
        self.0.with(work)
    }
}

// SAFETY: `alloc` returns memory that the heap owns alone, of the layout's size and alignment, or null; it does not
// unwind, and memory stays valid until `dealloc`, because the heap never shrinks and its arena stays mapped.
unsafe impl<L: LockKind, A: Arena + Send, S: Extents + Send> GlobalAlloc for SharedHeap<L, A, S> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.with(|heap| heap.allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr))
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: the caller of `dealloc` passes what `alloc` returned for this layout.
            self.with(|heap| unsafe { heap.deallocate(memory, layout) });
        }
    }
}

#[cfg(test)]
mod tests;
