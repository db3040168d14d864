//! `cargo xtask plot`: a run's chart, drawn again from its table.

use crate::view;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// The options of `plot`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a run: it has `samples.csv`, and gets `chart.svg`.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// If there is no table, it cannot be read, or the chart cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let table = args.directory.join("samples.csv");
    let text = std::fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let timeline = view::csv::read(&text).with_context(|| table.display().to_string())?;
    let chart = args.directory.join("chart.svg");
    std::fs::write(&chart, view::draw(&timeline))
        .with_context(|| format!("cannot write {}", chart.display()))?;
    println!("{}", chart.display());
    Ok(())
}
