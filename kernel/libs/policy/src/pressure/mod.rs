//! The pressure policy: hold what is used, and headroom for what comes next.
//!
//! What applications commit says little about what they use: a store that reserves 800 MiB and fills 80 makes the
//! committed policy hold ten times its need, and the memory of the kernel itself is not in the sum at all. This
//! policy looks at measurements instead. Its goal is
//!
//! ```text
//! goal = envelope + refaulted + low watermark + headroom
//! ```
//!
//! **Envelope.** Memory in use, with instant attack and slow decay: it jumps up to what is used, and goes down by
//! the part `dt / (decay + dt)` of its distance in a run that comes `dt` after the last. That is the implicit form
//! of an exponential: it never overshoots, however late a run comes. A load that swings faster than `decay` is
//! held near its peak; one that is gone is let go, to about a third within `decay`.
//!
//! **Headroom.** What may be allocated before the next run. The estimate `burst` is the greater of two: how far use
//! rose *above the envelope* since the last run (a swing that the envelope already covers needs no headroom), and
//! an eighth of the gross allocations (of memory that is freed again at once, part lives at the same time). It too
//! attacks at once, and decays three times more slowly than the envelope, so that the next burst of a series finds
//! what the last one taught. When allocations had to wait, the headroom was too small, whatever the measurements
//! say: it doubles. It stays within `[least, half of the envelope]`, `least` being `pressure_headroom_mb` or
//! `pressure_headroom_percent` of the envelope.
//!
//! The headroom lies above the low watermark, where the allocator begins to look for memory. The kernel's reserve is
//! not added: what the kernel uses is used, and counted so.
//!
//! **Refaults.** Pages that came back from swap belong to the working set, and others were pushed out for them.
//! The goal makes room for as many, but no more than are out.
//!
//! **Probing.** Use that nobody needs is seen only by taking it away. While all is quiet a run orders a sixteenth
//! of the inactive pages evicted ([`Answer::evict_frames`]), if they have somewhere to go. Refaults beyond one page
//! in 512, or a stall, end this for a hold time that doubles each time from 10 s to 320 s, and is forgotten in real
//! time. (Pressure during a hold does not double it: probing was not the cause.) A search for the edge of the working
//! set necessarily crosses it, but ever more rarely.
//!
//! **Approach.** Up: all of the way at once. Down: all of the way, by at most an eighth of the memory per interval,
//! and only if the distance is worth it (2 MiB, or a quarter of the headroom): small swings move nothing, so that
//! blocks stay whole and the hypervisor is left alone.
//!
//! # Why it does not oscillate
//!
//! Without eviction, use and allocations do not depend on the target as long as memory is free, so the goal is a
//! filtered input without feedback: a bounded load gives a bounded goal, a constant one a constant goal, and a swing
//! of size x and period P moves the goal by about x·P/decay at most. The loops that are closed all lead away from
//! pressure quickly and back slowly: a stall adds headroom, which removes stalls; it decays over 3·decay. Eviction
//! goes on in small parts until the first pages come back, its end is immediate, and its repetition backs off
//! exponentially: a load that keeps proving that it needs its pages is probed every 320 s. While the policy probes,
//! self-shrinking rests, or it would call home what was just found unneeded.

use crate::math::{mib_frames, scale};
use crate::selfballoon::floor::{Floor, Regime};
use crate::{Observation, Reason, Settings};

/// Of gross allocations, one part in this many is taken to live at the same time.
pub const CHURN_PART: u64 = 8;
/// The burst estimate decays this many times more slowly than the envelope.
pub const BURST_DECAY: u64 = 3;
/// A run evicts at most one part in this many of the inactive pages.
pub const PROBE_PART: u64 = 16;
/// Refaults per interval above one part in this many of the resident pages are pressure.
pub const REFAULT_PART: u64 = 512;
/// So many refaults per interval are noise in any domain.
pub const REFAULT_NOISE: u64 = 16;
/// The first pause of probing after pressure.
pub const HOLD_MIN_NS: u64 = 10 * NS_PER_S;
/// The longest.
pub const HOLD_MAX_NS: u64 = 320 * NS_PER_S;
/// A run goes down by at most one part in this many of the memory per interval.
pub const STEP_PART: u64 = 8;
/// A distance below this is not worth going down: one block of 2 MiB.
pub const BAND_FRAMES: u64 = 512;
/// A run that comes early is taken for at least one part in this many of an interval when rates are computed.
pub const EARLIEST_PART: u64 = 4;

