//! The twenty-six test vectors of the committed policy, in both arithmetics.
//!
//! Units: frames. Settings as the last generation's (down 8, up 1) unless a row says otherwise. The compatible
//! arithmetic knows no limit. The fixed one runs twice: without a limit, where only the defects of the formula
//! itself can make a difference, and in a domain that may have `limit` usable frames, less than its span since the
//! span counts holes; there every floor is that of the smaller machine.

use policy::selfballoon::floor::Regime::{self, Eighth, Half, Set, ThirtySecond, Whole};
use policy::selfballoon::{self, Answer};
use policy::{
    Arithmetic, Observation,
    Reason::{self, AtGoal, Ceiling, Floor, Growing, Shrinking, Stuck},
    Settings, selfshrink,
};

struct Vector {
    name: &'static str,
    /// Current, committed, total reserve, span, pages in frontswap.
    domain: [u64; 5],
    reserved_mb: u32,
    up: u32,
    min_usable_mb: u32,
    /// Goal, raw, floor and target of the compatible arithmetic, and its reasons.
    original: [u64; 4],
    regime: Regime,
    reason: Reason,
    /// The same of the fixed arithmetic in a domain without a limit.
    fixed: [u64; 4],
    /// The same in a domain that may have so many usable frames.
    limit: u64,
    limited: [u64; 4],
    /// Because of which defects of the original the fixed target is another (or, 5, its floor).
    defects: &'static [u8],
}

const ROW: Vector = Vector {
    name: "",
    domain: [0; 5],
    reserved_mb: 0,
    up: 1,
    min_usable_mb: 0,
    original: [0; 4],
    regime: Whole,
    reason: AtGoal,
    fixed: [0; 4],
    limit: 0,
    limited: [0; 4],
    defects: &[],
};

/// Frames that are charged to the domain but not usable.
const OFFSET: u64 = 500;

