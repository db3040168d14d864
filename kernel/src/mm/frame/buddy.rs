//! All blocks together: which block serves a request, and the counters.
//!
//! Blocks with free frames wait in lists; a block's list says its class, the largest extent it could give, and how
//! full it is. A bitmask of non-empty lists turns "the block of this class that has an extent of order k and would
//! be missed least" into two instructions, so every operation takes the same time for 16 MiB and for 64 GiB.
//!
//! The block with the *smallest* largest extent serves first, and of those the fullest: large extents are kept for
//! those who need them, and the emptiest blocks are left to drain until they are whole again. (Fullness first and
//! size second left 70 whole blocks of 256 where this order leaves 76, in the test of fragmentation.) Pinned and
//! movable requests open different blocks. Only when no block is whole does one class steal from the other:
//! pinned requests from the emptiest movable block, which is pinned from then on, so that the next thefts hit the
//! same block; movable requests from the fullest pinned block, because they can be moved out of it later.
//!
//! Everything here runs under the allocator's lock and never touches the frame table.

use core::ops::Range;

use super::block::{Block, ByOrder, FRAMES, FrameSet, NONE, ORDERS, UNLISTED};
use super::entry::Class;
use super::stats::Watermarks;
use crate::units::Frames;

/// Steps of fullness that lists distinguish. With nine orders they fill 63 bits of a mask.
const BUCKETS: usize = 7;
const SUB_ORDERS: usize = ORDERS - 1;
/// Lists of partly free blocks of one class.
const PARTIAL: usize = BUCKETS * SUB_ORDERS;
const WHOLE: usize = 128;
const WHOLE_ZERO: usize = 129;
/// Blocks that lie in the balloon as a whole.
const BALLOONED: usize = 130;
const LISTS: usize = 131;

/// Which lists of partly free blocks could serve an order.
const FITTING: [u64; ORDERS] = {
    let mut masks = [0; ORDERS];
    let mut list = 0;
    while list < PARTIAL {
        let mut order = 0;
        while order <= list / BUCKETS {
            masks[order] |= 1 << list;
            order += 1;
        }
        list += 1;
    }
    masks
};

/// Totals, each also the sum of something in the blocks.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Totals {
    pub(super) by_order: ByOrder,
    pub(super) free: u64,
    pub(super) zero: u64,
    /// Frames handed out by class, those in magazines included.
    pub(super) out: [u64; 2],
    pub(super) whole: u64,
    pub(super) deposited: u64,
    pub(super) deposited_blocks: u64,
    pub(super) lent: u64,
    pub(super) managed: u64,
    pub(super) reserved: u64,
}

/// What happened since the start; not derivable from the table.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Events {
    pub(super) steals: [u64; 2],
    pub(super) failures: u64,
}

pub(super) struct Buddy<'m> {
    pub(super) blocks: &'m mut [Block],
    heads: [u32; LISTS],
    /// Bit `l`: list `l` of the class has a block.
    filled: [u64; 2],
    /// Blocks of which some frames, but not all, are deposited.
    some_deposited: u32,
    pub(super) totals: Totals,
    pub(super) events: Events,
    /// For the memory that is present now; kept here because the square root takes longer than an allocation.
    pub(super) watermarks: Watermarks,
}

/// The block of a frame, and the frame's place in it.
pub(super) const fn place(index: u32) -> (u32, usize) {
    (index / FRAMES as u32, index as usize % FRAMES)
}

const fn index_of(block: u32, within: usize) -> u32 {
    block * FRAMES as u32 + within as u32
}

impl<'m> Buddy<'m> {
    /// A buddy system without memory over blocks of any earlier content.
    pub(super) fn new(blocks: &'m mut [Block]) -> Self {
        blocks.fill(Block::new());
        Self {
            blocks,
            heads: [NONE; LISTS],
            filled: [0; 2],
            some_deposited: NONE,
            totals: Totals::default(),
            events: Events::default(),
            watermarks: Watermarks::for_present(Frames::ZERO),
        }
    }

    /// Adds frames that nobody holds. Their contents are unknown.
    pub(super) fn add(&mut self, index: u32, order: usize) {
        self.totals.managed += 1 << order;
        self.mark_water();
        let (block, within) = place(index);
        self.change(block, |b, tally| {
            b.managed += 1 << order;
            b.put(within, order, false, tally);
        });
    }

    /// Counts a frame as memory that is left alone, or no longer.
    pub(super) fn reserve(&mut self, index: u32, reserved: bool) {
        let count = &mut self.blocks[place(index).0 as usize].reserved;
        if reserved {
            (*count, self.totals.reserved) = (*count + 1, self.totals.reserved + 1);
        } else {
            (*count, self.totals.reserved) = (*count - 1, self.totals.reserved - 1);
        }
    }

