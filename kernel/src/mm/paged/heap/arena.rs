//! An arena: some chunks, and the slabs in them. Several arenas, so that CPUs do not meet; each behind a lock.

use alloc::vec::Vec;

use super::chunk::{Chunk, Slab};
use super::classes::{CLASSES, Class};
use crate::mm::paged::Mask;
use crate::units::FRAME_SIZE;

/// No slab.
const NOBODY: u32 = u32::MAX;

/// A slab of the arena: its chunk and its first page.
type SlabId = u32;

fn id(chunk: usize, page: usize) -> SlabId {
    (chunk * super::chunk::PAGES + page) as SlabId
}

/// What an allocation needs before it can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// A promise of so many pages was refused.
    Promise,
    /// Another chunk.
    Chunk,
}

/// What freeing something found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotOurs;

/// Chunks, and the lists of slabs with room.
#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Option<Chunk>>,
    /// The first slab of each class that has used and free objects.
    with_room: [SlabId; CLASSES],
    /// Pages that are used, those of slabs included.
    used_pages: usize,
    dirty_pages: usize,
    /// Somebody discards dirty pages.
    pub(super) purging: bool,
}

impl Arena {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            with_room: [NOBODY; CLASSES],
            used_pages: 0,
            dirty_pages: 0,
            purging: false,
        }
    }

    /// Pages in use.
    pub(super) const fn used_pages(&self) -> usize {
        self.used_pages
    }

    /// Pages that are free and still charged.
    pub(super) const fn dirty_pages(&self) -> usize {
        self.dirty_pages
    }

    /// Chunks.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.iter().flatten().count()
    }

    /// A place for one more chunk, with memory for it; `None` if there is no memory.
    pub(super) fn place_for_chunk(&mut self) -> Option<usize> {
        match self.chunks.iter().position(Option::is_none) {
            Some(place) => Some(place),
            None => {
                self.chunks.try_reserve(1).ok()?;
                self.chunks.push(None);
                Some(self.chunks.len() - 1)
            }
        }
    }

    /// Puts a chunk into a place that [`place_for_chunk`](Self::place_for_chunk) gave.
    pub(super) fn add_chunk(&mut self, place: usize, chunk: Chunk) {
        self.chunks[place] = Some(chunk);
    }

    /// A run of pages; `charge` is asked to promise those that are clean.
    pub(super) fn take_run(
        &mut self,
        pages: usize,
        charge: impl Fn(usize) -> bool,
    ) -> Result<(usize, usize), Need> {
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            let Some(chunk) = chunk else { continue };
            let Some((first, clean)) = chunk.find(pages) else { continue };
            if clean > 0 && !charge(clean) {
                return Err(Need::Promise);
            }
            chunk.take(first, pages);
            self.used_pages += pages;
            self.dirty_pages -= pages - clean;
            return Ok((number, first));
        }
        Err(Need::Chunk)
    }

    /// The address of a page.
    pub(super) fn address(&self, (chunk, page): (usize, usize)) -> Option<usize> {
        Some(self.chunks.get(chunk)?.as_ref()?.address + page * FRAME_SIZE)
    }

    /// Frees a run of pages.
    pub(super) fn put_run(&mut self, chunk: usize, address: usize, pages: usize) -> Result<(), NotOurs> {
        let chunk = self.chunks.get_mut(chunk).and_then(Option::as_mut).ok_or(NotOurs)?;
        let offset = address.checked_sub(chunk.address).ok_or(NotOurs)?;
        let first = offset / FRAME_SIZE;
        let in_slab = (first..first + pages).any(|page| chunk.slab_at(page).is_some());
        if in_slab || !offset.is_multiple_of(FRAME_SIZE) || !chunk.put(first, pages) {
            return Err(NotOurs);
        }
        self.used_pages -= pages;
        self.dirty_pages += pages;
        Ok(())
    }

    /// An object's address.
    pub(super) fn take_object(
        &mut self,
        class: Class,
        charge: impl Fn(usize) -> bool,
    ) -> Result<usize, Need> {
        let slab = match self.with_room[class.number()] {
            NOBODY => {
                let (chunk, page) = self.take_run(class.pages(), charge)?;
                if let Some(chunk) = self.chunk_mut(chunk) {
                    chunk.make_slab(page, class);
                }
                self.link(id(chunk, page), class);
                id(chunk, page)
            }
            slab => slab,
        };
        let taken = self.slab_mut(slab).take();
        let Some(object) = taken else { unreachable!("a slab in the list of those with room is full") };
        if self.slab_mut(slab).is_full() {
            self.unlink(slab, class);
        }
        let (chunk, page) = place(slab);
        let start = self.address((chunk, page));
        let Some(start) = start else { unreachable!("a slab in a chunk that is gone") };
        Ok(start + object * class.size())
    }

    /// Frees an object of a class.
    pub(super) fn put_object(&mut self, chunk: usize, address: usize, class: Class) -> Result<(), NotOurs> {
        let number = chunk;
        let chunk = self.chunk_mut(number).ok_or(NotOurs)?;
        let offset = address.checked_sub(chunk.address).ok_or(NotOurs)?;
        let (first, found) = chunk.slab_at(offset / FRAME_SIZE).ok_or(NotOurs)?;
        let within = offset - first * FRAME_SIZE;
        if found != class || !within.is_multiple_of(class.size()) {
            return Err(NotOurs);
        }
        let (chunk_address, slab) = (chunk.address, &mut chunk.slabs[first]);
        let was_full = slab.is_full();
        if within / class.size() >= class.objects() || !slab.put(within / class.size()) {
            return Err(NotOurs);
        }
        let empty = slab.used == 0;
        let slab = id(number, first);
        match (was_full, empty) {
            (true, false) => self.link(slab, class),
            (false, true) => self.unlink(slab, class),
            (false, false) | (true, true) => {}
        }
        if empty {
            if let Some(chunk) = self.chunk_mut(number) {
                chunk.end_slab(first, class);
            }
            self.put_run(number, chunk_address + first * FRAME_SIZE, class.pages())?;
        }
        Ok(())
    }

    /// The next chunk from `from` on with dirty pages, which are nobody's from now on.
    pub(super) fn take_dirty(&mut self, from: usize) -> Option<(usize, usize, Mask)> {
        let (number, chunk) = self
            .chunks
            .iter_mut()
            .enumerate()
            .skip(from)
            .filter_map(|(number, chunk)| Some((number, chunk.as_mut()?)))
            .find(|(_, chunk)| chunk.dirty_pages() > 0)?;
        self.dirty_pages -= chunk.dirty_pages();
        Some((number, chunk.address, chunk.take_dirty()))
    }

    /// Makes pages free and clean that were discarded, and answers how many. If the chunk is all free then, and another
    /// one has room, it is taken out of the arena: its address.
    pub(super) fn put_clean(&mut self, number: usize, pages: Mask) -> (usize, Option<usize>) {
        let Some(chunk) = self.chunk_mut(number) else { return (0, None) };
        let count = chunk.put_clean(pages);
        let idle = chunk.free_pages() == super::chunk::PAGES && chunk.dirty_pages() == 0;
        let roomy = |(other, chunk): (usize, &Option<Chunk>)| {
            other != number && chunk.as_ref().is_some_and(|chunk| chunk.free_pages() > 0)
        };
        if !idle || !self.chunks.iter().enumerate().any(roomy) {
            return (count, None);
        }
        (count, self.chunks[number].take().map(|chunk| chunk.address))
    }

    fn chunk_mut(&mut self, chunk: usize) -> Option<&mut Chunk> {
        self.chunks.get_mut(chunk)?.as_mut()
    }

    fn slab_mut(&mut self, slab: SlabId) -> &mut Slab {
        let (chunk, page) = place(slab);
        match self.chunk_mut(chunk) {
            Some(chunk) => &mut chunk.slabs[page],
            None => unreachable!("a slab in a chunk that is gone"),
        }
    }

    /// Puts a slab at the head of the list of those with room.
    fn link(&mut self, slab: SlabId, class: Class) {
        let next = core::mem::replace(&mut self.with_room[class.number()], slab);
        (self.slab_mut(slab).next, self.slab_mut(slab).previous) = (next, NOBODY);
        if next != NOBODY {
            self.slab_mut(next).previous = slab;
        }
    }

    /// Takes a slab out of that list.
    fn unlink(&mut self, slab: SlabId, class: Class) {
        let Slab { next, previous, .. } = *self.slab_mut(slab);
        if next != NOBODY {
            self.slab_mut(next).previous = previous;
        }
        if previous == NOBODY {
            self.with_room[class.number()] = next;
        } else {
            self.slab_mut(previous).next = next;
        }
    }
}

/// The chunk and the first page of a slab.
fn place(slab: SlabId) -> (usize, usize) {
    (slab as usize / super::chunk::PAGES, slab as usize % super::chunk::PAGES)
}
