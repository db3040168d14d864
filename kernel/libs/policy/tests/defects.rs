//! The fifteen defects and sharp edges of the original, each shown by the compatible arithmetic (or by the rules
//! around it) and excluded by the fixed one.

use policy::boot::{Options, Platform, Switch, Why, select, select_original, switch_on};
use policy::original::{self, Errno, HZ};
use policy::selfballoon::{self, Answer, floor};
use policy::selfshrink::{self, Action, devices};
use policy::settings::{MAX_MIB, OutOfRange};
use policy::{Arithmetic, Generation, Observation, Reason, Settings, State, Tunable, approach, mib_frames};

use Arithmetic::{Compatible, Fixed};

fn settings(arithmetic: Arithmetic) -> Settings {
    Settings { arithmetic, selfballoon_reserved_mb: Some(0), ..Settings::default() }
}

/// 4 GiB, of which 200 000 frames are committed, holding `current`.
fn domain(current: u64) -> Observation {
    Observation {
        committed_frames: 200_000,
        current_frames: current,
        reservation_frames: current,
        total_reserve_frames: 11_500,
        span_frames: 1_048_576,
        ceiling_frames: 1_040_000,
        static_max_frames: 1_040_000,
        ..Observation::default()
    }
}

const GOAL: u64 = 211_500;

fn run(settings: &Settings, observation: &Observation) -> Answer {
    selfballoon::decide(settings, observation, &selfshrink::State::default())
}

/// Runs until nothing moves any more; gives the frames at which that is.
fn settle(settings: &Settings, observation: Observation) -> u64 {
    let mut observation = observation;
    loop {
        let target = run(settings, &observation).target_frames;
        if target == observation.current_frames {
            return target;
        }
        (observation.current_frames, observation.reservation_frames) = (target, target);
    }
}

#[test]
fn defect_01_the_step_rounds_to_nothing_short_of_the_goal() {
    assert_eq!(settle(&settings(Compatible), domain(1_000_000)), GOAL + 7);
    assert_eq!(settle(&settings(Fixed), domain(1_000_000)), GOAL);

    let slow = |arithmetic| Settings { selfballoon_uphysteresis: 4, ..settings(arithmetic) };
    assert_eq!(settle(&slow(Compatible), domain(100_000)), GOAL - 3);
    assert_eq!(settle(&slow(Fixed), domain(100_000)), GOAL);

    // The tunable brings the original's truncation back.
    let truncated = Settings { selfballoon_reach_goal: false, ..settings(Fixed) };
    assert_eq!(settle(&truncated, domain(1_000_000)), GOAL + 7);
    assert_eq!(run(&truncated, &domain(GOAL + 7)).reason, Reason::Stuck);
}

#[test]
fn defect_02_a_floor_above_what_the_domain_can_have() {
    // Tiny: the floor is the span, which counts holes.
    let tiny = Observation {
        committed_frames: 100,
        total_reserve_frames: 2000,
        span_frames: 6000,
        static_max_frames: 5000,
        ceiling_frames: 5000,
        ..domain(5000)
    };
    assert_eq!(run(&settings(Compatible), &tiny).target_frames, 6000);
    assert_eq!(run(&settings(Fixed), &tiny).target_frames, 5000);

    let set = |arithmetic| Settings { selfballoon_min_usable_mb: 8192, ..settings(arithmetic) };
    assert_eq!(run(&set(Compatible), &domain(1_000_000)).target_frames, 2_108_652);
    assert_eq!(run(&set(Fixed), &domain(1_000_000)).target_frames, 1_040_000);

    // A hole of 256 MiB below 4 GiB raises the original's floor by a thirty-second of it.
    let holed = Observation { span_frames: 1_040_000 + 65_536, ..domain(60_000) };
    let whole = Observation { span_frames: 1_040_000, ..domain(60_000) };
    let inflated =
        |settings: &Settings| run(settings, &holed).floor.frames - run(settings, &whole).floor.frames;
    assert_eq!(inflated(&settings(Compatible)), 2048);
    assert_eq!(inflated(&settings(Fixed)), 0);
}

