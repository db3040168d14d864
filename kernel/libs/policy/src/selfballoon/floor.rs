//! The floor of the committed policy: memory that a domain keeps however little is committed.
//!
//! What a kernel itself needs is not part of what applications commit, so a goal alone could take a small domain
//! below what it needs to live. The original's floor grows with the machine in four regimes. With
//! `useful = span − reserve`, all in frames:
//!
//! | regime | useful | floor above the reserve |
//! |--------|--------|-------------------------|
//! | whole | below 4096 (16 MiB) | everything |
//! | half | below 16384 (64 MiB) | 4096 + (useful − 4096) / 2 |
//! | eighth | below 131072 (512 MiB) | 10240 + (useful − 10240) / 8 |
//! | thirty-second | | 25344 + (useful − 25344) / 32 |
//!
//! The original jumps where regimes meet: by 769 frames at 64 MiB, by 3305 at 512 MiB. A domain that grows across
//! such a point wants more memory than it gained a use for. The fixed floor is the lowest of the four lines: the
//! original's value everywhere but just above the two jumps (64–72 MiB and 512–650 MiB), where it is lower, and
//! continuous.

use crate::Reason;

/// A floor and the rule that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The least target.
    pub frames: u64,
    /// The rule.
    pub regime: Regime,
}

/// The rule that gave a floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// There is no floor (the first generation).
    None,
    /// `selfballoon_min_usable_mb` is set.
    Set,
    /// The least headroom (the pressure policy).
    Headroom,
    /// A tiny domain keeps all it has.
    Whole,
    /// Half of what is above 16 MiB.
    Half,
    /// An eighth.
    Eighth,
    /// A thirty-second part.
    ThirtySecond,
}

impl Floor {
    /// No floor.
    pub const NONE: Self = Self { frames: 0, regime: Regime::None };

    /// The floor under a limit.
    pub(crate) fn limited(self, limit: u64) -> Self {
        Self { frames: self.frames.min(limit), ..self }
    }

    /// What the floor makes of `raw`, which was decided for `reason`.
    pub(crate) fn hold(self, raw: u64, reason: Reason) -> Held {
        if self.frames > raw {
            Held { frames: self.frames, reason: Reason::Floor }
        } else {
            Held { frames: raw, reason }
        }
    }
}

/// A target above its floor, still without limit.
pub(crate) struct Held {
    frames: u64,
    reason: Reason,
}

impl Held {
    /// The target under `limit`, and the rule that decided; `wish` is the goal without limit.
    pub(crate) fn limit(self, wish: u64, limit: u64) -> (u64, Reason) {
        let clipped = self.frames > limit || (self.frames == limit && wish > limit);
        if clipped { (limit, Reason::Ceiling) } else { (self.frames, self.reason) }
    }
}

/// The original's floor. It wraps when the reserve is above the span, and so does `min_usable_mb` at 2^24.
#[must_use]
pub fn compatible(span_frames: u64, reserve_frames: u64, min_usable_mb: u32) -> Floor {
    if min_usable_mb != 0 {
        let frames = reserve_frames.wrapping_add(u64::from(min_usable_mb << 8));
        return Floor { frames, regime: Regime::Set };
    }
    let useful = span_frames.wrapping_sub(reserve_frames);
    let regime = match useful {
        0..4096 => return Floor { frames: span_frames, regime: Regime::Whole },
        4096..16_384 => Regime::Half,
        16_384..131_072 => Regime::Eighth,
        _ => Regime::ThirtySecond,
    };
    Floor { frames: reserve_frames.wrapping_add(line(regime, useful)), regime }
}

/// The continuous floor. It is at most `span_frames`, and does not fall when the span grows.
///
/// `min_usable_frames` 0 is the automatic floor.
#[must_use]
pub fn fixed(span_frames: u64, reserve_frames: u64, min_usable_frames: u64) -> Floor {
    if min_usable_frames != 0 {
        let frames = reserve_frames.saturating_add(min_usable_frames).min(span_frames);
        return Floor { frames, regime: Regime::Set };
    }
    let useful = span_frames.saturating_sub(reserve_frames);
    let lowest = [Regime::Half, Regime::Eighth, Regime::ThirtySecond]
        .map(|regime| (line(regime, useful), regime))
        .into_iter()
        .fold((useful, Regime::Whole), |lowest, next| if next.0 <= lowest.0 { next } else { lowest });
    match lowest {
        (_, Regime::Whole) => Floor { frames: span_frames, regime: Regime::Whole },
        (above, regime) => Floor { frames: reserve_frames + above, regime },
    }
}

/// The line of a regime above the reserve. Left of where it begins it is flat, which is above the line before it.
fn line(regime: Regime, useful: u64) -> u64 {
    let (base, divisor) = match regime {
        Regime::None | Regime::Set | Regime::Headroom | Regime::Whole => return useful,
        Regime::Half => (4096, 2),
        Regime::Eighth => (10_240, 8),
        Regime::ThirtySecond => (25_344, 32),
    };
    base + useful.saturating_sub(base) / divisor
}

#[cfg(test)]
mod tests {
    use super::{Regime, compatible, fixed};

    const RESERVE: u64 = 1000;

    #[test]
    fn the_fixed_floor_is_the_originals_but_above_the_jumps() {
        for useful in 0..300_000 {
            let span = RESERVE + useful;
            let (original, ours) = (compatible(span, RESERVE, 0), fixed(span, RESERVE, 0));
            assert!(ours.frames <= original.frames, "useful {useful}");
            let jump = (16_384..18_432).contains(&useful) || (131_072..166_315).contains(&useful);
            if !jump {
                assert_eq!(ours.frames, original.frames, "useful {useful}");
            }
        }
    }

    #[test]
    fn the_fixed_floor_has_no_jump_and_never_falls() {
        let mut before = fixed(0, RESERVE, 0).frames;
        for span in 1..300_000 {
            let now = fixed(span, RESERVE, 0).frames;
            assert!(now == before || now == before + 1, "span {span}: {before} -> {now}");
            before = now;
        }
    }

    #[test]
    fn a_set_floor_stops_at_the_machine() {
        assert_eq!(fixed(50_000, RESERVE, 25_600).frames, 26_600);
        assert_eq!(fixed(20_000, RESERVE, 25_600).frames, 20_000);
        assert_eq!(fixed(u64::MAX, u64::MAX, u64::MAX).frames, u64::MAX);
        assert_eq!(fixed(20_000, RESERVE, 1).regime, Regime::Set);
    }

    #[test]
    fn a_reserve_above_the_machine_leaves_a_floor_of_all_of_it() {
        assert_eq!(fixed(6000, 7000, 0).frames, 6000);
        assert_eq!(fixed(6000, u64::MAX, 0).frames, 6000);
    }
}
