//! The worker that makes memory follow the load: observe, decide, move. One step per call.
//!
//! A step looks whether a decision is due (the interval is over, somebody needs memory, or the toolstack or the
//! operator has changed something), has the policy decide if so, and then lets the balloon do a bounded piece of what
//! was decided last. The answer says when the next step is due. Whoever drives it, a thread in the image or a loop on
//! the host with a virtual clock, does nothing else.
//!
//! | file | what lives there |
//! |---|---|
//! | `observe.rs` | what a step looks at, and what the policy is told of it |
//! | `toolstack.rs` | the toolstack's target, and what became of it |
//!
//! **Who decides what.** The toolstack's target is a ceiling, for the policy, for the balloon, and for an emergency
//! too; with selfballooning off it is the target. A wish of the toolstack takes effect at once; the policy's own steps
//! down come at its interval, so that a run that was asked for early never shrinks the guest faster.
//!
//! **Context.** A [`Daemon`] belongs to one thread. A step may wait for other CPUs to forget translations, and takes
//! as long as its budget allows.

mod observe;
mod toolstack;

pub use observe::Observed;
pub use toolstack::{Toolstack, Verdict};

use crate::balloon::{Balloon, Budget, Evacuate, Outcome, Reason, Scratch, Step};
use crate::mm::direct_map::DirectMap;
use crate::mm::frame::LockKind;
use crate::port::{HvmOps, MemoryOps};
use crate::units::Frames;
use policy::{Decision, Settings, State};

/// How long a step that found another one under way waits.
const BUSY_NS: u64 = 10_000_000;

/// Why a step takes place.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cause {
    /// An allocation found nothing free since the last step.
    pub urgent: bool,
    /// The toolstack's target or a tunable has changed since the last step.
    pub changed: bool,
}

impl Cause {
    /// The time has come.
    pub const TIMER: Self = Self { urgent: false, changed: false };
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Progress {
    /// The decision, if one was due.
    pub decision: Option<Decision>,
    /// What the balloon moved.
    pub moved: Step,
    /// What the toolstack takes away and is in use: where pages have somewhere to go, so many frames are to be made free
    /// for the next step.
    pub in_use: Frames,
    /// When the next step is due, by the same clock; `None`: when there is a cause.
    pub next_ns: Option<u64>,
}

/// The worker's memory from step to step.
#[derive(Debug, Default)]
pub struct Daemon {
    state: State,
    /// When the next decision is due; `None` before the first, and while there is nothing to decide periodically.
    due_ns: Option<u64>,
    decided: bool,
    /// The last observation and its time: activity is what has changed since.
    last: Option<(u64, Observed)>,
}

impl Daemon {
    /// One that has decided nothing: the first step does.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One step, at `now_ns` by any clock that does not go backwards.
    ///
    /// `observe` is called only if a decision is due. Selfshrinking's part of the decision, and making room for what the
    /// toolstack takes away ([`Progress::in_use`]), is the caller's to carry out.
    #[expect(clippy::too_many_arguments, reason = "each is a part that tests replace on its own")]
    pub fn step<P, D, L>(
        &mut self,
        now_ns: u64,
        cause: Cause,
        settings: &Settings,
        observe: impl FnOnce() -> Observed,
        balloon: &Balloon<'_, '_, P, D, L>,
        budget: &Budget,
        scratch: &mut Scratch,
        evacuate: &impl Evacuate,
    ) -> Progress
    where
        P: MemoryOps + HvmOps,
        D: DirectMap,
        L: LockKind,
    {
        let decision = self.is_due(now_ns, cause).then(|| self.decide(now_ns, cause, settings, &observe()));
        if let Some(decision) = &decision {
            balloon.set_target(Frames::new(decision.target_frames));
        }
        let moved = balloon.step(now_ns, budget, scratch, evacuate);
        let in_use = match moved.outcome {
            Outcome::Held(Reason::Reserve, _) => balloon.above_ceiling(),
            _ => Frames::ZERO,
        };
        Progress { decision, moved, in_use, next_ns: self.next_ns(now_ns, moved.outcome) }
    }

    /// When the next step is due after one that ended so: for the balloon's sake or for a decision's.
    fn next_ns(&self, now_ns: u64, outcome: Outcome) -> Option<u64> {
        let again_ns = match outcome {
            Outcome::Reached => None,
            Outcome::More => Some(now_ns),
            Outcome::Held(_, until_ns) => Some(until_ns),
            Outcome::Busy => Some(now_ns.saturating_add(BUSY_NS)),
        };
        again_ns.into_iter().chain(self.due_ns).min()
    }

    fn is_due(&self, now_ns: u64, cause: Cause) -> bool {
        !self.decided || cause.urgent || cause.changed || self.due_ns.is_some_and(|due| due <= now_ns)
    }

    fn decide(&mut self, now_ns: u64, cause: Cause, settings: &Settings, observed: &Observed) -> Decision {
        let on_time = !self.decided || self.due_ns.is_some_and(|due| due <= now_ns);
        // A run before its time grows, or obeys a new ceiling, and does not shrink.
        let urgent = cause.urgent || !on_time;
        let last = self.last.as_ref().map(|(at_ns, last)| (now_ns.saturating_sub(*at_ns), last));
        let observation = observed.for_policy(last, urgent);
        let (decision, state) = policy::decide(settings, &self.state, &observation);
        (self.state, self.decided) = (state, true);
        self.last = Some((now_ns, *observed));
        let next_ns = decision.next_run_s.map(|seconds| now_ns.saturating_add(seconds * 1_000_000_000));
        self.due_ns = match (on_time, self.due_ns, next_ns) {
            // An early run does not put the next one off; but a shorter interval counts at once.
            (false, Some(due), Some(next)) => Some(due.min(next)),
            (_, _, next) => next,
        };
        decision
    }
}

#[cfg(test)]
mod tests;
