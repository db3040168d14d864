//! One machine with Xen: booted, asked to do things, powered off.

use super::agent::{Agent, Output, Reply};
use super::guest::{Guest, Sink};
use super::initramfs;
use super::memory::{self, Look};
use super::nested;
use super::ports::Listeners;
use super::xl::GuestConfig;
use crate::qemu::{self, Accelerator, Qemu};
use crate::setup::Kit;
use crate::{build, interrupt};
use anyhow::{Context, Result, anyhow, bail};
use ebb_dom0::Sample;
use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// What dom0 gets of the host's memory.
pub(crate) const DOM0_MIB: u32 = 384;
/// What Xen itself needs, and what its books on each guest may come to.
pub(crate) const XEN_MIB: u32 = 192;
/// QEMU starts and connects at once on an idle machine.
const CONNECT_BOUND: Duration = Duration::from_secs(90);
/// Dom0 is ready after 6 s on an idle machine under emulation.
const BOOT_BOUND: Duration = Duration::from_secs(180);
/// How long powering off may take.
const OFF_BOUND: Duration = Duration::from_secs(60);
/// How long a look at what Xen knows may take.
const LOOK_BOUND: Duration = Duration::from_secs(60);
/// Xen's and dom0's console in the output directory.
pub(crate) const XEN_LOG: &str = "xen.log";
/// QEMU's own messages there.
const QEMU_LOG: &str = "qemu.log";
/// How the directories of [`Work`] begin; the process's number follows.
const WORK_PREFIX: &str = "ebb-";
/// The control port's name; the consoles are `console1` and so on.
const CONTROL: &str = "control";
/// The name of the port that samples of the memory come through.
const MEMORY: &str = "memory";

/// Dom0 needs no emulated timer tests, crypto self-tests, page-table audits or security modules, and each costs
/// a good part of a second under emulation. A panic of its ends the machine.
const LINUX_WORDS: &str = "console=hvc0 panic=-1 mitigations=off rodata=off audit=0 apparmor=0 selinux=0 \
                           cryptomgr.notests=1 tsc=reliable";

/// The machine to boot.
#[derive(Clone, Debug)]
pub(crate) struct HostConfig {
    /// Where logs go; it must exist.
    pub(crate) out: PathBuf,
    /// Memory of the whole machine, for Xen, dom0 and all guests.
    pub(crate) memory_mib: u32,
    /// Processors of the machine. Dom0 uses one.
    pub(crate) cpus: u32,
    /// How many guests may run at once.
    pub(crate) guests: usize,
    /// Files for dom0: the path there, which is absolute, and the file here.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// More of every guest's command line; it comes last.
    pub(crate) guest_words: String,
}

impl HostConfig {
    /// A machine with room for guests of `memory_mib` altogether.
    pub(crate) fn for_guests(out: &Path, memory_mib: u32, guests: usize) -> Self {
        Self {
            out: out.to_path_buf(),
            memory_mib: DOM0_MIB + XEN_MIB + memory_mib + memory_mib / 32,
            cpus: 2,
            guests,
            files: Vec::new(),
            guest_words: String::new(),
        }
    }
}

/// A machine that runs Xen. Dropping it pulls the plug; [`Session::power_off`] ends it in peace.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    qemu: Mutex<Qemu>,
    // Removed when the machine is gone.
    work: Work,
    consoles: Mutex<Vec<Console>>,
    memory: Mutex<Option<UnixStream>>,
    memory_port: usize,
    ready_after: Duration,
    accelerator: Accelerator,
    guest_words: String,
}

/// What the guests use too.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) agent: Agent<UnixStream>,
    pub(super) out: PathBuf,
    notes: Mutex<Vec<String>>,
}

impl Shared {
    /// As [`Session::exec`].
    pub(super) fn exec(&self, command: &str, bound: Duration) -> Result<Output> {
        let output = self.agent.exec(command, bound)?;
        let Some(why) = output.died() else { return Ok(output) };
        self.note(format!("dom0: `{command}` died and was run again: {why}; {}", output.text.trim_end()));
        self.agent.exec(command, bound)
    }

