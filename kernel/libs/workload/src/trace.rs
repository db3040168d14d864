//! Traces: a text that says how large a hog is, and how fast it touches, over time.
//!
//! ```text
//! # at_s  resident_mib  touches_per_s     (anything after a number sign is a comment)
//! 0       16            1000
//! 12.5    96            4000
//! 40      16            0
//! 60      16            0
//! ```
//!
//! Each line holds from its time until the next line's; before the first nothing is held, and the last says when
//! the trace ends. Times rise, in seconds with up to three decimals; sizes and rates are whole numbers. The text
//! comes from outside: whatever is wrong in it is an error with its line, never a panic.

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec;
use core::fmt;

/// The most lines that count.
pub const MAX_POINTS: usize = 4096;

/// The latest time, in milliseconds: ten million seconds.
const MAX_AT_MS: u64 = 10_000_000_000;

/// The largest size: 1 TiB.
const MAX_MIB: u64 = 1 << 20;

/// The largest rate.
const MAX_RATE: u64 = 100_000_000;

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// From when on it holds, milliseconds after the beginning.
    pub at_ms: u64,
    /// How much is held, MiB.
    pub resident_mib: u64,
    /// Pages touched per second.
    pub touches_per_s: u64,
}

/// A trace: at least one point, in the order of time.
#[derive(Debug)]
pub struct Trace<A: Allocator> {
    points: Vec<Point, A>,
}

/// What a line holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The time.
    At,
    /// The size.
    Resident,
    /// The rate.
    Touches,
}

impl Field {
    const fn word(self) -> &'static str {
        match self {
            Self::At => "at_s",
            Self::Resident => "resident_mib",
            Self::Touches => "touches_per_s",
        }
    }
}

/// What is wrong with a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// A line has not three fields but this many.
    Fields(usize),
    /// A field is not a number of the kind it should be.
    NotANumber(Field),
    /// A number is too large.
    TooLarge(Field),
    /// The time is not later than the line's before.
    NotLater,
    /// More than [`MAX_POINTS`] lines.
    TooMany,
    /// No line at all.
    Empty,
    /// There is no memory for it.
    NoMemory,
}

/// A trace that cannot be played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace, line {}: ", self.line)?;
        match self.problem {
            Problem::Fields(found) => write!(f, "{found} fields, not at_s resident_mib touches_per_s"),
            Problem::NotANumber(Field::At) => f.write_str("at_s is not seconds with up to three decimals"),
            Problem::NotANumber(field) => write!(f, "{} is not a whole number", field.word()),
            Problem::TooLarge(Field::At) => write!(f, "at_s is more than {}", MAX_AT_MS / 1000),
            Problem::TooLarge(Field::Resident) => write!(f, "resident_mib is more than {MAX_MIB}"),
            Problem::TooLarge(Field::Touches) => write!(f, "touches_per_s is more than {MAX_RATE}"),
            Problem::NotLater => f.write_str("at_s is not later than on the line before"),
            Problem::TooMany => write!(f, "more than {MAX_POINTS} points"),
            Problem::Empty => f.write_str("no point up to here, the end"),
            Problem::NoMemory => f.write_str("no memory for more points"),
        }
    }
}

impl core::error::Error for TraceError {}

impl<A: Allocator> Trace<A> {
    /// Reads a trace. Bytes outside comments are ASCII; lines end with LF or CR LF.
    ///
    /// # Errors
    ///
    /// The first line that is wrong.
    pub fn parse(text: &[u8], allocator: A) -> Result<Self, TraceError> {
        let mut points: Vec<Point, A> = Vec::new_in(allocator);
        let mut line = 0;
        for bytes in text.split(|byte| *byte == b'\n') {
            line += 1;
            let problem = |problem| TraceError { line, problem };
            let Some(point) = point(bytes).map_err(problem)? else { continue };
            if points.last().is_some_and(|last| point.at_ms <= last.at_ms) {
                return Err(problem(Problem::NotLater));
            }
            if points.len() == MAX_POINTS {
                return Err(problem(Problem::TooMany));
            }
            points.try_reserve(1).map_err(|_| problem(Problem::NoMemory))?;
            points.push(point);
        }
        if points.is_empty() {
            Err(TraceError { line, problem: Problem::Empty })
        } else {
            Ok(Self { points })
        }
    }

    /// Its points.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

/// The point on a line, if there is one.
fn point(line: &[u8]) -> Result<Option<Point>, Problem> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let fields = || line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let mut next = fields();
    let (Some(at), Some(resident), Some(touches), None) =
        (next.next(), next.next(), next.next(), next.next())
    else {
        let found = fields().count();
        return if found == 0 { Ok(None) } else { Err(Problem::Fields(found)) };
    };

