//! The modules that a Linux guest loads, kept beside the kit: the packages that they come from are not.

use super::Kit;
use super::kernel::{self, Modules, Tools};
use super::packages::Store;
use crate::linux;
use crate::xen::initramfs;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Where they lie in the kit's directory, with a file that lists them.
const PLACE: &str = "guest-modules";
const ORDER: &str = "order";

/// The modules for a guest with the kit's kernel, in the order in which they are loaded. A kit that was made before there
/// were any has the kernel's package brought once more.
///
/// # Errors
///
/// If the distribution does not offer that kernel any more, or they cannot be kept.
pub(crate) fn guest_modules(kit: &Kit) -> Result<Modules> {
    let home = kit.home();
    let place = home.join(PLACE);
    if !place.is_dir() {
        fetch(kit, home).with_context(|| {
            format!(
                "the modules of Linux {} for guests are missing; `cargo xtask setup --refresh` makes the kit anew",
                kit.linux_version
            )
        })?;
    }
    load(&place)
}

fn fetch(kit: &Kit, home: &Path) -> Result<()> {
    let work = home.join("guest-modules.packages");
    let root = work.join("root");
    let mut store = Store::new(&work.join("packages"), &root)?;
    store.add_kernel(&format!("linux-image-{}", kit.linux_version))?;
    let tools = Tools { busybox: initramfs::find_busybox(&kit.root())? };
    keep(home, &kernel::modules(&tools, &root, &kit.linux_version, linux::MODULES)?)?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}

/// Keeps them in the kit's directory. They appear there only when all are written.
pub(super) fn keep(home: &Path, modules: &Modules) -> Result<()> {
    let fresh = home.join("guest-modules.new");
    let write = || {
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        fs::create_dir_all(&fresh)?;
        for (name, content) in modules {
            fs::write(fresh.join(name), content)?;
        }
        let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        fs::write(fresh.join(ORDER), names.join("\n"))?;
        fs::rename(&fresh, home.join(PLACE))
    };
    write().with_context(|| format!("cannot keep the modules in {}", home.display()))
}

fn load(place: &Path) -> Result<Modules> {
    let names = fs::read_to_string(place.join(ORDER)).context("the list of the modules")?;
    let read = |name: &str| {
        let content = fs::read(place.join(name)).with_context(|| format!("the module {name}"))?;
        Ok((name.to_owned(), content))
    };
    names.lines().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_back_in_their_order() {
        let home = std::env::temp_dir().join(format!("ebb-modules-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let modules = vec![("zsmalloc".to_owned(), vec![1, 2]), ("a".to_owned(), vec![])];
        keep(&home, &modules).unwrap();
        assert_eq!(load(&home.join(PLACE)).unwrap(), modules);
        fs::remove_file(home.join(PLACE).join("a")).unwrap();
        assert!(load(&home.join(PLACE)).is_err(), "one is missing");
        fs::remove_dir_all(&home).unwrap();
    }
}
