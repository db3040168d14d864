//! The parts of the original around its arithmetic: how its settings were written and read, and how it slept.
//!
//! Only for study and comparison. The original keeps its settings as unsigned 32-bit numbers but parses them as
//! unsigned 64-bit ones, so that 4294967296 passes the test against zero and is stored as 0.

use crate::{Generation, Settings, Tunable};

/// Timer ticks per second. A choice of the kernel's configuration; 250 was the commonest.
pub const HZ: u32 = 250;

/// What writing a setting can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// Not a number, zero, or for a switch neither 0 nor 1.
    Inval,
    /// A number of more than 64 bits (the last generation only).
    Range,
}

/// Writes a setting as the original's sysfs file did.
///
/// # Errors
///
/// As the original's; nothing has changed. Settings that the original does not have answer `Inval`.
pub fn write(settings: &mut Settings, tunable: Tunable, text: &str) -> Result<(), Errno> {
    use core::num::IntErrorKind;

    let value: u64 = text.parse().map_err(|error: core::num::ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow if settings.generation == Generation::Last => Errno::Range,
        _ => Errno::Inval,
    })?;
    match tunable {
        Tunable::Selfballooning | Tunable::FrontswapSelfshrinking if value > 1 => return Err(Errno::Inval),
        Tunable::Selfballooning | Tunable::FrontswapSelfshrinking => {}
        Tunable::SelfballoonReachGoal
        | Tunable::PressureDecayS
        | Tunable::PressureHeadroomMb
        | Tunable::PressureHeadroomPercent
        | Tunable::PressureProbe => return Err(Errno::Inval),
        _ if value == 0 => return Err(Errno::Inval),
        _ => {}
    }
    // The store: the upper half is lost.
    settings.store(tunable, (value & u64::from(u32::MAX)) as u32);
    Ok(())
}

/// Reads a setting as the original's sysfs file printed it: signed.
#[must_use]
pub fn read(settings: &Settings, tunable: Tunable) -> i32 {
    (settings.get(tunable) & u64::from(u32::MAX)) as u32 as i32
}

/// The timer ticks that the original sleeps between runs: a 32-bit product, which wraps.
#[must_use]
pub fn sleep_ticks(settings: &Settings) -> u32 {
    settings.selfballoon_interval.wrapping_mul(HZ)
}

#[cfg(test)]
mod tests {
    use super::{Errno, read, write};
    use crate::{Generation, Settings, Tunable};

    #[test]
    fn numbers_and_what_is_none() {
        for (text, last, before) in [
            ("7", Ok(()), Ok(())),
            ("0", Err(Errno::Inval), Err(Errno::Inval)),
            ("-1", Err(Errno::Inval), Err(Errno::Inval)),
            ("seven", Err(Errno::Inval), Err(Errno::Inval)),
            ("", Err(Errno::Inval), Err(Errno::Inval)),
            ("18446744073709551616", Err(Errno::Range), Err(Errno::Inval)),
        ] {
            for (generation, expected) in [(Generation::Last, last), (Generation::Second, before)] {
                let mut settings = Settings { generation, ..Settings::default() };
                let written = write(&mut settings, Tunable::SelfballoonInterval, text);
                assert_eq!(written, expected, "{text:?} {generation}");
                assert_eq!(settings.selfballoon_interval, if expected.is_ok() { 7 } else { 5 });
            }
        }
    }

    #[test]
    fn switches_take_0_and_1() {
        let mut settings = Settings::default();
        assert_eq!(write(&mut settings, Tunable::Selfballooning, "0"), Ok(()));
        assert_eq!(read(&settings, Tunable::Selfballooning), 0);
        assert_eq!(write(&mut settings, Tunable::Selfballooning, "2"), Err(Errno::Inval));
        assert_eq!(
            write(&mut settings, Tunable::PressureProbe, "1"),
            Err(Errno::Inval),
            "not the original's"
        );
    }
}
