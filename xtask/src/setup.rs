//! `cargo xtask setup`: everything that running Ebb needs and Cargo does not bring.
//!
//! Three things: the compiler's target for the image, QEMU, and a kit to run real Xen in QEMU: the hypervisor,
//! its toolstack, a Linux kernel and a busybox for dom0, all from the distribution's own packages, unpacked
//! under the target directory and never installed. The kit is made once; after that nothing here needs the
//! network or more than a few milliseconds.

mod elf;
mod guest_modules;
mod hypervisor;
mod kernel;
mod packages;

pub(crate) use elf::Closure;
pub(crate) use guest_modules::guest_modules;
pub(crate) use hypervisor::Hypervisor;
pub(crate) use kernel::Modules;

use crate::xen::initramfs;
use crate::{linux, paths};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the image is compiled for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";
/// What programs for dom0 are compiled for: the same as this one.
pub(crate) const DOM0_TARGET: &str = "x86_64-unknown-linux-gnu";
/// The machine that everything runs in.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Raised whenever a kit made by older code would not do.
const FORMAT: u32 = 1;
/// Describes the kit, in the directory of the kits.
const RECORD: &str = "kit.json";

/// The options of `setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing: print what is missing and fail if anything is.
    #[arg(long)]
    no_install: bool,
    /// Make the Xen kit anew, from the newest packages that the distribution offers.
    #[arg(long)]
    refresh: bool,
}

/// What it takes to boot Xen in QEMU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kit {
    format: u32,
    /// The hypervisor's package version.
    pub(crate) xen_version: String,
    /// The dom0 kernel's version, as in `uname -r`.
    pub(crate) linux_version: String,
    /// The hypervisor, uncompressed: QEMU loads it as a multiboot kernel.
    pub(crate) xen: PathBuf,
    /// The dom0 kernel; uncompressed where the host could do that.
    pub(crate) linux: PathBuf,
    /// The base of dom0's initramfs, to which each run adds its own files.
    pub(crate) initramfs: PathBuf,
    /// More of Xen's command line.
    #[serde(skip)]
    pub(crate) xen_words: String,
}

impl Kit {
    /// The kit that an earlier setup made, if it is whole.
    fn load(directory: &Path) -> Option<Self> {
        let text = std::fs::read(directory.join(RECORD)).ok()?;
        let kit: Self = serde_json::from_slice(&text).ok()?;
        let whole = [&kit.xen, &kit.linux, &kit.initramfs].iter().all(|file| file.is_file());
        (kit.format == FORMAT && whole).then_some(kit)
    }

    /// The directory of its own in which all of it lies.
    pub(crate) fn home(&self) -> &Path {
        self.initramfs.parent().unwrap_or(Path::new("."))
    }

    /// The packages' files, unpacked.
    pub(crate) fn root(&self) -> PathBuf {
        self.home().join("root")
    }
}

/// The directory of the kits.
fn directory() -> PathBuf {
    paths::target().join("xen")
}

/// Runs the command.
///
/// # Errors
///
/// If something is missing and may not or cannot be installed.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.no_install {
        let missing = missing(args.refresh);
        ensure!(missing.is_empty(), "missing:\n  {}", missing.join("\n  "));
        eprintln!("setup: nothing is missing");
        return Ok(());
    }
    if args.refresh {
        match std::fs::remove_dir_all(directory()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", directory().display()));
            }
            _ => {}
        }
    }
    let kit = ensure()?;
    eprintln!(
        "setup: Xen {} and Linux {} are in {}",
        kit.xen_version,
        kit.linux_version,
        directory().display()
    );
    Ok(())
}

/// Makes sure that everything is there and says where the Xen kit is, with the hypervisor that was chosen.
///
/// # Errors
///
/// If something is missing and cannot be installed; the error says what to do by hand.
pub(crate) fn ensure() -> Result<Kit> {
    ensure_target()?;
    ensure_qemu()?;
    hypervisor::put_chosen(ensure_kit()?, &directory())
}