const NS_PER_S: u64 = 1_000_000_000;

/// What is kept between runs. Starts as its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// `None` before the first run.
    envelope_frames: Option<u64>,
    burst_frames: u64,
    /// What the last run ordered evicted.
    ordered_frames: u64,
    hold_left_ns: u64,
    /// The next hold; 0 counts as the first.
    hold_next_ns: u64,
}

/// What one run found. All counts in frames; goal, floor and target in the unit of `current_frames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is in use, at its recent height.
    pub envelope_frames: u64,
    /// What is kept free for bursts.
    pub headroom_frames: u64,
    /// Where the domain should be.
    pub goal_frames: u64,
    /// What the target may not be below.
    pub floor: Floor,
    /// Where it should be now.
    pub target_frames: u64,
    /// The same as a reservation: what the balloon is told.
    pub reservation_frames: u64,
    /// How many inactive pages to push out to swap now.
    pub evict_frames: u64,
    /// The rule that decided.
    pub reason: Reason,
}

/// The clock of a run.
#[derive(Clone, Copy)]
struct Clock {
    /// Nominal, in nanoseconds.
    interval: u64,
    /// Since the last run.
    elapsed: u64,
}

impl Clock {
    fn new(settings: &Settings, observation: &Observation) -> Self {
        let interval = u64::from(settings.selfballoon_interval.max(1)) * NS_PER_S;
        let elapsed = match observation.activity.elapsed_ns {
            0 => interval,
            elapsed => elapsed,
        };
        Self { interval, elapsed }
    }

    /// A count since the last run as a count per interval.
    fn per_interval(self, count: u64) -> u64 {
        scale(count, self.interval, self.elapsed.max(self.interval / EARLIEST_PART))
    }

    /// Lets `value`, which is at least `to`, decay towards it with the time constant `decay`. It arrives.
    fn decay(self, value: u64, to: u64, decay: u64) -> u64 {
        let distance = value - to;
        let step = scale(distance, self.elapsed, decay.saturating_add(self.elapsed));
        value - step.clamp(distance.min(1), distance)
    }
}

/// One run.
#[must_use]
pub fn decide(settings: &Settings, state: &State, observation: &Observation) -> (Answer, State) {
    let clock = Clock::new(settings, observation);
    let decay = u64::from(settings.pressure_decay_s.max(1)) * NS_PER_S;
    let activity = &observation.activity;
    let holds = observation.current_frames;
    let used = holds.saturating_sub(observation.free_frames);
    let stalled = activity.stalls > 0 || activity.stall_ns > 0;
    let refaulted = clock.per_interval(activity.refaulted_frames);
    let refaulting = refaulted > (activity.resident_frames / REFAULT_PART).max(REFAULT_NOISE);

    // The envelope. What went because we ordered it out went for good: it does not decay, it is gone.
    let before = state.envelope_frames.unwrap_or(used);
    let evicted = before.saturating_sub(used).min(state.ordered_frames);
    let before = before - evicted;
    let envelope = if used >= before { used } else { clock.decay(before, used, decay) };
    let grew = used.saturating_sub(before);

    // The headroom.
    let percent = u64::from(settings.pressure_headroom_percent);
    let least = mib_frames(settings.pressure_headroom_mb.into()).max(scale(envelope, percent, 100));
    let most = (envelope / 2).max(least);
    let mut wanted = clock.per_interval(grew.max(activity.allocated_frames / CHURN_PART));
    if stalled {
        wanted = wanted.max(state.burst_frames.max(least).saturating_mul(2));
    }
    let burst = if wanted >= state.burst_frames {
        wanted
    } else {
        clock.decay(state.burst_frames, wanted, decay.saturating_mul(BURST_DECAY))
    };
    let burst = burst.min(most);
    let headroom = burst.max(least);

    let (evict, hold_left_ns, hold_next_ns) =
        probe(settings, state, observation, clock, stalled || refaulting);

    // The goal, and the way there.
    let room = if refaulting { refaulted.min(observation.frontswap_frames) } else { 0 };
    let wish = envelope.saturating_add(room).saturating_add(observation.low_frames).saturating_add(headroom);
    let limit = observation.usable_from_reservation(observation.limit_frames());
    let goal = wish.min(limit);
    let (raw, reason) = if goal > holds {
        let reason = match (stalled, refaulting) {
            (true, _) => Reason::Stalled,
            (false, true) => Reason::Refaulted,
            (false, false) => Reason::Growing,
        };
        (goal, reason)
    } else {
        go_down(clock, holds, goal, headroom)
    };
    let floor = whole_floor(settings, observation);
    let (target, reason) = floor.hold(raw, reason).limit(wish, limit);
    let answer = Answer {
        envelope_frames: envelope,
        headroom_frames: headroom,
        goal_frames: goal,
        floor: floor.limited(limit),
        target_frames: target,
        reservation_frames: observation.reservation_from_usable(target).min(observation.limit_frames()),
        evict_frames: evict,
        reason,
    };
    let state = State {
        envelope_frames: Some(envelope),
        burst_frames: burst,
        ordered_frames: evict,
        hold_left_ns,
        hold_next_ns,
    };
    (answer, state)
}

