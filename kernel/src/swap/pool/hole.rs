//! Holes: where pages were freed lately, for new ones that fit.
//!
//! Pages of one kind become nearly the same size, and a page is often freed when another one comes. A hole that is used
//! again needs no sliding, which would move tens of objects for it. Only a few are remembered; what is forgotten is slid.
//!
//! A page in a hole is younger than its place says. So it is marked as if it had been loaded: it gets a second chance when
//! its place is the coldest (`evict.rs`).

use super::entry::Place;
use super::shard::{Found, Shard};
use crate::mm::pool_frames::PoolFrames;
use crate::units::FRAME_SIZE;

/// Holes that are remembered.
const COUNT: usize = 64;
/// A page may leave this part of a hole unused, as a power of two.
const REST_SHIFT: u32 = 4;

/// A dead object.
#[derive(Clone, Copy, Debug)]
struct Hole {
    slot: u32,
    offset: u16,
    /// 0 if there is none.
    size: u16,
}

/// The holes of a shard.
#[derive(Debug)]
pub(super) struct Holes {
    holes: [Hole; COUNT],
    /// Which is forgotten next.
    next: usize,
}

impl Holes {
    pub(super) const fn new() -> Self {
        Self { holes: [Hole { slot: 0, offset: 0, size: 0 }; COUNT], next: 0 }
    }

    /// Remembers a dead object. One that goes on in the next frame is none.
    pub(super) fn note(&mut self, place: Place, size: usize) {
        if place.offset + size <= FRAME_SIZE {
            self.holes[self.next] = Hole { slot: place.slot, offset: place.offset as u16, size: size as u16 };
            self.next = (self.next + 1) % COUNT;
        }
    }

    /// Forgets those in a frame, whose objects move, or which goes.
    pub(super) fn forget(&mut self, slot: u32) {
        self.holes.iter_mut().filter(|hole| hole.slot == slot).for_each(|hole| hole.size = 0);
    }

    /// Takes the hole that an object of this size fits into best, and its size.
    fn take(&mut self, size: usize) -> Option<(Place, usize)> {
        let fits = |hole: &&mut Hole| (size..=size + (size >> REST_SHIFT)).contains(&usize::from(hole.size));
        let hole = self.holes.iter_mut().filter(fits).min_by_key(|hole| hole.size)?;
        let place = Place { slot: hole.slot, offset: usize::from(hole.offset) };
        Some((place, usize::from(core::mem::take(&mut hole.size))))
    }
}

impl<T> Shard<T> {
    /// A place where an object of this size can go, and how many bytes will be left behind it, if there is a hole for it.
    pub(super) fn find_hole<F: PoolFrames<Frame = T>>(
        &mut self,
        frames: &F,
        size: usize,
    ) -> Option<(Place, usize)> {
        while let Some((place, room)) = self.holes.take(size) {
            if self.is_walked(place, room) && self.look(frames, place) == Found::Dead(room) {
                return Some((place, room - size));
            }
        }
        None
    }

    /// Whether who walks over the frame of this place would meet an object of this size there.
    fn is_walked(&self, place: Place, size: usize) -> bool {
        let Some(log) = self.log(place.slot).filter(|log| !log.damaged) else { return false };
        let (begin, end) = (place.offset, place.offset + size);
        let ends = match end.checked_sub(FRAME_SIZE) {
            None | Some(0) => end <= usize::from(log.end),
            Some(over) => {
                let next = self.log(log.younger);
                usize::from(log.end) == FRAME_SIZE && next.is_some_and(|next| usize::from(next.over) >= over)
            }
        };
        begin >= usize::from(log.first) && ends
    }

    /// Puts an object into a hole that was found for it.
    pub(super) fn fill_hole<F: PoolFrames<Frame = T>>(
        &mut self,
        frames: &F,
        (place, rest): (Place, usize),
        object: &[u8],
    ) -> Place {
        let behind = Place { offset: place.offset + object.len(), ..place };
        // What is left in the next frame is before the first object that begins there, and not walked.
        if rest > 0 && behind.offset < FRAME_SIZE {
            self.entomb(frames, behind, rest);
        }
        self.write(frames, place, object);
        self.counts.live += object.len() as u64;
        place
    }
}
