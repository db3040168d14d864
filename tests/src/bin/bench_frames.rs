//! Measures the frame allocator on the host, beside `buddy_system_allocator` under the same kind of spin lock.
//!
//! Prints one JSON object a line, with the fields that every benchmark of this project uses; `ratio` is how many
//! times better than the peer. Memory is simulated: only metadata exists. Rounds of ours and of the peer's take turns, and
//! the fastest of each counts: others may have the processor too, and disturb some. Its make is unknown, so the ratios
//! matter, not the nanoseconds.
//!
//! The peer's lock is one that a program may take. In a kernel it would also have to keep interrupts off, which costs
//! it more than the gate of a magazine costs us; so the ratios are on the safe side.
//!
//! `bench_frames --loop WHO CASE MIB PAIRS` runs one case once, for an instruction counter: the difference between
//! two runs with different PAIRS is the cost of the pairs alone. WHO is `ours` or `peer`.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, compiler_fence};
use std::time::Instant;

use buddy_system_allocator::FrameAllocator as Peer;
use ebb::mm::frame::{
    Block, Config, Contents, Entry, Extent, FrameAllocator, Layout, LocalGate, LocalLocks, LockKind,
    Magazine, Metadata, Request, TicketLocks, Use,
};
use ebb::units::{FrameRange, Gfn, Order, VcpuId};
use spin::mutex::TicketMutex;

const SIZES_MIB: [u64; 7] = [16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const ROUNDS: usize = 9;
const PEER: &str = "buddy_system_allocator 0.13.0 under a ticket lock";

/// What is done over and over; a pair is one allocation and one release.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    /// A frame, taken and given back at once. One frame is held beside it, which is the peer's best case.
    Repeat,
    /// The same without the magazine: what the lock and the buddy system cost.
    RepeatShared,
    /// The same with what the image does around it: preemption off, the CPU looked up, and whether a switch was put off.
    RepeatPinned,
    /// The same with a magazine that any CPU may enter, behind an atomic exchange.
    RepeatExchange,
    /// The same from memory that is wholly free, where the peer splits and joins all of it.
    RepeatFresh,
    /// A quarter of memory (at most 65536 frames) taken, then given back in order.
    Bulk,
    /// As many taken, every second one given back in random order; then held frames replaced at random.
    Random,
    /// A block, taken and given back at once, with another held.
    RepeatBlock,
    /// A quarter of the blocks (at most 4096) taken, then given back.
    BulkBlock,
}

const CASES: [(Case, &str, Option<f64>); 9] = [
    (Case::Repeat, "order 0, repeat", Some(5.0)),
    (Case::RepeatShared, "order 0, repeat without magazine", None),
    (Case::RepeatPinned, "order 0, repeat with preemption off around it", None),
    (Case::RepeatExchange, "order 0, repeat with a shared magazine", None),
    (Case::RepeatFresh, "order 0, repeat on fresh memory", Some(5.0)),
    (Case::Bulk, "order 0, bulk", Some(5.0)),
    (Case::Random, "order 0, random", Some(5.0)),
    (Case::RepeatBlock, "order 9, repeat", None),
    (Case::BulkBlock, "order 9, bulk", None),
];

impl Case {
    const fn order(self) -> Order {
        match self {
            Self::RepeatBlock | Self::BulkBlock => Order::BLOCK,
            _ => Order::FRAME,
        }
    }

    /// How many extents a bulk case holds.
    fn bulk(self, mib: u64) -> usize {
        match self {
            Self::BulkBlock => (mib / 2 / 4).clamp(1, 4096) as usize,
            _ => (mib * 256 / 4).min(65536) as usize,
        }
    }
}

/// The locks of the image, as far as a program has them: memory in the place of the words that GS points at.
enum Pinned {}

static PREEMPTION_OFF: AtomicU32 = AtomicU32::new(0);
static CPU: AtomicU32 = AtomicU32::new(0);
static SWITCH_IS_DUE: AtomicBool = AtomicBool::new(false);

impl LockKind for Pinned {
    type Of<T: Send> = TicketMutex<T>;
    type Gate = LocalGate;

    #[inline(always)]
    fn pinned<R>(_hint: usize, work: impl FnOnce(usize) -> R) -> R {
        PREEMPTION_OFF.store(PREEMPTION_OFF.load(Relaxed) + 1, Relaxed);
        compiler_fence(SeqCst);
        let result = work(CPU.load(Relaxed) as usize);
        compiler_fence(SeqCst);
        let count = PREEMPTION_OFF.load(Relaxed) - 1;
        PREEMPTION_OFF.store(count, Relaxed);
        if count == 0 && SWITCH_IS_DUE.load(Relaxed) {
            std::thread::yield_now();
        }
        result
    }
}

