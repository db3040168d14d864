//! A guest that does what is typed on its console, line by line: Linux with our script, or the test image of Ebb.

use crate::console::Event;
use crate::xen::{Ending, Guest, GuestConfig, Session};
use anyhow::{Context, Result, bail, ensure};
use ebb::report::Record;
use std::time::{Duration, Instant};

/// How long a guest may take for one line.
const LINE_BOUND: Duration = Duration::from_secs(300);
/// How long a command in dom0 may take.
const COMMAND_BOUND: Duration = Duration::from_secs(90);
/// Guests that are asked the same, one after another, as long as they fail.
const TRIES: u32 = 3;
/// How the lines of the script in Linux begin.
const MARK: u8 = b'@';

/// Where a machine does not promise that its time stamp counter is steady, and an emulated one does not, Xen emulates
/// `rdtsc` for its guests, which costs more than a page fault; Linux reads it several times in one. Xen leaves the
/// counter of any processor of today alone, and so it does here, for both.
pub(super) const TSC: &str = "tsc_mode=\"native\"";

/// The guest, while it waits for a line.
#[derive(Debug)]
pub(super) struct Subject<'s> {
    session: &'s Session,
    guest: Guest<'s>,
    name: String,
    text: String,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    record: Record,
    /// By the clock of this machine, since the guest began; zero if it did not say that it began.
    pub(super) host: Duration,
    /// The processor time that the emulated machine used meanwhile.
    pub(super) cpu: Option<Duration>,
}

impl Answer {
    /// A number in it.
    pub(super) fn number(&self, key: &str) -> Result<u64> {
        self.record.number(key).with_context(|| format!("no number {key} in {:?}", self.record))
    }

    /// A number that not every guest tells.
    pub(super) fn maybe(&self, key: &str) -> Option<u64> {
        self.record.number(key)
    }

    /// A word in it.
    pub(super) fn word(&self, key: &str) -> Result<&str> {
        self.record.get(key).with_context(|| format!("no {key} in {:?}", self.record))
    }
}

/// Does what takes a guest that the emulator may break, which happens: then with another one. `job` is told which try
/// this is, from 1.
///
/// # Errors
///
/// That of the last try.
pub(super) fn tried<T>(mut job: impl FnMut(u32) -> Result<T>) -> Result<T> {
    let mut number = 1;
    loop {
        match job(number) {
            Err(error) if number < TRIES => eprintln!("bench: once more, with another guest: {error:#}"),
            outcome => return outcome,
        }
        number += 1;
    }
}

impl<'s> Subject<'s> {
    /// Starts a guest and waits until it listens. One that does not is gone afterwards.
    pub(super) fn start(session: &'s Session, config: &GuestConfig) -> Result<(Self, Answer)> {
        let guest = session.create(config)?;
        let subject = Self { session, guest, name: config.name.clone(), text: String::new() };
        subject.doing(|subject| subject.answer("ready"))
    }

    /// Has a job done with it. If that fails the guest is destroyed, whatever it does.
    pub(super) fn doing<T>(mut self, job: impl FnOnce(&mut Self) -> Result<T>) -> Result<(Self, T)> {
        match job(&mut self) {
            Ok(done) => Ok((self, done)),
            Err(error) => {
                self.guest.destroy()?;
                Err(error)
            }
        }
    }

    /// Types a line and waits for the answer.
    pub(super) fn ask(&mut self, line: &str, kind: &str) -> Result<Answer> {
        self.type_line(line)?;
        self.answer(kind).with_context(|| format!("{}: {line}", self.name))
    }

    /// Its memory, as the toolstack sees it.
    pub(super) fn seen_mib(&self) -> Result<u64> {
        let list = self.session.exec(&format!("xl list {}", self.name), COMMAND_BOUND)?.success()?;
        listed_mib(&list, &self.name).with_context(|| format!("{} is not in:\n{list}", self.name))
    }

    /// How many pieces of 2 MiB of it Xen has mapped whole; `None` if Xen does not say.
    pub(super) fn superpages(&self) -> Result<Option<u64>> {
        self.session.superpages(self.guest.domid())
    }

    /// Ends it.
    pub(super) fn end(self) -> Result<()> {
        let (subject, ()) = self.doing(Self::power_off)?;
        subject.guest.destroy()
    }

    fn power_off(&mut self) -> Result<()> {
        self.type_line("off")?;
        let deadline = Instant::now() + LINE_BOUND;
        loop {
            match self.guest.next(deadline)? {
                Event::Line(line) => self.hear(&line.bytes),
                Event::Ended(Ending::Poweroff) => return Ok(()),
                Event::Ended(ending) => bail!("{} ended as {ending:?}:\n{}", self.name, self.text),
                Event::Interrupted => bail!("interrupted"),
                Event::Deadline => bail!("{} does not end:\n{}", self.name, self.text),
            }
        }
    }