    /// Takes an extent for `class`: its first frame, and whether it is known to be zero.
    pub(super) fn take(&mut self, order: usize, class: Class, zero: bool) -> Option<(u32, bool)> {
        let block = self.choose(order, class, zero)?;
        self.take_from(block, order, class, zero)
    }

    /// Takes up to `count` single frames for `class`, as many from one block as it has, and passes on each run.
    pub(super) fn take_frames(
        &mut self,
        count: usize,
        class: Class,
        zero: bool,
        mut each: impl FnMut(Range<u32>, bool),
    ) {
        let mut left = count as u16;
        while left > 0 {
            let Some(block) = self.choose(0, class, zero) else { return };
            let taken = self.change(block, |b, tally| {
                let taken = b.take_frames(left, zero, tally, |run, zero| {
                    each(index_of(block, run.start)..index_of(block, run.end), zero);
                });
                *b.out(class) += taken;
                taken
            });
            self.totals.out[class as usize] += u64::from(taken);
            left -= taken;
        }
    }

    /// Takes a single frame whose loss costs least: from the block, of any class, with the smallest extents left.
    pub(super) fn take_least(&mut self, zero: bool) -> Option<(u32, bool)> {
        let least = |class: Class| self.filled[class as usize].trailing_zeros() as usize;
        let class =
            if least(Class::Pinned) <= least(Class::Movable) { Class::Pinned } else { Class::Movable };
        let list = least(class);
        // A block that has frames in the balloon already can take more of them without another becoming one.
        let beside = self.blocks.get(self.some_deposited as usize).is_some_and(|block| block.free > 0);
        let block = if beside {
            self.some_deposited
        } else if list < PARTIAL {
            self.heads[class as usize * 64 + list]
        } else {
            self.choose_whole(zero)?
        };
        self.take_from(block, 0, Class::Movable, zero)
    }

    fn take_from(&mut self, block: u32, order: usize, class: Class, zero: bool) -> Option<(u32, bool)> {
        self.totals.out[class as usize] += 1 << order;
        let taken = self.change(block, |b, tally| {
            *b.out(class) += 1 << order;
            b.take(order, zero, tally)
        });
        let Some((within, zero)) = taken else {
            unreachable!("block {block} is listed as having order {order}, and does not");
        };
        Some((index_of(block, within), zero))
    }

    fn choose(&mut self, order: usize, class: Class, zero: bool) -> Option<u32> {
        let own = self.filled[class as usize] & FITTING[order];
        if own != 0 {
            return Some(self.heads[class as usize * 64 + own.trailing_zeros() as usize]);
        }
        if let Some(block) = self.choose_whole(zero) {
            return Some(block);
        }
        let other = class.other() as usize;
        let candidates = self.filled[other] & FITTING[order];
        if candidates == 0 {
            return None;
        }
        let list = match class {
            Class::Pinned => candidates.ilog2(),
            Class::Movable => candidates.trailing_zeros(),
        };
        let block = self.heads[other * 64 + list as usize];
        if !self.blocks[block as usize].is_fragment() {
            self.events.steals[class as usize] += 1;
        }
        Some(block)
    }

    pub(super) fn choose_whole(&self, zero: bool) -> Option<u32> {
        let lists = if zero { [WHOLE_ZERO, WHOLE] } else { [WHOLE, WHOLE_ZERO] };
        lists.into_iter().map(|list| self.heads[list]).find(|&block| block != NONE)
    }

    /// The first of `count` consecutive whole free blocks, the first a multiple of `align`.
    /// Looks at every block once.
    pub(super) fn find_run(&self, count: usize, align: usize, base_block: u64) -> Option<u32> {
        let mut length = 0;
        for (i, block) in self.blocks.iter().enumerate() {
            let open = length > 0 || (base_block + i as u64).is_multiple_of(align as u64);
            length = if open && usize::from(block.free) == FRAMES { length + 1 } else { 0 };
            if length == count {
                return Some((i + 1 - count) as u32);
            }
        }
        None
    }

    /// Takes a whole free block.
    pub(super) fn take_whole(&mut self, block: u32, class: Class) -> Option<(u32, bool)> {
        self.take_from(block, ORDERS - 1, class, false)
    }

    /// Takes back an extent that was handed out for `class`.
    pub(super) fn put(&mut self, index: u32, order: usize, class: Class, zero: bool) {
        self.totals.out[class as usize] -= 1 << order;
        let (block, within) = place(index);
        self.change(block, |b, tally| {
            *b.out(class) -= 1 << order;
            b.put(within, order, zero, tally);
        });
    }

