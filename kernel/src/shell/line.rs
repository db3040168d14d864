//! A line as it is typed, byte by byte, by a person or by noise on the wire.
//!
//! What comes is not trusted: only printable ASCII is kept and shown again, so that nothing typed can play tricks on the
//! terminal or pass for a record of the harness; escape sequences, such as those of the arrow keys, are swallowed whole.
//! What cannot be echoed is typed all the same.

use core::fmt::Write;

/// The longest line, in characters.
pub const LINE_MAX: usize = 256;

const BELL: char = '\x07';
const CONTROL_C: u8 = 0x03;
const CONTROL_U: u8 = 0x15;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7F;
const ESCAPE: u8 = 0x1B;

/// What a byte completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entered<'e> {
    /// The line goes on.
    Nothing,
    /// This line, without its end.
    Line(&'e str),
    /// A line longer than [`LINE_MAX`], which is forgotten.
    TooLong,
    /// Control-C: the line is forgotten.
    Dropped,
}

/// Where in an escape sequence we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Sequence {
    #[default]
    None,
    /// After the escape.
    Begun,
    /// Parameters; ends with a letter or `~`.
    Parameters,
    /// One character follows, as after `ESC O`.
    One,
}

/// The line so far.
#[derive(Debug)]
pub struct Editor {
    text: [u8; LINE_MAX],
    length: usize,
    too_long: bool,
    /// The last byte was a carriage return: a line feed after it says nothing new.
    after_return: bool,
    sequence: Sequence,
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

impl Editor {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        let (length, too_long, after_return, sequence) = (0, false, false, Sequence::None);
        Self { text: [0; LINE_MAX], length, too_long, after_return, sequence }
    }

    /// Takes one byte, and writes to `echo` what the terminal is to show for it: at most a few characters for each
    /// character of the line.
    pub fn feed(&mut self, byte: u8, echo: &mut dyn Write) -> Entered<'_> {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if byte == b'\n' && after_return {
            return Entered::Nothing;
        }
        if self.swallows(byte) {
            return Entered::Nothing;
        }
        match byte {
            b'\r' | b'\n' => {
                let _ = echo.write_char('\n');
                return self.complete();
            }
            CONTROL_C => {
                let _ = echo.write_str("^C\n");
                (self.length, self.too_long) = (0, false);
                return Entered::Dropped;
            }
            CONTROL_U => {
                let _ = (0..self.length).try_for_each(|_| echo.write_str("\x08 \x08"));
                (self.length, self.too_long) = (0, false);
            }
            BACKSPACE | DELETE if self.length > 0 && !self.too_long => {
                self.length -= 1;
                let _ = echo.write_str("\x08 \x08");
            }
            b' '..=b'~' if self.length < LINE_MAX => {
                self.text[self.length] = byte;
                self.length += 1;
                let _ = echo.write_char(char::from(byte));
            }
            b' '..=b'~' if !self.too_long => {
                self.too_long = true;
                let _ = echo.write_char(BELL);
            }
            ESCAPE => self.sequence = Sequence::Begun,
            _ => {}
        }
        Entered::Nothing
    }

    fn complete(&mut self) -> Entered<'_> {
        let length = core::mem::take(&mut self.length);
        if core::mem::take(&mut self.too_long) {
            return Entered::TooLong;
        }
        match core::str::from_utf8(&self.text[..length]) {
            Ok(line) => Entered::Line(line),
            Err(_) => unreachable!("a line has nothing but printable ASCII"),
        }
    }

    /// Whether the byte belongs to an escape sequence. A control character ends one that was never finished.
    fn swallows(&mut self, byte: u8) -> bool {
        let next = match (self.sequence, byte) {
            (Sequence::None, _) | (_, ..0x20 | 0x7F..) => None,
            (Sequence::Begun, b'[') => Some(Sequence::Parameters),
            (Sequence::Begun, b'O') => Some(Sequence::One),
            (Sequence::Parameters, 0x20..=0x3F) => Some(Sequence::Parameters),
            (Sequence::Begun | Sequence::One | Sequence::Parameters, _) => Some(Sequence::None),
        };
        self.sequence = next.unwrap_or_default();
        next.is_some()
    }
}
