//! What an allocation does when there are no free frames: somebody may have some, before it fails with a value.
//!
//! The somebody is set once, by the balloon: memory that was given back comes home, at once, on the CPU that needs
//! it. Everything in the image that allocates frames for the kernel does it through [`alloc`].

use crate::frames::KernelFrames;
use ebb::mm::frame::{AllocError, Extent, Request};
use ebb::units::Frames;
use spin::once::Once;

/// Makes some frames free, `wanted` or so of them, and answers how many; 0 if there are none to be had.
/// An answer that is not 0 is worth another try.
///
/// Called in any context: with interrupts off, and with the heap's lock held. It must not wait for another CPU, and
/// must not allocate from the heap.
pub(crate) type Relief = fn(wanted: Frames) -> Frames;

/// Times that one allocation is relieved in vain.
const MOST_TRIES: u32 = 16;

static RELIEF: Once<Relief> = Once::new();

/// Has `relief` called when frames run out. Only the first call counts.
pub(crate) fn set(relief: Relief) {
    RELIEF.call_once(|| relief);
}

/// Allocates; where there is nothing free, after relief. Any context.
///
/// # Errors
///
/// As [`FrameAllocator::alloc`](ebb::mm::frame::FrameAllocator::alloc), when there is no relief to be had any more.
pub(crate) fn alloc(frames: &KernelFrames, request: Request, wanted: Frames) -> Result<Extent, AllocError> {
    let mut tries = 0;
    loop {
        let refused = match frames.alloc(request) {
            Ok(extent) => return Ok(extent),
            Err(refused @ AllocError::TooLarge(_)) => return Err(refused),
            Err(refused) => refused,
        };
        // Others may be faster to take what was freed, and what was freed may be in pieces.
        tries += 1;
        if tries > MOST_TRIES {
            return Err(refused);
        }
        if RELIEF.get().map_or(Frames::ZERO, |relief| relief(wanted)) == Frames::ZERO {
            return Err(refused);
        }
    }
}
