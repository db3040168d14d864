//! Measures the tiers that evicted pages go to, on the host: same-filled pages and the compressed pool, beside reading
//! a page and copying it.
//!
//! Prints one JSON object a line, with the fields that every benchmark of this project uses; `ratio` is how many times
//! better than the peer. Densities are counts and the same everywhere; times are medians of several rounds on a
//! processor that may be busy, so the ratios matter, not the nanoseconds.
//!
//! `bench_swap --loop CASE COUNT` runs one case once, for an instruction counter: the difference between two runs with
//! different COUNTs is the cost of the operations alone.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ebb::mm::pool_frames::{FrameBytes, PoolFrames};
use ebb::swap::Page;
use ebb::swap::pool::{Config, Handle, Pool, Settings, Stats};
use ebb::swap::same::SameFilled;
use ebb::units::{FRAME_SIZE, Frames};
use percpu::CpuId;
use percpu::host::{Host, Machine};
use workload::corpus::Corpus;
use workload::random::Rng;

/// Different pages of a corpus that the loops go through.
const VARIETY: u64 = 64;
/// Pages that densities are taken of.
const PAGES: u64 = 20_000;
const ROUNDS: usize = 9;
const TIMED: usize = 2000;

/// Frames from the heap.
#[derive(Debug, Default)]
struct HeapFrames(AtomicU64);

impl PoolFrames for HeapFrames {
    type Frame = Box<FrameBytes>;
    fn allocate(&self) -> Option<Self::Frame> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Some(Box::new([0; FRAME_SIZE]))
    }
    fn free(&self, frame: Self::Frame) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        drop(frame);
    }
    fn bytes<'f>(&self, frame: &'f Self::Frame) -> &'f FrameBytes {
        frame
    }
    fn bytes_mut<'f>(&self, frame: &'f mut Self::Frame) -> &'f mut FrameBytes {
        frame
    }
}

type HeapPool = Pool<HeapFrames, Host>;

fn pool(host: Host, capacity: u64, checksum: bool) -> HeapPool {
    let capacity = Frames::new(capacity);
    let config = Config { capacity, shards: 1, checksum, settings: Settings::new(capacity) };
    match Pool::new(HeapFrames::default(), host, config) {
        Ok(pool) => pool,
        Err(error) => unreachable!("{error}"),
    }
}

/// Stores the next page of the corpus that the pool takes.
fn store_next(pool: &HeapPool, pages: &mut impl Iterator<Item = Page>) -> Option<Handle> {
    pages.find_map(|page| pool.store(&page).ok())
}

fn pages(corpus: Corpus) -> Vec<Page> {
    (0..VARIETY).map(|n| corpus.page(n)).collect()
}

/// All words of a page, folded into one.
#[inline(never)]
fn read(page: &Page) -> u64 {
    let (words, _) = page.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word))
}

#[inline(never)]
fn copy(from: &Page, to: &mut Page) {
    to.copy_from_slice(from);
}

/// Runs a case `count` times, and says how long one took in nanoseconds.
fn run(case: &str, count: usize, host: Host) -> Option<f64> {
    let (mut buffer, same) = ([0; FRAME_SIZE], SameFilled::new());
    let filled = [0x6B; FRAME_SIZE];
    let start;
    match case {
        "read" => {
            start = Instant::now();
            for _ in 0..count {
                black_box(read(black_box(&filled)));
            }
        }
        "copy" => {
            start = Instant::now();
            for _ in 0..count {
                copy(black_box(&filled), black_box(&mut buffer));
            }
        }
        "same store" => {
            start = Instant::now();
            for _ in 0..count {
                black_box(same.store(black_box(&filled)).ok()?);
            }
        }
        "same load" | "same load pattern" => {
            let word = if case == "same load" { 0 } else { 7 };
            start = Instant::now();
            for _ in 0..count {
                same.load(black_box(word), black_box(&mut buffer));
            }
        }
        "same refuse" => {
            let page = Corpus::Text.page(1);
            start = Instant::now();
            for _ in 0..count {
                black_box(same.store(black_box(&page)).err()?);
            }
        }
        _ => {
            let (verb, corpus) = case.split_once(' ')?;
            let corpus = Corpus::COMPRESSIBLE.into_iter().find(|known| known.name() == corpus)?;
            return run_pool(verb, corpus, count, host);
        }
    }
    Some(start.elapsed().as_nanos() as f64 / count as f64)
}

fn run_pool(verb: &str, corpus: Corpus, count: usize, host: Host) -> Option<f64> {
    let variety = pages(corpus);
    // Tables in proportion, so that the tables' share is what it is in a pool in use.
    let pool = pool(host, (count as u64).max(PAGES) + 64, verb != "load-unchecked");
    let mut buffer = [0; FRAME_SIZE];
    let start;
    match verb {
        "store" => {
            start = Instant::now();
            for page in variety.iter().cycle().take(count) {
                let _ = black_box(pool.store(black_box(page)));
            }
        }
        "load" | "load-unchecked" => {
            let handles: Vec<_> = variety.iter().filter_map(|page| pool.store(page).ok()).collect();
            start = Instant::now();
            for handle in handles.iter().cycle().take(count) {
                pool.load(*handle, black_box(&mut buffer)).ok()?;
            }
        }
        "replace" => {
            let mut next = variety.iter().copied().cycle();
            let mut held = Vec::new();
            for _ in 0..PAGES / 4 {
                held.push(store_next(&pool, &mut next)?);
            }
            let mut rng = Rng::new(3);
            start = Instant::now();
            for _ in 0..count {
                let at = rng.below(held.len() as u64) as usize;
                pool.free(held[at]).ok()?;
                held[at] = store_next(&pool, &mut next)?;
            }
        }
        _ => return None,
    }
    Some(start.elapsed().as_nanos() as f64 / count as f64)
}

