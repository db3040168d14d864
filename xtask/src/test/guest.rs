//! Driving the guest test image: many cases in one boot, judged by typed records.
//!
//! The image first declares every case that is asked for, then runs those that return, telling when each begins and how it
//! ends. A case that kills the guest or never ends costs only itself: the image is booted again and goes on
//! after it. Cases that are *meant* to end the guest (a page fault, a panic) get a boot each and are judged by
//! their epitaph.
//!
//! | record | fields |
//! |---|---|
//! | `case` | `id`, `ends` (`return`; `return-with-help`: run by `system`; or the kind of epitaph), `through` (a function that its backtrace must name), `cpu` (`other`: not the one that boots) |
//! | `plan` | `cases`: how many were declared |
//! | `begin` | `id`, `at_ns` (the guest's time) |
//! | `end` | `id`, `outcome` (`pass`, `fail`, `skip`), `why` |
//! | `progress` | anything: a long case is still at work |
//! | `done` | `ran`: how many cases ended in this boot; `halts_skipped`: interrupts between `sti` and `hlt`; `forced`: interrupts while interrupts were off |
//! | `epitaph` | `what`, `message`, `frames` (function names, innermost first, separated by `;`), `cpu`, `others` and `stopped` (other CPUs, and how many of them stopped) |

use super::outcome::{Case, Outcome, Results, Rung};
use anyhow::{Result, bail};
use ebb::report::Record;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How long one guest case may take: some take a minute on a machine that is busy with other things, under emulation.
pub(crate) const CASE_BOUND: Duration = Duration::from_secs(240);
/// How long a guest may take to boot and declare its cases, or to stop after the last.
const BOOT_BOUND: Duration = Duration::from_secs(120);

/// What boots the image.
pub(crate) trait Guest {
    /// Boots the image with `cmdline` and hands every console line to `line`, until the guest ends, `line`
    /// breaks, or no line came before the deadline that `line` set last (at first: [`BOOT_BOUND`]).
    ///
    /// # Errors
    ///
    /// If the guest cannot be started at all. A crash of the guest is an ordinary end.
    fn boot(&mut self, cmdline: &str, watch: &mut Watch) -> Result<End>;
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest stopped by itself and meant it.
    Stopped,
    /// The guest stopped with an error, in the words of whoever saw it.
    Crashed(String),
    /// It was killed at the watch's deadline, or because what it said made no sense. Where its processors were, if that
    /// is known.
    Killed(String),
    /// What runs it broke it, which says nothing of the guest. What shows that.
    Broken(String),
}

/// Boots of one shape that may be broken by what runs them. It is a rare defect: who meets it more often has another.
const MOST_BROKEN: u32 = 3;

/// A case that the image declared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    id: String,
    ends: String,
    through: Option<String>,
    elsewhere: bool,
}

/// What the harness knows of one boot, from its records.
pub(crate) struct Watch {
    deadline: Instant,
    declared: Vec<Declared>,
    planned: Option<u64>,
    ended: Vec<(String, Outcome, Duration)>,
    running: Option<(String, Instant)>,
    epitaph: Option<Record>,
    done: bool,
    broken: Option<String>,
    last_text: Vec<String>,
}

impl Watch {
    fn new() -> Self {
        Self {
            deadline: Instant::now() + BOOT_BOUND,
            declared: Vec::new(),
            planned: None,
            ended: Vec::new(),
            running: None,
            epitaph: None,
            done: false,
            broken: None,
            last_text: Vec::new(),
        }
    }

