//! One 2 MiB block: a complete buddy system over its 512 frames, in bitmaps.
//!
//! Bit `s` of order `k`'s bitmap says that the extent of 2^k frames at frame `s << k` is free, and not part of a
//! larger free extent. The bitmaps of orders 0–9 have 512 + 256 + … + 1 bits and fill sixteen words. Splitting
//! and merging therefore touch this structure only, never the memory itself and never the frame table, and take at
//! most nine steps.

use core::ops::Range;

use super::entry::Class;

/// Frames in a block.
pub(super) const FRAMES: usize = 512;
/// Orders 0 to 9.
pub(super) const ORDERS: usize = 10;
/// No block: the end of a list.
pub(super) const NONE: u32 = u32::MAX;
/// In no list of free blocks.
pub(super) const UNLISTED: u8 = u8::MAX;

const WORDS: usize = FRAMES / 64;
/// The order of an extent that fills one word of the bitmap of single frames.
const WORD_ORDER: usize = 6;
/// Every second bit.
const EVEN: u64 = u64::MAX / 3;

/// Some of a block's frames.
pub(super) type FrameSet = [u64; WORDS];

/// How many free extents of each order there are.
pub(super) type ByOrder = [u32; ORDERS];

/// What the allocator knows of one block. The caller supplies them as raw material; their contents are private.
#[derive(Clone)]
#[repr(align(64))]
pub struct Block {
    /// The bitmaps of free extents, order after order.
    free_map: [u64; 2 * WORDS],
    /// Free frames known to be zero. Clear for every frame that is not free.
    zero_map: [u64; WORDS],
    /// Frames in the balloon whose token the allocator keeps.
    balloon_map: [u64; WORDS],
    /// Free extents of each order, in this block.
    counts: [u16; ORDERS],
    /// Bit `k`: there is a free extent of order `k`.
    orders: u16,
    /// Free frames.
    pub(super) free: u16,
    /// Free frames known to be zero.
    pub(super) zero: u16,
    /// Frames handed out as pinned, those in magazines included.
    pub(super) pinned: u16,
    /// Frames handed out as movable, those in magazines included.
    pub(super) movable: u16,
    /// Frames in the balloon, deposited here.
    pub(super) deposited: u16,
    /// Frames in the balloon, with a token outside.
    pub(super) lent: u16,
    /// Frames of memory that the allocator manages; fewer than 512 in a fragment.
    pub(super) managed: u16,
    /// Frames of memory that it was told to leave alone.
    pub(super) reserved: u16,
    /// Which group the free frames serve.
    pub(super) class: Class,
    /// The list of free blocks that holds this one.
    pub(super) list: u8,
    pub(super) next: u32,
    pub(super) prev: u32,
    /// Links of the list of blocks with deposited frames.
    pub(super) balloon_next: u32,
    pub(super) balloon_prev: u32,
    pub(super) in_balloon_list: bool,
}

const _: () = assert!(size_of::<Block>() == 320);

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

/// The first bit of an order's bitmap.
const fn base(order: usize) -> usize {
    2 * FRAMES - ((2 * FRAMES) >> order)
}

/// The words, and the bits in them, that stand for the frames of an extent.
fn words(index: usize, order: usize) -> impl Iterator<Item = (usize, u64)> {
    let (count, mask) = match order {
        0..6 => (1, ((1 << (1 << order)) - 1) << (index % 64)),
        _ => (1 << (order - 6), u64::MAX),
    };
    (index / 64..index / 64 + count).map(move |word| (word, mask))
}

/// The first bit of an order's bitmap that stands for the frames of one word.
const fn bits_of(word: usize, order: usize) -> usize {
    base(order) + (word << (WORD_ORDER - order))
}

/// Every second bit, moved together into the lower half. The others are zero.
const fn halves(bits: u64) -> u64 {
    let bits = (bits | (bits >> 1)) & 0x3333_3333_3333_3333;
    let bits = (bits | (bits >> 2)) & 0x0F0F_0F0F_0F0F_0F0F;
    let bits = (bits | (bits >> 4)) & 0x00FF_00FF_00FF_00FF;
    let bits = (bits | (bits >> 8)) & 0x0000_FFFF_0000_FFFF;
    (bits | (bits >> 16)) & 0xFFFF_FFFF
}

