//! Traces played run by run, against figures that are known.
//!
//! The first is the original's own way from 1 000 000 frames to a goal of 211 500 with constant demand and a balloon
//! that obeys at once: the first ten targets, and the run that is the first to change nothing, with each
//! arithmetic. The others are demand over time, with the targets that follow from the formula by hand.

use policy::selfballoon::runs_bound;
use policy::{Arithmetic, Decision, Observation, Settings, State, approach};

const RESERVE: u64 = 11_500;
const SPAN: u64 = 1_048_576;

/// Demand and the expected target, one run in each line.
const TRACE: &str = "committed,frontswap,ceiling,target
    200000,0,1040000,901438
    200000,0,1040000,815196
    200000,0,1040000,739734
    200000,0,1040000,673705
    200000,0,1040000,615930
    200000,0,1040000,565377
    200000,0,1040000,521143
    200000,0,1040000,482438
    200000,0,1040000,448571
    200000,0,1040000,418938
    500000,0,1040000,511500
    500000,60000,1040000,571500
    500000,60000,300000,300000
    500000,0,300000,300000
    500000,0,1040000,511500
    10000,0,1040000,450250
    10000,0,1040000,396657
    3000000,0,1040000,1040000
    10000,0,1040000,912688";

fn settings(arithmetic: Arithmetic) -> Settings {
    Settings { arithmetic, selfballoon_reserved_mb: Some(0), ..Settings::default() }
}

/// A domain and the state of its policy; the balloon obeys at once.
struct Player {
    settings: Settings,
    state: State,
    holds: u64,
}

impl Player {
    fn new(arithmetic: Arithmetic) -> Self {
        Self { settings: settings(arithmetic), state: State::default(), holds: 1_000_000 }
    }

    fn run(&mut self, committed: u64, frontswap: u64, ceiling: u64) -> Decision {
        let observation = Observation {
            committed_frames: committed,
            current_frames: self.holds,
            reservation_frames: self.holds,
            total_reserve_frames: RESERVE,
            span_frames: SPAN,
            frontswap_frames: frontswap,
            frontswap_enabled: true,
            ceiling_frames: ceiling,
            static_max_frames: 1_040_000,
            ..Observation::default()
        };
        let (decision, state) = approach::decide(&self.settings, &self.state, &observation);
        (self.state, self.holds) = (state, decision.target_frames);
        decision
    }
}

#[test]
fn the_trace_gives_its_targets() {
    for arithmetic in [Arithmetic::Compatible, Arithmetic::Fixed] {
        let mut player = Player::new(arithmetic);
        for (number, line) in TRACE.lines().enumerate().skip(1) {
            let fields: Vec<u64> =
                line.split(',').map(|field| field.trim().parse().expect("a number")).collect();
            let [committed, frontswap, ceiling, target] = fields[..] else { panic!("line {number}: {line}") };
            let decision = player.run(committed, frontswap, ceiling);
            assert_eq!(decision.target_frames, target, "line {number}, {arithmetic}: {decision:?}");
        }
    }
}

#[test]
fn the_original_stops_short_in_run_92_and_the_fixed_one_arrives() {
    for (arithmetic, end, first_idle) in
        [(Arithmetic::Compatible, 211_507, 92), (Arithmetic::Fixed, 211_500, 99)]
    {
        let mut player = Player::new(arithmetic);
        let mut runs = 1_u64;
        loop {
            let before = player.holds;
            if player.run(200_000, 0, 1_040_000).target_frames == before {
                break;
            }
            runs += 1;
        }
        assert_eq!((player.holds, runs), (end, first_idle), "{arithmetic}");
        assert!(runs - 1 <= runs_bound(1_000_000 - 211_500, 8));
    }
}
