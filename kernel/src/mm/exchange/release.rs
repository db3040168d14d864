//! The way out.

use super::counters::add;
use super::fate::{Fate, Fates};
use super::{Exchange, Lot, PIECES, Stop, frame_of, list_pieces, ours};
use crate::mm::direct_map::DirectMap;
use crate::mm::frame::{Contents, Extent, LockKind, Owned};
use crate::port::{HvmOps, MemoryOps};
use crate::units::{Frames, Gfn, Order};

/// Extents refused one after the other, before the rest of a list is taken for refused as well.
const REFUSALS: u32 = 2;

/// What became of a lot on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Released {
    /// Frames that the hypervisor took: in the balloon now.
    pub gone: Frames,
    /// Frames that stayed: free again.
    pub kept: Frames,
    /// Why some stayed, if any did.
    pub stopped: Option<Stop>,
}

/// The state of one release.
struct Leaving {
    scrubbed: bool,
    released: Released,
    refusals: u32,
}

impl Leaving {
    /// What is known of an extent that stays.
    fn contents(&self, extent: &Extent<Owned>) -> Contents {
        if self.scrubbed { Contents::Zero } else { extent.contents() }
    }

    fn stop(&mut self, why: Stop) {
        self.released.stopped.get_or_insert(why);
    }
}

impl<P: MemoryOps + HvmOps, D: DirectMap, L: LockKind> Exchange<'_, '_, P, D, L> {
    /// Gives every extent of the lot to the hypervisor, and leaves the lot empty.
    ///
    /// With `scrub`, extents that are not known to be zero are overwritten first. `abort` is asked once, when all is
    /// ready, and if it says so everything stays.
    ///
    /// Waits for other CPUs to forget the translations, once for the lot: call it from a thread. Then one
    /// hypercall, if the hypervisor obeys; at most some hundreds for each block that it does not take as one.
    pub fn release<const N: usize>(
        &self,
        lot: &mut Lot<Owned, N>,
        scrub: bool,
        abort: impl FnOnce() -> bool,
    ) -> Released {
        let mut leaving = Leaving { scrubbed: scrub, released: Released::default(), refusals: 0 };
        if scrub {
            self.scrub(lot);
        }
        self.hide(lot, &mut leaving);
        if lot.is_empty() {
            return leaving.released;
        }
        self.map.settle();
        if abort() {
            leaving.stop(Stop::Aborted);
            add(&self.counters.aborted, lot.len() as u64);
        } else {
            self.release_hidden(lot, &mut leaving);
        }
        for extent in lot.drain() {
            leaving.released.kept += extent.frames();
            let contents = leaving.contents(&extent);
            self.readmit(extent, contents);
        }
        leaving.released
    }

    /// Adds an extent that was taken for the balloon to a lot; if it does not fit, it is free again. Whether the lot
    /// is full is the answer.
    pub fn collect<const N: usize>(&self, lot: &mut Lot<Owned, N>, extent: Extent<Owned>) -> bool {
        if let Err(extent) = lot.push(extent) {
            let contents = extent.contents();
            ours(self.frames.free(extent, contents, super::NO_CPU));
        }
        lot.is_full()
    }

    fn scrub<const N: usize>(&self, lot: &Lot<Owned, N>) {
        let (mut scrubbed, mut known) = (0, 0);
        for extent in (0..lot.len()).filter_map(|index| lot.get(index)) {
            if extent.contents() == Contents::Zero {
                known += extent.frames().get();
            } else {
                // SAFETY: we hold the extent's token, so nobody uses it, and nothing lives there.
                unsafe { self.map.scrub(extent.first(), extent.order()) };
                scrubbed += extent.frames().get();
            }
        }
        add(&self.counters.scrubbed_frames, scrubbed);
        add(&self.counters.known_zero_frames, known);
    }

    /// Takes the extents out of the direct map; those that it cannot let go of leave the lot, and stay.
    fn hide<const N: usize>(&self, lot: &mut Lot<Owned, N>, leaving: &mut Leaving) {
        let mut index = 0;
        while let Some(extent) = lot.get(index) {
            // SAFETY: we hold the extent's token, so nobody uses it, and nothing lives there; it is freed only after
            // it was shown again.
            if unsafe { self.map.hide(extent.first(), extent.order()) }.is_ok() {
                index += 1;
                continue;
            }
            add(&self.counters.hide_failures, 1);
            leaving.stop(Stop::NoTable);
            if let Some(extent) = lot.swap_remove(index) {
                leaving.released.kept += extent.frames();
                let contents = leaving.contents(&extent);
                ours(self.frames.free(extent, contents, super::NO_CPU));
            }
        }
    }

