//! Density: how many guests whose loads rise and fall at different times fit into one host, and still do their work,
//! against guests of the same size that have all their memory from the start.
//!
//! The host is such that fixed memory just fits: as many guests as its memory divided by theirs. They run, and what they
//! do is the measure. Then other numbers of guests run, with memory that follows the load; the largest number at which all
//! end well, no value is wrong, and each does on average 95 % of the measure, is the density.
//!
//! The load is a trace: it holds little, rises to two thirds of what a guest may have, which with the allocator's and the
//! kernel's share is nearly all of it, stays there, and falls. Every guest begins it a part later than the one before. It
//! touches and checks pages at a rate that leaves the processor idle, so that memory decides; touches that come more than
//! a second late lapse, and pages that were refused are not there to be counted, so a guest that waits does less work.

use super::figure::{Better, Figure};
use crate::build::{self, Image};
use crate::run::{self, Summary};
use crate::xen::{DOM0_MIB, XEN_MIB};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;

/// What the work must come to, of what guests with fixed memory do.
const LEAST_WORK: f64 = 0.95;
/// Until the first load begins, in seconds for each guest: creating one takes the processors from the others.
const CREATE_S: u64 = 6;
/// Memory at the start, of those whose memory follows.
const START_MIB: u32 = 64;

/// What is measured.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Options {
    /// Density: memory of the host for guests.
    #[arg(long, value_name = "MiB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    density_host: u32,
    /// Density: what each guest may have at most.
    #[arg(long, value_name = "MiB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=16_384))]
    density_guest: u32,
    /// Density: seconds of one course of the load.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    density_seconds: u64,
    /// Density: try no more guests than this.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=16))]
    density_most: u32,
    /// Density: pages that each guest touches per second.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    density_rate: u64,
}

/// One run.
#[derive(Clone, Debug)]
struct Trial {
    guests: u32,
    /// All ended in peace, with all work done and no wrong value.
    well: bool,
    work: Option<u64>,
    /// How it ended, for people.
    story: String,
}

