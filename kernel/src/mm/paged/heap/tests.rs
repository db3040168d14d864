//! The allocator over memory of the host, whose pages forget when they are discarded.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::vec::Vec;

use allocator_api2::vec::Vec as PagedVec;
use percpu::CpuId;
use percpu::host::{Host, Machine, OnCpu};

use super::*;
use crate::mm::frame::tests::Random;

/// Memory of the host in place of the window.
struct HostPages {
    inner: Mutex<Inner>,
    limit: usize,
}

#[derive(Default)]
struct Inner {
    /// By address: the layout, and the tag.
    regions: BTreeMap<usize, (Layout, usize)>,
    charged: usize,
    most_charged: usize,
    discards: usize,
    discarded: usize,
}

impl HostPages {
    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> R {
        work(&mut self.inner.lock().unwrap())
    }

    fn charged(&self) -> usize {
        self.with(|inner| inner.charged)
    }
}

// SAFETY: each region is memory of its own from the host's allocator, zeroed, aligned to 2 MiB, freed when released.
unsafe impl Pages for &'static HostPages {
    fn reserve(&self, pages: usize, tag: usize) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(pages * FRAME_SIZE, BLOCK_SIZE).unwrap();
        // SAFETY: not of size 0.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        self.with(|inner| inner.regions.insert(start.addr().get(), (layout, tag)));
        Some(start)
    }

    unsafe fn release(&self, start: NonNull<u8>) -> bool {
        let Some((layout, _)) = self.with(|inner| inner.regions.remove(&start.addr().get())) else {
            return false;
        };
        // SAFETY: from `reserve`, with this layout.
        unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
        true
    }

    unsafe fn discard(&self, start: usize, pages: &Mask) {
        let layout = self.with(|inner| {
            inner.discards += 1;
            inner.regions[&start].0
        });
        for page in (0..PAGES).filter(|page| pages[page / 64] >> (page % 64) & 1 != 0) {
            assert!((page + 1) * FRAME_SIZE <= layout.size());
            self.with(|inner| inner.discarded += 1);
            let page = core::ptr::with_exposed_provenance_mut::<u8>(start + page * FRAME_SIZE);
            // SAFETY: in the region, and nobody's, or the allocator is wrong and the test sees it.
            unsafe { page.write_bytes(0, FRAME_SIZE) };
        }
    }

    fn tag_at(&self, address: usize) -> usize {
        self.with(|inner| match inner.regions.range(..=address).next_back() {
            Some((start, (layout, tag))) if address < start + layout.size() => *tag,
            _ => 0,
        })
    }

    fn charge(&self, pages: usize) -> bool {
        self.with(|inner| {
            let fits = inner.charged + pages <= self.limit;
            if fits {
                inner.charged += pages;
                inner.most_charged = inner.most_charged.max(inner.charged);
            }
            fits
        })
    }

    fn uncharge(&self, pages: usize) {
        self.with(|inner| {
            inner.charged = inner.charged.checked_sub(pages).expect("more uncharged than charged")
        });
    }
}

type Heap = PagedHeap<&'static HostPages, Host>;
type Alloc = PagedAlloc<&'static HostPages, Host>;

fn heap(limit: usize, cpus: usize) -> (&'static HostPages, &'static Heap, Host) {
    let host = Machine::new(cpus);
    let pages: &HostPages = Box::leak(Box::new(HostPages { inner: Mutex::default(), limit }));
    (pages, Box::leak(Box::new(PagedHeap::new(pages, host))), host)
}

fn alone(limit: usize) -> (&'static HostPages, Alloc, OnCpu) {
    let (pages, heap, host) = heap(limit, 1);
    let cpu = host.enter(CpuId::BOOT);
    (pages, PagedAlloc::new(heap), cpu)
}

/// Memory with a pattern that says whose it is.
struct Block {
    memory: NonNull<u8>,
    layout: Layout,
    seed: u8,
}

impl Block {
    fn new(alloc: Alloc, layout: Layout, seed: u8) -> Option<Self> {
        let memory = alloc.allocate(layout).ok()?;
        assert_eq!(memory.len(), layout.size());
        let memory = memory.cast::<u8>();
        assert!(memory.addr().get().is_multiple_of(layout.align()), "{layout:?}");
        let block = Self { memory, layout, seed };
        block.write(0);
        Some(block)
    }

