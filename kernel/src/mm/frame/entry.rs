//! The frame table's entry: one 64-bit word for each frame.
//!
//! An entry says what *begins* at its frame. It is written when an extent is handed out, and cleared when the
//! extent comes back, so a word of zero means "nothing begins here": the frame is free, or inside an extent, or
//! ballooned out as part of a whole block. That gives the table its main property: **the entries of a block in
//! which nothing is handed out are all zero.** They fill exactly one 4 KiB page of the table (512 × 8 bytes), and
//! the allocator does not read or write that page while the block is wholly free, wholly ballooned or absent. A
//! caller may back such pages with one shared page of zeroes and populate them on demand.
//!
//! An entry is atomic only because the per-CPU magazines change it without the allocator's lock. Whoever holds
//! the extent's token, or the magazine, or the lock under which the frame is free, is the only writer.

use core::fmt;

use super::magazine::Kind;
use super::primitive::{AtomicU64, Ordering};

/// What a frame is used for. The first two kinds are *pinned*: they never move. The others are *movable*: all
/// ways to reach them go through mappings that the kernel can change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Use {
    /// Kernel structures, stacks, page tables. Pinned.
    Kernel = 8,
    /// Shared with somebody else: rings, grants, pages handed to tmem. Pinned.
    Special = 9,
    /// Anonymous paged memory. Movable.
    Paged = 10,
    /// Clean pages of a file or device. Movable.
    PageCache = 11,
    /// On its way to the balloon. Counted with the movable kinds, because it pins nothing.
    Ballooning = 14,
}

impl Use {
    /// The group of blocks that this use is served from.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Kernel | Self::Special => Class::Pinned,
            Self::Paged | Self::PageCache | Self::Ballooning => Class::Movable,
        }
    }
}

/// The two groups of allocations that do not share a block while whole blocks remain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// Frames that never move.
    Pinned = 0,
    /// Frames that can be moved elsewhere, and so be taken out of a block's way.
    Movable = 1,
}

impl Class {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pinned, Self::Movable];

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Pinned => Self::Movable,
            Self::Movable => Self::Pinned,
        }
    }
}

/// 48 bits that the holder of an extent leaves in the frame table, to be found again from the frame: for paged
/// memory the virtual page that maps it, so that the frame can be migrated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Owner(u64);

impl Owner {
    /// No owner recorded.
    pub const NONE: Self = Self(0);

    /// The tag with this value, or `None` at 2^48 and above.
    #[must_use]
    pub const fn new(tag: u64) -> Option<Self> {
        if tag < 1 << 48 { Some(Self(tag)) } else { None }
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner {:#x}", self.0)
    }
}

/// What begins at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// Nothing: see the module's description.
    Nothing,
    /// No memory here.
    Hole,
    /// Memory that the allocator was told to leave alone.
    Reserved,
    /// A free frame in a magazine. It is still counted in the class that it was handed out for.
    Cached(Kind),
    /// A ballooned extent whose token is out.
    Ballooned {
        /// Its size.
        order: u8,
    },
    /// An allocated extent.
    Used {
        /// What for.
        usage: Use,
        /// Its size.
        order: u8,
        /// Whether it is held by number instead of by token.
        detached: bool,
        /// The holder's tag.
        owner: Owner,
    },
}

const KIND_HOLE: u64 = 1;
const KIND_RESERVED: u64 = 2;
const KIND_BALLOONED: u64 = 3;
/// The first of four: the stack of a magazine is in the lowest bits, where a [`Use`] has its class.
const KIND_CACHED: u64 = 4;
const KIND_MASK: u64 = 0xF;
/// Set in the kinds that are a [`Use`], and in no other.
const KIND_USED: u64 = 8;
/// Set in the kinds of movable use.
const KIND_MOVABLE: u64 = 2;
const ORDER_SHIFT: u32 = 4;
const ORDER_MASK: u64 = 0xF;
const FLAG_DETACHED: u64 = 1 << 8;
const OWNER_SHIFT: u32 = 16;

