//! The toolstack's wish, `memory/target`, as a reservation: arithmetic only.
//!
//! `xl mem-set N` lowers or raises `max_pages` to N plus 1 MiB, and then writes N to `memory/target`, in KiB. The
//! number counts RAM as the toolstack sees it: the domain's `memory/static-max` is all of it. The domain is charged
//! for more (special pages, ACPI tables), and on HVM guests for other things besides (`memory/videoram`, which is 0
//! on PVH). Linux's balloon driver therefore takes the difference between `static-max` and what it found at boot as
//! a constant offset, and every toolstack relies on what follows: a guest holds `static-max - target` out of use,
//! whatever it is charged for. The same rule is here. Source: Xen `tools/libs/light/libxl_mem.c`,
//! `docs/misc/xenstore-paths.pandoc`.

use core::fmt;

use super::StartPlan;
use crate::units::{Frames, Kib};

/// The wish, in KiB; to be watched. Relative to the domain's directory, like the others.
pub const TARGET: &str = "memory/target";
/// All the RAM that the domain may ever have, in KiB.
pub const STATIC_MAX: &str = "memory/static-max";
/// Where a guest says that it has a balloon, and what it writes there.
pub const FEATURE: (&str, &str) = ("control/feature-balloon", "1");

/// Digits in a node that anybody takes for a size.
const MOST_DIGITS: usize = 20;

/// Why a node is no size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// There is nothing in it.
    Empty,
    /// There is something else than decimal digits in it.
    NotANumber,
    /// It does not fit 64 bits.
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the size is empty",
            Self::NotANumber => "the size is not a decimal number of KiB",
            Self::TooLarge => "the size is larger than any memory",
        })
    }
}

impl core::error::Error for SizeError {}

/// Reads a size in KiB, as the toolstack writes it: decimal digits, perhaps with white space around them.
///
/// # Errors
///
/// [`SizeError`]. A node that is no size changes nothing.
pub fn parse_kib(text: &[u8]) -> Result<Kib, SizeError> {
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return Err(SizeError::Empty);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(SizeError::NotANumber);
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let digits = &digits[zeros..];
    if digits.len() > MOST_DIGITS {
        return Err(SizeError::TooLarge);
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    digits.iter().try_fold(0, add).map(Kib::new).ok_or(SizeError::TooLarge)
}

/// What became of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The reservation that it means for this domain.
    pub target: Frames,
    /// Whether that is not quite what was wished.
    pub clamped: Option<Clamp>,
}

/// Why a wish is not followed to the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clamp {
    /// More than `static-max`: there is no more.
    AboveStaticMax,
    /// Less than the guest can live on.
    BelowLeast,
}

impl fmt::Display for Clamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AboveStaticMax => "above static-max",
            Self::BelowLeast => "below what the guest can live on",
        })
    }
}

/// How this domain's wishes are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetRule {
    base: Frames,
    static_max: Frames,
    least: Frames,
}

impl TargetRule {
    /// The rule for a domain that started as `plan` says. `static_max` as the toolstack wrote it; where it did not,
    /// `first`, the first target, is taken for it, as Linux does. `least` is the smallest reservation that the guest
    /// accepts as a target.
    #[must_use]
    pub fn new(plan: &StartPlan, static_max: Option<Kib>, first: Kib, least: Frames) -> Self {
        let static_max = Frames::from_kib_floor(static_max.unwrap_or(first));
        Self { base: plan.base, static_max, least: least.min(plan.base) }
    }

    /// The reservation that a target means.
    #[must_use]
    pub fn apply(&self, target: Kib) -> Wish {
        let target = Frames::from_kib_floor(target);
        let wished = self.base.saturating_sub(self.static_max.saturating_sub(target));
        let clamped = if target > self.static_max {
            Some(Clamp::AboveStaticMax)
        } else if wished < self.least || self.static_max - target > self.base {
            Some(Clamp::BelowLeast)
        } else {
            None
        };
        Wish { target: wished.max(self.least), clamped }
    }

    /// Linux's offset: the frames that the toolstack counts and the domain is not charged for, or the other way
    /// round if it is negative. For people who compare numbers.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.static_max.get().cast_signed().wrapping_sub(self.base.get().cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balloon::StartFacts;

