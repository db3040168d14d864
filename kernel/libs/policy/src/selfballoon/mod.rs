//! The committed-memory policy: what Linux's xen-selfballoon driver did until version 5.2.
//!
//! One run compares the memory that the domain has with a goal made of what its applications have committed, and
//! goes an eighth of the way down, or all of the way up. Three generations of the driver differ in the formula
//! ([`Generation`]); the arithmetic can keep or exclude their defects ([`Arithmetic`]).
//!
//! | | first | second | last |
//! |-|-------|--------|------|
//! | unit of goal and target | reservation | usable memory | usable memory |
//! | goal | committed + reservation − current + F | committed + reserve + M(reserved_mb) + F | the same |
//! | floor | none | [`floor`] | [`floor`] |
//! | F (pages in frontswap) counted | self-shrinking and frontswap on | the same | self-shrinking on |
//!
//! What [`Arithmetic::Fixed`] changes, and nothing else:
//!
//! * Goal, floor and target stop at the most that the domain can have, [`Observation::limit_frames`]. A domain
//!   above that limit goes to it at once: hysteresis is a courtesy between the guest and itself, a limit is not.
//! * A step is at least one frame (`selfballoon_reach_goal`): a division that rounds to nothing leaves no domain
//!   short of its goal.
//! * The floor is continuous, and never wraps ([`floor`]).
//! * Divisors of 0 count as 1; MiB are turned into frames in 64 bits.
//! * F is not counted while self-shrinking has room and yet brings nothing home
//!   ([`selfshrink::State::is_stalled`](crate::selfshrink::State::is_stalled)): memory is not held for pages that
//!   will not come.
//! * Everything comes from one [`Observation`]; the original reads its memory twice and shifts the target by what
//!   changed in between.
//!
//! Kept on purpose: a domain below its floor jumps to it, whatever `selfballoon_uphysteresis` says. The floor is
//! what the guest needs to run at all, and a slow way there would be a slow way out of trouble. The jump stops at
//! the limit.

pub mod floor;

use crate::math::mib_frames;
use crate::selfshrink;
use crate::{Arithmetic, Generation, Observation, Reason, Settings};
use floor::Floor;

/// What one run found. All counts in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the domain should be in the end.
    pub goal_frames: u64,
    /// Where it should be now for the hysteresis alone.
    pub raw_frames: u64,
    /// What the target may not be below.
    pub floor: Floor,
    /// Where it should be now, in the unit of the observation's `current_frames`. (The first generation computes
    /// in the unit of `reservation_frames`, goal and raw too.)
    pub target_frames: u64,
    /// The same as a reservation: what the balloon is told.
    pub reservation_frames: u64,
    /// The rule that decided.
    pub reason: Reason,
}

/// One run. `shrink` is the state of self-shrinking after the last run.
///
/// With [`Arithmetic::Compatible`] the answer is the original's and knows no limit;
/// [`approach::decide`](crate::approach::decide) puts the limit on top.
#[must_use]
pub fn decide(settings: &Settings, observation: &Observation, shrink: &selfshrink::State) -> Answer {
    match settings.arithmetic {
        Arithmetic::Compatible => compatible(settings, observation),
        Arithmetic::Fixed => fixed(settings, observation, shrink),
    }
}

/// The original's arithmetic: unsigned 64-bit counts that wrap, settings whose products wrap at 32 bits.
fn compatible(settings: &Settings, observation: &Observation) -> Answer {
    let Observation { current_frames: current, reservation_frames: reservation, .. } = *observation;
    let frontswap = if counts_frontswap(settings, observation) { observation.frontswap_frames } else { 0 };
    let committed = observation.committed_frames;
    let (holds, goal) = match settings.generation {
        Generation::First => (reservation, committed.wrapping_add(reservation).wrapping_sub(current)),
        Generation::Second | Generation::Last => {
            let reserved = settings.selfballoon_reserved_mb.unwrap_or(0) << 8;
            let reserve = observation.total_reserve_frames;
            (current, committed.wrapping_add(reserve).wrapping_add(u64::from(reserved)))
        }
    };
    let goal = goal.wrapping_add(frontswap);
    let down = u64::from(settings.selfballoon_downhysteresis);
    let up = u64::from(settings.selfballoon_uphysteresis);
    let step = match holds.cmp(&goal) {
        core::cmp::Ordering::Equal => Some((holds, Reason::AtGoal)),
        core::cmp::Ordering::Greater => {
            (holds - goal).checked_div(down).map(|step| (holds - step, moved(step, Reason::Shrinking)))
        }
        core::cmp::Ordering::Less => {
            (goal - holds).checked_div(up).map(|step| (holds + step, moved(step, Reason::Growing)))
        }
    };
    let Some((raw, reason)) = step else {
        let floor = Floor::NONE;
        let reason = Reason::DividedByZero;
        return Answer {
            goal_frames: goal,
            raw_frames: holds,
            floor,
            target_frames: holds,
            reservation_frames: reservation,
            reason,
        };
    };
    let floor = match settings.generation {
        Generation::First => Floor::NONE,
        Generation::Second | Generation::Last => floor::compatible(
            observation.span_frames,
            observation.total_reserve_frames,
            settings.selfballoon_min_usable_mb,
        ),
    };
    let target = raw.max(floor.frames);
    let told = match settings.generation {
        Generation::First => target,
        Generation::Second | Generation::Last => target.wrapping_add(reservation).wrapping_sub(current),
    };
    let reason = if floor.frames > raw { Reason::Floor } else { reason };
    Answer {
        goal_frames: goal,
        raw_frames: raw,
        floor,
        target_frames: target,
        reservation_frames: told,
        reason,
    }
}