impl Head {
    #[inline]
    const fn encode(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Hole => KIND_HOLE,
            Self::Reserved => KIND_RESERVED,
            Self::Cached(kind) => KIND_CACHED | kind as u64,
            Self::Ballooned { order } => KIND_BALLOONED | (order as u64) << ORDER_SHIFT,
            Self::Used { usage, order, detached, owner } => {
                let detached = if detached { FLAG_DETACHED } else { 0 };
                usage as u64 | (order as u64) << ORDER_SHIFT | detached | owner.0 << OWNER_SHIFT
            }
        }
    }

    const fn decode(word: u64) -> Self {
        let order = (word >> ORDER_SHIFT & ORDER_MASK) as u8;
        let usage = match word & KIND_MASK {
            KIND_HOLE => return Self::Hole,
            KIND_RESERVED => return Self::Reserved,
            4 => return Self::Cached(Kind::Pinned),
            5 => return Self::Cached(Kind::PinnedZero),
            6 => return Self::Cached(Kind::Movable),
            7 => return Self::Cached(Kind::MovableZero),
            KIND_BALLOONED => return Self::Ballooned { order },
            8 => Use::Kernel,
            9 => Use::Special,
            10 => Use::Paged,
            11 => Use::PageCache,
            14 => Use::Ballooning,
            // 0, and kinds that `encode` never makes.
            _ => return Self::Nothing,
        };
        let detached = word & FLAG_DETACHED != 0;
        Self::Used { usage, order, detached, owner: Owner(word >> OWNER_SHIFT) }
    }
}

/// One frame's entry in the frame table. All zero bytes is a valid entry, and the one to start with.
#[repr(transparent)]
pub struct Entry(AtomicU64);

impl Entry {
    /// The entry of a frame at which nothing begins.
    #[must_use]
    pub const fn unused() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn get(&self) -> Head {
        Head::decode(self.0.load(Ordering::Relaxed))
    }

    /// The class of the single frame that is in use here and held by a token; `None` for everything else. One
    /// load and two tests, for the fast path.
    #[inline]
    pub(super) fn single_in_use(&self) -> Option<Class> {
        let word = self.0.load(Ordering::Relaxed);
        if word & (KIND_USED | ORDER_MASK << ORDER_SHIFT | FLAG_DETACHED) != KIND_USED {
            return None;
        }
        Some(if word & KIND_MOVABLE == 0 { Class::Pinned } else { Class::Movable })
    }

    /// Relaxed is enough: what is published to another CPU is published by the magazine or the lock.
    #[inline]
    pub(super) fn set(&self, head: Head) {
        self.0.store(head.encode(), Ordering::Relaxed);
    }

    /// Replaces `from` by `to` if the entry still says `from`. Acquire and release, because an extent passes
    /// from one holder to another through this word alone.
    pub(super) fn exchange(&self, from: Head, to: Head) -> bool {
        self.0.compare_exchange(from.encode(), to.encode(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

const _: () = assert!(size_of::<Entry>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_survives_its_encoding() {
        let owner = Owner::new((1 << 48) - 1).unwrap();
        let mut heads = std::vec![Head::Nothing, Head::Hole, Head::Reserved];
        for order in 0..=9 {
            heads.push(Head::Ballooned { order });
            for usage in [Use::Kernel, Use::Special, Use::Paged, Use::PageCache, Use::Ballooning] {
                heads.push(Head::Used { usage, order, detached: order % 2 == 0, owner });
                heads.push(Head::Used { usage, order, detached: order % 2 == 1, owner: Owner::NONE });
            }
        }
        heads.extend(Kind::ALL.map(Head::Cached));
        for (i, &head) in heads.iter().enumerate() {
            assert_eq!(Head::decode(head.encode()), head);
            assert!(heads[..i].iter().all(|other| other.encode() != head.encode()), "{head:?} is not unique");
        }
        for head in heads {
            let expected = match head {
                Head::Used { usage, order: 0, detached: false, .. } => Some(usage.class()),
                _ => None,
            };
            let entry = Entry::unused();
            entry.set(head);
            assert_eq!(entry.single_in_use(), expected, "{head:?}");
        }
        assert_eq!(Head::Nothing.encode(), 0, "fresh metadata must mean nothing");
    }

    #[test]
    fn an_owner_has_48_bits() {
        assert_eq!(Owner::new(1 << 48), None);
        assert_eq!(Owner::new(7).map(Owner::get), Some(7));
    }

    #[test]
    fn only_one_exchange_of_the_same_word_wins() {
        let entry = Entry::unused();
        assert!(entry.exchange(Head::Nothing, Head::Reserved));
        assert!(!entry.exchange(Head::Nothing, Head::Reserved));
        assert_eq!(entry.get(), Head::Reserved);
    }
}