/// A figure's place in the records.
struct What<'w> {
    case: &'w str,
    metric: &'w str,
    unit: &'w str,
    note: &'w str,
}

fn print(what: &What<'_>, ours: f64, peer: Option<(f64, &str)>, target: Option<f64>) {
    let round = |x: f64| (x * 100.0).round() / 100.0;
    let ratio = peer.map(|(peer, _)| peer / ours);
    let met = target.map(|target| ratio.map_or(ours <= target, |ratio| ratio >= target));
    println!(
        "{}",
        serde_json::json!({
            "bench": "swap", "case": what.case, "metric": what.metric, "unit": what.unit, "ours": round(ours),
            "peer": peer.map(|(peer, _)| round(peer)), "peer_name": peer.map(|(_, name)| name),
            "ratio": ratio.map(round), "target": target, "met": met, "note": what.note,
        })
    );
}

/// The median time of an operation, in nanoseconds.
fn median(case: &str, host: Host) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| match run(case, TIMED, host) {
            Some(ns) => ns,
            None => unreachable!("{case} is no case, or a page was refused or lost"),
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn times(host: Host) {
    let note = "host, median of 9 rounds";
    let (read, copy) = (median("read", host), median("copy", host));
    for (metric, case, target) in [
        ("store", "same store", Some(0.5)),
        ("load, zeros", "same load", Some(0.5)),
        ("load, a word", "same load pattern", Some(0.5)),
        ("refuse", "same refuse", None),
    ] {
        let what = What { case: "same-filled", metric, unit: "ns", note };
        print(&what, median(case, host), Some((read, "read")), target);
    }
    for corpus in Corpus::COMPRESSIBLE {
        let case = format!("pool, {}", corpus.name());
        for (metric, verb) in [
            ("store", "store"),
            ("load", "load"),
            ("load without checksum", "load-unchecked"),
            ("free + store, at 6 % overhead", "replace"),
        ] {
            let what = What { case: &case, metric, unit: "ns", note };
            print(&what, median(&format!("{verb} {}", corpus.name()), host), Some((copy, "copy")), None);
        }
    }
}

fn density(host: Host, corpus: Corpus) {
    let numbers = std::cell::Cell::new(0);
    let mut pages = std::iter::repeat_with(|| {
        numbers.set(numbers.get() + 1);
        corpus.page(numbers.get())
    });
    let first = pool(host, PAGES, true);
    let taken = (0..PAGES).filter_map(|_| store_next(&first, &mut pages)).count();
    let offered = numbers.get();
    let needed = first.frames().0;
    drop(first);
    let case = format!("pool, {}", corpus.name());
    let what =
        |metric, unit| What { case: &case, metric, unit, note: "20000 pages, tables for 10 % more frames" };
    print(&what("pages refused", "%"), (offered - taken as u64) as f64 / offered as f64 * 100.0, None, None);
    let pool = pool(host, needed.get() * 11 / 10, true);
    let mut held: Vec<_> = (0..PAGES).filter_map(|_| store_next(&pool, &mut pages)).collect();
    tell(&what, "filled", &pool.stats());
    let (mut rng, before) = (Rng::new(9), pool.stats());
    for _ in 0..PAGES * 3 {
        let at = rng.below(held.len() as u64) as usize;
        if pool.free(held[at]).is_err() {
            unreachable!("a page that nobody else knows is gone");
        }
        match store_next(&pool, &mut pages) {
            Some(handle) => held[at] = handle,
            None => unreachable!("there are always more pages"),
        }
    }
    let after = pool.stats();
    tell(&what, "churned", &after);
    let moved = (after.moved - before.moved) as f64 / (PAGES * 3) as f64;
    print(&what("objects moved for each that is replaced", "objects"), moved, None, None);
    pool.compact();
    tell(&what, "compacted", &pool.stats());
}

/// Densities beside what the compressed bytes alone would be.
fn tell<'w>(what: &impl Fn(&'w str, &'w str) -> What<'w>, when: &str, stats: &Stats) {
    let compressed = stats.compressed_bytes as f64;
    let held = compressed + stats.overhead_bytes() as f64;
    let pages = (stats.stored * FRAME_SIZE as u64) as f64;
    let (size, overhead) = match when {
        "filled" => ("held, filled", "overhead, filled"),
        "churned" => ("held, churned", "overhead, churned"),
        _ => ("held, compacted", "overhead, compacted"),
    };
    let bound = Some((compressed / pages * 100.0, "compressed bytes alone"));
    print(&what(size, "% of the pages"), held / pages * 100.0, bound, None);
    print(&what(overhead, "%"), stats.overhead_bytes() as f64 / compressed * 100.0, None, Some(6.0));
}

fn main() -> ExitCode {
    let host = Machine::new(1);
    let _cpu = host.enter(CpuId::BOOT);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            times(host);
            Corpus::COMPRESSIBLE.into_iter().for_each(|corpus| density(host, corpus));
        }
        ["--loop", case, count] => {
            let Some(ns) = count.parse().ok().and_then(|count| run(case, count, host)) else {
                eprintln!("bench_swap: no such case");
                return ExitCode::FAILURE;
            };
            println!("{ns}");
        }
        _ => {
            eprintln!("usage: bench_swap [--loop CASE COUNT]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