impl Trial {
    fn new(guests: u32, found: &Summary) -> Self {
        let done = |guest: &run::GuestSummary| guest.ok && guest.workload_outcome.as_deref() == Some("done");
        Self {
            guests,
            well: found.ok && found.guests.iter().all(done),
            work: found.measured.work_total,
            story: std::iter::once(found.outcome.clone())
                .chain(found.notes.iter().cloned())
                .chain(used(found))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    /// What a guest did, in the mean; `None` if not all ended well.
    fn work_each(&self) -> Option<f64> {
        self.work.filter(|_| self.well).map(|work| work as f64 / f64::from(self.guests))
    }
}

/// Measures.
///
/// # Errors
///
/// If the image does not build, or nothing can be run at all.
pub(super) fn run(options: &Options, out: &Path) -> Result<Vec<Value>> {
    let fixed_guests = options.density_host / options.density_guest;
    ensure!(fixed_guests > 0, "a guest is larger than the host");
    ensure!(
        fixed_guests < options.density_most,
        "{fixed_guests} guests of fixed memory fit, and no more shall be tried"
    );
    let image = build::build(Image::Ebb)?.image;
    let trace = out.join("density-trace");
    std::fs::write(&trace, options.trace()).with_context(|| format!("cannot write {}", trace.display()))?;
    let trial = |guests: u32, fixed: bool| -> Result<(Trial, &'static str)> {
        let kind = if fixed { "fixed" } else { "elastic" };
        eprintln!("bench: {guests} guests, {kind}");
        let words = options.words(guests, fixed, &trace);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let found = run::quietly(&words, &image, &out.join(format!("density-{kind}-{guests}")))?;
        let trial = Trial::new(guests, &found);
        eprintln!("bench: {}; work of each: {:?}", trial.story, trial.work_each());
        Ok((trial, found.accelerator))
    };
    let (fixed, accelerator) = trial(fixed_guests, true)?;
    let mut tried = Vec::new();
    if fixed.work_each().is_some() {
        let mut range = Range { did: fixed_guests - 1, failed: options.density_most + 1 };
        while let Some(guests) = range.next() {
            let (elastic, _) = trial(guests, false)?;
            range.learn(guests, enough(&fixed, &elastic));
            tried.push(elastic);
        }
    }
    Ok(options.figures(&fixed, &tried, accelerator).iter().map(Figure::record).collect())
}

/// What the host gave at most: where much was left, it was not memory that decided.
fn used(found: &Summary) -> Option<String> {
    let (most, host) = found.measured.host_max_kib.zip(found.host_for_guests_kib)?;
    Some(format!("at most {} of the host's {} MiB in use", most / 1024, host / 1024))
}

/// Numbers of guests, halved until the density is known: if a number of guests is too many, so are more.
#[derive(Clone, Copy, Debug)]
struct Range {
    /// So many did their work.
    did: u32,
    /// So many did not, or shall not be tried.
    failed: u32,
}

impl Range {
    /// What to try next; `None` when nothing lies between.
    fn next(self) -> Option<u32> {
        let between = self.failed.saturating_sub(self.did);
        (between > 1).then(|| self.did + between / 2)
    }

    fn learn(&mut self, guests: u32, did: bool) {
        *(if did { &mut self.did } else { &mut self.failed }) = guests;
    }
}

/// Whether the guests did what guests with fixed memory do, nearly.
fn enough(fixed: &Trial, elastic: &Trial) -> bool {
    let works = elastic.work_each().zip(fixed.work_each());
    works.is_some_and(|(elastic, fixed)| elastic >= LEAST_WORK * fixed)
}

impl Options {
    /// The load: its height is reached in steps, as an application fills its tables.
    fn trace(&self) -> String {
        /// When, in percent of the course, and how much, in percent of the height.
        const COURSE: [(u64, u32); 7] =
            [(0, 10), (25, 25), (28, 50), (31, 75), (34, 100), (65, 10), (100, 10)];
        let height_mib = self.density_guest / 3 * 2;
        let point = |&(at, part): &(u64, u32)| {
            let at_ms = self.density_seconds * 10 * at;
            let mib = (height_mib * part / 100).max(1);
            format!("{}.{:03} {mib} {}\n", at_ms / 1000, at_ms % 1000, self.density_rate)
        };
        COURSE.iter().map(point).collect()
    }

    /// The words for `run`.
    fn words(&self, guests: u32, fixed: bool, trace: &Path) -> Vec<String> {
        let Self { density_host, density_guest, density_seconds, .. } = self;
        // Beside the guests' own memory: dom0, Xen, and Xen's books on each guest.
        let host = DOM0_MIB + XEN_MIB / 4 + density_host + density_host / 32;
        let mut words = vec![
            format!("--guests={guests}"),
            format!("--host-memory={host}"),
            format!("--memory={}", START_MIB.min(*density_guest)),
            format!("--maxmem={density_guest}"),
            format!("--seconds={density_seconds}"),
            format!("--lead={}", u64::from(guests) * CREATE_S),
            "--sample-ms=1000".to_owned(),
            "--workload=trace".to_owned(),
            format!("--module={}", trace.display()),
        ];
        if fixed {
            words.push("--static".to_owned());
        }
        words
    }

    fn figures(&self, fixed: &Trial, tried: &[Trial], accelerator: &str) -> Vec<Figure> {
        let case = format!("{} MiB for guests of {} MiB", self.density_host, self.density_guest);
        let densest = tried.iter().filter(|trial| enough(fixed, trial)).max_by_key(|trial| trial.guests);
        let beyond = tried.iter().filter(|trial| !enough(fixed, trial)).min_by_key(|trial| trial.guests);
        let mut note = format!(
            "one round under {accelerator}, {} s of load with {} touches per second and guest, a part of the course \
             apart; fixed memory: {}",
            self.density_seconds, self.density_rate, fixed.story
        );
        let share = |trial: &Trial| Some(100.0 * trial.work_each()? / fixed.work_each()?);
        match beyond {
            Some(beyond) => {
                let share =
                    share(beyond).map(|share| format!(", {share:.1} % of the work")).unwrap_or_default();
                note += &format!("; {} guests did not do it: {}{share}", beyond.guests, beyond.story);
            }
            None if densest.is_some() => note += &format!("; more than {} were not tried", self.density_most),
            None => note += "; guests with memory that follows were not run: nothing to compare them with",
        }
        let count = |trial: &Trial| f64::from(trial.guests);
        // What does not run is not a number of guests that fit.
        let peer = fixed.work_each().map(|_| count(fixed));
        let metric = format!("guests that do {:.0} % of the work", 100.0 * LEAST_WORK);
        vec![
            Figure::new("density", &case, &metric, "guests", densest.map(count))
                .beside("fixed memory", peer, Some(Better::More))
                .note(note),
            Figure::new("density", &case, "work of each", "operations", densest.and_then(Trial::work_each))
                .beside("fixed memory", fixed.work_each(), Some(Better::More))
                .note("in the mean; at the density of the line above"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(guests: u32, well: bool, work_each: u64) -> Trial {
        let story = if well { "poweroff" } else { "ebb-1: crash" };
        Trial { guests, well, work: Some(u64::from(guests) * work_each), story: story.to_owned() }
    }

    fn options() -> Options {
        Options {
            density_host: 1024,
            density_guest: 256,
            density_seconds: 60,
            density_most: 16,
            density_rate: 200,
        }
    }

    #[test]
    fn the_density_is_the_last_that_did_its_work() {
        let tried = [trial(5, true, 951), trial(6, true, 940)];
        let figures = options().figures(&trial(4, true, 1000), &tried, "tcg");
        let records: Vec<Value> = figures.iter().map(Figure::record).collect();
        assert_eq!((records[0]["ours"].as_f64(), records[0]["peer"].as_f64()), (Some(5.0), Some(4.0)));
        assert_eq!(records[0]["ratio"].as_f64(), Some(1.25));
        assert!(records[0]["note"].as_str().unwrap().contains("6 guests did not do it: poweroff, 94.0 %"));
        assert_eq!(records[1]["ours"].as_f64(), Some(951.0));
    }

    #[test]
    fn a_guest_that_fails_is_no_density() {
        let fixed = trial(4, true, 1000);
        let failed = trial(5, false, 2000);
        assert!(!enough(&fixed, &failed));
        let record = options().figures(&fixed, &[failed, trial(4, true, 999)], "tcg")[0].record();
        assert_eq!(record["ours"].as_f64(), Some(4.0));
        assert!(
            record["note"].as_str().unwrap().contains("5 guests did not do it: ebb-1: crash"),
            "{record}"
        );
    }

    #[test]
    fn without_a_measure_there_is_no_figure() {
        for record in options().figures(&trial(4, false, 1000), &[], "tcg").iter().map(Figure::record) {
            assert!(record["ours"].is_null() && record["peer"].is_null() && record["ratio"].is_null());
        }
        let none = options().figures(&trial(4, true, 1000), &[trial(4, true, 900)], "tcg");
        assert!(none[0].record()["ours"].is_null(), "nothing did its work");
    }

    #[test]
    fn the_words_are_those_of_run() {
        let words = |fixed| options().words(5, fixed, Path::new("/out/trace"));
        assert!(words(true).contains(&"--lead=30".to_owned()));
        assert!(
            words(true).contains(&"--static".to_owned()) && !words(false).contains(&"--static".to_owned())
        );
    }

    #[test]
    fn the_density_is_found_by_halves() {
        for density in 3..=16 {
            let mut range = Range { did: 3, failed: 17 };
            let mut trials = 0;
            while let Some(guests) = range.next() {
                range.learn(guests, guests <= density);
                trials += 1;
            }
            assert_eq!((range.did, trials <= 4), (density, true));
        }
    }

    #[test]
    fn the_load_rises_and_falls() {
        let trace = options().trace();
        let lines: Vec<&str> = trace.lines().collect();
        assert_eq!((lines[0], lines[4], lines[6]), ("0.000 17 200", "20.400 170 200", "60.000 17 200"));
    }
}
