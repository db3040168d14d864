//! Which slots of a swap type are free: a bit for each.
//!
//! A page asks for the slot of its own number first, so the pages of 2 MiB that leave together lie together; where that
//! slot is taken, the next free one serves. Nothing is locked.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

const BITS: u64 = 64;

/// The slots.
#[derive(Debug)]
pub struct Slots {
    words: Box<[AtomicU64]>,
    used: AtomicU64,
}

impl Slots {
    /// At least `count` slots, all free: a multiple of 64, and at least that many.
    ///
    /// # Errors
    ///
    /// If the heap has no memory for the bits.
    pub fn new(count: u64) -> Result<Self, TryReserveError> {
        let words = usize::try_from(count.div_ceil(BITS).max(1)).unwrap_or(usize::MAX);
        let mut bits = Vec::new();
        bits.try_reserve_exact(words)?;
        bits.extend((0..words).map(|_| AtomicU64::new(0)));
        Ok(Self { words: bits.into_boxed_slice(), used: AtomicU64::new(0) })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.len() as u64 * BITS
    }

    /// How many are in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes a slot, the one of number `near` if it is free; `None` if all are in use. Any context.
    pub fn take(&self, near: u64) -> Option<u64> {
        if self.used.fetch_add(1, Ordering::Relaxed) >= self.count() {
            self.used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // Counted, so one is free for us, wherever; who frees one clears the bit before he counts.
        let wanted = near % self.count();
        let first = (wanted / BITS) as usize;
        let mut mask = 1 << (wanted % BITS);
        loop {
            for word in (first..self.words.len()).chain(0..first) {
                while let Some(bit) = self.take_in(word, mask) {
                    if bit.1 {
                        return Some(word as u64 * BITS + bit.0);
                    }
                }
                mask = 1;
            }
        }
    }

    /// Tries for a free bit of a word, preferably the one in `mask` or above it: which, and whether it was free.
    /// `None` if there is none.
    fn take_in(&self, word: usize, mask: u64) -> Option<(u64, bool)> {
        let free = !self.words[word].load(Ordering::Relaxed);
        let above = free & !(mask - 1);
        let bit = u64::from(if above != 0 { above } else { free }.trailing_zeros());
        if bit == BITS {
            return None;
        }
        // Acquire: what the last user did is over.
        let before = self.words[word].fetch_or(1 << bit, Ordering::Acquire);
        Some((bit, before & 1 << bit == 0))
    }

    /// Frees a slot.
    ///
    /// # Panics
    ///
    /// If it is not in use: somebody has freed it before.
    pub fn give_back(&self, slot: u64) {
        let bit = 1 << (slot % BITS);
        let before =
            self.words.get((slot / BITS) as usize).map(|word| word.fetch_and(!bit, Ordering::Release));
        assert!(before.is_some_and(|word| word & bit != 0), "swap: slot {slot:#x} is freed, and not in use");
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_slot_is_given_once_and_neighbours_lie_together() {
        let slots = Slots::new(100).unwrap();
        assert_eq!((slots.count(), slots.used()), (128, 0));
        assert_eq!([slots.take(5), slots.take(6), slots.take(5)], [Some(5), Some(6), Some(7)]);
        assert_eq!(slots.take(128 * 9 + 127), Some(127));
        assert_eq!(slots.take(127), Some(64), "in the same word first");
        let rest: BTreeSet<u64> = core::iter::from_fn(|| slots.take(127)).collect();
        assert_eq!((rest.len(), slots.used()), (123, 128));
        assert!(rest.is_disjoint(&BTreeSet::from([5, 6, 7, 64, 127])));
        slots.give_back(17);
        assert_eq!((slots.take(80), slots.take(80)), (Some(17), None));
    }

    #[test]
    #[should_panic(expected = "slot 0x3 is freed, and not in use")]
    fn freeing_twice_is_caught() {
        let slots = Slots::new(1).unwrap();
        slots.give_back(slots.take(3).unwrap());
        slots.give_back(3);
    }

    #[test]
    fn several_threads_share_them() {
        let slots = Slots::new(640).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let slots = &slots;
                scope.spawn(move || {
                    for round in 0..2000 {
                        let mine: BTreeSet<u64> =
                            (0..150).filter_map(|at| slots.take(at * thread + round)).collect();
                        assert_eq!(mine.len(), 150, "somebody has one of mine");
                        mine.into_iter().for_each(|slot| slots.give_back(slot));
                    }
                });
            }
        });
        assert_eq!(slots.used(), 0);
    }
}
