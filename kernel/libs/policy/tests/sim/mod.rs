//! A domain small enough to argue about: it follows a trace of demand, its balloon obeys at a bounded speed and
//! stops at the watermark, an allocation that finds too little memory waits for an emergency deflate.
//!
//! Time goes in ticks of 100 ms. What it leaves out: the time of the hypervisor, fragmentation, swapping.

use policy::{Activity, FRAMES_PER_MIB as MIB, Observation, Settings, State, approach};

/// The most the domain may have, and what it boots with.
pub(crate) const STATIC_MAX_MIB: u64 = 1024;
const RESERVE: u64 = 4 * MIB;
const LOW: u64 = 2 * MIB;
/// Frames that the balloon moves in a tick: 320 MiB/s.
const SPEED: u64 = 32 * MIB;
/// What an emergency deflate takes beyond the need: a block.
const BLOCK: u64 = 512;
/// What an allocation waits for each frame of an emergency deflate.
const WAIT_NS: u64 = 2000;
const TICKS_PER_S: u64 = 10;
const TICK_NS: u64 = 100_000_000;

/// Demand at one time; between two points it goes straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Seconds since the start.
    pub(crate) t_s: u64,
    /// Memory in use.
    pub(crate) used_mib: u64,
    /// Memory committed.
    pub(crate) committed_mib: u64,
}

/// Reads `t_s,used_mib,committed_mib` lines; the first line names the columns.
pub(crate) fn parse(csv: &str) -> Result<Vec<Point>, String> {
    let mut lines = csv.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines.next() != Some("t_s,used_mib,committed_mib") {
        return Err("the first line is to be t_s,used_mib,committed_mib".into());
    }
    let points: Vec<Point> = lines
        .map(|line| {
            let numbers: Result<Vec<u64>, _> = line.split(',').map(|field| field.trim().parse()).collect();
            match numbers.as_deref() {
                Ok(&[t_s, used_mib, committed_mib]) => Ok(Point { t_s, used_mib, committed_mib }),
                _ => Err(format!("not three numbers: {line}")),
            }
        })
        .collect::<Result<_, _>>()?;
    if points.is_empty() || !points.windows(2).all(|pair| pair[0].t_s < pair[1].t_s) {
        return Err("the times are to grow".into());
    }
    Ok(points)
}

/// What a policy did to a trace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Of memory in use.
    pub(crate) mean_used_mib: u64,
    /// Of the reservation.
    pub(crate) mean_mib: u64,
    /// The greatest reservation.
    pub(crate) max_mib: u64,
    /// The reservation at the end.
    pub(crate) end_mib: u64,
    /// Ticks in which allocations waited.
    pub(crate) stalls: u64,
    /// How long, all together.
    pub(crate) stall_ms: u64,
    /// Memory that the balloon moved, both ways: its cost.
    pub(crate) moved_mib: u64,
    /// Of this, in the last quarter of the trace.
    pub(crate) moved_late_mib: u64,
    /// Demand that could not be met.
    pub(crate) failed_mib: u64,
    /// From the last fall of demand until the reservation is within 10 % of its value at the end.
    pub(crate) lag_s: u64,
    /// The reservation after each tick, in frames.
    pub(crate) reservation: Vec<u64>,
}

fn demand(trace: &[Point], tick: u64) -> (u64, u64) {
    let after = trace.partition_point(|point| point.t_s * TICKS_PER_S <= tick);
    let (from, to) = (trace[after.saturating_sub(1)], trace[after.min(trace.len() - 1)]);
    let span = (to.t_s.saturating_sub(from.t_s) * TICKS_PER_S).max(1);
    let at = tick.saturating_sub(from.t_s * TICKS_PER_S).min(span);
    let between = |from: u64, to: u64| (from * MIB * (span - at) + to * MIB * at) / span;
    (between(from.used_mib, to.used_mib), between(from.committed_mib, to.committed_mib))
}

/// Plays a trace under a policy; `ceiling_mib` is the toolstack's target.
pub(crate) fn play(settings: &Settings, trace: &[Point], ceiling_mib: u64) -> Summary {
    let ticks = trace.last().map_or(0, |point| point.t_s * TICKS_PER_S);
    let ceiling = ceiling_mib * MIB;
    let (mut holds, mut target, mut used) = (ceiling, ceiling, 0);
    let (mut state, mut activity) = (State::default(), Activity::default());
    let (mut moved, mut moved_late, mut used_sum) = (0, 0, 0);
    let mut next_run = 0;
    let mut summary = Summary::default();
    for tick in 0..ticks {
        // Demand.
        let (wanted, committed) = demand(trace, tick);
        let before = holds;
        let short = (wanted + LOW).saturating_sub(holds);
        let mut urgent = false;
        if wanted > used {
            activity.allocated_frames += wanted - used;
            if short > 0 {
                let got = (short + BLOCK).min(ceiling.saturating_sub(holds));
                holds += got;
                activity.stalls += 1;
                activity.stall_ns += got * WAIT_NS;
                summary.stalls += 1;
                summary.stall_ms += got * WAIT_NS / 1_000_000;
                urgent = true;
            }
        }
        used = wanted.min(holds);
        summary.failed_mib += (wanted - used) / MIB;
        // Policy.
        activity.elapsed_ns += TICK_NS;
        if tick >= next_run || urgent {
            let observation = Observation {
                committed_frames: committed,
                current_frames: holds,
                reservation_frames: holds,
                total_reserve_frames: RESERVE,
                span_frames: STATIC_MAX_MIB * MIB,
                ceiling_frames: ceiling,
                static_max_frames: STATIC_MAX_MIB * MIB,
                free_frames: holds - used,
                low_frames: LOW,
                urgent,
                activity: Activity { resident_frames: used, ..activity },
                ..Observation::default()
            };
            let (decision, next) = approach::decide(settings, &state, &observation);
            (state, target, activity) = (next, decision.target_frames, Activity::default());
            next_run = tick + decision.next_run_s.unwrap_or(u64::MAX / TICKS_PER_S) * TICKS_PER_S;
        }
        // Balloon.
        holds = if target > holds {
            holds + (target - holds).min(SPEED)
        } else {
            holds - (holds - target).min(SPEED).min(holds.saturating_sub(used + LOW))
        };
        let change = before.abs_diff(holds);
        moved += change;
        if tick >= ticks * 3 / 4 {
            moved_late += change;
        }
        used_sum += used;
        summary.reservation.push(holds);
    }
    let mean = |sum: u64| sum / ticks.max(1) / MIB;
    summary.mean_used_mib = mean(used_sum);
    summary.mean_mib = mean(summary.reservation.iter().sum());
    summary.max_mib = summary.reservation.iter().max().copied().unwrap_or(0) / MIB;
    summary.end_mib = holds / MIB;
    (summary.moved_mib, summary.moved_late_mib) = (moved / MIB, moved_late / MIB);
    summary.lag_s = lag_s(trace, &summary.reservation, holds);
    summary
}

fn lag_s(trace: &[Point], reservation: &[u64], end: u64) -> u64 {
    let fallen = trace
        .windows(2)
        .filter(|pair| pair[1].used_mib < pair[0].used_mib)
        .map(|pair| pair[1].t_s * TICKS_PER_S)
        .next_back()
        .unwrap_or(0);
    let settled =
        reservation.iter().rposition(|holds| holds.abs_diff(end) > end / 10).map_or(0, |tick| tick + 1);
    (settled as u64).saturating_sub(fallen) / TICKS_PER_S
}