impl Block {
    /// A block without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            free_map: [0; 2 * WORDS],
            zero_map: [0; WORDS],
            balloon_map: [0; WORDS],
            counts: [0; ORDERS],
            orders: 0,
            free: 0,
            zero: 0,
            pinned: 0,
            movable: 0,
            deposited: 0,
            lent: 0,
            managed: 0,
            reserved: 0,
            class: Class::Pinned,
            list: UNLISTED,
            next: NONE,
            prev: NONE,
            balloon_next: NONE,
            balloon_prev: NONE,
            in_balloon_list: false,
        }
    }

    /// Whether part of the block is no managed memory, so that it can never be whole.
    pub(super) fn is_fragment(&self) -> bool {
        usize::from(self.managed) < FRAMES
    }

    /// Whether the block has no memory at all.
    pub(super) fn is_absent(&self) -> bool {
        self.managed == 0 && self.reserved == 0
    }

    /// The largest order that a request could get, if any.
    pub(super) fn largest(&self) -> Option<usize> {
        self.orders.checked_ilog2().map(|order| order as usize)
    }

    /// Counts frames as handed out to a class, or back from it.
    pub(super) fn out(&mut self, class: Class) -> &mut u16 {
        match class {
            Class::Pinned => &mut self.pinned,
            Class::Movable => &mut self.movable,
        }
    }

    /// Whether the extent of `order` in `slot` is free as such.
    pub(super) fn is_free(&self, order: usize, slot: usize) -> bool {
        let bit = base(order) + slot;
        self.free_map[bit / 64] >> (bit % 64) & 1 != 0
    }

    /// The free extent that holds a frame: its first frame and order.
    pub(super) fn free_extent(&self, index: usize) -> Option<(usize, usize)> {
        (0..ORDERS)
            .find(|&order| self.is_free(order, index >> order))
            .map(|order| (index >> order << order, order))
    }

    fn insert(&mut self, order: usize, slot: usize, tally: &mut ByOrder) {
        let bit = base(order) + slot;
        self.free_map[bit / 64] |= 1 << (bit % 64);
        self.counts[order] += 1;
        self.orders |= 1 << order;
        tally[order] += 1;
    }

    fn remove(&mut self, order: usize, slot: usize, tally: &mut ByOrder) {
        let bit = base(order) + slot;
        self.free_map[bit / 64] &= !(1 << (bit % 64));
        self.counts[order] -= 1;
        if self.counts[order] == 0 {
            self.orders &= !(1 << order);
        }
        tally[order] -= 1;
    }

    /// The lowest free slot of an order that has one.
    fn first(&self, order: usize) -> usize {
        let (start, end) = (base(order), base(order + 1));
        for word in start / 64..end.div_ceil(64) {
            // Orders 4 and above share the last word.
            let skip = start.saturating_sub(word * 64);
            let bits = self.free_map[word] >> skip << skip;
            if bits != 0 {
                return word * 64 + bits.trailing_zeros() as usize - start;
            }
        }
        unreachable!("free extents of order {order} are counted, but none is in the bitmap")
    }

    /// The lowest free single frame, of the wanted contents if there is one.
    fn first_frame(&self, zero: bool) -> usize {
        for word in 0..WORDS {
            let known = self.zero_map[word];
            let bits = self.free_map[word] & if zero { known } else { !known };
            if bits != 0 {
                return word * 64 + bits.trailing_zeros() as usize;
            }
        }
        self.first(0)
    }

    /// Takes an extent out of the smallest free one that holds it: its first frame, and whether it is zero.
    pub(super) fn take(&mut self, order: usize, zero: bool, tally: &mut ByOrder) -> Option<(usize, bool)> {
        let fitting = self.orders >> order;
        if fitting == 0 {
            return None;
        }
        let from = order + fitting.trailing_zeros() as usize;
        let slot = if from == 0 { self.first_frame(zero) } else { self.first(from) };
        self.remove(from, slot, tally);
        let index = slot << from;
        for half in (order..from).rev() {
            self.insert(half, (index >> half) + 1, tally);
        }
        self.free -= 1 << order;
        Some((index, self.forget_zero(index, order)))
    }

    /// Takes up to `most` single frames, the smallest extents first: what as many calls of `take` would take.
    /// Passes on each run of them, and says how many they are.
    pub(super) fn take_frames(
        &mut self,
        most: u16,
        zero: bool,
        tally: &mut ByOrder,
        mut each: impl FnMut(Range<usize>, bool),
    ) -> u16 {
        let mut taken = 0;
        while taken < most && self.orders != 0 {
            // Frames that differ in what is known of them are chosen one by one; others by the extent.
            let order =
                if self.zero > 0 { 0 } else { self.orders.trailing_zeros().min((most - taken).ilog2()) };
            let Some((index, zero)) = self.take(order as usize, zero, tally) else { break };
            each(index..index + (1 << order), zero);
            taken += 1 << order;
        }
        taken
    }

    /// Makes an extent free, joining it with its free neighbours.
    pub(super) fn put(&mut self, index: usize, order: usize, zero: bool, tally: &mut ByOrder) {
        debug_assert!(
            (index..index + (1 << order)).all(|i| self.free_extent(i).is_none()),
            "frames free twice"
        );
        if zero {
            for (word, mask) in words(index, order) {
                self.zero_map[word] |= mask;
            }
            self.zero += 1 << order;
        }
        self.free += 1 << order;
        self.join(order, index >> order, tally);
    }

    fn join(&mut self, mut order: usize, mut slot: usize, tally: &mut ByOrder) {
        while order + 1 < ORDERS && self.is_free(order, slot ^ 1) {
            self.remove(order, slot ^ 1, tally);
            order += 1;
            slot >>= 1;
        }
        self.insert(order, slot, tally);
    }

    /// Makes single frames free, those whose bits are set: what as many calls of `put` would do, but all buddies of
    /// one word and one order at once.
    pub(super) fn put_frames(&mut self, frames: &FrameSet, zero: bool, tally: &mut ByOrder) {
        for (word, &mask) in frames.iter().enumerate().filter(|(_, mask)| **mask != 0) {
            debug_assert!(self.frames_of(word, 0) & mask == 0, "frames free twice");
            let count = mask.count_ones();
            if zero {
                self.zero_map[word] |= mask;
                self.zero += count as u16;
            }
            self.free += count as u16;
            self.put_word(word, mask, count, tally);
        }
    }

    /// The same for `count` frames of one word.
    fn put_word(&mut self, word: usize, mut fresh: u64, mut count: u32, tally: &mut ByOrder) {
        for (order, total) in tally.iter_mut().enumerate().take(WORD_ORDER) {
            let before = self.frames_of(word, order);
            let all = before | fresh;
            // The lower one of every two buddies that are both free.
            let both = all & all >> 1 & EVEN;
            let after = all & !(both | both << 1);
            let bit = bits_of(word, order);
            self.free_map[bit / 64] ^= (before ^ after) << (bit % 64);
            let pairs = both.count_ones();
            *total = *total + count - 2 * pairs;
            self.counts[order] = (u32::from(self.counts[order]) + count - 2 * pairs) as u16;
            self.orders = self.orders & !(1 << order) | u16::from(self.counts[order] != 0) << order;
            if both == 0 {
                return;
            }
            (fresh, count) = (halves(both), pairs);
        }
        self.join(WORD_ORDER, word, tally);
    }

    /// The free extents of an order that lie in the frames of one word.
    fn frames_of(&self, word: usize, order: usize) -> u64 {
        let bit = bits_of(word, order);
        self.free_map[bit / 64] >> (bit % 64) & u64::MAX >> (64 - (64 >> order))
    }

    /// Clears what is known of an extent's contents, and says whether all of it was known to be zero.
    fn forget_zero(&mut self, index: usize, order: usize) -> bool {
        if self.zero == 0 {
            return false;
        }
        let mut known = 0;
        for (word, mask) in words(index, order) {
            known += (self.zero_map[word] & mask).count_ones() as u16;
            self.zero_map[word] &= !mask;
        }
        self.zero -= known;
        known == 1 << order
    }

    /// Whether a frame is free and known to be zero.
    pub(super) fn is_zero(&self, index: usize) -> bool {
        self.zero_map[index / 64] >> (index % 64) & 1 != 0
    }

    /// Whether a frame lies in the balloon, deposited.
    pub(super) fn is_deposited(&self, index: usize) -> bool {
        self.balloon_map[index / 64] >> (index % 64) & 1 != 0
    }

    /// Records that the frames of an extent lie in the balloon.
    pub(super) fn deposit(&mut self, index: usize, order: usize) {
        for (word, mask) in words(index, order) {
            self.balloon_map[word] |= mask;
        }
        self.deposited += 1 << order;
    }

    /// Takes an extent's frames out of the balloon's record.
    pub(super) fn withdraw(&mut self, index: usize, order: usize) {
        for (word, mask) in words(index, order) {
            self.balloon_map[word] &= !mask;
        }
        self.deposited -= 1 << order;
    }

    /// The lowest deposited frame.
    pub(super) fn first_deposited(&self) -> Option<usize> {
        let word = self.balloon_map.iter().position(|&bits| bits != 0)?;
        Some(word * 64 + self.balloon_map[word].trailing_zeros() as usize)
    }

    /// Counts what the bitmaps say, for `validate`: free extents by order, zero frames, deposited frames.
    pub(super) fn recount(&self) -> (ByOrder, u32, u32) {
        let mut by_order = [0; ORDERS];
        for (order, count) in by_order.iter_mut().enumerate() {
            *count = (0..FRAMES >> order).filter(|&slot| self.is_free(order, slot)).count() as u32;
        }
        let ones = |map: &[u64]| map.iter().map(|word| word.count_ones()).sum();
        (by_order, ones(&self.zero_map), ones(&self.balloon_map))
    }

    /// Whether the counts beside the bitmaps agree with `by_order`, which [`recount`](Self::recount) made.
    pub(super) fn counts_agree(&self, by_order: &ByOrder) -> bool {
        (0..ORDERS).all(|order| {
            u32::from(self.counts[order]) == by_order[order]
                && (self.orders >> order & 1 != 0) == (by_order[order] != 0)
        }) && self.orders >> ORDERS == 0
    }
}

#[cfg(test)]
mod tests;
