//! Machine-readable records on the console: how a guest tells the harness what it found.
//!
//! A record is one line that begins with the ASCII record separator, so that a human's view can leave it out
//! and a program can find it without guessing at text:
//!
//! ```text
//! 0x1E kind SP key=value SP key=value … SP #checksum LF
//! ```
//!
//! Values are percent-encoded; the checksum (FNV-1a, 32 bits, eight hex digits) covers everything between the
//! separator and the `#`, so a record that lost bytes on a full console ring is an error and not a wrong
//! result. The writer allocates nothing and is usable from a panic; the parser lives on the host.

use core::fmt::{self, Display, Write};

/// The byte with which every record line begins.
pub const SEPARATOR: u8 = 0x1E;

/// Writes one record with its newline.
///
/// `kind` and the keys are words of `[a-z0-9_.-]`, chosen by the program; anything else in them is encoded like a value.
/// The caller holds the console, so that no other text comes between. May be called with interrupts off.
///
/// # Errors
///
/// Whatever `out` says.
pub fn write(out: &mut dyn Write, kind: &str, fields: &[(&str, &dyn Display)]) -> fmt::Result {
    out.write_char(char::from(SEPARATOR))?;
    let mut summed = Summed { out, sum: Checksum::new() };
    write!(Encoded(&mut summed), "{kind}")?;
    for (key, value) in fields {
        summed.write_char(' ')?;
        write!(Encoded(&mut summed), "{key}")?;
        summed.write_char('=')?;
        write!(Encoded(&mut summed), "{value}")?;
    }
    summed.write_char(' ')?;
    let Summed { out, sum } = summed;
    writeln!(out, "#{:08x}", sum.0)
}

/// FNV-1a over bytes.
#[derive(Clone, Copy)]
struct Checksum(u32);

impl Checksum {
    const fn new() -> Self {
        Self(0x811C_9DC5)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

/// Passes text on and sums it.
struct Summed<'o> {
    out: &'o mut dyn Write,
    sum: Checksum,
}

impl Write for Summed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.sum.add(text.as_bytes());
        self.out.write_str(text)
    }
}

/// Percent-encodes what would break the line's grammar.
struct Encoded<'s, 'o>(&'s mut Summed<'o>);

impl Write for Encoded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain_from = 0;
        for (at, byte) in text.bytes().enumerate() {
            if matches!(byte, 0x21..=0x7E) && !matches!(byte, b'%' | b'=' | b'#') {
                continue;
            }
            // Bytes of a multi-byte character are all encoded, so both cuts fall on character boundaries.
            self.0.write_str(text.get(plain_from..at).unwrap_or_default())?;
            write!(self.0, "%{byte:02x}")?;
            plain_from = at + 1;
        }
        self.0.write_str(text.get(plain_from..).unwrap_or_default())
    }
}

#[cfg(not(target_os = "none"))]
pub use parser::{ParseError, Record};

#[cfg(not(target_os = "none"))]
mod parser {
    use super::{Checksum, SEPARATOR};
    use core::fmt;
    use std::string::String;
    use std::vec::Vec;

