//! The shell on the console: a line in, text out.
//!
//! [`Shell::feed`] takes the bytes that somebody typed, whatever they are, and [`run`] obeys one line. Neither waits
//! nor allocates: what is to be shown goes to a writer, as it comes.

mod line;

pub use line::{Editor, Entered, LINE_MAX};

use crate::tunable::{Declaration, Id, Initial, Tunables};
use core::fmt::{self, Write};

/// What a line begins with.
pub const PROMPT: &str = "ebb> ";

/// Figures for the command `stats`.
pub trait Stats {
    /// Writes them, a line each.
    ///
    /// # Errors
    ///
    /// Whatever `out` says.
    fn write(&self, out: &mut dyn Write) -> fmt::Result;
}

const HELP: &str = "\
get NAME         the value of a tunable, what it takes and what it does
set NAME VALUE   set it
list [PREFIX]    all tunables, or those whose name begins so
stats            figures of this guest
help             this
NAME is group/name, group.name, or the option of the command line.
";

/// A line that is being typed, and who obeys it.
#[derive(Debug, Default)]
pub struct Shell {
    editor: Editor,
}

/// What a typed byte led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// A tunable may have been changed.
    pub set: bool,
}

impl Shell {
    /// Nothing is typed.
    #[must_use]
    pub const fn new() -> Self {
        Self { editor: Editor::new() }
    }

    /// Takes what was typed: writes to `out` what is to be shown, and obeys each line that is complete. A writer that
    /// fails loses text, and nothing else.
    pub fn feed(
        &mut self,
        typed: &[u8],
        tunables: &Tunables,
        stats: &dyn Stats,
        out: &mut dyn Write,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for byte in typed {
            match self.editor.feed(*byte, out) {
                Entered::Nothing => continue,
                Entered::Line(line) => outcome.set |= run(line, tunables, stats, out).set,
                Entered::TooLong => {
                    let _ = writeln!(out, "a line may have {LINE_MAX} characters; this one was not obeyed");
                }
                Entered::Dropped => {}
            }
            let _ = out.write_str(PROMPT);
        }
        outcome
    }
}

/// Obeys one line, and writes the answer to `out`. No input is an error that anybody must handle.
pub fn run(line: &str, tunables: &Tunables, stats: &dyn Stats, out: &mut dyn Write) -> Outcome {
    let mut words = line.split_ascii_whitespace();
    let (command, arguments) = (words.next(), [words.next(), words.next(), words.next()]);
    // Who cannot show the answer cannot be told that either.
    let _ = match (command, arguments) {
        (None, _) => Ok(()),
        (Some("help" | "?"), [None, ..]) => out.write_str(HELP),
        (Some("stats"), [None, ..]) => stats.write(out),
        (Some("list"), [prefix, None, _]) => list(prefix.unwrap_or(""), tunables, out),
        (Some("get"), [Some(name), None, _]) => match tunables.named(name) {
            Ok(id) => get(id, tunables, out),
            Err(refusal) => writeln!(out, "{refusal}"),
        },
        (Some("set"), [Some(name), Some(value), None]) => {
            let mut outcome = Outcome::default();
            let written = set(name, value, tunables, &mut outcome, out);
            return written.map_or(outcome, |()| outcome);
        }
        (Some("set"), _) => writeln!(out, "set NAME VALUE"),
        (Some("get"), _) => writeln!(out, "get NAME"),
        (Some(command @ ("help" | "?" | "stats" | "list")), _) => writeln!(out, "{command}: too many words"),
        (Some(other), _) => writeln!(out, "{other:?} is not a command; help lists them"),
    };
    Outcome::default()
}

/// A tunable's value with its unit.
fn value(id: Id, tunables: &Tunables, out: &mut dyn Write) -> fmt::Result {
    let Declaration { unit, .. } = id.declaration();
    let space = if unit.is_empty() { "" } else { " " };
    match tunables.text(id) {
        Some(text) => write!(out, "{text}{space}{unit}"),
        None => out.write_str("(computed at start)"),
    }
}

fn get(id: Id, tunables: &Tunables, out: &mut dyn Write) -> fmt::Result {
    let Declaration { path, kind, unit, initial, help, .. } = id.declaration();
    write!(out, "{path} = ")?;
    value(id, tunables, out)?;
    let space = if unit.is_empty() { "" } else { " " };
    write!(out, "\n  {help}\n  takes {kind}{space}{unit}; at start ")?;
    match initial {
        Initial::Value(_) => match Tunables::new().text(id) {
            Some(text) => writeln!(out, "{text}"),
            None => Ok(()),
        },
        Initial::AtStart(how) => writeln!(out, "{how}"),
    }
}

fn set(
    name: &str,
    text: &str,
    tunables: &Tunables,
    outcome: &mut Outcome,
    out: &mut dyn Write,
) -> fmt::Result {
    let set = tunables.named(name).and_then(|id| tunables.set(id, text).map(|changed| (id, changed)));
    match set {
        Ok((id, changed)) => {
            outcome.set = true;
            write!(out, "{} = ", id.declaration().path)?;
            value(id, tunables, out)?;
            writeln!(out, "{}", if changed { "" } else { ", as before" })
        }
        Err(refusal) => writeln!(out, "{refusal}"),
    }
}

fn list(prefix: &str, tunables: &Tunables, out: &mut dyn Write) -> fmt::Result {
    let mut found = false;
    for id in tunables.offered().filter(|id| id.declaration().path.starts_with(prefix)) {
        found = true;
        write!(out, "{} = ", id.declaration().path)?;
        value(id, tunables, out)?;
        out.write_char('\n')?;
    }
    if found { Ok(()) } else { writeln!(out, "no tunable that this guest obeys begins so") }
}

#[cfg(test)]
mod tests;
