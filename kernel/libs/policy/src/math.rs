//! Arithmetic that no input can overflow.

use crate::FRAMES_PER_MIB;

/// `mib` MiB in frames; stops at `u64::MAX`.
#[must_use]
pub const fn mib_frames(mib: u64) -> u64 {
    mib.saturating_mul(FRAMES_PER_MIB)
}

/// `value * numerator / denominator`, rounded down; stops at `u64::MAX`. A denominator of 0 counts as 1.
#[must_use]
pub(crate) fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Moves `value`, counted where `from` is read, into the count where the same memory reads `to`.
///
/// Stops at 0 and at `u64::MAX`. A `value` of `u64::MAX` means "no limit" and stays one.
#[must_use]
pub(crate) fn shift(value: u64, from: u64, to: u64) -> u64 {
    if value == u64::MAX {
        return value;
    }
    let moved = i128::from(value) + i128::from(to) - i128::from(from);
    u64::try_from(moved.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{mib_frames, scale, shift};

    #[test]
    fn scaling_rounds_down_and_stops_at_the_end() {
        assert_eq!(scale(1000, 1, 3), 333);
        assert_eq!(scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(scale(7, 3, 0), 21, "a denominator of 0 counts as 1");
        assert_eq!(scale(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn shifting_keeps_the_distance_and_no_limit() {
        assert_eq!(shift(9000, 11_000, 11_500), 9500);
        assert_eq!(shift(100, 1000, 0), 0);
        assert_eq!(shift(u64::MAX, 5, 0), u64::MAX);
        assert_eq!(shift(u64::MAX - 1, 0, u64::MAX), u64::MAX);
    }

    #[test]
    fn mib_stop_at_the_end() {
        assert_eq!(mib_frames(390), 99_840);
        assert_eq!(mib_frames(u64::MAX), u64::MAX);
    }
}
