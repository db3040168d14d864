//! Everything that the pool believes, derived again from its frames.

use alloc::collections::BTreeMap;
use core::fmt;

use percpu::{CpuPin, Cpus};

use super::Pool;
use super::entry::{Entry, EntryId, PER_FRAME, Place};
use super::shard::{Found, Shard, size_in_log};
use super::slot::{NONE, Slot};
use crate::mm::pool_frames::PoolFrames;
use crate::units::FRAME_SIZE;

/// What does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inconsistency {
    /// The shard.
    pub shard: usize,
    /// In words.
    pub what: &'static str,
    /// A slot or a number that it is about.
    pub at: u64,
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "compressed pool, shard {}: {} ({})", self.shard, self.what, self.at)
    }
}

impl core::error::Error for Inconsistency {}

impl<F: PoolFrames, P: Cpus> Pool<F, P> {
    /// Checks the whole pool, a shard at a time with its lock held: for tests. Needs memory of its own. A pool with
    /// damaged frames is not consistent.
    ///
    /// # Errors
    ///
    /// The first [`Inconsistency`].
    pub fn validate(&self) -> Result<(), Inconsistency> {
        for (index, shard) in self.shards.iter().enumerate() {
            let _pin = CpuPin::new(self.cpus);
            self.hold(shard).validate(self.supply.frames()).map_err(|(what, at)| Inconsistency {
                shard: index,
                what,
                at,
            })?;
        }
        Ok(())
    }
}

type Wrong = (&'static str, u64);

fn ensure(sound: bool, what: &'static str, at: impl Into<u64>) -> Result<(), Wrong> {
    if sound { Ok(()) } else { Err((what, at.into())) }
}

impl<T> Shard<T> {
    fn validate<F: PoolFrames<Frame = T>>(&self, frames: &F) -> Result<(), Wrong> {
        let mut owners = BTreeMap::new();
        self.validate_log(frames, &mut owners)?;
        self.validate_entries(frames, &owners)?;
        let mut vacant = 0;
        let mut slot = self.vacant;
        while let Some(Slot::Vacant { next }) = self.slots.get(slot) {
            vacant += 1;
            slot = *next;
        }
        ensure(slot == NONE, "the list of vacant slots ends in a slot", slot)?;
        let seats = self.slots.len() as u64 - self.counts.log_frames - self.counts.entry_frames;
        ensure(vacant == seats, "vacant slots", vacant)
    }

    fn validate_log<F: PoolFrames<Frame = T>>(
        &self,
        frames: &F,
        owners: &mut BTreeMap<u32, Place>,
    ) -> Result<(), Wrong> {
        let (mut slot, mut older, mut count, mut over) = (self.oldest, NONE, 0, 0);
        let (mut live, mut compressed) = (0, 0);
        let mut hand = self.hand == NONE;
        while let Some(log) = self.log(slot) {
            count += 1;
            hand |= slot == self.hand;
            ensure(log.older == older, "the log is not linked both ways", slot)?;
            ensure(!log.damaged, "a frame is damaged", slot)?;
            let meets = over <= usize::from(log.over) && log.over <= log.first;
            ensure(meets, "objects overlap where frames meet", slot)?;
            let mut here = over;
            let mut offset = usize::from(log.first);
            over = 0;
            while offset < usize::from(log.end) {
                match self.look(frames, Place { slot, offset }) {
                    Found::Dead(size) => offset += size,
                    Found::Live(id, used) => {
                        let size = size_in_log(used.length);
                        ensure(
                            owners.insert(id.to_bits(), used.place).is_none(),
                            "two objects of one entry",
                            id.to_bits(),
                        )?;
                        ensure(self.holds(used.place, size), "an object does not fit its place", slot)?;
                        live += size as u64;
                        compressed += used.length as u64;
                        here += size.min(FRAME_SIZE - offset);
                        offset += size;
                        over = offset.saturating_sub(FRAME_SIZE);
                    }
                    Found::Damaged => return Err(("a header is damaged", offset as u64)),
                }
            }
            ensure(
                offset.min(FRAME_SIZE) == usize::from(log.end).max(usize::from(log.first)),
                "the last object does not end at the end",
                slot,
            )?;
            ensure(here == usize::from(log.live), "live bytes of a frame", slot)?;
            ensure(log.live > 0, "an empty frame was kept", slot)?;
            (older, slot) = (slot, log.younger);
        }
        ensure(slot == NONE && older == self.youngest, "the log does not end at its young end", slot)?;
        ensure(over == 0, "the last object has no end", older)?;
        ensure(hand, "the hand is not in the log", self.hand)?;
        let counts = &self.counts;
        ensure(count == counts.log_frames, "frames of the log", count)?;
        ensure(live == counts.live, "live bytes", live)?;
        ensure(compressed == counts.compressed, "compressed bytes", compressed)?;
        ensure(owners.len() as u64 == counts.stored, "stored pages", owners.len() as u64)
    }

    fn validate_entries<F: PoolFrames<Frame = T>>(
        &self,
        frames: &F,
        owners: &BTreeMap<u32, Place>,
    ) -> Result<(), Wrong> {
        let (mut count, mut partial, mut all) = (0, 0, 0);
        for (slot, entries) in self.slots.iter().enumerate() {
            let Slot::Entries(entries) = entries else { continue };
            let slot = slot as u32;
            count += 1;
            partial += u64::from(entries.vacant != PER_FRAME);
            let mut used = 0;
            for index in 0..PER_FRAME {
                let id = EntryId { slot, index };
                match self.entry(frames, id) {
                    Some(Ok(Entry::Used(entry))) => {
                        used += 1;
                        let place = owners.get(&id.to_bits());
                        ensure(place == Some(&entry.place), "an entry without an object", id.to_bits())?;
                    }
                    Some(Ok(Entry::Vacant { .. })) => {}
                    _ => return Err(("an entry is damaged", u64::from(id.to_bits()))),
                }
            }
            let mut vacant = 0;
            let mut index = entries.vacant;
            while let Some(Ok(Entry::Vacant { next, .. })) = self.entry(frames, EntryId { slot, index }) {
                vacant += 1;
                index = next;
                ensure(vacant <= PER_FRAME, "vacant entries go round in a circle", slot)?;
            }
            ensure(used == entries.live && used + vacant == PER_FRAME, "vacant entries", slot)?;
            ensure(used > 0, "an empty frame of entries was kept", slot)?;
            all += u64::from(used);
        }
        ensure(count == self.counts.entry_frames, "frames of entries", count)?;
        ensure(all == owners.len() as u64, "entries in use", all)?;
        let (mut listed, mut slot, mut previous) = (0, self.partial, NONE);
        while let Some(Slot::Entries(entries)) = self.slots.get(slot) {
            listed += 1;
            ensure(
                entries.previous == previous,
                "frames with vacant entries are not linked both ways",
                slot,
            )?;
            (previous, slot) = (slot, entries.next);
        }
        ensure(listed == partial, "frames with vacant entries", listed)
    }
}
