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
#[repr(transparent)]
pub struct Extent<S: State = Owned> {
    /// Frame number (40 bits: all that 52-bit physical addresses have), order (5), known zero (1), allocator (16).
    /// One word, so that a token stays in a register.
    word: u64,
    state: PhantomData<S>,
}

/// Frame numbers below this fit a token.
pub(super) const MOST_FRAMES: u64 = 1 << ORDER_SHIFT;

const ORDER_SHIFT: u32 = 40;
const ORDER_MASK: u64 = 0x1F;
const ZERO_SHIFT: u32 = 45;
const ALLOCATOR_SHIFT: u32 = 48;

impl<S: State> Extent<S> {
    #[inline]
    pub(super) const fn new(first: Gfn, order: Order, contents: Contents, allocator: u16) -> Self {
        assert!(first.get() < MOST_FRAMES, "a frame beyond the map that was checked");
        let zero = matches!(contents, Contents::Zero) as u64;
        let word = first.get()
            | (order.get() as u64) << ORDER_SHIFT
            | zero << ZERO_SHIFT
            | (allocator as u64) << ALLOCATOR_SHIFT;
        Self { word, state: PhantomData }
    }

    /// The first frame.
    #[must_use]
    pub const fn first(&self) -> Gfn {
        Gfn::new(self.word & (MOST_FRAMES - 1))
    }

    /// log2 of the number of frames.
    #[must_use]
    pub const fn order(&self) -> Order {
        match Order::new((self.word >> ORDER_SHIFT & ORDER_MASK) as u8) {
            Some(order) => order,
            None => unreachable!(),
        }
    }

    /// How far this single frame is from the first of `table`. For anything else, an extent of another order or of
    /// another allocator, the answer is beyond every table: 2^40 or more away, or before its first frame. One
    /// subtraction, for the fast path, instead of a test for each.
    #[inline]
    pub(super) const fn place_in(&self, table: Table) -> u64 {
        (self.word & !(1 << ZERO_SHIFT)).wrapping_sub(table.0)
    }

    /// The number of frames.
    #[must_use]
    pub const fn frames(&self) -> Frames {
        self.order().frames()
    }

    pub(super) const fn allocator(&self) -> u16 {
        (self.word >> ALLOCATOR_SHIFT) as u16
    }

    const fn known(&self) -> Contents {
        if self.word >> ZERO_SHIFT & 1 == 0 { Contents::Unknown } else { Contents::Zero }
    }

    /// Ends the token: the frame table knows the extent's new state.
    #[inline]
    pub(super) fn consume(self) {
        mem::forget(self);
    }
}

/// The token that the first frame of an allocator's table would have.
#[derive(Clone, Copy)]
pub(super) struct Table(u64);

impl Table {
    /// Frames from `base` on are those of `allocator`. All frame numbers of the table are below [`MOST_FRAMES`].
    pub(super) const fn new(base: Gfn, allocator: u16) -> Self {
        Self(base.get() | (allocator as u64) << ALLOCATOR_SHIFT)
    }

    /// The token of the single frame at `index`, which is in the table.
    #[inline]
    pub(super) const fn frame(self, index: u32, contents: Contents) -> Extent {
        let zero = matches!(contents, Contents::Zero) as u64;
        Extent { word: (self.0 + index as u64) | zero << ZERO_SHIFT, state: PhantomData }
    }
}

impl Extent<Owned> {
    /// What was known of the bytes when the extent was handed out.
    #[must_use]
    pub const fn contents(&self) -> Contents {
        self.known()
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
        write!(f, "{:?} at {:?} (contents {:?})", self.order(), self.first(), self.known())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_keeps_what_it_was_given() {
        assert_eq!(size_of::<Extent>(), 8);
        for first in [0, 512, MOST_FRAMES - 512] {
            for order in [Order::FRAME, Order::BLOCK] {
                for (contents, allocator) in [(Contents::Zero, 0), (Contents::Unknown, u16::MAX)] {
                    let extent: Extent = Extent::new(Gfn::new(first), order, contents, allocator);
                    assert_eq!((extent.first(), extent.order()), (Gfn::new(first), order));
                    assert_eq!((extent.contents(), extent.allocator()), (contents, allocator));
                    extent.consume();
                }
            }
        }
    }
    #[test]
    fn only_a_single_frame_of_the_allocator_has_a_place_in_its_table() {
        const LENGTH: u64 = 1 << 20;
        let bases = [0, 512, 1 << 20, MOST_FRAMES / 2, MOST_FRAMES - LENGTH];
        for (base, id) in bases.into_iter().flat_map(|base| [0, 1, 7, u16::MAX].map(|id| (base, id))) {
            let table = Table::new(Gfn::new(base), id);
            for (index, contents) in
                [(0, Contents::Unknown), (9, Contents::Zero), (LENGTH as u32 - 1, Contents::Zero)]
            {
                let frame = table.frame(index, contents);
                assert_eq!((frame.first().get(), frame.order()), (base + u64::from(index), Order::FRAME));
                assert_eq!((frame.contents(), frame.allocator()), (contents, id));
                assert_eq!(frame.place_in(table), u64::from(index));
                frame.consume();
            }
            for first in [0, 511, 512, 1 << 20, base, base + LENGTH / 2, base + LENGTH - 1, MOST_FRAMES - 1] {
                for order in (0..=Order::MAX.get()).filter_map(Order::new) {
                    for allocator in [0, 1, 6, 7, 8, u16::MAX] {
                        let extent: Extent = Extent::new(Gfn::new(first), order, Contents::Zero, allocator);
                        let inside = order == Order::FRAME
                            && allocator == id
                            && (base..base + LENGTH).contains(&first);
                        assert_eq!(extent.place_in(table) < LENGTH, inside, "{extent:?} from {base:#x}");
                        extent.consume();
                    }
                }
            }
        }
    }
}
