//! `cargo xtask test`: the whole ladder, from the host to real Xen.

mod elastic;
mod fast_path;
mod guest;
mod host;

mod outcome;
mod qemu;
mod several;
mod swap;
mod system;
mod xen;

use crate::paths;
use crate::setup::Hypervisor;
use anyhow::{Context, Result, ensure};
use host::Suite;
use outcome::{Results, Rung};
use std::path::PathBuf;
use std::time::Duration;

/// What needs no hypervisor at all.
const HOST: Suite<'_> = Suite {
    packages: &["ebb", "xen-abi", "percpu", "ebb-policy", "ebb-workload", "xtask", "ebb-dom0"],
    arguments: &[],
    cfg: None,
    bound: Duration::from_secs(300),
    doctests: true,
    shown: None,
};
/// What runs on the model hypervisor.
const MODEL: Suite<'_> = Suite { packages: &["ebb-tests"], ..HOST };
/// What the model checker explores. It is slow: everything optimised, and a larger bound.
const LOOM: Suite<'_> = Suite {
    packages: &["percpu", "ebb"],
    arguments: &["--release", "--test", "loom"],
    cfg: Some("loom"),
    bound: Duration::from_secs(600),
    doctests: false,
    shown: Some("loom: "),
};

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only these rungs; may be given several times. All by default, lowest first.
    #[arg(long, value_enum, value_name = "RUNG")]
    only: Vec<Rung>,
    /// Run only cases whose id contains this.
    filter: Option<String>,
    /// Have the soak in guests run for this many seconds, instead of a few.
    #[arg(long, value_name = "N")]
    soak_s: Option<u32>,
    /// More of the command line of every guest on Xen; it comes last, and so counts.
    #[arg(long, value_name = "STR", default_value = "")]
    cmdline: String,
    #[command(flatten)]
    hypervisor: Hypervisor,
    /// Write all results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the logs of guests go.
    #[arg(long, value_name = "DIR", default_value = "out/test")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// If a case failed, or something could not be run at all.
pub(crate) fn run(args: &Args) -> Result<()> {
    let out = paths::workspace().join(&args.out);
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    args.hypervisor.choose();
    let filter = args.filter.as_deref();
    let mut results = Results::default();
    for rung in Rung::ALL {
        if !args.only.is_empty() && !args.only.contains(&rung) {
            continue;
        }
        let ran = match rung {
            Rung::Host => {
                fast_path::on_the_host(filter, &mut results);
                host::run(rung, &HOST, filter, &mut results)
            }
            Rung::Model => host::run(rung, &MODEL, filter, &mut results),
            Rung::Loom => host::run(rung, &LOOM, filter, &mut results),
            Rung::Qemu => qemu::run(filter, args.soak_s, &out, &mut results),
            Rung::Xen => xen::run(filter, args.soak_s, &args.cmdline, &out, &mut results),
        };
        // A rung that cannot be run is a failure of its own, and the others still have something to say.
        if let Err(error) = ran {
            results.broke(rung, &error);
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&results.to_json())? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let (on_model, on_xen) = results.conformance();
    if on_model > 0 && on_xen > 0 {
        println!("conformance: {on_model} cases on the model, {on_xen} on Xen");
    }
    let totals = results.totals(None);
    println!("{totals}");
    if results.repeated() > 0 {
        println!("{} asked again, because the emulator broke a guest: docs/testing.md", results.repeated());
    }
    ensure!(totals.failed == 0, "{} cases failed; the guests' logs are in {}", totals.failed, out.display());
    ensure!(totals.passed > 0, "no case was run");
    Ok(())
}
