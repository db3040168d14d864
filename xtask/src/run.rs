//! `cargo xtask run`: one guest on real Xen, or on bare QEMU, seen live.

use crate::bare::{BareConfig, BareEnding, BareGuest};
use crate::console::{Event, Line};
use crate::xen::{Ending, GuestConfig, HostConfig, Session};
use crate::{build, interrupt, paths, qemu, setup};
use anyhow::{Context, Result, ensure};
use ebb::report::Record;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a guest may take to stop when asked.
const STOP_BOUND: Duration = Duration::from_secs(60);
/// How long a look at the host may take.
const LOOK_BOUND: Duration = Duration::from_secs(60);
/// How long a guest may take to be ready.
const READY_BOUND: Duration = Duration::from_secs(120);
/// The image's path in dom0.
const KERNEL: &str = "/guests/ebb";

/// What a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Real Xen, in QEMU, as a PVH domU.
    Xen,
    /// QEMU alone: no hypervisor, no balloon.
    Qemu,
}

/// The options of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to run on.
    #[arg(long, value_enum, default_value = "xen")]
    on: Platform,
    /// The guest's memory at the start.
    #[arg(long, value_name = "MiB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    /// The memory that the guest may grow to [default: the same].
    #[arg(long, value_name = "MiB")]
    maxmem: Option<u32>,
    /// The guest's processors.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    vcpus: u32,
    /// The kernel's command line.
    #[arg(long, value_name = "STR", default_value = "")]
    cmdline: String,
    /// Shut the guest down so long after it is ready, if it has not ended by itself. On bare QEMU nothing can ask
    /// it, and a guest that has not ended by then has failed.
    #[arg(long, value_name = "N", default_value_t = 2)]
    seconds: u64,
    /// Run this image instead of building one.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Write the summary here too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the logs and summary.json go; what an earlier run left there is overwritten [default: out/run in the
    /// workspace].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a run found. Figures that could not be taken are null.
