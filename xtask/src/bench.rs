//! `cargo xtask bench`: figures beside those of a peer, for people and for programs.
//!
//! The programs in `tests/src/bin` measure on the host and print one record a line; this runs them, adds instruction
//! counts where `valgrind` is there to take them, and prints them all. Nothing is judged but by the targets that the
//! programs state; a target that is missed is shown, and is no error.

use crate::{build, paths};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Suite {
    /// The core: page frames, the heap, per-CPU reference counts.
    Core,
}

/// The options of `bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    suite: Suite,
    /// Write the records to this file, as a list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The programs of the core.
const CORE: [&str; 3] = ["bench_frames", "bench_heap", "bench_percpu"];

/// The fields of a record, in the order in which they are documented.
const FIELDS: [&str; 11] =
    ["bench", "case", "metric", "unit", "ours", "peer", "peer_name", "ratio", "target", "met", "note"];

/// A loop whose instructions are counted: the program's arguments before the number of pairs, for us and for the peer.
struct Counted {
    bench: &'static str,
    program: &'static str,
    case: &'static str,
    metric: &'static str,
    ours: &'static [&'static str],
    peer: &'static [&'static str],
    peer_name: &'static str,
}

/// Sizes of memory do not matter for instruction counts of ours, and for the peer's by their logarithm.
const COUNTED: [Counted; 5] = [
    Counted {
        bench: "frames",
        program: "bench_frames",
        case: "order 0, repeat, 1024 MiB",
        metric: "alloc + free",
        ours: &["ours", "order 0, repeat", "1024"],
        peer: &["peer", "order 0, repeat", "1024"],
        peer_name: "buddy_system_allocator 0.13.0 under a ticket lock",
    },
    Counted {
        bench: "frames",
        program: "bench_frames",
        case: "order 9, repeat, 1024 MiB",
        metric: "alloc + free",
        ours: &["ours", "order 9, repeat", "1024"],
        peer: &["peer", "order 9, repeat", "1024"],
        peer_name: "buddy_system_allocator 0.13.0 under a ticket lock",
    },
    Counted {
        bench: "percpu",
        program: "bench_percpu",
        case: "PercpuRef",
        metric: "get + put",
        ours: &["ours"],
        peer: &["unlocked"],
        peer_name: "unlocked per-CPU increment with mode test",
    },
    Counted {
        bench: "percpu",
        program: "bench_percpu",
        case: "PercpuRef",
        metric: "get + put",
        ours: &["ours"],
        peer: &["atomic"],
        peer_name: "bare atomic add and subtract",
    },
    Counted {
        bench: "percpu",
        program: "bench_percpu",
        case: "PercpuRef",
        metric: "get + put",
        ours: &["ours"],
        peer: &["arc"],
        peer_name: "Arc clone and drop",
    },
];
/// Pairs of the two runs whose difference counts.
const PAIRS: [u64; 2] = [10_000, 20_000];

/// Runs the command.
///
/// # Errors
///
/// If a program does not build, fails, or prints something that is no record.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Suite::Core = args.suite;
    let programs = build_programs(&CORE)?;
    let mut records = Vec::new();
    for (name, program) in CORE.iter().zip(&programs) {
        let output = Command::new(program).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        ensure!(output.status.success(), "{name} failed: {}", output.status);
        records.extend(parse(&output.stdout).with_context(|| format!("what {name} printed"))?);
    }
    let valgrind = paths::program("valgrind");
    for counted in &COUNTED {
        let program = CORE.iter().zip(&programs).find(|(name, _)| **name == counted.program);
        let (_, program) = program.with_context(|| format!("{} is not built", counted.program))?;
        records.push(instructions(valgrind.as_deref(), program, counted)?);
    }
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

/// The instructions of one pair, ours and the peer's; null, and why, if there is nothing to count them with.
fn instructions(valgrind: Option<&Path>, program: &Path, counted: &Counted) -> Result<Value> {
    let (ours, peer, note) = match valgrind {
        Some(valgrind) => {
            let ours = per_pair(valgrind, program, counted.ours)?;
            (
                Some(ours),
                Some(per_pair(valgrind, program, counted.peer)?),
                "callgrind; with the loop around it",
            )
        }
        None => (None, None, "valgrind is not installed"),
    };
    let ratio = ours.zip(peer).map(|(ours, peer)| round(peer / ours));
    Ok(json!({
        "bench": counted.bench, "case": counted.case, "metric": counted.metric, "unit": "instructions",
        "ours": ours.map(round), "peer": peer.map(round), "peer_name": counted.peer_name, "ratio": ratio,
        "target": null, "met": null, "note": note,
    }))
}

fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// The instructions of one pair: the difference between two runs, over the difference in pairs.
fn per_pair(valgrind: &Path, program: &Path, who: &[&str]) -> Result<f64> {
    let mut totals = [0; 2];
    for (total, pairs) in totals.iter_mut().zip(PAIRS) {
        let file = program.with_extension("callgrind");
        let output = Command::new(valgrind)
            .args(["--quiet", "--tool=callgrind"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(program)
            .arg("--loop")
            .args(who)
            .arg(pairs.to_string())
            .output()
            .context("cannot start valgrind")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} under valgrind: {}\n{said}", program.display(), output.status);
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        *total = collected(&text).with_context(|| format!("no total in {}", file.display()))?;
    }
    Ok((totals[1] as f64 - totals[0] as f64) / (PAIRS[1] - PAIRS[0]) as f64)
}

/// All instructions, from callgrind's file.
fn collected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse().ok())
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

    #[test]
    fn a_total_is_found_in_callgrinds_file() {
        assert_eq!(collected("events: Ir\nsummary: 717868\n\nfn=(1)\n"), Some(717_868));
        assert_eq!(collected("events: Ir\n"), None);
    }

    #[test]
    fn without_a_counter_the_figure_is_null() {
        let record = instructions(None, Path::new("none"), &COUNTED[0]).unwrap();
        assert!(record["ours"].is_null() && record["ratio"].is_null());
        assert_eq!(record["note"], "valgrind is not installed");
        assert!(parse(record.to_string().as_bytes()).is_ok(), "a record like the others");
    }
}
