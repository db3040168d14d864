//! A lot: tokens of one order on their way across, with their frame numbers as the hypercall wants them.

use crate::mm::frame::{Ballooned, Extent, Owned, State};
use crate::units::{Frames, Gfn, Order};

/// Extents in the worker's lots: a list of that many frame numbers is a page, and as many frames are a block.
pub const LIST: usize = 512;

/// Up to `N` extents of one order. Storage for the caller of the exchange, who keeps it from call to call; empty
/// between them.
pub struct Lot<S: State, const N: usize> {
    order: Order,
    len: usize,
    extents: [Option<Extent<S>>; N],
    list: [Gfn; N],
}

impl<S: State, const N: usize> Lot<S, N> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { order: Order::FRAME, len: 0, extents: [const { None }; N], list: [Gfn::new(0); N] }
    }

    /// How many extents are in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// The order of the extents.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Frames in all extents together.
    #[must_use]
    pub const fn frames(&self) -> Frames {
        Frames::new((self.len as u64) << self.order.get())
    }

    /// Adds an extent; gives it back if there is no room, or if those that are in it are of another order.
    ///
    /// # Errors
    ///
    /// The extent.
    pub fn push(&mut self, extent: Extent<S>) -> Result<(), Extent<S>> {
        if self.len == N || (self.len > 0 && extent.order() != self.order) {
            return Err(extent);
        }
        self.order = extent.order();
        self.list[self.len] = extent.first();
        self.extents[self.len] = Some(extent);
        self.len += 1;
        Ok(())
    }

    /// The extents' frame numbers.
    pub(super) fn list(&self) -> &[Gfn] {
        &self.list[..self.len]
    }

    /// The extent at `index`, for a look.
    pub(super) fn get(&self, index: usize) -> Option<&Extent<S>> {
        self.extents[..self.len].get(index)?.as_ref()
    }

    /// Takes the extent at `index` out; the last one takes its place.
    pub(super) fn swap_remove(&mut self, index: usize) -> Option<Extent<S>> {
        let last = self.len.checked_sub(1).filter(|last| index <= *last)?;
        self.extents.swap(index, last);
        self.list.swap(index, last);
        self.len = last;
        self.extents[last].take()
    }

    /// Takes the extent at `index` out and leaves a gap, until [`compact`](Self::compact).
    pub(super) fn take(&mut self, index: usize) -> Option<Extent<S>> {
        self.extents[..self.len].get_mut(index)?.take()
    }

    /// Closes the gaps.
    pub(super) fn compact(&mut self) {
        let mut kept = 0;
        for index in 0..self.len {
            if self.extents[index].is_some() {
                self.extents.swap(kept, index);
                self.list.swap(kept, index);
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// Takes all extents out, in the order of the list.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Extent<S>> {
        let len = core::mem::take(&mut self.len);
        self.extents[..len].iter_mut().filter_map(Option::take)
    }
}

impl<S: State, const N: usize> Default for Lot<S, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: State, const N: usize> core::fmt::Debug for Lot<S, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} extents of {:?}", self.len, self.order)
    }
}

/// What the worker keeps from step to step: one lot for each direction, 24 KiB together. Not on a stack.
#[derive(Debug, Default)]
pub struct Scratch {
    /// On the way out.
    pub(crate) out: Lot<Owned, LIST>,
    /// On the way back.
    pub(crate) back: Lot<Ballooned, LIST>,
}

impl Scratch {
    /// Empty ones.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: Lot::new(), back: Lot::new() }
    }
}
