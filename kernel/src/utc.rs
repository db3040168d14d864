//! Moments as people write them.

use core::fmt;

/// A second in UTC, shown as `2026-11-22 04:54:06 UTC`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Utc {
    unix_s: u64,
}

impl Utc {
    /// The moment `unix_s` seconds after the beginning of 1970. Leap seconds do not exist, as everywhere.
    #[must_use]
    pub const fn from_unix_s(unix_s: u64) -> Self {
        Self { unix_s }
    }

    /// Year, month and day.
    ///
    /// Years are counted from March, so that a leap day is the last of its year, in eras of 400 years, which are
    /// all of one length (the method is Howard Hinnant's, "chrono-Compatible Low-Level Date Algorithms").
    #[must_use]
    pub const fn date(self) -> (u64, u64, u64) {
        let days = self.unix_s / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
        (year, month, day)
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let second = self.unix_s % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn vectors() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_795_323_246, "2026-11-22 04:54:06 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(Utc::from_unix_s(unix_s).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let days_of = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..146_097 {
            assert_eq!(Utc::from_unix_s(number * 86_400 + 86_399).date(), (year, month, day));
            day += 1;
            if day > days_of(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn no_number_panics() {
        assert!(!Utc::from_unix_s(u64::MAX).to_string().is_empty());
    }
}
