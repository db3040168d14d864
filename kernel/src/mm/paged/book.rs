//! Which slots of the window are free: runs in ascending order, first fit.
//!
//! Giving back never needs memory: with room for one run more than there are regions, every run that can come to be
//! has a place, and reserving makes that room.

use alloc::vec::Vec;

/// Free slots in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: usize,
    slots: usize,
}

/// Why no slots were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// No run is long enough.
    NoRun,
    /// There is no memory for the book.
    NoMemory,
}

/// The free slots.
#[derive(Debug)]
pub(super) struct Book {
    /// Ascending; no two touch.
    free: Vec<Run>,
    /// Reservations that are out.
    regions: usize,
}

impl Book {
    /// Slots `first` to `end - 1` are free.
    pub(super) fn new(first: usize, end: usize) -> Result<Self, Full> {
        let mut free = Vec::new();
        free.try_reserve(8).map_err(|_| Full::NoMemory)?;
        if first < end {
            free.push(Run { first, slots: end - first });
        }
        Ok(Self { free, regions: 0 })
    }

    /// Takes `slots` free slots in a row, at least one, and answers the first.
    pub(super) fn take(&mut self, slots: usize) -> Result<usize, Full> {
        // The runs lie between the regions: there is at most one more.
        let room = self.regions + 2;
        self.free.try_reserve(room.saturating_sub(self.free.len())).map_err(|_| Full::NoMemory)?;
        let at = self.free.iter().position(|run| run.slots >= slots).ok_or(Full::NoRun)?;
        let run = &mut self.free[at];
        let first = run.first;
        run.first += slots;
        run.slots -= slots;
        if run.slots == 0 {
            self.free.remove(at);
        }
        self.regions += 1;
        Ok(first)
    }

    /// Gives back what [`take`](Self::take) gave, as a whole.
    pub(super) fn give_back(&mut self, first: usize, slots: usize) {
        let at = self.free.partition_point(|run| run.first < first);
        let overlaps = |run: &Run| run.first < first + slots && first < run.first + run.slots;
        let near = at.saturating_sub(1)..self.free.len().min(at + 1);
        assert!(!self.free[near].iter().any(overlaps), "slots of the window are given back twice");
        let joins_before = at > 0 && self.free[at - 1].first + self.free[at - 1].slots == first;
        let joins_after = self.free.get(at).is_some_and(|run| first + slots == run.first);
        match (joins_before, joins_after) {
            (true, true) => {
                self.free[at - 1].slots += slots + self.free[at].slots;
                self.free.remove(at);
            }
            (true, false) => self.free[at - 1].slots += slots,
            (false, true) => {
                self.free[at].first = first;
                self.free[at].slots += slots;
            }
            (false, false) => {
                assert!(self.free.len() < self.free.capacity(), "the book has more runs than regions");
                self.free.insert(at, Run { first, slots });
            }
        }
        self.regions -= 1;
    }

    /// Free slots.
    pub(super) fn free_slots(&self) -> usize {
        self.free.iter().map(|run| run.slots).sum()
    }

    /// Reservations that are out.
    pub(super) const fn regions(&self) -> usize {
        self.regions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_fit_from_the_bottom() {
        let mut book = Book::new(1, 101).unwrap();
        assert_eq!(book.take(10), Ok(1));
        assert_eq!(book.take(5), Ok(11));
        book.give_back(1, 10);
        assert_eq!(book.take(11), Ok(16));
        assert_eq!(book.take(10), Ok(1));
        assert_eq!(book.take(75), Err(Full::NoRun));
        assert_eq!(book.take(74), Ok(27));
        assert_eq!(book.take(1), Err(Full::NoRun));
        assert_eq!((book.free_slots(), book.regions()), (0, 4));
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn giving_back_twice_is_caught() {
        let mut book = Book::new(0, 10).unwrap();
        let first = book.take(4).unwrap();
        book.give_back(first, 4);
        book.give_back(first, 4);
    }

    proptest! {
        /// Against a map of slots: what is given is free and disjoint, what comes back is joined, and giving back
        /// takes no memory (the assertion inside).
        #[test]
        fn it_agrees_with_a_map(steps in prop::collection::vec((0_usize..40, any::<prop::sample::Index>()), 1..200)) {
            const SLOTS: usize = 200;
            let mut book = Book::new(0, SLOTS).unwrap();
            let mut map = [false; SLOTS];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (slots, which) in steps {
                if slots > 0 && slots < 25 {
                    match book.take(slots) {
                        Ok(first) => {
                            prop_assert!(map[first..first + slots].iter().all(|taken| !taken));
                            map[first..first + slots].fill(true);
                            held.push((first, slots));
                        }
                        Err(error) => {
                            prop_assert_eq!(error, Full::NoRun);
                            let fits = map.windows(slots).any(|run| run.iter().all(|taken| !taken));
                            prop_assert!(!fits);
                        }
                    }
                } else if !held.is_empty() {
                    let (first, slots) = held.swap_remove(which.index(held.len()));
                    map[first..first + slots].fill(false);
                    book.give_back(first, slots);
                }
                prop_assert_eq!(book.free_slots(), map.iter().filter(|taken| !**taken).count());
            }
            for (first, slots) in held {
                book.give_back(first, slots);
            }
            prop_assert_eq!(book.take(SLOTS), Ok(0));
        }
    }
}
