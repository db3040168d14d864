//! Which page is the coldest: the log from its old end.
//!
//! Pages come out in the order in which they were stored. One that was loaded since then gets a second chance: it is
//! moved to the young end instead, once for each time that the log comes round.

use super::entry::{EntryId, Place, Used};
use super::shard::{Found, HEADER, Object, Shard, TAG, size_in_log};
use super::slot::NONE;
use super::supply::Supply;
use crate::mm::pool_frames::PoolFrames;
use crate::units::FRAME_SIZE;

impl<T> Shard<T> {
    /// The tag of a stored page, as it is there: nobody has checked it.
    pub(super) fn tag<F: PoolFrames<Frame = T>>(&self, frames: &F, used: &Used) -> Option<u32> {
        let mut head = [0; HEADER + TAG];
        self.read(frames, used.place, &mut head)?;
        head.last_chunk().map(|tag| u32::from_le_bytes(*tag))
    }

    /// The coldest page that nobody keeps from eviction. Up to `chances` pages are moved on instead.
    pub(super) fn coldest<F: PoolFrames<Frame = T>>(
        &mut self,
        supply: &Supply<F>,
        spare: &mut Object,
        mut chances: u32,
        stamp: u32,
    ) -> Option<(EntryId, Used)> {
        let mut slot = self.oldest;
        while slot != NONE {
            let Some((id, used)) = self.coldest_in(supply.frames(), slot) else {
                slot = self.log(slot).map_or(NONE, |log| log.younger);
                continue;
            };
            if !used.referenced || chances == 0 {
                return Some((id, used));
            }
            chances -= 1;
            let spared = Used { referenced: false, ..used };
            if self.renew(supply, (id, spared), spare, stamp).is_err() {
                return Some((id, used));
            }
            // What it left may be gone.
            slot = self.oldest;
        }
        None
    }

    fn coldest_in<F: PoolFrames<Frame = T>>(&mut self, frames: &F, slot: u32) -> Option<(EntryId, Used)> {
        let log = self.log(slot).filter(|log| !log.damaged)?;
        let (mut offset, end) = (usize::from(log.first), usize::from(log.end));
        let mut only_dead = true;
        while offset < end {
            match self.look(frames, Place { slot, offset }) {
                Found::Dead(size) => {
                    offset += size;
                    // Not to be walked again.
                    if only_dead && let Some(log) = self.log_mut(slot) {
                        log.first = offset.min(FRAME_SIZE) as u16;
                    }
                }
                Found::Live(id, used) if !used.kept => return Some((id, used)),
                Found::Live(_, used) => {
                    only_dead = false;
                    offset += size_in_log(used.length);
                }
                Found::Damaged => {
                    self.give_up(slot);
                    return None;
                }
            }
        }
        None
    }
}