/// The same without its defects; see the head of this module.
fn fixed(settings: &Settings, observation: &Observation, shrink: &selfshrink::State) -> Answer {
    let counted = counts_frontswap(settings, observation) && !shrink.is_stalled();
    let frontswap = if counted { observation.frontswap_frames } else { 0 };
    let committed = observation.committed_frames.saturating_add(frontswap);
    // All in the unit of goal and target.
    let (holds, limit, wish, floor) = match settings.generation {
        Generation::First => {
            let limit = observation.limit_frames();
            let wish = observation.reservation_from_usable(committed);
            (observation.reservation_frames, limit, wish, Floor::NONE)
        }
        Generation::Second | Generation::Last => {
            let limit = observation.usable_from_reservation(observation.limit_frames());
            let reserve = observation.total_reserve_frames;
            let wish = committed.saturating_add(reserve).saturating_add(settings.reserved_frames());
            (observation.current_frames, limit, wish, whole_floor(settings, observation))
        }
    };
    let goal = wish.min(limit);
    let (raw, reason) = step(settings, holds, goal);
    let (target, reason) = floor.hold(raw, reason).limit(wish, limit);
    let told = match settings.generation {
        Generation::First => target,
        Generation::Second | Generation::Last => observation.reservation_from_usable(target),
    }
    .min(observation.limit_frames());
    Answer {
        goal_frames: goal,
        raw_frames: raw,
        floor: floor.limited(limit),
        target_frames: target,
        reservation_frames: told,
        reason,
    }
}

/// The fixed floor of the domain, in the unit of `current_frames`, not above what the domain can have now.
#[must_use]
pub fn floor_of(settings: &Settings, observation: &Observation) -> Floor {
    let limit = observation.usable_from_reservation(observation.limit_frames());
    whole_floor(settings, observation).limited(limit)
}

/// The same, were there no toolstack's target.
fn whole_floor(settings: &Settings, observation: &Observation) -> Floor {
    let most = observation.usable_from_reservation(observation.static_max_frames);
    floor::fixed(
        observation.span_frames.min(most),
        observation.total_reserve_frames,
        mib_frames(settings.selfballoon_min_usable_mb.into()),
    )
}

/// A step of the fixed arithmetic from `holds` towards `goal`, which it never passes.
fn step(settings: &Settings, holds: u64, goal: u64) -> (u64, Reason) {
    let least = u64::from(settings.selfballoon_reach_goal);
    let part = |distance: u64, hysteresis: u32| (distance / u64::from(hysteresis.max(1))).max(least);
    if holds > goal {
        let step = part(holds - goal, settings.selfballoon_downhysteresis);
        (holds - step, moved(step, Reason::Shrinking))
    } else if holds < goal {
        let step = part(goal - holds, settings.selfballoon_uphysteresis);
        (holds + step, moved(step, Reason::Growing))
    } else {
        (holds, Reason::AtGoal)
    }
}

/// `reason`, unless nothing moves.
fn moved(step: u64, reason: Reason) -> Reason {
    if step == 0 { Reason::Stuck } else { reason }
}

/// Whether the goal counts the pages in frontswap.
fn counts_frontswap(settings: &Settings, observation: &Observation) -> bool {
    settings.frontswap_selfshrinking
        && (observation.frontswap_enabled || settings.generation == Generation::Last)
}

/// The most runs that the fixed arithmetic takes to cover `distance_frames` with a hysteresis of `divisor`, when
/// the goal stands still, the balloon obeys at once and `selfballoon_reach_goal` is on.
///
/// While the distance is at least the divisor, a run covers more than one part in twice the divisor, so that it
/// halves within twice the divisor of runs; the rest, less than the divisor, goes frame by frame.
#[must_use]
pub fn runs_bound(distance_frames: u64, divisor: u32) -> u64 {
    let divisor = u64::from(divisor.max(1));
    let halvings = u64::from(u64::BITS - (distance_frames / divisor).leading_zeros());
    (2 * divisor * halvings).saturating_add(divisor).min(distance_frames)
}

#[cfg(test)]
mod tests;
