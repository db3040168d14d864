//! Looking at the table: counters, the state of a frame, and the blocks that migration could empty.

use core::sync::atomic::Ordering;

use crate::units::{Frames, Gfn, Order};

use super::FrameAllocator;
use super::block::{FRAMES, ORDERS};
use super::buddy::{Buddy, place};
use super::entry::{Class, Head, Owner, Use};
use super::error::Misuse;
use super::lock::LockKind;
use super::stats::Stats;
use super::token::Contents;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameState {
    /// No memory that this table knows of.
    Absent,
    /// Memory that the allocator leaves alone.
    Reserved,
    /// Free, in a free extent of this order.
    Free(Order, Contents),
    /// Free, in a magazine.
    Cached(Contents),
    /// Part of an allocated extent.
    Used(Held),
    /// In the balloon.
    Ballooned,
}

/// An allocated extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its first frame.
    pub first: Gfn,
    /// Its size.
    pub order: Order,
    /// What it is used for.
    pub usage: Use,
    /// Its holder's tag.
    pub owner: Owner,
    /// Whether it is held by number.
    pub detached: bool,
}

/// A block that moving a few frames would make whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SparseBlock {
    /// Its first frame.
    pub first: Gfn,
    /// Frames to be moved, those in magazines included.
    pub movable: Frames,
}

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// The counters, consistent with each other unless somebody is inside a magazine just now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.locked(|buddy| {
            let cached = Class::ALL.map(|class| {
                self.magazines.iter().map(|magazine| u64::from(magazine.held(class))).sum::<u64>()
            });
            let totals = &buddy.totals;
            let used =
                |class: Class| Frames::new(totals.out[class as usize].saturating_sub(cached[class as usize]));
            Stats {
                managed: Frames::new(totals.managed),
                reserved: Frames::new(totals.reserved),
                free: Frames::new(totals.free),
                free_by_order: totals.by_order,
                whole_blocks: totals.whole,
                known_zero: Frames::new(totals.zero),
                cached: Frames::new(cached.iter().sum()),
                pinned: used(Class::Pinned),
                movable: used(Class::Movable),
                ballooned: Frames::new(totals.deposited + totals.lent),
                ballooned_blocks: totals.deposited_blocks,
                pinned_steals: buddy.events.steals[Class::Pinned as usize],
                movable_steals: buddy.events.steals[Class::Movable as usize],
                failures: buddy.events.failures,
                misuses: self.misuses.load(Ordering::Relaxed),
                watermarks: buddy.watermarks,
            }
        })
    }

    /// What a frame is. Looks at no entry of a block that is not in use.
    #[must_use]
    pub fn state(&self, frame: Gfn) -> FrameState {
        self.index(frame).map_or(FrameState::Absent, |index| self.locked(|buddy| self.state_of(buddy, index)))
    }

    pub(super) fn state_of(&self, buddy: &Buddy<'_>, index: u32) -> FrameState {
        let (block, within) = place(index);
        let b = &buddy.blocks[block as usize];
        if let Some((_, order)) = b.free_extent(within) {
            let contents = if b.is_zero(within) { Contents::Zero } else { Contents::Unknown };
            return FrameState::Free(to_order(order), contents);
        }
        if b.is_deposited(within) {
            return FrameState::Ballooned;
        }
        match self.entry(index).get() {
            Head::Hole => FrameState::Absent,
            Head::Reserved => FrameState::Reserved,
            Head::Cached(kind) => FrameState::Cached(kind.contents()),
            Head::Ballooned { .. } => FrameState::Ballooned,
            Head::Used { .. } | Head::Nothing => match self.head_of(index) {
                Some((head, Head::Used { usage, order, detached, owner })) => {
                    let order = to_order(usize::from(order));
                    FrameState::Used(Held { first: self.gfn(head), order, usage, owner, detached })
                }
                Some(_) => FrameState::Ballooned,
                None => FrameState::Absent,
            },
        }
    }

    /// The extent, out as a token or by number, that a frame is part of.
    fn head_of(&self, index: u32) -> Option<(u32, Head)> {
        (0..ORDERS as u8).find_map(|order| {
            let head = index >> order << order;
            match self.entry(head).get() {
                found @ (Head::Used { order: held, .. } | Head::Ballooned { order: held })
                    if held >= order =>
                {
                    Some((head, found))
                }
                _ => None,
            }
        })
    }

    /// Why no extent begins at a frame whose entry says nothing.
    pub(super) fn why_nothing(&self, buddy: &Buddy<'_>, index: u32) -> Misuse {
        let frame = self.gfn(index);
        match self.state_of(buddy, index) {
            FrameState::Used(held) => Misuse::Interior { frame, head: held.first },
            FrameState::Ballooned => Misuse::InBalloon(frame),
            FrameState::Absent | FrameState::Reserved => Misuse::NotManaged(frame),
            FrameState::Free(..) | FrameState::Cached(_) => Misuse::NotAllocated(frame),
        }
    }

    /// Fills `found` with the blocks that hold fewest frames, at most `most`, all of them movable and in use; the
    /// emptiest first. Says how many it found. Frames in magazines count as in use: drain first.
    ///
    /// Looks at every partly free movable block: time grows with their number, and with the length of `found`.
    pub fn emptiest_blocks(&self, most: Frames, found: &mut [SparseBlock]) -> usize {
        self.locked(|buddy| {
            let mut count = 0;
            buddy.partly_movable(|block, b| {
                let movable = Frames::new(u64::from(b.movable));
                let alone = usize::from(b.free + b.movable) == FRAMES;
                let at = found[..count].partition_point(|other| other.movable <= movable);
                if alone && movable <= most && at < found.len() {
                    count = found.len().min(count + 1);
                    found[at..count].rotate_right(1);
                    found[at] = SparseBlock { first: self.gfn(block * FRAMES as u32), movable };
                }
            });
            count
        })
    }

    /// Calls `visit` for every allocated extent of the block that holds `frame`, lowest first. `visit` runs under
    /// the allocator's lock and must not call it.
    pub fn held_in_block(&self, frame: Gfn, mut visit: impl FnMut(Held)) {
        let Some(index) = self.index(frame) else { return };
        let start = index / FRAMES as u32 * FRAMES as u32;
        self.locked(|buddy| {
            let b = &buddy.blocks[place(index).0 as usize];
            if b.pinned + b.movable == 0 {
                return;
            }
            for index in start..start + FRAMES as u32 {
                if let Head::Used { usage, order, detached, owner } = self.entry(index).get() {
                    let order = to_order(usize::from(order));
                    visit(Held { first: self.gfn(index), order, usage, owner, detached });
                }
            }
        });
    }
}

fn to_order(order: usize) -> Order {
    match Order::new(order as u8) {
        Some(order) => order,
        None => unreachable!("the frame table holds order {order}"),
    }
}
