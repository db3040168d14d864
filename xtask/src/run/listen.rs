//! What a guest says: text for people, records for us.

use crate::console::Line;
use anyhow::{Context, Result};
use ebb::report::Record;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// For people.
    Text(String),
    /// For us.
    Record(Record),
    /// A record that lost bytes, and how that was noticed.
    Damaged(String),
}

/// Understands a guest's lines, keeps its records, and notes what matters for the run.
#[derive(Debug)]
pub(super) struct Listener {
    records: File,
    path: PathBuf,
    /// When the guest was asked for, since the run began.
    begun: Duration,
    pub(super) count: u64,
    pub(super) damaged: u64,
    /// When it spoke first, since it was asked for.
    pub(super) first: Option<Duration>,
    /// It said that it obeys the toolstack.
    pub(super) ready: bool,
    /// It said what its workload came to.
    pub(super) done: Option<Done>,
}

/// What a workload came to, in the guest's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) work: Option<u64>,
    pub(super) errors: Option<u64>,
    pub(super) outcome: Option<String>,
}

impl Listener {
    /// Begins a file for the records of a guest that was asked for at `begun`, since the run began.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(super) fn new(out: &Path, file: &str, begun: Duration) -> Result<Self> {
        let path = out.join(file);
        let records = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { records, path, begun, count: 0, damaged: 0, first: None, ready: false, done: None })
    }

    /// Where the records are kept.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a line.
    ///
    /// # Errors
    ///
    /// If a record cannot be kept.
    pub(super) fn hear(&mut self, line: &Line) -> Result<Heard> {
        self.first.get_or_insert(line.at);
        if !line.is_record() {
            // People see text and figures on one clock.
            let shown = Line { at: self.begun + line.at, bytes: line.bytes.clone() };
            return Ok(Heard::Text(shown.shown()));
        }
        self.count += 1;
        let whole = [line.bytes.as_slice(), b"\n"].concat();
        self.records.write_all(&whole).with_context(|| format!("cannot write {}", self.path.display()))?;
        match Record::parse(&line.bytes) {
            Ok(record) => {
                self.ready |= record.kind == "ready";
                if record.kind == "done" {
                    self.done = Some(Done {
                        work: record.number("work"),
                        errors: record.number("errors"),
                        outcome: record.get("outcome").map(str::to_owned),
                    });
                }
                Ok(Heard::Record(record))
            }
            Err(error) => {
                self.damaged += 1;
                Ok(Heard::Damaged(error.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, fields: &[(&str, &dyn std::fmt::Display)]) -> Vec<u8> {
        let mut text = String::new();
        ebb::report::write(&mut text, kind, fields).unwrap();
        text.trim_end().as_bytes().to_vec()
    }

    #[test]
    fn lines_are_told_apart_and_records_kept() {
        let out = std::env::temp_dir().join(format!("ebb-listen-{}", std::process::id()));
        std::fs::create_dir_all(&out).unwrap();
        let mut listener = Listener::new(&out, "records.log", Duration::from_secs(2)).unwrap();
        let line = |at, bytes: &[u8]| Line { at: Duration::from_millis(at), bytes: bytes.to_vec() };
        assert_eq!(listener.hear(&line(5, b"hello")).unwrap(), Heard::Text("[    2.005] hello".into()));
        assert!(!listener.ready);
        let ready = record("ready", &[]);
        assert!(matches!(listener.hear(&line(6, &ready)).unwrap(), Heard::Record(_)));
        assert!(matches!(listener.hear(&line(7, &ready[..ready.len() - 1])).unwrap(), Heard::Damaged(_)));
        let done = record("done", &[("work", &7), ("errors", &0), ("outcome", &"pass")]);
        listener.hear(&line(8, &done)).unwrap();
        let expected = Done { work: Some(7), errors: Some(0), outcome: Some("pass".into()) };
        assert_eq!((listener.ready, listener.done.clone()), (true, Some(expected)));
        assert_eq!(
            (listener.count, listener.damaged, listener.first),
            (3, 1, Some(Duration::from_millis(5)))
        );
        assert_eq!(std::fs::read(listener.path()).unwrap().split(|byte| *byte == b'\n').count(), 4);
        std::fs::remove_dir_all(&out).unwrap();
        assert!(Listener::new(&out, "records.log", Duration::ZERO).is_err());
    }
}
