//! Pages that are touched, checked and rewritten in a sequence that can be repeated: what two systems do when they are
//! compared under a shortage of memory.
//!
//! The pages are one piece of memory, and each operation reads and checks one whole page, chosen by Zipf's law and
//! scattered; every [`REWRITES`]th on average then writes the page's next version. The same seed makes the same pages
//! and the same sequence on any system, which [`Pages::sum`] shows.
//!
//! One page in three holds records of text ([`Values::Compressible`]), the others zeroes and random words
//! ([`Values::ZeroHeavy`]): LZ4 makes about 30 % of them, so that half of the memory holds them all and 40 % just so.

use crate::content::{BLOCK_WORDS, Content, Values};
use crate::random::{Rng, mix};
use crate::zipf::{THETA, Zipf};
use core::fmt;

/// Words (of 8 bytes) in a page.
pub const PAGE_WORDS: usize = 512;
/// One operation in this many writes.
pub const REWRITES: u64 = 8;
/// One page in this many is text.
const DENSE: u64 = 3;

/// A page that did not hold what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongPage {
    /// The page.
    pub page: usize,
    /// Which version of it was expected.
    pub version: u32,
    /// The first word that is wrong.
    pub word: usize,
    /// What it should be.
    pub expected: u64,
    /// What it is.
    pub found: u64,
}

impl fmt::Display for WrongPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page, version, word, expected, found } = self;
        write!(f, "page {page}, version {version}, word {word}: {found:#x} instead of {expected:#x}")
    }
}

impl core::error::Error for WrongPage {}

/// The memory, what it should hold, and what comes next.
#[derive(Debug)]
pub struct Pages<'m> {
    pages: &'m mut [[u64; PAGE_WORDS]],
    versions: &'m mut [u32],
    rng: Rng,
    zipf: Zipf,
    sum: u64,
}

/// What page `page` holds in its version `version`.
fn content(page: usize, version: u32) -> Content {
    let values = if (page as u64).is_multiple_of(DENSE) { Values::Compressible } else { Values::ZeroHeavy };
    Content::new(values, page as u64, version)
}

/// Writes a page that no sequence changes: for those who only need pages like these.
pub fn write_page(page: usize, words: &mut [u64; PAGE_WORDS]) {
    content(page, 0).fill(words);
}

/// Whether a page holds what [`write_page`] wrote.
///
/// # Errors
///
/// The first word that is wrong.
pub fn check_page(page: usize, version: u32, words: &[u64; PAGE_WORDS]) -> Result<(), WrongPage> {
    let content = content(page, version);
    // Word by word: a function of the system's library, which each system has its own of, is not to be measured.
    let is_right = words.as_chunks::<BLOCK_WORDS>().0.iter().enumerate().all(|(index, found)| {
        let expected = content.block(index);
        found.iter().zip(&expected).fold(0, |bits, (found, expected)| bits | (found ^ expected)) == 0
    });
    if is_right {
        return Ok(());
    }
    let (word, expected, found) = content.difference(words).unwrap_or_default();
    Err(WrongPage { page, version, word, expected, found })
}

impl<'m> Pages<'m> {
    /// Writes all pages, first to last. `versions` is a number for each, which the caller keeps where it is not in the
    /// way.
    ///
    /// # Panics
    ///
    /// If there are not as many versions as pages, or no pages, or 2³² of them.
    pub fn fill(pages: &'m mut [[u64; PAGE_WORDS]], versions: &'m mut [u32], seed: u64) -> Self {
        assert!(pages.len() == versions.len(), "a version for each page");
        let count = u32::try_from(pages.len()).unwrap_or_default();
        assert!(count > 0, "pages, but less than 2^32");
        versions.fill(0);
        for (page, words) in pages.iter_mut().enumerate() {
            write_page(page, words);
        }
        Self { pages, versions, rng: Rng::new(seed), zipf: Zipf::new(count, THETA), sum: 0 }
    }

    /// Does the next `operations`.
    ///
    /// # Errors
    ///
    /// The first page that is not what it should be.
    pub fn operate(&mut self, operations: u64) -> Result<(), WrongPage> {
        (0..operations).try_for_each(|_| self.step())
    }

    fn step(&mut self) -> Result<(), WrongPage> {
        let page = self.zipf.item(&mut self.rng) as usize;
        let writes = self.rng.below(REWRITES) == 0;
        let version = self.versions[page];
        check_page(page, version, &self.pages[page])?;
        if writes {
            let next = version.wrapping_add(1);
            content(page, next).fill(&mut self.pages[page]);
            self.versions[page] = next;
        }
        self.sum = mix(self.sum ^ (page as u64) << 1 ^ u64::from(writes)).wrapping_add(u64::from(version));
        Ok(())
    }

    /// Checks all pages, first to last.
    ///
    /// # Errors
    ///
    /// The first that is not what it should be.
    pub fn check(&self) -> Result<(), WrongPage> {
        self.pages
            .iter()
            .zip(self.versions.iter())
            .enumerate()
            .try_for_each(|(page, (words, version))| check_page(page, *version, words))
    }

    /// Stands for all operations so far: two that have done the same have the same.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const COUNT: usize = 300;

    fn memory() -> (Vec<[u64; PAGE_WORDS]>, Vec<u32>) {
        (vec![[0; PAGE_WORDS]; COUNT], vec![7; COUNT])
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let sums = [1, 1, 2].map(|seed| {
            let (mut words, mut versions) = memory();
            let mut pages = Pages::fill(&mut words, &mut versions, seed);
            pages.operate(700).unwrap();
            let half = pages.sum();
            pages.operate(300).unwrap();
            pages.check().unwrap();
            assert_ne!(half, pages.sum());
            pages.sum()
        });
        assert_eq!(sums[0], sums[1]);
        assert_ne!(sums[0], sums[2]);
    }

    #[test]
    fn an_eighth_of_the_operations_writes() {
        let (mut words, mut versions) = memory();
        let mut pages = Pages::fill(&mut words, &mut versions, 3);
        pages.operate(8000).unwrap();
        let written: u32 = versions.iter().sum();
        assert!((900..1100).contains(&written), "{written}");
        assert!(
            versions.iter().filter(|version| **version > 0).count() > COUNT / 2,
            "more than the popular ones"
        );
    }

    #[test]
    fn a_page_that_changed_by_itself_is_noticed() {
        let (mut words, mut versions) = memory();
        let mut pages = Pages::fill(&mut words, &mut versions, 4);
        pages.pages[12][511] ^= 1 << 40;
        let wrong = pages.check().unwrap_err();
        assert_eq!((wrong.page, wrong.version, wrong.word), (12, 0, 511));
        assert_eq!(wrong.expected ^ wrong.found, 1 << 40);
        let wrong = pages.operate(10_000).unwrap_err();
        assert_eq!(wrong.page, 12);
    }

    #[test]
    fn a_page_of_an_earlier_version_is_noticed() {
        let (mut words, mut versions) = memory();
        let mut pages = Pages::fill(&mut words, &mut versions, 4);
        pages.operate(1000).unwrap();
        let page = pages.versions.iter().position(|version| *version > 0).unwrap();
        write_page(page, &mut pages.pages[page]);
        assert_eq!(pages.check().unwrap_err().page, page);
    }

    #[test]
    #[should_panic(expected = "a version for each page")]
    fn versions_for_other_pages_are_misuse() {
        let (mut words, mut versions) = memory();
        let _ = Pages::fill(&mut words, &mut versions[1..], 1);
    }
}
