//! Memory that changes under the pool: named errors, no panic, and nothing that was never stored.

use std::collections::HashMap;

use workload::corpus::Corpus;

use super::*;
use crate::swap::pool::Refused;
use crate::swap::pool::scratch::unpack;
use crate::swap::pool::slot::Slot;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::swap) enum Kind {
    Log,
    Entries,
}

/// Lets `change` change the `nth` frame of this kind, if there is one.
fn reach(pool: &TestPool<'_>, kind: Kind, nth: usize, change: impl FnOnce(&mut FrameBytes)) {
    let mut shard = pool.shards[0].lock();
    let mut frames = shard.slots.iter_mut().filter_map(|slot| match slot {
        Slot::Log(log) if kind == Kind::Log => Some(&mut log.frame),
        Slot::Entries(entries) if kind == Kind::Entries => Some(&mut entries.frame),
        _ => None,
    });
    if let Some(frame) = frames.nth(nth) {
        change(frame);
    }
}

/// Flips bits of a byte.
pub(in crate::swap) fn flip(pool: &TestPool<'_>, kind: Kind, nth: usize, at: usize, mask: u8) {
    reach(pool, kind, nth, |frame| frame[at] ^= mask);
}

#[test]
fn a_flipped_bit_in_an_object_is_named() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(16)).unwrap();
    let stored = page(200, 3);
    let handle = pool.store(&stored).unwrap();
    let stats = pool.stats();
    let mut back = [0; FRAME_SIZE];
    for bit in 0..stats.live_bytes as usize * 8 {
        flip(&pool, Kind::Log, 0, bit / 8, 1 << (bit % 8));
        let expected = match bit / 8 {
            0..4 => Err(Fault::Corrupt(Corruption::Checksum)),
            4..8 => Err(Fault::Corrupt(Corruption::Header)),
            // The tag, and the compressed page.
            at if at < 8 + 4 + stats.compressed_bytes as usize => Err(Fault::Corrupt(Corruption::Checksum)),
            _ => Ok(()), // padding
        };
        assert_eq!(pool.load(handle, &mut back), expected, "bit {bit}");
        flip(&pool, Kind::Log, 0, bit / 8, 1 << (bit % 8));
    }
    pool.load(handle, &mut back).unwrap();
    assert!(back == stored && pool.stats().corrupt >= 8 * (12 + stats.compressed_bytes));
    // What is corrupt can still be freed.
    flip(&pool, Kind::Log, 0, 5, 0xFF);
    pool.free(handle).unwrap();
    assert_eq!(frames.held(), 0);
}

#[test]
fn a_flipped_bit_in_an_entry_never_gives_other_data() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(64)).unwrap();
    let handles: Vec<_> = (0..40).map(|n| pool.store(&page(200, n)).unwrap()).collect();
    let mut back = [0; FRAME_SIZE];
    let mut named = 0;
    for (n, handle) in handles.iter().enumerate() {
        let mut sound = [0; FRAME_SIZE];
        reach(&pool, Kind::Entries, 0, |frame| sound = *frame);
        for bit in 0..64 {
            flip(&pool, Kind::Entries, 0, n * 8 + bit / 8, 1 << (bit % 8));
            match pool.load(*handle, &mut back) {
                Ok(()) => assert!(back == page(200, n as u64)),
                Err(Fault::Corrupt(_)) => named += 1,
                Err(Fault::NotStored) => {}
            }
            reach(&pool, Kind::Entries, 0, |frame| *frame = sound);
        }
        pool.load(*handle, &mut back).unwrap();
    }
    assert!(named > 40 * 60, "{named}");
    flip(&pool, Kind::Entries, 0, 0, 0x10);
    assert_eq!(pool.free(handles[0]), Err(Fault::Corrupt(Corruption::Entry)));
}

#[test]
fn a_corrupt_page_is_offered_to_nobody_and_named_once() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(16)).unwrap();
    let (bad, good) = (pool.store(&page(200, 1)).unwrap(), pool.store(&page(200, 2)).unwrap());
    flip(&pool, Kind::Log, 0, 100, 1);
    let mut buffer = [0; FRAME_SIZE];
    let evicted = evict(&pool, &mut buffer, |_, _| unreachable!("it is corrupt"));
    assert_eq!(evicted, Evicted::Corrupt(bad, Corruption::Checksum));
    assert_eq!(evict(&pool, &mut buffer, |_, _| Verdict::Taken), Evicted::Taken(good));
    assert_eq!(evict(&pool, &mut buffer, |_, _| Verdict::Taken), Evicted::Nothing);
    pool.free(bad).unwrap();
    assert_eq!((frames.held(), pool.stats().corrupt), (0, 1));
}

