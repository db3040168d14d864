//! Memory held by a hog: pages in chunks of 1 MiB, each with a stamp that changes with every touch.
//!
//! A page's contents follow from its number and from how often it was made; word 0 is the stamp. A touch checks
//! the stamp and one other word, a different one each time, and writes the next stamp; giving a chunk back
//! checks all of it.

use crate::content::{Content, Values};
use crate::mismatch::{Fault, Mismatch};
use crate::random::mix;
use allocator_api2::alloc::{AllocError, Allocator};
use allocator_api2::vec::Vec;

/// Words of 8 bytes in a page.
pub const PAGE_WORDS: usize = 512;

/// Pages in a chunk.
pub const CHUNK_PAGES: usize = 256;

/// From the word that one touch checks to the next one's: prime to 511, so that all have their turn.
const STRIDE: usize = 101;

/// One MiB and the touches of its pages.
#[derive(Debug)]
struct Chunk<A: Allocator> {
    words: Vec<u64, A>,
    touches: Vec<u32, A>,
    /// How many chunks the arena had made before.
    made: u32,
}

/// An arena.
#[derive(Debug)]
pub struct Arena<A: Allocator + Clone> {
    chunks: Vec<Chunk<A>, A>,
    seed: u64,
    values: Values,
    made: u32,
    next: usize,
    allocator: A,
}

impl<A: Allocator + Clone> Arena<A> {
    /// An empty arena, which holds no memory yet; its contents follow from `seed`.
    pub fn new(values: Values, seed: u64, allocator: A) -> Self {
        let chunks = Vec::new_in(allocator.clone());
        Self { chunks, seed: mix(seed), values, made: 0, next: 0, allocator }
    }

