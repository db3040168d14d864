//! Both policies on the same traces, in the same small domain (see `sim`).
//!
//! `cargo test -p ebb-policy --test compare -- --nocapture` prints the table. The figures are those of a model: they
//! say which way a policy leans, not how fast a machine is. Only what does not hang on the model's constants is
//! asserted.

mod sim;

use policy::{Policy, Settings};
use sim::{Point, STATIC_MAX_MIB, Summary};

const STEADY: &str = "t_s,used_mib,committed_mib
    0,100,120
    400,100,120";

/// One phase of load between two of rest.
const STEP: &str = "t_s,used_mib,committed_mib
    0,60,72
    60,60,72
    62,260,312
    120,260,312
    122,60,72
    400,60,72";

/// A program that reserves much and uses little.
const RESERVES: &str = "t_s,used_mib,committed_mib
    0,80,800
    400,80,800";

/// Memory of the kernel and its drivers, which is in nobody's commitments; then it grows.
const HIDDEN: &str = "t_s,used_mib,committed_mib
    0,250,20
    100,250,20
    160,400,20
    400,400,20";

const SAWTOOTH: &str = "t_s,used_mib,committed_mib
    0,40,48
    60,240,288
    62,40,48
    120,240,288
    122,40,48
    180,240,288
    182,40,48
    400,40,48";

/// A spike of 100 MiB every 30 s, for 2 s; committed when it comes.
fn spikes() -> Vec<Point> {
    let point = |t_s, used_mib| Point { t_s, used_mib, committed_mib: used_mib * 6 / 5 };
    let mut points = vec![point(0, 60)];
    for start in (30..330).step_by(30) {
        points.extend([point(start, 60), point(start + 1, 160), point(start + 3, 160), point(start + 4, 60)]);
    }
    points.push(point(500, 60));
    points
}

#[expect(clippy::expect_used, reason = "the traces are above")]
fn parse(csv: &str) -> Vec<Point> {
    sim::parse(csv).expect("a trace")
}

fn settings(policy: Policy, interval: u32) -> Settings {
    let mut settings = Settings { policy, selfballoon_interval: interval, ..Settings::default() };
    settings.resolve_reserve(STATIC_MAX_MIB * policy::FRAMES_PER_MIB);
    settings
}

/// The committed policy's summary and the pressure policy's.
fn both(trace: &[Point], interval: u32, ceiling_mib: u64) -> [Summary; 2] {
    [Policy::Committed, Policy::Pressure]
        .map(|policy| sim::play(&settings(policy, interval), trace, ceiling_mib))
}

#[test]
fn table() {
    println!("trace     interval policy     used  held   max   end  stalls  stall_ms  moved  late  lag_s");
    for (name, trace) in [
        ("steady", parse(STEADY)),
        ("step", parse(STEP)),
        ("reserves", parse(RESERVES)),
        ("hidden", parse(HIDDEN)),
        ("sawtooth", parse(SAWTOOTH)),
        ("spikes", spikes()),
    ] {
        for interval in [1, 5] {
            for (policy, summary) in
                ["committed", "pressure"].iter().zip(both(&trace, interval, STATIC_MAX_MIB))
            {
                let Summary { mean_used_mib, mean_mib, max_mib, end_mib, stalls, stall_ms, .. } = summary;
                let Summary { moved_mib, moved_late_mib, lag_s, .. } = summary;
                println!(
                    "{name:9} {interval:7}s {policy:9} {mean_used_mib:5} {mean_mib:5} {max_mib:5} {end_mib:5} \
                     {stalls:7} {stall_ms:9} {moved_mib:6} {moved_late_mib:5} {lag_s:6}"
                );
                assert_eq!(summary.failed_mib, 0, "{name} {policy}: there was memory");
                assert!(summary.mean_mib >= summary.mean_used_mib, "{name} {policy}");
                assert!(max_mib <= STATIC_MAX_MIB, "{name} {policy}");
            }
        }
    }
}

#[test]
fn on_a_steady_load_nothing_moves_in_the_end() {
    for interval in [1, 5] {
        for summary in both(&parse(STEADY), interval, STATIC_MAX_MIB) {
            assert_eq!((summary.moved_late_mib, summary.stalls), (0, 0), "{summary:?}");
        }
    }
}

#[test]
fn pressure_does_not_hold_what_is_only_reserved() {
    let [committed, pressure] = both(&parse(RESERVES), 5, STATIC_MAX_MIB);
    assert!(committed.end_mib >= 800);
    assert!(pressure.end_mib < 100, "80 MiB used: {}", pressure.end_mib);
    assert_eq!(pressure.stalls, 0);
}

#[test]
fn pressure_sees_what_is_in_no_ones_commitments() {
    let [committed, pressure] = both(&parse(HIDDEN), 5, STATIC_MAX_MIB);
    assert!(committed.stalls > 0, "its goal is below what is used");
    assert!(pressure.stalls < committed.stalls, "{} {}", pressure.stalls, committed.stalls);
    assert!(pressure.end_mib >= 400 + 4);
}

#[test]
fn both_follow_a_step_up_and_down() {
    for interval in [1, 5] {
        for summary in both(&parse(STEP), interval, STATIC_MAX_MIB) {
            let at = |t_s: usize| summary.reservation[t_s * 10] / policy::FRAMES_PER_MIB;
            assert!(at(119) >= 262, "there is room at the height of it: {}", at(119));
            assert!(summary.end_mib < at(119), "and it is given back");
        }
    }
    let [committed, pressure] = both(&parse(STEP), 1, STATIC_MAX_MIB);
    assert!(pressure.end_mib < committed.end_mib, "no reserve of a tenth, no automatic floor");
}

#[test]
fn a_ceiling_below_the_demand_is_kept_and_what_does_not_fit_fails() {
    for summary in both(&parse(STEP), 1, 200) {
        assert!(summary.max_mib <= 200);
        assert!(summary.failed_mib > 0);
    }
}

/// The headroom learnt from one spike outlasts to the next, in part.
#[test]
fn pressure_waits_no_longer_for_later_spikes_than_for_the_first() {
    let summary = sim::play(&settings(Policy::Pressure, 1), &spikes(), STATIC_MAX_MIB);
    let first_only: Vec<Point> = spikes().into_iter().filter(|point| point.t_s < 60).collect();
    let first = sim::play(&settings(Policy::Pressure, 1), &first_only, STATIC_MAX_MIB);
    assert!(
        summary.stall_ms <= 10 * first.stall_ms,
        "{} in ten, {} in one",
        summary.stall_ms,
        first.stall_ms
    );
}
