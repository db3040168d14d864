//! Deflating on the spot: for the allocator's slow path, when nothing is free and the balloon holds something.

use core::sync::atomic::Ordering;

use super::{Balloon, Reason, add};
use crate::mm::direct_map::DirectMap;
use crate::mm::exchange::{Lot, Populated, Stop};
use crate::mm::frame::{Ballooned, LockKind};
use crate::port::{HvmOps, MemoryOps};
use crate::units::{BLOCK_FRAMES, Frames, Order};

/// Extents in one hypercall, on the caller's stack: 1.5 KiB.
const LOT: usize = 64;
/// Blocks in one hypercall: the caller may have interrupts off, and a block takes its time.
const BLOCKS: u64 = 8;

/// What an emergency brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Deflated {
    /// Frames that are free now. Others may have them before the caller does.
    pub frames: Frames,
    /// Why there are not more, if there are fewer than were asked for.
    pub stopped: Option<Reason>,
}

impl<P: MemoryOps + HvmOps, D: DirectMap, L: LockKind> Balloon<'_, '_, P, D, L> {
    /// Gets at least `want` frames back, now: more if whole blocks are to be had, less if the balloon, the ceiling or
    /// the hypervisor does not give as many.
    ///
    /// Callable from anywhere: any thread, any CPU, several at once, interrupts off, in a handler, on top of a step.
    /// Waits for nothing but the frame allocator's lock. It takes no heed of the target or of earlier refusals, and
    /// makes the worker keep what it has for a while ([`PRESSURE_HOLD_NS`](super::PRESSURE_HOLD_NS)), so that the
    /// policy can find a better target first.
    ///
    /// A caller that still finds nothing free goes on as [`stopped`](Deflated::stopped) says: after
    /// [`Reason::InTransit`] a thread may try again a few times, after the others that is of no use.
    pub fn deflate_now(&self, want: Frames) -> Deflated {
        self.pressure.fetch_add(1, Ordering::SeqCst);
        let under_way = self.under_way.load(Ordering::SeqCst);
        let _under_way = self.enter();
        let mut lot = Lot::<Ballooned, LOT>::new();
        let mut deflated = Deflated { frames: Frames::ZERO, stopped: None };
        while deflated.frames < want && deflated.stopped.is_none() {
            let left = (want - deflated.frames).get();
            let populated = match self.deflate_lot(&mut lot, left) {
                Ok(populated) => populated,
                // Whoever else is at work here may have it.
                Err(Reason::Empty) if under_way > 0 => {
                    deflated.stopped = Some(Reason::InTransit);
                    break;
                }
                Err(reason) => {
                    deflated.stopped = Some(reason);
                    break;
                }
            };
            deflated.frames += populated.usable;
            deflated.stopped = populated.stopped.map(|stop| self.why_not_up(stop));
        }
        if deflated.frames >= want {
            deflated.stopped = None;
        }
        add(&self.counters.emergencies, 1);
        add(&self.counters.emergency_frames, deflated.frames.get());
        deflated
    }

    /// One list: blocks if there are any, frames otherwise.
    fn deflate_lot(&self, lot: &mut Lot<Ballooned, LOT>, left: u64) -> Result<Populated, Reason> {
        let blocks = left.div_ceil(BLOCK_FRAMES).min(BLOCKS);
        self.grow(lot, blocks, left.max(LOT as u64)).ok_or_else(|| {
            let held = self.held.load(Ordering::SeqCst);
            if held > 0 && self.room(held) == 0 { Reason::Ceiling } else { Reason::Empty }
        })
    }

    /// Populates one list: up to `blocks` blocks, of which up to `pieces` frames come singly if blocks are refused; or
    /// else as many frames as the lot holds, up to `pieces`. Nothing if the ceiling or the balloon has none.
    ///
    /// Where the hypervisor has no blocks, the pieces that are in the balloon already come before another block is
    /// broken.
    pub(super) fn grow<const N: usize>(
        &self,
        lot: &mut Lot<Ballooned, N>,
        blocks: u64,
        pieces: u64,
    ) -> Option<Populated> {
        let claimed = self.withdraw(lot, blocks, pieces)?;
        let hold_back = lot.order() == Order::BLOCK && self.in_pieces() > lot.frames().get();
        let populated = self.populate_claimed(lot, claimed, if hold_back { 0 } else { pieces });
        if hold_back
            && populated.extents == 0
            && let Some(claimed) = self.withdraw(lot, blocks, pieces)
        {
            return Some(self.populate_claimed(lot, claimed, pieces));
        }
        Some(populated)
    }

    /// Fills the lot from the balloon, and answers how many frames are claimed for it; nothing if it is empty.
    fn withdraw<const N: usize>(&self, lot: &mut Lot<Ballooned, N>, blocks: u64, pieces: u64) -> Option<u64> {
        let in_pieces = if self.no_blocks.load(Ordering::Relaxed) { self.in_pieces() } else { 0 };
        let first = if in_pieces > 0 { Some((Order::FRAME, 1, pieces.min(in_pieces))) } else { None };
        let usual = [(Order::BLOCK, BLOCK_FRAMES, blocks), (Order::FRAME, 1, pieces)];
        first.into_iter().chain(usual).find_map(|(order, unit, count)| {
            let claimed = self.claim(count.min(N as u64) * unit, unit);
            self.exchange.withdraw(lot, order, claimed / unit);
            if lot.is_empty() {
                self.refund(claimed);
                return None;
            }
            Some(claimed)
        })
    }

    /// Populates what was withdrawn, and refunds what of the claim did not come.
    fn populate_claimed<const N: usize>(
        &self,
        lot: &mut Lot<Ballooned, N>,
        claimed: u64,
        pieces: u64,
    ) -> Populated {
        let order = lot.order();
        let populated = self.exchange.populate(lot, Frames::new(pieces));
        self.refund(claimed - populated.returned.get());
        if order == Order::BLOCK {
            self.no_blocks.store(populated.extents == 0, Ordering::Relaxed);
        }
        if populated.usable > Frames::ZERO {
            self.up.reset();
        }
        populated
    }

    /// Why growth was stopped, as well as anybody can tell: the hypervisor only says how far it came.
    pub(super) fn why_not_up(&self, stop: Stop) -> Reason {
        let port = self.exchange.port();
        match (stop, port.current_reservation(), port.maximum_reservation()) {
            (Stop::NoTable, ..) => Reason::DirectMap,
            (_, Ok(current), Ok(maximum)) if current >= maximum => Reason::Limit,
            _ => Reason::Host,
        }
    }
}
