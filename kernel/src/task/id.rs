//! Who a thread is: its number and its name.

use core::fmt;

/// A thread, for good: the number of its control block, and which of the block's threads it is.
///
/// Blocks are used again, so a bare number would come to mean another thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadId {
    index: u32,
    generation: u32,
}

impl ThreadId {
    /// `generation` counts from 1.
    pub(super) const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The number of the control block.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Which of the block's threads this is, from 1.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Both numbers as one that is never 0 and has its highest bit clear.
    pub(super) const fn to_bits(self) -> u64 {
        (self.generation as u64 & GENERATIONS as u64) << 32 | self.index as u64
    }

    /// What [`to_bits`](Self::to_bits) made; `None` for 0.
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    pub(super) const fn from_bits(bits: u64) -> Option<Self> {
        let generation = (bits >> 32) as u32;
        if generation == 0 { None } else { Some(Self { index: bits as u32, generation }) }
    }

    /// The generation after this one. After 2^31 - 1 threads of one block the count begins anew.
    pub(super) const fn next_generation(generation: u32) -> u32 {
        if generation >= GENERATIONS { 1 } else { generation + 1 }
    }
}

/// The highest generation.
const GENERATIONS: u32 = u32::MAX >> 1;

impl fmt::Debug for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}.{}", self.index, self.generation)
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The name of a thread: a copy of its first 24 bytes or fewer, cut at a character.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Name {
    bytes: [u8; Self::CAPACITY],
    len: u8,
}

impl Name {
    /// Bytes that a name can have.
    pub const CAPACITY: usize = 24;

    /// As much of `text` as fits.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let len = text.floor_char_boundary(Self::CAPACITY);
        let mut bytes = [0; Self::CAPACITY];
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len: len as u8 }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes are a prefix of a string, cut at a character.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn names_are_cut_at_a_character() {
        assert_eq!(Name::new("selfballoon").as_str(), "selfballoon");
        assert_eq!(Name::new("").as_str(), "");
        let long = "ÄÄÄÄÄÄÄÄÄÄÄxÄ and more";
        assert_eq!(Name::new(long).as_str(), "ÄÄÄÄÄÄÄÄÄÄÄx");
        assert_eq!(format!("{:?}", Name::new("a\"b")), r#""a\"b""#);
    }

    #[test]
    fn identities_survive_as_one_number() {
        for id in [ThreadId::new(0, 1), ThreadId::new(u32::MAX - 2, GENERATIONS)] {
            assert_eq!(ThreadId::from_bits(id.to_bits()), Some(id));
            assert_eq!(id.to_bits() >> 63, 0);
        }
        assert_eq!(ThreadId::from_bits(0), None);
        assert_eq!(ThreadId::next_generation(GENERATIONS), 1);
    }
}
