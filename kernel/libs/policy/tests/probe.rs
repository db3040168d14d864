//! The pressure policy with a swap tier, in a closed loop: what it evicts comes back if somebody needs it.
//!
//! The domain's memory is 100 chunks of 1 MiB, each touched every so often or never. A chunk that was not touched for
//! two seconds is inactive; the longest untouched goes first; a touch of a chunk that is out is a refault of all of
//! its pages.

use policy::selfshrink::Action;
use policy::{Activity, FRAMES_PER_MIB as MIB, Observation, Policy, Settings, State, approach};

const RESERVE: u64 = 4 * MIB;
const INACTIVE_AFTER_S: u64 = 2;
const CEILING: u64 = 256 * MIB;

struct Chunk {
    /// Seconds between touches; 0: never.
    period_s: u64,
    touched_s: u64,
    out: bool,
}

#[derive(Default)]
struct Played {
    /// MiB in memory after each second.
    used: Vec<u64>,
    /// The reservation after each second, in frames.
    held: Vec<u64>,
    /// Chunks that came back, in each second.
    refaults: Vec<u64>,
    /// Runs in which self-shrinking ordered something.
    shrinks: u64,
}

fn play(settings: &Settings, periods: &[(usize, u64)], seconds: u64) -> Played {
    let mut chunks: Vec<Chunk> = periods
        .iter()
        .flat_map(|&(count, period_s)| (0..count).map(move |_| Chunk { period_s, touched_s: 0, out: false }))
        .collect();
    let mut played = Played::default();
    let (mut state, mut holds) = (State::default(), CEILING);
    for now in 1..=seconds {
        let mut refaults = 0;
        for (number, chunk) in chunks.iter_mut().enumerate() {
            // Spread over the period.
            if chunk.period_s != 0 && (now + number as u64).is_multiple_of(chunk.period_s) {
                refaults += u64::from(chunk.out);
                (chunk.out, chunk.touched_s) = (false, now);
            }
        }
        let used = chunks.iter().filter(|chunk| !chunk.out).count() as u64;
        let inactive = |chunk: &&mut Chunk| !chunk.out && now - chunk.touched_s >= INACTIVE_AFTER_S;
        let inactive_mib = chunks.iter_mut().filter(inactive).count() as u64;
        // Faulting in deflates at once.
        holds = holds.max(used * MIB + RESERVE);
        let observation = Observation {
            current_frames: holds,
            reservation_frames: holds,
            free_frames: holds - used * MIB,
            total_reserve_frames: RESERVE,
            low_frames: RESERVE,
            ceiling_frames: CEILING,
            frontswap_frames: (chunks.len() as u64 - used) * MIB,
            frontswap_enabled: true,
            activity: Activity {
                elapsed_ns: 1_000_000_000,
                allocated_frames: refaults * MIB,
                refaulted_frames: refaults * MIB,
                resident_frames: used * MIB,
                inactive_frames: inactive_mib * MIB,
                active_frames: (used - inactive_mib) * MIB,
                evictable: true,
                ..Activity::default()
            },
            ..Observation::default()
        };
        let (decision, next) = approach::decide(settings, &state, &observation);
        (state, holds) = (next, decision.target_frames);
        // A part of a chunk goes as a whole, so that a small order is obeyed too.
        let evict = decision.evict_frames.div_ceil(MIB) as usize;
        let mut coldest: Vec<_> = chunks.iter_mut().filter(inactive).collect();
        coldest.sort_by_key(|chunk| chunk.touched_s);
        coldest.into_iter().take(evict).for_each(|chunk| chunk.out = true);
        played.shrinks += u64::from(matches!(decision.shrink, Action::Shrink { .. }));
        played.used.push(chunks.iter().filter(|chunk| !chunk.out).count() as u64);
        played.held.push(holds);
        played.refaults.push(refaults);
    }
    played
}

fn settings() -> Settings {
    Settings { policy: Policy::Pressure, selfballoon_interval: 1, ..Settings::default() }
}

fn mean(of: &[u64]) -> u64 {
    of.iter().sum::<u64>() / of.len() as u64
}

#[test]
fn what_nobody_touches_goes_and_what_is_hot_stays() {
    // 40 MiB touched every second, 60 MiB never.
    let played = play(&settings(), &[(40, 1), (60, 0)], 600);
    assert_eq!(played.refaults.iter().sum::<u64>(), 0, "the hot ones never left");
    assert_eq!(played.used[599], 40);
    let held = played.held[599] / MIB;
    assert!((48..=52).contains(&held), "40 MiB, watermark, headroom, band: {held}");
    assert!(played.held[400..].windows(2).all(|pair| pair[0] == pair[1]), "and then it stands still");
    assert_eq!(played.shrinks, 0, "what was pushed out as not needed is not called home");
}

#[test]
fn what_is_touched_now_and_then_comes_back_ever_more_rarely() {
    // 40 MiB every second, 30 MiB every 20 s, 30 MiB never.
    let played = play(&settings(), &[(40, 1), (30, 20), (30, 0)], 6000);
    let per_minute =
        |from: usize, to: usize| played.refaults[from..to].iter().sum::<u64>() * 60 / (to - from) as u64;
    let (early, late) = (per_minute(0, 600), per_minute(3000, 6000));
    println!(
        "refaults/min {early} then {late}; used {}, held {}",
        mean(&played.used[3000..]),
        mean(&played.held[3000..]) / MIB
    );
    assert!(late <= early, "{early} then {late}");
    assert!(late <= 15, "the 30 MiB are touched 90 times a minute; 15 of these at most wait: {late}");
    let used = mean(&played.used[3000..]);
    assert!((55..=75).contains(&used), "70 MiB are in use now and then: {used}");
}

#[test]
fn without_probing_nothing_is_evicted() {
    let played = play(&Settings { pressure_probe: false, ..settings() }, &[(40, 1), (60, 0)], 300);
    assert!(played.used.iter().all(|used| *used == 100));
}
