//! What a test run found: cases, rungs and their totals, for people and for programs.

use serde::Serialize;
use std::time::Duration;

/// A rung of the test ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rung {
    /// Unit, codec and property tests on the host.
    Host,
    /// Conformance and scenarios on the model hypervisor.
    Model,
    /// Models of the lock-free code under loom, and the mistakes that they must find.
    Loom,
    /// Guest tests on bare QEMU.
    Qemu,
    /// The same conformance cases and the system tests on real Xen.
    Xen,
}

impl Rung {
    /// All rungs, lowest first.
    pub(crate) const ALL: [Self; 5] = [Self::Host, Self::Model, Self::Loom, Self::Qemu, Self::Xen];

    /// The name on the command line and in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Model => "model",
            Self::Loom => "loom",
            Self::Qemu => "qemu",
            Self::Xen => "xen",
        }
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It held.
    Passed,
    /// It did not; why.
    Failed(String),
    /// It could not be asked here; why.
    Skipped(String),
}

/// One case that was run.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Unique within its rung.
    pub(crate) id: String,
    /// Where it ran.
    pub(crate) rung: Rung,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Everything that ran.
#[derive(Debug, Default)]
pub(crate) struct Results {
    cases: Vec<Case>,
    /// What was asked again, because the first answer was the emulator's, with that answer.
    repeated: Vec<(Rung, String, String)>,
    times: Vec<(Rung, Duration)>,
}

/// Counts of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Results {
    /// Adds a case, and tells a person if it did not pass.
    pub(crate) fn add(&mut self, case: Case) {
        match &case.outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => {
                println!("FAILED  {} {}", case.rung.name(), case.id);
                for line in why.lines() {
                    println!("        {line}");
                }
            }
            Outcome::Skipped(why) => println!("skipped {} {}: {why}", case.rung.name(), case.id),
        }
        self.cases.push(case);
    }

    /// Notes that what is called `id` is asked again: what ended it was not its own doing, and `why` shows that.
    pub(crate) fn again(&mut self, rung: Rung, id: &str, why: &str) {
        println!("again   {} {id}", rung.name());
        for line in why.lines() {
            println!("        {line}");
        }
        self.repeated.push((rung, id.to_owned(), why.to_owned()));
    }

    /// How much was asked again.
    pub(crate) fn repeated(&self) -> usize {
        self.repeated.len()
    }

    /// Notes that a rung could not be run to its end.
    pub(crate) fn broke(&mut self, rung: Rung, error: &anyhow::Error) {
        let outcome = Outcome::Failed(format!("{error:#}"));
        self.add(Case { id: "the-rung-runs".to_owned(), rung, outcome, took: Duration::ZERO });
        self.finish(rung, Duration::ZERO);
    }

    /// Notes how long a rung took as a whole.
    pub(crate) fn finish(&mut self, rung: Rung, took: Duration) {
        println!("{:<6} {} in {:.1} s", rung.name(), self.totals(Some(rung)), took.as_secs_f64());
        self.times.push((rung, took));
    }

    /// How many different cases of the conformance suite ran on the model and on Xen. The two lists are one.
    pub(crate) fn conformance(&self) -> (usize, usize) {
        const AREAS: [&str; 9] =
            ["memory", "malformed", "event", "delivery", "sched", "vcpu", "version", "hvm", "hypercall"];
        let area = |name: &str| AREAS.contains(&name);
        let model = |case: &&Case| {
            let mut words = case.id.split("::");
            case.rung == Rung::Model && words.next() == Some("conformance") && words.next().is_some_and(area)
        };
        let xen = |case: &&Case| {
            case.rung == Rung::Xen && case.id.split_once('.').is_some_and(|(name, _)| area(name))
        };
        (self.cases.iter().filter(model).count(), self.cases.iter().filter(xen).count())
    }

    /// Totals of one rung, or of all.
    pub(crate) fn totals(&self, rung: Option<Rung>) -> Totals {
        let mut totals = Totals::default();
        for case in self.cases.iter().filter(|case| rung.is_none_or(|rung| case.rung == rung)) {
            match case.outcome {
                Outcome::Passed => totals.passed += 1,
                Outcome::Failed(_) => totals.failed += 1,
                Outcome::Skipped(_) => totals.skipped += 1,
            }
        }
        totals
    }

    /// The machine-readable form: `{passed, failed, skipped, rungs: […], cases: […], repeated: […]}`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let all = self.totals(None);
        let rungs: Vec<_> = self
            .times
            .iter()
            .map(|(rung, took)| {
                let totals = self.totals(Some(*rung));
                serde_json::json!({
                    "name": rung.name(),
                    "passed": totals.passed,
                    "failed": totals.failed,
                    "skipped": totals.skipped,
                    "seconds": took.as_secs_f64(),
                })
            })
            .collect();
        let cases: Vec<_> = self
            .cases
            .iter()
            .map(|case| {
                let (outcome, why) = match &case.outcome {
                    Outcome::Passed => ("passed", None),
                    Outcome::Failed(why) => ("failed", Some(why)),
                    Outcome::Skipped(why) => ("skipped", Some(why)),
                };
                let millis = u64::try_from(case.took.as_millis()).unwrap_or(u64::MAX);
                let mut value = serde_json::json!({
                    "id": case.id, "rung": case.rung.name(), "outcome": outcome, "millis": millis,
                });
                if let (Some(why), Some(object)) = (why, value.as_object_mut()) {
                    object.insert("why".to_owned(), why.as_str().into());
                }
                value
            })
            .collect();
        let again = |(rung, id, why): &(Rung, String, String)| serde_json::json!({ "id": id, "rung": rung.name(), "why": why });
        let repeated: Vec<_> = self.repeated.iter().map(again).collect();
        serde_json::json!({
            "passed": all.passed, "failed": all.failed, "skipped": all.skipped,
            "rungs": rungs, "cases": cases, "repeated": repeated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(rung: Rung, outcome: Outcome) -> Case {
        Case { id: "a.b".to_owned(), rung, outcome, took: Duration::from_millis(7) }
    }

    #[test]
    fn totals_count_each_outcome_once() {
        let mut results = Results::default();
        results.add(case(Rung::Host, Outcome::Passed));
        results.add(case(Rung::Xen, Outcome::Failed("no".to_owned())));
        results.add(case(Rung::Xen, Outcome::Skipped("absent".to_owned())));
        assert_eq!(results.totals(None), Totals { passed: 1, failed: 1, skipped: 1 });
        assert_eq!(results.totals(Some(Rung::Xen)), Totals { passed: 0, failed: 1, skipped: 1 });
        results.finish(Rung::Xen, Duration::from_secs(2));
        let json = results.to_json();
        assert_eq!(json["failed"], 1);
        assert_eq!(json["rungs"][0]["name"], "xen");
        assert_eq!(json["cases"][1]["why"], "no");
        assert_eq!(json["cases"][0]["millis"], 7);
    }
}