    const MIB: u64 = 256;

    fn plan(mib: u64) -> StartPlan {
        StartPlan::new(&StartFacts {
            ram: Frames::new(mib * MIB),
            extra: Frames::new(12),
            reservation: Frames::new(mib * MIB + 12),
            limit: Frames::new(mib * MIB + 256),
            static_max: Some(Kib::new(mib << 10)),
            target: Some(Kib::new(mib << 10)),
        })
    }

    fn rule(mib: u64) -> TargetRule {
        TargetRule::new(&plan(mib), Some(Kib::new(mib << 10)), Kib::new(1), Frames::new(16 * MIB))
    }

    #[test]
    fn sizes_are_decimal_kib() {
        assert_eq!(parse_kib(b"131072"), Ok(Kib::new(131_072)));
        assert_eq!(parse_kib(b" 131072\n"), Ok(Kib::new(131_072)));
        assert_eq!(parse_kib(b"0"), Ok(Kib::new(0)));
        assert_eq!(parse_kib(b"0000000000000000000000000000000001"), Ok(Kib::new(1)));
        assert_eq!(parse_kib(b"18446744073709551615"), Ok(Kib::new(u64::MAX)));
        for (text, error) in [
            (&b""[..], SizeError::Empty),
            (b"  \n", SizeError::Empty),
            (b"128M", SizeError::NotANumber),
            (b"-1", SizeError::NotANumber),
            (b"+1", SizeError::NotANumber),
            (b"0x1000", SizeError::NotANumber),
            (b"1 2", SizeError::NotANumber),
            (b"\xFF\xFE", SizeError::NotANumber),
            (b"12\0", SizeError::NotANumber),
            (b"18446744073709551616", SizeError::TooLarge),
            (b"99999999999999999999999999", SizeError::TooLarge),
        ] {
            assert_eq!(parse_kib(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_guest_holds_out_what_is_missing_to_static_max() {
        // The worked example of the documentation: 256 MiB, then 128, then 256 again.
        let rule = rule(256);
        assert_eq!(rule.offset(), -12);
        for (mib, target) in [(256, 65548), (128, 32780), (17, 4364)] {
            assert_eq!(
                rule.apply(Kib::new(mib << 10)),
                Wish { target: Frames::new(target), clamped: None },
                "{mib} MiB"
            );
        }
        assert_eq!(
            rule.apply(Kib::new((128 << 10) + 3)).target,
            Frames::new(32780),
            "parts of a frame are none"
        );
    }

    #[test]
    fn hostile_targets_are_clamped_and_said_so() {
        let (rule, least) = (rule(256), Frames::new(16 * MIB));
        let low = Some(Clamp::BelowLeast);
        assert_eq!(rule.apply(Kib::new(0)), Wish { target: least, clamped: low });
        assert_eq!(rule.apply(Kib::new(1)), Wish { target: least, clamped: low });
        let high = Some(Clamp::AboveStaticMax);
        for kib in [(256 << 10) + 4, 1 << 40, u64::MAX] {
            assert_eq!(rule.apply(Kib::new(kib)), Wish { target: Frames::new(65548), clamped: high });
        }
    }

    #[test]
    fn a_missing_static_max_is_the_first_target() {
        let rule = TargetRule::new(&plan(64), None, Kib::new(64 << 10), Frames::ZERO);
        assert_eq!(rule.apply(Kib::new(64 << 10)).target, plan(64).base);
        assert_eq!(rule.apply(Kib::new(32 << 10)).target, Frames::new(32 * MIB + 12));
    }

    #[test]
    fn firmware_that_the_guest_does_not_see_is_held_out_all_the_same() {
        // static-max says 260 MiB, the map shows 256: the guest still gives up what the toolstack takes.
        let rule = TargetRule::new(&plan(256), Some(Kib::new(260 << 10)), Kib::new(1), Frames::ZERO);
        assert_eq!(rule.apply(Kib::new(260 << 10)).target, plan(256).base);
        assert_eq!(rule.apply(Kib::new(132 << 10)).target, Frames::new(128 * MIB + 12));
        assert_eq!(rule.apply(Kib::new(0)), Wish { target: Frames::ZERO, clamped: Some(Clamp::BelowLeast) });
    }
}