    let mut parts = at.splitn(2, |byte| *byte == b'.');
    let (whole, decimals) = (parts.next().unwrap_or_default(), parts.next());
    let whole = number(whole, MAX_AT_MS / 1000, Field::At)?;
    let millis = match decimals {
        None => 0,
        Some(digits) if digits.len() <= 3 => {
            number(digits, 999, Field::At)? * 10u64.pow(3 - digits.len() as u32)
        }
        Some(_) => return Err(Problem::NotANumber(Field::At)),
    };
    let at_ms = whole * 1000 + millis;
    if at_ms > MAX_AT_MS {
        return Err(Problem::TooLarge(Field::At));
    }
    Ok(Some(Point {
        at_ms,
        resident_mib: number(resident, MAX_MIB, Field::Resident)?,
        touches_per_s: number(touches, MAX_RATE, Field::Touches)?,
    }))
}

/// A number of digits only, up to `max`.
fn number(digits: &[u8], max: u64, field: Field) -> Result<u64, Problem> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Problem::NotANumber(field));
    }
    digits
        .iter()
        .try_fold(0u64, |number, digit| {
            let number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            (number <= max).then_some(number)
        })
        .ok_or(Problem::TooLarge(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use allocator_api2::alloc::Global;
    use std::string::{String, ToString};

    fn parse(text: &str) -> Result<Trace<Global>, TraceError> {
        Trace::parse(text.as_bytes(), Global)
    }

    fn problem(text: &str) -> (usize, Problem) {
        let error = parse(text).unwrap_err();
        (error.line, error.problem)
    }

    #[test]
    fn a_trace_is_read() {
        let text =
            "# a comment, with bytes like é\n\r\n 0 16\t1000\r\n12.5 96 4000 # up\n\n40.001 0 0\n60. 1 1";
        assert_eq!(problem(text), (7, Problem::NotANumber(Field::At)));
        let trace = parse(&text.replace("60.", "60.25")).unwrap();
        let read: std::vec::Vec<_> = trace
            .points()
            .iter()
            .map(|point| (point.at_ms, point.resident_mib, point.touches_per_s))
            .collect();
        assert_eq!(read, [(0, 16, 1000), (12_500, 96, 4000), (40_001, 0, 0), (60_250, 1, 1)]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, expected) in [
            ("", 1, Problem::Empty),
            ("#\n\n# 0 1 2\n", 4, Problem::Empty),
            ("0 1 2\n1 2", 2, Problem::Fields(2)),
            ("0 1 2 3", 1, Problem::Fields(4)),
            ("x 1 2", 1, Problem::NotANumber(Field::At)),
            ("-1 1 2", 1, Problem::NotANumber(Field::At)),
            (".5 1 2", 1, Problem::NotANumber(Field::At)),
            ("1.2.3 1 2", 1, Problem::NotANumber(Field::At)),
            ("0.1234 1 2", 1, Problem::NotANumber(Field::At)),
            ("1e3 1 2", 1, Problem::NotANumber(Field::At)),
            ("10000000.001 1 2", 1, Problem::TooLarge(Field::At)),
            ("99999999999999999999999999 1 2", 1, Problem::TooLarge(Field::At)),
            ("0 1.5 2", 1, Problem::NotANumber(Field::Resident)),
            ("0 1048577 2", 1, Problem::TooLarge(Field::Resident)),
            ("0 1 +2", 1, Problem::NotANumber(Field::Touches)),
            ("0 1 100000001", 1, Problem::TooLarge(Field::Touches)),
            ("0 1 2\n\n0.000 1 2", 3, Problem::NotLater),
            ("5 1 2\n4.999 1 2", 2, Problem::NotLater),
            ("0 1 2\0", 1, Problem::NotANumber(Field::Touches)),
            ("\u{feff}0 1 2", 1, Problem::NotANumber(Field::At)),
        ] {
            assert_eq!(problem(text), (line, expected), "{text:?}");
        }
        assert_eq!(
            parse("0 1 x").unwrap_err().to_string(),
            "trace, line 1: touches_per_s is not a whole number"
        );
        assert_eq!(
            parse("0 1").unwrap_err().to_string(),
            "trace, line 1: 2 fields, not at_s resident_mib touches_per_s"
        );
    }

    #[test]
    fn the_number_of_points_is_bounded() {
        let text = |lines| (0..lines).fold(String::new(), |text, at| text + &std::format!("{at} 1 1\n"));
        assert_eq!(parse(&text(MAX_POINTS)).unwrap().points().len(), MAX_POINTS);
        assert_eq!(problem(&text(MAX_POINTS + 1)), (MAX_POINTS + 1, Problem::TooMany));
    }

    #[test]
    fn hostile_bytes_are_values() {
        let mut rng = Rng::new(3);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut text = *b"0 16 1000\n12.5 96 4000 # up\r\n\n40 0 0\n60.25 7 1";
            for _ in 0..=rng.below(4) {
                let alphabet = b"0123456789. \n\t\r#-x\0\xFF";
                text[rng.below(text.len() as u64) as usize] =
                    alphabet[rng.below(alphabet.len() as u64) as usize];
            }
            let cut = rng.below(2 * text.len() as u64) as usize;
            match Trace::parse(&text[..cut.min(text.len())], Global) {
                Ok(trace) => {
                    read += 1;
                    assert!(trace.points().windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
                }
                Err(error) => {
                    refused += 1;
                    assert!((1..=10).contains(&error.line));
                }
            }
        }
        assert!(read > 1_000 && refused > 1_000, "{read} read, {refused} refused");
    }
}
