//! `cargo xtask run`: guests on real Xen, or one on bare QEMU, seen live.

mod args;
mod listen;
mod qemu;
mod summary;
mod xen;

pub(crate) use args::Args;
pub(crate) use summary::{GuestSummary, Summary};

use crate::view::record::Recorder;
use crate::view::{self, live::View};
use crate::{build, interrupt, paths};
use anyhow::{Context, Result, ensure};
use args::{Plan, Platform};
use std::path::Path;
use std::time::{Duration, Instant};
use summary::End;

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
    args.hypervisor.choose();
    let image = match &args.image {
        Some(image) => image.clone(),
        None => build::build(build::Image::Ebb)?.image,
    };
    let out = args.out.clone().unwrap_or_else(|| paths::workspace().join("out/run"));
    interrupt::install()?;
    let summary = carry_out(&plan, &image, &out, &mut View::new())?;
    if let Some(path) = &args.json {
        write_summary(&summary, path)?;
    }
    eprintln!("{}", summary.told(&out));
    ensure!(summary.ok, "{}; the logs are in {}", summary.outcome, out.display());
    Ok(())
}

/// What the command does with these words, for other commands: nothing is shown, and guests that fail are no error.
///
/// # Errors
///
/// If the words make no sense, or nothing can be kept in `out`.
pub(crate) fn quietly(words: &[&str], image: &Path, out: &Path) -> Result<Summary> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let words = std::iter::once("run").chain(words.iter().copied());
    let plan = <Line as clap::Parser>::try_parse_from(words)?.args.plan()?;
    carry_out(&plan, image, out, &mut View::Nothing)
}

/// Does what is planned, and leaves everything in `out`.
fn carry_out(plan: &Plan, image: &Path, out: &Path, view: &mut View) -> Result<Summary> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut summary = Summary::new(plan, image)?;
    let begun = Instant::now();
    let result = match plan.on {
        Platform::Xen => xen::run(plan, image, out, view, &mut summary),
        Platform::Qemu => qemu::run(plan, image, out, view, &mut summary),
    };
    summary.total_ms = millis(begun.elapsed());
    match result {
        Ok(found) => {
            view.finish(&found.recorder);
            keep(&found, out, &mut summary)?;
        }
        Err(error) => summary.failed(&error),
    }
    write_summary(&summary, &out.join("summary.json"))?;
    Ok(summary)
}

fn write_summary(summary: &Summary, path: &Path) -> Result<()> {
    let json = serde_json::to_vec_pretty(summary)?;
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
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
