//! One guest: created, listened to, and known by how it ended.
//!
//! `xl create -F` stays with the guest and says when it shuts down and why; every reason preserves the domain, so
//! that nothing of its console is lost and its state can still be looked at. Then it is destroyed.

use super::agent::Reply;
use super::session::{Console, Session};
use super::xl::{Ending, GuestConfig, created, died_at_work, ending, shell_word};
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
