//! Down and up, while the hypervisor does what it is asked.

use super::guest::{Allocator, BLOCK, Books, CPU, MIB, booted, direct_map, exchange, facts, plain};
use ebb::balloon::{Balloon, Budget, Evacuate, NoEvacuation, Outcome, Reason, Scratch, StartPlan};
use ebb::mm::frame::{Contents, Extent, FrameState, Request, SparseBlock, Use};
use ebb::units::{Frames, Gfn, Order};
use ebb_tests::model::Model;
use std::sync::Mutex;
use xen_abi::memory;

#[test]
fn down_and_up_again_in_whole_blocks() {
    booted(&plain(64), 1, |guest| {
        assert_eq!(guest.hold_out(32 * MIB), Outcome::Reached);
        guest.check();
        assert_eq!(guest.model.charged(), guest.plan.base - Frames::new(32 * MIB));
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.released_blocks, stats.released_frames, stats.release_calls), (16, 0, 1));
        assert_eq!((guest.map.settles(), stats.scrubbed_frames), (1, 32 * MIB));
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.populated_blocks, stats.populated_frames, stats.populate_calls), (16, 0, 1));
        assert_eq!(guest.frames.stats().whole_blocks, 31);
        assert!((1..32).all(|block| guest.model.is_large(Gfn::new(block * BLOCK))), "superpages again");
    });
}

#[test]
fn a_tail_goes_and_comes_in_frames() {
    booted(&plain(16), 1, |guest| {
        assert_eq!(guest.hold_out(2 * BLOCK + 100), Outcome::Reached);
        guest.check();
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.released_blocks, stats.released_frames, stats.release_calls), (2, 100, 2));
        assert_eq!(guest.hold_out(BLOCK + 50), Outcome::Reached);
        guest.check();
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.populated_blocks, stats.populated_frames), (1, 50));
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 7);
    });
}

#[test]
fn a_step_keeps_to_its_budget_and_its_lists() {
    booted(&plain(32), 1, |guest| {
        guest.balloon.set_target(guest.plan.base - Frames::new(10 * BLOCK));
        let budget = Budget { frames: Frames::new(4 * BLOCK), list: 3, ..Budget::DEFAULT };
        let mut scratch = Scratch::new();
        let mut outcomes = Vec::new();
        for now in 0..3 {
            let step = guest.balloon.step(now, &budget, &mut scratch, &NoEvacuation);
            outcomes.push((step.released.get(), step.outcome));
        }
        let expected =
            [(4 * BLOCK, Outcome::More), (4 * BLOCK, Outcome::More), (2 * BLOCK, Outcome::Reached)];
        assert_eq!(outcomes, expected);
        assert_eq!(guest.balloon.status().exchange.release_calls, 5, "3 + 1, 3 + 1, 2");
        guest.check();
        let none = Budget { frames: Frames::ZERO, list: 0, ..Budget::DEFAULT };
        guest.balloon.set_target(guest.plan.base);
        let step = guest.balloon.step(4, &none, &mut scratch, &NoEvacuation);
        assert_eq!(
            (step.populated, step.outcome),
            (Frames::new(1), Outcome::More),
            "a step moves at least one"
        );
        guest.check();
    });
}

#[test]
fn what_is_known_to_be_zero_is_not_scrubbed_and_goes_first() {
    booted(&plain(16), 1, |guest| {
        for _ in 0..2 {
            let request = Request::new(Use::Paged, CPU).order(Order::BLOCK);
            let block = guest.frames.alloc(request).expect("memory is free");
            (0..BLOCK).for_each(|index| guest.model.write(block.first() + Frames::new(index), 0, 0));
            guest.frames.free(block, Contents::Zero, CPU).expect("our own");
        }
        assert_eq!(guest.hold_out(3 * BLOCK), Outcome::Reached);
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.known_zero_frames, stats.scrubbed_frames), (2 * BLOCK, BLOCK));
        guest.check();
    });
}

#[test]
fn without_scrubbing_zero_is_left_to_others() {
    booted(&plain(16), 1, |guest| {
        guest.balloon.set_scrub(false);
        let block = guest.frames.alloc(Request::new(Use::Paged, CPU).order(Order::BLOCK)).expect("free");
        guest.frames.free(block, Contents::Zero, CPU).expect("our own");
        assert_eq!(guest.hold_out(5 * BLOCK), Outcome::Reached);
        assert_eq!(guest.frames.stats().known_zero.get(), BLOCK, "still here");
        assert_eq!(guest.map.scrubbed(), []);
        guest.check();
    });
}

