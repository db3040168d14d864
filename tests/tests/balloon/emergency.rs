//! Deflating from the allocator's slow path.

use super::guest::{BLOCK, Books, MIB, S, booted, exchange, facts, plain};
use ebb::balloon::{
    Balloon, Budget, Deflated, NoEvacuation, Outcome, PRESSURE_HOLD_NS, Reason, Scratch, StartPlan,
};
use ebb::mm::direct_map::fake::FakeMap;
use ebb::units::Frames;
use ebb_tests::model::Model;
use std::cell::Cell;
use std::sync::{Arc, Mutex};

fn brought(frames: u64) -> Deflated {
    Deflated { frames: Frames::new(frames), stopped: None }
}

#[test]
fn a_frame_in_need_brings_a_block() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        assert_eq!(guest.balloon.deflate_now(Frames::new(1)), brought(BLOCK));
        assert_eq!(guest.balloon.status().exchange.populate_calls, 1);
        assert_eq!(guest.balloon.deflate_now(Frames::new(3 * BLOCK - 1)), brought(3 * BLOCK));
        assert_eq!(guest.balloon.status().exchange.populate_calls, 2);
        assert_eq!(guest.balloon.deflate_now(Frames::ZERO), brought(0));
        guest.check();
        let all = guest.balloon.deflate_now(Frames::new(100 * MIB));
        assert_eq!(all, Deflated { frames: Frames::new(4 * BLOCK), stopped: Some(Reason::Empty) });
        guest.check();
        assert_eq!(guest.balloon.status().emergencies, 4);
    });
}

#[test]
fn where_no_block_is_to_be_had_frames_come() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        guest.model.host_take_all_but(Frames::new(5 * BLOCK));
        guest.model.host_fragment();
        let deflated = guest.balloon.deflate_now(Frames::new(10));
        assert!(deflated.frames.get() >= 10 && deflated.stopped.is_none(), "{deflated:?}");
        let status = guest.balloon.status();
        assert_eq!(status.exchange.populate_splits, 1);
        guest.check();
        // And from the pieces that are left in the balloon.
        let deflated = guest.balloon.deflate_now(Frames::new(10));
        assert!(deflated.frames.get() >= 10);
        guest.check();
    });
}

#[test]
fn the_reason_is_told() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK + 3);
        let stopped = || guest.balloon.deflate_now(Frames::new(1)).stopped;
        guest.balloon.set_ceiling(guest.plan.base - Frames::new(8 * BLOCK + 3));
        assert_eq!(stopped(), Some(Reason::Ceiling));
        guest.balloon.set_ceiling(guest.plan.base);
        guest.model.set_limit(guest.model.charged());
        assert_eq!(stopped(), Some(Reason::Limit));
        guest.model.set_target_mib(32);
        guest.model.host_take_all_but(Frames::ZERO);
        assert_eq!(stopped(), Some(Reason::Host));
        guest.check();
        guest.model.host_give_back();
        assert_eq!(stopped(), None);
        guest.check();
    });
}

#[test]
fn the_ceiling_is_kept_to_the_frame() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        let ceiling = guest.plan.base - Frames::new(6 * BLOCK + 100);
        guest.balloon.set_ceiling(ceiling);
        let deflated = guest.balloon.deflate_now(Frames::new(4 * BLOCK));
        assert_eq!(
            deflated,
            Deflated { frames: Frames::new(2 * BLOCK - 100), stopped: Some(Reason::Ceiling) }
        );
        assert_eq!(guest.model.charged(), ceiling);
        guest.check();
    });
}

#[test]
fn the_worker_keeps_memory_for_a_while_after_an_emergency() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        let _ = guest.balloon.deflate_now(Frames::new(1));
        let now = 100 * S;
        let held = Outcome::Held(Reason::Pressure, now + PRESSURE_HOLD_NS);
        assert_eq!(guest.step(now).outcome, held);
        assert_eq!(guest.step(now + S / 2).outcome, held);
        // Growth is not held.
        guest.balloon.set_target(guest.plan.base - Frames::new(6 * BLOCK));
        assert_eq!(guest.step(now + S / 2).outcome, Outcome::Reached);
        guest.balloon.set_target(guest.plan.base - Frames::new(8 * BLOCK));
        assert_eq!(guest.step(now + S).outcome, Outcome::Reached);
        guest.check();
    });
}