    /// Takes back single frames. Consecutive ones of the same block cost the least.
    pub(super) fn put_frames(&mut self, frames: impl Iterator<Item = u32>, class: Class, zero: bool) {
        let (mut block, mut set, mut count) = (0, FrameSet::default(), 0);
        for frame in frames {
            let (of, within) = place(frame);
            if of != block && count > 0 {
                self.put_set(block, &set, count, class, zero);
                (set, count) = (FrameSet::default(), 0);
            }
            block = of;
            set[within / 64] |= 1 << (within % 64);
            count += 1;
        }
        if count > 0 {
            self.put_set(block, &set, count, class, zero);
        }
    }

    fn put_set(&mut self, block: u32, frames: &FrameSet, count: u16, class: Class, zero: bool) {
        self.totals.out[class as usize] -= u64::from(count);
        self.change(block, |b, tally| {
            *b.out(class) -= count;
            b.put_frames(frames, zero, tally);
        });
    }

    /// Counts an extent that is out in another class.
    pub(super) fn reclassify(&mut self, index: u32, order: usize, from: Class, to: Class) {
        self.totals.out[from as usize] -= 1 << order;
        self.totals.out[to as usize] += 1 << order;
        self.change(place(index).0, |b, _| {
            *b.out(from) -= 1 << order;
            *b.out(to) += 1 << order;
        });
    }

    /// An extent that is out has no memory any more.
    pub(super) fn lend(&mut self, index: u32, order: usize, class: Class) {
        self.totals.out[class as usize] -= 1 << order;
        self.totals.lent += 1 << order;
        self.mark_water();
        self.change(place(index).0, |b, _| {
            *b.out(class) -= 1 << order;
            b.lent += 1 << order;
        });
    }

    /// A lent extent has memory again, and is out for `class`.
    pub(super) fn unlend(&mut self, index: u32, order: usize, class: Class) {
        self.totals.lent -= 1 << order;
        self.mark_water();
        self.totals.out[class as usize] += 1 << order;
        self.change(place(index).0, |b, _| {
            b.lent -= 1 << order;
            *b.out(class) += 1 << order;
        });
    }

    /// Keeps a lent extent here.
    pub(super) fn deposit(&mut self, index: u32, order: usize) {
        self.totals.lent -= 1 << order;
        self.totals.deposited += 1 << order;
        let (block, within) = place(index);
        self.change(block, |b, _| {
            b.lent -= 1 << order;
            b.deposit(within, order);
        });
    }

    /// Lends a deposited extent of order 0 or 9: its first frame.
    pub(super) fn withdraw(&mut self, order: usize) -> Option<u32> {
        let whole = self.heads[BALLOONED];
        let block = if order == 0 && self.some_deposited != NONE { self.some_deposited } else { whole };
        let within = self.blocks.get(block as usize)?.first_deposited()?;
        self.totals.deposited -= 1 << order;
        self.totals.lent += 1 << order;
        self.change(block, |b, _| {
            b.withdraw(within, order);
            b.lent += 1 << order;
        });
        Some(index_of(block, within))
    }

    /// Visits every partly free movable block.
    pub(super) fn partly_movable(&self, mut visit: impl FnMut(u32, &Block)) {
        let mut lists = self.filled[Class::Movable as usize];
        while lists != 0 {
            let mut at = self.heads[Class::Movable as usize * 64 + lists.trailing_zeros() as usize];
            lists &= lists - 1;
            while let Some(block) = self.blocks.get(at as usize) {
                visit(at, block);
                at = block.next;
            }
        }
    }

    /// Free frames that only emergencies may use.
    pub(super) const fn min(&self) -> u64 {
        self.watermarks.min.get()
    }

    fn mark_water(&mut self) {
        let away = self.totals.deposited + self.totals.lent;
        self.watermarks = Watermarks::for_present(Frames::new(self.totals.managed - away));
    }

    /// Changes one block, and what follows from it here.
    fn change<R>(&mut self, block: u32, work: impl FnOnce(&mut Block, &mut ByOrder) -> R) -> R {
        let b = &mut self.blocks[block as usize];
        let (free, zero) = (u64::from(b.free), u64::from(b.zero));
        let result = work(b, &mut self.totals.by_order);
        self.totals.free = self.totals.free + u64::from(b.free) - free;
        self.totals.zero = self.totals.zero + u64::from(b.zero) - zero;
        b.class = class_of(b);
        let list = list_of(b);
        if list != b.list {
            self.unlink(block);
            self.link(block, list);
        }
        let partly = self.blocks[block as usize].is_partly_deposited();
        if partly != self.blocks[block as usize].in_balloon_list {
            self.relink_deposited(block, partly);
        }
        result
    }

