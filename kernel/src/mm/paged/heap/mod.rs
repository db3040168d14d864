//! An allocator over paged memory, for the collections of the application.
//!
//! [`PagedAlloc`] is a small copyable handle that implements [`Allocator`] of `allocator-api2`, so that
//! `hashbrown::HashMap` and `allocator_api2::vec::Vec` live in paged memory:
//!
//! | size | where | given back |
//! |---|---|---|
//! | up to 3072 bytes | an object of a size class, in a slab of one to three pages | when the slab is empty |
//! | up to 1 MiB | a run of pages in a chunk of 2 MiB | at once |
//! | more | a region of its own | at once |
//!
//! Pages that come free are kept for a while, because a page that is used again soon need not be filled with zeros again;
//! beyond some number they are discarded, many with one flush, and a chunk that is free as a whole is released. What is
//! charged is what is used, and what waits to be discarded: so as long as promises are kept, no access to an allocation
//! finds memory exhausted, and what is committed and what is in memory follow the load both down and up.
//!
//! The books lie in the kernel's heap, not beside the objects: freeing touches no page, and a write beyond an object's end
//! does not corrupt them. Freeing what was not allocated, or twice, is refused, counted and otherwise ignored where the
//! books can tell.
#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

mod arena;
mod chunk;
mod classes;
#[cfg(test)]
mod tests;

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use allocator_api2::alloc::{AllocError, Allocator};
use percpu::{Platform, SpinLock};

use self::arena::{Arena, Need, NotOurs};
use self::chunk::{Chunk, PAGES};
use self::classes::Class;
use super::memory::Mmu;
use super::{Charge, LockKind, Mask, Paged, pages_for};
use crate::units::{BLOCK_SIZE, FRAME_SIZE, Frames};

/// Paged memory, as the allocator uses it.
///
/// # Safety
///
/// The memory of a region, `pages` pages from its address on, is readable and writable, as far as it is charged, nobody
/// else's, and full of zeros at first, until the region is released. A page keeps what is written until it is discarded.
/// Regions begin at multiples of 2 MiB.
pub unsafe trait Pages: Send + Sync {
    /// Reserves a region that the caller charges, with a word that [`tag_at`](Self::tag_at) finds by any address in it.
    fn reserve(&self, pages: usize, tag: usize) -> Option<NonNull<u8>>;

    /// Releases the region that begins there; false if none does.
    ///
    /// # Safety
    ///
    /// [`reserve`](Self::reserve) gave the region, if there is one, to the caller, and nobody uses it any more.
    unsafe fn release(&self, start: NonNull<u8>) -> bool;

    /// Gives back the frames of the pages of the 2 MiB at `start`.
    ///
    /// # Safety
    ///
    /// They are of the caller's region, and nobody uses them.
    unsafe fn discard(&self, start: usize, pages: &Mask);

    /// The word that came with the region around `address`; 0 if there is none.
    fn tag_at(&self, address: usize) -> usize;

    /// Promises `pages` more, or refuses.
    fn charge(&self, pages: usize) -> bool;

    /// Takes a promise back.
    fn uncharge(&self, pages: usize);
}

// SAFETY: a page of a region gets a frame of zeros that nobody else has when it is first touched, as far as it is charged,
// and keeps what is written through eviction and migration; regions are disjoint, because their slots are (`Book`), and
// begin at slots, of 2 MiB. Only who reserved one, or has its token, can give it up or discard of it: both functions that
// take an address instead are unsafe.
unsafe impl<L: LockKind, M: Mmu, P: Platform> Pages for &'static Paged<L, M, P> {
    fn reserve(&self, pages: usize, tag: usize) -> Option<NonNull<u8>> {
        let region = Paged::reserve(self, Frames::new(pages as u64), Charge::ByCaller).ok()?;
        self.set_tag(&region, tag);
        Some(self.detach(region))
    }

    unsafe fn release(&self, start: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise: `reserve` detached it, for the caller.
        unsafe { self.attach(start) }.map(|region| Paged::release(self, region)).is_some()
    }

    unsafe fn discard(&self, start: usize, pages: &Mask) {
        // SAFETY: the caller's promise.
        unsafe { self.discard_masked(start as u64, pages) };
    }

    fn tag_at(&self, address: usize) -> usize {
        Paged::tag_at(self, address as u64)
    }

    fn charge(&self, pages: usize) -> bool {
        Paged::charge(self, Frames::new(pages as u64)).is_ok()
    }

    fn uncharge(&self, pages: usize) {
        Paged::uncharge(self, Frames::new(pages as u64));
    }
}