    /// MiB held.
    #[must_use]
    pub fn mib(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Adds a MiB and writes all of it.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where memory is refused; nothing has changed then.
    pub fn grow(&mut self) -> Result<(), AllocError> {
        self.chunks.try_reserve(1).map_err(|_| AllocError)?;
        let mut words = Vec::new_in(self.allocator.clone());
        words.try_reserve_exact(CHUNK_PAGES * PAGE_WORDS).map_err(|_| AllocError)?;
        let mut touches = Vec::new_in(self.allocator.clone());
        touches.try_reserve_exact(CHUNK_PAGES).map_err(|_| AllocError)?;

        touches.resize(CHUNK_PAGES, 0);
        let mut chunk = Chunk { words, touches, made: self.made };
        self.made = self.made.wrapping_add(1);
        for page in 0..CHUNK_PAGES {
            let number = self.chunks.len() * CHUNK_PAGES + page;
            let content = self.content(&chunk, number);
            let begun = chunk.words.len();
            for block in 0..PAGE_WORDS / crate::content::BLOCK_WORDS {
                chunk.words.extend_from_slice(&content.block(block));
            }
            chunk.words[begun] = self.stamp(&chunk, number, 0);
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// Checks the newest MiB and frees it: the first page that was wrong, and how many were.
    pub fn shrink(&mut self) -> (Option<Mismatch>, u64) {
        let Some(chunk) = self.chunks.pop() else { return (None, 0) };
        let (mut first, mut wrong) = (None, 0);
        for (page, words) in chunk.words.chunks(PAGE_WORDS).enumerate() {
            let number = self.chunks.len() * CHUNK_PAGES + page;
            if let Some(mismatch) = self.compare(&chunk, number, words) {
                first.get_or_insert(mismatch);
                wrong += 1;
            }
        }
        if self.chunks.is_empty() {
            self.chunks = Vec::new_in(self.allocator.clone());
        }
        (first, wrong)
    }

    /// Touches the next page in turn: answers its number, and what is wrong with it; none where there is no page.
    pub fn touch(&mut self) -> Option<(u64, Option<Mismatch>)> {
        let pages = self.chunks.len() * CHUNK_PAGES;
        let number = if self.next < pages { self.next } else { 0 };
        self.next = number + 1;
        let page = number % CHUNK_PAGES;
        let chunk = self.chunks.get(number / CHUNK_PAGES)?;
        let touches = chunk.touches.get(page).copied()?;
        let begun = page * PAGE_WORDS;

        let other = 1 + (touches as usize % (PAGE_WORDS - 1) * STRIDE) % (PAGE_WORDS - 1);
        let stamp = (Fault::Stamp, 0, self.stamp(chunk, number, touches));
        let content = (Fault::Content, other, self.content(chunk, number).word(other));
        let mismatch = [stamp, content].into_iter().find_map(|(fault, word, expected)| {
            let found = chunk.words.get(begun + word).copied()?;
            let (item, version, word) = (number as u64, touches, word as u64);
            (found != expected).then_some(Mismatch { fault, item, version, word, expected, found })
        });

        let touches = touches.wrapping_add(1);
        let next = self.stamp(chunk, number, touches);
        let chunk = self.chunks.get_mut(number / CHUNK_PAGES)?;
        chunk.words[begun] = next;
        // Repaired, so that one corruption is counted once.
        chunk.words[begun + other] = content.2;
        chunk.touches[page] = touches;
        Some((number as u64, mismatch))
    }

    /// Compares all of a page.
    fn compare(&self, chunk: &Chunk<A>, number: usize, words: &[u64]) -> Option<Mismatch> {
        let touches = chunk.touches.get(number % CHUNK_PAGES).copied().unwrap_or(0);
        let (item, expected, found) = (number as u64, self.stamp(chunk, number, touches), words[0]);
        if found != expected {
            return Some(Mismatch { fault: Fault::Stamp, item, version: touches, word: 0, expected, found });
        }
        let content = self.content(chunk, number);
        let mut block = [0; crate::content::BLOCK_WORDS];
        for (index, part) in words.chunks(block.len()).enumerate() {
            block = content.block(index);
            // Word 0 is the stamp.
            let skipped = usize::from(index == 0);
            if let Some(at) = (skipped..part.len()).find(|at| part[*at] != block[*at]) {
                let word = (index * block.len() + at) as u64;
                let (version, expected, found) = (touches, block[at], part[at]);
                return Some(Mismatch { fault: Fault::Content, item, version, word, expected, found });
            }
        }
        None
    }

    fn stamp(&self, chunk: &Chunk<A>, number: usize, touches: u32) -> u64 {
        mix(self.seed ^ mix(u64::from(chunk.made) << 32 | u64::from(touches)) ^ number as u64)
    }

    fn content(&self, chunk: &Chunk<A>, number: usize) -> Content {
        Content::new(self.values, self.seed ^ number as u64, chunk.made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocator_api2::alloc::Global;

    fn held(values: Values) -> Arena<Global> {
        let mut arena = Arena::new(values, 1, Global);
        for _ in 0..3 {
            arena.grow().unwrap();
        }
        arena
    }

    #[test]
    fn what_is_held_stays_right() {
        for values in [Values::Compressible, Values::ZeroHeavy, Values::Random] {
            let mut arena = held(values);
            for turn in 0..3 * CHUNK_PAGES as u64 * 3 + 5 {
                assert_eq!(arena.touch(), Some((turn % (3 * CHUNK_PAGES as u64), None)));
            }
            assert_eq!(arena.shrink(), (None, 0));
            arena.grow().unwrap();
            while arena.mib() > 0 {
                assert_eq!(arena.touch().unwrap().1, None);
                assert_eq!(arena.shrink(), (None, 0));
            }
            assert_eq!((arena.touch(), arena.shrink()), (None, (None, 0)));
        }
    }

    #[test]
    fn a_flipped_stamp_is_found_by_a_touch_once() {
        let mut arena = held(Values::Random);
        arena.chunks[0].words[5 * PAGE_WORDS] ^= 1;
        let wrong: std::vec::Vec<_> = (0..2 * 768)
            .filter_map(|_| arena.touch().unwrap().1)
            .map(|found| (found.fault, found.item))
            .collect();
        assert_eq!(wrong, [(Fault::Stamp, 5)]);
    }

    #[test]
    fn a_flipped_word_is_found_by_touches_or_at_the_end() {
        let mut arena = held(Values::Compressible);
        arena.chunks[1].words[7 * PAGE_WORDS + 100] ^= 1;
        let found = (0..768 * 511).find_map(|_| arena.touch().unwrap().1).unwrap();
        assert_eq!((found.fault, found.item, found.word), (Fault::Content, 256 + 7, 100));

        arena.chunks[2].words[9 * PAGE_WORDS + 511] ^= 1;
        arena.chunks[2].words[10 * PAGE_WORDS] ^= 1;
        let (first, wrong) = arena.shrink();
        assert_eq!((first.unwrap().item, first.unwrap().word, wrong), (512 + 9, 511, 2));
    }

    #[test]
    fn a_page_of_an_earlier_time_is_found() {
        let mut arena = held(Values::Random);
        let page: std::vec::Vec<u64> = arena.chunks[2].words[..PAGE_WORDS].to_vec();
        arena.shrink();
        arena.grow().unwrap();
        arena.chunks[2].words[1..PAGE_WORDS].copy_from_slice(&page[1..]);
        assert_eq!(arena.shrink().1, 1);
    }
}
