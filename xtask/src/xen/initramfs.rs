//! Dom0's root: an initramfs with busybox, the toolstack and an agent that obeys the host.
//!
//! The base is made once with the kit. Each run puts a small archive behind it with the scripts and the guests'
//! images, so a change there costs nothing.

use crate::cpio::Archive;
use crate::setup::{Closure, Modules};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The toolstack's programs that dom0 gets.
pub(crate) const PROGRAMS: &[&str] = &[
    "xl",
    "xen-init-dom0",
    "xenconsoled",
    "xenctx",
    "xenstore-exists",
    "xenstore-list",
    "xenstore-ls",
    "xenstore-read",
    "xenstore-rm",
    "xenstore-watch",
    "xenstore-write",
    "xenstored",
];

/// Libraries that no program names but the C library loads: it needs this one to end a thread.
pub(crate) const LIBRARIES: &[&str] = &["libgcc_s.so.1"];

/// The kernel modules that dom0 loads, besides those that they depend on.
pub(crate) const MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc"];

/// What dom0 runs first.
const INIT: &[u8] = include_bytes!("init.sh");
/// Then the agent.
const AGENT: &[u8] = include_bytes!("agent.sh");
/// Where modules lie in dom0, with a file `order` that lists them.
const MODULE_DIRECTORY: &str = "modules";
/// Where the dynamic linker looks by itself.
const LIBRARY_DIRECTORY: &str = "lib/x86_64-linux-gnu";

/// The busybox among the unpacked packages.
pub(crate) fn find_busybox(root: &Path) -> Result<PathBuf> {
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|place| root.join(place))
        .find(|path| path.is_file())
        .with_context(|| format!("no busybox in {}", root.display()))
}

/// Writes the part of dom0 that does not change between runs.
pub(crate) fn write_base(to: &Path, root: &Path, closure: &Closure, modules: &Modules) -> Result<()> {
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    let mut tree = Tree::default();
    for directory in [
        "dev",
        "etc/xen",
        "guests",
        "proc",
        "run",
        "sbin",
        "sys",
        "tmp",
        "var/lib/xen",
        "var/log/xen/console",
    ] {
        tree.directories(&mut archive, directory)?;
    }
    archive.symlink("var/run", "/run")?;
    archive.symlink("var/lock", "/run/lock")?;
    // Dom0's memory is fixed on Xen's command line, and xl must not try to change it.
    archive.file("etc/xen/xl.conf", 0o644, b"autoballoon=\"off\"\n")?;
    tree.copy(&mut archive, "bin/busybox", &find_busybox(root)?)?;
    for (name, path) in &closure.programs {
        tree.copy(&mut archive, &format!("usr/bin/{name}"), path)?;
    }
    for (name, path) in &closure.libraries {
        tree.copy(&mut archive, &format!("{LIBRARY_DIRECTORY}/{name}"), path)?;
    }
    for (place, path) in &closure.linkers {
        tree.copy(&mut archive, place.trim_start_matches('/'), path)?;
    }
    tree.directories(&mut archive, MODULE_DIRECTORY)?;
    let mut order = String::new();
    for (name, content) in modules {
        archive.file(&format!("{MODULE_DIRECTORY}/{name}.ko"), 0o644, content)?;
        order.push_str(&format!("/{MODULE_DIRECTORY}/{name}.ko\n"));
    }
    archive.file(&format!("{MODULE_DIRECTORY}/order"), 0o644, order.as_bytes())?;
    archive.finish()?.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(())
}

/// Writes the initramfs of one run: the base, the scripts, and `files` (path in dom0, file here).
///
/// # Errors
///
/// If a file cannot be read or written, or a path in dom0 is not absolute.
pub(crate) fn write(to: &Path, base: &Path, files: &[(String, PathBuf)]) -> Result<()> {
    std::fs::copy(base, to).with_context(|| format!("cannot copy {} to {}", base.display(), to.display()))?;
    let mut file = File::options().append(true).open(to)?;
    let length = file.metadata()?.len();
    let padding = (length.next_multiple_of(4) - length) as usize;
    file.write_all([0; 3].get(..padding).unwrap_or_default())?;
    let mut archive = Archive::new(BufWriter::new(file));
    let mut tree = Tree::default();
    archive.file("init", 0o755, INIT)?;
    archive.file("agent", 0o755, AGENT)?;
    for (place, path) in files {
        let place = place.strip_prefix('/').with_context(|| format!("{place:?} is not an absolute path"))?;
        ensure!(!place.is_empty(), "a file cannot be put at the root");
        tree.copy(&mut archive, place, path)?;
    }
    archive.finish()?;
    Ok(())
}

/// Remembers which directories the archive has.
#[derive(Debug, Default)]
struct Tree {
    made: BTreeSet<String>,
}

impl Tree {
    /// Adds a directory and those above it.
    fn directories(&mut self, archive: &mut Archive<impl Write>, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let directory = path.get(..at).unwrap_or(path);
            if !directory.is_empty() && self.made.insert(directory.to_owned()) {
                archive.directory(directory)?;
            }
        }
        Ok(())
    }

    /// Adds a file that exists here, keeping its permissions, with the directories above it.
    fn copy(&mut self, archive: &mut Archive<impl Write>, place: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = std::fs::metadata(from)
            .map(|data| std::os::unix::fs::PermissionsExt::mode(&data.permissions()))?;
        if let Some((directory, _)) = place.rsplit_once('/') {
            self.directories(archive, directory)?;
        }
        Ok(archive.file(place, mode & 0o7777, &content)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_once_and_from_the_top() {
        let (mut archive, mut tree) = (Archive::new(Vec::new()), Tree::default());
        tree.directories(&mut archive, "a/b/c").unwrap();
        tree.directories(&mut archive, "a/b/d").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<usize> =
            ["a\0", "a/b\0", "a/b/c\0", "a/b/d\0"].iter().map(|name| text.find(name).unwrap()).collect();
        assert!(places.is_sorted());
        assert_eq!(text.matches("070701").count(), 5, "four directories and the trailer");
    }

    #[test]
    fn the_scripts_are_scripts() {
        for script in ["init.sh", "agent.sh"] {
            let path = crate::paths::workspace().join("xtask/src/xen").join(script);
            let status = std::process::Command::new("sh").arg("-n").arg(&path).status().unwrap();
            assert!(status.success(), "{script}");
        }
    }

    #[test]
    fn a_run_adds_to_the_base() {
        let directory = std::env::temp_dir().join(format!("ebb-initramfs-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (base, image, run) = (directory.join("base"), directory.join("image"), directory.join("run"));
        std::fs::write(&base, b"base!").unwrap();
        std::fs::write(&image, b"the image").unwrap();
        write(&run, &base, &[("/guests/image".to_owned(), image.clone())]).unwrap();
        let bytes = std::fs::read(&run).unwrap();
        assert_eq!(bytes[..14], *b"base!\x00\x00\x00070701");
        assert!(String::from_utf8_lossy(&bytes).contains("guests/image\0"));
        assert!(write(&run, &base, &[("image".to_owned(), image.clone())]).is_err(), "a relative path");
        assert!(
            write(&run, &base, &[("/image".to_owned(), directory.join("none"))]).is_err(),
            "a missing file"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