/// Arenas. CPUs take turns on them.
const ARENAS: usize = 4;
/// More pages than this get a region of their own.
const MOST_RUN: usize = PAGES / 2;
/// An arena keeps so many dirty pages in any case: 512 KiB.
const DIRTY_LEAST: usize = 128;
/// And beyond that one for so many used ones.
const DIRTY_SHARE: usize = 16;
/// The tag of regions of large allocations.
const LARGE: usize = usize::MAX;

/// What [`PagedHeap`] counts. Each figure is exact; they are not taken in one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeapStats {
    /// Pages in use, those of slabs that are partly free included.
    pub used_pages: u64,
    /// Free pages that are still charged, and perhaps in memory.
    pub dirty_pages: u64,
    /// Chunks of 2 MiB of addresses.
    pub chunks: u64,
    /// Pages of large allocations.
    pub large_pages: u64,
    /// Frees that were refused.
    pub misuses: u64,
    /// Allocations that failed.
    pub failures: u64,
}

/// The allocator behind the handles.
pub struct PagedHeap<G: Pages, P: Platform> {
    pages: G,
    platform: P,
    arenas: [SpinLock<Arena>; ARENAS],
    large_pages: AtomicU64,
    misuses: AtomicU64,
    failures: AtomicU64,
}

impl<G: Pages, P: Platform> fmt::Debug for PagedHeap<G, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagedHeap").finish_non_exhaustive()
    }
}

/// Where a request is served.
enum Kind {
    Small(Class),
    Run(usize),
    Large(usize),
}

fn kind(layout: Layout) -> Option<Kind> {
    if let Some(class) = Class::of(layout) {
        return Some(Kind::Small(class));
    }
    let pages = usize::try_from(pages_for(layout.size())).ok()?;
    if pages <= MOST_RUN && layout.align() <= FRAME_SIZE {
        return Some(Kind::Run(pages));
    }
    (layout.align() <= BLOCK_SIZE).then_some(Kind::Large(pages))
}

/// The tag of a chunk.
const fn tag_of(arena: usize, chunk: usize) -> usize {
    (chunk * ARENAS + arena) + 1
}

