//! Whole runs under a virtual clock: what they do, how much they hold, and that refused memory is survived.

mod support;

use allocator_api2::alloc::Global;
use support::{Meter, Refuse, Watched};
use workload::random::Rng;
use workload::store::{Store, draw_words};
use workload::virtual_time::Clock;
use workload::{Kind, Options, Outcome, Phase, Progress, SetupError, Values, Workload};

const SECOND_NS: u64 = 1_000_000_000;
const MIB: usize = 1 << 20;

/// An operation in virtual time: what it may take under emulation.
const OPERATION_NS: u64 = 200_000;

fn kv() -> Options {
    Options { kind: Kind::Kv, size_mib: 4, seconds: Some(10), ..Options::default() }
}

fn hog() -> Options {
    Options { kind: Kind::Hog, size_mib: 3, seconds: Some(10), ..Options::default() }
}

#[expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]
fn build<A: allocator_api2::alloc::Allocator + Clone>(
    options: &Options,
    trace: &str,
    allocator: A,
) -> Workload<A> {
    Workload::from_options(options, Some(trace.as_bytes()), allocator).unwrap().unwrap()
}

/// Runs under a meter and gives all memory back: the outcome, and the books.
fn metered(options: &Options, trace: &str, meter: &Meter) -> (Outcome, Watched) {
    let mut environment = Watched::new(meter, OPERATION_NS);
    let progress = Progress::new();
    let refuse = meter.0.refuse.replace(Refuse::Beyond(usize::MAX));
    let mut workload = build(options, trace, meter.clone());
    meter.0.refuse.set(refuse);
    let outcome = workload.run(&mut environment, &progress);
    let seen = progress.snapshot();
    assert_eq!(
        (seen.work, seen.errors, seen.refused, seen.phase),
        (outcome.work, outcome.errors, outcome.refused, Phase::Done)
    );
    drop(workload);
    assert_eq!(meter.0.held.get(), 0, "everything is given back");
    (outcome, environment)
}

fn outcome(options: &Options, clock: &mut Clock) -> Outcome {
    build(options, "0 1 100\n5 3 100\n10 0 0", Global).run(clock, &Progress::new())
}

#[test]
fn the_same_seed_does_the_same_and_another_does_not() {
    for base in [kv(), hog(), Options { kind: Kind::Trace, ..hog() }] {
        let run = |options: &Options| {
            let mut clock = Clock::new(OPERATION_NS);
            let outcome = outcome(options, &mut clock);
            assert_eq!((outcome.errors, outcome.refused, outcome.word()), (0, 0, "done"));
            (outcome, clock.phases().collect::<Vec<_>>())
        };
        assert_eq!(run(&base), run(&base));
        let other = run(&Options { seed: 2, ..base });
        assert_eq!(
            other.0.digest == run(&base).0.digest,
            base.kind != Kind::Kv,
            "a hog's order has no chance in it"
        );
    }
}

#[test]
fn the_store_goes_through_its_phases_in_time() {
    let mut clock = Clock::new(OPERATION_NS);
    let outcome = outcome(&Options { shift_s: 3, ..kv() }, &mut clock);
    assert_eq!(outcome.word(), "done");
    let phases: Vec<_> =
        clock.phases().map(|(at_ns, phase)| (at_ns / (SECOND_NS / 10), phase.word())).collect();
    let expected =
        ["idle", "load", "serve", "delete", "idle", "burst", "serve", "delete", "idle", "delete", "done"];
    assert!(phases.iter().map(|(_, word)| *word).eq(expected), "{phases:?}");
    for (index, tenths) in [(1, 30), (2, 50), (3, 66), (5, 85), (7, 110), (9, 130)] {
        assert!((tenths - 1..=tenths + 2).contains(&phases[index].0), "{phases:?}");
    }
}

#[test]
fn memory_rises_falls_and_rises_again() {
    for values in [Values::Compressible, Values::Random] {
        let meter = Meter::generous();
        let options = Options { size_mib: 8, values, ..kv() };
        let (outcome, environment) = metered(&options, "", &meter);
        assert_eq!((outcome.errors, outcome.refused, outcome.word()), (0, 0, "done"));
        let percent: Vec<_> =
            environment.held.iter().map(|(phase, held)| (*phase, held * 100 / (8 * MIB))).collect();
        let expect = |index: usize, phase, range: std::ops::RangeInclusive<usize>| {
            assert!(percent[index].0 == phase && range.contains(&percent[index].1), "{index}: {percent:?}");
        };
        expect(1, Phase::Load, 0..=0);
        expect(2, Phase::Serve, 100..=104);
        expect(4, Phase::Idle, 10..=15);
        expect(6, Phase::Serve, 90..=95);
        expect(8, Phase::Idle, 10..=15);
        expect(10, Phase::Done, 0..=1);
        assert!((100..=110).contains(&(meter.0.peak.get() * 100 / (8 * MIB))), "{}", meter.0.peak.get());
    }
}

