//! Pages that come where others were freed.

use super::*;

/// A pool that slides nothing by itself.
fn loose<'f>(frames: &'f HostFrames, host: Host) -> TestPool<'f> {
    let pool = TestPool::new(frames, host, config(1024)).unwrap();
    pool.set(&Settings { overhead_percent: 1000, ..Settings::new(Frames::new(1024)) });
    pool
}

#[test]
fn pages_of_one_size_come_where_others_went_over_the_ends_of_frames_too() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = loose(&frames, host);
    let mut held: Vec<_> = (0..100).map(|n| (n, pool.store(&page(700, n)).unwrap())).collect();
    let (before, mut back) = (pool.stats(), [0; FRAME_SIZE]);
    for round in 0..20 {
        // As many as are remembered, of which some go on in the next frame.
        for (at, (seed, handle)) in held.iter_mut().enumerate().skip(30).take(40) {
            pool.free(*handle).unwrap();
            *seed = 1000 + round * 100 + at as u64;
        }
        for (seed, handle) in &mut held[30..70] {
            *handle = pool.store(&page(700, *seed)).unwrap();
        }
        pool.validate().unwrap();
        for (seed, handle) in &held {
            pool.load(*handle, &mut back).unwrap();
            assert!(back == page(700, *seed), "round {round}");
        }
    }
    let after = pool.stats();
    assert_eq!((after.stored, after.moved), (100, before.moved));
    assert!(after.log_frames <= before.log_frames + 2, "{} and {}", before.log_frames, after.log_frames);
}

#[test]
fn a_smaller_page_leaves_a_rest_that_is_dead_and_a_larger_one_does_not_come() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = loose(&frames, host);
    let mut handles: Vec<_> = (0..5).map(|n| pool.store(&page(700, n)).unwrap()).collect();
    let full = pool.stats();
    for (size, is_smaller) in [(690, true), (600, false), (780, false)] {
        pool.free(handles.remove(0)).unwrap();
        handles.push(pool.store(&page(size, 9)).unwrap());
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!(stats.stored, 5);
        assert!(
            !is_smaller || (stats.log_frames, true) == (full.log_frames, stats.live_bytes < full.live_bytes)
        );
    }
    // What is left between them is found by who slides.
    pool.compact();
    pool.validate().unwrap();
    let stats = pool.stats();
    assert!(stats.moved > 0 && stats.log_frames == stats.live_bytes.div_ceil(FRAME_SIZE as u64), "{stats:?}");
    let mut back = [0; FRAME_SIZE];
    pool.load(handles[4], &mut back).unwrap();
    assert!(back == page(780, 9));
}

#[test]
fn a_page_in_a_hole_is_not_the_coldest() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = loose(&frames, host);
    let first: Vec<_> = (0..10).map(|n| pool.store_tagged(&page(700, n), n as u32).unwrap()).collect();
    pool.free(first[0]).unwrap();
    pool.store_tagged(&page(700, 77), 77).unwrap();
    let order: Vec<_> = core::iter::from_fn(|| pool.coldest()).map(|(_, tag)| tag).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 7, 8, 9, 77]);
}