impl<G: Pages, P: Platform> PagedHeap<G, P> {
    /// An allocator that has nothing yet.
    pub fn new(pages: G, platform: P) -> Self {
        Self {
            pages,
            platform,
            arenas: core::array::from_fn(|_| SpinLock::new("paged heap", Arena::new())),
            large_pages: AtomicU64::new(0),
            misuses: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Allocates. The memory is of unknown contents; that of a region of its own is zero.
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Ok(layout.dangling_ptr());
        }
        let address = match kind(layout) {
            Some(Kind::Large(pages)) => self.allocate_large(pages),
            Some(Kind::Run(pages)) => self.allocate_in_arena(|arena| {
                let run = arena.take_run(pages, |clean| self.pages.charge(clean))?;
                arena.address(run).ok_or(Need::Chunk)
            }),
            Some(Kind::Small(class)) => {
                self.allocate_in_arena(|arena| arena.take_object(class, |clean| self.pages.charge(clean)))
            }
            None => None,
        };
        match address.and_then(|address| NonNull::new(core::ptr::with_exposed_provenance_mut(address))) {
            Some(memory) => Ok(memory),
            None => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                Err(AllocError)
            }
        }
    }

    fn allocate_in_arena(&self, take: impl Fn(&mut Arena) -> Result<usize, Need>) -> Option<usize> {
        let number = self.platform.current_cpu().get() % ARENAS;
        let mut trimmed = false;
        loop {
            let taken = take(&mut self.arenas[number].lock(self.platform));
            match taken {
                Ok(address) => return Some(address),
                Err(Need::Chunk) => self.add_chunk(number)?,
                Err(Need::Promise) if !trimmed => {
                    trimmed = true;
                    self.trim();
                }
                Err(Need::Promise) => return None,
            }
        }
    }

    /// Another chunk for an arena.
    fn add_chunk(&self, number: usize) -> Option<()> {
        // A place first: the tag names it. Under the lock all along, so that nobody else takes the place; reserving
        // waits for nobody.
        let mut arena = self.arenas[number].lock(self.platform);
        let place = arena.place_for_chunk()?;
        let start = self.pages.reserve(PAGES, tag_of(number, place))?;
        match Chunk::new(start.addr().get()) {
            Some(chunk) => {
                arena.add_chunk(place, chunk);
                Some(())
            }
            None => {
                drop(arena);
                // SAFETY: just reserved, and known to nobody.
                unsafe { self.release(start) };
                None
            }
        }
    }

    fn allocate_large(&self, pages: usize) -> Option<usize> {
        if !self.pages.charge(pages) {
            self.trim();
            if !self.pages.charge(pages) {
                return None;
            }
        }
        let Some(start) = self.pages.reserve(pages, LARGE) else {
            self.pages.uncharge(pages);
            return None;
        };
        self.large_pages.fetch_add(pages as u64, Ordering::Relaxed);
        Some(start.addr().get())
    }

    /// Frees memory of this layout.
    ///
    /// # Safety
    ///
    /// The memory came from [`allocate`](Self::allocate) with this layout, and is not used again. (What breaks this
    /// promise is refused where the books can tell.)
    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        let address = memory.addr().get();
        let tag = self.pages.tag_at(address);
        let freed = match kind(layout) {
            // SAFETY: a region of a large object of ours, by its tag, and not used again, by our caller's promise.
            Some(Kind::Large(pages)) if tag == LARGE && unsafe { self.pages.release(memory) } => {
                self.pages.uncharge(pages);
                self.large_pages.fetch_sub(pages as u64, Ordering::Relaxed);
                Ok(())
            }
            Some(Kind::Run(pages)) => {
                self.deallocate_in_arena(tag, |arena, chunk| arena.put_run(chunk, address, pages))
            }
            Some(Kind::Small(class)) => {
                self.deallocate_in_arena(tag, |arena, chunk| arena.put_object(chunk, address, class))
            }
            Some(Kind::Large(_)) | None => Err(NotOurs),
        };
        if freed.is_err() {
            self.misuses.fetch_add(1, Ordering::Relaxed);
            log::error!("paged heap: {layout:?} at {address:#x} is freed, and is not allocated");
        }
    }

    fn deallocate_in_arena(
        &self,
        tag: usize,
        put: impl FnOnce(&mut Arena, usize) -> Result<(), NotOurs>,
    ) -> Result<(), NotOurs> {
        let place = tag.checked_sub(1).filter(|_| tag != LARGE).ok_or(NotOurs)?;
        let (number, chunk) = (place % ARENAS, place / ARENAS);
        let mut arena = self.arenas[number].lock(self.platform);
        put(&mut arena, chunk)?;
        let most = DIRTY_LEAST + arena.used_pages() / DIRTY_SHARE;
        let purge = arena.dirty_pages() > most && !arena.purging;
        drop(arena);
        if purge {
            self.purge(number);
        }
        Ok(())
    }

    /// Discards the dirty pages of an arena.
    fn purge(&self, number: usize) {
        {
            let mut arena = self.arenas[number].lock(self.platform);
            if core::mem::replace(&mut arena.purging, true) {
                return;
            }
        }
        let mut next = 0;
        loop {
            let dirty = self.arenas[number].lock(self.platform).take_dirty(next);
            let Some((chunk, address, pages)) = dirty else { break };
            // SAFETY: pages of a chunk of ours that are free, and that `take_dirty` keeps from being given out.
            unsafe { self.pages.discard(address, &pages) };
            let (count, idle) = self.arenas[number].lock(self.platform).put_clean(chunk, pages);
            self.pages.uncharge(count);
            if let Some(start) = idle.and_then(|at| NonNull::new(core::ptr::with_exposed_provenance_mut(at)))
            {
                // SAFETY: `put_clean` has taken the chunk out of the arena because all of it is free.
                unsafe { self.release(start) };
            }
            next = chunk + 1;
        }
        self.arenas[number].lock(self.platform).purging = false;
    }

    /// Gives back all that can be: free pages that were kept for reuse. For one who needs memory, or has time. Any
    /// context; flushes.
    pub fn trim(&self) {
        for number in 0..ARENAS {
            self.purge(number);
        }
    }

    /// Releases a chunk.
    ///
    /// # Safety
    ///
    /// It is ours, in no arena, and nobody uses it.
    unsafe fn release(&self, start: NonNull<u8>) {
        // SAFETY: `reserve` gave it to us for a chunk; nobody uses it, by our caller's promise.
        let released = unsafe { self.pages.release(start) };
        assert!(released, "paged heap: a chunk is no region");
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> HeapStats {
        let mut stats = HeapStats {
            large_pages: self.large_pages.load(Ordering::Relaxed),
            misuses: self.misuses.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            ..HeapStats::default()
        };
        for arena in &self.arenas {
            let arena = arena.lock(self.platform);
            stats.used_pages += arena.used_pages() as u64;
            stats.dirty_pages += arena.dirty_pages() as u64;
            stats.chunks += arena.chunks() as u64;
        }
        stats
    }
}

