//! A guest that was started with less memory than its map shows.

use super::guest::{BLOCK, MIB, booted};
use ebb::balloon::Outcome;
use ebb::mm::frame::Use;
use ebb::units::Frames;
use ebb_tests::model::Config;

fn credit() -> Config {
    Config { maximum_mib: 64, memory_mib: 16, host_mib: 128, ..Config::default() }
}

#[test]
fn what_is_owed_is_given_back_without_being_touched() {
    booted(&credit(), 1, |guest| {
        assert!(guest.plan.is_urgent());
        assert_eq!(guest.plan.give_back, Frames::new(48 * MIB));
        let charged = guest.model.charged();
        let (cache, entries) = guest.model.populate_on_demand();
        assert_eq!((cache.get(), entries.get()), (16 * MIB, 64 * MIB));
        assert_eq!(guest.step(0).outcome, Outcome::Reached, "the plan's target is the balloon's first");
        let status = guest.balloon.status();
        assert_eq!((status.exchange.released_blocks, status.exchange.release_calls), (24, 1));
        assert_eq!((status.exchange.scrubbed_frames, status.debt), (0, Frames::ZERO));
        assert_eq!(guest.model.charged(), charged, "the debt is paid, the reservation is the same");
        let (cache, entries) = guest.model.populate_on_demand();
        assert_eq!(cache, entries, "everything that is left is backed");
        guest.check();
        // All of it can be used now.
        let used = guest.use_frames(u64::MAX, Use::Paged);
        for extent in &used {
            guest.model.write(extent.first(), 0, extent.first().get());
        }
        assert!(used.len() as u64 > 12 * MIB);
        assert!(used.iter().all(|extent| guest.model.read(extent.first(), 0) == extent.first().get()));
        guest.check();
        guest.give_up(used);
    });
}

#[test]
fn touched_memory_pays_as_well() {
    booted(&credit(), 1, |guest| {
        // The guest has used memory before it got to pay.
        let used = guest.use_frames(4 * BLOCK, Use::Kernel);
        used.iter().for_each(|extent| guest.model.write(extent.first(), 3, 1));
        guest.give_up(used);
        guest.frames.drain(super::guest::CPU);
        assert_eq!(guest.step(0).outcome, Outcome::Reached);
        guest.check();
        assert_eq!(guest.balloon.status().debt, Frames::ZERO);
    });
}

#[test]
fn further_down_the_reservation_follows_and_up_it_grows_to_the_map() {
    booted(&credit(), 1, |guest| {
        assert_eq!(guest.step(0).outcome, Outcome::Reached);
        assert_eq!(guest.hold_out(52 * MIB), Outcome::Reached);
        guest.check();
        assert_eq!(guest.model.charged(), guest.plan.base - Frames::new(52 * MIB));
        guest.model.set_target_mib(64);
        guest.balloon.set_ceiling(guest.plan.base);
        guest.balloon.retry();
        assert_eq!(guest.hold_out(0), Outcome::Reached);
        guest.check();
        assert_eq!(guest.model.charged(), guest.plan.base);
        assert_eq!(guest.frames.stats().whole_blocks, 31);
    });
}

#[test]
fn an_emergency_does_not_spend_what_is_owed() {
    booted(&credit(), 1, |guest| {
        let half = guest.plan.give_back.get() / 2;
        let target = guest.balloon.target();
        let _ = guest.hold_out(half);
        // Half of the debt is paid. Xen would allow a few frames more, and they would never come back.
        let deflated = guest.balloon.deflate_now(Frames::new(1));
        assert_eq!(deflated.frames, Frames::ZERO, "{deflated:?}");
        guest.check();
        guest.balloon.set_target(target);
        assert_eq!(guest.step(0).outcome, Outcome::Reached, "an emergency does not stop the paying");
        guest.check();
        assert_eq!(guest.balloon.status().debt, Frames::ZERO);
    });
}
