//! Both policies on the same traces. The table is for people; the assertions are what has to hold for both.

use super::following::play;
use super::guest::{S, plain};
use super::machine::{TICK_NS, elastic};
use ebb::tunable::Id;
use std::sync::atomic::Ordering;

const TRACES: [(&str, &str); 4] = [
    ("steps", "0 8 0\n120 60 0\n240 20 0\n360 90 0\n480 8 0\n600 8 0"),
    ("bursts", "0 8 0\n60 40 0\n65 8 0\n90 40 0\n95 8 0\n120 40 0\n125 8 0\n150 40 0\n155 8 0\n300 8 0"),
    ("creeping", "0 10 0\n60 20 0\n120 30 0\n180 40 0\n240 50 0\n300 60 0\n360 70 0\n420 80 0\n480 80 0"),
    ("idle", "0 4 0\n600 4 0"),
];

/// What a run comes to.
#[derive(Debug)]
struct Figures {
    /// Mean of what the host had to give, and of what the application held, in MiB.
    reservation_mib: f64,
    resident_mib: f64,
    /// Emergencies, and frames that were not to be had.
    stalls: u64,
    failures: u64,
    /// Mean time until a rise was served, in seconds.
    lag_s: f64,
    moved_mib: u64,
}

fn figures(policy: &str, trace: &str) -> Figures {
    elastic(&plain(128), &[(Id::Policy, policy), (Id::SelfballoonInterval, "1")], |machine| {
        let (mut ticks, mut reservation, mut resident, mut late) = (0_u64, 0, 0, 0_u64);
        let (mut rises, mut last) = (0_u64, 0);
        play(machine, trace, |machine, wish| {
            ticks += 1;
            reservation += machine.charged().get();
            resident += machine.application.resident().get();
            rises += u64::from(wish.get() > last);
            last = wish.get();
            late += u64::from(machine.application.resident() < wish);
        });
        let exchange = machine.guest.balloon.status().exchange;
        let frames = |blocks: u64, frames: u64| blocks * 512 + frames;
        let moved = frames(exchange.released_blocks, exchange.released_frames)
            + frames(exchange.populated_blocks, exchange.populated_frames);
        let mean_mib = |sum: u64| sum as f64 / ticks as f64 / 256.0;
        let figures = Figures {
            reservation_mib: mean_mib(reservation),
            resident_mib: mean_mib(resident),
            stalls: machine.application.stalls.load(Ordering::Relaxed),
            failures: machine.application.failures,
            lag_s: (late * TICK_NS) as f64 / rises.max(1) as f64 / S as f64,
            moved_mib: moved / 256,
        };
        machine.check();
        machine.end(128);
        figures
    })
}

#[test]
fn both_policies_on_the_same_traces() {
    println!("trace      policy     reservation  resident  stalls  lag     moved");
    for (name, trace) in TRACES {
        for policy in ["committed", "pressure"] {
            let figures = figures(policy, trace);
            println!(
                "{name:10} {policy:10} {:7.1} MiB {:5.1} MiB  {:6}  {:.2} s {:5} MiB",
                figures.reservation_mib, figures.resident_mib, figures.stalls, figures.lag_s, figures.moved_mib
            );
            assert_eq!(figures.failures, 0, "{name}, {policy}: the host had memory all the time");
            assert!(figures.reservation_mib > figures.resident_mib, "{name}, {policy}: {figures:?}");
            assert!(figures.reservation_mib < 110.0, "{name}, {policy}: it gave something back: {figures:?}");
            assert!(figures.lag_s < 3.0, "{name}, {policy}: the application did not wait: {figures:?}");
            if name == "idle" {
                assert_eq!(figures.stalls, 0, "{policy}: nobody needs anything");
            }
        }
    }
}