    /// A record, as read back on the host.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Record {
        /// What it tells.
        pub kind: String,
        /// Its fields, in order.
        pub fields: Vec<(String, String)>,
    }

    impl Record {
        /// Whether a console line is a record.
        #[must_use]
        pub fn is_record(line: &[u8]) -> bool {
            line.first() == Some(&SEPARATOR)
        }

        /// Reads one console line, with or without its line end.
        ///
        /// # Errors
        ///
        /// Says in what way the line is not a whole record.
        pub fn parse(line: &[u8]) -> Result<Self, ParseError> {
            let line = line.trim_ascii_end();
            let body = line.strip_prefix(&[SEPARATOR]).ok_or(ParseError::NotARecord)?;
            let text = core::str::from_utf8(body).map_err(|_| ParseError::Encoding)?;
            let (covered, sum) = text.rsplit_once('#').ok_or(ParseError::Truncated)?;
            let stated = u32::from_str_radix(sum, 16).map_err(|_| ParseError::Truncated)?;
            let mut actual = Checksum::new();
            actual.add(covered.as_bytes());
            if sum.len() != 8 || actual.0 != stated {
                return Err(ParseError::Checksum);
            }
            let mut words = covered.split_ascii_whitespace();
            let kind = decode(words.next().ok_or(ParseError::Truncated)?)?;
            let mut fields = Vec::new();
            for word in words {
                let (key, value) = word.split_once('=').ok_or(ParseError::Field)?;
                fields.push((decode(key)?, decode(value)?));
            }
            Ok(Self { kind, fields })
        }

        /// The value of a field.
        #[must_use]
        pub fn get(&self, key: &str) -> Option<&str> {
            self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
        }

        /// The value of a field that is a decimal number.
        #[must_use]
        pub fn number(&self, key: &str) -> Option<u64> {
            self.get(key)?.parse().ok()
        }
    }

    fn decode(word: &str) -> Result<String, ParseError> {
        let mut bytes = Vec::with_capacity(word.len());
        let mut rest = word.as_bytes();
        while let [first, tail @ ..] = rest {
            rest = tail;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let (digits, tail) = rest.split_at_checked(2).ok_or(ParseError::Encoding)?;
            let digits = core::str::from_utf8(digits).map_err(|_| ParseError::Encoding)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| ParseError::Encoding)?);
            rest = tail;
        }
        String::from_utf8(bytes).map_err(|_| ParseError::Encoding)
    }

    /// Why a line is not a record.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum ParseError {
        /// It does not begin with the separator.
        NotARecord,
        /// It ends before its checksum.
        Truncated,
        /// Bytes were lost or changed.
        Checksum,
        /// A field has no `=`.
        Field,
        /// An escape or the text is not UTF-8.
        Encoding,
    }

    impl fmt::Display for ParseError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::NotARecord => "not a record",
                Self::Truncated => "record without a checksum",
                Self::Checksum => "record damaged: its checksum differs",
                Self::Field => "record with a field that has no value",
                Self::Encoding => "record with a bad escape",
            })
        }
    }

    impl core::error::Error for ParseError {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    fn written(kind: &str, fields: &[(&str, &dyn Display)]) -> String {
        let mut line = String::new();
        write(&mut line, kind, fields).unwrap();
        line
    }

    #[test]
    fn a_record_is_one_readable_line() {
        let line = written("end", &[("id", &"memory.holes"), ("ms", &12), ("why", &"3 of 5, 100 %")]);
        assert!(line.starts_with("\u{1e}end id=memory.holes ms=12 why=3%20of%205,%20100%20%25 #"));
        assert!(line.ends_with('\n'));
        let record = Record::parse(line.as_bytes()).unwrap();
        assert_eq!(record.kind, "end");
        assert_eq!(record.get("why"), Some("3 of 5, 100 %"));
        assert_eq!(record.number("ms"), Some(12));
        assert_eq!(record.get("absent"), None);
    }

    #[test]
    fn a_console_that_adds_carriage_returns_does_no_harm() {
        let line = written("done", &[]).replace('\n', "\r\n");
        assert_eq!(Record::parse(line.as_bytes()).unwrap().kind, "done");
    }

    #[test]
    fn every_lost_or_changed_byte_is_noticed() {
        let line = written("end", &[("id", &"a.b"), ("outcome", &"pass")]);
        let line = line.trim_end().as_bytes();
        for at in 0..line.len() {
            let mut shorter = line.to_vec();
            shorter.remove(at);
            assert!(Record::parse(&shorter).is_err(), "byte {at} lost");
            let mut changed = line.to_vec();
            changed[at] ^= 1;
            assert!(Record::parse(&changed).is_err(), "byte {at} changed");
        }
    }

    #[test]
    fn text_is_not_a_record() {
        assert_eq!(Record::parse(b"[0.1] hello"), Err(ParseError::NotARecord));
        assert!(!Record::is_record(b""));
    }

    proptest! {
        #[test]
        fn any_value_survives(value in ".*", kind in "[a-z]{1,8}") {
            let line = written(&kind, &[("v", &value)]);
            prop_assert_eq!(line.matches('\n').count(), 1);
            let record = Record::parse(line.as_bytes()).unwrap();
            prop_assert_eq!(record.get("v"), Some(value.as_str()));
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Record::parse(&bytes);
        }
    }
}
