//! Memory follows the load, and rests when the load does.

use super::guest::{S, plain};
use super::machine::{Machine, elastic, mib};
use allocator_api2::alloc::Global;
use ebb::tunable::Id;
use ebb::units::Frames;
use workload::trace::Trace;

/// A floor that leaves room to follow.
const LOW_FLOOR: (Id, &str) = (Id::SelfballoonMinUsableMb, "8");

/// The load of the main demonstration: up, down, up again.
const RISES_FALLS_RISES: &str = "
    0    16  0
    60   80  0
    180  16  0
    480  100 0
    600  8   0
    1000 8   0
";

/// Plays a trace's sizes, with a look after every tick.
pub(super) fn play(machine: &mut Machine<'_, '_>, text: &str, mut look: impl FnMut(&Machine<'_, '_>, Frames)) {
    let trace = Trace::parse(text.as_bytes(), Global).expect("a trace");
    let begun_ns = machine.now_ns;
    for pair in trace.points().windows(2) {
        let wish = mib(pair[0].resident_mib);
        machine.load_until(wish, begun_ns + pair[1].at_ms * 1_000_000, |machine| look(machine, wish));
    }
}

fn follows(options: &[(Id, &str)], up_ns: u64, down_ns: u64) {
    elastic(&plain(128), options, |machine| {
        let (mut last, mut since_ns) = (Frames::ZERO, 0);
        play(machine, RISES_FALLS_RISES, |machine, wish| {
            if wish != last {
                (last, since_ns) = (wish, machine.now_ns);
            }
            let (charged, elapsed_ns) = (machine.charged(), machine.now_ns - since_ns);
            if elapsed_ns > up_ns {
                assert_eq!(machine.application.resident(), wish, "the application has what it wants");
                assert!(charged > wish, "{charged} for {wish}");
            }
            if elapsed_ns > down_ns {
                assert!(charged < wish + mib(24), "{charged} for {wish} after {} s", elapsed_ns / S);
                assert!(machine.guest.model.host_free().0 > mib(128 + 16 + 128 - 24) - wish, "as the host sees it");
            }
        });
        assert_eq!(machine.application.failures, 0, "the host had memory all the time");
        let status = machine.guest.balloon.status();
        assert!(status.evacuated_blocks > 0, "fragments were moved out of the way: {status:?}");
        machine.check();
        machine.end(128);
    });
}

#[test]
fn a_load_that_rises_and_falls_and_rises_is_followed() {
    // 84 MiB at 40 MiB/s take 2.1 s. Down it goes by an eighth of the distance every five seconds.
    follows(&[LOW_FLOOR], 3 * S, 130 * S);
}

#[test]
fn with_a_short_interval_and_no_hysteresis_it_is_followed_at_once() {
    let options = [LOW_FLOOR, (Id::SelfballoonInterval, "1"), (Id::SelfballoonDownhysteresis, "1")];
    follows(&options, 3 * S, 6 * S);
}

#[test]
fn the_pressure_policy_follows_too() {
    follows(&[(Id::Policy, "pressure"), (Id::SelfballoonInterval, "1")], 3 * S, 90 * S);
}

#[test]
fn an_idle_guest_shrinks_to_its_floor_and_rests_there() {
    elastic(&plain(128), &[], |machine| {
        machine.load_until(mib(4), S, |_| {});
        let mut path = vec![machine.charged().get()];
        let mut decisions = machine.decisions;
        machine.load_until(mib(4), 600 * S, |machine| {
            if machine.decisions == decisions {
                return;
            }
            decisions = machine.decisions;
            let decision = machine.decision.expect("there was one");
            let (before, after) = (*path.last().expect("the first"), machine.charged().get());
            // An eighth of the way to the goal, rounded as the original rounds; the floor is above the goal.
            let step = (before.saturating_sub(decision.goal_frames) / 8).max(1);
            let expected = (before - step).max(decision.floor_frames);
            assert_eq!((decision.target_frames, after), (expected, expected), "{decision:?} from {before}");
            path.push(after);
        });
        let decision = machine.decision.expect("there was one");
        assert_eq!(machine.charged().get(), decision.floor_frames, "the floor is reached: {path:?}");
        assert_eq!(decision.floor_frames, decision.target_frames);
        // The automatic floor of 128 MiB: 40 MiB, and an eighth of what is above them, and the kernel's own.
        let floor_mib = decision.floor_frames / 256;
        assert!((51..56).contains(&floor_mib), "{floor_mib} MiB");
        // An hour of rest: a decision every five seconds, and no frame moves.
        let (before, decisions) = (machine.guest.balloon.status(), machine.decisions);
        machine.load_until(mib(4), (600 + 3600) * S, |_| {});
        assert_eq!(machine.guest.balloon.status().exchange, before.exchange);
        assert_eq!(machine.decisions - decisions, 720);
        assert_eq!(machine.application.failures, 0);
        machine.check();
        machine.end(128);
    });
}

#[test]
fn tunables_take_effect_while_it_runs() {
    elastic(&plain(64), &[LOW_FLOOR], |machine| {
        machine.load_until(mib(4), 10 * S, |_| {});
        // A shorter interval counts at once, a longer one after the run that is due.
        let decisions = machine.decisions;
        machine.set(Id::SelfballoonInterval, "1");
        machine.pass(10 * S + S / 2);
        assert!((10..=12).contains(&(machine.decisions - decisions)), "{}", machine.decisions - decisions);
        machine.set(Id::SelfballoonInterval, "60");
        machine.pass(S / 10);
        let (decisions, charged) = (machine.decisions, machine.charged());
        machine.pass(S);
        assert_eq!(machine.decisions - decisions, 1, "the one that was due");
        machine.pass(58 * S);
        assert_eq!(machine.decisions - decisions, 1);
        assert!(machine.charged() < charged);
        // Whatever is set: it is a run before its time, and gives nothing away.
        let charged = machine.charged();
        machine.set(Id::SelfballoonDownhysteresis, "1");
        machine.pass(S / 10);
        assert_eq!(machine.charged(), charged);
        machine.pass(60 * S);
        assert!(machine.charged() + mib(4) < charged, "all of the way");
        // Off means: the toolstack's target.
        machine.set(Id::SelfballoonInterval, "5");
        machine.set(Id::Selfballooning, "0");
        machine.pass(S / 10);
        assert_eq!(machine.charged(), machine.guest.balloon.base());
        machine.set(Id::FrontswapSelfshrinking, "0");
        let decisions = machine.decisions;
        machine.pass(3600 * S);
        assert!(machine.decisions - decisions <= 2, "nothing to decide");
        machine.set(Id::Selfballooning, "1");
        machine.pass(12 * S);
        assert!(machine.charged() + mib(20) < machine.guest.balloon.base(), "it goes on");
        // The other policy, and back.
        for policy in ["pressure", "committed"] {
            machine.set(Id::Policy, policy);
            machine.load_until(mib(40), machine.now_ns + 60 * S, |_| {});
            assert_eq!(machine.application.resident(), mib(40));
            machine.load_until(mib(4), machine.now_ns + 300 * S, |_| {});
            assert!(machine.charged() < mib(20), "{} with {policy}", machine.charged());
        }
        for value in ["0", "-1", "many", "86401"] {
            assert!(machine.tunables.set(Id::SelfballoonInterval, value).is_err());
        }
        assert_eq!(machine.application.failures, 0);
        machine.check();
        machine.end(64);
    });
}