/// An allocator under test.
trait Subject {
    type Held;
    fn take(&self, order: Order) -> Option<Self::Held>;
    fn give(&self, held: Self::Held, order: Order);
}

struct Ours<'m, L: LockKind> {
    frames: FrameAllocator<'m, L>,
    cpu: VcpuId,
}

impl<L: LockKind> Subject for Ours<'_, L> {
    type Held = Extent;

    fn take(&self, order: Order) -> Option<Extent> {
        self.frames.alloc(Request::new(Use::Kernel, self.cpu).order(order)).ok()
    }

    fn give(&self, held: Extent, _: Order) {
        if let Err(rejected) = self.frames.free(held, Contents::Unknown, self.cpu) {
            unreachable!("{rejected}");
        }
    }
}

struct Theirs(TicketMutex<Peer<33>>);

impl Subject for Theirs {
    type Held = usize;

    fn take(&self, order: Order) -> Option<usize> {
        self.0.lock().alloc(order.frames().get() as usize)
    }

    fn give(&self, held: usize, order: Order) {
        self.0.lock().dealloc(held, order.frames().get() as usize);
    }
}

/// Runs about `pairs` pairs after setting up, and says how many there were and how long they took.
fn run<S: Subject>(subject: &S, case: Case, mib: u64, pairs: usize) -> (usize, f64) {
    let order = case.order();
    let take = || match subject.take(order) {
        Some(held) => held,
        None => unreachable!("the benchmark asks for less than there is"),
    };
    match case {
        Case::Repeat
        | Case::RepeatShared
        | Case::RepeatPinned
        | Case::RepeatExchange
        | Case::RepeatFresh
        | Case::RepeatBlock => {
            let beside = (case != Case::RepeatFresh).then(take);
            subject.give(take(), order);
            let start = Instant::now();
            for _ in 0..pairs {
                subject.give(black_box(take()), order);
            }
            let ns = start.elapsed().as_nanos() as f64;
            beside.into_iter().for_each(|held| subject.give(held, order));
            (pairs, ns)
        }
        Case::Bulk | Case::BulkBlock => {
            let count = case.bulk(mib);
            let rounds = pairs.div_ceil(count);
            let mut held = Vec::with_capacity(count);
            let start = Instant::now();
            for _ in 0..rounds {
                held.extend((0..count).map(|_| take()));
                held.drain(..).for_each(|held| subject.give(held, order));
            }
            (count * rounds, start.elapsed().as_nanos() as f64)
        }
        Case::Random => {
            let mut state = 0x9E37_79B9_7F4A_7C15_u64;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Without a division, which would take as long as what is measured.
                (((state >> 32) * below as u64) >> 32) as usize
            };
            let mut held: Vec<_> = (0..case.bulk(mib)).map(|_| take()).collect();
            for _ in 0..held.len() / 2 {
                let at = random(held.len());
                subject.give(held.swap_remove(at), order);
            }
            let start = Instant::now();
            for _ in 0..pairs {
                let at = random(held.len());
                let fresh = take();
                subject.give(std::mem::replace(&mut held[at], fresh), order);
            }
            let ns = start.elapsed().as_nanos() as f64;
            held.into_iter().for_each(|held| subject.give(held, order));
            (pairs, ns)
        }
    }
}

fn with_ours<L: LockKind, R>(case: Case, mib: u64, work: impl FnOnce(&Ours<'_, L>) -> R) -> R {
    let memory = [FrameRange::new(Gfn::new(0), Gfn::new(mib * 256))];
    let Ok(layout) = Layout::for_map(&memory) else { unreachable!("the map is one range") };
    let mut entries: Vec<_> = (0..layout.entries()).map(|_| Entry::unused()).collect();
    let mut blocks: Vec<_> = (0..layout.blocks()).map(|_| Block::new()).collect();
    let mut magazines = [Magazine::new()];
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut magazines };
    let Ok(frames) = FrameAllocator::<L>::new(Config { memory: &memory, reserved: &[], id: 0 }, metadata)
    else {
        unreachable!("the metadata fits")
    };
    let cpu = VcpuId::new(if case == Case::RepeatShared { 1 } else { 0 });
    let ours = Ours { frames, cpu };
    let result = work(&ours);
    if let Err(wrong) = ours.frames.validate() {
        unreachable!("after the benchmark: {wrong}");
    }
    result
}

