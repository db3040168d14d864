//! Why a request was refused.

use core::fmt;

/// A request that breaks a rule, refused before it changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// The operation may block, and the caller must not: read section, spin lock or interrupt handler.
    MayNotBlock,
    /// References are outstanding.
    NotZero,
    /// The count is zero, but the release that follows from it has not returned.
    Releasing,
    /// A switch of mode has not ended.
    Pending,
    /// The owner's capability is out already.
    Claimed,
    /// The object is alive, and the operation is for dead ones.
    NotDying,
    /// The object is dead, and the operation is for living ones.
    Dying,
    /// The object has been exited.
    Exited,
    /// The count is poisoned after misuse that was reported.
    Poisoned,
    /// No memory, or no per-CPU word.
    NoMemory,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MayNotBlock => "the caller may not block",
            Self::NotZero => "references are outstanding",
            Self::Releasing => "the release has not returned",
            Self::Pending => "a switch of mode is pending",
            Self::Claimed => "somebody else is the owner",
            Self::NotDying => "the object is alive",
            Self::Dying => "the object is dying",
            Self::Exited => "the object was exited",
            Self::Poisoned => "the count is poisoned",
            Self::NoMemory => "out of memory",
        })
    }
}

impl core::error::Error for Misuse {}
