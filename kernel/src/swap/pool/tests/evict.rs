//! The order in which pages leave for the next tier.

use super::*;

fn take(pool: &TestPool<'_>) -> Option<Handle> {
    let mut buffer = [0; FRAME_SIZE];
    match evict(pool, &mut buffer, |_, _| Verdict::Taken) {
        Evicted::Taken(handle) => Some(handle),
        Evicted::Nothing => None,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn the_first_in_is_the_first_out_also_after_compaction() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(1024)).unwrap();
    let handles: Vec<_> = (0..600).map(|n| pool.store(&page(100 + n as usize, n)).unwrap()).collect();
    let left: Vec<_> =
        handles.iter().enumerate().filter(|(n, _)| n % 3 == 0).map(|(_, handle)| *handle).collect();
    for (n, handle) in handles.iter().enumerate() {
        if n % 3 != 0 {
            pool.free(*handle).unwrap();
        }
    }
    pool.compact();
    for handle in left {
        assert_eq!(take(&pool), Some(handle));
        assert_eq!(pool.free(handle), Err(Fault::NotStored));
    }
    assert_eq!((take(&pool), frames.held()), (None, 0));
}

#[test]
fn what_was_loaded_or_kept_goes_to_the_end_once() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(1024)).unwrap();
    let handles: Vec<_> = (0..40).map(|n| pool.store(&page(300, n)).unwrap()).collect();
    let mut buffer = [0; FRAME_SIZE];
    for handle in handles.iter().step_by(2) {
        pool.load(*handle, &mut buffer).unwrap();
    }
    let kept = evict(&pool, &mut buffer, |_, _| Verdict::Keep);
    assert_eq!(kept, Evicted::Kept(handles[1]), "the first one was loaded");
    let mut expected: Vec<_> = (3..40).step_by(2).collect();
    expected.extend((0..40).step_by(2));
    expected.insert(20, 1);
    let order: Vec<_> = core::iter::from_fn(|| take(&pool)).collect();
    let number = |handle: &Handle| handles.iter().position(|other| other == handle).unwrap();
    let order: Vec<_> = order.iter().map(number).collect();
    assert_eq!(order.len(), 40);
    assert_eq!(order[..19], expected[..19], "those that nobody wanted, in their order");
    let mut rest = order[19..].to_vec();
    rest.sort_unstable();
    let mut spared = expected[19..].to_vec();
    spared.sort_unstable();
    assert_eq!(rest, spared);
}

#[test]
fn shards_take_turns_by_age() {
    let (host, mut cpu) = machine(2);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, Config { shards: 2, ..config(1024) }).unwrap();
    let mut stored = Vec::new();
    for round in 0..4 {
        cpu.move_to(CpuId::new(round % 2).unwrap());
        stored.push((0..50).map(|n| pool.store(&page(1000, n)).unwrap()).collect::<Vec<_>>());
    }
    let order: Vec<_> = core::iter::from_fn(|| take(&pool)).collect();
    let place = |wanted: Handle| order.iter().position(|handle| *handle == wanted).unwrap();
    assert_eq!(order.len(), 200);
    for pair in stored.windows(2) {
        assert!(place(pair[0][25]) < place(pair[1][25]));
    }
}

#[test]
fn a_page_that_is_freed_while_it_leaves_is_freed_once() {
    let (host, _cpu) = machine(1);
    let frames = HostFrames::new();
    let pool = TestPool::new(&frames, host, config(64)).unwrap();
    let (first, second) = (pool.store(&page(10, 1)).unwrap(), pool.store(&page(10, 2)).unwrap());
    let mut buffer = [0; FRAME_SIZE];
    let evicted = evict(&pool, &mut buffer, |handle, leaving| {
        assert_eq!((handle, *leaving == page(10, 1)), (first, true));
        let mut inner = [0; FRAME_SIZE];
        pool.load(first, &mut inner).unwrap();
        // Meanwhile the next one may leave, and this one is not offered again.
        assert_eq!(evict(&pool, &mut inner, |_, _| Verdict::Taken), Evicted::Taken(second));
        assert_eq!(evict(&pool, &mut inner, |_, _| Verdict::Taken), Evicted::Nothing);
        pool.free(first).unwrap();
        Verdict::Taken
    });
    assert_eq!((evicted, frames.held()), (Evicted::Taken(first), 0));
    pool.validate().unwrap();
}
