//! From what two guests did to figures.

use super::guests::{Latency, OPERATIONS, PAGES, PLENTY, SHARES, Source, Taken, Who, Work};
use crate::bench::figure::{Better, Figure, median};
use crate::qemu::Accelerator;

const BENCH: &str = "swap";
/// The share of the working set at which a target is set, and the target: as good as Linux.
const TARGET: (u32, f64) = (50, 1.0);
/// Less than this in swap says nothing about how dense it is.
const LEAST_KIB: u64 = 1024;

/// What was found.
pub(super) struct Found<'f> {
    pub(super) taken: &'f Taken,
    pub(super) linux: &'f str,
    pub(super) accelerator: Accelerator,
}

/// Something that is told of each run of the work.
struct Told {
    metric: &'static str,
    unit: &'static str,
    of: fn(&Work) -> Option<f64>,
    better: Option<Better>,
    note: &'static str,
}

const TOLD: [Told; 6] = [
    Told {
        metric: "processor time of an operation",
        unit: "us",
        of: |work| work.cpu_seconds.map(per_operation),
        better: Some(Better::Less),
        note: "of the whole emulated machine, dom0 included; other work on this machine does not add to it",
    },
    Told {
        metric: "pages from swap, an operation",
        unit: "pages",
        of: |work| Some(work.ins as f64 / OPERATIONS as f64),
        better: Some(Better::Less),
        note: "faults that wait for a page",
    },
    Told {
        metric: "pages to swap, an operation",
        unit: "pages",
        of: |work| Some(work.outs as f64 / OPERATIONS as f64),
        better: Some(Better::Less),
        note: "",
    },
    Told {
        metric: "reclaims by who needed a page",
        unit: "times",
        of: |work| Some(work.direct as f64),
        better: Some(Better::Less),
        note: "the others were ahead of need",
    },
    Told {
        metric: "memory for what is swapped",
        unit: "% of it",
        of: |work| {
            (work.stored_kib >= LEAST_KIB).then(|| work.used_kib as f64 / work.stored_kib as f64 * 100.0)
        },
        better: Some(Better::Less),
        note: "compressed pages with all losses; pages of one word apart",
    },
    Told {
        metric: "first writes",
        unit: "pages/s",
        of: |work| (work.fill_seconds > 0.0).then(|| PAGES as f64 / work.fill_seconds),
        better: Some(Better::More),
        note: "of the whole working set, before it is used",
    },
];

/// Seconds of all operations as microseconds of one.
fn per_operation(seconds: f64) -> f64 {
    seconds * 1e6 / OPERATIONS as f64
}

