//! The options that choose a workload: their names, what they accept, and what they mean.

use crate::content::Values;
use core::fmt;

/// Which application runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// None.
    #[default]
    None,
    /// The key-value store.
    Kv,
    /// The memory hog.
    Hog,
    /// The player of a trace.
    Trace,
}

impl Kind {
    /// Their names, in the order of the variants.
    pub const WORDS: [&'static str; 4] = ["none", "kv", "hog", "trace"];

    /// All of them.
    const ALL: [Self; 4] = [Self::None, Self::Kv, Self::Hog, Self::Trace];
}

/// What an option accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// One of these words, exactly.
    Choice(&'static [&'static str]),
    /// A decimal number, or hexadecimal after `0x`, from `min` to `max`.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
}

/// Names the accepted values.
impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice(words) => words.iter().enumerate().try_for_each(|(index, word)| {
                f.write_str(if index == 0 { "" } else { "|" })?;
                f.write_str(word)
            }),
            Self::Integer { min, max } => write!(f, "{min} to {max}"),
        }
    }
}

/// An option, for the table of a command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it accepts.
    pub accepted: Accepted,
    /// What it does, in one line.
    pub help: &'static str,
}

const fn integer(name: &'static str, min: u64, max: u64, help: &'static str) -> Described {
    Described { name, accepted: Accepted::Integer { min, max }, help }
}

/// All options.
pub static OPTIONS: [Described; 7] = [
    Described {
        name: "workload",
        accepted: Accepted::Choice(&Kind::WORDS),
        help: "the application: a key-value store, a memory hog, or a trace given as a boot module",
    },
    integer("workload.size_mib", 1, 1 << 20, "data held at the peak, MiB; a trace has its own sizes [32]"),
    integer("workload.seed", 0, u64::MAX, "from which all keys, sizes, contents and choices follow [1]"),
    integer(
        "workload.seconds",
        0,
        10_000_000,
        "how long it runs after the shift; 0: until told to stop [75, a trace: its length]",
    ),
    integer("workload.shift_s", 0, 1_000_000, "how long it idles before it begins, seconds [0]"),
    integer(
        "workload.rate",
        0,
        100_000_000,
        "hog: pages touched per second [1000]; kv: operations per second while serving [as many as it can]",
    ),
    Described {
        name: "workload.values",
        accepted: Accepted::Choice(&Values::WORDS),
        help: "what data looks like to a compressor [compressible]",
    },
];

/// The options of a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// `workload`.
    pub kind: Kind,
    /// `workload.size_mib`: data held at the peak, MiB, without what the allocator adds.
    pub size_mib: u32,
    /// `workload.seed`.
    pub seed: u64,
    /// `workload.seconds`: how long, 0 until told to stop; none is the workload's own length.
    pub seconds: Option<u32>,
    /// `workload.shift_s`: how long it idles first, seconds.
    pub shift_s: u32,
    /// `workload.rate`: operations per second; none is the workload's own rate.
    pub rate: Option<u64>,
    /// `workload.values`.
    pub values: Values,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::None,
            size_mib: 32,
            seed: 1,
            seconds: None,
            shift_s: 0,
            rate: None,
            values: Values::Compressible,
        }
    }
}

/// An option that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionError<'v> {
    /// There is no option `workload.…` of that name.
    Unknown {
        /// The name given.
        name: &'v str,
    },
    /// The value is not accepted.
    Value {
        /// The option.
        option: &'static Described,
        /// The value given.
        value: &'v str,
    },
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "unknown option {name:?}; there are")?;
                OPTIONS.iter().try_for_each(|option| write!(f, " {}", option.name))
            }
            Self::Value { option, value } => {
                write!(f, "{}={value:?}: accepted values are {}", option.name, option.accepted)
            }
        }
    }
}

impl core::error::Error for OptionError<'_> {}

impl Options {
    /// Reads options from names and values; names that do not begin with `workload` are somebody else's. Where
    /// a name comes twice, the last counts.
    ///
    /// # Errors
    ///
    /// The first option that cannot be used.
    pub fn parse<'v>(pairs: impl IntoIterator<Item = (&'v str, &'v str)>) -> Result<Self, OptionError<'v>> {
        let mut options = Self::default();
        for (name, value) in pairs {
            options.set(name, value)?;
        }
        Ok(options)
    }