#[test]
fn an_emergency_keeps_nothing_from_a_toolstack_that_takes_it_away() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(4 * BLOCK);
        let ceiling = guest.plan.base - Frames::new(6 * BLOCK);
        guest.balloon.set_ceiling(ceiling);
        assert_eq!(guest.balloon.above_ceiling(), Frames::new(2 * BLOCK));
        let nothing = Deflated { frames: Frames::ZERO, stopped: Some(Reason::Ceiling) };
        assert_eq!(guest.balloon.deflate_now(Frames::new(1)), nothing);
        let now = 100 * S;
        assert_eq!(guest.step(now).outcome, Outcome::Reached);
        assert_eq!((guest.model.charged(), guest.balloon.above_ceiling()), (ceiling, Frames::ZERO));
        // Below it, the guest's own wish waits as ever.
        guest.balloon.set_target(guest.plan.base - Frames::new(8 * BLOCK));
        let _ = guest.balloon.deflate_now(Frames::new(1));
        assert_eq!(guest.step(now).outcome, Outcome::Held(Reason::Pressure, now + PRESSURE_HOLD_NS));
        guest.check();
    });
}

#[test]
fn an_emergency_stops_a_release_that_has_not_left_yet() {
    let held = Outcome::Held(Reason::Pressure, 7 + PRESSURE_HOLD_NS);
    let brought = Deflated { frames: Frames::new(2 * BLOCK), stopped: Some(Reason::InTransit) };
    // There is more, on its way.
    assert_eq!(interrupted_release(false), (held, brought, held));
}

#[test]
fn what_the_toolstack_takes_is_tried_again_at_once_after_an_emergency() {
    let nothing = Deflated { frames: Frames::ZERO, stopped: Some(Reason::Ceiling) };
    assert_eq!(interrupted_release(true), (Outcome::More, nothing, Outcome::Reached));
}

/// An emergency while four blocks are on their way out, which the toolstack has taken away, or which are the guest's own
/// wish. Answers how the release ended, what the emergency brought, and how another release at once ends.
fn interrupted_release(taken: bool) -> (Outcome, Deflated, Outcome) {
    // While the worker scrubs, somebody runs out of memory.
    type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;
    let config = plain(32);
    let model = Model::new(config.clone());
    let mut books = Books::new(&model, 1);
    let frames = books.allocator();
    let hook: Hook = Arc::default();
    let fire = Arc::clone(&hook);
    let map = FakeMap::wiping(move |_| {
        let hook = fire.lock().expect("no panic inside").take();
        if let Some(hook) = hook {
            hook();
        }
    });
    let plan = StartPlan::new(&facts(&model, &config));
    let balloon = Balloon::new(exchange(&model, &map, &frames), &plan);
    let mut scratch = Scratch::new();
    let mut step = |out: u64, now: u64| {
        balloon.set_target(plan.base - Frames::new(out));
        balloon.step(now, &Budget::DEFAULT, &mut scratch, &NoEvacuation)
    };
    assert_eq!(step(2 * BLOCK, 0).outcome, Outcome::Reached);
    let brought = Mutex::new(Cell::new(None));
    if taken {
        balloon.set_ceiling(plan.base - Frames::new(6 * BLOCK));
    }
    let first = std::thread::scope(|scope| {
        let (start, started) = std::sync::mpsc::channel::<()>();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (balloon, brought) = (&balloon, &brought);
        scope.spawn(move || {
            started.recv().expect("the hook runs");
            brought.lock().expect("alone").set(Some(balloon.deflate_now(Frames::new(5 * BLOCK))));
            end.send(()).expect("the hook waits");
        });
        *hook.lock().expect("no panic inside") = Some(Box::new(move || {
            start.send(()).expect("the other thread waits");
            ended.recv().expect("the other thread ends");
        }));
        step(6 * BLOCK, 7)
    });
    assert_eq!(first.released, Frames::ZERO, "what had not left stays");
    assert_eq!(balloon.status().exchange.aborted, 4);
    assert_eq!(frames.stats().known_zero.get(), 4 * BLOCK, "scrubbed, and kept");
    let accounts = balloon.validate().expect("the books balance");
    assert_eq!((accounts.reservation, map.hidden()), (model.charged(), balloon.ballooned()));
    let brought = brought.into_inner().expect("alone").get().expect("it ran");
    (first.outcome, brought, step(6 * BLOCK, 7).outcome)
}

#[test]
fn where_blocks_are_refused_pieces_come_before_another_block_is_broken() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        guest.model.host_take_all_but(Frames::new(6 * BLOCK));
        guest.model.host_fragment();
        for _ in 0..8 {
            assert_eq!(guest.balloon.deflate_now(Frames::new(1)), brought(64));
        }
        assert_eq!(guest.frames.stats().ballooned_blocks, 7, "one block after the other");
        guest.model.host_give_back();
        assert_eq!(guest.balloon.deflate_now(Frames::new(1)).frames.get() % BLOCK, 0, "a block again");
        guest.check();
    });
}
