//! The log: objects one after the other, over frames in order of age.

use super::entry::Place;
use super::shard::{HEADER, Header, Shard};
use super::slot::{Log, NONE, Slot};
use super::supply::{Short, Supply};
use crate::mm::pool_frames::PoolFrames;
use crate::units::FRAME_SIZE;

impl<T> Shard<T> {
    /// The frame of the log in this slot.
    pub(super) fn log(&self, slot: u32) -> Option<&Log<T>> {
        match self.slots.get(slot) {
            Some(Slot::Log(log)) => Some(log),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn log_mut(&mut self, slot: u32) -> Option<&mut Log<T>> {
        match self.slots.get_mut(slot) {
            Some(Slot::Log(log)) => Some(log),
            _ => None,
        }
    }

    /// Copies out what is at `place`, going on in the next younger frame. `None` if that is no place.
    pub(super) fn read<F: PoolFrames<Frame = T>>(
        &self,
        frames: &F,
        place: Place,
        out: &mut [u8],
    ) -> Option<()> {
        let log = self.log(place.slot)?;
        let here = frames.bytes(&log.frame).get(place.offset..)?;
        let (head, tail) = out.split_at_mut(out.len().min(here.len()));
        head.copy_from_slice(&here[..head.len()]);
        if !tail.is_empty() {
            let rest = frames.bytes(&self.log(log.younger)?.frame);
            tail.copy_from_slice(rest.get(..tail.len())?);
        }
        Some(())
    }

    /// Copies `object` to `place`, going on in the next younger frame, and counts it there as live.
    pub(super) fn write<F: PoolFrames<Frame = T>>(&mut self, frames: &F, place: Place, object: &[u8]) {
        let (head, tail) = object.split_at(object.len().min(FRAME_SIZE - place.offset));
        let Some(log) = self.log_mut(place.slot) else {
            unreachable!("compressed pool: slot {} is not of the log", place.slot);
        };
        log.live += head.len() as u16;
        let younger = log.younger;
        frames.bytes_mut(&mut log.frame)[place.offset..][..head.len()].copy_from_slice(head);
        if !tail.is_empty() {
            let Some(log) = self.log_mut(younger) else {
                unreachable!("compressed pool: an object begins in slot {} and ends nowhere", place.slot);
            };
            log.live += tail.len() as u16;
            frames.bytes_mut(&mut log.frame)[..tail.len()].copy_from_slice(tail);
        }
    }

    /// Moves an object within a frame, towards its beginning.
    pub(super) fn shift<F: PoolFrames<Frame = T>>(
        &mut self,
        frames: &F,
        from: Place,
        to: usize,
        size: usize,
    ) {
        if let Some(log) = self.log_mut(from.slot) {
            frames.bytes_mut(&mut log.frame).copy_within(from.offset..from.offset + size, to);
        }
    }

    /// Whether an object of this size can be at `place`, by what is known of the frames.
    pub(super) fn holds(&self, place: Place, size: usize) -> bool {
        let Some(log) = self.log(place.slot) else { return false };
        let head = size.min(FRAME_SIZE - place.offset);
        let tail = (size - head) as u16;
        let inside = place.offset >= usize::from(log.first) && place.offset < usize::from(log.end);
        let ends =
            tail == 0 || self.log(log.younger).is_some_and(|next| next.live >= tail && next.over >= tail);
        size <= FRAME_SIZE && inside && usize::from(log.live) >= head && ends
    }

    /// Counts an object as not live any more, without touching it.
    pub(super) fn lose(&mut self, place: Place, size: usize) {
        let head = size.min(FRAME_SIZE - place.offset);
        let Some(log) = self.log_mut(place.slot) else { return };
        log.live -= head as u16;
        let younger = log.younger;
        if size > head
            && let Some(log) = self.log_mut(younger)
        {
            log.live -= (size - head) as u16;
        }
    }

    /// Leaves a mark that `size` bytes at `place` are dead.
    pub(super) fn entomb<F: PoolFrames<Frame = T>>(&mut self, frames: &F, place: Place, size: usize) {
        if let Some(log) = self.log_mut(place.slot) {
            let header = Header::Dead { size }.encode();
            frames.bytes_mut(&mut log.frame)[place.offset..][..HEADER].copy_from_slice(&header);
        }
    }

    /// Frees an object, which [`holds`](Self::holds), and the frames that this leaves empty.
    pub(super) fn bury<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>, place: Place, size: usize) {
        self.lose(place, size);
        self.counts.live = self.counts.live.saturating_sub(size as u64);
        self.entomb(supply.frames(), place, size);
        let younger = self.log(place.slot).map_or(NONE, |log| log.younger);
        let crosses = place.offset + size > FRAME_SIZE;
        self.drop_if_empty(supply, place.slot);
        if crosses {
            self.drop_if_empty(supply, younger);
        }
    }

    /// Gives a frame of the log back if nothing lives in it.
    pub(super) fn drop_if_empty<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>, slot: u32) -> bool {
        let Some(log) = self.log(slot).filter(|log| log.live == 0) else { return false };
        let (older, younger) = (log.older, log.younger);
        match self.log_mut(older) {
            Some(log) => log.younger = younger,
            None => self.oldest = younger,
        }
        match self.log_mut(younger) {
            Some(log) => (log.older, log.over) = (older, 0),
            None => self.youngest = older,
        }
        if self.hand == slot {
            self.hand = younger;
        }
        self.holes.forget(slot);
        self.holes.forget(older);
        if let Slot::Log(log) = self.unseat(slot) {
            supply.give(log.frame);
        }
        self.counts.log_frames -= 1;
        true
    }

