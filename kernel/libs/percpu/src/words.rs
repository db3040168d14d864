//! Which words of the per-CPU areas are in use: one bit each, for all CPUs together.
//!
//! Its atomics are `core`'s even under the model checker: what is checked is what the words are used for.

use crate::platform::WordIndex;
use core::sync::atomic::{AtomicU64, Ordering};

/// A pool of `64 * GROUPS` per-CPU words.
///
/// A platform keeps one beside its areas. The last word of a group is as good as the first: nothing is reserved.
#[derive(Debug)]
pub struct WordPool<const GROUPS: usize> {
    /// A set bit is a word in use.
    used: [AtomicU64; GROUPS],
}

impl<const GROUPS: usize> Default for WordPool<GROUPS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const GROUPS: usize> WordPool<GROUPS> {
    /// Words that the pool has.
    pub const WORDS: usize = GROUPS * 64;

    /// All words free.
    #[must_use]
    pub const fn new() -> Self {
        Self { used: [const { AtomicU64::new(0) }; GROUPS] }
    }

    /// Takes a word, or answers `None` if all are in use. Any context; constant time in the number of groups.
    ///
    /// The number is handed out once until [`free`](Self::free); the accesses of the last holder happened before.
    pub fn alloc(&self) -> Option<u32> {
        for (group, used) in self.used.iter().enumerate() {
            let mut bits = used.load(Ordering::Relaxed);
            while bits != u64::MAX {
                let bit = bits.trailing_ones();
                // Acquire pairs with `free`: the last holder is done with the word.
                match used.compare_exchange_weak(bits, bits | 1 << bit, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => return u32::try_from(group * 64).ok().map(|first| first + bit),
                    Err(now) => bits = now,
                }
            }
        }
        None
    }

    /// Takes a word back.
    ///
    /// # Panics
    ///
    /// If the word is not in use: then two owners believe in it.
    #[expect(clippy::needless_pass_by_value, reason = "the word is not its holder's any more")]
    pub fn free(&self, word: WordIndex) {
        let (group, bit) = (word.get() / 64, word.get() % 64);
        let before = self.used[group].fetch_and(!(1 << bit), Ordering::Release);
        assert!(before & 1 << bit != 0, "per-CPU word {} freed twice", word.get());
    }

    /// Words in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.used.iter().map(|used| used.load(Ordering::Relaxed).count_ones() as usize).sum()
    }
}

#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "tests mint word numbers")]
mod tests {
    use super::*;

    #[test]
    fn every_word_once_then_none_then_again() {
        let pool = WordPool::<2>::new();
        let mut words: std::vec::Vec<u32> = (0..128).filter_map(|_| pool.alloc()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), WordPool::<2>::WORDS);
        assert_eq!(pool.alloc(), None);
        // SAFETY: fresh from the pool, held once.
        pool.free(unsafe { WordIndex::new(77) });
        assert_eq!(pool.in_use(), 127);
        assert_eq!(pool.alloc(), Some(77));
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_second_free_is_a_broken_invariant() {
        // SAFETY: the pool never handed it out, and it is held once.
        WordPool::<1>::new().free(unsafe { WordIndex::new(3) });
    }
}