#[rustfmt::skip] // a line for each: domain, original, fixed, fixed under a limit
const VECTORS: [Vector; 26] = [
    // V1: the floor asks for more than the domain has
    Vector {
        name: "V1", domain: [5000, 100, 2000, 6000, 0],
        original: [2100, 4638, 6000, 6000], regime: Whole, reason: Floor,
        fixed: [2100, 4638, 6000, 6000], defects: &[2],
        limit: 5000, limited: [2100, 4638, 5000, 5000],
        ..ROW
    },
    // V2: hysteresis downwards
    Vector {
        name: "V2", domain: [11_000, 2000, 1000, 12_000, 0],
        original: [3000, 10_000, 8548, 10_000], regime: Half, reason: Shrinking,
        fixed: [3000, 10_000, 8548, 10_000], defects: &[],
        limit: 11_500, limited: [3000, 10_000, 8298, 10_000],
        ..ROW
    },
    // V3: the floor binds
    Vector {
        name: "V3", domain: [8600, 500, 1000, 12_000, 0],
        original: [1500, 7713, 8548, 8548], regime: Half, reason: Floor,
        fixed: [1500, 7713, 8548, 8548], defects: &[],
        limit: 11_500, limited: [1500, 7713, 8298, 8298],
        ..ROW
    },
    // V4
    Vector {
        name: "V4", domain: [60_000, 20_000, 1500, 65_536, 0],
        original: [21_500, 55_188, 18_464, 55_188], regime: Eighth, reason: Shrinking,
        fixed: [21_500, 55_188, 18_464, 55_188], defects: &[],
        limit: 64_000, limited: [21_500, 55_188, 18_272, 55_188],
        ..ROW
    },
    // V5
    Vector {
        name: "V5", domain: [18_470, 1000, 1500, 65_536, 0],
        original: [2500, 16_474, 18_464, 18_464], regime: Eighth, reason: Floor,
        fixed: [2500, 16_474, 18_464, 18_464], defects: &[],
        limit: 64_000, limited: [2500, 16_474, 18_272, 18_272],
        ..ROW
    },
    // V6
    Vector {
        name: "V6", domain: [1_000_000, 200_000, 11_500, 1_048_576, 0],
        original: [211_500, 901_438, 68_460, 901_438], regime: ThirtySecond, reason: Shrinking,
        fixed: [211_500, 901_438, 68_460, 901_438], defects: &[],
        limit: 1_040_000, limited: [211_500, 901_438, 68_192, 901_438],
        ..ROW
    },
    // V7: 10 % reserve
    Vector {
        name: "V7", domain: [1_000_000, 200_000, 11_500, 1_048_576, 0], reserved_mb: 390,
        original: [311_340, 913_918, 68_460, 913_918], regime: ThirtySecond, reason: Shrinking,
        fixed: [311_340, 913_918, 68_460, 913_918], defects: &[],
        limit: 1_040_000, limited: [311_340, 913_918, 68_192, 913_918],
        ..ROW
    },
    // V8: up 1 jumps
    Vector {
        name: "V8", domain: [300_000, 500_000, 11_500, 1_048_576, 0],
        original: [511_500, 511_500, 68_460, 511_500], regime: ThirtySecond, reason: Growing,
        fixed: [511_500, 511_500, 68_460, 511_500], defects: &[],
        limit: 1_040_000, limited: [511_500, 511_500, 68_192, 511_500],
        ..ROW
    },
    // V9: up 4
    Vector {
        name: "V9", domain: [300_000, 500_000, 11_500, 1_048_576, 0], up: 4,
        original: [511_500, 352_875, 68_460, 352_875], regime: ThirtySecond, reason: Growing,
        fixed: [511_500, 352_875, 68_460, 352_875], defects: &[],
        limit: 1_040_000, limited: [511_500, 352_875, 68_192, 352_875],
        ..ROW
    },
    // V10: the frontswap term
    Vector {
        name: "V10", domain: [300_000, 250_000, 11_500, 1_048_576, 60_000],
        original: [321_500, 321_500, 68_460, 321_500], regime: ThirtySecond, reason: Growing,
        fixed: [321_500, 321_500, 68_460, 321_500], defects: &[],
        limit: 1_040_000, limited: [321_500, 321_500, 68_192, 321_500],
        ..ROW
    },
    // V11a: useful 16383
    Vector {
        name: "V11a", domain: [17_000, 0, 1000, 17_383, 0],
        original: [1000, 15_000, 11_239, 15_000], regime: Half, reason: Shrinking,
        fixed: [1000, 15_000, 11_239, 15_000], defects: &[],
        limit: 17_000, limited: [1000, 15_000, 11_048, 15_000],
        ..ROW
    },
    // V11b: useful 16384
    Vector {
        name: "V11b", domain: [17_000, 0, 1000, 17_384, 0],
        original: [1000, 15_000, 12_008, 15_000], regime: Eighth, reason: Shrinking,
        fixed: [1000, 15_000, 11_240, 15_000], defects: &[5],
        limit: 17_000, limited: [1000, 15_000, 11_048, 15_000],
        ..ROW
    },
    // V12a: useful 131071
    Vector {
        name: "V12a", domain: [130_000, 0, 1000, 132_071, 0],
        original: [1000, 113_875, 26_343, 113_875], regime: Eighth, reason: Shrinking,
        fixed: [1000, 113_875, 26_343, 113_875], defects: &[],
        limit: 131_000, limited: [1000, 113_875, 26_210, 113_875],
        ..ROW
    },
    // V12b: useful 131072
    Vector {
        name: "V12b", domain: [130_000, 0, 1000, 132_072, 0],
        original: [1000, 113_875, 29_648, 113_875], regime: ThirtySecond, reason: Shrinking,
        fixed: [1000, 113_875, 26_344, 113_875], defects: &[5],
        limit: 131_000, limited: [1000, 113_875, 26_210, 113_875],
        ..ROW
    },
    // V13a: useful 4095
    Vector {
        name: "V13a", domain: [5000, 0, 1000, 5095, 0],
        original: [1000, 4500, 5095, 5095], regime: Whole, reason: Floor,
        fixed: [1000, 4500, 5095, 5095], defects: &[2],
        limit: 5000, limited: [1000, 4500, 5000, 5000],
        ..ROW
    },
    // V13b: useful 4096: no jump here
    Vector {
        name: "V13b", domain: [5000, 0, 1000, 5096, 0],
        original: [1000, 4500, 5096, 5096], regime: Half, reason: Floor,
        fixed: [1000, 4500, 5096, 5096], defects: &[2],
        limit: 5000, limited: [1000, 4500, 5000, 5000],
        ..ROW
    },
    // V14: at the goal
    Vector {
        name: "V14", domain: [211_500, 200_000, 11_500, 1_048_576, 0],
        original: [211_500, 211_500, 68_460, 211_500], regime: ThirtySecond, reason: AtGoal,
        fixed: [211_500, 211_500, 68_460, 211_500], defects: &[],
        limit: 1_040_000, limited: [211_500, 211_500, 68_192, 211_500],
        ..ROW
    },
    // V15: 7/8 is 0: stuck
    Vector {
        name: "V15", domain: [211_507, 200_000, 11_500, 1_048_576, 0],
        original: [211_500, 211_507, 68_460, 211_507], regime: ThirtySecond, reason: Stuck,
        fixed: [211_500, 211_506, 68_460, 211_506], defects: &[1],
        limit: 1_040_000, limited: [211_500, 211_506, 68_192, 211_506],
        ..ROW
    },
    // V16: 8/8 is 1
    Vector {
        name: "V16", domain: [211_508, 200_000, 11_500, 1_048_576, 0],
        original: [211_500, 211_507, 68_460, 211_507], regime: ThirtySecond, reason: Shrinking,
        fixed: [211_500, 211_507, 68_460, 211_507], defects: &[],
        limit: 1_040_000, limited: [211_500, 211_507, 68_192, 211_507],
        ..ROW
    },
    // V17: 3/4 is 0: stuck short
    Vector {
        name: "V17", domain: [211_497, 200_000, 11_500, 1_048_576, 0], up: 4,
        original: [211_500, 211_497, 68_460, 211_497], regime: ThirtySecond, reason: Stuck,
        fixed: [211_500, 211_498, 68_460, 211_498], defects: &[1],
        limit: 1_040_000, limited: [211_500, 211_498, 68_192, 211_498],
        ..ROW
    },
    // V18: below the floor: up, although the goal is lower
    Vector {
        name: "V18", domain: [60_000, 10_000, 11_500, 1_048_576, 0],
        original: [21_500, 55_188, 68_460, 68_460], regime: ThirtySecond, reason: Floor,
        fixed: [21_500, 55_188, 68_460, 68_460], defects: &[],
        limit: 1_040_000, limited: [21_500, 55_188, 68_192, 68_192],
        ..ROW
    },
    // V19: a set floor
    Vector {
        name: "V19", domain: [60_000, 1000, 11_500, 1_048_576, 0], min_usable_mb: 100,
        original: [12_500, 54_063, 37_100, 54_063], regime: Set, reason: Shrinking,
        fixed: [12_500, 54_063, 37_100, 54_063], defects: &[],
        limit: 1_040_000, limited: [12_500, 54_063, 37_100, 54_063],
        ..ROW
    },
    // V20: a set floor above the machine
    Vector {
        name: "V20", domain: [1_000_000, 200_000, 11_500, 1_048_576, 0], min_usable_mb: 8192,
        original: [211_500, 901_438, 2_108_652, 2_108_652], regime: Set, reason: Floor,
        fixed: [211_500, 901_438, 1_048_576, 1_048_576], defects: &[2],
        limit: 1_040_000, limited: [211_500, 901_438, 1_040_000, 1_040_000],
        ..ROW
    },
    // V21: overcommitted: a target above the machine
    Vector {
        name: "V21", domain: [1_000_000, 3_000_000, 11_500, 1_048_576, 0],
        original: [3_011_500, 3_011_500, 68_460, 3_011_500], regime: ThirtySecond, reason: Growing,
        fixed: [3_011_500, 3_011_500, 68_460, 3_011_500], defects: &[3],
        limit: 1_040_000, limited: [1_040_000, 1_040_000, 68_192, 1_040_000],
        ..ROW
    },
    // V22: a reserve above the span wraps
    Vector {
        name: "V22", domain: [5000, 0, 7000, 6000, 0],
        original: [7000, 7000, 576_460_752_303_455_008, 576_460_752_303_455_008], regime: ThirtySecond, reason: Floor,
        fixed: [7000, 7000, 6000, 7000], defects: &[6, 2, 3],
        limit: 5500, limited: [5500, 5500, 5500, 5500],
        ..ROW
    },
    // V23: 2^24 MiB wrap to 0
    Vector {
        name: "V23", domain: [60_000, 1000, 11_500, 1_048_576, 0], min_usable_mb: 16_777_216,
        original: [12_500, 54_063, 11_500, 54_063], regime: Set, reason: Shrinking,
        fixed: [12_500, 54_063, 1_048_576, 1_048_576], defects: &[7, 2],
        limit: 1_040_000, limited: [12_500, 54_063, 1_040_000, 1_040_000],
        ..ROW
    },
];