#[test]
fn defect_03_the_goal_has_no_cap() {
    let overcommitted = Observation { committed_frames: 3_000_000, ..domain(1_000_000) };
    assert_eq!(run(&settings(Compatible), &overcommitted).goal_frames, 3_011_500);
    assert_eq!(run(&settings(Compatible), &overcommitted).target_frames, 3_011_500);
    let ours = run(&settings(Fixed), &overcommitted);
    assert_eq!((ours.goal_frames, ours.target_frames, ours.reason), (1_040_000, 1_040_000, Reason::Ceiling));
}

/// Kept on purpose: the floor is a promise to the guest, hysteresis is a taste. What is excluded is that the jump
/// asks for what the domain may not have.
#[test]
fn defect_04_below_the_floor_hysteresis_is_ignored() {
    let idle = Observation { committed_frames: 10_000, ..domain(60_000) };
    let slow = |arithmetic| Settings { selfballoon_uphysteresis: 100, ..settings(arithmetic) };
    assert_eq!(run(&slow(Compatible), &idle).target_frames, 68_460);
    let ours = run(&slow(Fixed), &idle);
    assert_eq!((ours.target_frames, ours.reason), (68_192, Reason::Floor), "the floor of what it can have");

    let capped = Observation { ceiling_frames: 62_000, ..idle };
    assert_eq!(run(&slow(Compatible), &capped).target_frames, 68_460, "beyond the toolstack's target");
    let ours = run(&slow(Fixed), &capped);
    assert_eq!((ours.target_frames, ours.reason), (62_000, Reason::Ceiling));
}

#[test]
fn defect_05_the_floor_jumps_at_64_and_512_mib() {
    for (useful, jump) in [(16_384_u64, 769), (131_072, 3305)] {
        let original = |useful: u64| floor::compatible(1000 + useful, 1000, 0).frames;
        assert_eq!(original(useful) - original(useful - 1), jump);
        let ours = |useful: u64| floor::fixed(1000 + useful, 1000, 0).frames;
        assert!(ours(useful) - ours(useful - 1) <= 1);
    }
}

#[test]
fn defect_06_a_reserve_above_the_span_wraps() {
    let odd = Observation {
        committed_frames: 0,
        total_reserve_frames: 7000,
        span_frames: 6000,
        static_max_frames: u64::MAX,
        ceiling_frames: u64::MAX,
        ..domain(5000)
    };
    assert_eq!(run(&settings(Compatible), &odd).target_frames, 576_460_752_303_455_008);
    let ours = run(&settings(Fixed), &odd);
    assert_eq!((ours.floor.frames, ours.target_frames), (6000, 7000), "the whole of it, and the goal above");
}

