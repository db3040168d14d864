//! Why a page is not taken, and why it does not come back.

use core::fmt;

/// Why a page was not stored. Nothing has changed; the next tier may take it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It does not become small enough to be worth it.
    Incompressible {
        /// What it would be compressed.
        bytes: usize,
    },
    /// The pool has as many frames as it may.
    Limit,
    /// There is no frame to be had.
    NoFrame,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incompressible { bytes } => {
                write!(f, "compressed, the page would still have {bytes} bytes")
            }
            Self::Limit => f.write_str("the pool is at its limit"),
            Self::NoFrame => f.write_str("no frame for the pool"),
        }
    }
}

impl core::error::Error for Refused {}

/// Why a page does not come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing is stored under this handle: never, or not any more.
    NotStored,
    /// Something is, but it is not what was stored. The page is lost; the handle should be freed.
    Corrupt(Corruption),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStored => f.write_str("nothing is stored under this handle"),
            Self::Corrupt(corruption) => write!(f, "the stored page is corrupt: {corruption}"),
        }
    }
}

impl core::error::Error for Fault {}

/// What is wrong with a stored page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Corruption {
    /// The pool's own entry for it.
    Entry,
    /// The header in front of its bytes.
    Header,
    /// Its bytes, by their checksum.
    Checksum,
    /// Its bytes, by their encoding: they are not a page.
    Encoding,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "its entry in the books",
            Self::Header => "its header",
            Self::Checksum => "its checksum",
            Self::Encoding => "its encoding",
        })
    }
}

/// Memory for the pool's tables was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory {
    /// How much was asked for.
    pub bytes: usize,
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} bytes for the tables of a pool", self.bytes)
    }
}

impl core::error::Error for NoMemory {}