    /// Hands the list over until it is finished or refused. What stays is left in the lot.
    fn release_hidden<const N: usize>(&self, lot: &mut Lot<Owned, N>, leaving: &mut Leaving) {
        let (order, total) = (lot.order(), lot.len());
        let mut from = 0;
        while from < total && leaving.refusals < REFUSALS {
            let done = self.decrease(order, &lot.list()[from..]);
            for index in from..from + done {
                leaving.released.gone += self.finish(lot, index);
            }
            if done > 0 {
                leaving.refusals = 0;
                let counter = if order == Order::FRAME {
                    &self.counters.released_frames
                } else {
                    &self.counters.released_blocks
                };
                add(counter, done as u64);
            }
            from += done;
            if from == total {
                break;
            }
            add(&self.counters.release_refusals, 1);
            leaving.refusals += 1;
            leaving.stop(Stop::Refused);
            if let Some(extent) = lot.take(from) {
                let gone = self.release_pieces(extent, leaving.scrubbed);
                leaving.released.gone += gone;
                leaving.released.kept += order.frames() - gone;
                if gone == order.frames() {
                    // It was refused only as a whole.
                    leaving.refusals = 0;
                }
            }
            from += 1;
        }
        lot.compact();
    }

    fn finish<const N: usize>(&self, lot: &mut Lot<Owned, N>, index: usize) -> Frames {
        match lot.take(index) {
            Some(extent) => self.keep_as_gone(extent),
            None => unreachable!("an extent of the list was taken twice"),
        }
    }

    /// Releases a hidden extent frame by frame, whatever of it may be gone already. What stays is memory and is
    /// readmitted; how many frames are in the balloon is the answer.
    pub(super) fn release_pieces(&self, extent: Extent<Owned>, zero: bool) -> Frames {
        let (first, total) = (extent.first(), extent.frames().get() as usize);
        let mut fates = Fates::new();
        let mut pieces = [Gfn::new(0); PIECES];
        let (mut index, mut refusals, mut look, mut half_done) = (0, 0, true, false);
        while index < total {
            // Where the last list was finished, the next frame is taken for memory; a short count makes us look.
            let fate = if look { self.probe(frame_of(first, index)) } else { Fate::Memory };
            if fate != Fate::Memory || refusals == REFUSALS {
                half_done |= fate == Fate::Gone;
                fates.set(index, fate);
                index += 1;
                continue;
            }
            let list = list_pieces(&mut pieces, first, index, total);
            let (asked, done) = (list.len(), self.decrease(Order::FRAME, list));
            add(&self.counters.released_frames, done as u64);
            (index..index + done).for_each(|index| fates.set(index, Fate::Gone));
            if done == 0 && look {
                // Memory, and not to be had.
                refusals += 1;
                index += 1;
            }
            index += done;
            look = done < asked;
        }
        if total > 1 {
            add(&self.counters.release_splits, 1);
            add(&self.counters.half_done_blocks, u64::from(half_done));
        }
        self.sort_out(extent, first, &fates, zero)
    }

    /// Asks again what is behind an extent that is in doubt. Answers how many frames are in the balloon now.
    pub(super) fn look_again(&self, extent: Extent<Owned>) -> Frames {
        let first = extent.first();
        let mut fates = Fates::new();
        for index in 0..extent.frames().get() as usize {
            fates.set(index, self.probe(frame_of(first, index)));
        }
        self.sort_out(extent, first, &fates, false)
    }

    /// Sends each part of an extent where its fate wants it. Answers how many frames are in the balloon.
    fn sort_out(&self, extent: Extent<Owned>, origin: Gfn, fates: &Fates, zero: bool) -> Frames {
        let (start, count) = ((extent.first() - origin).get() as usize, extent.frames().get() as usize);
        match fates.common(start, count) {
            Some(Fate::Gone) => self.keep_as_gone(extent),
            Some(Fate::Memory) => {
                let contents = if zero { Contents::Zero } else { extent.contents() };
                self.readmit(extent, contents);
                Frames::ZERO
            }
            Some(Fate::Unknown) => {
                self.leave_in_limbo(extent, true);
                Frames::ZERO
            }
            None => {
                let (low, high) = ours(self.frames.split(extent));
                self.sort_out(low, origin, fates, zero) + self.sort_out(high, origin, fates, zero)
            }
        }
    }

    /// One hypercall: how many extents of the list are gone.
    fn decrease(&self, order: Order, list: &[Gfn]) -> usize {
        add(&self.counters.release_calls, 1);
        // SAFETY: the tokens of these frames are ours: nobody uses them, nothing lives there, and they are out of the
        // direct map. They go nowhere until a count or a look has said what they are.
        let completed = unsafe { self.port.decrease_reservation(order, list) };
        // An error comes from in front of the operation: nothing was done.
        completed.map_or(0, |completed| completed.count().min(list.len()))
    }
}