impl Found<'_> {
    /// All of it.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for share in SHARES {
            figures.extend(self.of_share(share));
        }
        for source in Source::ALL {
            figures.extend(self.of_source(source));
        }
        figures
    }

    /// The work with so much memory.
    fn of_share(&self, share: u32) -> Vec<Figure> {
        let name = format!("work, {share} % of its pages free");
        let figure = |metric: &str, unit, better, of: &dyn Fn(&[Work]) -> Option<f64>| {
            Figure::new(BENCH, &name, metric, unit, of(self.works(Who::Ebb, share))).beside(
                &self.peer(),
                of(self.works(Who::Linux, share)),
                better,
            )
        };
        let rate = figure("operations", "1/s", Some(Better::More), &|works| {
            middle(works, |work| Some(OPERATIONS as f64 / work.seconds))
        });
        let rate = rate.note(self.time_note(share));
        let mut figures = vec![if share == TARGET.0 { rate.target(TARGET.1) } else { rate }];
        if share != PLENTY {
            let note = format!("beyond what it takes with {PLENTY} % free; {}", self.failures(share));
            let added = Figure::new(
                BENCH,
                &name,
                "time that the shortage adds to an operation",
                "us",
                self.added(Who::Ebb, share),
            );
            let added = added.beside(&self.peer(), self.added(Who::Linux, share), Some(Better::Less));
            figures.push(added.note(note.trim_end_matches("; ")));
        }
        for Told { metric, unit, of, better, note } in TOLD {
            let note = [note.to_owned(), self.failures(share)].join("; ");
            figures.push(
                figure(metric, unit, better, &|works| middle(works, of)).note(note.trim_matches([';', ' '])),
            );
        }
        figures
    }

    /// Pages that come, one by one.
    fn of_source(&self, source: Source) -> Vec<Figure> {
        let (name, note) = match source {
            Source::Fresh => ("fault, a new page", "for comparison"),
            Source::Same => ("fault-in, same-filled page", ""),
            Source::Compressed => ("fault-in, compressed page", ""),
        };
        let all = |who| self.taken.latencies.get(&(who, source)).map_or(&[][..], Vec::as_slice);
        let count: u64 = all(Who::Ebb).iter().map(|latency| latency.count).sum();
        let note = format!("{count} faults by the guest's clock, with two looks at it; {note}");
        let figure = |metric: &str, of: &dyn Fn(&[Latency]) -> Option<f64>| {
            let us = |who| of(all(who)).map(|ns| ns / 1e3);
            Figure::new(BENCH, name, metric, "us", us(Who::Ebb))
                .beside(&self.peer(), us(Who::Linux), Some(Better::Less))
                .note(note.trim_end_matches("; "))
        };
        let middle = |of: fn(&Latency) -> u64| {
            move |all: &[Latency]| median(&all.iter().map(|latency| of(latency) as f64).collect::<Vec<_>>())
        };
        vec![
            figure("median", &middle(|latency| latency.p50_ns)),
            figure("90 of 100", &middle(|latency| latency.p90_ns)),
            figure("99 of 100", &middle(|latency| latency.p99_ns)),
            figure("longest", &|all| all.iter().map(|latency| latency.max_ns as f64).reduce(f64::max)),
        ]
    }

    fn works(&self, who: Who, share: u32) -> &[Work] {
        self.taken.works.get(&(who, share)).map_or(&[], Vec::as_slice)
    }

    /// What the shortage adds to an operation, in microseconds: what the operation itself takes is the same code in both,
    /// but not the same instructions.
    fn added(&self, who: Who, share: u32) -> Option<f64> {
        let seconds = |share| middle(self.works(who, share), |work| Some(work.seconds));
        Some(per_operation(seconds(share)? - seconds(PLENTY)?))
    }

    fn peer(&self) -> String {
        format!("Linux {} with zram", self.linux)
    }

    /// How often, how far apart, and what was free.
    fn time_note(&self, share: u32) -> String {
        let mut note =
            format!("medians of {}, under {}", self.works(Who::Ebb, share).len(), self.accelerator.name());
        for (who, name) in [(Who::Ebb, "ours"), (Who::Linux, "Linux")] {
            let works = self.works(who, share);
            let seconds = || works.iter().map(|work| work.seconds);
            if let (Some(low), Some(high), Some(free)) =
                (seconds().reduce(f64::min), seconds().reduce(f64::max), works.first().map(|work| work.free))
            {
                note += &format!("; {name} {low:.3} to {high:.3} s, {free} of {PAGES} pages free before");
            }
            if let Some(soon) = middle(works, |work| work.soon.map(|soon| soon as f64)) {
                note += &format!(", {soon:.0} missed soon after they left");
            }
        }
        [note, self.failures(share)].join("; ").trim_end_matches("; ").to_owned()
    }

    /// Why there is less than there should be.
    fn failures(&self, share: u32) -> String {
        let first_line = |who| {
            let error = self.taken.failures.get(&(who, share))?;
            Some(format!("{who:?} failed: {}", error.lines().next().unwrap_or_default()))
        };
        Who::BOTH.into_iter().filter_map(first_line).collect::<Vec<_>>().join("; ")
    }
}