    /// When the guest is to be killed if nothing more comes.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes one console line. Breaks when the transcript makes no sense any more.
    pub(crate) fn line(&mut self, line: &[u8]) -> ControlFlow<()> {
        if !Record::is_record(line) {
            if self.last_text.len() == 40 {
                self.last_text.remove(0);
            }
            self.last_text.push(String::from_utf8_lossy(line).into_owned());
            return ControlFlow::Continue(());
        }
        let taken = match Record::parse(line) {
            Ok(record) => self.record(record),
            Err(error) => {
                Err(format!("{error}: {}", String::from_utf8_lossy(line).trim_start_matches('\u{1e}')))
            }
        };
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                self.broken = Some(why);
                ControlFlow::Break(())
            }
        }
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        let field = |key: &str| {
            record.get(key).map(str::to_owned).ok_or_else(|| format!("record {} has no {key}", record.kind))
        };
        match record.kind.as_str() {
            "case" => self.declared.push(Declared {
                id: field("id")?,
                ends: field("ends")?,
                through: record.get("through").map(str::to_owned),
                elsewhere: record.get("cpu") == Some("other"),
            }),
            "plan" => {
                let cases = record.number("cases").ok_or("plan without a number of cases")?;
                if cases != self.declared.len() as u64 {
                    return Err(format!("{cases} cases planned, {} declared", self.declared.len()));
                }
                self.planned = Some(cases);
                self.deadline = Instant::now() + CASE_BOUND;
            }
            "begin" => {
                let id = field("id")?;
                if let Some((other, _)) = &self.running {
                    return Err(format!("{id} begins inside {other}"));
                }
                if !self.declared.iter().any(|case| case.id == id) {
                    return Err(format!("{id} was not declared"));
                }
                self.running = Some((id, Instant::now()));
                self.deadline = Instant::now() + CASE_BOUND;
            }
            "end" => {
                let id = field("id")?;
                let Some((running, since)) = self.running.take().filter(|(running, _)| *running == id) else {
                    return Err(format!("{id} ends and did not begin"));
                };
                let outcome = match record.get("outcome") {
                    Some("pass") => Outcome::Passed,
                    Some("skip") => Outcome::Skipped(field("why")?),
                    Some("fail") => Outcome::Failed(field("why")?),
                    other => return Err(format!("{id} ends with outcome {other:?}")),
                };
                self.ended.push((running, outcome, since.elapsed()));
                self.deadline = Instant::now() + CASE_BOUND;
            }
            "done" => {
                if record.number("ran") != Some(self.ended.len() as u64) {
                    return Err(format!(
                        "guest says {:?} cases ran, {} ended",
                        record.get("ran"),
                        self.ended.len()
                    ));
                }
                self.done = true;
                self.deadline = Instant::now() + BOOT_BOUND;
            }
            "progress" => self.deadline = Instant::now() + CASE_BOUND,
            "epitaph" => self.epitaph = Some(record),
            // Facts for other commands.
            _ => {}
        }
        Ok(())
    }

    /// Why this boot did not go as it should, with the last of its console.
    fn story(&self, end: &End) -> String {
        let mut story = match end {
            End::Stopped => "the guest stopped".to_owned(),
            End::Crashed(why) => format!("the guest crashed ({why})"),
            // What made no sense is told below.
            End::Killed(_) if self.broken.is_some() => "killed".to_owned(),
            End::Killed(whereabouts) => {
                format!("no progress within its bound of {} s: killed\n{whereabouts}", CASE_BOUND.as_secs())
            }
            End::Broken(why) => format!("the emulator broke the guest ({why})"),
        };
        for (id, outcome, _) in &self.ended {
            if let Outcome::Failed(why) = outcome {
                story += &format!("\n{id}: {why}");
            }
        }
        if let Some(broken) = &self.broken {
            story = format!("{broken}; {story}");
        }
        if let Some(epitaph) = &self.epitaph {
            for key in ["what", "message", "frames"] {
                story += &format!("\n{key}: {}", epitaph.get(key).unwrap_or("?"));
            }
        }
        story + "\nlast lines of its console:\n" + &self.last_text.join("\n")
    }
}

/// What the guest's command line says beside its cases: how long a soak is.
pub(crate) fn options(soak_s: Option<u32>) -> String {
    soak_s.map(|seconds| format!(" test.soak_s={seconds}")).unwrap_or_default()
}

/// Whether a case whose id begins with `only` can contain, with `prefix` before its id, `filter`: if not, there is no
/// need to boot.
///
/// `only` is an area with the dot at its end, and ids have no other dot and no slash; what follows the area, only the
/// image knows.
pub(crate) fn may_match(prefix: &str, only: Option<&str>, filter: Option<&str>) -> bool {
    let Some(filter) = filter else { return true };
    let known = format!("{prefix}{}", only.unwrap_or_default());
    // It begins in the known part, and covers the rest of that; or it lies in what follows.
    let covers = |(at, _)| known.get(at..).is_some_and(|rest| filter.starts_with(rest));
    let follows = if only.is_some() { !filter.contains(['.', '/']) } else { !filter.contains('/') };
    known.contains(filter) || known.char_indices().any(covers) || follows
}

