//! What a periodic worker calls: one decision from settings, state and observation.
//!
//! The worker's loop is: observe; [`decide`]; tell the balloon the target; do what [`Decision::shrink`] and
//! [`Decision::evict_frames`] say; sleep for [`Decision::next_run_s`], or until an allocation is in need (then the
//! next observation is [`urgent`](Observation::urgent)).
//!
//! Promises, for any settings and any observation:
//!
//! * the target is never above [`Observation::limit_frames`], the toolstack's target or the static maximum;
//! * with selfballooning off it is that limit exactly;
//! * it is never below the policy's floor unless the limit is (with the compatible arithmetic the floor is the
//!   original's, absurd values included);
//! * with nothing else changing, targets that the balloon obeys go towards the goal and never past it;
//! * an urgent run does not shrink the domain, unless the limit demands it, and brings no pages home;
//! * nothing overflows and nothing panics.

use crate::selfshrink::Action;
use crate::{
    Arithmetic, Generation, Observation, Policy, Reason, Settings, original, pressure, selfballoon,
    selfshrink,
};

/// What is kept between runs, whichever policy is selected. Starts as its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Of self-shrinking.
    pub shrink: selfshrink::State,
    /// Of the pressure policy. A change to the other policy and back forgets it.
    pub pressure: pressure::State,
}

/// What to do now, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The reservation that the balloon should bring about, in frames.
    pub target_frames: u64,
    /// The reservation that would be right in the end, in frames.
    pub goal_frames: u64,
    /// The floor as a reservation, in frames.
    pub floor_frames: u64,
    /// The rule that decided the target.
    pub reason: Reason,
    /// Bring pages home from frontswap?
    pub shrink: Action,
    /// How many inactive pages to push out to swap.
    pub evict_frames: u64,
    /// Seconds until the next run. `None`: both switches are off, and the next run comes when one is switched on
    /// or the toolstack's target changes.
    pub next_run_s: Option<u64>,
}

/// A policy's answer, in reservations.
struct Wish {
    goal: u64,
    floor: u64,
    target: u64,
    reason: Reason,
    evict: u64,
    /// What self-shrinking is to leave free beyond the watermark; `None`: it rests.
    spare: Option<u64>,
}

/// One run.
#[must_use]
pub fn decide(settings: &Settings, state: &State, observation: &Observation) -> (Decision, State) {
    let limit = observation.limit_frames();
    let (wish, pressure) = wish(settings, state, observation);
    let (mut target, mut reason) = (wish.target, wish.reason);
    if settings.selfballooning && observation.urgent && target < observation.reservation_frames {
        (target, reason) = (observation.reservation_frames, Reason::Urgent);
    }
    if target > limit {
        (target, reason) = (limit, Reason::Ceiling);
    }
    let (shrink, action) = match wish.spare {
        None if settings.frontswap_selfshrinking => (state.shrink, Action::Held),
        // The inertia counts intervals, and runs of need may come by the dozen in one.
        _ if observation.urgent && settings.frontswap_selfshrinking => (state.shrink, Action::Early),
        spare => {
            let kept = observation.low_frames.saturating_add(spare.unwrap_or(0)).max(observation.high_frames);
            let room = observation.free_frames.saturating_sub(kept);
            state.shrink.step(settings, observation.frontswap_frames, room)
        }
    };
    let decision = Decision {
        target_frames: target,
        goal_frames: wish.goal.min(limit),
        floor_frames: wish.floor.min(limit),
        reason,
        shrink: action,
        evict_frames: wish.evict,
        next_run_s: next_run_s(settings),
    };
    (decision, State { shrink, pressure })
}

fn wish(settings: &Settings, state: &State, observation: &Observation) -> (Wish, pressure::State) {
    if !settings.selfballooning {
        let limit = observation.limit_frames();
        let reason = Reason::Followed;
        let wish = Wish { goal: limit, floor: 0, target: limit, reason, evict: 0, spare: Some(0) };
        return (wish, pressure::State::default());
    }
    match settings.policy {
        Policy::Committed => {
            let answer = selfballoon::decide(settings, observation, &state.shrink);
            let reservation = |frames| match settings.generation {
                Generation::First => frames,
                Generation::Second | Generation::Last => observation.reservation_from_usable(frames),
            };
            let wish = Wish {
                goal: reservation(answer.goal_frames),
                floor: reservation(answer.floor.frames),
                target: answer.reservation_frames,
                reason: answer.reason,
                evict: 0,
                spare: Some(0),
            };
            (wish, pressure::State::default())
        }
        Policy::Pressure => {
            let (answer, next) = pressure::decide(settings, &state.pressure, observation);
            let wish = Wish {
                goal: observation.reservation_from_usable(answer.goal_frames),
                floor: observation.reservation_from_usable(answer.floor.frames),
                target: answer.reservation_frames,
                reason: answer.reason,
                evict: answer.evict_frames,
                spare: (!pressure::probes(settings, observation)).then_some(answer.headroom_frames),
            };
            (wish, next)
        }
    }
}

/// Whether a change of settings wants a run now, rather than when the next one is due.
///
/// As in the original, switching on what was off schedules the worker if it has stopped, and a switch that finds it
/// running waits for its turn. Beyond the original: selfballooning switched either way, or another policy, takes
/// effect at once, since off means that the toolstack's target holds.
#[must_use]
pub fn wants_a_run(before: &Settings, after: &Settings) -> bool {
    let stopped = next_run_s(before).is_none();
    let runs = next_run_s(after).is_some();
    (stopped && runs) || before.selfballooning != after.selfballooning || before.policy != after.policy
}

fn next_run_s(settings: &Settings) -> Option<u64> {
    if !settings.selfballooning && !settings.frontswap_selfshrinking {
        return None;
    }
    let seconds = match settings.arithmetic {
        Arithmetic::Compatible => original::sleep_ticks(settings) / original::HZ,
        Arithmetic::Fixed => settings.selfballoon_interval,
    };
    // The original can come to sleep not at all; a worker must.
    Some(seconds.max(1).into())
}

#[cfg(test)]
mod tests;