    /// The pages that it lies in.
    fn pages(&self) -> impl Iterator<Item = usize> + use<> {
        let first = self.memory.addr().get();
        first / FRAME_SIZE..(first + self.layout.size()).div_ceil(FRAME_SIZE)
    }

    fn byte(&self, at: usize) -> u8 {
        self.seed.wrapping_add((at % 251) as u8)
    }

    fn write(&self, from: usize) {
        for at in from..self.layout.size() {
            // SAFETY: inside the allocation, which is ours.
            unsafe { self.memory.as_ptr().wrapping_add(at).write(self.byte(at)) };
        }
    }

    fn check(&self) {
        for at in 0..self.layout.size() {
            // SAFETY: inside the allocation, which is ours and was written as a whole.
            let found = unsafe { self.memory.as_ptr().wrapping_add(at).read() };
            assert_eq!(found, self.byte(at), "{:?} at byte {at}", self.layout);
        }
    }

    fn free(self, alloc: Alloc) {
        self.check();
        // SAFETY: allocated there with this layout, and gone with `self`.
        unsafe { alloc.deallocate(self.memory, self.layout) };
    }

    fn resize(mut self, alloc: Alloc, size: usize) -> Self {
        let new = Layout::from_size_align(size, self.layout.align()).unwrap();
        let old_size = self.layout.size();
        let memory = if size >= old_size {
            // SAFETY: allocated there with this layout, and the new one is no smaller.
            unsafe { alloc.grow(self.memory, self.layout, new) }
        } else {
            // SAFETY: allocated there with this layout, and the new one is smaller.
            unsafe { alloc.shrink(self.memory, self.layout, new) }
        };
        self.memory = memory.unwrap().cast();
        self.layout = new;
        self.write(old_size.min(size));
        self
    }
}

fn random_layout(random: &mut Random) -> Layout {
    let size = match random.below(20) {
        0 => 0,
        1..=9 => 1 + random.below(200),
        10..=14 => 1 + random.below(4000),
        15..=17 => 1 + random.below(40_000),
        18 => 1 + random.below(1 << 20),
        _ => 1 + random.below(3 << 20),
    };
    let align = 1 << [0, 3, 3, 3, 4, 5, 6, 12, 13][random.below(9) as usize];
    Layout::from_size_align(size as usize, align).unwrap()
}

#[test]
fn random_traffic_keeps_every_byte_and_ends_where_it_began() {
    let (pages, alloc, _cpu) = alone(usize::MAX);
    let mut random = Random::new(7);
    let mut blocks: Vec<Block> = Vec::new();
    for step in 0..3000_u64 {
        let grow_phase = step / 500 % 2 == 0;
        if blocks.is_empty() || random.below(10) < if grow_phase { 6 } else { 3 } {
            let layout = random_layout(&mut random);
            blocks.push(Block::new(alloc, layout, step as u8).unwrap());
        } else {
            let block = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
            if random.below(5) == 0 {
                let size = random_layout(&mut random).size();
                blocks.push(block.resize(alloc, size));
            } else {
                block.free(alloc);
            }
        }
    }
    let bytes: usize = blocks.iter().map(|block| block.layout.size()).sum();
    assert!(pages.charged() * FRAME_SIZE >= bytes, "what is used is charged");
    blocks.into_iter().for_each(|block| block.free(alloc));
    let stats = alloc.heap().stats();
    assert_eq!((stats.used_pages, stats.large_pages, stats.misuses, stats.failures), (0, 0, 0, 0));
    assert_eq!(stats.dirty_pages as usize, pages.charged(), "charged is what is kept for reuse");
    alloc.heap().trim();
    assert_eq!((pages.charged(), alloc.heap().stats().dirty_pages), (0, 0));
    assert!(alloc.heap().stats().chunks <= 1, "one chunk may stay for the next allocation");
}