    fn link(&mut self, block: u32, list: u8) {
        if let Some(head) = self.heads.get_mut(usize::from(list)) {
            let next = core::mem::replace(head, block);
            if let Some(next) = self.blocks.get_mut(next as usize) {
                next.prev = block;
            }
            (self.blocks[block as usize].next, self.blocks[block as usize].prev) = (next, NONE);
            self.mark(list);
        }
        self.blocks[block as usize].list = list;
    }

    fn unlink(&mut self, block: u32) {
        let Block { next, prev, list, .. } = self.blocks[block as usize];
        if list == UNLISTED {
            return;
        }
        match self.blocks.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => self.heads[usize::from(list)] = next,
        }
        if let Some(next) = self.blocks.get_mut(next as usize) {
            next.prev = prev;
        }
        match usize::from(list) {
            WHOLE | WHOLE_ZERO => self.totals.whole -= 1,
            BALLOONED => self.totals.deposited_blocks -= 1,
            list if self.heads[list] == NONE => self.filled[list / 64] &= !(1 << (list % 64)),
            _ => {}
        }
    }

    fn mark(&mut self, list: u8) {
        match usize::from(list) {
            WHOLE | WHOLE_ZERO => self.totals.whole += 1,
            BALLOONED => self.totals.deposited_blocks += 1,
            list => self.filled[list / 64] |= 1 << (list % 64),
        }
    }

    fn relink_deposited(&mut self, block: u32, add: bool) {
        let Block { balloon_next: next, balloon_prev: prev, .. } = self.blocks[block as usize];
        if add {
            let next = core::mem::replace(&mut self.some_deposited, block);
            if let Some(next) = self.blocks.get_mut(next as usize) {
                next.balloon_prev = block;
            }
            self.blocks[block as usize].balloon_next = next;
        } else {
            match self.blocks.get_mut(prev as usize) {
                Some(prev) => prev.balloon_next = next,
                None => self.some_deposited = next,
            }
            if let Some(next) = self.blocks.get_mut(next as usize) {
                next.balloon_prev = prev;
            }
            self.blocks[block as usize].balloon_next = NONE;
        }
        self.blocks[block as usize].balloon_prev = NONE;
        self.blocks[block as usize].in_balloon_list = add;
    }

    /// Walks every list: how many blocks the lists hold, and how many the list of partly deposited blocks holds;
    /// or the first block that is in a wrong place.
    pub(super) fn check_lists(&self) -> Result<(usize, usize), u32> {
        let mut listed = 0;
        for (list, &head) in self.heads.iter().enumerate() {
            listed += self.walk(head, |b| (b.next, b.prev), |b| usize::from(b.list) == list)?;
            if list < WHOLE && (self.filled[list / 64] >> (list % 64) & 1 != 0) != (head != NONE) {
                return Err(head);
            }
        }
        let deposited =
            self.walk(self.some_deposited, |b| (b.balloon_next, b.balloon_prev), |b| b.in_balloon_list)?;
        Ok((listed, deposited))
    }

    fn walk(
        &self,
        head: u32,
        links: impl Fn(&Block) -> (u32, u32),
        right: impl Fn(&Block) -> bool,
    ) -> Result<usize, u32> {
        let (mut at, mut before, mut count) = (head, NONE, 0);
        while at != NONE {
            let block = self.blocks.get(at as usize).ok_or(at)?;
            let (next, prev) = links(block);
            // More steps than blocks would be a cycle.
            if prev != before || !right(block) || count == self.blocks.len() {
                return Err(at);
            }
            (before, at, count) = (at, next, count + 1);
        }
        Ok(count)
    }
}

/// A block is pinned as soon as one frame in it is. Fragments can never be whole, so they serve pinned requests
/// first.
pub(super) fn class_of(block: &Block) -> Class {
    if block.pinned > 0 || block.is_fragment() { Class::Pinned } else { Class::Movable }
}

/// The list that a block belongs in.
pub(super) fn list_of(block: &Block) -> u8 {
    let list = match block.largest() {
        Some(SUB_ORDERS) => {
            if usize::from(block.zero) == FRAMES {
                WHOLE_ZERO
            } else {
                WHOLE
            }
        }
        Some(order) => {
            let bucket = usize::from(block.free) * BUCKETS / FRAMES;
            block.class as usize * 64 + order * BUCKETS + bucket
        }
        None if usize::from(block.deposited) == FRAMES => BALLOONED,
        None => return UNLISTED,
    };
    list as u8
}

impl Block {
    /// Whether the block belongs in the list of blocks with some deposited frames.
    pub(super) fn is_partly_deposited(&self) -> bool {
        self.deposited > 0 && usize::from(self.deposited) < FRAMES
    }
}
