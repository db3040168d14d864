//! Ownership as types: who holds an [`Extent`] holds its frames.
//!
//! A token is neither `Copy` nor `Clone`. It leaves the allocator once, by `alloc`, and goes back once, by `free`
//! or into the balloon; what may be done in between is fixed by its state. A ballooned extent has no memory behind
//! it and therefore cannot be freed, used or mapped: it has to be given back by the hypervisor first.

use core::fmt;
use core::marker::PhantomData;
use core::mem;

use crate::units::{BLOCK_FRAMES, Frames, Gfn, Order};

mod sealed {
    pub trait Sealed {}
}

/// What a token's frames are: [`Owned`] or [`Ballooned`].
pub trait State: sealed::Sealed {}

/// Memory of the guest, held by the owner of the token.
#[derive(Debug)]
pub enum Owned {}

/// Frame numbers without memory: the hypervisor has it.
#[derive(Debug)]
pub enum Ballooned {}

impl sealed::Sealed for Owned {}
impl sealed::Sealed for Ballooned {}
impl State for Owned {}
impl State for Ballooned {}

/// What is known of the bytes in an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Contents {
    /// Anything. Old data, or whatever the hypervisor put there.
    #[default]
    Unknown,
    /// Every byte is zero.
    Zero,
}

/// 2^order frames, aligned to their size, held by whoever holds this value.
///
/// Dropping one loses its frames until the next boot; debug builds say so in the log.
#[must_use = "the frames are lost unless the extent is freed or kept"]
pub struct Extent<S: State = Owned> {
    first: Gfn,
    order: Order,
    contents: Contents,
    allocator: u16,
    state: PhantomData<S>,
}

impl<S: State> Extent<S> {
    pub(super) const fn new(first: Gfn, order: Order, contents: Contents, allocator: u16) -> Self {
        Self { first, order, contents, allocator, state: PhantomData }
    }

    /// The first frame.
    #[must_use]
    pub const fn first(&self) -> Gfn {
        self.first
    }

    /// log2 of the number of frames.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The number of frames.
    #[must_use]
    pub const fn frames(&self) -> Frames {
        self.order.frames()
    }

    pub(super) const fn allocator(&self) -> u16 {
        self.allocator
    }

    /// Ends the token: the frame table knows the extent's new state.
    pub(super) fn consume(self) {
        mem::forget(self);
    }
}

impl Extent<Owned> {
    /// What was known of the bytes when the extent was handed out.
    #[must_use]
    pub const fn contents(&self) -> Contents {
        self.contents
    }
}

impl<S: State> Drop for Extent<S> {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            log::error!("leaked: {self:?} was dropped instead of freed");
        }
    }
}

impl<S: State> fmt::Debug for Extent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?} at {:?}", self.order, self.contents, self.first)
    }
}

/// Consecutive whole blocks, for what needs more contiguous memory than one block.
#[must_use = "the blocks are lost unless the run is freed or kept"]
pub struct Run {
    first: Gfn,
    blocks: u64,
    contents: Contents,
    allocator: u16,
}

impl Run {
    pub(super) const fn new(first: Gfn, blocks: u64, contents: Contents, allocator: u16) -> Self {
        Self { first, blocks, contents, allocator }
    }

    /// The first frame.
    #[must_use]
    pub const fn first(&self) -> Gfn {
        self.first
    }

    /// How many blocks of 2 MiB.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The number of frames.
    #[must_use]
    pub const fn frames(&self) -> Frames {
        Frames::new(self.blocks * BLOCK_FRAMES)
    }

    /// What was known of the bytes when the run was handed out.
    #[must_use]
    pub const fn contents(&self) -> Contents {
        self.contents
    }

    /// The run as separate extents of one block each, lowest first.
    pub fn into_blocks(self) -> impl ExactSizeIterator<Item = Extent> {
        let blocks = self.heads();
        mem::forget(self);
        blocks
    }

    /// A second set of tokens, for the allocator alone: one of the two must be ended by `consume`.
    pub(super) fn heads(&self) -> impl ExactSizeIterator<Item = Extent> + use<> {
        let (first, contents, allocator) = (self.first, self.contents, self.allocator);
        (0..self.blocks as usize).map(move |i| {
            let at = first + Frames::new(i as u64 * BLOCK_FRAMES);
            Extent::new(at, Order::BLOCK, contents, allocator)
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            log::error!("leaked: {self:?} was dropped instead of freed");
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run of {} blocks at {:?}", self.blocks, self.first)
    }
}
