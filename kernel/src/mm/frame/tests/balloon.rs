//! Out of the guest and back.

use super::*;

fn inflate(frames: &FrameAllocator<'_>, extent: Extent) {
    frames.deposit(frames.mark_ballooned(extent).unwrap()).unwrap();
}

#[test]
fn blocks_go_out_and_come_back_unknown() {
    let mut memory = Memory::of_blocks(6, 1);
    let frames = memory.allocator();
    frames.free(frames.alloc(paged().order(Order::BLOCK)).unwrap(), Contents::Zero, CPU).unwrap();
    let zero = frames.take_block_for_balloon(Contents::Zero).unwrap();
    assert_eq!(zero.contents(), Contents::Zero, "no scrubbing needed");
    inflate(&frames, zero);
    for _ in 0..5 {
        let block = frames.take_block_for_balloon(Contents::Zero).unwrap();
        assert_eq!(block.contents(), Contents::Unknown);
        inflate(&frames, block);
    }
    assert!(frames.take_block_for_balloon(Contents::Zero).is_none());
    let stats = frames.stats();
    assert_eq!(
        (stats.ballooned_blocks, stats.ballooned, stats.present()),
        (6, Frames::new(3072), Frames::ZERO)
    );
    assert_eq!(stats.watermarks.high, Frames::ZERO, "no reserve for memory that is away");
    assert!(frames.alloc(kernel()).is_err());
    frames.validate().unwrap();
    for _ in 0..6 {
        frames.take_back(frames.withdraw_block().unwrap()).unwrap();
        frames.validate().unwrap();
    }
    assert!(frames.withdraw_block().is_none() && frames.withdraw_frame().is_none());
    assert_eq!((frames.stats().whole_blocks, frames.stats().known_zero), (6, Frames::ZERO));
}

#[test]
fn a_refused_extent_goes_back_the_way_it_came() {
    let mut memory = Memory::of_blocks(2, 1);
    let frames = memory.allocator();
    let block = frames.take_block_for_balloon(Contents::Unknown).unwrap();
    frames.free(block, Contents::Unknown, CPU).unwrap();
    inflate(&frames, frames.take_block_for_balloon(Contents::Unknown).unwrap());
    let block = frames.withdraw_block().unwrap();
    assert_eq!(frames.state(block.first()), FrameState::Ballooned);
    frames.validate().unwrap();
    frames.deposit(block).unwrap();
    frames.validate().unwrap();
    assert_eq!(frames.stats().ballooned_blocks, 1);
}

#[test]
fn a_block_may_come_back_frame_by_frame() {
    let mut memory = Memory::of_blocks(2, 0);
    let frames = memory.allocator();
    inflate(&frames, frames.take_block_for_balloon(Contents::Unknown).unwrap());
    for left in (0..512).rev() {
        let frame = frames.withdraw_frame().unwrap();
        assert_eq!(frames.state(frame.first()), FrameState::Ballooned);
        frames.take_back(frame).unwrap();
        assert_eq!(frames.stats().ballooned, Frames::new(left));
        assert!(frames.withdraw_block().is_none(), "not whole any more");
    }
    frames.validate().unwrap();
    assert_eq!(frames.stats().whole_blocks, 2);
}

#[test]
fn half_a_block_released_is_finished_in_pieces() {
    let mut memory = Memory::of_blocks(1, 0);
    let frames = memory.allocator();
    // The hypervisor took the lower half and one frame, then refused.
    let block = frames.take_block_for_balloon(Contents::Unknown).unwrap();
    let (gone, rest) = frames.split(block).unwrap();
    inflate(&frames, gone);
    let mut rest = rest;
    while rest.order() > Order::FRAME {
        let (low, high) = frames.split(rest).unwrap();
        frames.free(high, Contents::Unknown, CPU).unwrap();
        rest = low;
    }
    inflate(&frames, rest);
    frames.validate().unwrap();
    assert_eq!(frames.stats().ballooned, Frames::new(257));
    let frame = frames.withdraw_frame().unwrap();
    let used = frames.take_for(frame, Use::Kernel, Owner::NONE).unwrap();
    assert_eq!((frames.stats().pinned, used.contents()), (Frames::new(1), Contents::Unknown));
    frames.validate().unwrap();
    frames.free(used, Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
}

#[test]
fn pieces_deposited_become_a_block_again() {
    let mut memory = Memory::of_blocks(1, 0);
    let frames = memory.allocator();
    let ballooned = frames.mark_ballooned(frames.take_block_for_balloon(Contents::Unknown).unwrap()).unwrap();
    let (low, high) = frames.split_ballooned(ballooned).unwrap();
    frames.validate().unwrap();
    frames.deposit(high).unwrap();
    frames.validate().unwrap();
    assert!(frames.withdraw_block().is_none());
    frames.deposit(low).unwrap();
    frames.validate().unwrap();
    let block = frames.withdraw_block().unwrap();
    frames.take_back(block).unwrap();
    assert_eq!(frames.stats().whole_blocks, 1);
}

#[test]
fn single_frames_are_taken_where_they_hurt_least() {
    let mut memory = Memory::of_blocks(4, 0);
    let frames = memory.allocator();
    let one = frames.alloc(paged()).unwrap();
    let almost_full: Vec<_> = (0..8).map(|k| frames.alloc(kernel().order(order(8 - k))).unwrap()).collect();
    // A pinned block with two free frames, a movable one with 511, two whole.
    let taken: Vec<_> = (0..3).map(|_| frames.take_frame_for_balloon(Contents::Unknown).unwrap()).collect();
    let pinned_block = almost_full[0].first().get() / 512;
    let blocks: Vec<_> = taken.iter().map(|frame| frame.first().get() / 512).collect();
    assert_eq!(blocks, [pinned_block, pinned_block, one.first().get() / 512]);
    assert_eq!(frames.stats().whole_blocks, 2);
    for frame in taken {
        inflate(&frames, frame);
    }
    frames.validate().unwrap();
    for extent in almost_full.into_iter().chain([one]) {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    while let Some(frame) = frames.withdraw_frame() {
        frames.take_back(frame).unwrap();
    }
    frames.validate().unwrap();
    assert_eq!(frames.stats().whole_blocks, 4);
}

#[test]
fn the_last_frame_can_be_taken() {
    let mut memory = Memory::of_blocks(2, 0);
    let frames = memory.allocator();
    let mut count = 0;
    while let Some(frame) = frames.take_frame_for_balloon(Contents::Unknown) {
        inflate(&frames, frame);
        count += 1;
    }
    assert_eq!((count, frames.stats().ballooned_blocks), (1024, 2));
    frames.validate().unwrap();
}
