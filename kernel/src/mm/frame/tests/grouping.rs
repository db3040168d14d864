//! Pinned and movable frames, known-zero frames, magazines, and the blocks that migration could empty.

use super::*;

fn block_of(extent: &Extent) -> u64 {
    extent.first().get() / 512
}

#[test]
fn classes_do_not_mix_while_whole_blocks_remain() {
    let mut memory = Memory::of_blocks(16, 0);
    let frames = memory.allocator();
    let mut random = Random::new(3);
    let mut class_of = [None; 16];
    let mut held = Vec::new();
    while frames.stats().whole_blocks > 0 {
        let request = if random.below(3) == 0 { kernel() } else { paged() };
        let extent = frames.alloc(request.order(order(random.below(4) as u8))).unwrap();
        let class = request.usage.class();
        let known = class_of[block_of(&extent) as usize].get_or_insert(class);
        assert_eq!(*known, class, "block {} is mixed", block_of(&extent));
        held.push(extent);
    }
    assert_eq!((frames.stats().pinned_steals, frames.stats().movable_steals), (0, 0));
    frames.validate().unwrap();
    for extent in held {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    assert_eq!(frames.stats().whole_blocks, 16);
}

#[test]
fn a_theft_opens_the_emptiest_block_and_the_next_goes_there_too() {
    let mut memory = Memory::of_blocks(4, 0);
    let frames = memory.allocator();
    // Three movable blocks of different fullness, and no whole block.
    let full = frames.alloc(kernel().order(Order::BLOCK)).unwrap();
    let blocks = [(); 3].map(|()| frames.alloc(paged().order(Order::BLOCK)).unwrap());
    let mut kept = Vec::new();
    for (block, keep) in blocks.into_iter().zip([400, 40, 200]) {
        let mut parts = std::vec![block];
        while parts[0].order() > Order::FRAME {
            parts = parts.into_iter().flat_map(|part| <[_; 2]>::from(frames.split(part).unwrap())).collect();
        }
        for (i, part) in parts.into_iter().enumerate() {
            if i < keep { kept.push(part) } else { frames.free(part, Contents::Unknown, CPU).unwrap() }
        }
    }
    assert_eq!(frames.stats().whole_blocks, 0);
    let first = frames.alloc(kernel()).unwrap();
    assert_eq!(block_of(&first), 2, "the emptiest movable block");
    let second = frames.alloc(kernel().order(order(4))).unwrap();
    assert_eq!(block_of(&second), 2, "now it is a pinned block");
    assert_eq!(frames.stats().pinned_steals, 1);
    let movable = frames.alloc(paged()).unwrap();
    assert_ne!(block_of(&movable), 2, "movable frames keep out of it");
    frames.validate().unwrap();
    // Once the pinned frames are gone, the block serves movable frames again.
    for extent in [first, second] {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    frames.validate().unwrap();
    assert_eq!(frames.stats().movable_steals, 0);
    for extent in kept.into_iter().chain([full, movable]) {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    frames.validate().unwrap();
    assert_eq!(frames.stats().whole_blocks, 4);
}

#[test]
fn the_fullest_block_serves_first() {
    let mut memory = Memory::of_blocks(3, 0);
    let frames = memory.allocator();
    let mut held: Vec<_> = (0..1024).map(|_| frames.alloc(paged()).unwrap()).collect();
    held.sort_by_key(Extent::first);
    // Block 0 keeps 10 frames, block 1 keeps 500.
    for (i, extent) in held.into_iter().enumerate() {
        if (10..512).contains(&i) || i >= 1012 {
            frames.free(extent, Contents::Unknown, CPU).unwrap();
        } else {
            frames.detach(extent).unwrap();
        }
    }
    for _ in 0..12 {
        let extent = frames.alloc(paged()).unwrap();
        assert_eq!(block_of(&extent), 1);
        frames.detach(extent).unwrap();
    }
    let mut found = [SparseBlock { first: Gfn::new(9), movable: Frames::ZERO }; 4];
    assert_eq!(frames.emptiest_blocks(Frames::new(64), &mut found), 1);
    assert_eq!(found[0], SparseBlock { first: Gfn::new(0), movable: Frames::new(10) });
}

#[test]
fn blocks_that_migration_could_empty_come_emptiest_first() {
    let mut memory = Memory::of_blocks(5, 0);
    let frames = memory.allocator();
    let keeps = [300, 5, 100, 450];
    for keep in keeps {
        let mut block = frames.alloc(paged().owner(Owner::new(77).unwrap()).order(Order::BLOCK)).unwrap();
        let mut left = keep;
        // Keep exactly `left` frames as a few extents.
        while block.order() > Order::FRAME && left > 0 {
            let (low, high) = frames.split(block).unwrap();
            if left >= low.frames().get() {
                left -= low.frames().get();
                frames.detach(low).unwrap();
                block = high;
            } else {
                frames.free(high, Contents::Unknown, CPU).unwrap();
                block = low;
            }
        }
        if left > 0 {
            frames.detach(block).map(|_| ()).unwrap()
        } else {
            frames.free(block, Contents::Unknown, CPU).unwrap()
        }
    }
    let pinned = frames.alloc(kernel()).unwrap();
    let empty = SparseBlock { first: Gfn::new(0), movable: Frames::ZERO };
    let mut found = [empty; 8];
    let count = frames.emptiest_blocks(Frames::new(310), &mut found);
    let movable: Vec<u64> = found[..count].iter().map(|b| b.movable.get()).collect();
    assert_eq!(movable, [5, 100, 300]);
    assert_eq!(frames.emptiest_blocks(Frames::new(512), &mut found[..2]), 2);
    let mut held = Vec::new();
    frames.held_in_block(found[0].first, |extent| held.push(extent));
    assert_eq!(held.iter().map(|e| e.order.frames().get()).sum::<u64>(), 5);
    assert!(held.iter().all(|e| e.owner.get() == 77 && e.detached && e.usage == Use::Paged));
    frames.free(pinned, Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
}

#[test]
fn what_was_zero_is_told_to_who_asks_for_it() {
    for cpus in [0, 1] {
        let mut memory = Memory::of_blocks(4, cpus);
        let frames = memory.allocator();
        let block = frames.alloc(paged().order(Order::BLOCK)).unwrap();
        assert_eq!(block.contents(), Contents::Unknown, "memory from the start is not known");
        frames.free(block, Contents::Zero, CPU).unwrap();
        assert_eq!(frames.stats().known_zero, Frames::new(512));
        let dirty = frames.alloc(paged().order(Order::BLOCK)).unwrap();
        assert_eq!(dirty.contents(), Contents::Unknown, "zero blocks are saved for who asks");
        let zero = frames.alloc(paged().order(Order::BLOCK).prefer_zero()).unwrap();
        assert_eq!(zero.contents(), Contents::Zero);
        frames.free(zero, Contents::Zero, CPU).unwrap();
        for _ in 0..512 {
            let frame = frames.alloc(paged().prefer_zero()).unwrap();
            assert_eq!(frame.contents(), Contents::Zero, "{} CPUs", cpus);
            frames.detach(frame).unwrap();
        }
        let frame = frames.alloc(paged().prefer_zero()).unwrap();
        assert_eq!(frame.contents(), Contents::Unknown, "no zero frame is left, and that is no error");
        frames.free(frame, Contents::Unknown, CPU).unwrap();
        frames.free(dirty, Contents::Unknown, CPU).unwrap();
        frames.validate().unwrap();
    }
}

#[test]
fn a_magazine_keeps_zero_frames_apart_and_spills_when_full() {
    let mut memory = Memory::of_blocks(16, 1);
    let frames = memory.allocator();
    let limit = frames.limit;
    assert_eq!(limit, 64);
    let held: Vec<_> = (0..200).map(|_| frames.alloc(paged()).unwrap()).collect();
    for (i, frame) in held.into_iter().enumerate() {
        let contents = if i % 2 == 0 { Contents::Zero } else { Contents::Unknown };
        frames.free(frame, contents, CPU).unwrap();
    }
    let stats = frames.stats();
    assert!(stats.cached.get() <= 2 * limit as u64);
    assert!(stats.cached.get() >= limit as u64);
    frames.validate().unwrap();
    let zero = frames.alloc(paged().prefer_zero()).unwrap();
    let dirty = frames.alloc(paged()).unwrap();
    assert_eq!((zero.contents(), dirty.contents()), (Contents::Zero, Contents::Unknown));
    frames.free(zero, Contents::Zero, CPU).unwrap();
    frames.free(dirty, Contents::Unknown, CPU).unwrap();
    let cached = frames.stats().cached;
    assert_eq!(frames.drain_cpu(CPU), cached);
    assert_eq!((frames.stats().cached, frames.stats().known_zero), (Frames::ZERO, Frames::new(100)));
    assert_eq!(frames.stats().whole_blocks, 16);
    frames.validate().unwrap();
}

#[test]
fn magazines_of_a_small_guest_are_small() {
    let mut memory = Memory::of_blocks(8, 8);
    let frames = memory.allocator();
    for cpu in 0..8 {
        let cpu = VcpuId::new(cpu);
        for usage in [Use::Kernel, Use::Paged] {
            let extent = frames.alloc(Request::new(usage, cpu)).unwrap();
            frames.free(extent, Contents::Unknown, cpu).unwrap();
        }
    }
    let stats = frames.stats();
    assert!(stats.cached.get() * 16 <= stats.managed.get(), "{} of {}", stats.cached, stats.managed);
    frames.validate().unwrap();
}

#[test]
fn frames_in_other_magazines_are_found_when_memory_is_short() {
    let mut memory = Memory::of_blocks(1, 4);
    let frames = memory.allocator();
    for cpu in 0..4 {
        let cpu = VcpuId::new(cpu);
        frames.free(frames.alloc(Request::new(Use::Paged, cpu)).unwrap(), Contents::Unknown, cpu).unwrap();
    }
    assert!(frames.stats().cached > Frames::ZERO);
    let block = frames.alloc(kernel().order(Order::BLOCK)).unwrap();
    assert_eq!(frames.stats().failures, 0);
    frames.free(block, Contents::Unknown, CPU).unwrap();
}

#[test]
fn a_magazine_for_one_cpu_is_emptied_when_it_comes_by() {
    let ranges = [range(0, 512)];
    let mut entries: Vec<_> = (0..512).map(|_| Entry::unused()).collect();
    let (mut blocks, mut magazines) = ([Block::new()], [Magazine::new(), Magazine::new()]);
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut magazines };
    let config = Config { memory: &ranges, reserved: &[], id: 1 };
    let frames = FrameAllocator::<LocalLocks>::new(config, metadata).unwrap();
    let other = VcpuId::new(1);
    let kept = frames.alloc(Request::new(Use::Paged, other)).unwrap();
    let cached = frames.stats().cached;
    assert!(cached > Frames::ZERO);
    let large = kernel().order(order(8));
    frames.detach(frames.alloc(large).unwrap()).unwrap();
    assert!(frames.alloc(large).is_err(), "the other CPU's frames are in the way");
    assert_eq!(frames.stats().cached, cached, "and nobody else may take them");
    frames.free(kept, Contents::Unknown, other).unwrap();
    assert_eq!(frames.stats().cached, Frames::ZERO, "given as soon as the CPU has left its magazine");
    let kept = frames.alloc(Request::new(Use::Paged, other)).unwrap();
    frames.answer(other);
    assert!(frames.stats().cached > Frames::ZERO, "it was asked once");
    assert_eq!(frames.drain(CPU), Frames::ZERO, "the other CPU is asked, and nobody waits");
    frames.answer(other);
    assert_eq!(frames.stats().cached, Frames::ZERO, "as rung");
    frames.free(kept, Contents::Unknown, other).unwrap();
    assert_eq!(frames.drain_cpu(other), Frames::new(1));
    frames.detach(frames.alloc(large).unwrap()).unwrap();
    assert_eq!(frames.validate(), Err(Inconsistency::Busy), "the other CPU may be at work");
    frames.park(other);
    frames.validate().unwrap();
}

#[test]
fn the_magazine_of_a_sleeping_cpu_is_emptied_by_others() {
    let ranges = [range(0, 512)];
    let mut entries: Vec<_> = (0..512).map(|_| Entry::unused()).collect();
    let (mut blocks, mut magazines) = ([Block::new()], [Magazine::new(), Magazine::new()]);
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut magazines };
    let config = Config { memory: &ranges, reserved: &[], id: 1 };
    let frames = FrameAllocator::<LocalLocks>::new(config, metadata).unwrap();
    let other = VcpuId::new(1);
    for awake in [false, true] {
        frames
            .free(frames.alloc(Request::new(Use::Paged, other)).unwrap(), Contents::Unknown, other)
            .unwrap();
        assert!(frames.stats().cached > Frames::ZERO);
        if awake {
            // It sleeps while it is asked.
            frames.drain(CPU);
            assert!(frames.stats().cached > Frames::ZERO);
        }
        frames.park(other);
        assert_eq!(frames.stats().cached > Frames::ZERO, !awake, "whoever is asked gives before it sleeps");
        let block = frames.alloc(kernel().order(Order::BLOCK)).unwrap();
        assert_eq!((frames.stats().cached, frames.stats().failures), (Frames::ZERO, 0));
        frames.free(block, Contents::Unknown, CPU).unwrap();
        frames.validate().unwrap();
    }
    // Awake again, it has its magazine to itself.
    frames.free(frames.alloc(Request::new(Use::Paged, other)).unwrap(), Contents::Unknown, other).unwrap();
    assert!(frames.magazines[1].try_enter_afar().is_none());
    assert!(frames.drain_cpu(other) > Frames::ZERO);
}

#[test]
fn an_extent_may_change_its_use() {
    let mut memory = Memory::of_blocks(2, 1);
    let frames = memory.allocator();
    let mut extent = frames.alloc(paged().order(order(2))).unwrap();
    let tag = Owner::new(0xABCD).unwrap();
    frames.assign(&mut extent, Use::PageCache, tag).unwrap();
    frames.validate().unwrap();
    assert_eq!((frames.stats().movable, frames.stats().pinned), (Frames::new(4), Frames::ZERO));
    frames.assign(&mut extent, Use::Special, tag).unwrap();
    frames.validate().unwrap();
    assert_eq!((frames.stats().movable, frames.stats().pinned), (Frames::ZERO, Frames::new(4)));
    let inside = extent.first() + Frames::new(3);
    let FrameState::Used(held) = frames.state(inside) else { panic!("not in use") };
    assert_eq!(
        (held.first, held.usage, held.owner, held.detached),
        (extent.first(), Use::Special, tag, false)
    );
    frames.free(extent, Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
}

#[test]
fn halves_are_freed_on_their_own_and_join_again() {
    let mut memory = Memory::of_blocks(1, 0);
    let frames = memory.allocator();
    frames.free(frames.alloc(kernel().order(Order::BLOCK)).unwrap(), Contents::Zero, CPU).unwrap();
    let block = frames.alloc(kernel().order(Order::BLOCK)).unwrap();
    let (low, high) = frames.split(block).unwrap();
    assert_eq!((low.contents(), high.contents()), (Contents::Zero, Contents::Zero));
    assert_eq!(high.first() - low.first(), Frames::new(256));
    frames.validate().unwrap();
    frames.free(low, Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
    frames.free(high, Contents::Unknown, CPU).unwrap();
    assert_eq!(frames.stats().whole_blocks, 1);
}
