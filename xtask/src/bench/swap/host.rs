//! The tiers behind frontswap, on the host: what a store and a load cost beside a copy of a page, and how densely the
//! compressed pool stores.
//!
//! `bench_swap` takes times and densities; its loops are counted in instructions where `valgrind` is there.

use super::parse;
use crate::bench::core::per_pair;
use crate::bench::{build_programs, round};
use crate::paths;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = "bench_swap";

/// Operations of the two runs whose difference counts.
const COUNTS: [u64; 2] = [1000, 2000];

/// A loop, what it is beside, and the ratio that it should have at least.
struct Counted {
    case: &'static str,
    metric: &'static str,
    ours: &'static str,
    peer: &'static str,
    target: Option<f64>,
}

const fn counted(
    case: &'static str,
    metric: &'static str,
    ours: &'static str,
    peer: &'static str,
    target: Option<f64>,
) -> Counted {
    Counted { case, metric, ours, peer, target }
}

/// At most twice the peer is at least half as good.
const COUNTED: [Counted; 12] = [
    counted("same-filled", "store", "same store", "read", Some(0.5)),
    // Zeros are written by a string instruction, of which every step counts here.
    counted("same-filled", "load, zeros", "same load", "read", None),
    counted("same-filled", "load, a word", "same load pattern", "read", Some(0.5)),
    counted("same-filled", "refuse", "same refuse", "read", None),
    counted("pool, zero-heavy", "store", "store zero-heavy", "copy", None),
    counted("pool, zero-heavy", "load", "load zero-heavy", "copy", None),
    counted("pool, text-like", "store", "store text-like", "copy", None),
    counted("pool, text-like", "load", "load text-like", "copy", None),
    counted("pool, key-value", "store", "store key-value", "copy", None),
    counted("pool, key-value", "load", "load key-value", "copy", None),
    counted(
        "pool, key-value",
        "load, checksum on beside off",
        "load key-value",
        "load-unchecked key-value",
        None,
    ),
    counted("pool, key-value", "free + store, at 6 % overhead", "replace key-value", "copy", None),
];

/// Measures.
///
/// # Errors
///
/// If the program does not build, fails, or prints something that is no record.
pub(super) fn run() -> Result<Vec<Value>> {
    let programs = build_programs(&[PROGRAM])?;
    let program = programs.first().context("nothing was built")?;
    let output = Command::new(program).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(output.status.success(), "{PROGRAM} failed: {}", output.status);
    let mut records = parse(&output.stdout).with_context(|| format!("what {PROGRAM} printed"))?;
    let valgrind = paths::program("valgrind");
    for counted in &COUNTED {
        records.push(instructions(valgrind.as_deref(), program, counted)?);
    }
    Ok(records)
}

/// The instructions of one operation, ours and the peer's; null, and why, if there is nothing to count them with.
fn instructions(valgrind: Option<&Path>, program: &Path, counted: &Counted) -> Result<Value> {
    let (ours, peer, note) = match valgrind {
        Some(valgrind) => (
            Some(per_pair(valgrind, program, &[counted.ours], COUNTS)?),
            Some(per_pair(valgrind, program, &[counted.peer], COUNTS)?),
            "callgrind; as the host's processor is used, with its vectors",
        ),
        None => (None, None, "valgrind is not installed"),
    };
    let ratio = ours.zip(peer).map(|(ours, peer)| round(peer / ours));
    let met = ratio.zip(counted.target).map(|(ratio, target)| ratio >= target);
    Ok(json!({
        "bench": "swap", "case": counted.case, "metric": counted.metric, "unit": "instructions",
        "ours": ours.map(round), "peer": peer.map(round), "peer_name": counted.peer, "ratio": ratio,
        "target": counted.target, "met": met, "note": note,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_counter_the_figures_are_null() {
        for counted in &COUNTED {
            let record = instructions(None, Path::new("none"), counted).unwrap();
            assert!(record["ours"].is_null() && record["ratio"].is_null() && record["met"].is_null());
            assert!(parse(record.to_string().as_bytes()).is_ok(), "a record like the others");
        }
    }
}