    pub(super) fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }
}

/// A console port that no guest uses.
#[derive(Debug)]
pub(super) struct Console {
    /// The port's number in dom0.
    pub(super) port: usize,
    /// Who gets what comes through it.
    pub(super) sink: Arc<Mutex<Option<Sink>>>,
}

/// What may happen while the machine boots.
enum Boot {
    Agent(Reply),
    Interrupted,
}

impl Session {
    /// Boots Xen and dom0 and waits until dom0 obeys.
    ///
    /// # Errors
    ///
    /// If the machine ends or does not come up, with the end of its console's log, or the user interrupts.
    pub(crate) fn boot(kit: &Kit, config: &HostConfig) -> Result<Self> {
        let begun = Instant::now();
        let out =
            config.out.canonicalize().with_context(|| format!("no directory {}", config.out.display()))?;
        let work = Work::new()?;
        let mut files = config.files.clone();
        files.push((memory::PROGRAM.to_owned(), build::host_memory()?));
        initramfs::write(&work.0.join("initramfs"), &kit.initramfs, &files)?;
        for (name, to) in [("xen", &kit.xen), ("linux", &kit.linux), (XEN_LOG, &out.join(XEN_LOG))] {
            symlink(to, work.0.join(name)).with_context(|| format!("cannot link {name}"))?;
        }
        // The control port is the last: when it is there, dom0 has them all.
        let consoles = (1..=config.guests).map(|port| format!("console{port}"));
        let names = consoles.chain([MEMORY, CONTROL].map(str::to_owned)).collect();
        let listeners = Listeners::new(&work.0, names)?;
        let accelerator = Accelerator::detect_for_hypervisor();
        let mut words = words(config, &kit.xen_words);
        words.extend(listeners.words());
        words.extend(nested::words());
        let mut qemu = Qemu::start(accelerator, &words, &work.0, &out.join(QEMU_LOG), |_| {})?;

        let (sender, events) = mpsc::channel();
        let for_signals = sender.clone();
        let _registration = interrupt::on(move || {
            let _ = for_signals.send(Boot::Interrupted);
        });
        let mut streams =
            listeners.accept(CONNECT_BOUND).map_err(|error| explain(&out, &error.to_string()))?;
        let control = streams.pop().context("no control port")?;
        let memory = streams.pop().context("no port for samples of the memory")?;
        let agent = Agent::new(control.try_clone()?, control, move |reply| {
            let _ = sender.send(Boot::Agent(reply));
        })?;
        let mut consoles = Vec::new();
        for (port, stream) in (1..).zip(streams) {
            consoles.push(Console { port, sink: read_console(stream)? });
        }
        let deadline = begun + BOOT_BOUND;
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Boot::Agent(Reply::Line(_))) => {}
                Ok(Boot::Agent(Reply::Exit(_))) => break,
                Ok(Boot::Agent(Reply::Lost)) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = qemu.wait(Duration::from_secs(1))?;
                    let status = status
                        .map_or_else(|| "QEMU lost its ports".into(), |status| format!("QEMU: {status}"));
                    return Err(explain(&out, &format!("Xen or dom0 ended before it was ready ({status})")));
                }
                Ok(Boot::Interrupted) => bail!("interrupted"),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(explain(
                        &out,
                        &format!("dom0 was not ready after {} s", BOOT_BOUND.as_secs()),
                    ));
                }
            }
        }
        // QEMU has read it; nobody needs it any more.
        let _ = fs::remove_file(work.0.join("initramfs"));
        let shared = Arc::new(Shared { agent, out, notes: Mutex::default() });
        let ready_after = begun.elapsed();
        Ok(Self {
            shared,
            qemu: Mutex::new(qemu),
            work,
            consoles: Mutex::new(consoles),
            memory: Mutex::new(Some(memory)),
            memory_port: config.guests + 1,
            ready_after,
            accelerator,
            guest_words: config.guest_words.clone(),
        })
    }

    /// How long it took from QEMU's start until dom0 obeyed.
    pub(crate) const fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What runs the machine's instructions.
    pub(crate) const fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The processor time that the whole machine has used so far; `None` where this system does not tell.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner).cpu_time()
    }

    /// The log of Xen's and dom0's console.
    pub(crate) fn xen_log(&self) -> PathBuf {
        self.shared.out.join(XEN_LOG)
    }

    /// Runs a shell command in dom0. Several may run at once. A command that died, in a way that no program chooses, is
    /// run once more, and [`Session::notes`] tell of it.
    ///
    /// # Errors
    ///
    /// If dom0 is gone or the command does not end within the bound. A command that fails is not an error.
    pub(crate) fn exec(&self, command: &str, bound: Duration) -> Result<Output> {
        self.shared.exec(command, bound)
    }

    /// What happened in dom0 that should not, and was mended. Each note is told once.
    pub(crate) fn notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many pieces of 2 MiB of a guest Xen has mapped whole, or `None` if this Xen does not say where its tables
    /// are. The guest should not move memory meanwhile.
    ///
    /// # Errors
    ///
    /// If dom0 is gone, or QEMU does not show its memory.
    pub(crate) fn superpages(&self, domid: u32) -> Result<Option<u64>> {
        let look = "xl dmesg -c >/dev/null; xl debug-keys v; xl dmesg";
        let printed = self.exec(look, LOOK_BOUND)?.success()?;
        let Some(root) = nested::Root::find(&printed, domid) else { return Ok(None) };
        let mut control = nested::Control::connect(&self.work.0)?;
        root.superpages(|table| control.page(table)).map(Some)
    }

    /// How much memory each domain has, as Xen accounts it.
    ///
    /// # Errors
    ///
    /// If dom0 is gone or cannot ask Xen.
    pub(crate) fn memory(&self) -> Result<Sample> {
        memory::once(|command, bound| self.shared.exec(command, bound))
    }

    /// Has `watcher` told of the memory of all domains every `period`, until the machine ends. It is called on a
    /// thread of its own.
    ///
    /// # Errors
    ///
    /// If it is done already, or dom0 is gone.
    pub(crate) fn watch_memory(
        &self,
        period: Duration,
        watcher: impl FnMut(Look) + Send + 'static,
    ) -> Result<()> {
        let port = self.memory.lock().unwrap_or_else(PoisonError::into_inner).take();
        let port = port.context("the memory of this machine is watched already")?;
        memory::watch(&self.shared.agent, self.memory_port, port, period, watcher)
    }

    /// Creates a guest and waits until it runs.
    ///
    /// # Errors
    ///
    /// If the configuration makes no sense, as many guests as the machine has consoles for are running, or `xl`
    /// refuses; then the error has its words.
    pub(crate) fn create(&self, config: &GuestConfig) -> Result<Guest<'_>> {
        let console = self.lock().pop().context("every console of this machine is in use by a guest")?;
        let cmdline = format!("{} {}", config.cmdline, self.guest_words).trim().to_owned();
        Guest::create(self, &GuestConfig { cmdline, ..config.clone() }, console)
    }

    /// Powers the machine off and waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not end within a bound; then it is killed.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.shared.agent.power_off()?;
        match self.qemu.get_mut().unwrap_or_else(PoisonError::into_inner).wait(OFF_BOUND)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(explain(&self.shared.out, &format!("QEMU failed: {status}"))),
            None => Err(explain(&self.shared.out, "the machine did not power off")),
        }
    }

    /// An error with the end of the machine's log.
    pub(crate) fn explain(&self, what: &str) -> anyhow::Error {
        explain(&self.shared.out, what)
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes back a console that no guest uses any more.
    pub(super) fn give_back(&self, console: Console) {
        self.lock().push(console);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Console>> {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Xen's word against its habit of leaving a vCPU's vector registers where they are until another wants them. With that
/// habit, dom0's programs lost them under QEMU's emulation as soon as guests ran beside: values held in `ymm0` to `ymm15`
/// were those of another program, or zero, some 20 times in 30 s, and programs of dom0 died of what they had copied
/// through them. With registers switched at once, none was lost.
const EAGER_FPU: &str = "spec-ctrl=eager-fpu";

/// QEMU's words for the machine itself. All paths are relative to its working directory: QEMU cuts the
/// initial-RAM-disk list at commas and spaces, and these have none.
fn words(config: &HostConfig, xen_words: &str) -> Vec<String> {
    let xen = format!(
        "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all conring_size=1M \
         dom0_mem={DOM0_MIB}M dom0_max_vcpus=1 {EAGER_FPU} {xen_words}"
    );
    let linux = format!("linux {LINUX_WORDS} ebb_control={},initramfs", config.guests + 2);
    let memory = format!("{}M", config.memory_mib);
    let cpus = config.cpus.to_string();
    let serial = format!("file:{XEN_LOG}");
    [
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-m",
        &memory,
        "-smp",
        &cpus,
        "-serial",
        &serial,
        "-kernel",
        "xen",
        "-append",
        &xen,
        "-initrd",
        &linux,
    ]
    .map(str::to_owned)
    .into()
}

/// Reads a console port for as long as the machine lives and hands the bytes to the guest that uses it.
fn read_console(mut stream: UnixStream) -> Result<Arc<Mutex<Option<Sink>>>> {
    let sink: Arc<Mutex<Option<Sink>>> = Arc::default();
    let shared = Arc::clone(&sink);
    std::thread::Builder::new().name("console".into()).spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            if let Some(sink) = shared.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                sink.take(bytes);
            }
        }
    })?;
    Ok(sink)
}