#[test]
fn scrubbed_memory_holds_nothing_when_it_leaves() {
    let config = plain(16);
    let model = Model::new(config.clone());
    let mut books = Books::new(&model, 1);
    let frames = books.allocator();
    // The map checks at the moment of hiding, through what the model still shows.
    let map = direct_map(&model);
    let plan = StartPlan::new(&facts(&model, &config));
    let balloon = Balloon::new(exchange(&model, &map, &frames), &plan);
    for frame in 512..model.ram_frames().get() {
        model.write(Gfn::new(frame), 17, 0x5EC2_E700 + frame);
    }
    // One block is refused after the scrubbing: it stays, and is known to be zero.
    model.cut_short(memory::DECREASE_RESERVATION, 0, 0, 0);
    for call in 1..=2 {
        model.cut_short(memory::DECREASE_RESERVATION, call, 0, 0);
    }
    balloon.set_target(plan.base - Frames::new(BLOCK));
    let step = balloon.step(0, &Budget::DEFAULT, &mut Scratch::new(), &NoEvacuation);
    assert!(step.released.get() < BLOCK, "{step:?}");
    let zero = frames.stats().known_zero.get();
    assert!(zero > 0, "what stayed is known to be zero");
    let seen: u64 = (512..model.ram_frames().get())
        .filter(|frame| {
            let state = frames.state(Gfn::new(*frame));
            let known = matches!(state, FrameState::Free(_, Contents::Zero));
            assert!(!known || model.read(Gfn::new(*frame), 17) == 0, "frame {frame:#x} is called zero");
            known
        })
        .count() as u64;
    assert!(seen > 0);
}

#[test]
fn the_guest_keeps_its_reserve_whatever_the_target() {
    booted(&plain(32), 1, |guest| {
        let used = guest.use_frames(1000, Use::Paged);
        assert!(matches!(guest.hold_out(u64::MAX), Outcome::Held(Reason::Reserve, _)));
        let stats = guest.frames.stats();
        assert!(stats.free >= stats.watermarks.total_reserve(), "{stats:?}");
        assert!(stats.free.get() < stats.watermarks.total_reserve().get() + 20, "but nothing beyond it");
        assert_eq!(guest.balloon.status().held_down.map(|(reason, _)| reason), Some(Reason::Reserve));
        guest.check();
        guest.give_up(used);
        guest.frames.drain(CPU);
        assert!(matches!(guest.hold_out(u64::MAX), Outcome::Held(Reason::Reserve, _)));
        guest.check();
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 15);
    });
}

#[test]
fn a_target_above_all_there_is_means_all_there_is() {
    booted(&plain(16), 1, |guest| {
        assert_eq!(guest.balloon.set_target(Frames::new(u64::MAX)), guest.plan.base);
        assert_eq!(guest.step(0).outcome, Outcome::Reached);
        assert_eq!(guest.balloon.status().exchange.populate_calls, 0);
        guest.check();
    });
}

#[test]
fn no_target_goes_above_the_ceiling() {
    booted(&plain(16), 1, |guest| {
        assert_eq!(guest.hold_out(4 * BLOCK), Outcome::Reached);
        let ceiling = guest.plan.base - Frames::new(2 * BLOCK + 7);
        assert_eq!(guest.balloon.set_ceiling(ceiling), ceiling);
        assert_eq!(guest.balloon.set_target(guest.plan.base), ceiling);
        assert_eq!(guest.step(0).outcome, Outcome::Reached);
        assert_eq!(guest.model.charged(), ceiling);
        let lower = guest.plan.base - Frames::new(3 * BLOCK);
        guest.balloon.set_ceiling(lower);
        assert_eq!(guest.step(0).outcome, Outcome::Reached);
        assert_eq!(guest.model.charged(), lower, "a lower ceiling is a lower target");
        guest.check();
    });
}

#[test]
fn a_target_that_changes_every_step_is_followed() {
    booted(&plain(32), 1, |guest| {
        let mut scratch = Scratch::new();
        let mut wish = 1_u64;
        for now in 0..400 {
            wish = wish.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let out = (wish >> 40) % (12 * BLOCK);
            let target = guest.plan.base - Frames::new(out);
            guest.balloon.set_target(target);
            let budget = Budget { frames: Frames::new(BLOCK), ..Budget::DEFAULT };
            let before = guest.ballooned();
            let step = guest.balloon.step(now * 10_000_000, &budget, &mut scratch, &NoEvacuation);
            let after = guest.ballooned();
            assert!(before.abs_diff(after) <= BLOCK);
            assert!(after.abs_diff(out) <= before.abs_diff(out), "never away from the target: {step:?}");
        }
        guest.check();
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
    });
}

/// Moves frames as paged memory would: a new frame for each, the old one freed.
struct Mover<'g, 'm> {
    frames: &'g Allocator<'m>,
    held: Mutex<Vec<Extent>>,
}

