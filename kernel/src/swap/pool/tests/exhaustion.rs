//! No frame, at every allocation; limits; and what still works then.

use super::*;
use crate::swap::pool::Refused;
use crate::swap::pool::scratch::Scratch;

#[test]
fn a_refusal_at_any_allocation_changes_nothing_and_is_made_good() {
    for most in 0..40 {
        let (host, _cpu) = machine(1);
        let frames = HostFrames::new();
        frames.limit(Some(most));
        let pool = TestPool::new(&frames, host, config(1024)).unwrap();
        let mut handles = Vec::new();
        let mut refused = 0;
        for n in 0..400 {
            let before = pool.stats();
            match pool.store(&page(700, n)) {
                Ok(handle) => handles.push((n, handle)),
                Err(why) => {
                    assert_eq!(why, Refused::NoFrame);
                    refused += 1;
                    let after = pool.stats();
                    assert_eq!(after.refused_no_frame, before.refused_no_frame + 1);
                    assert_eq!((after.stored, after.live_bytes), (before.stored, before.live_bytes));
                }
            }
            pool.validate().unwrap();
            assert!(frames.held() <= u64::from(most));
        }
        assert!(refused > 0 && (most < 2) == handles.is_empty(), "{most} frames, {} stored", handles.len());
        let mut back = [0; FRAME_SIZE];
        for (n, handle) in &handles {
            pool.load(*handle, &mut back).unwrap();
            assert!(back == page(700, *n));
        }
        if most >= 2 {
            // A frame is entries, the others are full but for less than an object.
            let bytes = pool.stats().live_bytes;
            assert!(
                bytes + 744 > (u64::from(most) - 1) * FRAME_SIZE as u64,
                "{bytes} bytes in {most} frames"
            );
        }
        frames.limit(None);
        pool.store(&page(700, 1000)).unwrap();
    }
}

#[test]
fn loading_freeing_compacting_and_evicting_need_no_frame() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(1024)).unwrap();
    let handles: Vec<_> = (0..300).map(|n| pool.store(&page(500, n)).unwrap()).collect();
    frames.limit(Some(0));
    let allocations = frames.allocations();
    let mut back = [0; FRAME_SIZE];
    for (n, handle) in handles.iter().enumerate().skip(100) {
        pool.load(*handle, &mut back).unwrap();
        assert!(back == page(500, n as u64));
    }
    for handle in handles.iter().step_by(2) {
        pool.free(*handle).unwrap();
    }
    assert!(pool.compact() > Frames::ZERO);
    assert_eq!(frames.allocations(), allocations, "none was even asked for");
    frames.limit(Some(0));
    for left in (0..150).rev() {
        let evicted = evict(&pool, &mut back, |_, _| Verdict::Taken);
        assert!(matches!(evicted, Evicted::Taken(_)), "{evicted:?}");
        assert_eq!(pool.stats().stored, left);
        pool.validate().unwrap();
    }
    assert_eq!((frames.held(), pool.stats().evicted), (0, 150));
}

#[test]
fn dead_space_is_used_before_a_store_is_refused() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let limit = Frames::new(60);
    let settings = Settings { overhead_percent: 1000, ..Settings::new(limit) };
    let pool = TestPool::new(&frames, host, Config { settings, ..config(1024) }).unwrap();
    let mut handles = Vec::new();
    while let Ok(handle) = pool.store(&page(600, handles.len() as u64)) {
        handles.push(handle);
    }
    assert_eq!((pool.frames(), pool.stats().refused_limit), ((limit, limit), 1));
    for handle in handles.iter().step_by(3) {
        pool.free(*handle).unwrap();
    }
    let freed = handles.len().div_ceil(3);
    let again = (0..).take_while(|n| pool.store(&page(600, 10_000 + n)).is_ok()).count();
    assert!(again + 8 > freed, "{again} fit where {freed} were");
    pool.validate().unwrap();
}

#[test]
fn a_lower_limit_takes_nothing_away_and_a_higher_one_lets_more_in() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(1024)).unwrap();
    for n in 0..100 {
        pool.store(&page(1500, n)).unwrap();
    }
    let held = frames.held();
    pool.set(&Settings::percent_of(Frames::new(1000), 1));
    assert_eq!(pool.frames(), (Frames::new(held), Frames::new(10)));
    while pool.store(&page(1500, 1)).is_ok() {}
    assert_eq!((frames.held(), pool.stats().stored >= 100), (held, true));
    pool.set(&Settings::percent_of(Frames::new(1000), 500));
    assert_eq!(pool.frames().1, Frames::new(1000), "more than all is all");
    pool.store(&page(1500, 1)).unwrap();
}

#[test]
fn a_full_table_is_a_limit_too_and_other_shards_help() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, Config { shards: 4, ..config(40) }).unwrap();
    let refused = (0..).find_map(|n| pool.store(&page(1000, n)).err());
    assert_eq!(refused, Some(Refused::Limit));
    assert_eq!(frames.held(), 40, "all shards are full");
    let none = TestPool::new(&frames, host, config(0)).unwrap();
    assert_eq!(none.store(&page(10, 0)), Err(Refused::Limit));
}

#[test]
fn a_pool_is_made_on_a_small_stack() {
    // Less than the work memory of one CPU, of which there are eight.
    const STACK: usize = 16 << 10;
    const { assert!(Scratch::BYTES > STACK) };
    let host = Machine::new(8);
    let made = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let frames: &HostFrames = Box::leak(Box::new(HostFrames::new()));
        Box::new(TestPool::new(frames, host, config(1024)).unwrap())
    });
    let pool = made.unwrap().join().unwrap();
    let _cpu = host.enter(CpuId::BOOT);
    assert_eq!(pool.stats().scratch_bytes, 8 * Scratch::BYTES as u64);
}