/// A handle of a [`PagedHeap`]: what a collection is given. All handles of one heap are the same allocator.
pub struct PagedAlloc<G: Pages + 'static, P: Platform>(&'static PagedHeap<G, P>);

impl<G: Pages, P: Platform> Clone for PagedAlloc<G, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G: Pages, P: Platform> Copy for PagedAlloc<G, P> {}

impl<G: Pages, P: Platform> fmt::Debug for PagedAlloc<G, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PagedAlloc")
    }
}

impl<G: Pages, P: Platform> PagedAlloc<G, P> {
    /// A handle of `heap`.
    #[must_use]
    pub const fn new(heap: &'static PagedHeap<G, P>) -> Self {
        Self(heap)
    }

    /// The heap.
    #[must_use]
    pub const fn heap(self) -> &'static PagedHeap<G, P> {
        self.0
    }
}

/// Whether memory of one layout can pass for memory of the other.
fn same_place(old: Layout, new: Layout) -> bool {
    match (kind(old), kind(new)) {
        (Some(Kind::Small(old)), Some(Kind::Small(new))) => old == new,
        (Some(Kind::Run(old)), Some(Kind::Run(new))) | (Some(Kind::Large(old)), Some(Kind::Large(new))) => {
            old == new
        }
        _ => false,
    }
}

fn slice(memory: NonNull<u8>, layout: Layout) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(memory, layout.size())
}

// SAFETY: allocations are disjoint (the arena gives each object and each page once until it comes back, and regions are
// disjoint), of the size and alignment asked for (`Class::of`; runs begin at pages, regions at 2 MiB), and stay until
// they are freed; all handles are one allocator for ever.
unsafe impl<G: Pages, P: Platform> Allocator for PagedAlloc<G, P> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.0.allocate(layout).map(|memory| slice(memory, layout))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let memory = self.0.allocate(layout)?;
        // A fresh region is zero, and stays untouched.
        if !matches!(kind(layout), Some(Kind::Large(_))) {
            // SAFETY: just allocated, of this size.
            unsafe { memory.as_ptr().write_bytes(0, layout.size()) };
        }
        Ok(slice(memory, layout))
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the contracts are the same: all handles are one allocator.
        unsafe { self.0.deallocate(memory, layout) };
    }

    unsafe fn grow(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the contracts are the same.
        unsafe { self.resize(memory, old, new) }
    }

    unsafe fn shrink(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the contracts are the same.
        unsafe { self.resize(memory, old, new) }
    }
}

impl<G: Pages, P: Platform> PagedAlloc<G, P> {
    /// Has memory of another size with the same bytes, as far as both have them.
    ///
    /// # Safety
    ///
    /// `memory` was allocated here with the layout `old`.
    unsafe fn resize(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if same_place(old, new) && old.size() > 0 && new.size() > 0 {
            return Ok(slice(memory, new));
        }
        let moved = self.0.allocate(new)?;
        // SAFETY: both are at least that long, and the new one was just allocated, so they are disjoint.
        unsafe { memory.copy_to_nonoverlapping(moved, old.size().min(new.size())) };
        // SAFETY: allocated here with the layout `old`, by our caller's promise, and given up for the new memory.
        unsafe { self.0.deallocate(memory, old) };
        Ok(slice(moved, new))
    }
}
