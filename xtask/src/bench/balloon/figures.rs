//! From moves to figures.

use super::{Case, Direction, How, Move, Moves, SPIKE_MIB, Spike};
use crate::bench::figure::{Better, Figure, median};
use crate::qemu::Accelerator;

const BENCH: &str = "balloon";
/// How many times faster than Linux free memory should move.
const DOWN_TARGET: f64 = 12.0;
const UP_TARGET: f64 = 40.0;
/// How much of the speed of the bare loop should be left: at most 1.3 times its time.
const BARE_TARGET: f64 = 1.0 / 1.3;

/// Something that is counted with each move.
struct Count {
    metric: &'static str,
    unit: &'static str,
    of: fn(&Move) -> Option<u64>,
    better: Option<Better>,
    note: &'static str,
}

const COUNTS: [Count; 4] = [
    Count {
        metric: "hypercalls",
        unit: "calls",
        of: |taken| taken.calls,
        better: Some(Better::Less),
        note: "Linux: by probes on its two functions that make one each",
    },
    Count {
        metric: "extents of 2 MiB",
        unit: "extents",
        of: |taken| taken.extents_9,
        better: None,
        note: "Linux moves single frames",
    },
    Count {
        metric: "extents of 4 KiB",
        unit: "extents",
        of: |taken| taken.extents_0,
        better: None,
        note: "Linux: by the same probes",
    },
    Count {
        metric: "superpages left",
        unit: "2 MiB entries",
        of: |taken| taken.superpages,
        better: Some(Better::More),
        note: "in Xen's nested page tables of the guest of 1 GiB, read from the machine's memory",
    },
];

const CPU_NOTE: &str = "of the whole emulated machine, dom0 included, in steps of some ms; does not grow when \
                        this machine does other things";

/// What was found.
pub(super) struct Found<'f> {
    pub(super) sizes_mib: &'f [u32],
    pub(super) moves: &'f Moves,
    pub(super) spikes: &'f [(How, Spike)],
    pub(super) linux: &'f str,
    pub(super) accelerator: Accelerator,
}