fn explain(out: &Path, what: &str) -> anyhow::Error {
    let log = out.join(XEN_LOG);
    let mut end = qemu::tail(&log, 12);
    let messages = qemu::tail(&out.join(QEMU_LOG), 4);
    if !messages.is_empty() {
        end = format!("{end}\n{messages}");
    }
    anyhow!("{what}; the logs are in {}; the last lines of {XEN_LOG}:\n{end}", out.display())
}

/// A short-lived directory for sockets, whose paths must be short, and for what QEMU loads.
#[derive(Debug)]
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir();
        remove_stale(&home);
        let path = home.join(format!("{WORK_PREFIX}{}-{number}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

/// Removes what processes that were killed have left behind.
fn remove_stale(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(WORK_PREFIX)?.split_once('-'));
        if owner.is_some_and(|(owner, _)| {
            owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists()
        }) {
            // Another user's cannot be removed, and need not be.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_removed() {
        let home = std::env::temp_dir().join(format!("ebb-stale-{}", std::process::id()));
        // Process numbers end at 2^22.
        let (dead, alive, other) = ("ebb-99999999-0", format!("ebb-{}-0", std::process::id()), "ebb-notes-0");
        for name in [dead, &alive, other] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        remove_stale(&home);
        let left = [dead, &alive, other].map(|name| home.join(name).exists());
        fs::remove_dir_all(&home).unwrap();
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn paths_for_qemu_need_no_quoting() {
        let config = HostConfig::for_guests(Path::new("/a, b"), 256, 3);
        let words = words(&config, "tmem=1");
        assert!(words.iter().all(|word| !word.contains("/a, b")), "{words:?}");
        assert!(
            words.iter().any(|word| word.starts_with("linux ") && word.ends_with(" ebb_control=5,initramfs"))
        );
        assert!(words.iter().any(|word| word.starts_with("console=com1 ") && word.ends_with(" tmem=1")));
        assert!(config.memory_mib > DOM0_MIB + 256);
    }
}
