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
        let claimed = self.claim(blocks * BLOCK_FRAMES, BLOCK_FRAMES);
        self.exchange.withdraw(lot, Order::BLOCK, claimed / BLOCK_FRAMES);
        if !lot.is_empty() {
            return Ok(self.populate_claimed(lot, claimed, left.max(LOT as u64)));
        }
        self.refund(claimed);
        let claimed = self.claim(LOT as u64, 1);
        self.exchange.withdraw(lot, Order::FRAME, claimed);
        if !lot.is_empty() {
            return Ok(self.populate_claimed(lot, claimed, 0));
        }
        self.refund(claimed);
        let held = self.held.load(Ordering::SeqCst);
        Err(if claimed == 0 && held > 0 { Reason::Ceiling } else { Reason::Empty })
    }

    /// Populates what was withdrawn, and refunds what of the claim did not come.
    pub(super) fn populate_claimed<const N: usize>(
        &self,
        lot: &mut Lot<Ballooned, N>,
        claimed: u64,
        pieces: u64,
    ) -> Populated {
        let populated = self.exchange.populate(lot, Frames::new(pieces));
        self.refund(claimed - populated.returned.get());
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
