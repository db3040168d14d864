//! The toolstack's target from the store to the balloon: what was written last, and what became of it.

use crate::balloon::toolstack::{Clamp, SizeError, TargetRule, parse_kib};
use crate::units::{Frames, Kib};
use core::fmt;

/// What became of what the toolstack wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is followed.
    Followed {
        /// What was written.
        wish: Kib,
        /// The reservation that it means.
        ceiling: Frames,
        /// If that is not quite the same.
        clamped: Option<Clamp>,
    },
    /// It is no size: what was wished before stays.
    Refused(SizeError),
}

/// One line for the status node and the log.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Followed { wish, clamped: None, .. } => write!(f, "ok: {} KiB", wish.get()),
            Self::Followed { wish, ceiling, clamped: Some(clamp) } => {
                write!(f, "clamped: {} KiB is {clamp}; at most {} frames are used", wish.get(), ceiling.get())
            }
            Self::Refused(error) => write!(f, "refused: {error}"),
        }
    }
}

/// The rule, and the ceiling in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toolstack {
    rule: TargetRule,
    ceiling: Frames,
}

impl Toolstack {
    /// Until the toolstack says something, the ceiling is what the guest started with.
    #[must_use]
    pub const fn new(rule: TargetRule, ceiling: Frames) -> Self {
        Self { rule, ceiling }
    }

    /// The most that the guest may have now.
    #[must_use]
    pub const fn ceiling(&self) -> Frames {
        self.ceiling
    }

    /// Takes what is in `memory/target` now. What is no size changes nothing.
    pub fn wish(&mut self, text: &[u8]) -> Verdict {
        let wish = match parse_kib(text) {
            Ok(wish) => wish,
            Err(error) => return Verdict::Refused(error),
        };
        let applied = self.rule.apply(wish);
        self.ceiling = applied.target;
        Verdict::Followed { wish, ceiling: applied.target, clamped: applied.clamped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balloon::{StartFacts, StartPlan};
    use std::string::ToString;

    #[test]
    fn wishes_are_followed_clamped_or_refused() {
        let mib = |mib: u64| Kib::new(mib << 10);
        let plan = StartPlan::new(&StartFacts {
            ram: Frames::new(256 * 256),
            extra: Frames::new(12),
            reservation: Frames::new(256 * 256 + 12),
            limit: Frames::new(257 * 256),
            static_max: Some(mib(256)),
            target: Some(mib(256)),
        });
        let rule = TargetRule::new(&plan, Some(mib(256)), mib(256), Frames::new(16 * 256));
        let mut toolstack = Toolstack::new(rule, plan.target());
        assert_eq!(toolstack.ceiling(), plan.base);
        assert_eq!(toolstack.wish(b"131072").to_string(), "ok: 131072 KiB");
        assert_eq!(toolstack.ceiling(), Frames::new(128 * 256 + 12));
        let refused = toolstack.wish(b"lots");
        assert_eq!(refused, Verdict::Refused(SizeError::NotANumber));
        assert_eq!(toolstack.ceiling(), Frames::new(128 * 256 + 12), "nothing has changed");
        let low = toolstack.wish(b"1").to_string();
        assert_eq!(low, "clamped: 1 KiB is below what the guest can live on; at most 4096 frames are used");
        assert_eq!(toolstack.ceiling(), Frames::new(16 * 256));
    }
}
