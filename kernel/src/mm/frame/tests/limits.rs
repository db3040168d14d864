//! Exhaustion, odd memory maps, and what the metadata costs.

use super::*;
use std::collections::BTreeSet;

/// Holes, fragments smaller than a block at both ends, and memory above 4 GiB.
fn odd_map() -> Vec<FrameRange> {
    std::vec![range(3, 150), range(700, 100), range(800, 30), range(1000, 3000), range((1 << 20) + 300, 2000)]
}

#[test]
fn every_order_can_be_exhausted_and_comes_back_whole() {
    for k in 0..=9 {
        let mut memory = Memory::of_blocks(5, 2);
        let frames = memory.allocator();
        let mut held = Vec::new();
        let error = loop {
            match frames.alloc(if held.len() % 2 == 0 { kernel() } else { paged() }.order(order(k))) {
                Ok(extent) => held.push(extent),
                Err(error) => break error,
            }
        };
        assert_eq!(error, AllocError::Exhausted { order: order(k), free: Frames::ZERO });
        assert_eq!(held.len(), (5 * 512) >> k, "order {k}");
        let firsts: BTreeSet<_> = held.iter().map(Extent::first).collect();
        assert_eq!(firsts.len(), held.len());
        assert!(firsts.iter().all(|first| first.is_aligned(order(k))));
        frames.validate().unwrap();
        assert_eq!(frames.stats().failures, 1);
        for extent in held {
            frames.free(extent, Contents::Unknown, VcpuId::new(1)).unwrap();
        }
        frames.validate().unwrap();
        frames.drain(CPU);
        assert_eq!(frames.stats().whole_blocks, 5);
        frames.validate().unwrap();
    }
}

