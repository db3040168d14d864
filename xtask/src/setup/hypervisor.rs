//! A hypervisor of the user's own, in the place of the distribution's.
//!
//! Toolstack, dom0 and everything else stay the kit's. So it must be of the kit's release: `xl` refuses to speak to a
//! hypervisor whose control interface is another's.

use super::{Kit, kernel};
use crate::xen::initramfs;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The options.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Hypervisor {
    /// Boot this hypervisor instead of the distribution's, as `make -C xen` leaves it: xen, or xen.gz. It must be of the
    /// same release, because the toolstack is the distribution's.
    #[arg(long = "xen", value_name = "FILE")]
    file: Option<PathBuf>,
    /// More of Xen's own command line; it comes last, and so counts.
    #[arg(long = "xen-cmdline", value_name = "STR", default_value = "")]
    words: String,
}

/// What the user chose. One command boots one hypervisor.
static CHOSEN: OnceLock<Hypervisor> = OnceLock::new();

impl Hypervisor {
    /// Has every kit of this process boot it.
    ///
    /// # Panics
    ///
    /// If another was chosen before.
    pub(crate) fn choose(&self) {
        assert!(CHOSEN.set(self.clone()).is_ok(), "a second choice of hypervisor");
    }

    /// The kit with this hypervisor in it.
    pub(super) fn put_into(&self, kit: Kit, directory: &Path) -> Result<Kit> {
        let kit = Kit { xen_words: self.words.clone(), ..kit };
        let Some(file) = &self.file else { return Ok(kit) };
        let file = file.canonicalize().with_context(|| format!("no hypervisor {}", file.display()))?;
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let xen = if bytes.starts_with(kernel::GZIP) {
            let xen = directory.join("own-xen");
            kernel::gunzip(&kernel::Tools { busybox: initramfs::find_busybox(&kit.root())? }, &file, &xen)?;
            xen
        } else {
            ensure!(
                bytes.starts_with(b"\x7FELF"),
                "{} is no hypervisor: neither ELF nor gzip",
                file.display()
            );
            file.clone()
        };
        Ok(Kit { xen, xen_version: format!("{} ({})", kit.xen_version, file.display()), ..kit })
    }
}

/// The kit with the hypervisor that was chosen, if one was.
pub(super) fn put_chosen(kit: Kit, directory: &Path) -> Result<Kit> {
    match CHOSEN.get() {
        Some(chosen) => chosen.put_into(kit, directory),
        None => Ok(kit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit() -> Kit {
        Kit {
            format: 1,
            xen_version: "4.17".into(),
            linux_version: "6.1".into(),
            xen: "/kit/4.17/xen".into(),
            linux: "/kit/4.17/linux".into(),
            initramfs: "/kit/4.17/dom0.cpio".into(),
            xen_words: String::new(),
        }
    }

    #[test]
    fn a_hypervisor_takes_the_place_of_the_kits_and_nothing_else_does() {
        let home = std::env::temp_dir().join(format!("ebb-own-xen-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let (good, bad) = (home.join("xen"), home.join("text"));
        std::fs::write(&good, b"\x7FELF and more").unwrap();
        std::fs::write(&bad, b"text").unwrap();
        let own = |file: &Path| Hypervisor { file: Some(file.into()), words: "tmem=1".into() };
        let put = own(&good).put_into(kit(), &home);
        let refused = own(&bad).put_into(kit(), &home);
        let missing = own(&home.join("none")).put_into(kit(), &home);
        let real = good.canonicalize().unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        let put = put.unwrap();
        assert_eq!((put.xen, put.xen_words.as_str()), (real, "tmem=1"));
        assert_eq!((put.linux, put.initramfs), (kit().linux, kit().initramfs));
        assert!(put.xen_version.starts_with("4.17 ("), "{}", put.xen_version);
        assert!(refused.unwrap_err().to_string().contains("neither ELF nor gzip"));
        assert!(missing.unwrap_err().to_string().contains("no hypervisor"));
    }

    #[test]
    fn words_alone_keep_the_kits_hypervisor() {
        let words = Hypervisor { file: None, words: "sched=credit".into() };
        let put = words.put_into(kit(), Path::new("/nowhere")).unwrap();
        assert_eq!((put.xen, put.xen_version), (kit().xen, kit().xen_version));
        assert_eq!(put.xen_words, "sched=credit");
    }
}
