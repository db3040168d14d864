//! One guest: created, listened to, and known by how it ended.
//!
//! `xl create -F` stays with the guest and says when it shuts down and why; every reason preserves the domain, so
//! that nothing of its console is lost and its state can still be looked at. Then it is destroyed.

use super::agent::{Output, Reply};
use super::session::{Console, Session};
use crate::console::{Event, Line, Splitter};
use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long `xl` may take to build a guest.
const CREATE_BOUND: Duration = Duration::from_secs(120);
/// How long any other small command may take.
const COMMAND_BOUND: Duration = Duration::from_secs(60);
/// How long the rest of a console may take to arrive after the guest's end.
const DRAIN_BOUND: Duration = Duration::from_secs(60);
/// xenconsoled pauses a guest that is too loud for 200 ms; what a dead guest has left in its ring comes within
/// this time or not at all. By dom0's clock, because dom0 may not run while time passes here.
const PAUSE: &str = "sleep 0.3; ";
/// Where xenconsoled keeps its own copy of every console.
const CONSOLE_LOGS: &str = "/var/log/xen/console";

/// A guest to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestConfig {
    /// The domain's name: letters, digits and dashes.
    pub(crate) name: String,
    /// The image's path in dom0.
    pub(crate) kernel: String,
    /// An initial RAM disk's path in dom0.
    pub(crate) ramdisk: Option<String>,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// Memory at the start.
    pub(crate) memory_mib: u32,
    /// Memory that it may grow to; populate-on-demand if it is more than `memory_mib`.
    pub(crate) maxmem_mib: u32,
    /// Virtual processors.
    pub(crate) vcpus: u32,
    /// Further lines of the configuration, as they are.
    pub(crate) extra: Vec<String>,
}

impl GuestConfig {
    /// The configuration in `xl`'s language.
    ///
    /// # Errors
    ///
    /// If a value cannot be written in it.
    pub(crate) fn text(&self) -> Result<String> {
        let named = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(named, "a guest's name has letters, digits and dashes: {:?}", self.name);
        ensure!(self.memory_mib > 0 && self.vcpus > 0, "a guest has memory and a processor");
        ensure!(
            self.memory_mib <= self.maxmem_mib,
            "memory ({} MiB) is more than maxmem ({} MiB)",
            self.memory_mib,
            self.maxmem_mib
        );
        let mut lines = vec![
            format!("name={}", quoted(&self.name)?),
            "type=\"pvh\"".into(),
            format!("kernel={}", quoted(&self.kernel)?),
            format!("cmdline={}", quoted(&self.cmdline)?),
            format!("memory={}", self.memory_mib),
            format!("maxmem={}", self.maxmem_mib),
            format!("vcpus={}", self.vcpus),
        ];
        if let Some(ramdisk) = &self.ramdisk {
            lines.push(format!("ramdisk={}", quoted(ramdisk)?));
        }
        for event in ["poweroff", "reboot", "watchdog", "crash", "soft_reset"] {
            lines.push(format!("on_{event}=\"preserve\""));
        }
        lines.extend(self.extra.iter().cloned());
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// A string in `xl`'s language, which has two kinds of quotes and no escapes.
pub(crate) fn quoted(text: &str) -> Result<String> {
    ensure!(!text.contains(['\n', '\r', '\0']), "an xl string is one line: {text:?}");
    match (text.contains('"'), text.contains('\'')) {
        (false, _) => Ok(format!("\"{text}\"")),
        (true, false) => Ok(format!("'{text}'")),
        (true, true) => bail!("an xl string cannot have both kinds of quotes: {text}"),
    }
}

/// A word in the shell's language.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Why a domain is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    /// It powered off.
    Poweroff,
    /// It asked for a reboot, or its processor gave up on it (a triple fault).
    Reboot,
    /// It asked to be suspended.
    Suspend,
    /// It said that it crashed.
    Crash,
    /// Its watchdog ran out.
    Watchdog,
    /// It asked for a soft reset.
    SoftReset,
    /// It was destroyed from outside.
    Destroyed,
    /// A reason that Xen does not name.
    Unknown,
}

impl Ending {
    /// From Xen's `SHUTDOWN_*` codes (Xen: xen/include/public/sched.h).
    const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            _ => Self::Unknown,
        }
    }
}

/// What the threads tell the guest's owner.
#[derive(Debug)]
enum Raw {
    Bytes(Duration, Vec<u8>),
    Xl(String),
    Closed,
    Interrupted,
    Lost,
}

