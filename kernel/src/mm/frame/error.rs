//! Why the allocator refuses.

use core::fmt;

use crate::units::{Frames, Gfn, Order};

use super::token::{Extent, Owned, Run, State};

/// Why a request got nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// Larger than a block; [`allocate_run`](super::FrameAllocator::allocate_run) serves that.
    TooLarge(Order),
    /// No free extent is large enough. `free` says whether memory is short, or merely in pieces.
    Exhausted {
        /// What was asked for.
        order: Order,
        /// What is free in all.
        free: Frames,
    },
    /// Serving this would dig into the reserve, and the request may not.
    Reserve {
        /// What is free in all.
        free: Frames,
        /// The watermark.
        min: Frames,
    },
    /// There are not as many consecutive free blocks.
    NoRun {
        /// What was asked for.
        blocks: u64,
        /// Whole free blocks anywhere.
        whole: u64,
    },
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(order) => write!(f, "{order:?} is larger than a block"),
            Self::Exhausted { order, free } => write!(f, "no free extent of {order:?}; {free} free"),
            Self::Reserve { free, min } => write!(f, "{free} free, and {min} are kept in reserve"),
            Self::NoRun { blocks, whole } => {
                write!(f, "no {blocks} consecutive free blocks; {whole} free blocks")
            }
        }
    }
}

impl core::error::Error for AllocError {}

/// A call that no correct caller makes. The allocator refuses it, counts it, and stays as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misuse {
    /// The frame is outside the table, or no memory, or reserved.
    NotManaged(Gfn),
    /// Nothing is allocated there: freed before, or never handed out.
    NotAllocated(Gfn),
    /// The frame lies in the middle of an allocated extent.
    Interior {
        /// The frame named.
        frame: Gfn,
        /// Where its extent begins.
        head: Gfn,
    },
    /// The extent has another order.
    WrongOrder {
        /// The frame named.
        frame: Gfn,
        /// The order named.
        given: Order,
        /// The order that it was handed out with.
        held: Order,
    },
    /// The token belongs to another allocator.
    Foreign(Gfn),
    /// The extent is held by number; it has to be attached first.
    Detached(Gfn),
    /// The extent is held by a token; there is nothing to attach.
    HeldByToken(Gfn),
    /// The extent is in the balloon.
    InBalloon(Gfn),
    /// One frame cannot be split.
    Indivisible(Gfn),
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotManaged(frame) => write!(f, "{frame} is not memory that the allocator manages"),
            Self::NotAllocated(frame) => write!(f, "{frame} is not allocated"),
            Self::Interior { frame, head } => write!(f, "{frame} is inside the extent at {head}"),
            Self::WrongOrder { frame, given, held } => {
                write!(f, "{frame} was allocated with {held:?}, not {given:?}")
            }
            Self::Foreign(frame) => write!(f, "{frame} belongs to another allocator"),
            Self::Detached(frame) => write!(f, "{frame} is held by number, not by token"),
            Self::HeldByToken(frame) => write!(f, "{frame} is held by a token"),
            Self::InBalloon(frame) => write!(f, "{frame} is in the balloon"),
            Self::Indivisible(frame) => write!(f, "{frame} is a single frame"),
        }
    }
}

impl core::error::Error for Misuse {}

/// A refused call, with the token that it was given: nothing is lost by a mistake.
#[derive(Debug)]
#[must_use = "it holds the extent that was refused"]
pub struct Rejected<S: State = Owned> {
    /// What was wrong.
    pub misuse: Misuse,
    /// The token, still good.
    pub extent: Extent<S>,
}

impl<S: State> fmt::Display for Rejected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.misuse.fmt(f)
    }
}

/// A refused call, with the run that it was given.
#[derive(Debug)]
#[must_use = "it holds the run that was refused"]
pub struct RejectedRun {
    /// What was wrong.
    pub misuse: Misuse,
    /// The token, still good.
    pub run: Run,
}

impl fmt::Display for RejectedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.misuse.fmt(f)
    }
}
