//! What values hold: contents that follow from a key, a version and a length, so that any read can be checked
//! word by word without keeping a second copy.
//!
//! Contents are made and compared in blocks of 16 words. Every block that is not all zeroes depends on key and
//! version, so a page that comes back from an earlier time, or from another value, is noticed wherever it lies.

use crate::random::{GOLDEN, mix};

/// Words (of 8 bytes) in a block.
pub const BLOCK_WORDS: usize = 16;

/// Words in a region that is zero, or not, as a whole under [`Values::ZeroHeavy`].
const REGION_WORDS: usize = 64;

/// How compressible the values are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Values {
    /// Records of 128 bytes: 8 letters that differ, then 120 bytes of one of the two phrases of the value. LZ4
    /// makes a sixth of its pages.
    #[default]
    Compressible,
    /// Three quarters of the 512-byte regions are zeroes, the others random; a value's first is never zeroes. LZ4
    /// makes a bit more than a third of its pages, and a few are all zeroes.
    ZeroHeavy,
    /// Every word is random: not compressible.
    Random,
}

impl Values {
    /// Their names on a command line.
    pub const WORDS: [&'static str; 3] = ["compressible", "zero-heavy", "random"];

    /// The kind of that name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "compressible" => Some(Self::Compressible),
            "zero-heavy" => Some(Self::ZeroHeavy),
            "random" => Some(Self::Random),
            _ => None,
        }
    }
}

/// What phrases are made of: the phrase of a value begins at one of 64 words of eight bytes and goes on
/// from there, around the end.
const TEXT: &[u8; 512] = b"\
A guest takes the memory that its load asks for, and no more. When requests arrive it grows; when \
they are gone it gives pages back, whole blocks first, and the host lends them to whoever is busy. \
Hot keys are read again and again, cold ones hardly ever, so what is seldom touched may be packed \
or sent away, as long as it returns unchanged. Nobody should notice: the work done in a second is \
the measure, and each value that is read must be the one that was written last. A limit and a \
margin keep it.......... ";

/// The contents of one value.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    values: Values,
    seed: u64,
}

impl Content {
    /// What version `version` of the value under `key` holds.
    #[must_use]
    pub const fn new(values: Values, key: u64, version: u32) -> Self {
        Self { values, seed: mix(key ^ mix((version as u64).wrapping_add(GOLDEN))) }
    }

    /// Its words `index`·16 to `index`·16 + 15.
    #[must_use]
    pub fn block(&self, index: usize) -> [u64; BLOCK_WORDS] {
        let mut block = [0; BLOCK_WORDS];
        let own = mix(self.seed.wrapping_add((index as u64).wrapping_mul(GOLDEN)));
        match self.values {
            Values::Compressible => {
                // The letters a to p, by the low half of each byte; the phrase by a bit of the high halves.
                block[0] = (own & 0x0F0F_0F0F_0F0F_0F0F) + 0x6161_6161_6161_6161;
                let first = (self.seed >> if own >> 63 == 0 { 0 } else { 32 }) as usize;
                let (words, _) = TEXT.as_chunks::<8>();
                for (at, word) in block[1..].iter_mut().enumerate() {
                    *word = u64::from_le_bytes(words[(first + at) % words.len()]);
                }
            }
            Values::ZeroHeavy => {
                let region = (index * BLOCK_WORDS / REGION_WORDS) as u64;
                if region == 0 || mix(self.seed ^ mix(region)) & 3 == 0 {
                    random(&mut block, own);
                }
            }
            Values::Random => random(&mut block, own),
        }
        block
    }

    /// Writes the contents.
    pub fn fill(&self, words: &mut [u64]) {
        for (index, part) in words.chunks_mut(BLOCK_WORDS).enumerate() {
            part.copy_from_slice(&self.block(index)[..part.len()]);
        }
    }