#[test]
fn what_is_freed_is_given_back_though_a_tenth_stays() {
    for (size, most) in [(1 << 16, 20), (4096, 13), (2048, 23), (1024, 40)] {
        let (pages, alloc, _cpu) = alone(usize::MAX);
        let mut random = Random::new(3);
        let layout = Layout::from_size_align(size, 8).unwrap();
        let count = (16 << 20) / size;
        let blocks: Vec<_> = (0..count).map(|seed| Block::new(alloc, layout, seed as u8).unwrap()).collect();
        let full = pages.charged();
        assert_eq!(full, (16 << 20) / FRAME_SIZE);
        let (kept, freed): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|_| random.below(10) == 0);
        freed.into_iter().for_each(|block| block.free(alloc));
        let left = pages.charged() * 100 / full;
        // By itself, up to what is kept for reuse; and on request, all but the pages with objects.
        assert!(left <= most + 5, "{size}: {left} % charged");
        alloc.heap().trim();
        let touched: BTreeSet<_> = kept.iter().flat_map(Block::pages).collect();
        assert_eq!(
            pages.charged(),
            touched.len(),
            "{size}: pages without an object are charged after a trim"
        );
        // Many pages with one discard: each costs a flush.
        let (discards, discarded) = pages.with(|inner| (inner.discards, inner.discarded));
        assert!(discarded > 8 * discards, "{discarded} pages in {discards} discards");
        kept.into_iter().for_each(|block| block.free(alloc));
    }
}

#[test]
fn pages_that_are_used_again_soon_are_not_discarded() {
    let (pages, alloc, _cpu) = alone(usize::MAX);
    let layout = Layout::from_size_align(3 * FRAME_SIZE, 8).unwrap();
    for round in 0..1000 {
        Block::new(alloc, layout, round as u8).unwrap().free(alloc);
    }
    assert_eq!(pages.with(|inner| inner.discards), 0);
    assert_eq!(pages.charged(), 3);
}

#[test]
fn a_refused_promise_is_an_error_and_costs_nothing() {
    let (pages, alloc, _cpu) = alone(100);
    let layout = |pages: usize| Layout::from_size_align(pages * FRAME_SIZE, 8).unwrap();
    assert!(alloc.allocate(layout(101)).is_err());
    assert!(alloc.allocate(layout(10_000)).is_err());
    let block = Block::new(alloc, layout(90), 1).unwrap();
    assert!(alloc.allocate(layout(11)).is_err());
    let small: Vec<_> = core::iter::from_fn(|| Block::new(alloc, Layout::new::<[u64; 128]>(), 2)).collect();
    assert_eq!(small.len(), 40, "ten pages of four objects");
    block.free(alloc);
    // Free pages that are kept for reuse serve others: their promise passes on.
    let block = Block::new(alloc, layout(45), 3).unwrap();
    let other = Block::new(alloc, layout(45), 4).unwrap();
    block.free(alloc);
    other.free(alloc);
    small.into_iter().for_each(|block| block.free(alloc));
    // In pieces, or for a region of its own, they are given back first.
    assert!(Block::new(alloc, layout(100), 5).map(|block| block.free(alloc)).is_some());
    alloc.heap().trim();
    assert_eq!(pages.charged(), 0);
    assert!(pages.with(|inner| inner.most_charged) <= 100);
    assert!(alloc.heap().stats().failures >= 4);
}

#[test]
fn absurd_layouts_are_errors() {
    let (_, alloc, _cpu) = alone(usize::MAX);
    let align = |align| Layout::from_size_align(1, align).unwrap();
    assert!(alloc.allocate(align(4 << 20)).is_err());
    let block = Block::new(alloc, align(BLOCK_SIZE), 1).unwrap();
    let empty = Block::new(alloc, Layout::from_size_align(0, 64).unwrap(), 1).unwrap();
    empty.free(alloc);
    block.free(alloc);
    assert_eq!(alloc.heap().stats().misuses, 0);
}

