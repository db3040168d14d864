//! Lists that end early, blocks that are half gone, page tables that are missing: what is left is put together
//! again.

use super::guest::{BLOCK, S, booted, plain};
use ebb::balloon::{Outcome, Reason};
use ebb::units::Frames;
use xen_abi::{Errno, hypercall, memory};

const DOWN: u32 = memory::DECREASE_RESERVATION;
const UP: u32 = memory::POPULATE_PHYSMAP;

#[test]
fn a_block_that_fails_half_way_is_finished_frame_by_frame() {
    for (extent, after) in [(0, 0), (0, 1), (1, 100), (3, 511), (2, 256)] {
        booted(&plain(16), 1, |guest| {
            guest.model.cut_short(DOWN, 0, extent, after);
            assert_eq!(guest.hold_out(4 * BLOCK), Outcome::Reached, "{extent}, {after}");
            guest.check();
            let stats = guest.balloon.status().exchange;
            assert_eq!((stats.released_blocks, stats.release_splits, stats.release_refusals), (3, 1, 1));
            assert_eq!(stats.half_done_blocks, u64::from(after > 0));
            assert_eq!(stats.released_frames, BLOCK - after, "those that were not gone yet");
            assert_eq!(guest.hold_out(0), Outcome::Reached);
            guest.check();
            assert_eq!(guest.frames.stats().whole_blocks, 7);
        });
    }
}

#[test]
fn frames_of_a_broken_block_that_will_not_go_stay_in_use() {
    booted(&plain(16), 1, |guest| {
        // 100 frames gone, then the pieces are refused, too: at once, and again.
        guest.model.cut_short(DOWN, 0, 1, 100);
        guest.model.cut_short(DOWN, 1, 50, 0);
        guest.model.cut_short(DOWN, 2, 0, 0);
        guest.model.cut_short(DOWN, 3, 0, 0);
        guest.balloon.set_target(guest.plan.base - Frames::new(2 * BLOCK));
        let step = guest.step(0);
        guest.check();
        assert_eq!(step.outcome, Outcome::Reached, "the rest was found elsewhere: {step:?}");
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 7);
    });
}

#[test]
fn a_frame_that_is_refused_once_goes_the_second_time() {
    booted(&plain(16), 1, |guest| {
        guest.model.cut_short(DOWN, 0, 30, 0);
        guest.model.cut_short(DOWN, 2, 0, 0);
        assert_eq!(guest.hold_out(100), Outcome::Reached);
        guest.check();
    });
}

#[test]
fn a_list_that_is_populated_in_part_is_finished_in_pieces() {
    booted(&plain(16), 1, |guest| {
        let _ = guest.hold_out(5 * BLOCK);
        // The second block is refused as such, and after 130 of its frames even frames are.
        guest.model.cut_short(UP, 0, 1, 0);
        guest.model.cut_short(UP, 2, 2, 0);
        guest.balloon.set_target(guest.plan.base);
        let step = guest.step(0);
        guest.check();
        assert_eq!(step.outcome, Outcome::Reached, "refused only once: {step:?}");
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.populate_splits, stats.populate_refusals), (1, 1));
        assert_eq!((stats.populated_blocks, stats.populated_frames), (4, BLOCK));
        assert_eq!(guest.frames.stats().whole_blocks, 7);
    });
}

#[test]
fn pieces_in_the_balloon_spare_the_blocks() {
    booted(&plain(16), 1, |guest| {
        let _ = guest.hold_out(5 * BLOCK + 60);
        guest.model.cut_short(UP, 0, 0, 0);
        guest.balloon.set_target(guest.plan.base);
        assert_eq!(guest.step(0).outcome, Outcome::Reached);
        guest.check();
        let stats = guest.balloon.status().exchange;
        assert_eq!((stats.populate_splits, stats.populate_refusals), (0, 1));
        assert_eq!((stats.populated_blocks, stats.populated_frames), (5, 60));
    });
}

#[test]
fn without_page_tables_only_blocks_leave() {
    booted(&plain(16), 1, |guest| {
        guest.map.limit_tables(Some(0));
        let Outcome::Held(reason, _) = guest.hold_out(2 * BLOCK + 7) else {
            unreachable!("seven frames cannot be hidden")
        };
        assert_eq!((reason, guest.ballooned()), (Reason::DirectMap, 2 * BLOCK));
        guest.check();
        guest.map.limit_tables(Some(1));
        assert_eq!(guest.hold_out(2 * BLOCK + 7), Outcome::Reached);
        guest.check();
    });
}

#[test]
fn memory_that_cannot_be_shown_goes_back_again() {
    booted(&plain(16), 1, |guest| {
        let _ = guest.hold_out(3 * BLOCK);
        guest.map.limit_tables(Some(0));
        guest.balloon.set_target(guest.plan.base - Frames::new(2 * BLOCK + 100));
        let step = guest.step(0);
        assert_eq!(step.outcome, Outcome::Held(Reason::DirectMap, S), "{step:?}");
        assert_eq!((step.populated, guest.ballooned()), (Frames::ZERO, 3 * BLOCK));
        guest.check();
        assert_eq!(guest.hold_out_at(2 * BLOCK, S), Outcome::Reached, "a block needs no table");
        guest.check();
    });
}

#[test]
fn memory_that_neither_shows_nor_goes_waits_and_is_found_again() {
    booted(&plain(16), 1, |guest| {
        let _ = guest.hold_out(3 * BLOCK);
        guest.map.limit_tables(Some(0));
        let release = Some(u64::from(DOWN));
        (0..20).for_each(|_| guest.model.refuse(hypercall::MEMORY_OP, release, Errno::ENOSYS));
        guest.balloon.set_target(guest.plan.base - Frames::new(2 * BLOCK + 500));
        let step = guest.step(0);
        let limbo = guest.balloon.exchange().limbo();
        assert!(limbo > Frames::ZERO, "{step:?}");
        guest.check();
        assert_eq!(guest.balloon.exchange().stranded(), Frames::ZERO);
        guest.map.limit_tables(None);
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        assert_eq!(guest.balloon.exchange().limbo(), Frames::ZERO);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 7);
    });
}

#[test]
fn a_frame_of_which_nothing_is_known_is_neither_used_nor_populated() {
    booted(&plain(16), 1, |guest| {
        // 40 frames of the block are gone, and Xen does not say which.
        guest.model.cut_short(DOWN, 0, 0, 40);
        (0..50).for_each(|_| guest.model.refuse(hypercall::HVM_OP, None, Errno::ENOSYS));
        guest.balloon.set_target(guest.plan.base - Frames::new(BLOCK));
        let step = guest.step(0);
        let doubtful = guest.balloon.exchange().doubtful().get();
        assert!(doubtful > 0, "{step:?}");
        guest.balloon.validate().expect("doubt is allowed for");
        guest.model.validate().expect("the model's books balance");
        // Asked again, Xen answers.
        assert_eq!(guest.hold_out(BLOCK), Outcome::Reached);
        assert_eq!(guest.balloon.exchange().limbo(), Frames::ZERO);
        guest.check();
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        assert_eq!(guest.frames.stats().whole_blocks, 7);
    });
}