impl Evacuate for Mover<'_, '_> {
    fn evacuate(&self, block: SparseBlock) -> Frames {
        let mut held = self.held.lock().expect("no panic inside");
        let inside = |extent: &Extent| extent.first().get() / BLOCK == block.first.get() / BLOCK;
        let (out, mut rest): (Vec<_>, Vec<_>) = held.drain(..).partition(inside);
        let mut moved = Frames::ZERO;
        for old in out {
            let new = self.frames.alloc(Request::new(Use::Paged, CPU)).expect("room to move to");
            assert_ne!(new.first().get() / BLOCK, block.first.get() / BLOCK, "moved out of the block");
            self.frames.free(old, Contents::Unknown, CPU).expect("our own");
            rest.push(new);
            moved += Frames::new(1);
        }
        *held = rest;
        self.frames.drain(CPU);
        moved
    }
}

#[test]
fn blocks_are_made_whole_by_moving_what_is_in_the_way() {
    booted(&plain(16), 0, |guest| {
        // Every block but the image's is in use to the last frame, then most of it is freed: seven sparse blocks,
        // and one that has room for what is in them.
        let all = guest.use_frames(u64::MAX, Use::Paged);
        let (keep, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|extent| {
            let frame = extent.first().get();
            frame % BLOCK < if frame / BLOCK == 1 { 200 } else { 9 }
        });
        guest.give_up(free);
        let whole = guest.frames.stats().whole_blocks;
        let mover = Mover { frames: guest.frames, held: Mutex::new(keep) };
        guest.balloon.set_target(guest.plan.base - Frames::new(5 * BLOCK));
        let step = guest.balloon.step(0, &Budget::DEFAULT, &mut Scratch::new(), &mover);
        assert_eq!(step.outcome, Outcome::Reached);
        let status = guest.balloon.status();
        assert_eq!(status.exchange.released_blocks, 5, "all in blocks; {whole} were whole");
        assert_eq!(status.exchange.released_frames, 0);
        assert!(status.evacuated_blocks >= 5 - whole && status.evacuated_frames > 0, "{status:?}");
        guest.check();
        guest.give_up(mover.held.into_inner().expect("no panic inside"));
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
    });
}

#[test]
fn without_anybody_to_move_frames_the_pieces_go() {
    booted(&plain(16), 0, |guest| {
        let all = guest.use_frames(u64::MAX, Use::Paged);
        let (keep, free): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|extent| extent.first().get() % BLOCK == 100);
        guest.give_up(free);
        assert_eq!(guest.hold_out(2 * BLOCK), Outcome::Reached);
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.released_blocks, stats.released_frames), (0, 2 * BLOCK));
        guest.check();
        guest.give_up(keep);
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
    });
}

#[test]
fn a_step_that_has_evacuated_enough_leaves_the_rest_to_the_next() {
    booted(&plain(32), 0, |guest| {
        let all = guest.use_frames(u64::MAX, Use::Paged);
        let (keep, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|extent| {
            let frame = extent.first().get();
            frame % BLOCK < if frame / BLOCK == 1 { 200 } else { 9 }
        });
        guest.give_up(free);
        let whole = guest.frames.stats().whole_blocks;
        let mover = Mover { frames: guest.frames, held: Mutex::new(keep) };
        guest.balloon.set_target(guest.plan.base - Frames::new(12 * BLOCK));
        let budget = Budget { evacuate: 3, ..Budget::DEFAULT };
        let mut scratch = Scratch::new();
        let mut steps = 0;
        while guest.balloon.step(steps, &budget, &mut scratch, &mover).outcome == Outcome::More {
            steps += 1;
            assert!(guest.balloon.status().evacuations <= 3 * steps, "within the budget");
        }
        let status = guest.balloon.status();
        assert!(steps >= (12 - whole) / 3 - 1, "{steps} steps");
        assert_eq!((status.exchange.released_blocks, status.exchange.released_frames), (12, 0));
        guest.check();
        guest.give_up(mover.held.into_inner().expect("no panic inside"));
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
    });
}

/// Moves something, and empties nothing.
struct Clumsy;

impl Evacuate for Clumsy {
    fn evacuate(&self, _: SparseBlock) -> Frames {
        Frames::new(1)
    }
}

#[test]
fn an_evacuation_that_empties_nothing_does_not_stop_the_balloon() {
    booted(&plain(16), 0, |guest| {
        let all = guest.use_frames(u64::MAX, Use::Paged);
        let (keep, free): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|extent| extent.first().get() % BLOCK == 100);
        guest.give_up(free);
        guest.balloon.set_target(guest.plan.base - Frames::new(2 * BLOCK));
        let step = guest.balloon.step(0, &Budget::DEFAULT, &mut Scratch::new(), &Clumsy);
        assert_eq!((step.outcome, step.released), (Outcome::Reached, Frames::new(2 * BLOCK)), "in frames");
        guest.check();
        guest.give_up(keep);
    });
}