/// The median of what each run tells; `None` if one does not.
fn middle(works: &[Work], of: impl Fn(&Work) -> Option<f64>) -> Option<f64> {
    median(&works.iter().map(of).collect::<Option<Vec<_>>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn work(seconds: f64, ins: u64) -> Work {
        Work {
            seconds,
            fill_seconds: 2.0,
            cpu_seconds: Some(seconds / 2.0),
            sum: 1,
            free: PAGES / 2,
            ins,
            outs: ins,
            direct: 3,
            soon: None,
            stored_kib: 2000,
            used_kib: 600,
        }
    }

    fn records(taken: &Taken) -> Vec<Value> {
        let found = Found { taken, linux: "6.1", accelerator: Accelerator::Tcg };
        found.figures().iter().map(Figure::record).collect()
    }

    fn find<'r>(records: &'r [Value], case: &str, metric: &str) -> &'r Value {
        let found = records.iter().find(|record| {
            record["case"].as_str().unwrap().contains(case)
                && record["metric"].as_str().unwrap().contains(metric)
        });
        found.unwrap()
    }

    #[test]
    fn the_target_is_set_for_half_of_the_memory() {
        let mut taken = Taken::default();
        let per_second = OPERATIONS as f64;
        for share in SHARES {
            taken.works.insert((Who::Ebb, share), vec![work(1.0, 10), work(3.0, 30)]);
            taken.works.insert((Who::Linux, share), vec![work(4.0, 50_000)]);
        }
        let records = records(&taken);
        let half = find(&records, "work, 50 %", "operations");
        assert_eq!(half["ours"].as_f64(), Some((per_second * 2.0 / 3.0).round()), "the mean of two rates");
        assert_eq!(half["ratio"].as_f64(), Some(2.67));
        assert_eq!(half["met"], true);
        assert!(half["note"].as_str().unwrap().contains("ours 1.000 to 3.000 s, 8192 of 16384"), "{half}");
        assert!(find(&records, "work, 75 %", "operations")["target"].is_null());
        let faults = find(&records, "work, 40 %", "pages from swap");
        assert_eq!(faults["peer"].as_f64(), Some(1.0));
        assert_eq!(find(&records, "work, 40 %", "memory for")["ours"].as_f64(), Some(30.0));
    }

    #[test]
    fn what_the_shortage_adds_is_beyond_what_plenty_takes() {
        let mut taken = Taken::default();
        for (share, seconds) in [(PLENTY, 1.0), (75, 1.5)] {
            taken.works.insert((Who::Ebb, share), vec![work(seconds, 0)]);
            taken.works.insert((Who::Linux, share), vec![work(seconds * 2.0, 0)]);
        }
        let records = records(&taken);
        let added = find(&records, "work, 75 %", "adds");
        assert_eq!(added["ours"].as_f64(), Some(0.5 * 1e6 / OPERATIONS as f64));
        assert_eq!(added["ratio"].as_f64(), Some(2.0));
        assert!(find(&records, "work, 40 %", "adds")["ours"].is_null(), "no run, no figure");
    }

    #[test]
    fn a_failure_is_no_figure_and_says_why() {
        let mut taken = Taken::default();
        taken.works.insert((Who::Ebb, 40), vec![work(1.0, 1)]);
        taken.failures.insert((Who::Linux, 40), "out of memory\nand more".into());
        let records = records(&taken);
        let record = find(&records, "work, 40 %", "operations");
        assert!(record["peer"].is_null() && record["ratio"].is_null() && record["met"].is_null());
        assert!(record["note"].as_str().unwrap().ends_with("Linux failed: out of memory"), "{record}");
    }

    #[test]
    fn latencies_are_medians_and_the_longest_is_the_longest() {
        let latency = |p50_ns, max_ns| Latency { count: 10, p50_ns, p90_ns: 2000, p99_ns: 3000, max_ns };
        let mut taken = Taken::default();
        taken.latencies.insert((Who::Ebb, Source::Same), vec![latency(1000, 9000), latency(1400, 5000)]);
        taken.latencies.insert((Who::Linux, Source::Same), vec![latency(2400, 4500)]);
        let records = records(&taken);
        let middle = find(&records, "same-filled", "median");
        assert_eq!((middle["ours"].as_f64(), middle["ratio"].as_f64()), (Some(1.2), Some(2.0)));
        assert!(middle["note"].as_str().unwrap().starts_with("20 faults"), "{middle}");
        assert_eq!(find(&records, "same-filled", "longest")["ours"].as_f64(), Some(9.0));
        assert!(find(&records, "compressed", "median")["ours"].is_null());
    }
}
