//! A shard: an independent part of the pool, behind one lock.
//!
//! Its frames are in a table of slots (`slot.rs`). `books.rs` keeps entries, `log.rs` objects; here they become stored
//! pages. Nothing here locks, and nothing allocates but frames.

use super::entry::{Entry, EntryId, GRAIN, MOST_SLOTS, Place, Used};
use super::error::{Corruption, Fault};
use super::hole::Holes;
use super::slot::{NONE, Slot};
use super::supply::{Short, Supply};
use super::table::Table;
use crate::mm::pool_frames::PoolFrames;
use crate::units::FRAME_SIZE;

/// Bytes before the data of an object.
pub(super) const HEADER: usize = 8;

/// Bytes of the data that are not of the page: the tag that it was stored under.
pub(super) const TAG: usize = 4;

/// An owner that no entry is: the object is dead, and what would be its checksum is its size.
const DEAD: u32 = u32::MAX;

/// Vacant slots that a shard keeps ahead of its need.
const SPARE_SLOTS: u64 = 16;

/// An object with its header: at most a frame.
pub(super) type Object = [u8; FRAME_SIZE];

/// What is before the data of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Header {
    /// Stored, under this entry; or said to be.
    Live { owner: EntryId, checksum: u32 },
    /// Freed. How many bytes there are to the next object.
    Dead { size: usize },
}

impl Header {
    pub(super) const fn encode(self) -> [u8; HEADER] {
        let (owner, checksum) = match self {
            Self::Live { owner, checksum } => (owner.to_bits(), checksum),
            Self::Dead { size } => (DEAD, size as u32),
        };
        ((owner as u64) << 32 | checksum as u64).to_le_bytes()
    }

    pub(super) const fn decode(bytes: [u8; HEADER]) -> Self {
        let word = u64::from_le_bytes(bytes);
        let (owner, checksum) = ((word >> 32) as u32, word as u32);
        if owner == DEAD {
            Self::Dead { size: checksum as usize }
        } else {
            Self::Live { owner: EntryId::from_bits(owner), checksum }
        }
    }
}

/// Bytes that an object with this much data takes in the log.
pub(super) const fn size_in_log(length: usize) -> usize {
    (HEADER + length).next_multiple_of(GRAIN)
}

/// What a shard counts. All but the last are what is there now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    /// Pages stored.
    pub(super) stored: u64,
    /// Bytes of compressed pages.
    pub(super) compressed: u64,
    /// The same with tags, headers and padding.
    pub(super) live: u64,
    /// Frames of objects.
    pub(super) log_frames: u64,
    /// Frames of entries.
    pub(super) entry_frames: u64,
    /// Objects moved, ever.
    pub(super) moved: u64,
    /// Frames that moving has emptied, ever.
    pub(super) emptied: u64,
    /// Frames whose headers or entries were found damaged, ever.
    pub(super) damaged: u64,
}

/// A part of the pool. `T` is the token of a frame.
#[derive(Debug)]
pub(super) struct Shard<T> {
    pub(super) slots: Table<T>,
    /// The first vacant slot.
    pub(super) vacant: u32,
    /// The ends of the log.
    pub(super) oldest: u32,
    pub(super) youngest: u32,
    /// Frames with a vacant entry.
    pub(super) partial: u32,
    /// The next frame to be slid.
    pub(super) hand: u32,
    pub(super) holes: Holes,
    /// The first generation in the next frame of entries.
    pub(super) salt: u16,
    pub(super) counts: Counts,
}

