//! What an allocation does when there are no free frames: somebody may have some, before it fails with a value.
//!
//! The somebody is set once. First comes the balloon: memory that was given back comes home, at once, on the CPU that
//! needs it, whatever locks are held. That is [`alloc`], through which everything in the image allocates frames for the
//! kernel. Where that is in vain, pages of the application may leave. This takes a thread that may block, so whoever
//! allocates calls [`wait`] once it has let its own lock go; others have the thread called that does the same.

use crate::frames::KernelFrames;
use crate::{platform, reclaim};
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
pub(crate) const MOST_TRIES: u32 = 16;

static RELIEF: Once<Relief> = Once::new();

/// Tries to have `wanted` frames free, for an allocation that was refused, and answers whether another try makes sense; not
/// more than some tens of times in a row. Blocks if the caller may block, and does nothing otherwise. With no lock held.
pub(crate) fn wait(wanted: Frames) -> bool {
    platform::may_block() && reclaim::relieve(wanted)
}

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
            reclaim::wake_later();
            return Err(refused);
        }
        if RELIEF.get().map_or(Frames::ZERO, |relief| relief(wanted)) == Frames::ZERO {
            reclaim::wake_later();
            return Err(refused);
        }
    }
}
