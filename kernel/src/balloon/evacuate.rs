//! Making blocks whole: the port to whoever can move frames.

use crate::mm::frame::SparseBlock;
use crate::units::Frames;

/// Moves frames that are in use out of a block, so that the block comes free as a whole.
///
/// Called from the worker's step, in a thread, with nothing held. The frames have to go into other partly used
/// blocks, which is where the allocator serves movable requests from while there are any. It may offer frames of
/// this very block: an implementation puts those aside until the end. And it must not ask the balloon for memory.
pub trait Evacuate {
    /// Tries to empty `block`, and answers how many frames it moved. The block's numbers were true a moment ago;
    /// somebody may have allocated or freed since. Whether it is whole now, the balloon finds out itself.
    fn evacuate(&self, block: SparseBlock) -> Frames;
}

impl<E: Evacuate + ?Sized> Evacuate for &E {
    fn evacuate(&self, block: SparseBlock) -> Frames {
        (**self).evacuate(block)
    }
}

/// Nobody can move anything: only blocks that are free by themselves are taken as such.
#[derive(Clone, Copy, Debug)]
pub struct NoEvacuation;

impl Evacuate for NoEvacuation {
    fn evacuate(&self, _: SparseBlock) -> Frames {
        Frames::ZERO
    }
}