#[derive(Debug, Serialize)]
struct Summary {
    on: Platform,
    accelerator: &'static str,
    /// `poweroff` and so on; `hung` if it did not stop when it should; else what went wrong with the host.
    outcome: String,
    /// Whether it ended as it should.
    ok: bool,
    /// From the order to create it to the guest's first console line.
    boot_ms: Option<u64>,
    /// From the request to shut down to the end.
    shutdown_ms: Option<u64>,
    /// From the order to create it to its end.
    lifetime_ms: Option<u64>,
    /// From power-on until dom0 obeyed.
    dom0_ready_ms: Option<u64>,
    /// The whole run, without building the image.
    total_ms: u64,
    xen_version: Option<String>,
    memory_mib: u32,
    maxmem_mib: u32,
    vcpus: u32,
    cmdline: String,
    image_bytes: u64,
    /// How many records the guest wrote.
    records: u64,
    logs: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// If anything fails, the guest included.
pub(crate) fn run(args: &Args) -> Result<()> {
    let maxmem = args.maxmem.unwrap_or(args.memory);
    ensure!(args.memory <= maxmem, "--memory {} is more than --maxmem {maxmem}", args.memory);
    let image = match &args.image {
        Some(image) => image.clone(),
        None => build::build(build::Image::Ebb)?.image,
    };
    let image_bytes =
        std::fs::metadata(&image).with_context(|| format!("no image {}", image.display()))?.len();
    let out = args.out.clone().unwrap_or_else(|| paths::workspace().join("out/run"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut summary = Summary {
        on: args.on,
        accelerator: qemu::Accelerator::detect().name(),
        outcome: String::new(),
        ok: false,
        boot_ms: None,
        shutdown_ms: None,
        lifetime_ms: None,
        dom0_ready_ms: None,
        total_ms: 0,
        xen_version: None,
        memory_mib: args.memory,
        maxmem_mib: maxmem,
        vcpus: args.vcpus,
        cmdline: args.cmdline.clone(),
        image_bytes,
        records: 0,
        logs: Vec::new(),
    };
    interrupt::install()?;
    let begun = Instant::now();
    let result = match args.on {
        Platform::Xen => on_xen(args, &image, &out, &mut summary),
        Platform::Qemu => on_qemu(args, &image, &out, &mut summary),
    };
    summary.total_ms = millis(begun.elapsed());
    if let Err(error) = &result {
        summary.ok = false;
        summary.outcome = format!("{error:#}");
    }
    let json = serde_json::to_vec_pretty(&summary)?;
    for path in [Some(out.join("summary.json")), args.json.clone()].into_iter().flatten() {
        std::fs::write(&path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    result?;
    let emulated = if summary.accelerator == "tcg" {
        "; times are QEMU's emulation's, good to compare only"
    } else {
        ""
    };
    eprintln!("run: {}; everything is in {}{emulated}", summary.outcome, out.display());
    ensure!(
        summary.ok,
        "the guest did not end well ({}); the logs are in {}",
        summary.outcome,
        out.display()
    );
    Ok(())
}

/// Shows a guest's text, keeps its records, and notes when it spoke first.
struct Listener {
    records: File,
    count: u64,
    first: Option<Duration>,
    /// The guest said that it is ready.
    ready: bool,
}

impl Listener {
    fn new(out: &Path) -> Result<Self> {
        let path = out.join("records.log");
        let records = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { records, count: 0, first: None, ready: false })
    }

    fn hear(&mut self, line: &Line) -> Result<()> {
        self.first.get_or_insert(line.at);
        if line.is_record() {
            self.count += 1;
            self.records.write_all(&line.bytes)?;
            self.records.write_all(b"\n")?;
            match Record::parse(&line.bytes) {
                Ok(record) => self.ready |= record.kind == "ready",
                Err(error) => eprintln!("run: {error}"),
            }
        } else {
            println!("{}", line.shown());
        }
        Ok(())
    }

    fn finish(&self, summary: &mut Summary) {
        summary.boot_ms = self.first.map(millis);
        summary.records = self.count;
    }
}

fn on_xen(args: &Args, image: &Path, out: &Path, summary: &mut Summary) -> Result<()> {
    let kit = setup::ensure()?;
    let mut host = HostConfig::for_guests(out, summary.maxmem_mib, 1);
    host.files.push((KERNEL.into(), image.to_path_buf()));
    let session = Session::boot(&kit, &host)?;
    eprintln!(
        "run: Xen {} and dom0 are up after {:.1} s",
        kit.xen_version,
        session.ready_after().as_secs_f64()
    );
    summary.xen_version = Some(kit.xen_version);
    summary.accelerator = session.accelerator().name();
    summary.dom0_ready_ms = Some(millis(session.ready_after()));

    let mut guest = session.create(&GuestConfig {
        name: "ebb".into(),
        kernel: KERNEL.into(),
        ramdisk: None,
        cmdline: args.cmdline.clone(),
        memory_mib: summary.memory_mib,
        maxmem_mib: summary.maxmem_mib,
        vcpus: args.vcpus,
        extra: Vec::new(),
    })?;
    let _registration = interrupt::on(guest.interrupter());
    summary.logs = vec![guest.log().to_path_buf(), session.xen_log()];

    let mut listener = Listener::new(out)?;
    let mut asked = None;
    let mut deadline = Instant::now() + READY_BOUND;
    let mut ready = false;
    let ending = loop {
        match guest.next(deadline)? {
            Event::Line(line) => {
                listener.hear(&line)?;
                if listener.ready && !ready {
                    ready = true;
                    eprint!("{}", session.exec("xl list", LOOK_BOUND)?.text);
                    deadline = Instant::now() + Duration::from_secs(args.seconds);
                }
            }
            Event::Ended(ending) => break Some(ending),
            Event::Interrupted | Event::Deadline if asked.is_none() => {
                eprintln!("run: asking the guest to shut down");
                asked = Some(Instant::now());
                deadline = Instant::now() + STOP_BOUND;
                guest.ask_to_shut_down()?;
            }
            Event::Interrupted => {}
            Event::Deadline => break None,
        }
    };
    if let Some(asked) = asked.filter(|_| ending.is_some()) {
        summary.shutdown_ms = Some(millis(asked.elapsed()));
    }
    listener.finish(summary);
    summary.lifetime_ms = guest.ended_at().map(millis);
    summary.ok = ending == Some(Ending::Poweroff);
    summary.outcome = match ending {
        Some(ending) => serde_json::to_value(ending)?.as_str().unwrap_or_default().to_owned(),
        None => "hung".into(),
    };
    if !summary.ok {
        let look = format!(
            "xl list -v; for vcpu in $(seq 0 {}); do xenctx {} $vcpu; done; xl dmesg",
            args.vcpus - 1,
            guest.domid()
        );
        let state = out.join("state.log");
        let text = format!("{}\n{}", guest.xl_words(), session.exec(&look, LOOK_BOUND)?.text);
        std::fs::write(&state, text).with_context(|| format!("cannot write {}", state.display()))?;
        eprintln!("run: what Xen knows of the guest is in {}", state.display());
        summary.logs.push(state);
    }
    guest.destroy()?;
    session.power_off()?;
    Ok(())
}

fn on_qemu(args: &Args, image: &Path, out: &Path, summary: &mut Summary) -> Result<()> {
    setup::ensure_qemu()?;
    let mut guest = BareGuest::start(&BareConfig {
        out: out.to_path_buf(),
        name: "ebb".into(),
        kernel: image.to_path_buf(),
        cmdline: args.cmdline.clone(),
        memory_mib: summary.maxmem_mib,
        vcpus: args.vcpus,
    })?;
    let _registration = interrupt::on(guest.interrupter());
    summary.logs = vec![guest.log().to_path_buf()];
    let mut listener = Listener::new(out)?;
    let deadline = Instant::now() + READY_BOUND + Duration::from_secs(args.seconds);
    let ending = loop {
        match guest.next(deadline)? {
            Event::Line(line) => listener.hear(&line)?,
            Event::Ended(ending) => break Some(ending),
            Event::Interrupted | Event::Deadline => break None,
        }
    };
    listener.finish(summary);
    summary.lifetime_ms = guest.ended_at().map(millis);
    summary.ok = ending == Some(BareEnding::Success);
    summary.outcome = match ending {
        Some(BareEnding::Success) => "poweroff".into(),
        Some(BareEnding::Failure(code)) => format!("failure {code:#x}"),
        Some(BareEnding::Silent(what)) => what,
        None => "hung".into(),
    };
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
