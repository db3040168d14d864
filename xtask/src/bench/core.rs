//! The core: page frames, the heap and per-CPU reference counts on the host.
//!
//! The programs in `tests/src/bin` measure and print one record a line; this runs them, and adds instruction counts
//! where `valgrind` is there to take them.

use super::{build_programs, parse, round};
use crate::paths;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// The programs of the core.
const CORE: [&str; 3] = ["bench_frames", "bench_heap", "bench_percpu"];

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

/// Measures.
///
/// # Errors
///
/// If a program does not build, fails, or prints something that is no record.
pub(super) fn run() -> Result<Vec<Value>> {
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
    Ok(records)
}

/// The instructions of one pair, ours and the peer's; null, and why, if there is nothing to count them with.
fn instructions(valgrind: Option<&Path>, program: &Path, counted: &Counted) -> Result<Value> {
    let (ours, peer, note) = match valgrind {
        Some(valgrind) => {
            let ours = per_pair(valgrind, program, counted.ours, PAIRS)?;
            (
                Some(ours),
                Some(per_pair(valgrind, program, counted.peer, PAIRS)?),
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

/// The instructions of one pair: the difference between two runs, over the difference in pairs.
pub(super) fn per_pair(valgrind: &Path, program: &Path, who: &[&str], counts: [u64; 2]) -> Result<f64> {
    let mut totals = [0; 2];
    for (total, pairs) in totals.iter_mut().zip(counts) {
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
    Ok((totals[1] as f64 - totals[0] as f64) / (counts[1] - counts[0]) as f64)
}

/// All instructions, from callgrind's file.
fn collected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

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
