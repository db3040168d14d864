//! Deriving everything again: each frame is exactly one thing, and each counter and list says so.

use core::fmt;

use crate::units::Gfn;

use super::FrameAllocator;
use super::block::{Block, FRAMES, ORDERS, UNLISTED};
use super::buddy::{Buddy, Totals, class_of, list_of};
use super::entry::{Class, Entry, Head};
use super::lock::LockKind;

/// What does not agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inconsistency {
    /// Somebody is inside a magazine: nothing can be said now.
    Busy,
    /// The frame is two things at once, or nothing.
    Frame(Gfn),
    /// A free frame's buddy is free too, but they are not joined.
    Unjoined(Gfn),
    /// A frame is marked as zero that is not free.
    StrayZero(Gfn),
    /// A block's own counters do not match its frames.
    BlockCount(Gfn),
    /// A block is in the wrong list, or a list is broken there.
    List(Gfn),
    /// Blocks are missing from the lists, or in two.
    Lost {
        /// How many the lists hold.
        listed: usize,
        /// How many they should hold.
        expected: usize,
    },
    /// A magazine holds a frame that the table does not show as cached, or not as it is.
    Magazine(Gfn),
    /// More frames are shown as cached than magazines hold.
    CachedCount,
    /// A total does not match the sum over the blocks.
    Total(&'static str),
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("a magazine is in use"),
            Self::Frame(frame) => write!(f, "{frame} is not exactly one thing"),
            Self::Unjoined(frame) => write!(f, "the free extent at {frame} is not joined with its buddy"),
            Self::StrayZero(frame) => write!(f, "{frame} is marked as zero, but is not free"),
            Self::BlockCount(frame) => write!(f, "the counters of the block at {frame} are wrong"),
            Self::List(frame) => write!(f, "the block at {frame} is in the wrong list"),
            Self::Lost { listed, expected } => write!(f, "{listed} blocks in lists instead of {expected}"),
            Self::Magazine(frame) => write!(f, "{frame} is in a magazine, and the table disagrees"),
            Self::CachedCount => f.write_str("frames are marked as cached that no magazine holds"),
            Self::Total(name) => write!(f, "the total of {name} is wrong"),
        }
    }
}