/// Runs all cases of the image whose id contains `only` and, with `prefix` before it, `filter`.
///
/// # Errors
///
/// If a guest cannot be started, or a boot does not even declare its cases.
pub(crate) fn run(
    rung: Rung,
    prefix: &str,
    guest: &mut dyn Guest,
    only: Option<&str>,
    filter: Option<&str>,
    results: &mut Results,
) -> Result<()> {
    if !may_match(prefix, only, filter) {
        return Ok(());
    }
    let named = |id: &str| format!("{prefix}{id}");
    // The image knows nothing of prefixes, so it is given a filter only if that decides without one.
    let inner = filter.filter(|_| prefix.is_empty()).or(only);
    let filter_option = inner.map(|filter| format!(" test.filter={filter}")).unwrap_or_default();
    let mut broken = 0;
    let mut after: Option<String> = None;
    let declared = loop {
        let from = after.as_ref().map(|id| format!(" test.after={id}")).unwrap_or_default();
        let mut watch = Watch::new();
        let end = guest.boot(&format!("loglevel=info{filter_option}{from}"), &mut watch)?;
        if watch.planned.is_none() && !matches!(end, End::Broken(_)) {
            bail!("{prefix}: the test image did not declare its cases: {}", watch.story(&end));
        }
        let story = watch.story(&end);
        let last = watch.ended.last().map(|(id, ..)| id.clone());
        for (id, outcome, took) in watch.ended {
            if filter.is_none_or(|filter| named(&id).contains(filter)) {
                results.add(Case { id: named(&id), rung, outcome, took });
            }
        }
        if let End::Broken(why) = &end
            && broken < MOST_BROKEN
        {
            let during = watch.running.map_or_else(|| "between two cases".to_owned(), |(id, _)| id);
            results.again(rung, &named(&during), why);
            broken += 1;
            after = last.or(after);
            continue;
        }
        if let Some((id, since)) = watch.running {
            if after.as_ref() == Some(&id) {
                bail!("{prefix}: the test image does not go on after {id}: {story}");
            }
            results.add(Case {
                id: named(&id),
                rung,
                outcome: Outcome::Failed(story),
                took: since.elapsed(),
            });
            after = Some(id);
            continue;
        }
        if !watch.done || watch.broken.is_some() || end != End::Stopped {
            let id = named("test-image.ends-cleanly");
            results.add(Case { id, rung, outcome: Outcome::Failed(story), took: Duration::ZERO });
        }
        break watch.declared;
    };
    for case in declared.iter().filter(|case| !case.ends.starts_with("return")) {
        let wanted = only.is_none_or(|only| case.id.contains(only))
            && filter.is_none_or(|filter| named(&case.id).contains(filter));
        if !wanted {
            continue;
        }
        let (begun, watch, end) = loop {
            let (begun, mut watch) = (Instant::now(), Watch::new());
            match guest.boot(&format!("loglevel=info test.solo={}", case.id), &mut watch)? {
                End::Broken(why) if broken < MOST_BROKEN => {
                    results.again(rung, &named(&case.id), &why);
                    broken += 1;
                }
                end => break (begun, watch, end),
            }
        };
        let outcome = judge_epitaph(case, &watch, &end);
        results.add(Case { id: named(&case.id), rung, outcome, took: begun.elapsed() });
    }
    Ok(())
}

/// Whether a boot that was meant to end in an epitaph ended in the right one.
fn judge_epitaph(case: &Declared, watch: &Watch, end: &End) -> Outcome {
    let wrong = |why: String| Outcome::Failed(format!("{why}\n{}", watch.story(end)));
    if let [(id, skipped @ Outcome::Skipped(_), _)] = watch.ended.as_slice()
        && *id == case.id
        && *end == End::Stopped
    {
        return skipped.clone();
    }
    if watch.running.as_ref().map(|(id, _)| id) != Some(&case.id) {
        return wrong("the case did not begin, or it returned".to_owned());
    }
    let Some(epitaph) = &watch.epitaph else { return wrong("no epitaph".to_owned()) };
    if epitaph.get("what") != Some(case.ends.as_str()) {
        return wrong(format!("expected an epitaph of kind {}", case.ends));
    }
    let frames = epitaph.get("frames").unwrap_or_default();
    if let Some(function) = &case.through
        && !frames.split(';').any(|frame| frame.contains(function.as_str()))
    {
        return wrong(format!("the backtrace does not name {function}"));
    }
    if case.elsewhere && epitaph.number("cpu").is_none_or(|cpu| cpu == 0) {
        return wrong(format!("the epitaph names CPU {:?}", epitaph.get("cpu")));
    }
    if epitaph.get("stopped") != epitaph.get("others") {
        return wrong("not all other CPUs stopped".to_owned());
    }
    match end {
        End::Crashed(_) => Outcome::Passed,
        End::Stopped | End::Killed(_) | End::Broken(_) => {
            wrong("the guest should have ended as crashed".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
