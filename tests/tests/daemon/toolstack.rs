//! The toolstack's target, with selfballooning and without: a wish is a ceiling, or the target itself.

use super::guest::{BLOCK, S, booted, plain};
use super::machine::{Machine, TICK_NS, elastic, mib};
use ebb::balloon::Reason;
use ebb::daemon::Verdict;
use ebb::tunable::Id;
use ebb::units::{Frames, Kib};
use ebb_tests::model::Config;
use workload::random::Rng;

const OFF: (Id, &str) = (Id::Selfballooning, "0");

#[test]
fn without_selfballooning_the_target_is_followed_exactly() {
    elastic(&plain(128), &[OFF], |machine| {
        machine.load_until(mib(30), S, |_| {});
        let base = machine.guest.balloon.base();
        assert_eq!(machine.charged(), base, "nothing was wished");
        for target in [64, 96, 48, 127, 40, 128] {
            let _ = machine.mem_set(target);
            machine.pass(S / 10);
            assert_eq!(machine.charged(), base - mib(128 - target), "mem-set {target}");
        }
        assert_eq!((machine.application.failures, machine.application.resident()), (0, mib(30)));
        machine.check();
        machine.end(128);
    });
}

#[test]
fn with_selfballooning_the_target_is_a_ceiling() {
    elastic(&plain(128), &[(Id::SelfballoonMinUsableMb, "8")], |machine| {
        machine.load_until(mib(60), 60 * S, |_| {});
        let (base, alone) = (machine.guest.balloon.base(), machine.charged());
        assert!(alone < base && alone > mib(60));
        // Below what the policy wants: obeyed at once, though the next run is not due.
        let _ = machine.mem_set(64);
        machine.pass(S / 10);
        assert_eq!(machine.charged(), base - mib(64));
        machine.load_until(mib(60), machine.now_ns + 60 * S, |machine| {
            assert!(machine.charged() <= base - mib(64));
        });
        // Above it: what the policy wants, again.
        let _ = machine.mem_set(128);
        machine.load_until(mib(60), machine.now_ns + 120 * S, |machine| {
            assert!(machine.charged() < alone + mib(8));
        });
        assert!(machine.charged() > base - mib(64), "the reserve is back");
        // More than the ceiling allows is not promised, and no emergency goes beyond it.
        let _ = machine.mem_set(64);
        machine.load_until(mib(120), machine.now_ns + 60 * S, |machine| {
            assert!(machine.charged() <= base - mib(64));
        });
        assert!(machine.application.committed < mib(64));
        assert_eq!(machine.application.failures, 0, "what was promised, is kept");
        machine.check();
        machine.end(128);
    });
}

#[test]
fn a_target_below_what_is_in_use_is_approached_as_memory_comes_free() {
    for options in [&[OFF][..], &[]] {
        elastic(&plain(64), options, |machine| {
            machine.load_until(mib(50), 3 * S, |_| {});
            let base = machine.guest.balloon.base();
            let _ = machine.mem_set(32);
            machine.pass(60 * S);
            assert_eq!(machine.held(), Some(Reason::Reserve));
            assert!(machine.charged() > mib(50), "nothing is taken from the application");
            let above = machine.charged() - (base - mib(32));
            assert_eq!(machine.step().in_use, above, "what would have to leave is known");
            machine.application.verify();
            machine.load_until(mib(20), machine.now_ns + 5 * S, |_| {});
            assert!(machine.charged() <= base - mib(32), "{}", machine.charged());
            assert_eq!(machine.step().in_use, Frames::ZERO);
            machine.check();
            machine.end(64);
        });
    }
}

/// What a target's node may hold.
fn hostile(random: &mut Rng) -> Vec<u8> {
    let text: &[u8] = match random.below(12) {
        0 => b"0",
        1 => b"1",
        2 => b"",
        3 => b"-32768",
        4 => b"lots",
        5 => b"18446744073709551615",
        6 => b"99999999999999999999999999999999999999",
        7 => b"0x8000",
        8 => b"32768 32768",
        9 => b"\xFF\x00\n",
        _ => return (random.below(40 << 10)).to_string().into_bytes(),
    };
    text.to_vec()
}