/// Takes the bytes of a guest's console on the thread that reads them.
#[derive(Debug)]
pub(super) struct Sink {
    begun: Instant,
    log: File,
    owner: mpsc::Sender<Raw>,
}

impl Sink {
    /// Keeps bytes in the guest's log and passes them on.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        // A full disk must not stop the guest; the owner still gets the bytes. Nobody listens after the end.
        let _ = self.log.write_all(bytes);
        let _ = self.owner.send(Raw::Bytes(self.begun.elapsed(), bytes.to_vec()));
    }
}

/// A guest that runs or has run.
#[derive(Debug)]
pub(crate) struct Guest<'s> {
    session: &'s Session,
    name: String,
    domid: u32,
    begun: Instant,
    sender: mpsc::Sender<Raw>,
    events: mpsc::Receiver<Raw>,
    console: Option<Console>,
    splitter: Splitter,
    lines: VecDeque<Line>,
    received: u64,
    last: Duration,
    xl: String,
    ended: Option<(Ending, Duration)>,
    closed: bool,
    log: PathBuf,
}

impl<'s> Guest<'s> {
    pub(super) fn create(session: &'s Session, config: &GuestConfig, console: Console) -> Result<Self> {
        let log = session.shared().out.join(format!("{}.log", config.name));
        let begun = Instant::now();
        let (sender, events) = mpsc::channel();
        let mut guest = Self {
            session,
            name: config.name.clone(),
            domid: 0,
            begun,
            sender,
            events,
            console: Some(console),
            splitter: Splitter::default(),
            lines: VecDeque::new(),
            received: 0,
            last: Duration::ZERO,
            xl: String::new(),
            ended: None,
            closed: false,
            log,
        };
        match guest.build(config) {
            Ok(()) => Ok(guest),
            Err(error) => {
                // What creates it has ended and has let the port go.
                if guest.closed {
                    guest.release_console();
                }
                Err(error)
            }
        }
    }

    fn build(&mut self, config: &GuestConfig) -> Result<()> {
        let text = config.text()?;
        let file = format!("/guests/{}.cfg", self.name);
        let lines: Vec<String> = text.lines().map(shell_word).collect();
        let old_log = format!("{CONSOLE_LOGS}/guest-{}.log", self.name);
        let shared = self.session.shared();
        let write = format!("rm -f {old_log}; printf '%s\\n' {} >{file}", lines.join(" "));
        shared.exec(&write, COMMAND_BOUND)?.success().context("cannot write the guest's configuration")?;

        let log = File::create(&self.log).with_context(|| format!("cannot create {}", self.log.display()))?;
        self.begun = Instant::now();
        if let Some(console) = &self.console {
            let sink = Sink { begun: self.begun, log, owner: self.sender.clone() };
            *console.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        }
        if self.start(&file)? {
            return Ok(());
        }
        let words = std::mem::take(&mut self.xl);
        if !died_at_work(&words) {
            bail!("xl cannot create {}:\n{}", self.name, words.trim_end());
        }
        shared.note(format!(
            "dom0: xl died while it created {}, and was told again: {}",
            self.name,
            words.trim_end()
        ));
        // What it left behind, if anything, has the name.
        shared.exec(&format!("xl destroy {}", self.name), COMMAND_BOUND)?;
        self.closed = false;
        let created = self.start(&file)?;
        ensure!(created, "xl cannot create {}:\n{}", self.name, self.xl.trim_end());
        Ok(())
    }

