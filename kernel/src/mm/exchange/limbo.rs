//! Limbo: the few extents that neither leave nor come back just now.
//!
//! An extent comes here when it has memory but the direct map has no page table to show it with, or when the
//! hypervisor would not say whether it has memory. It is remembered by number, in a word, and tried again. There
//! is room for a few; what finds none stays detached in the frame table and is counted, so the books still balance.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::units::{Frames, Gfn, Order};

/// More would mean that the machine is broken.
const SLOTS: usize = 64;

/// In the word, above the order (4 bits) and the doubt (1 bit). Zero is an empty slot, so one is added.
const GFN_SHIFT: u32 = 5;

/// An extent in limbo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    pub(super) first: Gfn,
    pub(super) order: Order,
    /// Whether it is unknown if there is memory.
    pub(super) doubtful: bool,
}

#[derive(Debug)]
pub(super) struct Limbo {
    slots: [AtomicU64; SLOTS],
    /// Frames here, and those that found no room.
    frames: AtomicU64,
    /// The doubtful among them.
    doubtful: AtomicU64,
    overflowed: AtomicU64,
}

impl Limbo {
    pub(super) const fn new() -> Self {
        Self {
            slots: [const { AtomicU64::new(0) }; SLOTS],
            frames: AtomicU64::new(0),
            doubtful: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    /// Frames that are here, or were refused a place.
    pub(super) fn frames(&self) -> Frames {
        Frames::new(self.frames.load(Ordering::SeqCst))
    }

    /// The frames of which nobody knows whether they have memory.
    pub(super) fn doubtful(&self) -> Frames {
        Frames::new(self.doubtful.load(Ordering::SeqCst))
    }

    /// Frames that found no room: they will not be tried again.
    pub(super) fn overflowed(&self) -> Frames {
        Frames::new(self.overflowed.load(Ordering::Relaxed))
    }

    pub(super) fn put(&self, waiting: Waiting) {
        let count = waiting.order.frames().get();
        self.frames.fetch_add(count, Ordering::SeqCst);
        if waiting.doubtful {
            self.doubtful.fetch_add(count, Ordering::SeqCst);
        }
        let word = pack(waiting);
        let place =
            |slot: &AtomicU64| slot.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !self.slots.iter().any(place) {
            self.overflowed.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Takes each out once, those that `again` puts back not among them.
    pub(super) fn retry(&self, mut again: impl FnMut(Waiting)) {
        if self.frames.load(Ordering::Relaxed) == 0 {
            return;
        }
        for slot in &self.slots {
            let Some(waiting) = unpack(slot.swap(0, Ordering::AcqRel)) else { continue };
            let count = waiting.order.frames().get();
            self.frames.fetch_sub(count, Ordering::SeqCst);
            if waiting.doubtful {
                self.doubtful.fetch_sub(count, Ordering::SeqCst);
            }
            again(waiting);
        }
    }
}

fn pack(waiting: Waiting) -> u64 {
    let Waiting { first, order, doubtful } = waiting;
    (first.get() + 1) << GFN_SHIFT | u64::from(order.get()) << 1 | u64::from(doubtful)
}

fn unpack(word: u64) -> Option<Waiting> {
    let first = Gfn::new((word >> GFN_SHIFT).checked_sub(1)?);
    let order = Order::new((word >> 1 & 0xF) as u8)?;
    Some(Waiting { first, order, doubtful: word & 1 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn waiting(first: u64, order: Order, doubtful: bool) -> Waiting {
        Waiting { first: Gfn::new(first), order, doubtful }
    }

    #[test]
    fn what_goes_in_comes_out_once() {
        let limbo = Limbo::new();
        let all = [waiting(0, Order::FRAME, false), waiting(0xFF_FFFF_FE00, Order::BLOCK, true)];
        all.into_iter().for_each(|one| limbo.put(one));
        assert_eq!((limbo.frames(), limbo.doubtful()), (Frames::new(513), Frames::new(512)));
        let mut seen = Vec::new();
        limbo.retry(|one| seen.push(one));
        assert_eq!(seen, all);
        limbo.retry(|_| unreachable!("nothing is left"));
        assert_eq!((limbo.frames(), limbo.overflowed()), (Frames::ZERO, Frames::ZERO));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let limbo = Limbo::new();
        (0..SLOTS as u64 + 3).for_each(|frame| limbo.put(waiting(frame, Order::FRAME, false)));
        assert_eq!((limbo.frames(), limbo.overflowed()), (Frames::new(67), Frames::new(3)));
        let mut count = 0;
        limbo.retry(|one| {
            count += 1;
            limbo.put(one);
        });
        assert!(count >= SLOTS, "each is tried");
        assert_eq!(limbo.frames(), Frames::new(67));
    }
}