impl core::error::Error for Inconsistency {}

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// Re-derives every counter, list and state from the lowest level up and compares. Time grows with the table;
    /// the lock is held throughout, and magazines are closed, so that other CPUs may go on calling. They are waited
    /// for if the caller may wait ([`LockKind::wait`]); else it finds them busy if they have not parked theirs.
    ///
    /// # Errors
    ///
    /// The first [`Inconsistency`] found.
    pub fn validate(&self) -> Result<(), Inconsistency> {
        self.validate_from(0)
    }

    /// Enters the magazines one after the other, keeping each. In this order always: of two that validate, one waits.
    fn validate_from(&self, next: usize) -> Result<(), Inconsistency> {
        let Some(magazine) = self.magazines.get(next) else {
            return self.locked(|buddy| self.validate_closed(buddy));
        };
        let wanted = magazine.want();
        let _inside = self.enter_wanted(next, magazine, &wanted).ok_or(Inconsistency::Busy)?;
        self.validate_from(next + 1)
    }

    fn validate_closed(&self, buddy: &Buddy<'m>) -> Result<(), Inconsistency> {
        let mut sums = Totals { reserved: 0, ..Totals::default() };
        let (mut cached, mut listed, mut partly) = (0, 0, 0);
        for (i, block) in buddy.blocks.iter().enumerate() {
            let start = i as u32 * FRAMES as u32;
            cached += self.validate_block(block, start, &mut sums)?;
            if block.list != list_of(block) || block.class != class_of(block) {
                return Err(Inconsistency::List(self.gfn(start)));
            }
            listed += usize::from(block.list != UNLISTED);
            partly += usize::from(block.is_partly_deposited());
        }
        let broken =
            |block: u32| Inconsistency::List(self.gfn(block.min(buddy.blocks.len() as u32) * FRAMES as u32));
        let (in_lists, in_deposited) = buddy.check_lists().map_err(broken)?;
        for (found, expected) in [(in_lists, listed), (in_deposited, partly)] {
            if found != expected {
                return Err(Inconsistency::Lost { listed: found, expected });
            }
        }
        self.validate_magazines(cached)?;
        compare(&sums, &buddy.totals)
    }

    /// Checks one block and adds it to the sums; says how many of its frames are cached.
    fn validate_block(&self, block: &Block, start: u32, sums: &mut Totals) -> Result<u64, Inconsistency> {
        let (by_order, zero, deposited) = block.recount();
        let (mut free, mut cached, mut lent, mut reserved, mut holes) = (0, 0, 0, 0, 0);
        let mut out = [0_u64; 2];
        // The frames up to which the last extent reaches; none may begin before that.
        let mut covered = 0;
        for within in 0..FRAMES {
            let frame = self.gfn(start + within as u32);
            if block.is_zero(within) && block.free_extent(within).is_none() {
                return Err(Inconsistency::StrayZero(frame));
            }
            let free_order =
                (0..ORDERS).find(|&k| within.is_multiple_of(1 << k) && block.is_free(k, within >> k));
            let head = self.entry(start + within as u32).get();
            let things = usize::from(free_order.is_some())
                + usize::from(block.is_deposited(within))
                + usize::from(head != Head::Nothing);
            if things == 0 && within >= covered && block.is_absent() {
                holes += 1;
                continue;
            }
            if things > 1 || (things == 0) != (within < covered) {
                return Err(Inconsistency::Frame(frame));
            }
            let order = match head {
                Head::Nothing if things == 0 => continue,
                Head::Nothing => free_order.unwrap_or(0),
                Head::Hole | Head::Reserved | Head::Cached(_) => 0,
                Head::Ballooned { order } | Head::Used { order, .. } => usize::from(order),
            };
            let count = 1_u64 << order;
            if !within.is_multiple_of(1 << order) {
                return Err(Inconsistency::Frame(frame));
            }
            covered = within + (1 << order);
            match head {
                Head::Nothing if free_order.is_some() => {
                    if order + 1 < ORDERS && block.is_free(order, within >> order ^ 1) {
                        return Err(Inconsistency::Unjoined(frame));
                    }
                    free += count;
                }
                Head::Nothing => {}
                Head::Hole => holes += 1,
                Head::Reserved => reserved += 1,
                Head::Cached(kind) => {
                    cached += 1;
                    out[kind.class() as usize] += 1;
                }
                Head::Ballooned { .. } => lent += count,
                Head::Used { usage, .. } => out[usage.class() as usize] += count,
            }
        }
        let managed = FRAMES as u64 - reserved - holes;
        let agree = block.counts_agree(&by_order)
            && u64::from(block.free) == free
            && u32::from(block.zero) == zero
            && u32::from(block.deposited) == deposited
            && u64::from(block.lent) == lent
            && u64::from(block.managed) == managed
            && u64::from(block.reserved) == reserved
            && u64::from(block.pinned) == out[Class::Pinned as usize]
            && u64::from(block.movable) == out[Class::Movable as usize]
            && free + out[0] + out[1] + lent + u64::from(deposited) == managed;
        if !agree {
            return Err(Inconsistency::BlockCount(self.gfn(start)));
        }
        for (sum, count) in sums.by_order.iter_mut().zip(by_order) {
            *sum += count;
        }
        sums.free += free;
        sums.zero += u64::from(zero);
        sums.out[0] += out[0];
        sums.out[1] += out[1];
        sums.whole += u64::from(free == FRAMES as u64);
        sums.deposited += u64::from(deposited);
        sums.deposited_blocks += u64::from(deposited == FRAMES as u32);
        sums.lent += lent;
        sums.managed += managed;
        sums.reserved += reserved;
        Ok(cached)
    }

    fn validate_magazines(&self, cached: u64) -> Result<(), Inconsistency> {
        let mut held = 0;
        let mut wrong = None;
        for magazine in self.magazines {
            magazine.for_each(|kind, index| {
                held += 1;
                let shown = self.entries.get(index as usize).map(Entry::get);
                if shown != Some(Head::Cached(kind)) || self.times_held(index) != 1 {
                    wrong = Some(Inconsistency::Magazine(self.gfn(index)));
                }
            });
        }
        match wrong {
            Some(wrong) => Err(wrong),
            None if held != cached => Err(Inconsistency::CachedCount),
            None => Ok(()),
        }
    }

    fn times_held(&self, index: u32) -> usize {
        let mut times = 0;
        for magazine in self.magazines {
            magazine.for_each(|_, held| times += usize::from(held == index));
        }
        times
    }
}

fn compare(sums: &Totals, totals: &Totals) -> Result<(), Inconsistency> {
    let same = [
        ("free extents by order", sums.by_order == totals.by_order),
        ("free frames", sums.free == totals.free),
        ("zero frames", sums.zero == totals.zero),
        ("pinned frames", sums.out[0] == totals.out[0]),
        ("movable frames", sums.out[1] == totals.out[1]),
        ("whole blocks", sums.whole == totals.whole),
        ("deposited frames", sums.deposited == totals.deposited),
        ("deposited blocks", sums.deposited_blocks == totals.deposited_blocks),
        ("lent frames", sums.lent == totals.lent),
        ("managed frames", sums.managed == totals.managed),
        ("reserved frames", sums.reserved == totals.reserved),
    ];
    same.iter().find(|(_, same)| !same).map_or(Ok(()), |(name, _)| Err(Inconsistency::Total(name)))
}