#[test]
fn every_frame_of_an_odd_map_is_handed_out_once_and_no_other() {
    let map = odd_map();
    let expected: BTreeSet<u64> = map.iter().flat_map(|r| r.start().get()..r.end().get()).collect();
    let mut memory = Memory::new(&map, 3);
    let frames = memory.allocator();
    frames.validate().unwrap();
    assert_eq!(frames.stats().managed.get(), expected.len() as u64);
    let mut held = Vec::new();
    while let Ok(extent) = frames.alloc(paged()) {
        held.push(extent);
    }
    let got: BTreeSet<u64> = held.iter().map(|e| e.first().get()).collect();
    assert_eq!(got, expected);
    frames.validate().unwrap();
    for extent in held {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    frames.drain(CPU);
    frames.validate().unwrap();
    let whole =
        map.iter().map(|r| (r.end().get() / 512).saturating_sub(r.start().get().div_ceil(512))).sum::<u64>();
    assert_eq!(frames.stats().whole_blocks, whole);
}

#[test]
fn fragments_smaller_than_a_block_serve_what_fits() {
    let mut memory = Memory::new(&[range(1, 6)], 0);
    let frames = memory.allocator();
    assert_eq!(frames.stats().free_by_order[..3], [2, 2, 0]);
    assert_eq!(
        frames.alloc(kernel().order(order(2))).map(|_| ()),
        Err(AllocError::Exhausted { order: order(2), free: Frames::new(6) })
    );
    let pair = frames.alloc(paged().order(order(1))).unwrap();
    assert!(pair.first().is_aligned(order(1)));
    frames.validate().unwrap();
    frames.free(pair, Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
}

#[test]
fn reserved_frames_are_left_alone_until_they_are_released() {
    let mut memory = Memory::of_blocks(2, 1);
    let frames = memory.with_reserved(&[range(0, 100), range(300, 1), range(511, 2)], 1);
    frames.validate().unwrap();
    let stats = frames.stats();
    assert_eq!((stats.reserved, stats.managed), (Frames::new(103), Frames::new(1024 - 103)));
    assert_eq!(frames.state(Gfn::new(99)), FrameState::Reserved);
    assert_eq!(stats.whole_blocks, 0);
    let wrong = frames.unreserve(range(0, 101));
    assert_eq!(wrong, Err(Misuse::NotManaged(Gfn::new(100))));
    assert_eq!(frames.state(Gfn::new(0)), FrameState::Reserved, "all or nothing");
    for part in [range(0, 100), range(300, 1), range(511, 2)] {
        frames.unreserve(part).unwrap();
        frames.validate().unwrap();
    }
    assert_eq!(frames.stats().whole_blocks, 2);
    assert_eq!(frames.stats().reserved, Frames::ZERO);
}

#[test]
fn a_wholly_reserved_block_is_counted() {
    let mut memory = Memory::of_blocks(2, 0);
    let frames = memory.with_reserved(&[range(0, 512)], 1);
    frames.validate().unwrap();
    assert_eq!(frames.state(Gfn::new(5)), FrameState::Reserved);
    frames.unreserve(range(0, 512)).unwrap();
    frames.validate().unwrap();
    assert_eq!(frames.stats().whole_blocks, 2);
}

#[test]
fn metadata_of_the_wrong_size_is_refused() {
    let mut memory = Memory::of_blocks(2, 0);
    let config = Config { memory: &[range(0, 512)], reserved: &[], id: 0 };
    let metadata = Metadata { entries: &mut memory.entries, blocks: &mut memory.blocks, magazines: &mut [] };
    let refused = FrameAllocator::<TicketLocks>::new(config, metadata).err();
    assert_eq!(refused, Some(MapError::WrongMetadata));
}

#[test]
fn entries_of_blocks_that_are_not_used_stay_zero() {
    let mut memory = Memory::of_blocks(8, 1);
    {
        let frames = memory.allocator();
        // Two blocks into the balloon, a run taken and freed, one frame kept.
        for _ in 0..2 {
            let block = frames.take_block_for_balloon(Contents::Unknown).unwrap();
            let block = frames.mark_ballooned(block).unwrap();
            frames.deposit(block).unwrap();
        }
        let run = frames.allocate_run(3, 1, Use::Kernel, Owner::NONE, CPU).unwrap();
        frames.free_run(run, Contents::Unknown).unwrap();
        let kept = frames.alloc(kernel().order(order(1))).unwrap();
        frames.detach(kept).unwrap();
        frames.drain(CPU);
        frames.validate().unwrap();
    }
    let used: Vec<usize> = memory
        .entries
        .chunks(512)
        .enumerate()
        .filter(|(_, page)| page.iter().any(|entry| entry.get() != Head::Nothing))
        .map(|(i, _)| i)
        .collect();
    assert_eq!(used.len(), 1, "only the block with the kept extent: {used:?}");
}

#[test]
fn a_table_can_hold_more_than_four_gibibytes_of_holes() {
    let mut memory = Memory::new(&[range(16, 1000), range(1 << 20, 512)], 1);
    let frames = memory.allocator();
    assert_eq!(frames.state(Gfn::new(500_000)), FrameState::Absent);
    assert_eq!(frames.state(Gfn::new(3)), FrameState::Absent);
    let block = frames.alloc(paged().order(Order::BLOCK)).unwrap();
    assert_eq!(block.first(), Gfn::new(1 << 20), "the only whole block lies above 4 GiB");
    frames.validate().unwrap();
    frames.free(block, Contents::Unknown, CPU).unwrap();
}

#[test]
fn more_than_a_block_is_a_run() {
    let mut memory = Memory::new(&[range(512, 512 * 9)], 1);
    let frames = memory.allocator();
    assert_eq!(frames.alloc(kernel().order(order(10))).map(|_| ()), Err(AllocError::TooLarge(order(10))));
    let four = frames.allocate_run(4, 4, Use::Special, Owner::NONE, CPU).unwrap();
    assert_eq!((four.first(), four.frames()), (Gfn::new(4 * 512), Frames::new(2048)));
    let refused = frames.allocate_run(3, 4, Use::Special, Owner::NONE, CPU);
    // Blocks 1–3 and 8–9 are left: block 8 is aligned, but only two blocks follow.
    assert_eq!(refused.map(|_| ()), Err(AllocError::NoRun { blocks: 3, whole: 5 }));
    let three = frames.allocate_run(3, 1, Use::Paged, Owner::NONE, CPU).unwrap();
    assert_eq!(three.first(), Gfn::new(512));
    assert!(frames.allocate_run(0, 1, Use::Paged, Owner::NONE, CPU).is_err());
    assert!(frames.allocate_run(1, 0, Use::Paged, Owner::NONE, CPU).is_err());
    assert!(frames.allocate_run(u64::MAX, 1, Use::Paged, Owner::NONE, CPU).is_err());
    frames.validate().unwrap();
    for block in three.into_blocks() {
        frames.free(block, Contents::Unknown, CPU).unwrap();
    }
    frames.free_run(four, Contents::Zero).unwrap();
    frames.validate().unwrap();
    assert_eq!((frames.stats().whole_blocks, frames.stats().known_zero), (9, Frames::new(2048)));
}

#[test]
fn the_reserve_is_for_emergencies() {
    let mut memory = Memory::of_blocks(8, 1);
    let frames = memory.allocator();
    let min = frames.stats().watermarks.min;
    assert_eq!(min, Frames::new(128));
    let normal = Request::new(Use::Kernel, CPU);
    let mut held = Vec::new();
    let error = loop {
        match frames.alloc(normal) {
            Ok(extent) => held.push(extent),
            Err(error) => break error,
        }
    };
    assert_eq!(error, AllocError::Reserve { free: min, min });
    assert_eq!(frames.stats().available(), min);
    let more = frames.alloc(normal.emergency()).unwrap();
    assert_eq!(frames.stats().cached, Frames::ZERO, "an emergency takes one frame, not a magazine full");
    assert!(frames.alloc(normal).is_err(), "and the next request gets nothing by it");
    frames.free(more, Contents::Unknown, CPU).unwrap();
    for extent in held {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    frames.validate().unwrap();
}