impl Found<'_> {
    /// All of it.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for &mib in self.sizes_mib {
            for touched in [false, true] {
                for direction in Direction::BOTH {
                    figures.extend(self.of_case(Case { mib, touched, direction }));
                }
            }
        }
        figures.push(self.spike());
        figures
    }

    /// One size, direction and kind of memory.
    fn of_case(&self, case: Case) -> Vec<Figure> {
        let linux = format!("Linux {}", self.linux);
        let fast = format!("{linux}, mitigations off");
        let target = match case.direction {
            Direction::Down => DOWN_TARGET,
            Direction::Up => UP_TARGET,
        };
        let ours = self.all(How::Balloon, case);
        let seconds = |how| middle(self.all(how, case), |taken| Some(taken.seconds));
        let rate = |how| seconds(how).map(|seconds| f64::from(case.mib) / seconds);
        let cpu = |how| middle(self.all(how, case), |taken| taken.cpu_seconds);
        let count = |how, of: fn(&Move) -> Option<u64>| {
            middle(self.all(how, case), |taken| of(taken).map(|n| n as f64))
        };
        let note = self.time_note(case);
        let word = case.direction.word();
        let processor = format!("{word}: processor time");
        let new = |metric: &str, unit, ours| Figure::new(BENCH, &name(case), metric, unit, ours);
        let mut figures = vec![
            new(word, "s", seconds(How::Balloon))
                .beside(&linux, seconds(How::Linux), Some(Better::Less))
                .target(target)
                .note(&note),
            new(word, "MiB/s", rate(How::Balloon))
                .beside(&linux, rate(How::Linux), Some(Better::More))
                .note(&note),
            new(&processor, "s", cpu(How::Balloon))
                .beside(&linux, cpu(How::Linux), Some(Better::Less))
                .note(absent(ours, CPU_NOTE)),
            new(word, "s", seconds(How::Balloon))
                .beside(&fast, seconds(How::LinuxFast), Some(Better::Less))
                .note(&note),
        ];
        // Only some loops run on written memory, and only some on memory that never was.
        for how in [How::Blocks, How::BlocksScrubbed, How::Frames] {
            let Some(bare) = seconds(how) else { continue };
            let beside = |metric: &str, ours, bare| {
                new(metric, "s", ours).beside(how.name(), bare, Some(Better::Less)).note(&note)
            };
            let mut pair = [
                beside(word, seconds(How::Balloon), Some(bare)),
                beside(&processor, cpu(How::Balloon), cpu(how)).note(absent(ours, CPU_NOTE)),
            ];
            if how != How::Frames {
                pair = pair.map(|figure| figure.target(BARE_TARGET));
            }
            figures.extend(pair);
            figures.push(
                Figure::new(BENCH, &format!("{}, {}", name(case), how.name()), word, "s", Some(bare))
                    .beside(&linux, seconds(How::Linux), Some(Better::Less))
                    .note("not the balloon: what the hypervisor's calls alone take"),
            );
        }
        for Count { metric, unit, of, better, note } in COUNTS {
            let figure = new(&format!("{word}: {metric}"), unit, count(How::Balloon, of));
            figures.push(figure.beside(&linux, count(How::Linux, of), better).note(absent(ours, note)));
        }
        figures
    }

    /// Linux has to be told before it can use memory; how long that takes is not its own time.
    fn spike(&self) -> Figure {
        let of = |who, what: fn(&Spike) -> Option<f64>| {
            let all = self.spikes.iter().filter(|(how, _)| *how == who);
            median(&all.map(|(_, spike)| what(spike)).collect::<Option<Vec<_>>>()?)
        };
        let seconds = |who| of(who, |spike| Some(spike.seconds));
        let free = |who| of(who, |spike| Some(spike.free_kib as f64 / 1024.0));
        let grown = of(How::Linux, |spike| spike.grown_seconds);
        let mut note = String::new();
        let stalled = of(How::Balloon, |spike| spike.stall_seconds);
        if let (Some(free), Some(stalled)) = (free(How::Balloon), stalled) {
            note += &format!(
                "ours: paged memory written for the first time, {:.1} ms of it waiting for the balloon \
                 ({free:.0} MiB were free); ",
                stalled * 1e3
            );
        }
        if let (Some(free), Some(grown)) = (free(How::Linux), grown) {
            note += &format!(
                "Linux cannot ask: a script in it raises the target, {grown:.2} s, and then writes ({free:.0} MiB \
                 were free); an operator who has to notice first comes on top"
            );
        }
        Figure::new(
            BENCH,
            &format!("demand spike of {SPIKE_MIB} MiB"),
            "until written",
            "s",
            seconds(How::Balloon),
        )
        .beside(&format!("Linux {}", self.linux), seconds(How::Linux), Some(Better::Less))
        .note(note)
    }

    fn all(&self, how: How, case: Case) -> &[Move] {
        self.moves.0.get(&(how, case)).map_or(&[], Vec::as_slice)
    }

    /// How often, how far apart, and what the machine's own clock says.
    fn time_note(&self, case: Case) -> String {
        let linux = self.all(How::Linux, case);
        let mut note = format!("medians of {}, under {}", linux.len(), self.accelerator.name());
        for (who, all) in [("ours", self.all(How::Balloon, case)), ("Linux", linux)] {
            let (low, high) = range(all.iter().map(|taken| taken.seconds));
            let host = median(&all.iter().map(|taken| taken.host_seconds).collect::<Vec<_>>());
            if let Some(host) = host {
                note += &format!("; {who} {low:.3} to {high:.3}, by the host's clock {host:.3}");
            }
        }
        absent(self.all(How::Balloon, case), &note)
    }
}

fn name(case: Case) -> String {
    format!("{} MiB, {}", case.mib, if case.touched { "written before" } else { "never written" })
}

/// The note, and why there is no figure of ours if there is none.
fn absent(ours: &[Move], note: &str) -> String {
    if ours.is_empty() { format!("ours not measured by this version; {note}") } else { note.to_owned() }
}

