//! What no correct caller does: refused by name, counted, and nothing changes.

use super::*;

#[test]
fn a_frame_is_freed_once() {
    let mut memory = Memory::of_blocks(2, 1);
    let frames = memory.allocator();
    let number = frames.detach(frames.alloc(kernel().order(order(3))).unwrap()).unwrap();
    let token = frames.take_up(number, order(3)).unwrap();
    frames.free(token, Contents::Unknown, CPU).unwrap();
    assert_eq!(frames.take_up(number, order(3)).map(|_| ()), Err(Misuse::NotAllocated(number)));
    frames.validate().unwrap();
    // A cached frame is just as free.
    let number = frames.detach(frames.alloc(kernel()).unwrap()).unwrap();
    frames.free(frames.take_up(number, Order::FRAME).unwrap(), Contents::Unknown, CPU).unwrap();
    assert_eq!(frames.state(number), FrameState::Cached(Contents::Unknown));
    assert_eq!(frames.take_up(number, Order::FRAME).map(|_| ()), Err(Misuse::NotAllocated(number)));
    assert_eq!(frames.stats().misuses, 2);
    frames.validate().unwrap();
}

#[test]
fn a_number_must_be_named_with_its_order_and_its_first_frame() {
    let mut memory = Memory::of_blocks(2, 1);
    let frames = memory.allocator();
    let head = frames.detach(frames.alloc(paged().order(order(4))).unwrap()).unwrap();
    let wrong = frames.take_up(head, order(3)).map(|_| ());
    assert_eq!(wrong, Err(Misuse::WrongOrder { frame: head, given: order(3), held: order(4) }));
    let frame = head + Frames::new(5);
    assert_eq!(frames.take_up(frame, Order::FRAME).map(|_| ()), Err(Misuse::Interior { frame, head }));
    let token = frames.take_up(head, order(4)).unwrap();
    assert_eq!(frames.take_up(head, order(4)).map(|_| ()), Err(Misuse::HeldByToken(head)));
    frames.free(token, Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
}

#[test]
fn what_is_not_memory_has_no_token() {
    let mut memory = Memory::new(&[range(512, 100), range(2048, 512)], 1);
    let frames = memory.with_reserved(&[range(520, 4)], 1);
    for frame in [0, 511, 521, 700, 1024, 3000, u64::MAX].map(Gfn::new) {
        assert_eq!(
            frames.take_up(frame, Order::FRAME).map(|_| ()),
            Err(Misuse::NotManaged(frame)),
            "{frame}"
        );
    }
    let free = Gfn::new(2050);
    assert_eq!(frames.take_up(free, Order::FRAME).map(|_| ()), Err(Misuse::NotAllocated(free)));
    frames.validate().unwrap();
}

#[test]
fn a_token_finds_only_its_own_allocator() {
    let (mut memory, mut other) = (Memory::of_blocks(2, 1), Memory::of_blocks(2, 1));
    let (frames, stranger) = (memory.with_reserved(&[], 1), other.with_reserved(&[], 2));
    let extent = frames.alloc(kernel().order(order(2))).unwrap();
    let first = extent.first();
    let Rejected { misuse, extent } = stranger.free(extent, Contents::Unknown, CPU).unwrap_err();
    assert_eq!(misuse, Misuse::Foreign(first));
    let extent = stranger.split(extent).unwrap_err().extent;
    let extent = stranger.detach(extent).unwrap_err().extent;
    let mut extent = stranger.mark_ballooned(extent).unwrap_err().extent;
    assert_eq!(stranger.assign(&mut extent, Use::Paged, Owner::NONE), Err(Misuse::Foreign(first)));
    let ballooned = frames.mark_ballooned(extent).unwrap();
    let ballooned = stranger.deposit(ballooned).unwrap_err().extent;
    let ballooned = stranger.take_back(ballooned).unwrap_err().extent;
    let ballooned = stranger.split_ballooned(ballooned).unwrap_err().extent;
    let ballooned = stranger.take_for(ballooned, Use::Paged, Owner::NONE).unwrap_err().extent;
    frames.take_back(ballooned).unwrap();
    let run = frames.allocate_run(1, 1, Use::Kernel, Owner::NONE, CPU).unwrap();
    let run = stranger.free_run(run, Contents::Unknown).unwrap_err().run;
    frames.free_run(run, Contents::Unknown).unwrap();
    assert_eq!(stranger.stats().misuses, 10);
    assert_eq!(frames.stats().misuses, 0);
    for allocator in [&frames, &stranger] {
        allocator.validate().unwrap();
        assert_eq!(allocator.stats().available(), Frames::new(1024));
    }
}

#[test]
fn even_with_the_same_id_a_foreign_token_changes_nothing() {
    let (mut memory, mut other) = (Memory::of_blocks(4, 1), Memory::of_blocks(4, 1));
    let (frames, twin) = (memory.with_reserved(&[], 1), other.with_reserved(&[], 1));
    let run = frames.allocate_run(2, 1, Use::Kernel, Owner::NONE, CPU).unwrap();
    let _half = twin.detach(twin.alloc(kernel().order(Order::BLOCK)).unwrap()).unwrap();
    let before = twin.stats();
    let refused = twin.free_run(run, Contents::Unknown).unwrap_err();
    assert_eq!(refused.misuse, Misuse::Detached(refused.run.first()));
    assert_eq!(Stats { misuses: 0, ..twin.stats() }, before);
    twin.validate().unwrap();
    frames.free_run(refused.run, Contents::Unknown).unwrap();
}

#[test]
fn one_frame_cannot_be_split() {
    let mut memory = Memory::of_blocks(1, 1);
    let frames = memory.allocator();
    let frame = frames.alloc(kernel()).unwrap();
    let first = frame.first();
    let Rejected { misuse, extent } = frames.split(frame).unwrap_err();
    assert_eq!(misuse, Misuse::Indivisible(first));
    frames.free(extent, Contents::Unknown, CPU).unwrap();
}

#[test]
fn a_ballooned_frame_is_not_attached() {
    let mut memory = Memory::of_blocks(1, 1);
    let frames = memory.allocator();
    let extent = frames.mark_ballooned(frames.alloc(paged().order(order(2))).unwrap()).unwrap();
    let (first, inner) = (extent.first(), extent.first() + Frames::new(1));
    assert_eq!(frames.take_up(first, order(2)).map(|_| ()), Err(Misuse::InBalloon(first)));
    assert_eq!(frames.take_up(inner, Order::FRAME).map(|_| ()), Err(Misuse::InBalloon(inner)));
    frames.deposit(extent).unwrap();
    assert_eq!(frames.take_up(first, order(2)).map(|_| ()), Err(Misuse::InBalloon(first)));
    frames.validate().unwrap();
}

#[test]
fn a_wrong_cpu_number_costs_nothing_but_time() {
    let mut memory = Memory::of_blocks(1, 1);
    let frames = memory.allocator();
    let far = VcpuId::new(u32::MAX);
    let extent = frames.alloc(Request::new(Use::Kernel, far)).unwrap();
    frames.free(extent, Contents::Unknown, far).unwrap();
    assert_eq!(frames.drain_cpu(far), Frames::ZERO);
    assert_eq!(frames.stats().cached, Frames::ZERO);
    frames.validate().unwrap();
}

#[test]
fn a_magazine_in_use_is_passed_by() {
    let mut memory = Memory::of_blocks(1, 1);
    let frames = memory.allocator();
    let inside = frames.magazines[0].try_enter().unwrap();
    let extent = frames.alloc(kernel()).unwrap();
    frames.free(extent, Contents::Unknown, CPU).unwrap();
    assert_eq!(frames.drain(CPU), Frames::ZERO);
    assert_eq!(frames.validate(), Err(Inconsistency::Busy));
    drop(inside);
    frames.validate().unwrap();
    assert_eq!(frames.stats().free, Frames::new(512));
}

/// Each piece of damage is done to the table behind the allocator's back.
#[test]
fn validate_names_what_is_wrong() {
    type Damage = fn(&FrameAllocator<'_>, &mut Buddy<'_>);
    let damage: &[(Damage, Inconsistency)] = &[
        (|f, _| f.entry(5).set(Head::Nothing), Inconsistency::Frame(Gfn::new(5))),
        (|f, _| f.entry(600).set(Head::Reserved), Inconsistency::Frame(Gfn::new(600))),
        (|_, b| b.totals.free += 1, Inconsistency::Total("free frames")),
        (|_, b| b.totals.whole -= 1, Inconsistency::Total("whole blocks")),
        (|_, b| b.totals.by_order[9] -= 1, Inconsistency::Total("free extents by order")),
        (|_, b| b.blocks[0].pinned -= 1, Inconsistency::BlockCount(Gfn::new(0))),
        (|_, b| b.blocks[1].list = 3, Inconsistency::List(Gfn::new(512))),
        (|_, b| b.blocks[1].next = 1, Inconsistency::List(Gfn::new(512))),
        (|_, b| b.blocks[0].deposit(1, 0), Inconsistency::Frame(Gfn::new(1))),
    ];
    for (work, expected) in damage {
        let mut memory = Memory::of_blocks(2, 0);
        let frames = memory.allocator();
        for _ in 0..6 {
            frames.detach(frames.alloc(kernel()).unwrap()).unwrap();
        }
        frames.validate().unwrap();
        frames.locked(|buddy| work(&frames, buddy));
        assert_eq!(frames.validate(), Err(*expected));
    }
}

#[test]
fn validate_finds_a_frame_twice_in_magazines() {
    let mut memory = Memory::of_blocks(1, 2);
    let frames = memory.allocator();
    frames.free(frames.alloc(kernel()).unwrap(), Contents::Unknown, CPU).unwrap();
    frames.validate().unwrap();
    let (one, two) = (frames.magazines[0].try_enter().unwrap(), frames.magazines[1].try_enter().unwrap());
    let frame = one.pop(Kind::Pinned).unwrap();
    let other = one.pop(Kind::Pinned).unwrap();
    assert!(one.push(Kind::Pinned, frame));
    drop(one);
    drop(two);
    assert_eq!(frames.validate(), Err(Inconsistency::CachedCount), "a frame is missing");
    let two = frames.magazines[1].try_enter().unwrap();
    assert!(two.push(Kind::Pinned, frame));
    drop(two);
    assert_eq!(
        frames.validate(),
        Err(Inconsistency::Magazine(Gfn::new(u64::from(frame)))),
        "{other} is lost"
    );
}
