//! Same-filled pages: one word, 512 times. Most are all zeros; patterns of poison and of empty tables are others.
//!
//! Such a page needs no storage: the word is its handle. Looking for one costs less than reading the page, because most
//! others differ in the first few words.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::Page;

/// Words that are looked at first: a page that differs does so early, mostly.
const FIRST: usize = 8;

/// Words that have been looked at before all others are.
const NEXT: usize = 64;

/// The word that fills the page, if one does: every aligned 8 bytes are equal.
#[must_use]
#[inline]
pub fn detect(page: &Page) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let word = u64::from_ne_bytes(*words.first()?);
    let (first, rest) = words.split_first_chunk::<FIRST>()?;
    let (next, rest) = rest.split_first_chunk::<{ NEXT - FIRST }>()?;
    (are(first, word) && are(next, word) && are(rest, word)).then_some(word)
}

/// Whether all of these words are `word`.
#[inline]
fn are(words: &[[u8; 8]], word: u64) -> bool {
    // No decision inside, so that the processor may look at several words at a time.
    words.iter().fold(0, |differ, other| differ | (u64::from_ne_bytes(*other) ^ word)) == 0
}

/// Writes the word all over the page.
#[inline]
pub fn fill(word: u64, page: &mut Page) {
    let [byte, rest @ ..] = word.to_ne_bytes();
    if rest == [byte; 7] {
        // Zeros, nearly always.
        page.fill(byte);
        return;
    }
    let mut done = NEXT * 8;
    let (words, _) = page[..done].as_chunks_mut::<8>();
    words.fill(word.to_ne_bytes());
    while done < page.len() {
        let more = done.min(page.len() - done);
        page.copy_within(..more, done);
        done += more;
    }
}

/// The page is not the same all over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differs;

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the page is not one word over and over")
    }
}

impl core::error::Error for Differs {}

/// The tier: no storage, only counts. Shared by reference; any context; no method waits.
#[derive(Debug, Default)]
pub struct SameFilled {
    stores: AtomicU64,
    loads: AtomicU64,
    frees: AtomicU64,
    refused: AtomicU64,
}

/// What the tier counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Pages in the tier, as far as its users tell.
    pub stored: u64,
    /// Pages that were taken, ever.
    pub stores: u64,
    /// Loads.
    pub loads: u64,
    /// Pages that were refused.
    pub refused: u64,
}

impl SameFilled {
    /// An empty tier.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stores: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes a page: the handle is all that is kept.
    ///
    /// # Errors
    ///
    /// [`Differs`], if words of the page differ.
    #[inline]
    pub fn store(&self, page: &Page) -> Result<u64, Differs> {
        let word = detect(page);
        let count = if word.is_some() { &self.stores } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        word.ok_or(Differs)
    }

    /// Writes the page of this handle. Cannot fail.
    #[inline]
    pub fn load(&self, handle: u64, into: &mut Page) {
        fill(handle, into);
        self.loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets a page, which is only counted.
    pub fn free(&self, _handle: u64) {
        self.frees.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts, each right for some moment during the call.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let frees = self.frees.load(Ordering::Relaxed);
        let stores = self.stores.load(Ordering::Relaxed);
        Stats {
            stored: stores.saturating_sub(frees),
            stores,
            loads: self.loads.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::FRAME_SIZE;

    #[test]
    fn a_page_of_one_word_is_that_word_and_comes_back() {
        let tier = SameFilled::new();
        for word in [0, u64::MAX, 1, 0x0123_4567_89AB_CDEF, 0x6B6B_6B6B_6B6B_6B6B] {
            let mut page = [0; FRAME_SIZE];
            fill(word, &mut page);
            let handle = tier.store(&page).unwrap();
            assert_eq!(handle, word);
            let mut back = [0x55; FRAME_SIZE];
            tier.load(handle, &mut back);
            assert_eq!(back, page);
        }
        tier.free(0);
        assert_eq!(tier.stats(), Stats { stored: 4, stores: 5, loads: 5, refused: 0 });
    }

    #[test]
    fn one_bit_anywhere_makes_it_differ() {
        let tier = SameFilled::new();
        for word in [0_u64, 0x0123_4567_89AB_CDEF] {
            let mut page = [0; FRAME_SIZE];
            fill(word, &mut page);
            for at in 0..FRAME_SIZE {
                page[at] ^= 1 << (at % 8);
                assert_eq!(tier.store(&page), Err(Differs), "byte {at}");
                page[at] ^= 1 << (at % 8);
            }
            assert_eq!(tier.store(&page), Ok(word));
        }
        assert_eq!(tier.stats().refused, 2 * FRAME_SIZE as u64);
    }

    #[test]
    fn a_period_of_more_than_a_word_is_not_the_same() {
        let mut page = [0; FRAME_SIZE];
        for (at, byte) in page.iter_mut().enumerate() {
            *byte = (at % 16) as u8;
        }
        assert_eq!(detect(&page), None);
    }
}
