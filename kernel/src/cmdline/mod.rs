//! The kernel command line: words, options with types, and a diagnosis for everything that is not understood.
//!
//! Whoever has options declares them as a table of [`Opt`]; [`parse`] takes all tables at once and hands each
//! known option with its typed value to a visitor, and each misuse as a [`Diagnostic`]. Nothing here allocates,
//! and no input makes it panic.
//!
//! # Syntax
//!
//! Words are separated by ASCII white space. A double quote begins or ends a stretch in which white space is
//! ordinary; it may stand anywhere in a word (`name="a b"` and `"name=a b"` are the same). A backslash before a
//! double quote, a backslash or white space makes that character ordinary; before anything else it is itself.
//! `name=value` sets an option; a bare `name` switches a switch on. A word `--` ends the options: the words that
//! follow are the application's arguments.

mod base;
mod words;

pub use base::{BASE, ConsoleChoice, Settings};

use core::fmt;
use words::Words;

/// The longest word that is understood, in bytes after quoting is resolved.
pub const MAX_WORD: usize = 1024;

/// How many options all tables together may have.
pub const MAX_OPTIONS: usize = 256;

/// An option that somebody knows.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its name, such as `loglevel`.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// What it does, in one line.
    pub help: &'static str,
}

/// The type of an option's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On or off: `0`, `1`, `on`, `off`, `yes`, `no`, `true`, `false`; on if it stands alone.
    Switch,
    /// One of these words, exactly.
    Choice(&'static [&'static str]),
    /// A decimal number, or hexadecimal after `0x`, from `min` to `max`.
    Integer {
        /// The smallest accepted.
        min: u64,
        /// The largest accepted.
        max: u64,
    },
    /// Any text.
    Text,
}

/// The accepted spellings of off and on, as [`Diagnostic`] names them.
const SWITCH: [(&str, bool); 8] = [
    ("0", false),
    ("1", true),
    ("off", false),
    ("on", true),
    ("no", false),
    ("yes", true),
    ("false", false),
    ("true", true),
];

/// Names the accepted values.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |words: &mut dyn Iterator<Item = &str>| {
            words.enumerate().try_for_each(|(index, word)| {
                f.write_str(if index == 0 { "" } else { "|" })?;
                f.write_str(word)
            })
        };
        match self {
            Self::Switch => list(&mut SWITCH.iter().map(|(word, _)| *word)),
            Self::Choice(words) => list(&mut words.iter().copied()),
            Self::Integer { min, max } => write!(f, "{min} to {max}"),
            Self::Text => f.write_str("any text"),
        }
    }
}

/// A value that fits its option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'w> {
    /// Of a [`Kind::Switch`].
    Switch(bool),
    /// Of a [`Kind::Choice`]: the word, from the option's own list.
    Choice(&'static str),
    /// Of a [`Kind::Integer`].
    Integer(u64),
    /// Of a [`Kind::Text`].
    Text(&'w str),
}

impl Kind {
    /// Reads a value; `None` is an option that stands alone.
    pub(crate) fn read<'w>(&self, text: Option<&'w str>) -> Option<Value<'w>> {
        match (*self, text) {
            (Self::Switch, None) => Some(Value::Switch(true)),
            (Self::Switch, Some(text)) => {
                SWITCH.iter().find(|(word, _)| *word == text).map(|(_, on)| Value::Switch(*on))
            }
            (Self::Choice(words), Some(text)) => {
                words.iter().find(|word| **word == text).map(|word| Value::Choice(word))
            }
            (Self::Integer { min, max }, Some(text)) => {
                integer(text).filter(|number| (min..=max).contains(number)).map(Value::Integer)
            }
            (Self::Text, Some(text)) => Some(Value::Text(text)),
            (_, None) => None,
        }
    }
}

