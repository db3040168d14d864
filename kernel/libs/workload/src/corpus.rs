//! Pages to try compression on: kinds of contents that memory is full of, made from a number.

use crate::content::{Content, Values};
use crate::random::{Rng, mix};

/// Words (of 8 bytes) in a page.
const PAGE_WORDS: usize = 512;

/// A page.
pub type Page = [u8; PAGE_WORDS * 8];

/// A kind of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Corpus {
    /// Three quarters zeros, in runs of 512 bytes: [`Values::ZeroHeavy`].
    ZeroHeavy,
    /// Words of a language that nobody speaks, the frequent ones often, in lines and paragraphs. Cut into pages, so that
    /// most words were not there before, it becomes 72 % of its size with LZ4.
    Text,
    /// The values of the key-value store: [`Values::Compressible`].
    KeyValue,
    /// Random words: not compressible.
    Random,
}

impl Corpus {
    /// The kinds that can be compressed.
    pub const COMPRESSIBLE: [Self; 3] = [Self::ZeroHeavy, Self::Text, Self::KeyValue];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroHeavy => "zero-heavy",
            Self::Text => "text-like",
            Self::KeyValue => "key-value",
            Self::Random => "random",
        }
    }

    /// Page `number`: always the same.
    #[must_use]
    pub fn page(self, number: u64) -> Page {
        let values = match self {
            Self::Text => return text(number),
            Self::ZeroHeavy => Values::ZeroHeavy,
            Self::KeyValue => Values::Compressible,
            Self::Random => Values::Random,
        };
        let mut words = [0; PAGE_WORDS];
        Content::new(values, number, 0).fill(&mut words);
        let mut page = [0; PAGE_WORDS * 8];
        for (part, word) in page.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        page
    }
}

/// How many words the language has.
const VOCABULARY: u64 = 1024;

/// A page out of a book.
fn text(number: u64) -> Page {
    const ONSETS: [&str; 16] =
        ["b", "br", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "th"];
    const RIMES: [&str; 16] =
        ["a", "e", "i", "o", "u", "an", "en", "ing", "er", "or", "ea", "ou", "al", "is", "ed", "y"];
    let mut rng = Rng::new(mix(number) ^ 0x7E87);
    let mut page = [b' '; PAGE_WORDS * 8];
    let mut at = 0;
    let mut put = |at: &mut usize, text: &str| {
        for byte in text.bytes() {
            if let Some(place) = page.get_mut(*at) {
                *place = byte;
            }
            *at += 1;
        }
    };
    let mut column = 0;
    while at < PAGE_WORDS * 8 {
        // A product of chances: small much more often than large.
        let most = rng.below(VOCABULARY);
        let most = rng.below(most + 1);
        let word = rng.below(most + 1);
        let mut letters = mix(word + 1);
        for _ in 0..1 + (64 - word.leading_zeros()) / 5 {
            put(&mut at, ONSETS[(letters & 15) as usize]);
            put(&mut at, RIMES[(letters >> 4 & 15) as usize]);
            letters >>= 8;
        }
        column += 1;
        let end = match rng.below(12) {
            0 => ", ",
            1 => ". ",
            _ if column % 14 == 0 => "\n",
            _ => " ",
        };
        put(&mut at, end);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_repeated_exactly_and_differ() {
        for corpus in [Corpus::ZeroHeavy, Corpus::Text, Corpus::KeyValue, Corpus::Random] {
            assert_eq!(corpus.page(3), corpus.page(3));
            assert_ne!(corpus.page(3), corpus.page(4), "{}", corpus.name());
        }
    }

    #[test]
    fn text_is_letters_and_points() {
        let page = Corpus::Text.page(1);
        assert!(page.iter().all(|byte| byte.is_ascii_lowercase() || b" ,.\n".contains(byte)));
        let spaces = page.iter().filter(|byte| **byte == b' ').count();
        assert!((300..1200).contains(&spaces), "{spaces}");
    }
}
