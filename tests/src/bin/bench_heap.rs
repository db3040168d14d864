//! Measures the kernel heap, the hole list behind it alone, and `buddy_system_allocator`'s heap, each under the same
//! kind of lock.
//!
//! Prints JSON lines as `bench_frames` does. The hole list's figures are why there are size classes in front of it. A
//! page taken from a heap is the figure beside which `bench_frames`' frames may be put.
#![expect(unsafe_code, reason = "heaps take memory back by an unsafe call")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Instant;

use buddy_system_allocator::Heap as BuddyHeap;
use ebb::mm::frame::{
    Block, Config, Entry, Extent, FrameAllocator, Magazine, Metadata, Request, TicketLocks, Use,
};
use ebb::mm::heap::{Arena, FromFrames, Heap as KernelHeap, SharedHeap};
use ebb::units::{FrameRange, Gfn, Order, VcpuId};
use linked_list_allocator::Heap as ListHeap;
use spin::mutex::TicketMutex;

const HEAP_BYTES: usize = 64 << 20;
const ROUNDS: usize = 5;

/// A heap that takes and gives back raw memory.
trait Heap {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>>;
    fn give(&self, memory: NonNull<u8>, layout: Layout);
}

impl Heap for TicketMutex<ListHeap> {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.lock().allocate_first_fit(layout).ok()
    }

    fn give(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: `mixed` and `pages`, the only callers, give back what they took, once, with the same layout.
        unsafe { self.lock().deallocate(memory, layout) }
    }
}

impl Heap for TicketMutex<BuddyHeap<32>> {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.lock().alloc(layout).ok()
    }

    fn give(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.lock().dealloc(memory, layout) }
    }
}

/// Leaked memory, backed from the start.
struct BenchArena(NonNull<u8>);

// SAFETY: the memory is leaked, aligned to 4096, and this arena's alone.
unsafe impl Arena for BenchArena {
    fn base(&self) -> NonNull<u8> {
        self.0
    }

    fn capacity(&self) -> usize {
        HEAP_BYTES
    }

    fn map(&mut self, _: usize, extent: Extent) -> Result<(), Extent> {
        std::mem::forget(extent);
        Ok(())
    }
}

// SAFETY: the pointer is the arena's own.
unsafe impl Send for BenchArena {}

type Ours = SharedHeap<TicketLocks, BenchArena, FromFrames<'static, 'static, TicketLocks>>;

impl Heap for Ours {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the benchmark's layouts are not empty.
        NonNull::new(unsafe { self.alloc(layout) })
    }

    fn give(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.dealloc(memory.as_ptr(), layout) }
    }
}

fn ours() -> Ours {
    let frames = HEAP_BYTES / 4096;
    let map = [FrameRange::new(Gfn::new(0), Gfn::new(2 * frames as u64))];
    let metadata = Metadata {
        entries: (0..2 * frames).map(|_| Entry::unused()).collect::<Vec<_>>().leak(),
        blocks: vec![Block::new(); 2 * frames / 512].leak(),
        magazines: Box::leak(Box::new([Magazine::new()])),
    };
    let Ok(frames) = FrameAllocator::new(Config { memory: &map, reserved: &[], id: 0 }, metadata) else {
        unreachable!("the metadata fits")
    };
    let request = Request::new(Use::Kernel, VcpuId::new(0)).order(Order::FRAME);
    let source = FromFrames { frames: Box::leak(Box::new(frames)), request };
    let Ok(layout) = Layout::from_size_align(HEAP_BYTES, 4096) else { unreachable!("a power of two") };
    // SAFETY: the layout is not empty.
    let Some(memory) = NonNull::new(unsafe { std::alloc::alloc(layout) }) else {
        unreachable!("no memory for the benchmark")
    };
    SharedHeap::new(KernelHeap::new(BenchArena(memory), source))
}

fn memory() -> &'static mut [MaybeUninit<u8>] {
    Box::leak(Box::new_uninit_slice(HEAP_BYTES))
}

fn list() -> TicketMutex<ListHeap> {
    TicketMutex::new(ListHeap::from_slice(memory()))
}

fn buddy() -> TicketMutex<BuddyHeap<32>> {
    let memory = memory();
    let mut heap = BuddyHeap::new();
    // SAFETY: the memory is leaked, and nothing else refers to it.
    unsafe { heap.init(memory.as_mut_ptr().addr(), memory.len()) };
    TicketMutex::new(heap)
}

fn take(heap: &impl Heap, layout: Layout) -> (NonNull<u8>, Layout) {
    match heap.take(layout) {
        Some(memory) => (memory, layout),
        None => unreachable!("the benchmark asks for less than there is"),
    }
}

/// Nanoseconds of a pair among `live` objects of 16 to 512 bytes, replaced at random.
fn mixed(heap: &impl Heap, live: usize) -> f64 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let layout = |random: &mut dyn FnMut(usize) -> usize| {
        let size = 16 + random(497);
        Layout::from_size_align(size, 8).unwrap_or(Layout::new::<u64>())
    };
    let mut held: Vec<_> = (0..live).map(|_| take(heap, layout(&mut random))).collect();
    // Into a steady state first.
    let pairs = 20_000;
    let mut start = Instant::now();
    for i in 0..2 * pairs {
        if i == pairs {
            start = Instant::now();
        }
        let at = random(live);
        heap.give(held[at].0, held[at].1);
        held[at] = take(heap, layout(&mut random));
    }
    let ns = start.elapsed().as_nanos() as f64 / pairs as f64;
    held.into_iter().for_each(|(memory, layout)| heap.give(memory, layout));
    ns
}

/// Nanoseconds to take and give back one aligned page, with another held.
fn pages(heap: &impl Heap) -> f64 {
    let layout = Layout::from_size_align(4096, 4096).unwrap_or(Layout::new::<u64>());
    let beside = take(heap, layout);
    let pairs = 200_000;
    let start = Instant::now();
    for _ in 0..pairs {
        let (memory, layout) = black_box(take(heap, layout));
        heap.give(memory, layout);
    }
    let ns = start.elapsed().as_nanos() as f64 / f64::from(pairs);
    heap.give(beside.0, beside.1);
    ns
}

fn median(mut round: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn print(case: &str, ours: f64, peer: f64, peer_name: &str) {
    let round = |x: f64| (x * 100.0).round() / 100.0;
    println!(
        "{}",
        serde_json::json!({
            "bench": "heap", "case": case, "metric": "alloc + free", "unit": "ns", "ours": round(ours),
            "peer": round(peer), "peer_name": peer_name, "ratio": round(peer / ours), "target": null, "met": null,
            "note": "host, median of 5 rounds, all under a ticket lock",
        })
    );
}

fn compare(case: &str, ours: f64, list: f64, buddy: f64) {
    print(case, ours, list, "linked_list_allocator 0.10.6");
    print(case, ours, buddy, "buddy_system_allocator 0.13.0 heap");
}

fn main() {
    for live in [64, 1024, 16384] {
        let case = format!("16 to 512 bytes, {live} live");
        let [ours, list, buddy] = [
            median(|| mixed(&ours(), live)),
            median(|| mixed(&list(), live)),
            median(|| mixed(&buddy(), live)),
        ];
        compare(&case, ours, list, buddy);
    }
    let [ours, list, buddy] =
        [median(|| pages(&ours())), median(|| pages(&list())), median(|| pages(&buddy()))];
    compare("one aligned page", ours, list, buddy);
}
