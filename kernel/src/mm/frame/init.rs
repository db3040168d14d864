//! Building the allocator from a memory map.

use core::ops::Range;
use core::sync::atomic::AtomicU64;

use crate::units::{BLOCK_FRAMES, FrameRange, Gfn};

use super::FrameAllocator;
use super::block::{Block, ORDERS};
use super::buddy::Buddy;
use super::entry::{Entry, Head};
use super::error::Misuse;
use super::lock::{Exclusive, LockKind, SharedGate};
use super::magazine::{CAPACITY, Magazine};
use super::map::{Layout, MapError, check_reserved};
use super::token::Table;

/// What there is to manage.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Memory, ascending and disjoint, up to the maximum reservation.
    pub memory: &'a [FrameRange],
    /// The parts of it that are taken already: the kernel's image, this metadata. Ascending and disjoint, each
    /// inside one range of memory.
    pub reserved: &'a [FrameRange],
    /// Distinguishes the tokens of this allocator from those of others.
    pub id: u16,
}

/// Where the allocator keeps its books. Lengths as [`Layout`] says, and one magazine for each CPU (none is
/// allowed: everything then goes through the lock).
pub struct Metadata<'m, G = SharedGate> {
    /// The frame table. Every entry must be [`Entry::unused`]: those of blocks that are not used are never looked
    /// at, so the constructor cannot clear them.
    pub entries: &'m mut [Entry],
    /// Block records, of any content.
    pub blocks: &'m mut [Block],
    /// Magazines, of any content.
    pub magazines: &'m mut [Magazine<G>],
}

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// An allocator in which all memory but the reserved ranges is free, of unknown contents.
    ///
    /// Writes the entries of reserved frames, and of the holes in blocks that are partly memory. No others.
    ///
    /// # Errors
    ///
    /// [`MapError`] for an impossible map, or metadata of the wrong size.
    pub fn new(config: Config<'_>, metadata: Metadata<'m, L::Gate>) -> Result<Self, MapError> {
        let layout = Layout::for_map(config.memory)?;
        check_reserved(config.memory, config.reserved)?;
        let Metadata { entries, blocks, magazines } = metadata;
        if entries.len() != layout.entries() || blocks.len() != layout.blocks() {
            return Err(MapError::WrongMetadata);
        }
        let entries = &*entries;
        let mut buddy = Buddy::new(blocks);

        let mut done = layout.base().get();
        for range in config.memory {
            mark_hole(entries, layout.base(), done, range.start().get());
            done = range.end().get();
        }
        mark_hole(entries, layout.base(), done, done.next_multiple_of(BLOCK_FRAMES));
        for range in config.reserved {
            mark(entries, layout.base(), range.start().get()..range.end().get(), Head::Reserved);
            for frame in range.start().get()..range.end().get() {
                buddy.reserve((frame - layout.base().get()) as u32, true);
            }
        }
        // Free is what lies between the reserved ranges. From the top down, so that the lowest block serves first.
        for range in config.memory.iter().rev() {
            let mut end = range.end().get();
            let inside = |r: &&FrameRange| range.covers(**r);
            for reserved in config.reserved.iter().rev().filter(inside) {
                add(&mut buddy, layout.base(), reserved.end().get(), end);
                end = reserved.start().get();
            }
            add(&mut buddy, layout.base(), range.start().get(), end);
        }

        // A few percent of a small guest at most, whatever the number of CPUs.
        let share = buddy.totals.managed / (32 * magazines.len().max(1) as u64);
        let limit = (share as usize).clamp(4, CAPACITY);
        magazines.fill_with(|| Magazine::limited(limit));
        Ok(Self {
            base: layout.base(),
            id: config.id,
            table: Table::new(layout.base(), config.id),
            limit,
            entries,
            magazines,
            buddy: L::Of::new(buddy),
            zero_hint: AtomicU64::new(0),
            misuses: AtomicU64::new(0),
        })
    }

    /// Frees frames that were reserved: the kernel's memory for start-up, once that is over. Their contents count
    /// as unknown. Time grows with the number of frames.
    ///
    /// # Errors
    ///
    /// [`Misuse::NotManaged`] with the first frame that is not reserved; then nothing is freed.
    ///
    /// # Safety
    ///
    /// Nobody uses these frames any more: the image, its page tables and these very books are reserved, too.
    #[expect(unsafe_code, reason = "declares that nobody may use the frames")]
    pub unsafe fn release_reserved(&self, range: FrameRange) -> Result<(), Misuse> {
        self.locked(|buddy| {
            let frames = || range.iter();
            let reserved = |frame: &Gfn| {
                self.index(*frame).is_some_and(|index| self.entry(index).get() == Head::Reserved)
            };
            if let Some(frame) = frames().find(|frame| !reserved(frame)) {
                return Err(Misuse::NotManaged(frame));
            }
            for index in frames().filter_map(|frame| self.index(frame)) {
                self.entry(index).set(Head::Nothing);
                buddy.reserve(index, false);
                buddy.add(index, 0);
            }
            Ok(())
        })
        .inspect_err(|misuse| self.complain(*misuse))
    }
}

fn mark(entries: &[Entry], base: Gfn, frames: Range<u64>, head: Head) {
    if !frames.is_empty() {
        for entry in &entries[(frames.start - base.get()) as usize..(frames.end - base.get()) as usize] {
            entry.set(head);
        }
    }
}

/// Marks what a gap between two ranges of memory cuts out of the blocks at its ends. Blocks without memory stay
/// untouched.
fn mark_hole(entries: &[Entry], base: Gfn, from: u64, to: u64) {
    mark(entries, base, from..from.next_multiple_of(BLOCK_FRAMES).min(to), Head::Hole);
    mark(entries, base, (to / BLOCK_FRAMES * BLOCK_FRAMES).max(from)..to, Head::Hole);
}

/// Makes the frames from `from` to `to` free, in the largest aligned extents, the last first.
fn add(buddy: &mut Buddy<'_>, base: Gfn, from: u64, to: u64) {
    let start = from - base.get();
    let mut end = to - base.get();
    while start < end {
        let order = end.trailing_zeros().min((end - start).ilog2()).min(ORDERS as u32 - 1);
        end -= 1 << order;
        buddy.add(end as u32, order as usize);
    }
}