    fn type_line(&self, line: &str) -> Result<()> {
        ensure!(!line.contains(['\'', '\n', '%', '\\']), "cannot be typed: {line:?}");
        let tty = format!("$(xenstore-read /local/domain/{}/console/tty)", self.guest.domid());
        self.session.exec(&format!("printf '{line}\\n' >{tty}"), COMMAND_BOUND)?.success().map(drop)
    }

    fn answer(&mut self, kind: &str) -> Result<Answer> {
        let deadline = Instant::now() + LINE_BOUND;
        let mut begun = None;
        loop {
            let line = match self.guest.next(deadline)? {
                Event::Line(line) => line,
                Event::Ended(ending) => bail!("it ended as {ending:?}:\n{}", self.text),
                Event::Interrupted => bail!("interrupted"),
                Event::Deadline => bail!("no answer within {} s:\n{}", LINE_BOUND.as_secs(), self.text),
            };
            self.hear(&line.bytes);
            // A line that lost bytes, because the guest was faster than the host, is none. If it was the answer, the
            // deadline tells.
            match parse(&line.bytes).unwrap_or_default() {
                Some(record) if record.kind == "begin" && record.fields.is_empty() => {
                    begun = Some((line.at, self.session.cpu_time()));
                }
                Some(record) if record.kind == kind => {
                    let (since, cpu_before) = begun.unwrap_or((line.at, None));
                    let cpu = self.session.cpu_time().zip(cpu_before);
                    let cpu = cpu.map(|(after, before)| after.saturating_sub(before));
                    return Ok(Answer { record, host: line.at.saturating_sub(since), cpu });
                }
                Some(record) if record.kind == "failed" || record.kind == "end" => {
                    bail!("it could not: {record:?}\n{}", self.text)
                }
                _ => {}
            }
        }
    }

    fn hear(&mut self, line: &[u8]) {
        self.text += &String::from_utf8_lossy(line);
        self.text.push('\n');
    }
}

/// A line of the guest as a record: ours, with a checksum, or the script's, which begins with a mark. `None` for text.
fn parse(line: &[u8]) -> Result<Option<Record>> {
    if Record::is_record(line) {
        return Ok(Some(Record::parse(line)?));
    }
    let Some(rest) = line.strip_prefix(&[MARK]) else { return Ok(None) };
    let rest = std::str::from_utf8(rest).context("a line that is not text")?;
    let mut words = rest.split_ascii_whitespace();
    let kind = words.next().context("a line without a word")?.to_owned();
    let field = |word: &str| {
        let (key, value) =
            word.split_once('=').with_context(|| format!("no value in {word:?} of {rest:?}"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    Ok(Some(Record { kind, fields: words.map(field).collect::<Result<_>>()? }))
}

/// The memory of a domain in the list that `xl` prints.
fn listed_mib(list: &str, name: &str) -> Option<u64> {
    let row = list.lines().find(|row| row.split_ascii_whitespace().next() == Some(name))?;
    row.split_ascii_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_with_another_guest_and_not_for_ever() {
        let second = tried(|number| if number == 2 { Ok(number) } else { bail!("guest {number} is broken") });
        assert_eq!(second.unwrap(), 2, "no third is asked");
        let mut asked = Vec::new();
        let never = tried(|number| -> Result<()> {
            asked.push(number);
            bail!("guest {number} is broken")
        });
        assert_eq!(never.unwrap_err().to_string(), format!("guest {TRIES} is broken"));
        assert_eq!(asked, (1..=TRIES).collect::<Vec<_>>());
    }

    #[test]
    fn both_kinds_of_lines_are_understood() {
        let record = parse(b"@moved ns=12 calls= frames=3").unwrap().unwrap();
        assert_eq!((record.kind.as_str(), record.number("ns")), ("moved", Some(12)));
        assert_eq!(record.number("calls"), None, "an empty value is no number");
        let mut line = String::new();
        ebb::report::write(&mut line, "moved", &[("ns", &7)]).unwrap();
        assert_eq!(parse(line.as_bytes()).unwrap().unwrap().number("ns"), Some(7));
        assert_eq!(parse(b"Linux version 6.1").unwrap(), None);
    }

    #[test]
    fn damaged_lines_are_errors() {
        for line in [&b"@"[..], b"@moved ns", b"@\xff", b"\x1emoved ns=1 #00000000"] {
            assert!(parse(line).is_err(), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn memory_is_found_in_the_list() {
        let list = "Name                ID   Mem VCPUs\tState\tTime(s)\n\
                    linux-1              3  1019     1     -b----       4.2\n";
        assert_eq!(listed_mib(list, "linux-1"), Some(1019));
        assert_eq!(listed_mib(list, "linux"), None);
        assert_eq!(listed_mib("", "linux"), None);
    }
}