impl Vector {
    fn settings(&self, arithmetic: Arithmetic) -> Settings {
        Settings {
            arithmetic,
            selfballoon_uphysteresis: self.up,
            selfballoon_min_usable_mb: self.min_usable_mb,
            selfballoon_reserved_mb: Some(self.reserved_mb),
            ..Settings::default()
        }
    }

    fn observation(&self, usable_limit: u64) -> Observation {
        let [current, committed, reserve, span, frontswap] = self.domain;
        Observation {
            committed_frames: committed,
            current_frames: current,
            reservation_frames: current + OFFSET,
            total_reserve_frames: reserve,
            span_frames: span,
            frontswap_frames: frontswap,
            frontswap_enabled: true,
            static_max_frames: usable_limit.saturating_add(OFFSET),
            ..Observation::default()
        }
    }

    fn run(&self, arithmetic: Arithmetic, usable_limit: u64) -> Answer {
        let observation = self.observation(usable_limit);
        selfballoon::decide(&self.settings(arithmetic), &observation, &selfshrink::State::default())
    }
}

fn figures(answer: &Answer) -> [u64; 4] {
    [answer.goal_frames, answer.raw_frames, answer.floor.frames, answer.target_frames]
}

#[test]
fn the_compatible_arithmetic_gives_the_originals_figures() {
    for vector in &VECTORS {
        let answer = vector.run(Arithmetic::Compatible, u64::MAX);
        assert_eq!(figures(&answer), vector.original, "{}", vector.name);
        assert_eq!((answer.floor.regime, answer.reason), (vector.regime, vector.reason), "{}", vector.name);
        assert_eq!(answer.reservation_frames, answer.target_frames + OFFSET, "{}", vector.name);
        let limited = vector.run(Arithmetic::Compatible, vector.limit);
        assert_eq!(limited, answer, "{}: it knows no limit", vector.name);
    }
}

