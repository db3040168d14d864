//! Cuts a guest's console stream into lines.
//!
//! A line that begins with [`RECORD`] is a record for programs (`ebb::report`); all others are text for people.
//! The bytes of a line come through as they were sent, without the line's end.

use std::time::Duration;

/// The first byte of a line that is a record.
pub(crate) const RECORD: u8 = ebb::report::SEPARATOR;
/// A line longer than this is cut: a guest that never ends its line must not take the host's memory.
const LONGEST: usize = 64 * 1024;

/// One line of a guest's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// When its last byte arrived, since the guest's start was asked for.
    pub(crate) at: Duration,
    /// The line without its `\r\n` or `\n`.
    pub(crate) bytes: Vec<u8>,
}

impl Line {
    /// Whether it is a record and not text.
    pub(crate) fn is_record(&self) -> bool {
        self.bytes.first() == Some(&RECORD)
    }

    /// The text for a terminal, with the time before it: control characters are shown, not obeyed, except the
    /// tab and the escape that begins a colour.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("[{:9.3}] ", self.at.as_secs_f64());
        for character in String::from_utf8_lossy(&self.bytes).chars() {
            match character {
                '\t' | '\u{1b}' => text.push(character),
                other if other.is_control() => text.extend(other.escape_default()),
                other => text.push(other),
            }
        }
        text
    }
}

/// What a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<Ending> {
    /// A line on its console.
    Line(Line),
    /// It has ended. All its lines have come before.
    Ended(Ending),
    /// The user asked to end. The guest still runs.
    Interrupted,
    /// Nothing else came before the deadline.
    Deadline,
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes the next bytes of the stream and hands every line that they complete to `line`.
    pub(crate) fn push(&mut self, at: Duration, bytes: &[u8], mut line: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.partial.pop();
                if self.partial.last() == Some(&b'\r') {
                    self.partial.pop();
                }
                line(Line { at, bytes: std::mem::take(&mut self.partial) });
            } else if self.partial.len() >= LONGEST {
                line(Line { at, bytes: std::mem::take(&mut self.partial) });
            }
        }
    }

    /// The unfinished line at the end of the stream, if there is one.
    pub(crate) fn finish(&mut self, at: Duration) -> Option<Line> {
        let bytes = std::mem::take(&mut self.partial);
        (!bytes.is_empty()).then_some(Line { at, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.push(Duration::ZERO, piece, |line| lines.push(line.bytes));
        }
        lines.extend(splitter.finish(Duration::ZERO).map(|line| line.bytes));
        lines
    }

    #[test]
    fn lines_survive_any_cutting_of_the_stream() {
        let stream = b"one\r\ntwo\n\n\x1ethree\rx\r\nfour";
        let expected: [&[u8]; 5] = [b"one", b"two", b"", b"\x1ethree\rx", b"four"];
        assert_eq!(split(&[stream]), expected);
        for cut in 0..stream.len() {
            let (head, tail) = stream.split_at(cut);
            assert_eq!(split(&[head, tail]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(split(&bytes), expected);
    }

    #[test]
    fn only_the_line_end_is_taken_off() {
        assert_eq!(split(&[b"\r\r\n"]), [b"\r"]);
        assert_eq!(split(&[b"\x00\xff\n"]), [b"\x00\xff"]);
        assert!(split(&[b""]).is_empty());
    }

    #[test]
    fn an_endless_line_is_cut() {
        let piece = [b'x'; 1000];
        let pieces: Vec<&[u8]> = std::iter::repeat_n(&piece[..], 100).collect();
        let lines = split(&pieces);
        assert_eq!(lines.iter().map(Vec::len).sum::<usize>(), 100_000);
        assert!(lines.iter().all(|line| line.len() < LONGEST + 1000));
    }

    #[test]
    fn records_are_known_and_text_is_made_harmless() {
        let line = |bytes: &[u8]| Line { at: Duration::from_millis(1500), bytes: bytes.to_vec() };
        assert!(line(b"\x1epass").is_record());
        assert!(!line(b" \x1epass").is_record());
        assert!(!line(b"").is_record());
        assert_eq!(line(b"a\x07\tb").shown(), "[    1.500] a\\u{7}\tb");
    }
}