/// The median of what each move has; `None` if one has it not.
fn middle(all: &[Move], of: impl Fn(&Move) -> Option<f64>) -> Option<f64> {
    median(&all.iter().map(of).collect::<Option<Vec<_>>>()?)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(seconds: f64, superpages: Option<u64>) -> Move {
        Move {
            seconds,
            host_seconds: seconds + 0.01,
            cpu_seconds: Some(seconds / 2.0),
            calls: Some(64),
            extents_9: Some(0),
            extents_0: Some(32768),
            superpages,
        }
    }

    const CASE: Case = Case { mib: 128, touched: false, direction: Direction::Down };

    fn found(all: &[(How, Vec<Move>)], check: impl FnOnce(Found<'_>)) {
        let mut moves = Moves::default();
        for (how, all) in all {
            moves.add(all.iter().map(|taken| ((*how, CASE), taken.clone())).collect());
        }
        let spike = |seconds, grown_seconds| Spike {
            seconds,
            grown_seconds,
            free_kib: 20 << 10,
            stall_seconds: Some(0.25),
        };
        let spikes = [
            (How::Linux, spike(1.5, Some(0.5))),
            (How::Linux, spike(2.5, Some(0.7))),
            (How::Balloon, spike(0.5, None)),
            (How::Linux, spike(2.0, Some(0.6))),
        ];
        check(Found {
            sizes_mib: &[128],
            moves: &moves,
            spikes: &spikes,
            linux: "6.1",
            accelerator: Accelerator::Tcg,
        });
    }

    #[test]
    fn ours_stands_beside_linux_and_the_bare_loop() {
        let all = [
            (How::Balloon, vec![taken(0.25, Some(448))]),
            (How::Linux, vec![taken(3.0, Some(446)), taken(9.0, Some(446)), taken(4.0, Some(440))]),
            (How::Blocks, vec![taken(0.2, None)]),
        ];
        found(&all, |found| {
            let figures = found.of_case(CASE);
            let first = figures[0].record();
            assert_eq!((first["ours"].as_f64(), first["peer"].as_f64()), (Some(0.25), Some(4.0)));
            assert_eq!((first["ratio"].as_f64(), &first["met"]), (Some(16.0), &true.into()));
            assert!(first["note"].as_str().unwrap().contains("Linux 3.000 to 9.000"), "{first}");
            let cpu = figures.iter().map(Figure::record).find(|record| record["ours"] == 0.125).unwrap();
            assert_eq!(cpu["peer"], 2.0);
            let rate = figures[1].record();
            assert_eq!((rate["ours"].as_f64(), rate["peer"].as_f64()), (Some(512.0), Some(32.0)));
            let bare = figures.iter().map(Figure::record).find(|record| record["peer"] == 0.2).unwrap();
            assert_eq!((bare["ratio"].as_f64(), &bare["met"]), (Some(0.8), &true.into()));
            let superpages =
                figures.iter().map(Figure::record).find(|record| record["ours"] == 448.0).unwrap();
            assert_eq!(superpages["peer"], 446.0);
        });
    }

    #[test]
    fn what_was_not_measured_is_null_and_says_so() {
        found(&[(How::Linux, vec![taken(4.0, None)])], |found| {
            for figure in found.of_case(CASE) {
                let record = figure.record();
                assert!(record["ours"].is_null() && record["ratio"].is_null() && record["met"].is_null());
                assert!(record["note"].as_str().unwrap().starts_with("ours not measured"), "{record}");
            }
        });
    }

    #[test]
    fn a_spike_stands_beside_the_script_in_linux() {
        found(&[], |found| {
            let spike = found.spike().record();
            assert_eq!((spike["ours"].as_f64(), spike["peer"].as_f64()), (Some(0.5), Some(2.0)));
            assert_eq!(spike["ratio"], 4.0);
            let note = spike["note"].as_str().unwrap();
            assert!(
                note.contains("raises the target, 0.60 s") && note.contains("20 MiB were free"),
                "{note}"
            );
        });
    }

    #[test]
    fn a_count_that_one_round_lacks_is_no_figure() {
        let all = [taken(1.0, Some(448)), taken(1.0, None)];
        assert_eq!(middle(&all, |taken| taken.superpages.map(|n| n as f64)), None);
        assert_eq!(middle(&all, |taken| taken.calls.map(|n| n as f64)), Some(64.0));
        assert_eq!(middle(&[], |taken| Some(taken.seconds)), None);
    }
}
