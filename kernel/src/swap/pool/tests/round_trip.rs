//! What is stored comes back, and what is not is refused by name.

use workload::corpus::Corpus;

use super::*;
use crate::swap::pool::Refused;

#[test]
fn pages_of_all_kinds_come_back_as_they_were() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(4096)).unwrap();
    // Some pages of zeros have few.
    pool.set(&Settings { most_bytes: Settings::MOST_BYTES, ..Settings::new(Frames::new(4096)) });
    let mut back = [0; FRAME_SIZE];
    for corpus in Corpus::COMPRESSIBLE {
        let handles: Vec<_> = (0..500).map(|n| pool.store(&corpus.page(n)).unwrap()).collect();
        for (n, handle) in handles.iter().enumerate() {
            assert!(handle.to_bits() < 1 << Handle::BITS);
            pool.load(Handle::from_bits(handle.to_bits()), &mut back).unwrap();
            assert!(back == corpus.page(n as u64), "{} page {n}", corpus.name());
        }
        pool.validate().unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.stored, stats.stores, stats.loads, stats.corrupt), (1500, 1500, 1500, 0));
    assert_eq!(stats.frames().get(), frames.held());
    drop(pool);
    assert_eq!(frames.held(), 0, "a pool takes its frames along");
}

#[test]
fn what_does_not_become_small_is_refused_and_costs_no_frame() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(16)).unwrap();
    let refused = pool.store(&Corpus::Random.page(1)).unwrap_err();
    assert!(matches!(refused, Refused::Incompressible { bytes: 4096.. }), "{refused}");
    assert!(matches!(pool.store(&page(3200, 1)), Err(Refused::Incompressible { bytes: 3073..=4096 })));
    assert_eq!((frames.held(), pool.stats().refused_incompressible), (0, 2));
    let loose = Settings { most_bytes: usize::MAX, ..Settings::new(Frames::new(16)) };
    pool.set(&loose);
    let handle = pool.store(&page(3200, 1)).unwrap();
    let mut back = [0; FRAME_SIZE];
    pool.load(handle, &mut back).unwrap();
    assert!(back == page(3200, 1));
    pool.set(&Settings { most_bytes: 0, ..loose });
    assert!(matches!(pool.store(&[0; FRAME_SIZE]), Err(Refused::Incompressible { .. })), "0 counts as 1");
}

#[test]
fn the_largest_object_fills_a_frame() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(64)).unwrap();
    pool.set(&Settings { most_bytes: usize::MAX, ..Settings::new(Frames::new(64)) });
    let mut handles = Vec::new();
    for random in 3900..FRAME_SIZE {
        if let Ok(handle) = pool.store(&page(random, 7)) {
            handles.push((random, handle));
        }
    }
    pool.validate().unwrap();
    assert!(handles.len() > 10, "{}", handles.len());
    for (n, (random, handle)) in handles.into_iter().enumerate() {
        let mut back = [0; FRAME_SIZE];
        pool.load(handle, &mut back).unwrap();
        assert!(back == page(random, 7));
        pool.free(handle).unwrap();
        if n % 16 == 0 {
            pool.validate().unwrap();
        }
    }
    assert_eq!(frames.held(), 0);
}

#[test]
fn a_handle_that_is_not_in_use_is_refused() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(16)).unwrap();
    let mut back = [0; FRAME_SIZE];
    let old = pool.store(&page(100, 1)).unwrap();
    let other = pool.store(&page(100, 2)).unwrap();
    pool.free(old).unwrap();
    assert_eq!(pool.free(old), Err(Fault::NotStored), "twice");
    assert_eq!(pool.load(old, &mut back), Err(Fault::NotStored));
    let new = pool.store(&page(100, 3)).unwrap();
    assert_ne!(new, old, "the entry is the same, and its generation is not");
    assert_eq!(pool.load(old, &mut back), Err(Fault::NotStored));
    let mut rng = Rng::new(5);
    for _ in 0..100_000 {
        let made_up = Handle::from_bits(rng.draw() >> rng.below(64));
        if ![new, other].contains(&made_up) {
            assert_eq!(pool.load(made_up, &mut back), Err(Fault::NotStored), "{made_up:?}");
            assert_eq!(pool.free(made_up), Err(Fault::NotStored), "{made_up:?}");
        }
    }
    pool.free(other).unwrap();
    pool.free(new).unwrap();
    assert_eq!(frames.held(), 0);
    // Also the frame of entries is new now.
    pool.store(&page(100, 4)).unwrap();
    assert_eq!(pool.load(new, &mut back), Err(Fault::NotStored));
    assert_eq!(pool.load(old, &mut back), Err(Fault::NotStored));
}

#[test]
fn a_pool_without_checksums_stores_the_same() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, Config { checksum: false, ..config(64) }).unwrap();
    let handle = pool.store(&Corpus::Text.page(1)).unwrap();
    let mut back = [0; FRAME_SIZE];
    pool.load(handle, &mut back).unwrap();
    assert!(back == Corpus::Text.page(1));
}