#[test]
fn a_rate_is_kept_and_no_rate_is_as_fast_as_it_goes() {
    // The load serves for 20 % of 10 s, serving takes 16 %, and up to 25 % as the burst is over early.
    let paced = outcome(&Options { rate: Some(100), ..kv() }, &mut Clock::new(OPERATION_NS));
    let still = outcome(&Options { rate: Some(0), ..kv() }, &mut Clock::new(OPERATION_NS));
    let free = outcome(&kv(), &mut Clock::new(OPERATION_NS));
    let served = paced.work - still.work;
    assert!((520..=620).contains(&served), "{served} operations at 100 per second");
    assert!(free.work > 25_000, "{}", free.work);
    assert!((9..=11).contains(&(paced.elapsed_ns / SECOND_NS)), "{}", paced.elapsed_ns);

    let hogs = |rate| outcome(&Options { rate, ..hog() }, &mut Clock::new(1000)).work;
    // Written and checked once each: 3 MiB are 768 pages.
    assert_eq!(hogs(Some(0)), 2 * 768);
    assert!((9_900..=10_000).contains(&(hogs(None) - 2 * 768)), "{}", hogs(None));
}

#[test]
fn a_run_without_end_goes_round_until_it_is_stopped() {
    let trace = Options { kind: Kind::Trace, ..hog() };
    for (base, phase) in [(kv(), Phase::Burst), (hog(), Phase::Touch), (trace, Phase::Load)] {
        let mut clock = Clock::new(OPERATION_NS).stopping_at(200 * SECOND_NS);
        let outcome = outcome(&Options { seconds: Some(0), rate: Some(50), ..base }, &mut clock);
        assert_eq!((outcome.word(), outcome.errors), ("stopped", 0));
        assert!(outcome.elapsed_ns < 201 * SECOND_NS);
        let begun = clock.phases().filter(|(_, begun)| *begun == phase).count();
        assert!(
            begun >= if phase == Phase::Touch { 1 } else { 2 },
            "{:?}",
            clock.phases().collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_run_stops_at_any_time() {
    for tenth in (0..100).step_by(13) {
        for base in [kv(), hog(), Options { kind: Kind::Trace, ..hog() }] {
            let stop_ns = tenth * SECOND_NS / 10;
            let mut clock = Clock::new(OPERATION_NS).stopping_at(stop_ns);
            let outcome = outcome(&Options { size_mib: 1, ..base }, &mut clock);
            assert_eq!((outcome.word(), outcome.errors), ("stopped", 0));
            assert!(clock.time_ns() <= stop_ns + SECOND_NS / 2, "{tenth}: {}", clock.time_ns());
        }
    }
}

#[test]
fn an_overrun_still_ends() {
    // Operations of 20 ms: nothing is done in the time asked for.
    let mut clock = Clock::new(20_000_000);
    let outcome = outcome(&Options { size_mib: 2, seconds: Some(1), ..kv() }, &mut clock);
    assert_eq!((outcome.word(), outcome.errors), ("done", 0));
    assert_eq!(clock.phases().count(), 11);
}

#[test]
fn too_little_memory_ends_a_run_by_a_value() {
    for options in [Options { size_mib: 8, ..kv() }, Options { size_mib: 8, ..hog() }] {
        let meter = Meter::new(Refuse::Beyond(5 * MIB));
        let (outcome, environment) = metered(&options, "", &meter);
        assert_eq!((outcome.word(), outcome.errors), ("out-of-memory", 0));
        assert!(outcome.refused >= 200, "{} refused", outcome.refused);
        assert!(environment.clock.time_ns() < 12 * SECOND_NS);
        assert!(meter.0.peak.get() > 4 * MIB);
    }
    // A trace goes on with what there is.
    let meter = Meter::new(Refuse::Beyond(5 * MIB));
    let trace = Options { kind: Kind::Trace, seconds: None, ..hog() };
    let (outcome, environment) = metered(&trace, "0 2 100\n5 8 100\n10 1 100\n15 0 0", &meter);
    assert_eq!((outcome.word(), outcome.errors, outcome.refused > 100), ("done", 0, true));
    assert_eq!(environment.clock.time_ns() / SECOND_NS, 15);
}

#[test]
fn memory_that_comes_late_is_waited_for() {
    for options in [Options { size_mib: 8, ..kv() }, Options { size_mib: 8, ..hog() }] {
        let meter = Meter::new(Refuse::Beyond(5 * MIB));
        let mut environment = Watched::new(&meter, OPERATION_NS);
        let books = meter.clone();
        environment.at_batch = Box::new(move |now_ns| {
            if now_ns > 5 * SECOND_NS {
                books.0.refuse.set(Refuse::Beyond(9 * MIB));
            }
        });
        let outcome = build(&options, "", meter.clone()).run(&mut environment, &Progress::new());
        assert_eq!((outcome.word(), outcome.errors, outcome.refused > 10), ("done", 0, true));
        assert!(meter.0.peak.get() > 8 * MIB);
    }
}

#[test]
fn refusals_at_random_are_counted_and_harm_nothing() {
    for often in [1, 30, 500] {
        for base in [kv(), hog(), Options { kind: Kind::Trace, ..hog() }] {
            let meter = Meter::new(Refuse::Often(often));
            let (outcome, _) = metered(&base, "0 1 100\n2 6 500\n5 2 500\n10 1 1", &meter);
            assert_eq!((outcome.word(), outcome.errors), ("done", 0));
            assert_eq!(outcome.refused, meter.0.refused.get(), "{often} in 1000, {base:?}");
        }
    }
}

#[test]
fn any_one_refusal_leaves_a_store_consistent() {
    let script = |meter: &Meter| {
        let mut rng = Rng::new(11);
        let mut store = Store::new(Values::Compressible, 3, meter.clone());
        let mut refused = 0;
        for turn in 0..120 {
            let words = draw_words(&mut rng).min(64);
            let before = (store.items(), store.bytes());
            let item = rng.below(store.items().max(1).into()) as u32;
            let result = match turn % 6 {
                0..=2 => store.insert(words).map(|mismatch| assert_eq!(mismatch, None)),
                3 => store.replace(item, words),
                4 => {
                    store.rewrite(item);
                    Ok(())
                }
                _ => {
                    assert_eq!(store.remove_last(), None);
                    Ok(())
                }
            };
            if result.is_err() {
                refused += 1;
                assert_eq!((store.items(), store.bytes()), before);
            }
            assert_eq!(store.audit(), None);
        }
        for item in 0..200 {
            assert_eq!(store.read(item), None);
        }
        refused
    };
    let meter = Meter::generous();
    assert_eq!(script(&meter), 0);
    for nth in 0..meter.0.asked.get() {
        let meter = Meter::new(Refuse::Nth(nth));
        assert_eq!(script(&meter), 1, "allocation {nth}");
        assert_eq!(meter.0.held.get(), 0);
    }
}

#[test]
fn a_trace_is_played_point_by_point() {
    let meter = Meter::generous();
    let trace = "1 2 100\n3 6 1000\n6 1 0\n8 0 0";
    let options = Options { kind: Kind::Trace, seconds: None, ..Options::default() };
    let (outcome, environment) = metered(&options, trace, &meter);
    assert_eq!((outcome.word(), outcome.errors, outcome.elapsed_ns / SECOND_NS), ("done", 0, 8));
    let phases: Vec<_> =
        environment.clock.phases().map(|(at_ns, phase)| (at_ns / SECOND_NS, phase.word())).collect();
    let expected = [
        (0, "idle"),
        (1, "load"),
        (1, "touch"),
        (3, "load"),
        (3, "touch"),
        (6, "delete"),
        (6, "touch"),
        (8, "delete"),
        (8, "done"),
    ];
    assert_eq!(phases, expected);
    assert_eq!(meter.0.peak.get() / MIB, 6);
    // 6 MiB are 1536 pages, written and checked; 200 and 3000 touches, less what growing takes of them.
    assert!((6_000..=6_272).contains(&outcome.work), "{}", outcome.work);

    // Longer than the trace: the last point is held. Shorter: it is cut.
    let (longer, _) = metered(&Options { seconds: Some(20), ..options }, "0 1 0\n5 2 0", &Meter::generous());
    assert_eq!((longer.elapsed_ns / SECOND_NS, longer.work), (20, 2 * 512));
    let (shorter, _) = metered(&Options { seconds: Some(4), ..options }, "0 1 0\n5 2 0", &Meter::generous());
    assert_eq!((shorter.elapsed_ns / SECOND_NS, shorter.work), (4, 2 * 256));
}

#[test]
fn what_cannot_be_set_up_is_an_error() {
    let trace = Options { kind: Kind::Trace, ..Options::default() };
    let setup = |options: &Options, text: Option<&[u8]>| {
        Workload::from_options(options, text, Global).map(|some| some.is_some())
    };
    assert_eq!(setup(&Options::default(), None), Ok(false));
    assert_eq!(setup(&kv(), None), Ok(true));
    assert_eq!(setup(&trace, None), Err(SetupError::NoTrace));
    assert_eq!(setup(&trace, Some(b"0 1 2")), Ok(true));
    let error = setup(&trace, Some(b"\n0 1")).unwrap_err();
    assert_eq!(error.to_string(), "trace, line 2: 2 fields, not at_s resident_mib touches_per_s");
    let meter = Meter::new(Refuse::Nth(0));
    let error = Workload::from_options(&trace, Some(b"0 1 2"), meter).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "trace, line 1: no memory for more points");
}
