//! `cargo xtask image`: the image and a configuration for a real Xen host.

use crate::{build, paths};
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::path::PathBuf;

/// The options of `image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An image of your own, as Cargo has linked it, instead of building Ebb with its workloads. Gets the names of its
    /// functions, for backtraces. See docs/applications.md.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Where the files go [default: out/image in the workspace].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The configuration's text; `KERNEL` stands for the image's path, and `NAME` for its file's name.
const CONFIG: &str = r#"# Ebb on a real Xen host: edit, then `xl create NAME.cfg -c`.

name = "NAME"
type = "pvh"
kernel = "KERNEL"

# Options of the kernel. Selfballooning is on by itself; "tmem.selfballooning=0" makes the guest follow
# `xl mem-set` exactly instead of only taking it as a ceiling.
cmdline = ""

# Memory at the start and the most it may ever have, in MiB. With memory == maxmem the guest gets all of it at
# the start and gives back what it does not need. With memory < maxmem it starts on `memory` alone, populated on
# demand, and can grow once `xl mem-set` allows it, up to `maxmem`. While it runs, `xl mem-set NAME N` sets its
# ceiling anywhere up to maxmem, and `xl list` shows what it really holds.
memory = 256
maxmem = 256

vcpus = 1

# Keep a crashed guest, with its memory, for `xl console`, `xl dump-core` and xenctx; remove it with
# `xl destroy NAME`.
on_crash = "preserve"

# The console is the PV console: `xl console NAME`. The very first words of a boot, before the console is up,
# go to the hypervisor's log (`xl dmesg`), which has them if Xen was booted with guest_loglvl=all.
"#;

/// Runs the command.
///
/// # Errors
///
/// If the image does not build or the files cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let image = match &args.from {
        Some(linked) => build::finished(linked.clone())?.image,
        None => build::build(build::Image::Ebb)?.image,
    };
    let name = image.file_stem().and_then(OsStr::to_str).context("the image's name is no UTF-8")?;
    let out = args.out.clone().unwrap_or_else(|| paths::workspace().join("out/image"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let out = out.canonicalize().with_context(|| format!("cannot find {}", out.display()))?;
    let (kernel, config) = (out.join(name), out.join(format!("{name}.cfg")));
    let size =
        std::fs::copy(&image, &kernel).with_context(|| format!("cannot write {}", kernel.display()))?;
    let quoted = crate::xen::xl::quoted(&kernel.to_string_lossy())?;
    let text = CONFIG.replace("\"NAME\"", &crate::xen::xl::quoted(name)?);
    let text = text.replace("NAME", name).replace("\"KERNEL\"", &quoted);
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    println!("{} ({} KiB)\n{}", kernel.display(), size.div_ceil(1024), config.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_assignment_per_line() {
        for line in CONFIG.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            assert_eq!(line.matches(" = ").count(), 1, "{line}");
        }
        assert_eq!(CONFIG.matches("\"KERNEL\"").count(), 1);
    }
}