#[test]
fn defect_07_settings_are_cut_to_32_bits() {
    let mut theirs = settings(Compatible);
    for tunable in [
        Tunable::SelfballoonDownhysteresis,
        Tunable::SelfballoonUphysteresis,
        Tunable::FrontswapHysteresis,
        Tunable::SelfballoonInterval,
    ] {
        assert_eq!(original::write(&mut theirs, tunable, "0"), Err(Errno::Inval), "zero is refused");
        assert_eq!(original::write(&mut theirs, tunable, "4294967296"), Ok(()), "but not 2^32");
        assert_eq!(theirs.get(tunable), 0);
        let refused = OutOfRange { tunable, value: 1 << 32 };
        assert_eq!(settings(Fixed).set(tunable, 1 << 32), Err(refused));
    }
    // The worker then divides by zero, up and down, ballooning and shrinking.
    for current in [1_000_000, 100_000] {
        assert_eq!(run(&theirs, &domain(current)).reason, Reason::DividedByZero);
        assert_eq!(run(&theirs, &domain(current)).target_frames, current, "we stop there, not the machine");
    }
    // Even if the fields are set past the validation, the fixed arithmetic copes.
    let forced = Settings { arithmetic: Fixed, ..theirs };
    assert_eq!(run(&forced, &domain(1_000_000)).target_frames, GOAL);
    assert_eq!(run(&forced, &domain(100_000)).target_frames, GOAL);

    // M() is a 32-bit product: 2^24 MiB are none, and 2^24 + 1 are one.
    let set = |arithmetic, mib| Settings { selfballoon_min_usable_mb: mib, ..settings(arithmetic) };
    assert_eq!(run(&set(Compatible, 1 << 24), &domain(60_000)).floor.frames, 11_500);
    assert_eq!(run(&set(Compatible, (1 << 24) + 1), &domain(60_000)).floor.frames, 11_500 + 256);
    assert_eq!(run(&set(Fixed, 1 << 24), &domain(60_000)).floor.frames, 1_040_000, "all that it can have");
    let mut ours = settings(Fixed);
    assert!(ours.set(Tunable::SelfballoonMinUsableMb, 1 << 24).is_err());
    assert!(mib_frames(MAX_MIB.into()) <= u64::from(u32::MAX), "what is accepted does not wrap");

    // interval * HZ too: 198 days of sleep become a fifth of a second.
    let sleepy = Settings { selfballoon_interval: 17_179_870, ..settings(Compatible) };
    assert_eq!(original::sleep_ticks(&sleepy), 204);
    assert!(original::sleep_ticks(&sleepy) < HZ);
    let mut ours = settings(Fixed);
    assert!(ours.set(Tunable::SelfballoonInterval, 17_179_870).is_err(), "a day at most");
    assert_eq!(ours.set(Tunable::SelfballoonInterval, 86_400), Ok(()));
    let decision = approach::decide(&ours, &State::default(), &domain(60_000)).0;
    assert_eq!(decision.next_run_s, Some(86_400));
}

#[test]
fn defect_08_sizes_cannot_return_to_zero_and_print_signed() {
    let (mut theirs, mut ours) = (settings(Compatible), settings(Fixed));
    for tunable in [Tunable::SelfballoonMinUsableMb, Tunable::SelfballoonReservedMb] {
        assert_eq!(original::write(&mut theirs, tunable, "100"), Ok(()));
        assert_eq!(original::write(&mut theirs, tunable, "0"), Err(Errno::Inval));
        assert_eq!(theirs.get(tunable), 100);
        assert_eq!((ours.set(tunable, 100), ours.set(tunable, 0)), (Ok(()), Ok(())));
        assert_eq!(ours.get(tunable), 0);
    }
    assert_eq!(original::write(&mut theirs, Tunable::SelfballoonDownhysteresis, "4294967295"), Ok(()));
    assert_eq!(original::read(&theirs, Tunable::SelfballoonDownhysteresis), -1);
    assert_eq!(ours.set(Tunable::SelfballoonDownhysteresis, 4_294_967_295), Ok(()));
    assert_eq!(ours.get(Tunable::SelfballoonDownhysteresis), 4_294_967_295);
}

/// How many of the first twenty runs shrink, with 1000 pages out and shrinks obeyed.
fn shrinks(settings: &Settings) -> usize {
    let (mut state, mut held) = (selfshrink::State::default(), 1000);
    (0..20)
        .filter(|_| {
            let (next, action) = state.step(settings, held, u64::MAX);
            state = next;
            if let Action::Shrink { to_frames } = action {
                held = to_frames;
            }
            matches!(action, Action::Shrink { .. })
        })
        .count()
}

#[test]
fn defect_09_the_inertia_applies_only_once() {
    for generation in [Generation::First, Generation::Second] {
        assert_eq!(shrinks(&Settings { generation, ..settings(Compatible) }), 17);
        assert_eq!(shrinks(&Settings { generation, ..settings(Fixed) }), 6);
    }
    for arithmetic in [Compatible, Fixed] {
        assert_eq!(shrinks(&settings(arithmetic)), 6, "the last generation has it right");
    }
}

