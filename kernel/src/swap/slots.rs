//! Which slots of a swap type are free: a bit for each.
//!
//! A page asks for the slot of its own number first, so the pages of 2 MiB that leave together lie together; where that
//! slot is taken, the next free one of these 2 MiB serves, or of the next that have one. Nothing is locked.
//!
//! **Books on demand.** There are slots for much more than the memory, and most guests never use one. So the bits of 2
//! MiB of slots are made when the first of these is wanted, once whoever owns the slots has made his own books for them.
//! That is while memory is short; hence [`Slots::keep_ahead`], which has some slots ready that nobody has asked for.
//! Where there is no memory for more books, slots that have them are given out, whatever their number.

use alloc::collections::TryReserveError;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::mm::sparse::Sparse;

const BITS: u64 = 64;
/// Words for 2 MiB of slots.
const WORDS: usize = 8;
/// Slots whose books are made together: 2 MiB of pages.
pub const GROUP: u64 = BITS * WORDS as u64;
/// Free slots with books that there should be at any time.
const AHEAD: u64 = GROUP / 2;

/// The slots.
#[derive(Debug)]
pub struct Slots {
    words: Sparse<AtomicU64, WORDS>,
    used: AtomicU64,
    /// Groups that have books.
    groups: AtomicU64,
    /// Where the next group to be made ahead is looked for.
    next: AtomicU64,
}

impl Slots {
    /// At least `count` slots, all free and without books: a multiple of [`GROUP`], and at least that many.
    ///
    /// # Errors
    ///
    /// If the heap has no memory for a pointer per group.
    pub fn new(count: u64) -> Result<Self, TryReserveError> {
        let groups = count.div_ceil(GROUP).max(1);
        Ok(Self {
            words: Sparse::new(groups * WORDS as u64)?,
            used: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            next: AtomicU64::new(0),
        })
    }