/// A number, of digits only: `u64::from_str` would take a sign too.
fn integer(text: &str) -> Option<u64> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// What a word turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum Item<'w> {
    /// A known option with a good value. If it stands more than once, the last one counts.
    Option(&'static Opt, Value<'w>),
    /// A word after `--`.
    Argument(&'w str),
    /// Something is wrong with a word; the rest of the line is not affected.
    Diagnostic(Diagnostic<'w>),
}

/// What is wrong with a word. Shown, it is a sentence for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Diagnostic<'w> {
    /// No table has this option; it is ignored.
    Unknown {
        /// The whole word.
        word: &'w str,
    },
    /// The value does not fit; the option keeps the value that it had.
    BadValue {
        /// The option's name.
        name: &'static str,
        /// What was given; `None` if it stands without a value and needs one.
        value: Option<&'w str>,
        /// What it takes.
        accepted: Kind,
    },
    /// The option was given a value before; this one counts.
    Repeated {
        /// The option's name.
        name: &'static str,
    },
    /// The line ends inside quotes; the word is taken as if the quote were closed there.
    Unterminated {
        /// The word.
        word: &'w str,
    },
    /// A word is longer than [`MAX_WORD`]; it is ignored.
    TooLong {
        /// How it begins.
        start: &'w str,
    },
}

impl Diagnostic<'_> {
    /// Whether something that the user asked for is not done; the other diagnostics are notices.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::BadValue { .. } | Self::TooLong { .. })
    }
}

impl fmt::Display for Diagnostic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => write!(f, "unknown option {word:?} is ignored"),
            Self::BadValue { name, value: Some(value), accepted } => {
                write!(f, "{name}={value:?} is not accepted; accepted: {accepted}")
            }
            Self::BadValue { name, value: None, accepted } => {
                write!(f, "{name} needs a value; accepted: {accepted}")
            }
            Self::Repeated { name } => write!(f, "{name} is given more than once; the last one counts"),
            Self::Unterminated { word } => write!(f, "a quote is never closed in {word:?}"),
            Self::TooLong { start } => {
                write!(f, "a word longer than {MAX_WORD} bytes is ignored; it begins with {start:?}")
            }
        }
    }
}

/// Reads `line` by the options of `tables` and shows every word's meaning to `visit`, in order.
///
/// Values are lent to the visitor for the call only. May run before there is a heap.
///
/// # Panics
///
/// If the tables together have more than [`MAX_OPTIONS`] entries: they are constants of the image.
pub fn parse(line: &str, tables: &[&'static [Opt]], mut visit: impl FnMut(Item<'_>)) {
    let count: usize = tables.iter().map(|table| table.len()).sum();
    assert!(count <= MAX_OPTIONS, "{count} options; the parser keeps track of {MAX_OPTIONS}");
    let mut given = [false; MAX_OPTIONS];
    let mut buffer = [0; MAX_WORD];
    let mut words = Words::new(line);
    let mut arguments = false;
    while let Some(word) = words.next(&mut buffer) {
        let text = word.text;
        if word.too_long {
            visit(Item::Diagnostic(Diagnostic::TooLong { start: &text[..text.floor_char_boundary(32)] }));
            continue;
        }
        if word.unterminated {
            visit(Item::Diagnostic(Diagnostic::Unterminated { word: text }));
        }
        if arguments {
            visit(Item::Argument(text));
        } else if text == "--" {
            arguments = true;
        } else {
            option(text, tables, &mut given, &mut visit);
        }
    }
}

/// Reads one word as an option.
fn option(
    word: &str,
    tables: &[&'static [Opt]],
    given: &mut [bool; MAX_OPTIONS],
    visit: &mut impl FnMut(Item<'_>),
) {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let known = tables.iter().flat_map(|table| table.iter()).enumerate().find(|(_, opt)| opt.name == name);
    let Some((index, opt)) = known else {
        return visit(Item::Diagnostic(Diagnostic::Unknown { word }));
    };
    let Some(read) = opt.kind.read(value) else {
        return visit(Item::Diagnostic(Diagnostic::BadValue { name: opt.name, value, accepted: opt.kind }));
    };
    if core::mem::replace(&mut given[index], true) {
        visit(Item::Diagnostic(Diagnostic::Repeated { name: opt.name }));
    }
    visit(Item::Option(opt, read));
}

#[cfg(test)]
mod tests;
