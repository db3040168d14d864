//! How densely the pool stores: in bytes, so that it does not depend on the machine.

use workload::corpus::Corpus;

use super::*;
use crate::swap::pool::{Refused, Stats};

const PAGES: u64 = 3000;

/// What is held beyond the compressed bytes, in thousandths of these.
fn overhead_permille(stats: &Stats) -> u64 {
    stats.overhead_bytes() * 1000 / stats.compressed_bytes
}

/// The first `PAGES` pages that the pool takes: of the zero-heavy ones, some are not.
fn stored(corpus: Corpus, pool: &TestPool<'_>, pages: &mut impl Iterator<Item = u64>) -> (u64, Handle) {
    loop {
        let n = pages.next().unwrap();
        match pool.store(&corpus.page(n)) {
            Ok(handle) => return (n, handle),
            Err(why) => assert!(matches!(why, Refused::Incompressible { .. }), "{why}"),
        }
    }
}

fn filled(corpus: Corpus, pool: &TestPool<'_>, pages: &mut impl Iterator<Item = u64>) -> Vec<(u64, Handle)> {
    (0..PAGES).map(|_| stored(corpus, pool, pages)).collect()
}

/// Frames for `PAGES` pages of this kind, and some more.
fn capacity(corpus: Corpus) -> u64 {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(PAGES)).unwrap();
    filled(corpus, &pool, &mut (0..));
    frames.held() * 11 / 10
}

#[test]
fn the_overhead_is_at_most_6_percent_when_filled_and_under_churn() {
    for corpus in Corpus::COMPRESSIBLE {
        let capacity = capacity(corpus);
        let (host, _cpu) = machine(1);
        let frames = HostFrames::new();
        let pool = TestPool::new(&frames, host, config(capacity)).unwrap();
        let mut pages = 0..;
        let mut held = filled(corpus, &pool, &mut pages);
        let filled = pool.stats();
        let percent = filled.compressed_bytes * 100 / (PAGES * FRAME_SIZE as u64);
        let expected = match corpus {
            Corpus::ZeroHeavy => 34..=35,
            Corpus::Text => 71..=72,
            _ => 13..=15,
        };
        assert!(expected.contains(&percent), "{} became {percent} %", corpus.name());
        let mut rng = Rng::new(11);
        for _ in 0..PAGES * 2 {
            let at = rng.below(PAGES) as usize;
            pool.free(held[at].1).unwrap();
            held[at] = stored(corpus, &pool, &mut pages);
        }
        pool.validate().unwrap();
        let churned = pool.stats();
        pool.compact();
        let compacted = pool.stats();
        for (when, stats) in [("filled", filled), ("churned", churned), ("compacted", compacted)] {
            let permille = overhead_permille(&stats);
            std::println!(
                "{} {when}: {} bytes a page, overhead {permille} permille, moved {}",
                corpus.name(),
                stats.compressed_bytes / PAGES,
                stats.moved
            );
            assert!(permille <= 60, "{} {when}: {permille} permille, {stats:?}", corpus.name());
        }
        assert_eq!(frames.held(), compacted.frames().get());
    }
}

#[test]
fn what_is_freed_comes_back_as_frames() {
    for corpus in Corpus::COMPRESSIBLE {
        let (host, _cpu) = machine(1);
        let frames = HostFrames::new();
        let pool = TestPool::new(&frames, host, config(PAGES)).unwrap();
        let held = filled(corpus, &pool, &mut (0..));
        let full = frames.held();
        for (at, (_, handle)) in held.iter().enumerate() {
            if at % 10 != 3 {
                pool.free(*handle).unwrap();
            }
        }
        let before = frames.held();
        let given = pool.compact();
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!(before - frames.held(), given.get());
        assert_eq!(stats.stored, PAGES / 10);
        // What is left needs a tenth of the log, and entries that cannot move.
        let needed = stats.live_bytes.div_ceil(FRAME_SIZE as u64);
        assert!(stats.log_frames <= needed + 1, "{stats:?} needs {needed}");
        assert!(frames.held() * 5 < full, "{} of {full} frames are left", frames.held());
        let mut back = [0; FRAME_SIZE];
        for (n, handle) in held.into_iter().skip(3).step_by(10) {
            pool.load(handle, &mut back).unwrap();
            assert!(back == corpus.page(n));
            pool.free(handle).unwrap();
        }
        assert_eq!(frames.held(), 0);
    }
}