/// The distribution's kit.
fn ensure_kit() -> Result<Kit> {
    let directory = directory();
    if let Some(kit) = Kit::load(&directory) {
        return Ok(kit);
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    // Another command may be at it in the same directory; the lock ends with the file.
    let lock = directory.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot lock the directory of the Xen kit")?;
    match Kit::load(&directory) {
        Some(kit) => Ok(kit),
        None => make_kit(&directory),
    }
}

/// Makes sure that the compiler can build images.
///
/// # Errors
///
/// If the target is missing and cannot be added.
pub(crate) fn ensure_target() -> Result<()> {
    if target_present()? {
        return Ok(());
    }
    eprintln!("setup: adding the compilation target {TARGET}");
    ensure!(
        paths::program("rustup").is_some(),
        "the compiler lacks the target {TARGET} and there is no rustup to add it: install the standard library \
         for {TARGET} in the way this compiler was installed"
    );
    call(Command::new("rustup").args(["target", "add", TARGET]).current_dir(paths::workspace()))
}

/// Makes sure that QEMU is installed.
///
/// # Errors
///
/// If it is missing and cannot be installed.
pub(crate) fn ensure_qemu() -> Result<()> {
    if paths::program(QEMU).is_some() {
        return Ok(());
    }
    packages::install("qemu-system-x86")?;
    ensure!(paths::program(QEMU).is_some(), "{QEMU} is still missing after its package was installed");
    Ok(())
}

fn missing(refresh: bool) -> Vec<String> {
    let mut missing = Vec::new();
    match target_present() {
        Ok(true) => {}
        Ok(false) => missing.push(format!("the compilation target {TARGET} (rustup target add {TARGET})")),
        Err(error) => missing.push(format!("{error:#}")),
    }
    if paths::program(QEMU).is_none() {
        missing.push(format!("{QEMU} (package qemu-system-x86)"));
    }
    if refresh || Kit::load(&directory()).is_none() {
        missing.push("the Xen kit (cargo xtask setup downloads and unpacks it, and installs nothing)".into());
    }
    missing
}

fn target_present() -> Result<bool> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = read(Command::new(compiler).args(["--print", "sysroot"]).current_dir(paths::workspace()))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

/// Downloads, unpacks and assembles the kit. It appears under its name only when it is whole.
fn make_kit(directory: &Path) -> Result<Kit> {
    let offer = packages::newest_xen()?;
    eprintln!("setup: Xen {} from the distribution's packages", offer.version);
    let home = directory.join(&offer.version);
    let root = home.join("root");
    if home.exists() {
        std::fs::remove_dir_all(&home).with_context(|| format!("cannot clear {}", home.display()))?;
    }
    std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;

    let mut store = packages::Store::new(&home.join("packages"), &root)?;
    store.add(&[
        &offer.hypervisor,
        &offer.utils,
        "xenstore-utils",
        "busybox-static",
        "libc6",
        "libgcc-s1",
    ])?;
    let closure =
        elf::close(&root, initramfs::PROGRAMS, initramfs::LIBRARIES, |missing| store.add_next(missing))?;

    let tools = kernel::Tools { busybox: initramfs::find_busybox(&root)? };
    let xen = home.join("xen");
    kernel::gunzip(&tools, &packages::hypervisor_file(&root)?, &xen)?;

    let linux_root = home.join("linux-root");
    let mut linux_store = packages::Store::new(&home.join("packages"), &linux_root)?;
    eprintln!("setup: the dom0 kernel");
    linux_store.add_linux()?;
    let linux_version = kernel::version(&linux_root)?;
    let linux = home.join("linux");
    kernel::extract(&tools, &linux_root.join("boot").join(format!("vmlinuz-{linux_version}")), &linux)?;
    let modules = kernel::modules(&tools, &linux_root, &linux_version, initramfs::MODULES)?;

    let base = home.join("dom0.cpio");
    initramfs::write_base(&base, &root, &closure, &modules)?;
    guest_modules::keep(&home, &kernel::modules(&tools, &linux_root, &linux_version, linux::MODULES)?)?;
    for leftover in [&linux_root, &home.join("packages")] {
        std::fs::remove_dir_all(leftover).with_context(|| format!("cannot remove {}", leftover.display()))?;
    }
    let kit = Kit {
        format: FORMAT,
        xen_version: offer.version,
        linux_version,
        xen,
        linux,
        initramfs: base,
        xen_words: String::new(),
    };
    let record = directory.join(RECORD);
    let fresh = directory.join("kit.json.new");
    std::fs::write(&fresh, serde_json::to_vec_pretty(&kit)?)
        .and_then(|()| std::fs::rename(&fresh, &record))
        .with_context(|| format!("cannot write {}", record.display()))?;
    Ok(kit)
}

/// Runs a command whose output the user should see.
fn call(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot run {shown}"))?;
    ensure!(status.success(), "{shown} failed: {status}");
    Ok(())
}

/// Runs a command and gives back what it printed.
fn read(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed something that is not text"))
}