    /// Sets one option; answers whether the name is one of a workload.
    ///
    /// # Errors
    ///
    /// The option cannot be used; nothing has changed.
    pub fn set<'v>(&mut self, name: &'v str, value: &'v str) -> Result<bool, OptionError<'v>> {
        let Some(option) = OPTIONS.iter().find(|option| option.name == name) else {
            let ours = name.starts_with("workload.");
            return if ours { Err(OptionError::Unknown { name }) } else { Ok(false) };
        };
        let wrong = OptionError::Value { option, value };
        let word = |words: &[&str]| words.iter().position(|word| *word == value).ok_or(wrong);
        match option.accepted {
            Accepted::Choice(words) => {
                let index = word(words)?;
                match name {
                    "workload" => self.kind = Kind::ALL[index],
                    _ => self.values = Values::from_word(value).ok_or(wrong)?,
                }
            }
            Accepted::Integer { min, max } => {
                let number = number(value).filter(|number| (min..=max).contains(number)).ok_or(wrong)?;
                let small = || u32::try_from(number).map_err(|_| wrong);
                match name {
                    "workload.size_mib" => self.size_mib = small()?,
                    "workload.seed" => self.seed = number,
                    "workload.seconds" => self.seconds = Some(small()?),
                    "workload.shift_s" => self.shift_s = small()?,
                    _ => self.rate = Some(number),
                }
            }
        }
        Ok(true)
    }
}

/// A number of digits only: `from_str` would take a sign too.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn every_option_is_read() {
        let options = Options::parse([
            ("loglevel", "nonsense of others"),
            ("workload", "hog"),
            ("workload", "kv"),
            ("workload.size_mib", "160"),
            ("workload.seed", "0xffffffffffffffff"),
            ("workload.seconds", "0"),
            ("workload.shift_s", "20"),
            ("workload.rate", "500"),
            ("workload.values", "zero-heavy"),
        ]);
        let expected = Options {
            kind: Kind::Kv,
            size_mib: 160,
            seed: u64::MAX,
            seconds: Some(0),
            shift_s: 20,
            rate: Some(500),
            values: Values::ZeroHeavy,
        };
        assert_eq!(options, Ok(expected));
        assert_eq!(Options::parse([]), Ok(Options::default()));
        for (word, kind) in Kind::WORDS.iter().zip(Kind::ALL) {
            assert_eq!(Options::parse([("workload", *word)]).unwrap().kind, kind);
        }
    }

    #[test]
    fn bad_values_are_errors_that_name_the_good_ones() {
        let message = |name, value| Options::parse([(name, value)]).unwrap_err().to_string();
        assert_eq!(message("workload", "KV"), "workload=\"KV\": accepted values are none|kv|hog|trace");
        assert_eq!(
            message("workload.values", ""),
            "workload.values=\"\": accepted values are compressible|zero-heavy|random"
        );
        for value in ["0", "1048577", "-1", "+1", "1.5", "", "0x", "1 ", "99999999999999999999", "١"] {
            let expected = std::format!("workload.size_mib={value:?}: accepted values are 1 to 1048576");
            assert_eq!(message("workload.size_mib", value), expected);
        }
        for option in OPTIONS.iter().filter(|option| option.name != "workload") {
            assert!(Options::parse([(option.name, "?")]).is_err(), "{}", option.name);
        }
        assert!(
            message("workload.sise_mib", "1").contains("there are workload workload.size_mib workload.seed")
        );
    }

    #[test]
    fn a_refused_value_changes_nothing() {
        let mut options = Options::default();
        assert!(options.set("workload.seconds", "4294967296").is_err());
        assert_eq!(options.set("workloads", "x"), Ok(false));
        assert_eq!(options, Options::default());
        assert_eq!(options.set("workload.seconds", "7"), Ok(true));
        assert_eq!(options.seconds, Some(7));
    }

    #[test]
    fn the_documentation_says_what_the_table_says() {
        let page = include_str!("../../../../docs/workloads.md");
        let rows: std::vec::Vec<_> = page.lines().filter(|line| line.starts_with("| `workload")).collect();
        let expected = OPTIONS.iter().map(|option| {
            let accepted = option.accepted.to_string().replace('|', "\\|");
            std::format!("| `{}` | {accepted} | {} |", option.name, option.help)
        });
        assert!(rows.into_iter().eq(expected), "docs/workloads.md differs from OPTIONS");
    }
}