#[test]
fn hostile_targets_every_ten_milliseconds_do_no_harm() {
    for options in [&[OFF][..], &[(Id::SelfballoonInterval, "1"), (Id::SelfballoonMinUsableMb, "4")]] {
        elastic(&plain(32), options, |machine| {
            machine.load_until(mib(6), S, |_| {});
            let (mut random, mut refused, mut clamped) = (Rng::new(0x705), 0, 0);
            let base = machine.guest.balloon.base();
            for _ in 0..700 {
                match machine.wish(&hostile(&mut random)) {
                    Verdict::Refused(_) => refused += 1,
                    Verdict::Followed { clamped: Some(_), .. } => clamped += 1,
                    Verdict::Followed { .. } => {}
                }
                let wish = mib(random.below(12));
                let limit = machine.commit_limit();
                let _ = machine.application.want(wish, limit, Frames::new(128));
                machine.pass(S / 100);
                assert!(machine.charged() <= base);
            }
            assert!(refused > 50 && clamped > 50, "{refused} refused, {clamped} clamped");
            machine.check();
            // And then the toolstack comes to its senses.
            let _ = machine.mem_set(20);
            machine.load_until(mib(6), machine.now_ns + 5 * S, |_| {});
            assert!(machine.charged() <= base - mib(12), "{}", machine.charged());
            assert_eq!(machine.application.resident(), mib(6));
            machine.check();
            machine.end(32);
        });
    }
}

#[test]
fn a_guest_of_64_mib_with_1024_in_its_map_lives_within_its_means() {
    let config = Config { maximum_mib: 1024, memory_mib: 64, host_mib: 1100, ..Config::default() };
    elastic(&config, &[(Id::SelfballoonMinUsableMb, "8")], |machine| {
        assert_eq!(machine.guest.balloon.status().ballooned, mib(960));
        machine.check();
        // All that it can use, and less, and nothing beyond `memory`.
        for size in [40, 10, 50, 4] {
            machine.load_until(mib(size), machine.now_ns + 60 * S, |machine| {
                assert!(machine.charged() <= mib(65));
            });
            assert_eq!(machine.application.resident(), mib(size).min(machine.commit_limit()));
        }
        machine.load_until(mib(900), machine.now_ns + 10 * S, |_| {});
        assert!(machine.charged() <= mib(65));
        assert_eq!((machine.application.failures, machine.guest.model.crash()), (0, None));
        // The toolstack gives more.
        let _ = machine.mem_set(256);
        machine.load_until(mib(200), machine.now_ns + 20 * S, |_| {});
        assert_eq!((machine.application.resident(), machine.application.failures), (mib(200), 0));
        machine.check();
        machine.load_until(mib(4), machine.now_ns + 300 * S, |_| {});
        assert!(machine.charged() < mib(40));
        machine.check();
    });
}

#[test]
fn without_xenstore_it_goes_on_and_obeys_the_limit() {
    // Neither static-max nor a target is known, and nobody ever says anything.
    booted(&plain(64), 4, |guest| {
        let ram = guest.model.ram_frames().to_kib();
        let mut machine =
            Machine::new(guest, None, Kib::new(ram.get()), &[(Id::SelfballoonMinUsableMb, "4")]);
        for size in [40, 8, 50, 8] {
            machine.load_until(mib(size), machine.now_ns + 120 * S, |_| {});
            assert_eq!((machine.application.resident(), machine.application.failures), (mib(size), 0));
        }
        assert!(machine.charged() < mib(24), "{}", machine.charged());
        // `xl mem-max` needs no store.
        guest.model.set_limit(mib(32));
        machine.load_until(mib(50), machine.now_ns + 60 * S, |machine| {
            assert!(machine.charged() <= mib(32));
        });
        assert!(machine.application.failures > 0, "it was promised what the limit does not allow");
        assert_eq!(machine.application.last_failure, Some(Reason::Limit));
        guest.model.set_limit(mib(65));
        machine.load_until(mib(50), machine.now_ns + 5 * S, |_| {});
        assert_eq!(machine.application.resident(), mib(50));
        machine.check();
        assert!(guest.frames.stats().ballooned_blocks * BLOCK <= guest.ballooned());
        machine.pass(TICK_NS);
        machine.end(64);
    });
}
