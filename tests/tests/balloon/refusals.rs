//! A hypervisor that refuses: now and then, for minutes, or for good.

use super::guest::{BLOCK, S, booted, plain};
use ebb::balloon::{LONGEST_WAIT_NS, Outcome, Reason};
use ebb::port::Clock;
use ebb::units::Frames;
use ebb_tests::model::Config;
use xen_abi::{Errno, hypercall, memory};

#[test]
fn growth_refused_for_minutes_is_asked_for_ever_more_rarely() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        guest.model.host_take_all_but(Frames::ZERO);
        guest.balloon.set_target(guest.plan.base);
        let (start, calls) = (guest.model.now_ns(), guest.balloon.status().exchange.populate_calls);
        let mut waits = Vec::new();
        // Ten minutes, a step every 100 ms.
        while guest.model.now_ns() - start < 600 * S {
            let now = guest.model.now_ns();
            let Outcome::Held(Reason::Host, until) = guest.step(now).outcome else {
                unreachable!("the host has nothing")
            };
            if waits.last() != Some(&until) {
                waits.push(until);
            }
            guest.model.pass_ns(S / 10);
        }
        let lists = guest.balloon.status().exchange.populate_calls - calls;
        assert!(waits.len() < 30, "{} tries in ten minutes", waits.len());
        // Each try: one list of blocks, and the pieces of the first.
        assert_eq!(lists, 2 * waits.len() as u64);
        assert!(waits.windows(2).skip(6).all(|pair| pair[1] - pair[0] <= LONGEST_WAIT_NS + S / 5));
        assert_eq!(guest.balloon.status().held_up.map(|(reason, _)| reason), Some(Reason::Host));
        guest.check();
        // The host has memory again: within the longest wait all is back.
        guest.model.host_give_back();
        guest.model.pass_ns(LONGEST_WAIT_NS);
        assert_eq!(guest.step(guest.model.now_ns()).outcome, Outcome::Reached);
        assert_eq!(guest.balloon.status().held_up, None);
        guest.check();
    });
}

#[test]
fn a_raised_limit_is_noticed_at_once() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        guest.model.set_limit(guest.model.charged() + Frames::new(10));
        guest.balloon.set_target(guest.plan.base);
        assert_eq!(guest.step(0).outcome, Outcome::Held(Reason::Limit, S));
        assert_eq!(guest.ballooned(), 8 * BLOCK - 10, "to the last frame that is allowed");
        let calls = guest.balloon.status().exchange.populate_calls;
        assert_eq!(guest.step(1).outcome, Outcome::Held(Reason::Limit, S));
        assert_eq!(guest.balloon.status().exchange.populate_calls, calls, "not asked again");
        guest.model.set_target_mib(32);
        assert_eq!(guest.step(2).outcome, Outcome::Reached);
        guest.check();
    });
}

#[test]
fn a_limit_below_use_stops_growth_and_nothing_else() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(4 * BLOCK);
        guest.model.set_limit(guest.model.charged() - Frames::new(5 * BLOCK));
        guest.balloon.set_target(guest.plan.base);
        assert_eq!(guest.step(0).outcome, Outcome::Held(Reason::Limit, S));
        assert_eq!(guest.hold_out(10 * BLOCK), Outcome::Reached, "down it goes");
        guest.balloon.set_target(guest.plan.base);
        assert_eq!(guest.step(100 * S).outcome, Outcome::Held(Reason::Limit, 101 * S));
        assert_eq!(guest.model.charged(), guest.plan.base - Frames::new(9 * BLOCK));
        guest.check();
    });
}

#[test]
fn a_host_with_less_than_is_wanted_gives_what_it_has() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(8 * BLOCK);
        guest.model.host_take_all_but(Frames::new(2 * BLOCK + 77));
        guest.balloon.set_target(guest.plan.base);
        assert_eq!(guest.step(0).outcome, Outcome::Held(Reason::Host, S));
        assert_eq!(guest.ballooned(), 6 * BLOCK - 77);
        assert_eq!(guest.model.host_free().0, Frames::ZERO);
        guest.check();
    });
}

#[test]
fn a_host_in_pieces_gives_pieces() {
    booted(&plain(32), 1, |guest| {
        let _ = guest.hold_out(4 * BLOCK);
        guest.model.host_fragment();
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.populated_blocks, stats.populated_frames), (0, 4 * BLOCK));
        assert_eq!(stats.populate_splits, 4);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 15, "in the guest they are blocks");
    });
}

#[test]
fn blocks_beyond_the_order_limit_go_and_come_in_pieces() {
    booted(&Config { order_limit: 4, ..plain(32) }, 1, |guest| {
        assert_eq!(guest.hold_out(5 * BLOCK), Outcome::Reached);
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.released_blocks, stats.released_frames), (0, 5 * BLOCK));
        assert_eq!((stats.release_splits, stats.half_done_blocks), (5, 0));
        guest.check();
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
    });
}

#[test]
fn a_domain_without_page_tables_to_split_keeps_its_blocks() {
    // The pool is used up by what the toolstack maps.
    booted(&Config { paging_pool: Some(2), ..plain(16) }, 1, |guest| {
        assert_eq!(guest.model.paging_pool(), Some(0));
        guest.balloon.set_target(guest.plan.base - Frames::new(4 * BLOCK));
        assert_eq!(guest.step(0).outcome, Outcome::Held(Reason::Release, S));
        assert_eq!((guest.ballooned(), guest.frames.stats().whole_blocks), (0, 7));
        guest.check();
        let calls = guest.balloon.status().exchange.release_calls;
        assert_eq!(guest.step(S / 2).outcome, Outcome::Held(Reason::Release, S));
        assert_eq!(guest.balloon.status().exchange.release_calls, calls, "waited out");
    });
}

#[test]
fn calls_that_fail_in_front_of_the_operation_change_nothing() {
    booted(&plain(16), 1, |guest| {
        let release = Some(u64::from(memory::DECREASE_RESERVATION));
        (0..6).for_each(|_| guest.model.refuse(hypercall::MEMORY_OP, release, Errno::ENOSYS));
        guest.balloon.set_target(guest.plan.base - Frames::new(4 * BLOCK));
        let step = guest.step(0);
        assert_eq!(step.outcome, Outcome::Held(Reason::Release, S), "{step:?}");
        guest.check();
        assert_eq!(guest.step(S).outcome, Outcome::Reached);
        let populate = Some(u64::from(memory::POPULATE_PHYSMAP));
        (0..2).for_each(|_| guest.model.refuse(hypercall::MEMORY_OP, populate, Errno::EPERM));
        guest.balloon.set_target(guest.plan.base);
        assert_eq!(guest.step(S).outcome, Outcome::Held(Reason::Host, 2 * S));
        guest.check();
        assert_eq!(guest.step(2 * S).outcome, Outcome::Reached);
        guest.check();
    });
}

#[test]
fn a_released_frame_that_somebody_holds_shows_in_the_books() {
    booted(&plain(16), 1, |guest| {
        // A backend still maps a frame of a block that the guest believes to be free.
        for block in 1..8 {
            guest.model.pin(ebb::units::Gfn::new(block * BLOCK + 5));
        }
        assert_eq!(guest.hold_out(2 * BLOCK), Outcome::Reached);
        let disagreement = guest.balloon.validate().expect_err("two frames are still charged");
        let expected = guest.plan.base - Frames::new(2 * BLOCK);
        let charged = expected + Frames::new(2);
        assert_eq!(disagreement, ebb::balloon::Disagreement::Reservation { charged, expected });
    });
}
