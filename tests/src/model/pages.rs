//! What the guest's frames hold: host memory, one contiguous arena for RAM and single pages elsewhere.
#![expect(unsafe_code, reason = "guest memory is host memory reached through addresses")]

use ebb::units::{FRAME_SIZE, Gfn};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::boxed::Box;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words in a frame.
pub const WORDS: usize = FRAME_SIZE / 8;

/// What a hole reads as.
pub const ALL_ONES: u64 = u64::MAX;

/// A page of host memory, always accessed atomically.
#[repr(C, align(4096))]
struct Page([AtomicU64; WORDS]);

/// The memory of one domain, whatever is mapped.
pub(super) struct Pages {
    allocation: NonNull<u8>,
    layout: Layout,
    base: NonNull<u8>,
    frames: u64,
    beyond: HashMap<u64, NonNull<Page>>,
}

// SAFETY: owns its memory, and touches it only through atomics.
unsafe impl Send for Pages {}

impl Pages {
    /// Zeroed RAM of `frames` frames from gfn 0 up. The host commits only what is touched.
    pub(super) fn new(frames: u64) -> Self {
        let bytes = usize::try_from(frames).expect("fits the host") * FRAME_SIZE;
        // One block more, to align the base by hand (the allocator zeroes lazily only at its own alignment), and
        // the private page.
        let slack = FRAME_SIZE << 9;
        let layout = Layout::from_size_align(bytes + slack + FRAME_SIZE, 16).expect("a size");
        // SAFETY: the layout is not empty.
        let Some(allocation) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        let offset = allocation.as_ptr().align_offset(slack);
        // SAFETY: less than `slack` away, which is inside the allocation.
        let base = unsafe { allocation.add(offset) };
        base.as_ptr().expose_provenance();
        Self { allocation, layout, base, frames, beyond: HashMap::new() }
    }

    /// Frames of RAM.
    pub(super) fn ram(&self) -> u64 {
        self.frames
    }

    /// Host address of RAM's first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Host address of a page that is nobody's RAM, for Xen's own use.
    pub(super) fn private(&self) -> NonNull<u8> {
        // SAFETY: the page after the arena is inside the allocation.
        unsafe { self.base.add(self.frames as usize * FRAME_SIZE) }
    }

    /// The RAM frame at a host address.
    pub(super) fn frame_at(&self, address: usize) -> Option<Gfn> {
        let offset = address.checked_sub(self.base.addr().get())?;
        let frame = (offset / FRAME_SIZE) as u64;
        (frame < self.frames).then(|| Gfn::new(frame))
    }

    /// Host address of a frame; single pages are made as they are asked for.
    pub(super) fn address(&mut self, frame: Gfn) -> NonNull<u8> {
        if frame.get() < self.frames {
            // SAFETY: inside the arena, just checked.
            return unsafe { self.base.add(frame.get() as usize * FRAME_SIZE) };
        }
        let new = || NonNull::from(Box::leak(Box::new(Page([const { AtomicU64::new(0) }; WORDS]))));
        self.beyond.entry(frame.get()).or_insert_with(new).cast()
    }

    /// One word of a frame.
    pub(super) fn word(&mut self, frame: Gfn, index: usize) -> &AtomicU64 {
        word_at(self.address(frame), index)
    }

    /// Overwrites a whole frame.
    pub(super) fn fill(&mut self, frame: Gfn, value: u64) {
        let page = self.address(frame);
        for index in 0..WORDS {
            word_at(page, index).store(value, Ordering::Relaxed);
        }
    }

    /// Copies a whole frame.
    pub(super) fn copy(&mut self, from: Gfn, to: Gfn) {
        let (from, to) = (self.address(from), self.address(to));
        for index in 0..WORDS {
            word_at(to, index).store(word_at(from, index).load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Whether a frame holds nothing but zeros.
    pub(super) fn is_zero(&mut self, frame: Gfn) -> bool {
        let page = self.address(frame);
        (0..WORDS).all(|index| word_at(page, index).load(Ordering::Relaxed) == 0)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for page in self.beyond.values() {
            // SAFETY: leaked in `address`, once, and given to nobody who outlives the model.
            drop(unsafe { Box::from_raw(page.as_ptr()) });
        }
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) };
    }
}

/// One word of a page.
pub(super) fn word_at<'p>(page: NonNull<u8>, index: usize) -> &'p AtomicU64 {
    assert!(index < WORDS, "a frame has {WORDS} words");
    let word = page.cast::<u64>().as_ptr().wrapping_add(index);
    // SAFETY: inside a live page of this model, aligned; nothing but atomics and the guest's own code, which is
    // as racy as it would be on a machine, touches it.
    unsafe { AtomicU64::from_ptr(word) }
}
