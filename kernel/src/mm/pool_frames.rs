//! Single frames together with their bytes, for who stores things in them: the seam under the compressed pool.
//!
//! Who holds the token of a frame may read its bytes, and who holds it exclusively may write them; so everything above
//! is safe code, and runs on the host over any memory. [`DirectFrames`] takes frames from the allocator and reaches
//! them where the kernel's direct map shows them.
#![expect(unsafe_code, reason = "the bytes of frames")]

use core::fmt;

use percpu::{CpuPin, Cpus, Pinned};

use super::frame::{Contents, Extent, FrameAllocator, LockKind, Request, Use};
use crate::units::{FRAME_SIZE, Gfn, VcpuId};

/// The bytes of a frame, or of a page.
pub type FrameBytes = [u8; FRAME_SIZE];

/// Where a pool gets its frames.
///
/// Called with preemption off and locks of the pool held: no method blocks, and none comes back to the pool, by way of
/// reclaim for example.
pub trait PoolFrames: Send + Sync {
    /// A frame, held. Neither copied nor cloned.
    type Frame: Send;

    /// A frame with any contents; `None` if there is none to be had.
    fn allocate(&self) -> Option<Self::Frame>;

    /// Takes a frame back.
    fn free(&self, frame: Self::Frame);

    /// What is in a frame.
    fn bytes<'f>(&self, frame: &'f Self::Frame) -> &'f FrameBytes;

    /// The same, to be changed.
    fn bytes_mut<'f>(&self, frame: &'f mut Self::Frame) -> &'f mut FrameBytes;
}

impl<F: PoolFrames + ?Sized> PoolFrames for &F {
    type Frame = F::Frame;
    fn allocate(&self) -> Option<Self::Frame> {
        (**self).allocate()
    }
    fn free(&self, frame: Self::Frame) {
        (**self).free(frame);
    }
    fn bytes<'f>(&self, frame: &'f Self::Frame) -> &'f FrameBytes {
        (**self).bytes(frame)
    }
    fn bytes_mut<'f>(&self, frame: &'f mut Self::Frame) -> &'f mut FrameBytes {
        (**self).bytes_mut(frame)
    }
}

/// Pinned frames from the allocator, with its reserve: a pool is filled in order to free more than it takes.
pub struct DirectFrames<L: LockKind + 'static, P: Cpus> {
    frames: &'static FrameAllocator<'static, L>,
    platform: P,
    place: fn(Gfn) -> *mut FrameBytes,
}

impl<L: LockKind, P: Cpus> fmt::Debug for DirectFrames<L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectFrames").field("frames", self.frames).finish_non_exhaustive()
    }
}

/// A frame of [`DirectFrames`]: the token, and where its bytes are.
#[derive(Debug)]
pub struct DirectFrame(Extent);

impl<L: LockKind, P: Cpus> DirectFrames<L, P> {
    /// Frames of `frames`, which `place` finds.
    ///
    /// # Safety
    ///
    /// For every frame that the allocator gives out, `place` answers the frame's own memory, as long as the frame is
    /// allocated: aligned to a page, readable and writable, and reached in no other way than by who holds the frame.
    #[must_use]
    pub const unsafe fn new(
        frames: &'static FrameAllocator<'static, L>,
        platform: P,
        place: fn(Gfn) -> *mut FrameBytes,
    ) -> Self {
        Self { frames, platform, place }
    }

    /// Runs `work` with the number of the CPU, on which it stays.
    fn on_cpu<R>(&self, work: impl FnOnce(VcpuId) -> R) -> R {
        let pin = CpuPin::new(self.platform);
        work(VcpuId::new(pin.cpu().get() as u32))
    }
}

impl<L: LockKind, P: Cpus> PoolFrames for DirectFrames<L, P>
where
    FrameAllocator<'static, L>: Sync,
{
    type Frame = DirectFrame;

    fn allocate(&self) -> Option<DirectFrame> {
        self.on_cpu(|cpu| self.frames.alloc(Request::new(Use::Kernel, cpu).emergency())).ok().map(DirectFrame)
    }

    fn free(&self, frame: DirectFrame) {
        if let Err(rejected) = self.on_cpu(|cpu| self.frames.free(frame.0, Contents::Unknown, cpu)) {
            unreachable!("a pool's frame is not its allocator's: {rejected}");
        }
    }

    fn bytes<'f>(&self, frame: &'f DirectFrame) -> &'f FrameBytes {
        // SAFETY: the token says that the frame is allocated, and nobody but who holds it, shared here, reaches its
        // memory; that it is where `place` says is the promise of `new`.
        unsafe { &*(self.place)(frame.0.first()) }
    }

    fn bytes_mut<'f>(&self, frame: &'f mut DirectFrame) -> &'f mut FrameBytes {
        // SAFETY: as above, and the token is held exclusively.
        unsafe { &mut *(self.place)(frame.0.first()) }
    }
}
