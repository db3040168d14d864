//! The way back.

use super::counters::add;
use super::{Exchange, Lot, PIECES, Stop, frame_of, list_pieces, ours};
use crate::mm::direct_map::DirectMap;
use crate::mm::frame::{Ballooned, Extent, LockKind, Owner, Use};
use crate::port::{HvmOps, MemoryOps};
use crate::units::{Frames, Gfn, Order};

/// What became of a lot on its way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Populated {
    /// Frames that are free memory now.
    pub usable: Frames,
    /// Frames that left the balloon: the usable ones, and those in limbo.
    pub returned: Frames,
    /// Extents that came as such, and not in pieces.
    pub extents: usize,
    /// Why some are still in the balloon, if any are.
    pub stopped: Option<Stop>,
}

impl<P: MemoryOps + HvmOps, D: DirectMap, L: LockKind> Exchange<'_, '_, P, D, L> {
    /// Fills the lot from the balloon with up to `count` extents of `order`, which is 0 or 9.
    pub fn withdraw<const N: usize>(&self, lot: &mut Lot<Ballooned, N>, order: Order, count: u64) {
        for _ in 0..count {
            let next = match order {
                _ if lot.is_full() => break,
                Order::FRAME => self.frames.withdraw_frame(),
                _ => self.frames.withdraw_block(),
            };
            let Some(extent) = next else { break };
            if let Err(extent) = lot.push(extent) {
                return self.deposit(extent);
            }
        }
    }

    /// Has every extent of the lot filled with memory, shows it, frees it, and leaves the lot empty. What the
    /// hypervisor does not give stays in the balloon.
    ///
    /// Blocks that are not to be had as such are filled frame by frame, up to `pieces` frames in all: it may have
    /// memory, but not in one piece, or not for the whole block.
    ///
    /// Waits for nobody. One hypercall, if the hypervisor obeys; otherwise as many as the pieces make.
    pub fn populate<const N: usize>(&self, lot: &mut Lot<Ballooned, N>, pieces: Frames) -> Populated {
        let mut populated = Populated::default();
        if lot.is_empty() {
            return populated;
        }
        let order = lot.order();
        let done = self.increase(order, lot.list());
        populated.extents = done;
        let counter = if order == Order::FRAME {
            &self.counters.populated_frames
        } else {
            &self.counters.populated_blocks
        };
        add(counter, done as u64);
        let mut left = if order == Order::FRAME { 0 } else { pieces.get() };
        for (index, extent) in lot.drain().enumerate() {
            if index < done {
                self.admit(extent, &mut populated);
                continue;
            }
            if index == done {
                add(&self.counters.populate_refusals, 1);
                if left == 0 {
                    populated.stopped.get_or_insert(Stop::Refused);
                }
            }
            // Even a frame was refused, or this is enough: the rest stays.
            if left == 0 || populated.stopped.is_some() {
                self.deposit(extent);
                continue;
            }
            let asked = left.min(extent.frames().get());
            let filled = self.populate_pieces(extent, asked as usize, &mut populated);
            left -= asked;
            if filled < asked {
                populated.stopped.get_or_insert(Stop::Refused);
            }
        }
        populated
    }

    /// Fills the first `most` frames of a block, as far as they are to be had. Answers how many.
    fn populate_pieces(&self, extent: Extent<Ballooned>, most: usize, populated: &mut Populated) -> u64 {
        add(&self.counters.populate_splits, 1);
        let first = extent.first();
        let mut pieces = [Gfn::new(0); PIECES];
        let mut filled = 0;
        while filled < most {
            let list = list_pieces(&mut pieces, first, filled, most);
            let (asked, done) = (list.len(), self.increase(Order::FRAME, list));
            filled += done;
            if done < asked {
                break;
            }
        }
        add(&self.counters.populated_frames, filled as u64);
        self.divide(extent, frame_of(first, filled), populated);
        filled as u64
    }

    /// Admits what lies in front of `end`, and leaves the rest in the balloon.
    fn divide(&self, extent: Extent<Ballooned>, end: Gfn, populated: &mut Populated) {
        if extent.first() >= end {
            self.deposit(extent);
        } else if extent.first() + extent.frames() <= end {
            self.admit(extent, populated);
        } else {
            let (low, high) = ours(self.frames.split_ballooned(extent));
            self.divide(low, end, populated);
            self.divide(high, end, populated);
        }
    }

    /// An extent that has memory again: shown and freed. If it cannot be shown, it goes back, or into limbo.
    fn admit(&self, extent: Extent<Ballooned>, populated: &mut Populated) {
        let frames = extent.frames();
        if self.map.show(extent.first(), extent.order()).is_ok() {
            // SAFETY: a populate has counted all of its frames: `populate` and `populate_pieces` admit nothing else.
            ours(unsafe { self.frames.give_back(extent) });
            populated.usable += frames;
            populated.returned += frames;
        } else {
            add(&self.counters.show_failures, 1);
            populated.stopped.get_or_insert(Stop::NoTable);
            // SAFETY: as above.
            let extent = ours(unsafe { self.frames.reuse(extent, Use::Ballooning, Owner::NONE) });
            populated.returned += frames - self.release_pieces(extent, false);
        }
    }

    /// One hypercall: how many extents of the list have memory.
    fn increase(&self, order: Order, list: &[Gfn]) -> usize {
        add(&self.counters.populate_calls, 1);
        // SAFETY: the tokens of these frames are ours, and they say that the frames are holes: nothing lives there
        // and nobody uses them.
        let completed = unsafe { self.port.populate_physmap(order, list) };
        // An error comes from in front of the operation: nothing was done.
        completed.map_or(0, |completed| completed.count().min(list.len()))
    }
}