    /// How many there are, with books or without.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.words.len() * BITS
    }

    /// How many are in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many have books, in use or not.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.groups.load(Ordering::Relaxed) * GROUP
    }

    /// Takes a slot, the one of number `near` if it is free. `prepare` makes the books for the group that begins with a
    /// slot, and answers whether it could; it may be asked more than once for one group. `None` if all slots that have
    /// books are in use, and there are no more to be had. Any context in which `prepare` may be called.
    pub fn take(&self, near: u64, prepare: impl Fn(u64) -> bool) -> Option<u64> {
        let wanted = near % self.count();
        let home = (wanted / GROUP) as usize;
        if self.make(home, &prepare)
            && let Some(slot) = self.take_in(home, wanted % GROUP)
        {
            return Some(slot);
        }
        // Its own 2 MiB are full, or have no books. Where books are already, before where they would have to be made.
        let others = || (home + 1..self.words.chunks()).chain(0..=home);
        others().find_map(|group| self.take_in(group, 0)).or_else(|| {
            others().filter(|group| self.make(*group, &prepare)).find_map(|group| self.take_in(group, 0))
        })
    }

    /// Makes books for slots that nobody has asked for yet, if few with books are free. For the time when memory is not
    /// short; that it cannot be done is no error.
    pub fn keep_ahead(&self, prepare: impl Fn(u64) -> bool) {
        if self.ready() >= self.used() + AHEAD || self.ready() >= self.count() {
            return;
        }
        let all = self.words.chunks();
        let first = self.next.load(Ordering::Relaxed) as usize % all;
        let missing = (first..all).chain(0..first).find(|group| self.words.chunk(*group).is_none());
        if let Some(group) = missing
            && self.make(group, &prepare)
        {
            self.next.store(group as u64 + 1, Ordering::Relaxed);
        }
    }

    /// Sees to it that a group has books, and answers whether it has.
    fn make(&self, group: usize, prepare: &impl Fn(u64) -> bool) -> bool {
        if self.words.chunk(group).is_some() {
            return true;
        }
        if !prepare(group as u64 * GROUP) {
            return false;
        }
        self.words.make_first(group).is_ok_and(|(_, first)| {
            self.groups.fetch_add(u64::from(first), Ordering::Relaxed);
            true
        })
    }

    /// Takes a slot of a group that has books, preferably the one with number `near` there or the next free one.
    fn take_in(&self, group: usize, near: u64) -> Option<u64> {
        let words = self.words.chunk(group)?;
        let first = (near / BITS) as usize;
        let mut mask = 1 << (near % BITS);
        for word in (first..WORDS).chain(0..=first) {
            while let Some((bit, was_free)) = take_bit(&words[word], mask) {
                if was_free {
                    self.used.fetch_add(1, Ordering::Relaxed);
                    return Some((group * WORDS + word) as u64 * BITS + bit);
                }
            }
            mask = 1;
        }
        None
    }

    /// Frees a slot.
    ///
    /// # Panics
    ///
    /// If it is not in use: somebody has freed it before.
    pub fn give_back(&self, slot: u64) {
        let bit = 1 << (slot % BITS);
        // Release: what was done with it is over.
        let before = self.words.get(slot / BITS).map(|word| word.fetch_and(!bit, Ordering::Release));
        assert!(before.is_some_and(|word| word & bit != 0), "swap: slot {slot:#x} is freed, and not in use");
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tries for a free bit of a word, preferably the one in `mask` or above it: which, and whether it was free. `None` if
/// there is none.
fn take_bit(word: &AtomicU64, mask: u64) -> Option<(u64, bool)> {
    let free = !word.load(Ordering::Relaxed);
    let above = free & !(mask - 1);
    let bit = u64::from(if above != 0 { above } else { free }.trailing_zeros());
    if bit == BITS {
        return None;
    }
    // Acquire: what the last user did is over.
    let before = word.fetch_or(1 << bit, Ordering::Acquire);
    Some((bit, before & 1 << bit == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    const ALL: fn(u64) -> bool = |_| true;

    #[test]
    fn each_slot_is_given_once_and_neighbours_lie_together() {
        let slots = Slots::new(1000).unwrap();
        assert_eq!((slots.count(), slots.used(), slots.ready()), (1024, 0, 0));
        assert_eq!([5, 6, 5].map(|near| slots.take(near, ALL)), [Some(5), Some(6), Some(7)]);
        assert_eq!(slots.ready(), 512, "one group is enough for all of them");
        assert_eq!(slots.take(1024 * 9 + 1023, ALL), Some(1023));
        assert_eq!(slots.take(1023, ALL), Some(960), "in the same word first");
        let rest: BTreeSet<u64> = core::iter::from_fn(|| slots.take(1023, ALL)).collect();
        assert_eq!((rest.len(), slots.used()), (1019, 1024));
        assert!(rest.is_disjoint(&BTreeSet::from([5, 6, 7, 960, 1023])));
        slots.give_back(17);
        assert_eq!((slots.take(800, ALL), slots.take(800, ALL)), (Some(17), None));
    }

    #[test]
    fn a_group_that_is_full_spills_to_the_next_that_has_books() {
        let slots = Slots::new(4 * GROUP).unwrap();
        let made = RefCell::new(Vec::new());
        let take = |near| {
            slots.take(near, |first| {
                made.borrow_mut().push(first);
                true
            })
        };
        assert_eq!(take(3 * GROUP), Some(3 * GROUP));
        assert!((0..GROUP).all(|near| take(near) == Some(near)));
        assert_eq!(take(9), Some(3 * GROUP + 1), "no books are made while there are some");
        assert_eq!(*made.borrow(), [3 * GROUP, 0]);
    }

    #[test]
    fn without_memory_for_books_those_that_are_there_serve() {
        let slots = Slots::new(8 * GROUP).unwrap();
        let never = |_| false;
        assert_eq!((slots.take(700, never), slots.used()), (None, 0));
        slots.keep_ahead(never);
        assert_eq!(slots.ready(), 0);
        slots.keep_ahead(ALL);
        assert_eq!(slots.ready(), GROUP);
        let given: BTreeSet<u64> = core::iter::from_fn(|| slots.take(700, never)).collect();
        assert_eq!((given.len() as u64, slots.used(), slots.ready()), (GROUP, GROUP, GROUP));
        assert_eq!(slots.take(700, ALL), Some(700));
    }

    #[test]
    fn some_are_kept_ahead_of_use_until_there_are_no_more() {
        let slots = Slots::new(3 * GROUP).unwrap();
        for used in 0..3 * GROUP {
            slots.keep_ahead(ALL);
            assert!(slots.ready() - used >= AHEAD || slots.ready() == slots.count(), "{used}");
            assert!(slots.ready() - used <= AHEAD + GROUP, "{used}: not more than is needed");
            // All for the same group, and no memory: books are used where they are.
            assert!(slots.take(GROUP, |_| false).is_some());
        }
        slots.keep_ahead(|_| unreachable!("all have books"));
    }

    #[test]
    #[should_panic(expected = "slot 0x3 is freed, and not in use")]
    fn freeing_twice_is_caught() {
        let slots = Slots::new(1).unwrap();
        slots.give_back(slots.take(3, ALL).unwrap());
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
                            (0..150).filter_map(|at| slots.take(at * thread + round, ALL)).collect();
                        assert_eq!(mine.len(), 150, "somebody has one of mine");
                        mine.into_iter().for_each(|slot| slots.give_back(slot));
                    }
                });
            }
        });
        assert_eq!((slots.used(), slots.ready() <= slots.count()), (0, true));
    }
}
