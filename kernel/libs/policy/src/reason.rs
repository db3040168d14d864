//! Which rule decided.

use core::fmt;

/// The rule that decided a target. The last rule that changed it wins: the ceiling over the floor, the floor over
/// the approach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Selfballooning is off: the toolstack's target is followed exactly.
    Followed,
    /// The domain holds its goal.
    AtGoal,
    /// Below the goal; the target is nearer to it.
    Growing,
    /// Above the goal; the target is nearer to it.
    Shrinking,
    /// Short of the goal, and the step rounds to nothing (the original's arithmetic only).
    Stuck,
    /// Above the goal by less than is worth moving (the pressure policy).
    Band,
    /// Shrinking by the largest step allowed (the pressure policy).
    Step,
    /// An allocation waited: more headroom (the pressure policy).
    Stalled,
    /// Pages came back soon after they had left: room for them (the pressure policy).
    Refaulted,
    /// The floor is above what the approach asked for.
    Floor,
    /// The ceiling is below what the other rules asked for.
    Ceiling,
    /// The run was asked for by an allocation in need, and such a run does not shrink.
    Urgent,
    /// A divisor of 0: the original would stop the machine here; nothing moves (the original's arithmetic only).
    DividedByZero,
}

impl Reason {
    /// One word for records that programs read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Followed => "followed",
            Self::AtGoal => "at-goal",
            Self::Growing => "growing",
            Self::Shrinking => "shrinking",
            Self::Stuck => "stuck",
            Self::Band => "band",
            Self::Step => "step",
            Self::Stalled => "stalled",
            Self::Refaulted => "refaulted",
            Self::Floor => "floor",
            Self::Ceiling => "ceiling",
            Self::Urgent => "urgent",
            Self::DividedByZero => "divided-by-zero",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Followed => "selfballooning is off: the toolstack's target is followed",
            Self::AtGoal => "at the goal",
            Self::Growing => "below the goal: growing",
            Self::Shrinking => "above the goal: shrinking",
            Self::Stuck => "short of the goal by less than the hysteresis moves",
            Self::Band => "above the goal by less than is worth moving",
            Self::Step => "above the goal: shrinking by the largest step",
            Self::Stalled => "allocations waited: growing the headroom",
            Self::Refaulted => "pages came back from swap: making room for them",
            Self::Floor => "held up by the floor",
            Self::Ceiling => "held down by the ceiling",
            Self::Urgent => "an allocation is in need: not shrinking",
            Self::DividedByZero => "a hysteresis of 0: the original would divide by it",
        })
    }
}
