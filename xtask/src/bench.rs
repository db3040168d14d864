//! `cargo xtask bench`: figures beside those of a peer, for people and for programs.
//!
//! Nothing is judged but by the targets that are stated with the figures; a target that is missed is shown, and is no
//! error.

mod balloon;
mod core;
mod density;
mod figure;
mod guest;
mod subject;
mod swap;

use crate::setup::Hypervisor;
use crate::{build, paths};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Suite {
    /// The core: page frames, the heap, per-CPU reference counts; threads and grace periods in a guest.
    Core,
    /// The balloon, beside Linux's on the same Xen.
    Balloon,
    /// How many guests fit into one host, beside guests with fixed memory.
    Density,
    /// Memory that does not suffice: the tiers that evicted pages go to, and work in a guest beside Linux with zram.
    Swap,
}

/// The options of `bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    suite: Suite,
    /// How often the balloon and swap are measured, each time in new guests; the medians are shown [default: 3 for the
    /// balloon, 2 for swap].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,
    /// How much memory the balloon moves.
    #[arg(long, value_name = "MiB", value_delimiter = ',', default_values_t = [128, 512])]
    mib: Vec<u32>,
    #[command(flatten)]
    density: density::Options,
    #[command(flatten)]
    hypervisor: Hypervisor,
    /// Write the records to this file, as a list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the logs of guests go [default: out/bench in the workspace].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The fields of a record, in the order in which they are documented.
const FIELDS: [&str; 11] =
    ["bench", "case", "metric", "unit", "ours", "peer", "peer_name", "ratio", "target", "met", "note"];

/// Runs the command.
///
/// # Errors
///
/// If something cannot be measured at all.
pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| paths::workspace().join("out/bench"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    args.hypervisor.choose();
    let records = match args.suite {
        Suite::Core => {
            let mut records = core::run()?;
            records.extend(guest::run(&out)?);
            records
        }
        Suite::Balloon => balloon::run(args.rounds.unwrap_or(balloon::ROUNDS), &args.mib, &out)?,
        Suite::Density => density::run(&args.density, &out)?,
        Suite::Swap => swap::run(args.rounds.unwrap_or(swap::ROUNDS), &out)?,
    };
    println!("{}", table(&records));
    println!(
        "Times were taken on this machine, whatever else it does: they are comparisons. `ratio` is how many times \
         better than the peer."
    );
    let judged = |met: bool| records.iter().filter(|record| record["met"] == met).count();
    println!("{} figures, {} targets met, {} missed", records.len(), judged(true), judged(false));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&records)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Builds programs of the test package, optimised, and answers their paths in the same order.
pub(crate) fn build_programs(names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace()).args(["build", "--release", "--package", "ebb-tests"]);
    for name in names {
        command.args(["--bin", name]);
    }
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "{} do not build: {}", names.join(", "), output.status);
    let path = |name: &&str| {
        build::executable(&output.stdout, name).with_context(|| format!("cargo does not say where {name} is"))
    };
    names.iter().map(path).collect()
}

/// The records in a program's output.
fn parse(output: &[u8]) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    for line in output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let shown = || String::from_utf8_lossy(line).into_owned();
        let record: Value = serde_json::from_slice(line).with_context(shown)?;
        if let Some(missing) = FIELDS.iter().find(|field| record.get(field).is_none()) {
            bail!("no {missing} in {}", shown());
        }
        records.push(record);
    }
    ensure!(!records.is_empty(), "no records");
    Ok(records)
}

fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// The records as a table.
fn table(records: &[Value]) -> String {
    let cell = |record: &Value, field: &str| match &record[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(met) => if *met { "met" } else { "MISSED" }.to_owned(),
        other => other.to_string(),
    };
    let columns = ["bench", "case", "metric", "unit", "ours", "peer", "ratio", "target", "met", "peer_name"];
    let mut rows = vec![columns.map(str::to_owned)];
    rows.extend(records.iter().map(|record| columns.map(|column| cell(record, column))));
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
            // Numbers to the right.
            if (4..8).contains(&at) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"bench":"b","case":"c","metric":"m","unit":"ns","ours":2.5,"peer":null,
        "peer_name":null,"ratio":null,"target":4.0,"met":false,"note":"n"}"#;

    fn record() -> String {
        RECORD.replace('\n', "")
    }

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_suite_must_be_named_and_at_least_one_round_be_run() {
        let parse = |words: &[&str]| {
            let words = std::iter::once("bench").chain(words.iter().copied());
            <Cli as clap::Parser>::try_parse_from(words).map(|cli| cli.args)
        };
        assert_eq!(parse(&["balloon", "--rounds", "5"]).unwrap().rounds, Some(5));
        assert_eq!(parse(&["swap"]).unwrap().rounds, None);
        assert_eq!(parse(&["core"]).unwrap().suite, Suite::Core);
        assert_eq!(parse(&["swap"]).unwrap().suite, Suite::Swap);
        assert_eq!(parse(&["balloon"]).unwrap().mib, [128, 512]);
        assert_eq!(parse(&["balloon", "--mib", "4,8"]).unwrap().mib, [4, 8]);
        assert_eq!(parse(&["density", "--density-host", "384"]).unwrap().suite, Suite::Density);
        for words in [&[][..], &["nothing"], &["balloon", "--rounds", "0"], &["balloon", "--rounds", "x"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        assert_eq!(parse(format!("{}\n{}\n", record(), record()).as_bytes()).unwrap().len(), 2);
        let error = parse(record().replace("\"met\"", "\"meet\"").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("no met"), "{error}");
        assert!(parse(b"done\n").is_err());
        assert!(parse(b"").is_err(), "a program that measures nothing");
    }

    #[test]
    fn a_table_shows_what_is_missing_and_what_is_missed() {
        let table = table(&parse(record().as_bytes()).unwrap());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["b", "c", "m", "ns", "2.5", "-", "-", "4.0", "MISSED", "-"]
        );
        assert_eq!(lines[0].find("ours").map(|at| at + 4), lines[1].find("2.5").map(|at| at + 3));
    }
}
