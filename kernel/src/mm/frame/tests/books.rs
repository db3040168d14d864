//! What only the owner of memory may say, said where there is none: the allocators of these tests are books alone.
#![expect(unsafe_code, reason = "promises about memory that is not there")]

use super::*;

/// An allocator of frames that stand for nothing.
pub(super) trait Books {
    /// [`FrameAllocator::attach`].
    fn take_up(&self, first: Gfn, order: Order) -> Result<Extent, Misuse>;
    /// [`FrameAllocator::give_back`].
    fn take_back(&self, extent: Extent<Ballooned>) -> Result<(), Rejected<Ballooned>>;
    /// [`FrameAllocator::reuse`].
    fn take_for(
        &self,
        extent: Extent<Ballooned>,
        usage: Use,
        owner: Owner,
    ) -> Result<Extent, Rejected<Ballooned>>;
    /// [`FrameAllocator::release_reserved`].
    fn unreserve(&self, range: FrameRange) -> Result<(), Misuse>;
}

impl<L: LockKind> Books for FrameAllocator<'_, L> {
    fn take_up(&self, first: Gfn, order: Order) -> Result<Extent, Misuse> {
        // SAFETY: no memory stands behind the numbers, so nobody uses it.
        unsafe { self.attach(first, order) }
    }

    fn take_back(&self, extent: Extent<Ballooned>) -> Result<(), Rejected<Ballooned>> {
        // SAFETY: nobody puts an object there, for there is no memory in any case.
        unsafe { self.give_back(extent) }
    }

    fn take_for(
        &self,
        extent: Extent<Ballooned>,
        usage: Use,
        owner: Owner,
    ) -> Result<Extent, Rejected<Ballooned>> {
        // SAFETY: as above.
        unsafe { self.reuse(extent, usage, owner) }
    }

    fn unreserve(&self, range: FrameRange) -> Result<(), Misuse> {
        // SAFETY: no memory stands behind the numbers, so nobody uses it.
        unsafe { self.release_reserved(range) }
    }
}