#[test]
fn defect_10_a_shrink_does_not_look_at_free_memory() {
    let held = Observation {
        frontswap_frames: 1000,
        frontswap_enabled: true,
        free_frames: 1100,
        low_frames: 1000,
        ..domain(300_000)
    };
    for (arithmetic, left) in [(Compatible, 0), (Fixed, 900)] {
        let all = Settings {
            frontswap_hysteresis: 1,
            frontswap_inertia: 1,
            selfballooning: false,
            ..settings(arithmetic)
        };
        let (_, state) = approach::decide(&all, &State::default(), &held);
        let (decision, _) = approach::decide(&all, &state, &held);
        assert_eq!(decision.shrink, Action::Shrink { to_frames: left }, "{arithmetic}");
    }
}

/// The original reads its memory once for the target and again for what it tells the balloon. A pure function of
/// one observation cannot; here the second reading is made by hand.
#[test]
fn defect_11_memory_is_read_twice_in_a_run() {
    let before = domain(1_000_000);
    let after = domain(999_000); // the balloon gave back 1000 frames meanwhile
    let target = run(&settings(Compatible), &before).target_frames;
    let second_reading = Observation { current_frames: after.current_frames, ..before };
    let told = second_reading.reservation_from_usable(target);
    assert_eq!(told - target, 1000, "the target is off by the change");
    for snapshot in [before, after] {
        let answer = run(&settings(Fixed), &snapshot);
        assert_eq!(answer.reservation_frames, answer.target_frames);
    }
}

#[test]
fn defect_12_it_can_be_switched_on_in_the_initial_domain() {
    let initial = Platform {
        xen: true,
        initial_domain: true,
        tmem_answers: true,
        frontswap_built: true,
        ..Platform::default()
    };
    let options = Options { tmem: true, ..Options::default() };
    let theirs = select_original(&options, &initial, Generation::Last).selfballooning;
    assert_eq!(theirs, Switch::Off(Why::InitialDomain), "the init refuses");
    let mut settings = Settings { selfballooning: false, ..settings(Compatible) };
    assert_eq!(original::write(&mut settings, Tunable::Selfballooning, "1"), Ok(()), "the setting does not");
    assert!(settings.selfballooning);
    assert_eq!(switch_on(&initial), Err(Why::InitialDomain), "ours does");
}

#[test]
fn defect_13_nobody_asks_whether_tmem_answers() {
    let silent = Platform { xen: true, frontswap_built: true, ..Platform::default() };
    let options = Options { tmem: true, ..Options::default() };
    assert!(select_original(&options, &silent, Generation::Last).frontswap.is_on(), "every store will fail");
    let ours = select(&options, &silent);
    assert_eq!(ours.frontswap, Switch::Off(Why::NoTmem));
    assert_eq!(ours.selfshrinking, Switch::Off(Why::FrontswapOff));
    assert_eq!(ours.selfballooning, Switch::On(Why::Default), "which does not need it");
    assert!(select(&options, &Platform { tmem_answers: true, ..silent }).frontswap.is_on());
}

#[test]
fn defect_14_a_shrink_asks_one_device_and_maybe_an_empty_one() {
    let counts = [0, 600, 400];
    assert_eq!(
        devices::compatible(&counts, 100, u64::MAX),
        Some((0, devices::Share::All)),
        "nothing happens"
    );
    assert_eq!(devices::plan(&counts, 100, u64::MAX).collect::<Vec<_>>(), [(1, 600), (2, 300)]);
}

#[test]
fn defect_15_memory_is_held_for_pages_that_never_come_home() {
    let stuck = Observation {
        frontswap_frames: 60_000,
        frontswap_enabled: true,
        free_frames: 50_000,
        ..domain(300_000)
    };
    for (arithmetic, goal) in [(Compatible, GOAL + 60_000), (Fixed, GOAL)] {
        let settings = settings(arithmetic);
        let mut state = State::default();
        let mut last = 0;
        // 60 000 pages are out and stay out, however often they are called.
        for _ in 0..20 {
            let (decision, next) = approach::decide(&settings, &state, &stuck);
            (state, last) = (next, decision.goal_frames);
        }
        assert_eq!(last, goal, "{arithmetic}");
    }
}