#[test]
fn freeing_what_is_not_allocated_is_refused_and_counted() {
    let (_, alloc, _cpu) = alone(usize::MAX);
    let (small, run) = (Layout::new::<[u64; 8]>(), Layout::from_size_align(3 * FRAME_SIZE, 8).unwrap());
    let object = alloc.allocate(small).unwrap().cast::<u8>();
    let neighbour = Block::new(alloc, small, 9).unwrap();
    let pages = alloc.allocate(run).unwrap().cast::<u8>();
    let free = |memory: NonNull<u8>, layout| {
        // SAFETY: misuse on purpose: nobody else has what is named, if it is memory at all, and nobody uses it
        // afterwards.
        unsafe { alloc.deallocate(memory, layout) }
    };
    let behind = |memory: NonNull<u8>, bytes| memory.map_addr(|address| address.saturating_add(bytes));
    free(object, Layout::new::<[u64; 100]>());
    free(behind(object, 8), small);
    free(object, run);
    free(NonNull::dangling(), small);
    free(object, Layout::from_size_align(3 << 20, 8).unwrap());
    free(behind(pages, FRAME_SIZE), run);
    assert_eq!(alloc.heap().stats().misuses, 6);
    free(object, small);
    assert_eq!(alloc.heap().stats().misuses, 6);
    free(object, small);
    assert_eq!(alloc.heap().stats().misuses, 7);
    free(pages, run);
    free(pages, run);
    assert_eq!(alloc.heap().stats().misuses, 8);
    neighbour.free(alloc);
}

#[test]
fn zeroed_memory_is_zero_also_when_it_was_used() {
    let (_, alloc, _cpu) = alone(usize::MAX);
    for size in [40, 4000, 3 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        for round in 1..4 {
            let memory = alloc.allocate_zeroed(layout).unwrap().cast::<u8>();
            let block = Block { memory, layout, seed: round };
            for at in 0..size {
                // SAFETY: inside the allocation.
                assert_eq!(unsafe { memory.as_ptr().wrapping_add(at).read() }, 0);
            }
            block.write(0);
            block.free(alloc);
        }
    }
}

#[test]
fn collections_live_there() {
    let (pages, alloc, _cpu) = alone(usize::MAX);
    let mut map = hashbrown::HashMap::with_hasher_in(std::hash::RandomState::new(), alloc);
    let mut model = HashMap::new();
    let mut random = Random::new(11);
    for step in 0..30_000_u64 {
        let key = random.below(4000);
        if random.below(3) > 0 {
            let mut value = PagedVec::new_in(alloc);
            value.resize(random.below(300) as usize, step as u8);
            model.insert(key, value.to_vec());
            map.insert(key, value);
        } else {
            assert_eq!(map.remove(&key).map(|value| value.to_vec()), model.remove(&key));
        }
    }
    assert_eq!(map.len(), model.len());
    assert!(map.iter().all(|(key, value)| model[key] == value.as_slice()));
    assert!(pages.charged() > 100);
    drop(map);
    alloc.heap().trim();
    assert_eq!(pages.charged(), 0);
}

#[test]
fn threads_free_what_others_allocated() {
    const CPUS: usize = 4;
    let (pages, heap, host) = heap(usize::MAX, CPUS);
    let alloc = Alloc::new(heap);
    struct Sent(Block);
    // SAFETY: a block is owned by who has it.
    unsafe impl Send for Sent {}
    let boxes: Vec<Mutex<Vec<Sent>>> = (0..CPUS).map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for cpu in CpuId::first(CPUS) {
            let boxes = &boxes;
            scope.spawn(move || {
                let _cpu = host.enter(cpu);
                let mut random = Random::new(cpu.get() as u64 + 1);
                for step in 0..1500 {
                    let layout = random_layout(&mut random);
                    let layout = if layout.size() > 1 << 17 { Layout::new::<[u64; 20]>() } else { layout };
                    let block = Block::new(alloc, layout, step as u8).unwrap();
                    let to = random.below(CPUS as u64) as usize;
                    boxes[to].lock().unwrap().push(Sent(block));
                    let mine: Vec<_> = {
                        let mut mine = boxes[cpu.get()].lock().unwrap();
                        let half = mine.len() / 2;
                        mine.drain(..half).collect()
                    };
                    mine.into_iter().for_each(|Sent(block)| block.free(alloc));
                    if step % 500 == 0 {
                        alloc.heap().trim();
                    }
                }
            });
        }
    });
    let _cpu = host.enter(CpuId::BOOT);
    for left in boxes {
        left.into_inner().unwrap().into_iter().for_each(|Sent(block)| block.free(alloc));
    }
    alloc.heap().trim();
    let stats = alloc.heap().stats();
    assert_eq!((stats.used_pages, stats.misuses, pages.charged()), (0, 0, 0));
}
