//! The distribution's packages, through apt and dpkg: asked about, downloaded and unpacked, not installed.

use super::{call, read};
use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest Xen that the distribution offers.
#[derive(Debug)]
pub(super) struct Offer {
    /// The hypervisor's package.
    pub(super) hypervisor: String,
    /// The toolstack's package.
    pub(super) utils: String,
    /// The version of both.
    pub(super) version: String,
}

/// Asks the package lists for the newest Xen.
///
/// # Errors
///
/// If this is not a Debian or Ubuntu, or its package lists are missing and cannot be brought.
pub(super) fn newest_xen() -> Result<Offer> {
    require_apt()?;
    let release = match offered_xen()? {
        Some(release) => release,
        None => {
            update_lists()?;
            offered_xen()?.context("this distribution offers no package xen-hypervisor-<version>-amd64")?
        }
    };
    let hypervisor = format!("xen-hypervisor-{}.{}-amd64", release.0, release.1);
    let version = field(&hypervisor, "Version")?;
    Ok(Offer { utils: format!("xen-utils-{}.{}", release.0, release.1), hypervisor, version })
}

/// The newest release among the packages that have a candidate.
fn offered_xen() -> Result<Option<(u32, u32)>> {
    let names = read(Command::new("apt-cache").args(["pkgnames", "xen-hypervisor-"]))?;
    let mut releases: Vec<(u32, u32)> = names.lines().filter_map(release).collect();
    releases.sort_unstable();
    Ok(releases
        .into_iter()
        .rev()
        .find(|(major, minor)| field(&format!("xen-hypervisor-{major}.{minor}-amd64"), "Version").is_ok()))
}

/// `xen-hypervisor-4.17-amd64` is release (4, 17).
fn release(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.strip_prefix("xen-hypervisor-")?.strip_suffix("-amd64")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The hypervisor among the unpacked files.
pub(super) fn hypervisor_file(root: &Path) -> Result<PathBuf> {
    let boot = root.join("boot");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&boot)
        .with_context(|| format!("cannot read {}", boot.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("xen-") && name.ends_with(".gz")
        })
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no hypervisor in {}", boot.display()))
}

/// A directory of downloaded packages and the tree that they are unpacked into.
#[derive(Debug)]
pub(super) struct Store {
    packages: PathBuf,
    root: PathBuf,
    unpacked: BTreeSet<String>,
}

impl Store {
    /// An empty store.
    pub(super) fn new(packages: &Path, root: &Path) -> Result<Self> {
        for directory in [packages, root] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(Self { packages: packages.to_path_buf(), root: root.to_path_buf(), unpacked: BTreeSet::new() })
    }

    /// Downloads packages and unpacks them.
    pub(super) fn add(&mut self, names: &[&str]) -> Result<()> {
        eprintln!("setup: fetching {}", names.join(" "));
        let before = self.files()?;
        // Only root's apt has a sandbox user, and that user may not write here.
        let mut download = Command::new("apt-get");
        download.args(["-q", "-q", "-o", "APT::Sandbox::User=root", "download"]).args(names);
        read(download.current_dir(&self.packages)).context(
            "a package cannot be downloaded; if the package lists are old, `apt-get update` (as root) renews them",
        )?;
        for file in self.files()?.difference(&before) {
            call(Command::new("dpkg-deb").arg("-x").arg(file).arg(&self.root))?;
        }
        self.unpacked.extend(names.iter().map(ToString::to_string));
        Ok(())
    }