/// Whether the policy looks for pages that nobody uses.
#[must_use]
pub fn probes(settings: &Settings, observation: &Observation) -> bool {
    settings.pressure_probe && observation.activity.evictable
}

/// How many pages to evict, the hold that is left and the next one.
fn probe(
    settings: &Settings,
    state: &State,
    observation: &Observation,
    clock: Clock,
    pressed: bool,
) -> (u64, u64, u64) {
    let next = state.hold_next_ns.clamp(HOLD_MIN_NS, HOLD_MAX_NS);
    if pressed && state.hold_left_ns > 0 {
        // Not probing's doing: the hold goes on, and does not count against probing.
        return (0, state.hold_left_ns.max(HOLD_MIN_NS), next);
    }
    if pressed {
        return (0, next, next.saturating_mul(2).min(HOLD_MAX_NS));
    }
    let left = state.hold_left_ns.saturating_sub(clock.elapsed);
    let activity = &observation.activity;
    if left > 0 || !probes(settings, observation) || observation.urgent {
        return (0, left, next);
    }
    let part = activity.inactive_frames / PROBE_PART;
    let evict = scale(part, clock.elapsed.min(clock.interval), clock.interval);
    (evict, 0, next.saturating_sub(clock.elapsed).max(HOLD_MIN_NS))
}

/// From `holds` down to `goal`.
fn go_down(clock: Clock, holds: u64, goal: u64, headroom: u64) -> (u64, Reason) {
    let distance = holds - goal;
    if distance == 0 {
        return (holds, Reason::AtGoal);
    }
    if distance < BAND_FRAMES.max(headroom / 4) {
        return (holds, Reason::Band);
    }
    let step = scale(holds / STEP_PART, clock.elapsed.min(clock.interval), clock.interval).max(BAND_FRAMES);
    if step < distance { (holds - step, Reason::Step) } else { (goal, Reason::Shrinking) }
}

/// The floor of this policy, in the unit of `current_frames`: `selfballoon_min_usable_mb`, or else the least
/// headroom, above the kernel's reserve; not above what the domain can have now.
///
/// The automatic floor of the committed policy makes up for what commitments do not count. Here everything in use
/// is counted.
#[must_use]
pub fn floor_of(settings: &Settings, observation: &Observation) -> Floor {
    let limit = observation.usable_from_reservation(observation.limit_frames());
    whole_floor(settings, observation).limited(limit)
}

fn whole_floor(settings: &Settings, observation: &Observation) -> Floor {
    let (mib, regime) = match settings.selfballoon_min_usable_mb {
        0 => (settings.pressure_headroom_mb, Regime::Headroom),
        mib => (mib, Regime::Set),
    };
    let frames = observation.total_reserve_frames.saturating_add(mib_frames(mib.into()));
    Floor { frames, regime }
}

#[cfg(test)]
mod tests;