fn with_peer<R>(mib: u64, work: impl FnOnce(&Theirs) -> R) -> R {
    let mut peer = Peer::new();
    peer.add_frame(0, (mib * 256) as usize);
    work(&Theirs(TicketMutex::new(peer)))
}

/// The time of a pair, ours and the peer's, in nanoseconds.
fn race(ours: &impl Subject, case: Case, mib: u64, pairs: usize) -> [f64; 2] {
    with_peer(mib, |peer| {
        let mut fastest = [f64::MAX; 2];
        for _ in 0..ROUNDS {
            for (fastest, (pairs, ns)) in
                fastest.iter_mut().zip([run(ours, case, mib, pairs), run(peer, case, mib, pairs)])
            {
                *fastest = fastest.min(ns / pairs as f64);
            }
        }
        fastest
    })
}

fn print(
    case: &str,
    unit: &str,
    metric: &str,
    ours: f64,
    peer: Option<f64>,
    target: Option<f64>,
    note: &str,
) {
    let round = |x: f64| (x * 100.0).round() / 100.0;
    let ratio = peer.map(|peer| peer / ours);
    let met = target.map(|target| ratio.map_or(ours <= target, |ratio| ratio >= target));
    println!(
        "{}",
        serde_json::json!({
            "bench": "frames", "case": case, "metric": metric, "unit": unit, "ours": round(ours),
            "peer": peer.map(round), "peer_name": peer.map(|_| PEER), "ratio": ratio.map(round),
            "target": target, "met": met, "note": note,
        })
    );
}

fn measure(case: Case, mib: u64, pairs: usize) -> [f64; 2] {
    match case {
        Case::RepeatExchange => {
            with_ours::<TicketLocks, _>(case, mib, |subject| race(subject, case, mib, pairs))
        }
        Case::RepeatPinned => with_ours::<Pinned, _>(case, mib, |subject| race(subject, case, mib, pairs)),
        _ => with_ours::<LocalLocks, _>(case, mib, |subject| race(subject, case, mib, pairs)),
    }
}

fn all() {
    for (case, name, target) in CASES {
        let (mut fastest, mut slowest) = (f64::MAX, 0_f64);
        for mib in SIZES_MIB {
            let pairs = if case.order() == Order::FRAME { 200_000 } else { 50_000 };
            let [ours, peer] = measure(case, mib, pairs);
            (fastest, slowest) = (fastest.min(ours), slowest.max(ours));
            let at = format!("{name}, {mib} MiB");
            print(&at, "ns", "alloc + free", ours, Some(peer), target, "host, the fastest of 9 rounds");
        }
        let target = matches!(case, Case::Repeat | Case::RepeatShared | Case::RepeatBlock).then_some(1.5);
        let note = "slowest size over fastest, 16 MiB to 64 GiB; 1 is constant";
        print(name, "ratio", "spread over sizes", slowest / fastest, None, target, note);
    }
    let Ok(layout) = Layout::for_map(&[FrameRange::new(Gfn::new(0), Gfn::new(1 << 18))]) else { return };
    let kib = layout.bytes() as f64 / 1024.0;
    print("metadata", "KiB", "per GiB of maximum memory", kib, None, Some(10486.0), "1 % is 10486 KiB");
    let idle = layout.blocks() * size_of::<Block>();
    let note = "table pages of blocks that are wholly free or ballooned need not exist";
    print("metadata", "KiB", "per GiB that is not in use", idle as f64 / 1024.0, None, None, note);
}

/// One case, once, for an instruction counter.
fn single(who: &str, case: &str, mib: &str, pairs: &str) -> Option<()> {
    let (case, ..) = CASES.into_iter().find(|(_, name, _)| *name == case)?;
    let (mib, pairs) = (mib.parse().ok()?, pairs.parse().ok()?);
    let (done, _) = match who {
        "ours" if case == Case::RepeatExchange => {
            with_ours::<TicketLocks, _>(case, mib, |subject| run(subject, case, mib, pairs))
        }
        "ours" if case == Case::RepeatPinned => {
            with_ours::<Pinned, _>(case, mib, |subject| run(subject, case, mib, pairs))
        }
        "ours" => with_ours::<LocalLocks, _>(case, mib, |subject| run(subject, case, mib, pairs)),
        "peer" => with_peer(mib, |subject| run(subject, case, mib, pairs)),
        _ => return None,
    };
    println!("{done}");
    Some(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => all(),
        ["--loop", who, case, mib, pairs] if single(who, case, mib, pairs).is_some() => {}
        _ => {
            eprintln!("usage: bench_frames [--loop ours|peer CASE MIB PAIRS]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
