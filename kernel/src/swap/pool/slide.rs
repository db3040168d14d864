//! Compaction: the log is slid together towards its old end, a frame at a time.
//!
//! What a frame still holds moves down over what is dead in it, and into what the frame before has left; a frame that
//! is left empty goes back. The order of objects, which is their age, stays as it is, and no memory is needed. A step
//! costs at most a frame's worth of copying, so that it can be done under the shard's lock; between two steps
//! everything else may happen.

use super::entry::{Entry, Place, Used};
use super::shard::{Found, Object, Shard, size_in_log};
use super::slot::NONE;
use super::supply::{Short, Supply};
use crate::mm::pool_frames::PoolFrames;
use crate::units::FRAME_SIZE;

impl<T> Shard<T> {
    /// Slides the frame under the hand, and moves the hand on. `false` if the hand has passed the young end; the next
    /// step begins at the old one.
    pub(super) fn slide<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>, spare: &mut Object) -> bool {
        let at = self.hand;
        let Some(log) = self.log(at) else {
            self.hand = self.oldest;
            return false;
        };
        let (younger, damaged) = (log.younger, log.damaged);
        self.hand = younger;
        let before = self.counts.log_frames;
        if !damaged {
            self.slide_frame(supply, at, spare);
        }
        self.counts.emptied += before - self.counts.log_frames;
        true
    }

    fn slide_frame<F: PoolFrames<Frame = T>>(&mut self, supply: &Supply<F>, at: u32, spare: &mut Object) {
        let frames = supply.frames();
        let Some(log) = self.log(at) else { return };
        let (older, younger, stop) = (log.older, log.younger, usize::from(log.end));
        let mut from = Place { slot: at, offset: usize::from(log.first) };
        // The frame before has room behind its last object, or its last object ends in this frame.
        let open = self.log(older).map(|log| usize::from(log.end)).filter(|end| *end < FRAME_SIZE);
        if open.is_none() && usize::from(log.live) == stop {
            return;
        }
        let over = Place { slot: at, offset: usize::from(log.over) };
        self.holes.forget(at);
        let mut to = open.map_or(over, |offset| Place { slot: older, offset });
        let mut sound = true;
        while from.offset < stop {
            let size = match self.look(frames, from) {
                Found::Dead(size) => {
                    from.offset += size;
                    continue;
                }
                Found::Live(id, used) => {
                    let size = size_in_log(used.length);
                    if to != from {
                        if !self.holds(from, size) {
                            sound = false;
                            break;
                        }
                        if to.slot == at && from.offset + size <= FRAME_SIZE {
                            self.shift(frames, from, to.offset, size);
                        } else {
                            let object = &mut spare[..size];
                            if self.read(frames, from, object).is_none() {
                                unreachable!("compressed pool: a frame of the log is gone");
                            }
                            self.lose(from, size);
                            self.write(frames, to, object);
                        }
                        self.set_entry(frames, id, Entry::Used(Used { place: to, ..used }));
                        self.counts.moved += 1;
                    }
                    size
                }
                Found::Damaged => {
                    sound = false;
                    break;
                }
            };
            from.offset += size;
            to.offset += size;
            if to.slot == older && to.offset >= FRAME_SIZE {
                self.set_end(older, FRAME_SIZE);
                to = Place { slot: at, offset: to.offset - FRAME_SIZE };
                self.set_over(at, to.offset);
            }
        }
        if to.slot == older {
            // All of it has moved.
            self.set_end(older, to.offset);
            self.set_over(at, 0);
            to = Place { slot: at, offset: 0 };
        }
        if sound {
            if let Some(log) = self.log_mut(at) {
                log.first = log.over;
                log.end = to.offset.min(FRAME_SIZE) as u16;
            }
            self.set_over(younger, to.offset.saturating_sub(FRAME_SIZE));
        } else {
            self.give_up(at);
        }
        self.drop_if_empty(supply, at);
        self.drop_if_empty(supply, younger);
    }

    fn set_end(&mut self, slot: u32, end: usize) {
        if let Some(log) = self.log_mut(slot) {
            log.end = end as u16;
        }
    }

    fn set_over(&mut self, slot: u32, over: usize) {
        if let Some(log) = self.log_mut(slot) {
            log.over = over as u16;
        }
    }

    /// Leaves a frame alone from now on, until all in it is freed: its objects cannot be told apart.
    pub(super) fn give_up(&mut self, slot: u32) {
        self.counts.damaged += 1;
        if let Some(log) = self.log_mut(slot) {
            log.damaged = true;
            log.end = FRAME_SIZE as u16;
        }
    }

    /// Moves an object to the young end.
    pub(super) fn renew<F: PoolFrames<Frame = T>>(
        &mut self,
        supply: &Supply<F>,
        (id, used): (super::entry::EntryId, Used),
        spare: &mut Object,
        stamp: u32,
    ) -> Result<(), Short> {
        let size = size_in_log(used.length);
        let object = &mut spare[..size];
        if !self.holds(used.place, size) || self.read(supply.frames(), used.place, object).is_none() {
            self.give_up(used.place.slot);
            return Err(Short::Slots);
        }
        self.need_room(supply, size, stamp)?;
        let place = self.append(supply.frames(), object);
        self.set_entry(supply.frames(), id, Entry::Used(Used { place, ..used }));
        self.bury(supply, used.place, size);
        Ok(())
    }

    /// Puts the hand at the old end.
    pub(super) fn rewind(&mut self) {
        self.hand = self.oldest;
    }

    /// When the oldest frame was taken.
    pub(super) fn oldest_stamp(&self) -> Option<u32> {
        if self.oldest == NONE { None } else { self.log(self.oldest).map(|log| log.stamp) }
    }
}
