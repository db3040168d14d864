//! `cargo xtask run`: guests on real Xen, or one on bare QEMU, seen live.

mod args;
mod listen;
mod qemu;
mod summary;
mod xen;

pub(crate) use args::Args;

use crate::view::record::Recorder;
use crate::view::{self, live::View};
use crate::{build, interrupt, paths};
use anyhow::{Context, Result, ensure};
use args::Platform;
use std::path::Path;
use std::time::{Duration, Instant};
use summary::{End, Summary};

/// How long a guest may take to be ready.
const READY_BOUND: Duration = Duration::from_secs(120);

/// What a platform found.
struct Found {
    recorder: Recorder,
    /// What became of each guest.
    ends: Vec<End>,
}

/// Runs the command.
///
/// # Errors
///
/// If anything fails, a guest included.
pub(crate) fn run(args: &Args) -> Result<()> {
    let plan = args.plan()?;
    let image = match &args.image {
        Some(image) => image.clone(),
        None => build::build(build::Image::Ebb)?.image,
    };
    let out = args.out.clone().unwrap_or_else(|| paths::workspace().join("out/run"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut summary = Summary::new(&plan, &image)?;
    interrupt::install()?;
    let begun = Instant::now();
    let mut view = View::new();
    let result = match plan.on {
        Platform::Xen => xen::run(&plan, &image, &out, &mut view, &mut summary),
        Platform::Qemu => qemu::run(&plan, &image, &out, &mut view, &mut summary),
    };
    summary.total_ms = millis(begun.elapsed());
    match result {
        Ok(found) => {
            view.finish(&found.recorder);
            keep(&found, &out, &mut summary)?;
        }
        Err(error) => summary.failed(&error),
    }
    let json = serde_json::to_vec_pretty(&summary)?;
    for path in [Some(out.join("summary.json")), args.json.clone()].into_iter().flatten() {
        std::fs::write(&path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    eprintln!("{}", summary.told(&out));
    ensure!(summary.ok, "{}; the logs are in {}", summary.outcome, out.display());
    Ok(())
}

/// Writes the table and the chart, and the figures into the summary.
fn keep(found: &Found, out: &Path, summary: &mut Summary) -> Result<()> {
    let timeline = found.recorder.timeline();
    for (name, text) in [("samples.csv", view::csv::write(&timeline)), ("chart.svg", view::draw(&timeline))] {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    summary.add(&timeline, &found.ends);
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
