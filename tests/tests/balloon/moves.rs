//! Down and up, while the hypervisor does what it is asked.

use super::guest::{BLOCK, MIB, booted, plain};
use ebb::balloon::Outcome;
use ebb::units::{Frames, Gfn};

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
