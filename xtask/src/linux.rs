//! The Linux that Ebb is measured beside: the distribution's own kernel as a PVH guest, with an initramfs of a busybox
//! and one script.
//!
//! The kernel is the one that the kit has for dom0. Xen's balloon driver is built into it, and obeys its target in
//! sysfs.

use crate::cpio::Archive;
use crate::setup::{Kit, Modules};
use crate::xen::initramfs;
use anyhow::{Context, Result};
use std::path::Path;

/// What it runs first; it tells the protocol.
const INIT: &[u8] = include_bytes!("linux-init.sh");

/// The kernel's words: the distribution's defaults, but for the console and what runs first.
pub(crate) const CMDLINE: &str = "console=hvc0 loglevel=0 panic=-1 rdinit=/init";
/// More of them, for a Linux without what only costs time in a comparison.
pub(crate) const FAST: &str =
    "mitigations=off rodata=off audit=0 apparmor=0 selinux=0 cryptomgr.notests=1 tsc=reliable";

/// The modules that it can be given, besides those that they depend on: what compressed swap needs.
pub(crate) const MODULES: &[&str] = &["zram", "lz4"];
/// The name of the program that touches pages.
pub(crate) const SWAP_PEER: &str = "ebb-swap-peer";
/// Where the initramfs has them.
const MODULE_DIRECTORY: &str = "modules";

/// What a guest is given beside the script.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// Modules, in the order in which they can be loaded.
    pub(crate) modules: Modules,
    /// Programs: their names and what they are.
    pub(crate) programs: Vec<(String, Vec<u8>)>,
}

/// Writes its initramfs.
///
/// # Errors
///
/// If the kit has no busybox, or the file cannot be written.
pub(crate) fn write_initramfs(kit: &Kit, extras: &Extras, to: &Path) -> Result<()> {
    let busybox = initramfs::find_busybox(&kit.root())?;
    let busybox = std::fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    std::fs::write(to, archive(&busybox, extras)?).with_context(|| format!("cannot write {}", to.display()))
}

fn archive(busybox: &[u8], extras: &Extras) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for directory in ["bin", "dev", "memory", MODULE_DIRECTORY, "proc", "sys"] {
        archive.directory(directory)?;
    }
    archive.file("bin/busybox", 0o755, busybox)?;
    for (name, content) in &extras.programs {
        archive.file(&format!("bin/{name}"), 0o755, content)?;
    }
    // Their names are in the order in which the script finds them.
    for (number, (name, content)) in extras.modules.iter().enumerate() {
        archive.file(&format!("{MODULE_DIRECTORY}/{number:02}-{name}.ko"), 0o644, content)?;
    }
    archive.file("init", 0o755, INIT)?;
    Ok(archive.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_a_script() {
        let path = crate::paths::workspace().join("xtask/src/linux-init.sh");
        let status = std::process::Command::new("sh").arg("-n").arg(&path).status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn the_archive_has_what_the_kernel_starts() {
        let extras = Extras {
            modules: vec![("zsmalloc".into(), vec![1]), ("zram".into(), vec![2])],
            programs: vec![("peer".into(), vec![3])],
        };
        let bytes = archive(b"a busybox", &extras).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for name in [
            "bin/busybox\0",
            "bin/peer\0",
            "modules/00-zsmalloc.ko\0",
            "modules/01-zram.ko\0",
            "init\0",
            "memory\0",
            "TRAILER!!!\0",
        ] {
            assert!(text.contains(name), "{name:?}");
        }
        assert!(text.contains("#!/bin/busybox sh"));
    }
}
