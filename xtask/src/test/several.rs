//! Several guests on a host that has less memory than their peaks come to: with memory that follows they all do their
//! work, and with fixed memory the same host does not hold them.
//!
//! Each question has a host of its own, booted as `cargo xtask run` does it.

use crate::run::{self, GuestSummary, Summary};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// A question: with which image, and where the logs go.
pub(super) type Ask = fn(&Path, &Path) -> Result<()>;

/// All questions.
pub(super) const CASES: &[(&str, Ask)] = &[
    ("several.guests_whose_peaks_do_not_fit_together_all_finish", elastic),
    ("several.fixed_memory_does_not_fit_the_same_host", fixed),
];

/// Three guests, each beginning a third of the course later. The host has 5/8 of what they may have altogether.
const WORDS: [&str; 8] = ["--guests", "3", "--memory", "32", "--maxmem", "128", "--seconds", "15"];

/// Runs the guests, and tells what had to be mended.
fn go(words: &[&str], image: &Path, out: &Path) -> Result<Summary> {
    let found = run::quietly(words, image, out)?;
    for note in &found.notes {
        println!("xen    {note}");
    }
    Ok(found)
}

fn elastic(image: &Path, out: &Path) -> Result<()> {
    let found = go(&WORDS, image, out)?;
    ensure!(found.ok, "{}", story(&found));
    for guest in &found.guests {
        ensure!(
            guest.workload_outcome.as_deref() == Some("done"),
            "{} is not done: {}",
            guest.name,
            story(&found)
        );
        ensure!(guest.measured.verify_errors == Some(0), "wrong values in {}: {}", guest.name, story(&found));
        ensure!(guest.measured.work_total > Some(0), "{} did nothing: {}", guest.name, story(&found));
    }
    let peaks = found.guests.iter().map(|guest| guest.measured.host_max_kib).sum::<Option<u64>>();
    let (peaks, host) = (peaks.context("a guest that Xen did not see")?, host_kib(&found)?);
    ensure!(peaks > host, "the peaks, {peaks} KiB, fit into {host} KiB together: nothing was shown");
    Ok(())
}

fn fixed(image: &Path, out: &Path) -> Result<()> {
    let words: Vec<&str> = WORDS.iter().copied().chain(["--static"]).collect();
    let found = go(&words, image, out)?;
    ensure!(!found.ok, "it fits: {}", story(&found));
    // The host came up, and it is the guests that found no room.
    let host = host_kib(&found)?;
    let without = |guest: &&GuestSummary| guest.outcome == "not started" || gave_up(guest);
    let without: Vec<&GuestSummary> = found.guests.iter().filter(without).collect();
    ensure!(!without.is_empty(), "no guest was without memory in {host} KiB: {}", story(&found));
    // Not for another reason: what runs beside them does well.
    let others = found.guests.iter().filter(|guest| guest.outcome != "not started" && !gave_up(guest));
    for guest in others {
        ensure!(guest.ok, "{} failed, and not for want of memory: {}", guest.name, story(&found));
    }
    let why = without.iter().filter(|guest| guest.outcome == "not started").map(|guest| guest.why.as_deref());
    for why in why {
        let why = why.unwrap_or_default();
        ensure!(why.contains("memory"), "it did not start for another reason: {why}");
    }
    Ok(())
}

/// Its workload ran, and found no memory.
fn gave_up(guest: &GuestSummary) -> bool {
    guest.workload_outcome.as_deref() == Some("out-of-memory")
}

fn host_kib(found: &Summary) -> Result<u64> {
    found.host_for_guests_kib.with_context(|| format!("the host did not run: {}", story(found)))
}

/// What became of the guests, for people.
fn story(found: &Summary) -> String {
    let guest = |guest: &GuestSummary| {
        let why = guest.why.as_deref().unwrap_or_default();
        format!(
            "\n{}: {}, {:?}, {:?} {why}",
            guest.name, guest.outcome, guest.workload_outcome, guest.measured
        )
    };
    let guests: String = found.guests.iter().map(guest).collect();
    format!("{}{guests}\n{}", found.outcome, found.notes.join("\n"))
}