#[test]
fn the_fixed_arithmetic_without_a_limit_differs_by_the_defects_of_the_formula() {
    for vector in &VECTORS {
        let answer = vector.run(Arithmetic::Fixed, u64::MAX);
        assert_eq!(figures(&answer), vector.fixed, "{}", vector.name);
        assert_eq!(answer.reservation_frames, answer.target_frames + OFFSET, "{}", vector.name);
        if vector.defects.is_empty() {
            assert_eq!(vector.fixed, vector.original, "{}: why?", vector.name);
            let same = (answer.floor.regime, answer.reason) == (vector.regime, vector.reason);
            assert!(same, "{}: {answer:?}", vector.name);
        }
    }
}

#[test]
fn the_fixed_arithmetic_stays_within_what_the_domain_may_have() {
    for vector in &VECTORS {
        let answer = vector.run(Arithmetic::Fixed, vector.limit);
        assert_eq!(figures(&answer), vector.limited, "{}", vector.name);
        assert!(answer.target_frames <= vector.limit, "{}", vector.name);
        assert!(answer.floor.frames <= vector.limit, "{}", vector.name);
        assert!(answer.goal_frames <= vector.limit, "{}", vector.name);
        if vector.original[3] > vector.limit {
            assert!(matches!(answer.reason, Ceiling | Floor), "{}: {answer:?}", vector.name);
            assert!(!vector.defects.is_empty(), "{}", vector.name);
        }
    }
}

#[test]
fn balloon_targets() {
    for (name, reservation, told) in [
        ("V1", 6000, 7000),
        ("V2", 11_500, 10_500),
        ("V3", 9000, 8948),
        ("V6", 1_048_000, 949_438),
        ("V8", 348_000, 559_500),
        ("V18", 108_000, 116_460),
    ] {
        for vector in VECTORS.iter().filter(|vector| vector.name == name) {
            let observation = Observation { reservation_frames: reservation, ..vector.observation(u64::MAX) };
            for arithmetic in [Arithmetic::Compatible, Arithmetic::Fixed] {
                let settings = vector.settings(arithmetic);
                let answer = selfballoon::decide(&settings, &observation, &selfshrink::State::default());
                assert_eq!(answer.reservation_frames, told, "{name} {arithmetic}");
            }
        }
    }
}

#[test]
fn every_vector_has_its_number() {
    let names: Vec<_> = VECTORS.iter().map(|vector| vector.name).collect();
    let split = |number: u32| matches!(number, 11..=13);
    let expected: Vec<_> = (1..=23)
        .flat_map(|n| if split(n) { vec![format!("V{n}a"), format!("V{n}b")] } else { vec![format!("V{n}")] })
        .collect();
    assert_eq!(names, expected);
}
