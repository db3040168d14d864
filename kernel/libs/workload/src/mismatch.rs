//! Data that came back wrong, described.

use core::fmt;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A value that was stored is not there.
    Missing,
    /// A value that was deleted is there.
    Unexpected,
    /// A value has another length; `expected` and `found` are words.
    Length,
    /// A word differs.
    Content,
    /// The record of what was stored does not add up: `expected` and `found` are sums over it.
    Ledger,
    /// The stamp of a page differs.
    Stamp,
}

impl Fault {
    /// Its name in records: a word of `[a-z]`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Length => "length",
            Self::Content => "content",
            Self::Ledger => "ledger",
            Self::Stamp => "stamp",
        }
    }
}

/// One case of data that came back wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// What is wrong.
    pub fault: Fault,
    /// The item of a store, or the page of a hog.
    pub item: u64,
    /// The version that was expected.
    pub version: u32,
    /// The word (of 8 bytes) in the item.
    pub word: u64,
    /// What should be there.
    pub expected: u64,
    /// What is there.
    pub found: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, item, version, word, expected, found } = self;
        write!(f, "{}: item {item} version {version} word {word}: ", fault.word())?;
        write!(f, "expected {expected:#x}, found {found:#x}")
    }
}
