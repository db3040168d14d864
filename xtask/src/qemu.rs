//! QEMU as a child process: how it is started, how fast it may run, and that it never outlives us.

use crate::paths;
use crate::setup::QEMU;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// QEMU's emulation: works everywhere, and its figures only compare.
    Tcg,
    /// Emulation on one thread, one processor after the other. For a hypervisor's guests: with a thread for each processor
    /// QEMU's nested virtualisation breaks guests, on a busy machine with 4 vCPUs in two of three runs of some minutes
    /// (docs/testing.md).
    TcgInTurn,
    /// Emulation on one thread, in which every instruction takes one nanosecond: the time stamp counter counts
    /// instructions, and a run repeats itself. Time in which nothing runs is skipped.
    Counted,
    /// The machine's own virtualisation, with nesting, because Xen needs it for its guests.
    Kvm,
}

impl Accelerator {
    /// KVM where it really works, else emulation. `EBB_ACCEL=tcg` asks for emulation everywhere.
    pub(crate) fn detect() -> Self {
        if std::env::var_os("EBB_ACCEL").is_some_and(|value| value == "tcg") {
            return Self::Tcg;
        }
        let nested = ["kvm_intel", "kvm_amd"].iter().any(|module| {
            fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
                .is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
        });
        let openable = File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if nested && openable { Self::Kvm } else { Self::Tcg }
    }

    /// The same for a machine that is to run a hypervisor.
    pub(crate) fn detect_for_hypervisor() -> Self {
        match Self::detect() {
            Self::Tcg => Self::TcgInTurn,
            other => other,
        }
    }

    /// Its name in summaries.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::TcgInTurn => "tcg, in turn",
            Self::Counted => "tcg, counted",
            Self::Kvm => "kvm",
        }
    }

    /// The command line's words. Under emulation, SMAP ends a PV dom0 early, Xen cannot decode the intercept that
    /// QEMU reports for RDTSCP, and the others only cost time.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
            Self::TcgInTurn => {
                &["-accel", "tcg,thread=single", "-cpu", "max,+svm,+npt,-smap,-smep,-pku,-la57,-rdtscp"]
            }
            Self::Counted => &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max"],
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
        }
    }
}

/// A QEMU that runs. It is killed when this value goes, and when this process does.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    ended: mpsc::Receiver<()>,
    // Lets the thread that started the child go; dropped after the child is gone.
    _release: mpsc::Sender<()>,
}

impl Qemu {
    /// Starts QEMU in `directory` with `words` behind the accelerator's. Its own messages go to `log`.
    /// `output` gets what it prints, piece by piece, until it ends.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn start(
        accelerator: Accelerator,
        words: &[String],
        directory: &Path,
        log: &Path,
        mut output: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let messages = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        // Its own process group keeps a terminal's Ctrl-C from it: we decide how it ends. Through setpriv, the
        // kernel kills it should we die without saying so.
        let mut command = match paths::program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--", QEMU]);
                command
            }
            None => Command::new(QEMU),
        };
        command
            .args(accelerator.words())
            .args(words)
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(messages);
        let (started, starting) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        // The kernel's "parent" is the thread that started the child, so it must live as long as the child does,
        // and QEMU closes its output some time before it ends.
        let (release, released) = mpsc::channel::<()>();
        std::thread::Builder::new().name("qemu".into()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            let stdout = child.stdout.take();
            let mut buffer = [0; 4096];
            if started.send(Ok(child)).is_err() {
                return;
            }
            if let Some(mut stdout) = stdout {
                while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                    output(buffer.get(..count).unwrap_or_default());
                }
            }
            drop((ending, output));
            // Nothing is ever sent; the channel closes.
            let _ = released.recv();
        })?;
        let child = starting.recv().context("the thread for QEMU ended")?;
        let child = child.with_context(|| format!("cannot run {QEMU}"))?;
        Ok(Self { child, ended, _release: release })
    }

    /// Waits for QEMU to end by itself.
    ///
    /// # Errors
    ///
    /// If its status cannot be had.
    pub(crate) fn wait(&mut self, bound: Duration) -> Result<Option<ExitStatus>> {
        // Nothing is ever sent: the channel closes when QEMU's output does, which is when it ends.
        match self.ended.recv_timeout(bound) {
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => Ok(Some(self.child.wait()?)),
        }
    }

    /// The processor time that its threads have used so far. Unlike the time on a clock, this does not grow when the
    /// machine does something else. `None` where the system does not tell.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        cpu_time(Path::new(&format!("/proc/{}/task", self.child.id())))
    }

    /// Kills it, if it still runs, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sums up what a process's threads have run: the first number in the `schedstat` of each, in nanoseconds (Linux:
/// Documentation/scheduler/sched-stats.rst).
fn cpu_time(tasks: &Path) -> Option<Duration> {
    let mut sum_ns = 0;
    for task in fs::read_dir(tasks).ok()? {
        // A thread may have ended since it was listed.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
        sum_ns += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    }
    (sum_ns > 0).then(|| Duration::from_nanos(sum_ns))
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_all_threads() {
        let home = std::env::temp_dir().join(format!("ebb-schedstat-{}", std::process::id()));
        assert_eq!(cpu_time(&home), None, "no such process");
        for (task, text) in [("1", "1500 7 3\n"), ("2", "500 0 1\n")] {
            fs::create_dir_all(home.join(task)).unwrap();
            fs::write(home.join(task).join("schedstat"), text).unwrap();
        }
        fs::create_dir_all(home.join("3")).unwrap();
        assert_eq!(cpu_time(&home), Some(Duration::from_nanos(2000)), "one thread has ended");
        fs::write(home.join("2/schedstat"), "x").unwrap();
        assert_eq!(cpu_time(&home), None);
        fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn the_tail_is_the_end_of_the_log() {
        let path = std::env::temp_dir().join(format!("ebb-tail-{}", std::process::id()));
        fs::write(&path, b"one\ntwo\nthree\xff\n").unwrap();
        assert_eq!(tail(&path, 2), "two\nthree\u{fffd}");
        assert_eq!(tail(&path, 9).lines().count(), 3);
        fs::remove_file(&path).unwrap();
        assert_eq!(tail(&path, 2), "");
    }
}