impl<T> Shard<T> {
    /// An empty shard that can have `slots` frames.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: Table::new(slots.min(MOST_SLOTS as usize)),
            vacant: NONE,
            oldest: NONE,
            youngest: NONE,
            partial: NONE,
            hand: NONE,
            holes: Holes::new(),
            salt: 0,
            counts: Counts::default(),
        }
    }

    /// Puts a fresh frame into a vacant slot.
    pub(super) fn seat(&mut self, make: impl FnOnce() -> Slot<T>) -> u32 {
        let at = self.vacant;
        let Some(slot) = self.slots.get_mut(at) else {
            unreachable!("compressed pool: a slot was promised, and none is vacant");
        };
        let Slot::Vacant { next } = *slot else {
            unreachable!("compressed pool: slot {at} is on the list of vacant ones, and is not");
        };
        *slot = make();
        self.vacant = next;
        at
    }

    /// Empties a slot.
    pub(super) fn unseat(&mut self, at: u32) -> Slot<T> {
        let Some(slot) = self.slots.get_mut(at) else {
            unreachable!("compressed pool: slot {at} is emptied, and there is none");
        };
        core::mem::replace(slot, Slot::Vacant { next: core::mem::replace(&mut self.vacant, at) })
    }

    /// A frame for a vacant slot. The table grows before the last of its slots are taken, so that there are some left to
    /// go on with when there is no memory for it.
    pub(super) fn take_frame<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>) -> Result<T, Short> {
        let vacant = self.slots.len() as u64 - self.counts.log_frames - self.counts.entry_frames;
        if vacant <= SPARE_SLOTS
            && let Some(first) = self.slots.grow(self.vacant)
        {
            self.vacant = first;
        }
        match self.vacant {
            NONE if self.slots.is_full() => Err(Short::Slots),
            NONE => Err(Short::Frame),
            _ => supply.take(),
        }
    }

    /// Bytes of the log that hold nothing, not counting what the youngest frame has left.
    pub(super) fn dead(&self) -> u64 {
        let ahead = self.log(self.youngest).map_or(0, |log| FRAME_SIZE - usize::from(log.end));
        (self.counts.log_frames * FRAME_SIZE as u64).saturating_sub(self.counts.live + ahead as u64)
    }

    /// How much of the log may be dead, if all that is held may be `percent` hundredths more than the compressed bytes.
    pub(super) fn dead_allowed(&self, percent: u64) -> u64 {
        let counts = &self.counts;
        let books = counts.live.saturating_sub(counts.compressed)
            + counts.entry_frames * FRAME_SIZE as u64
            + self.slots.bytes();
        // The frame at the young end, and what is too little to empty a frame.
        let spare = 2 * FRAME_SIZE as u64;
        let log = counts.log_frames * FRAME_SIZE as u64;
        let allowed = (counts.compressed.saturating_mul(percent) / 100).saturating_sub(books + spare);
        // A bit less, so that it holds in between, too.
        let aim = allowed - allowed / 32;
        if percent == 0 { FRAME_SIZE as u64 } else { aim.max(log / 200 + FRAME_SIZE as u64) }
    }

    /// Stores `length` bytes of data, tag first, which are in `object` after the header. Nothing changes if there is no room.
    pub(super) fn insert<F: PoolFrames<Frame = T>>(
        &mut self,
        supply: &Supply<F>,
        object: &mut Object,
        length: usize,
        checksum: impl FnOnce(&[u8], u32) -> u32,
        stamp: u32,
    ) -> Result<(EntryId, u16), Short> {
        self.need_entry(supply)?;
        let size = size_in_log(length);
        let hole = self.find_hole(supply.frames(), size);
        if hole.is_none()
            && let Err(short) = self.need_room(supply, size, stamp)
        {
            self.drop_entries_if_empty(supply, self.partial);
            return Err(short);
        }
        let Some((id, generation)) = self.take_entry(supply.frames()) else {
            // The frame of entries that was there is damaged, and put aside now.
            self.drop_if_empty(supply, self.youngest);
            return Err(Short::Frame);
        };
        let checksum = checksum(&object[HEADER..HEADER + length], id.to_bits());
        object[..HEADER].copy_from_slice(&Header::Live { owner: id, checksum }.encode());
        object[HEADER + length..size].fill(0);
        let object = &object[..size];
        let place = match hole {
            Some(hole) => self.fill_hole(supply.frames(), hole, object),
            None => self.append(supply.frames(), object),
        };
        let used = Used { place, length, generation, referenced: hole.is_some(), kept: false };
        self.set_entry(supply.frames(), id, Entry::Used(used));
        self.counts.stored += 1;
        self.counts.compressed += (length - TAG) as u64;
        Ok((id, generation))
    }

    /// The entry under a handle.
    pub(super) fn find<F: PoolFrames<Frame = T>>(
        &self,
        frames: &F,
        id: EntryId,
        generation: u16,
    ) -> Result<Used, Fault> {
        match self.entry(frames, id).ok_or(Fault::NotStored)? {
            Ok(Entry::Used(used)) if used.generation == generation => Ok(used),
            Ok(_) => Err(Fault::NotStored),
            Err(_) => Err(Fault::Corrupt(Corruption::Entry)),
        }
    }

    /// Copies an object out, header and all.
    pub(super) fn fetch<F: PoolFrames<Frame = T>>(
        &self,
        frames: &F,
        used: &Used,
        object: &mut Object,
    ) -> Result<(), Fault> {
        let size = size_in_log(used.length);
        if size > FRAME_SIZE {
            return Err(Fault::Corrupt(Corruption::Entry));
        }
        self.read(frames, used.place, &mut object[..size]).ok_or(Fault::Corrupt(Corruption::Entry))
    }

    /// Changes the marks of an entry that was just found.
    pub(super) fn mark<F: PoolFrames<Frame = T>>(&mut self, frames: &F, id: EntryId, used: Used) {
        self.set_entry(frames, id, Entry::Used(used));
    }

    /// Forgets a stored page, and answers what its entry said. If its entry is damaged, entry and bytes stay where they are, for good: nobody can say
    /// whose they are.
    pub(super) fn remove<F: PoolFrames<Frame = T>>(
        &mut self,
        supply: &Supply<F>,
        id: EntryId,
        generation: u16,
    ) -> Result<Used, Fault> {
        let used = self.find(supply.frames(), id, generation)?;
        let size = size_in_log(used.length);
        // A damaged entry may pass its own check. If what it points to is somebody else's, or nobody's, it is damaged.
        // A header that makes no sense at all is damaged itself.
        let ours = match self.look(supply.frames(), used.place) {
            Found::Live(owner, _) => owner == id,
            Found::Dead(_) => false,
            Found::Damaged => true,
        };
        if !ours || !self.holds(used.place, size) {
            return Err(Fault::Corrupt(Corruption::Entry));
        }
        self.holes.note(used.place, size);
        self.bury(supply, used.place, size);
        self.give_entry(supply, id, generation);
        // Damage that went unnoticed may have miscounted.
        self.counts.stored = self.counts.stored.saturating_sub(1);
        let compressed = used.length.saturating_sub(TAG) as u64;
        self.counts.compressed = self.counts.compressed.saturating_sub(compressed);
        Ok(used)
    }

    /// Gives all frames back.
    pub(super) fn clear<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>) {
        for slot in self.slots.iter_mut() {
            match core::mem::replace(slot, Slot::Vacant { next: NONE }) {
                Slot::Vacant { .. } => {}
                Slot::Log(log) => supply.give(log.frame),
                Slot::Entries(entries) => supply.give(entries.frame),
            }
        }
    }
}

/// What is at a place of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A dead object of this size.
    Dead(usize),
    /// A stored one.
    Live(EntryId, Used),
    /// Nothing that makes sense.
    Damaged,
}

impl<T> Shard<T> {
    /// What begins at `place`, where an object should: it is only believed if its entry points back.
    pub(super) fn look<F: PoolFrames<Frame = T>>(&self, frames: &F, place: Place) -> Found {
        let mut header = [0; HEADER];
        if self.read(frames, place, &mut header).is_none() {
            return Found::Damaged;
        }
        match Header::decode(header) {
            Header::Dead { size } if (HEADER..=FRAME_SIZE).contains(&size) && size.is_multiple_of(GRAIN) => {
                Found::Dead(size)
            }
            Header::Dead { .. } => Found::Damaged,
            Header::Live { owner, .. } => match self.entry(frames, owner) {
                Some(Ok(Entry::Used(used)))
                    if used.place == place && size_in_log(used.length) <= FRAME_SIZE =>
                {
                    Found::Live(owner, used)
                }
                _ => Found::Damaged,
            },
        }
    }
}