    /// Has the domain created. False if `xl` ended without; then its words are known.
    fn start(&mut self, file: &str) -> Result<bool> {
        let owner = self.sender.clone();
        let port = self.console.as_ref().map_or(0, |console| console.port);
        self.session.shared().agent.start(&format!("create {file} {port}"), move |reply| {
            let _ = owner.send(match reply {
                Reply::Line(line) => Raw::Xl(line),
                Reply::Exit(_) => Raw::Closed,
                Reply::Lost => Raw::Lost,
            });
        })?;
        let deadline = Instant::now() + CREATE_BOUND;
        while self.domid == 0 {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Raw::Xl(line)) => self.note(&line),
                Ok(Raw::Closed) => {
                    self.closed = true;
                    return Ok(false);
                }
                Ok(Raw::Lost) => {
                    return Err(self.session.explain("dom0 went away while it created the guest"));
                }
                Ok(Raw::Bytes(..) | Raw::Interrupted) => {}
                Err(_) => bail!("xl took more than {} s to create {}", CREATE_BOUND.as_secs(), self.name),
            }
        }
        Ok(true)
    }

    /// The domain's number.
    pub(crate) const fn domid(&self) -> u32 {
        self.domid
    }

    /// Where its console's bytes are kept.
    pub(crate) fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// What `xl create` printed so far.
    pub(crate) fn xl_words(&self) -> &str {
        &self.xl
    }

    /// When it was asked for.
    pub(crate) const fn begun(&self) -> Instant {
        self.begun
    }

    /// When it ended, if it has, since it was asked for.
    pub(crate) fn ended_at(&self) -> Option<Duration> {
        self.ended.map(|(_, at)| at)
    }

    /// Asks the guest to power off, as `xl shutdown` does. What it thinks of that comes as events.
    ///
    /// # Errors
    ///
    /// If dom0 is gone.
    pub(crate) fn ask_to_shut_down(&self) -> Result<()> {
        let owner = self.sender.clone();
        self.session.shared().agent.start(&format!("xl shutdown {}", self.domid), move |reply| {
            if let Reply::Line(line) = reply {
                let _ = owner.send(Raw::Xl(line));
            }
        })
    }

    /// Something that wakes [`Guest::next`] from another thread.
    pub(crate) fn interrupter(&self) -> impl Fn() + Send + 'static {
        let sender = self.sender.clone();
        move || {
            let _ = sender.send(Raw::Interrupted);
        }
    }

    /// Waits for what the guest does next, until the deadline. After [`Event::Ended`] there is nothing more.
    ///
    /// # Errors
    ///
    /// If dom0 goes away, or it lost some of the console's bytes.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Event<Ending>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Event::Line(line));
            }
            if let Some((ending, _)) = self.ended {
                return Ok(Event::Ended(ending));
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Raw::Bytes(at, bytes)) => self.push(at, &bytes),
                Ok(Raw::Xl(line)) => {
                    self.note(&line);
                    if let Some(ending) = ending(&line) {
                        let at = self.begun.elapsed();
                        self.drain(ending)?;
                        self.ended = Some((ending, at));
                    }
                }
                Ok(Raw::Closed) => bail!("xl left the guest:\n{}", self.xl.trim_end()),
                Ok(Raw::Interrupted) => return Ok(Event::Interrupted),
                Ok(Raw::Lost) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.session.explain("dom0 went away under the guest"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Event::Deadline),
            }
        }
    }

    /// Destroys the domain, running or not, and frees its console for the next.
    ///
    /// # Errors
    ///
    /// If dom0 does not do it.
    pub(crate) fn destroy(mut self) -> Result<()> {
        let output = self.session.exec(&format!("xl destroy {}", self.domid), COMMAND_BOUND)?;
        // One that died may have done it before.
        let gone = |session: &Session| session.memory().is_ok_and(|seen| seen.domain(self.domid).is_none());
        if output.status != 0 && !gone(self.session) {
            output.success().with_context(|| format!("cannot destroy {}", self.name))?;
        }
        // The port can be used again when the process that filled it has let it go.
        let deadline = Instant::now() + COMMAND_BOUND;
        while !self.closed {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Raw::Closed) => self.closed = true,
                Ok(Raw::Lost) => return Err(self.session.explain("dom0 went away under the guest")),
                Ok(_) => {}
                Err(_) => bail!("the console of {} did not close", self.name),
            }
        }
        self.release_console();
        Ok(())
    }

    fn release_console(&mut self) {
        if let Some(console) = self.console.take() {
            *console.sink.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.session.give_back(console);
        }
    }

    fn push(&mut self, at: Duration, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        self.last = at;
        self.splitter.push(at, bytes, |line| self.lines.push_back(line));
    }

    fn note(&mut self, line: &str) {
        self.xl.push_str(line);
        self.xl.push('\n');
        if let Some(domid) = created(line) {
            self.domid = domid;
        }
    }

    /// Waits until everything that xenconsoled has read from the guest has come here. It keeps a copy, so its
    /// length is known.
    fn drain(&mut self, ending: Ending) -> Result<()> {
        // A guest that failed may have left text in its ring, and xenconsoled may be pausing.
        let pause = if matches!(ending, Ending::Poweroff | Ending::Destroyed) { "" } else { PAUSE };
        let size = format!("{pause}stat -c %s {CONSOLE_LOGS}/guest-{}.log", self.name);
        let size = self.session.exec(&size, COMMAND_BOUND)?;
        // Without a log the guest never wrote anything.
        let expected = if size.status == 0 { size.text.trim().parse::<u64>()? } else { 0 };
        let deadline = Instant::now() + DRAIN_BOUND;
        while self.received < expected {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(raw) => self.drained(raw),
                Err(_) => bail!(
                    "only {} of the {expected} bytes of the console of {} came through",
                    self.received,
                    self.name
                ),
            }
        }
        let last = self.last;
        self.lines.extend(self.splitter.finish(last));
        Ok(())
    }

    fn drained(&mut self, raw: Raw) {
        match raw {
            Raw::Bytes(at, bytes) => self.push(at, &bytes),
            Raw::Xl(line) => self.note(&line),
            Raw::Closed => self.closed = true,
            Raw::Interrupted | Raw::Lost => {}
        }
    }
}