    /// Sees to it that `size` more bytes fit: a frame more at the young end, unless there is room.
    pub(super) fn need_room<F: PoolFrames<Frame = T>>(
        &mut self,
        supply: &Supply<F>,
        size: usize,
        stamp: u32,
    ) -> Result<(), Short> {
        let room = self.log(self.youngest).map_or(0, |log| FRAME_SIZE - usize::from(log.end));
        if room >= size {
            return Ok(());
        }
        let frame = self.take_frame(supply)?;
        let older = self.youngest;
        let (over, first, end, live, damaged) = (0, 0, 0, 0, false);
        let log = Log { frame, older, younger: NONE, stamp, over, first, end, live, damaged };
        let slot = self.seat(|| Slot::Log(log));
        match self.log_mut(older) {
            Some(log) => log.younger = slot,
            None => self.oldest = slot,
        }
        self.youngest = slot;
        self.counts.log_frames += 1;
        Ok(())
    }

    /// Adds an object at the young end, where there is room.
    pub(super) fn append<F: PoolFrames<Frame = T>>(&mut self, frames: &F, object: &[u8]) -> Place {
        // A fresh frame may follow one that has room for the beginning.
        let youngest = self.youngest;
        let before = self.log(youngest).filter(|log| log.end == 0).map_or(NONE, |log| log.older);
        let begins = self.log(before).is_some_and(|log| usize::from(log.end) < FRAME_SIZE);
        let slot = if begins { before } else { youngest };
        let Some(log) = self.log(slot) else {
            unreachable!("compressed pool: an object is added to an empty log");
        };
        let place = Place { slot, offset: usize::from(log.end) };
        let end = place.offset + object.len();
        assert!(slot != youngest || end <= FRAME_SIZE, "compressed pool: room was made, and there is none");
        self.write(frames, place, object);
        if let Some(log) = self.log_mut(slot) {
            log.end = end.min(FRAME_SIZE) as u16;
        }
        if slot != youngest
            && let Some(log) = self.log_mut(youngest)
        {
            let over = end.saturating_sub(FRAME_SIZE) as u16;
            (log.over, log.first, log.end) = (over, over, over);
        }
        self.counts.live += object.len() as u64;
        place
    }
}