#[test]
fn a_damaged_header_hides_what_follows_from_walks_only() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(64)).unwrap();
    let handles: Vec<_> = (0..40).map(|n| pool.store(&page(300, n)).unwrap()).collect();
    flip(&pool, Kind::Log, 0, 6, 0x7F);
    for handle in handles.iter().skip(1).step_by(2) {
        pool.free(*handle).unwrap();
    }
    pool.compact();
    assert_eq!(pool.stats().damaged_frames, 1);
    let mut back = [0; FRAME_SIZE];
    assert_eq!(pool.load(handles[0], &mut back), Err(Fault::Corrupt(Corruption::Header)));
    for n in (2..40).step_by(2) {
        pool.load(handles[n], &mut back).unwrap();
        assert!(back == page(300, n as u64));
    }
    for handle in handles.iter().step_by(2) {
        pool.free(*handle).unwrap();
    }
    assert_eq!(frames.held(), 0, "also the damaged frame came back");
}

#[test]
fn random_damage_and_random_operations_never_panic_and_never_give_other_data() {
    for seed in 0..60 {
        let (host, _cpu) = machine(1);
        let frames = HostFrames::new();
        let pool = TestPool::new(&frames, host, config(256)).unwrap();
        let mut rng = Rng::new(seed);
        let mut held: HashMap<Handle, (usize, u64)> = HashMap::new();
        let mut buffer = [0; FRAME_SIZE];
        let mut named = 0;
        for step in 0..1500 {
            let any = held.keys().nth(rng.below(held.len().max(1) as u64) as usize).copied();
            match (rng.below(20), any) {
                (0..8, _) => {
                    let (bytes, random) = (1 + rng.below(1200) as usize, rng.draw());
                    match pool.store(&page(bytes, random)) {
                        // The entry of a page that was lost may be used again.
                        Ok(handle) => drop(held.insert(handle, (bytes, random))),
                        Err(why) => assert!(matches!(why, Refused::Limit | Refused::NoFrame), "{why}"),
                    }
                }
                (8..12, Some(handle)) => match pool.load(handle, &mut buffer) {
                    Ok(()) => {
                        let (bytes, random) = held[&handle];
                        assert!(buffer == page(bytes, random), "seed {seed} step {step} {handle:?}");
                    }
                    Err(_) => named += 1,
                },
                (12..15, Some(handle)) => {
                    named += u32::from(pool.free(handle).is_err());
                    held.remove(&handle);
                }
                (15..17, _) => {
                    let evicted = evict(&pool, &mut buffer, |handle, page| {
                        if let Some((bytes, random)) = held.get(&handle) {
                            assert!(*page == super::page(*bytes, *random), "seed {seed} step {step}");
                        }
                        Verdict::Taken
                    });
                    if let Evicted::Taken(handle) = evicted {
                        held.remove(&handle);
                    }
                }
                (17, _) => drop(pool.compact()),
                (18, _) if step > 300 => {
                    let kind = if rng.below(4) == 0 { Kind::Entries } else { Kind::Log };
                    let nth = rng.below(frames.held() + 1) as usize;
                    for _ in 0..rng.below(4) {
                        flip(&pool, kind, nth, rng.below(4096) as usize, 1 << rng.below(8));
                    }
                }
                _ => {}
            }
        }
        let _ = pool.stats();
        assert!(named > 0, "seed {seed}: nothing was damaged");
        drop(pool);
        assert_eq!(frames.held(), 0);
    }
}

#[test]
fn the_decoder_survives_what_was_never_encoded() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, Config { checksum: false, ..config(64) }).unwrap();
    let (mut rng, mut buffer) = (Rng::new(1), [0; FRAME_SIZE]);
    let (mut refused, mut decoded) = (0, 0);
    for round in 0..400 {
        let corpus = Corpus::COMPRESSIBLE[round % 3];
        let Ok(handle) = pool.store(&corpus.page(round as u64)) else { continue };
        let length = pool.stats().compressed_bytes;
        for _ in 0..50 {
            for _ in 0..1 + rng.below(3) {
                flip(&pool, Kind::Log, 0, 8 + rng.below(length.min(4000)) as usize, rng.draw() as u8);
            }
            match pool.load(handle, &mut buffer) {
                Ok(()) => decoded += 1,
                Err(why) => {
                    assert_eq!(why, Fault::Corrupt(Corruption::Encoding));
                    refused += 1;
                }
            }
        }
        pool.free(handle).unwrap();
    }
    assert!(refused > 1000 && decoded > 10, "{refused} {decoded}");
    let mut noise = [0; FRAME_SIZE];
    for _ in 0..20_000 {
        noise.iter_mut().for_each(|byte| *byte = rng.draw() as u8 & rng.draw() as u8);
        let _ = unpack(&noise[..rng.below(4097) as usize], &mut buffer);
    }
}
