//! The image in QEMU without Xen: quick, and enough to test processors and memory.
//!
//! QEMU starts it through the same PVH note. Its console is the first serial port; it ends by writing to QEMU's
//! exit device.

use crate::console::{Event, Line, Splitter};
use crate::qemu::{Accelerator, Qemu};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What the image writes to the exit device when all is well; QEMU doubles it and adds one.
const SUCCESS: u32 = 0x10;
/// The exit device's port.
const EXIT_PORT: u32 = 0xF4;
/// QEMU's output has closed, so its status is there at once.
const STATUS_BOUND: Duration = Duration::from_secs(60);

/// What to boot.
#[derive(Clone, Debug)]
pub(crate) struct BareConfig {
    /// Where the console's log goes, as `NAME.log`; the directory must exist.
    pub(crate) out: PathBuf,
    /// The guest's name.
    pub(crate) name: String,
    /// The image.
    pub(crate) kernel: PathBuf,
    /// Its command line.
    pub(crate) cmdline: String,
    /// Its memory.
    pub(crate) memory_mib: u32,
    /// Its processors.
    pub(crate) vcpus: u32,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BareEnding {
    /// It said that all is well.
    Success,
    /// It said that it failed, with this code.
    Failure(u32),
    /// It did not say anything: a reset (triple fault), or QEMU itself failed.
    Silent(String),
}

impl BareEnding {
    /// From QEMU's exit status: (code << 1) | 1 is the guest's word.
    fn from_status(status: ExitStatus) -> Self {
        match status.code().and_then(|code| u32::try_from(code).ok()) {
            Some(code) if code == SUCCESS << 1 | 1 => Self::Success,
            // 1 is QEMU's own failure too.
            Some(code) if code & 1 == 1 && code > 1 => Self::Failure(code >> 1),
            Some(0) => Self::Silent("a reset (perhaps a triple fault)".into()),
            _ => match status.signal() {
                Some(signal) => Self::Silent(format!("QEMU was ended by signal {signal}")),
                None => Self::Silent(format!("QEMU failed: {status}")),
            },
        }
    }
}

/// A guest on bare QEMU. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct BareGuest {
    qemu: Qemu,
    sender: mpsc::Sender<Raw>,
    events: mpsc::Receiver<Raw>,
    splitter: Splitter,
    lines: VecDeque<Line>,
    ended: Option<(BareEnding, Duration)>,
    begun: Instant,
    log: PathBuf,
}

#[derive(Debug)]
enum Raw {
    Bytes(Duration, Vec<u8>),
    Closed,
    Interrupted,
}

/// Tells that QEMU's output has closed, when it is dropped with the closure that takes it.
struct Closing(mpsc::Sender<Raw>);

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.send(Raw::Closed);
    }
}

impl BareGuest {
    /// Starts QEMU with the image.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn start(config: &BareConfig) -> Result<Self> {
        Self::start_on(Accelerator::detect(), config)
    }

    /// The same, on an accelerator of choice.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn start_on(accelerator: Accelerator, config: &BareConfig) -> Result<Self> {
        let kernel =
            config.kernel.canonicalize().with_context(|| format!("no image {}", config.kernel.display()))?;
        let kernel = kernel.to_str().context("the image's path is not text")?;
        let out =
            config.out.canonicalize().with_context(|| format!("no directory {}", config.out.display()))?;
        let log = out.join(format!("{}.log", config.name));
        let mut copy = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let memory = format!("{}M", config.memory_mib);
        let cpus = config.vcpus.to_string();
        let exit = format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4");
        let words = [
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-m",
            &memory,
            "-smp",
            &cpus,
            "-serial",
            "stdio",
            "-device",
            &exit,
            "-kernel",
            kernel,
            "-append",
            &config.cmdline,
        ]
        .map(str::to_owned);
        let (sender, events) = mpsc::channel();
        let begun = Instant::now();
        let closing = Closing(sender.clone());
        let qemu = Qemu::start(accelerator, &words, &out, &out.join("qemu.log"), move |bytes| {
            // A full disk must not stop the guest. Nobody listens after the end.
            let _ = copy.write_all(bytes);
            let _ = closing.0.send(Raw::Bytes(begun.elapsed(), bytes.to_vec()));
        })?;
        Ok(Self {
            qemu,
            sender,
            events,
            splitter: Splitter::default(),
            lines: VecDeque::new(),
            ended: None,
            begun,
            log,
        })
    }

    /// Where its console's bytes are kept.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// When it ended, if it has, since its start.
    pub(crate) fn ended_at(&self) -> Option<Duration> {
        self.ended.as_ref().map(|(_, at)| *at)
    }

    /// Something that wakes [`BareGuest::next`] from another thread.
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
    /// If QEMU's status cannot be had.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Event<BareEnding>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Event::Line(line));
            }
            if let Some((ending, _)) = &self.ended {
                return Ok(Event::Ended(ending.clone()));
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Raw::Bytes(at, bytes)) => {
                    self.splitter.push(at, &bytes, |line| self.lines.push_back(line))
                }
                Ok(Raw::Interrupted) => return Ok(Event::Interrupted),
                Ok(Raw::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let at = self.begun.elapsed();
                    self.lines.extend(self.splitter.finish(at));
                    let status =
                        self.qemu.wait(STATUS_BOUND)?.context("QEMU closed its output and did not end")?;
                    self.ended = Some((BareEnding::from_status(status), at));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Event::Deadline),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agreed_status_is_success() {
        let ending = |code: i32| BareEnding::from_status(ExitStatus::from_raw(code << 8));
        assert_eq!(ending(33), BareEnding::Success);
        assert_eq!(ending(35), BareEnding::Failure(0x11));
        assert_eq!(ending(3), BareEnding::Failure(1));
        for code in [0, 1, 2, 34] {
            assert!(matches!(ending(code), BareEnding::Silent(_)), "{code}");
        }
        assert!(matches!(BareEnding::from_status(ExitStatus::from_raw(9)), BareEnding::Silent(_)), "killed");
    }
}