    /// The first word that is not as it should be: its index, what it should be, and what it is.
    #[must_use]
    pub fn difference(&self, words: &[u64]) -> Option<(usize, u64, u64)> {
        for (index, part) in words.chunks(BLOCK_WORDS).enumerate() {
            let block = self.block(index);
            if *part != block[..part.len()] {
                let at = part.iter().zip(&block).position(|(found, expected)| found != expected)?;
                return Some((index * BLOCK_WORDS + at, block[at], part[at]));
            }
        }
        None
    }

    /// Word `index` of the contents.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.block(index / BLOCK_WORDS)[index % BLOCK_WORDS]
    }
}

/// Fills a block with random words.
fn random(block: &mut [u64; BLOCK_WORDS], seed: u64) {
    for (at, word) in block.iter_mut().enumerate() {
        *word = mix(seed.wrapping_add((at as u64).wrapping_mul(GOLDEN)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    const ALL: [Values; 3] = [Values::Compressible, Values::ZeroHeavy, Values::Random];

    fn filled(values: Values, key: u64, version: u32, words: usize) -> Vec<u64> {
        let mut content = vec![0; words];
        Content::new(values, key, version).fill(&mut content);
        content
    }

    #[test]
    fn contents_verify_and_any_flipped_bit_is_found_with_its_place() {
        for values in ALL {
            for words in [8, 9, 16, 17, 100, 2048] {
                let content = Content::new(values, 3, 1);
                let mut memory = filled(values, 3, 1, words);
                assert_eq!(content.difference(&memory), None);
                for at in [0, words / 2, words - 1] {
                    let good = memory[at];
                    assert_eq!(content.word(at), good);
                    memory[at] ^= 1 << (at % 64);
                    assert_eq!(content.difference(&memory), Some((at, good, memory[at])));
                    memory[at] = good;
                }
            }
        }
    }

    #[test]
    fn every_block_tells_versions_and_keys_apart() {
        for values in ALL {
            let old = filled(values, 3, 1, 2048);
            for (key, version) in [(3, 2), (4, 1), (1, 3)] {
                let new = filled(values, key, version, 2048);
                for (old, new) in old.chunks(BLOCK_WORDS).zip(new.chunks(BLOCK_WORDS)) {
                    let zeroes = |block: &[u64]| block.iter().all(|word| *word == 0);
                    assert!(old != new || (values == Values::ZeroHeavy && zeroes(old)), "{values:?}");
                }
                assert_ne!(old[..BLOCK_WORDS], new[..BLOCK_WORDS]);
            }
        }
    }

    #[test]
    fn pages_are_as_compressible_as_the_name_says() {
        for values in ALL {
            let (mut distinct, mut zeroes, mut pages) = (0, 0, 0);
            for key in 0..50 {
                for page in filled(values, key, 0, 2048).chunks(512) {
                    distinct += page.iter().collect::<BTreeSet<_>>().len();
                    zeroes += page.iter().filter(|word| **word == 0).count();
                    pages += 512;
                }
            }
            let (distinct, zeroes) = (distinct * 100 / pages, zeroes * 100 / pages);
            match values {
                Values::Compressible => assert!((8..=14).contains(&distinct), "{distinct} % distinct"),
                Values::ZeroHeavy => assert!((65..=80).contains(&zeroes), "{zeroes} % zero"),
                Values::Random => assert_eq!((distinct, zeroes), (100, 0)),
            }
        }
    }

    #[test]
    fn the_text_is_text() {
        assert!(TEXT.iter().all(|byte| matches!(byte, b' '..=b'~')));
        let block = Content::new(Values::Compressible, 1, 1).block(0);
        assert!(block.iter().flat_map(|word| word.to_le_bytes()).all(|byte| matches!(byte, b' '..=b'~')));
    }

    #[test]
    fn names() {
        for (word, values) in Values::WORDS.iter().zip(ALL) {
            assert_eq!(Values::from_word(word), Some(values));
        }
        assert_eq!(Values::from_word("Random"), None);
        assert_eq!(Values::default(), Values::Compressible);
    }
}
