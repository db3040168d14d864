//! Entries: which are vacant, and in which frames.

use super::entry::{Damaged, Entry, EntryId, GENERATIONS, PER_FRAME};
use super::shard::Shard;
use super::slot::{Entries, NONE, Slot};
use super::supply::{Short, Supply};
use crate::mm::pool_frames::{FrameBytes, PoolFrames};

/// From the first generation of one frame of entries to that of the next: odd, so that all come up, and large, so that
/// some reuse of entries lies between.
const SALT_STEP: u16 = 167;

fn word(bytes: &FrameBytes, index: u16) -> Option<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.get(usize::from(index)).map(|word| u64::from_le_bytes(*word))
}

fn set_word(bytes: &mut FrameBytes, index: u16, value: u64) {
    let (words, _) = bytes.as_chunks_mut::<8>();
    if let Some(word) = words.get_mut(usize::from(index)) {
        *word = value.to_le_bytes();
    }
}

impl<T> Shard<T> {
    fn entries(&self, slot: u32) -> Option<&Entries<T>> {
        match self.slots.get(slot) {
            Some(Slot::Entries(entries)) => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, slot: u32) -> Option<&mut Entries<T>> {
        match self.slots.get_mut(slot) {
            Some(Slot::Entries(entries)) => Some(entries),
            _ => None,
        }
    }

    /// An entry; `None` where there are no entries.
    pub(super) fn entry<F: PoolFrames<Frame = T>>(
        &self,
        frames: &F,
        id: EntryId,
    ) -> Option<Result<Entry, Damaged>> {
        word(frames.bytes(&self.entries(id.slot)?.frame), id.index).map(Entry::decode)
    }

    /// Writes an entry, where there are entries.
    pub(super) fn set_entry<F: PoolFrames<Frame = T>>(&mut self, frames: &F, id: EntryId, entry: Entry) {
        if let Some(entries) = self.entries_mut(id.slot) {
            set_word(frames.bytes_mut(&mut entries.frame), id.index, entry.encode());
        }
    }

    /// Sees to it that there is a frame with a vacant entry.
    pub(super) fn need_entry<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>) -> Result<(), Short> {
        if self.partial != NONE {
            return Ok(());
        }
        let mut frame = self.take_frame(supply)?;
        let bytes = supply.frames().bytes_mut(&mut frame);
        // Handles into the frame that was here before should not fit.
        let generation = self.salt;
        self.salt = (self.salt + SALT_STEP) % GENERATIONS;
        for index in 0..PER_FRAME {
            set_word(bytes, index, Entry::Vacant { next: index + 1, generation }.encode());
        }
        let entries = Entries { frame, previous: NONE, next: NONE, live: 0, vacant: 0 };
        self.partial = self.seat(|| Slot::Entries(entries));
        self.counts.entry_frames += 1;
        Ok(())
    }

    /// Takes a vacant entry from the first frame that has one, and says its generation.
    pub(super) fn take_entry<F: PoolFrames<Frame = T>>(&mut self, frames: &F) -> Option<(EntryId, u16)> {
        let slot = self.partial;
        let index = self.entries(slot)?.vacant;
        let id = EntryId { slot, index };
        let Some(Ok(Entry::Vacant { next, generation })) = self.entry(frames, id) else {
            // The chain is damaged here. What is stored in the frame stays.
            self.counts.damaged += 1;
            self.leave_partial(slot);
            if let Some(entries) = self.entries_mut(slot) {
                entries.vacant = PER_FRAME;
            }
            return None;
        };
        let entries = self.entries_mut(slot)?;
        entries.vacant = next;
        entries.live += 1;
        if next == PER_FRAME {
            self.leave_partial(slot);
        }
        Some((id, generation))
    }

    /// Makes an entry vacant, and gives its frame back if that was the last one in use.
    pub(super) fn give_entry<F: PoolFrames<Frame = T>>(
        &mut self,
        supply: &Supply<F>,
        id: EntryId,
        generation: u16,
    ) {
        let Some(entries) = self.entries_mut(id.slot) else { return };
        let next = entries.vacant;
        entries.vacant = id.index;
        entries.live = entries.live.saturating_sub(1);
        let vacant = Entry::Vacant { next, generation: (generation + 1) % GENERATIONS };
        self.set_entry(supply.frames(), id, vacant);
        if next == PER_FRAME {
            self.join_partial(id.slot);
        }
        self.drop_entries_if_empty(supply, id.slot);
    }

    /// Gives a frame of entries back if none is in use.
    pub(super) fn drop_entries_if_empty<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>, slot: u32) {
        if self.entries(slot).is_none_or(|entries| entries.live > 0) {
            return;
        }
        self.leave_partial(slot);
        if let Slot::Entries(entries) = self.unseat(slot) {
            supply.give(entries.frame);
        }
        self.counts.entry_frames -= 1;
    }

    fn join_partial(&mut self, slot: u32) {
        let first = self.partial;
        if let Some(entries) = self.entries_mut(slot) {
            (entries.previous, entries.next) = (NONE, first);
        }
        if let Some(second) = self.entries_mut(first) {
            second.previous = slot;
        }
        self.partial = slot;
    }

    fn leave_partial(&mut self, slot: u32) {
        let Some((previous, next)) = self.entries(slot).map(|entries| (entries.previous, entries.next))
        else {
            return;
        };
        match self.entries_mut(previous) {
            Some(entries) => entries.next = next,
            None => self.partial = next,
        }
        if let Some(entries) = self.entries_mut(next) {
            entries.previous = previous;
        }
        if let Some(entries) = self.entries_mut(slot) {
            (entries.previous, entries.next) = (NONE, NONE);
        }
    }
}