    /// Adds the libraries that the packages so far depend on: called while programs still lack `missing`.
    pub(super) fn add_next(&mut self, missing: &BTreeSet<String>) -> Result<()> {
        let mut next = BTreeSet::new();
        for package in &self.unpacked {
            next.extend(dependencies(package)?.into_iter().filter(|name| {
                (name.starts_with("lib") || name.starts_with("zlib")) && !self.unpacked.contains(name)
            }));
        }
        ensure!(!next.is_empty(), "no package brings {missing:?}");
        self.add(&next.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Adds the distribution's ordinary kernel, with its modules.
    pub(super) fn add_linux(&mut self) -> Result<()> {
        // The first is Debian's name, the others are Ubuntu's. Each only depends on the kernel of the day.
        for name in ["linux-image-amd64", "linux-image-virtual", "linux-image-generic"] {
            let Ok(names) = dependencies(name) else { continue };
            let Some(image) = names.into_iter().find(|name| name.starts_with("linux-image-")) else {
                continue;
            };
            return self.add_kernel(&image);
        }
        bail!("this distribution offers no kernel package that this program knows")
    }

    /// Adds the kernel of the package `image`, with its modules, which may be in a package of their own.
    pub(super) fn add_kernel(&mut self, image: &str) -> Result<()> {
        let modules = dependencies(image)?;
        let modules = modules.iter().filter(|name| name.starts_with("linux-modules-"));
        self.add(&std::iter::once(image).chain(modules.map(String::as_str)).collect::<Vec<_>>())
    }

    fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let entries = std::fs::read_dir(&self.packages)
            .with_context(|| format!("cannot read {}", self.packages.display()))?;
        Ok(entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect())
    }
}

/// The names of the packages that `package` depends on; of alternatives, the first.
fn dependencies(package: &str) -> Result<Vec<String>> {
    Ok(names(&field(package, "Depends")?))
}

/// `a (>= 1), b | c, d:any` names a, b and d.
fn names(depends: &str) -> Vec<String> {
    depends
        .split(',')
        .filter_map(|item| item.split(['|', '(', ':']).next().map(|name| name.trim().to_owned()))
        .filter(|name| !name.is_empty())
        .collect()
}

/// A field of the package's candidate; empty if the package does not have it.
fn field(package: &str, name: &str) -> Result<String> {
    let shown = read(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    ensure!(!shown.trim().is_empty(), "there is no package {package}");
    let prefix = format!("{name}: ");
    Ok(shown.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().trim().to_owned())
}

/// Installs a package, as root or through sudo.
///
/// # Errors
///
/// If there is no apt, no right to install, or the installation fails.
pub(super) fn install(package: &str) -> Result<()> {
    require_apt().with_context(|| format!("{package} must be installed by hand"))?;
    if field(package, "Version").is_err() {
        update_lists()?;
    }
    let arguments = ["-q", "-y", "--no-install-recommends", "install", package];
    eprintln!("setup: installing the package {package}");
    privileged(&arguments)
}

fn update_lists() -> Result<()> {
    eprintln!("setup: the package lists are missing; bringing them");
    privileged(&["-q", "update"])
}

/// Runs apt-get with the rights it needs.
fn privileged(arguments: &[&str]) -> Result<()> {
    let user = read(Command::new("id").arg("-u"))?;
    let mut command = if user.trim() == "0" {
        Command::new("apt-get")
    } else if paths::program("sudo").is_some() {
        eprintln!("setup: this needs root, so through sudo: apt-get {}", arguments.join(" "));
        let mut command = Command::new("sudo");
        command.arg("apt-get");
        command
    } else {
        bail!("this needs root and there is no sudo; run as root: apt-get {}", arguments.join(" "));
    };
    call(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn require_apt() -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        ensure!(
            paths::program(program).is_some(),
            "there is no {program}: only Debian, Ubuntu and their like are supported"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_numbers_and_not_text() {
        assert_eq!(release("xen-hypervisor-4.17-amd64"), Some((4, 17)));
        assert!(release("xen-hypervisor-4.9-amd64") < release("xen-hypervisor-4.17-amd64"));
        for other in ["xen-hypervisor-common", "xen-hypervisor-4.17-amd64-dbg", "xen-hypervisor-4.x-amd64"] {
            assert_eq!(release(other), None, "{other}");
        }
    }

    #[test]
    fn dependency_fields_become_names() {
        assert_eq!(names("libc6 (>= 2.34), libyajl2, python3:any | perl"), ["libc6", "libyajl2", "python3"]);
        assert!(names("").is_empty());
    }
}