/// The domain that `xl create -F` says it waits for.
fn created(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("Waiting for domain ")?;
    rest.split_once("(domid ")?.1.split_once(')')?.0.parse().ok()
}

/// Whether the last line of `create` in dom0 says that `xl` died instead of failing.
fn died_at_work(words: &str) -> bool {
    let status =
        words.lines().rev().find_map(|line| line.strip_prefix("xl ended with status ")?.parse().ok());
    status.is_some_and(|status| Output { status, text: words.to_owned() }.died().is_some())
}

/// How `xl create -F` says that the domain ended.
fn ending(line: &str) -> Option<Ending> {
    if let Some((_, rest)) = line.split_once("has shut down, reason code ") {
        return Some(rest.split(' ').next()?.parse().map_or(Ending::Unknown, Ending::from_code));
    }
    line.contains("has been destroyed").then_some(Ending::Destroyed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuestConfig {
        GuestConfig {
            name: "ebb-1".into(),
            kernel: "/guests/ebb".into(),
            ramdisk: None,
            cmdline: "tmem loglevel=debug".into(),
            memory_mib: 64,
            maxmem_mib: 128,
            vcpus: 2,
            extra: vec!["nomigrate=1".into()],
        }
    }

    #[test]
    fn a_configuration_has_what_xl_needs() {
        let text = config().text().unwrap();
        for line in [
            "name=\"ebb-1\"",
            "type=\"pvh\"",
            "memory=64",
            "maxmem=128",
            "on_crash=\"preserve\"",
            "nomigrate=1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let cmdline = GuestConfig { cmdline: "say=\"two words\"".into(), ..config() };
        assert!(cmdline.text().unwrap().contains("cmdline='say=\"two words\"'\n"));
    }

    #[test]
    fn senseless_configurations_are_errors() {
        for bad in [
            GuestConfig { name: "a b".into(), ..config() },
            GuestConfig { name: String::new(), ..config() },
            GuestConfig { memory_mib: 129, ..config() },
            GuestConfig { memory_mib: 0, ..config() },
            GuestConfig { vcpus: 0, ..config() },
            GuestConfig { cmdline: "two\nlines".into(), ..config() },
            GuestConfig { cmdline: "it's \"both\"".into(), ..config() },
        ] {
            assert!(bad.text().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn xl_words_are_understood() {
        assert_eq!(created("Waiting for domain t1 (domid 12) to die [pid 115]"), Some(12));
        assert_eq!(created("Parsing config from /guests/t1.cfg"), None);
        assert_eq!(ending("Domain 1 has shut down, reason code 3 0x3"), Some(Ending::Crash));
        assert_eq!(ending("Domain 1 has shut down, reason code 77 0x4d"), Some(Ending::Unknown));
        assert_eq!(ending("Domain 1 has been destroyed."), Some(Ending::Destroyed));
        assert_eq!(ending("Action for shutdown reason code 3 is preserve"), None);
    }

    #[test]
    fn an_xl_that_died_is_told_from_one_that_failed() {
        assert!(died_at_work("Parsing config\nxl ended with status 139\n"));
        assert!(died_at_work("Inconsistency detected by ld.so: x\nxl ended with status 127\n"));
        for failed in
            ["xl ended with status 1\n", "libxl: error\nxl ended with status 3", "no more memory", ""]
        {
            assert!(!died_at_work(failed), "{failed}");
        }
    }

    #[test]
    fn shell_words_keep_every_character() {
        assert_eq!(shell_word("a 'b' $c"), r"'a '\''b'\'' $c'");
    }
}
