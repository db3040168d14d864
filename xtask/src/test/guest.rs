//! Driving the guest test image: many cases in one boot, judged by typed records.
//!
//! The image first declares every case it has, then runs those that return, telling when each begins and how it
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

/// How long one guest case may take: some take half a minute on a loaded machine, under emulation.
pub(crate) const CASE_BOUND: Duration = Duration::from_secs(120);
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
mod tests {
    use super::*;
    use std::fmt::Display;

    fn line(kind: &str, fields: &[(&str, &dyn Display)]) -> Vec<u8> {
        let mut text = String::new();
        ebb::report::write(&mut text, kind, fields).unwrap();
        text.into_bytes()
    }

    /// Answers each boot with the lines of a script, and remembers the command lines.
    struct Script {
        boots: Vec<(Vec<Vec<u8>>, End)>,
        cmdlines: Vec<String>,
    }

    impl Guest for Script {
        fn boot(&mut self, cmdline: &str, watch: &mut Watch) -> Result<End> {
            self.cmdlines.push(cmdline.to_owned());
            let (lines, end) = self.boots.remove(0);
            for line in lines {
                if watch.line(&line).is_break() {
                    return Ok(End::Killed(String::new()));
                }
            }
            Ok(end)
        }
    }

    fn declare() -> Vec<Vec<u8>> {
        vec![
            line("case", &[("id", &"a"), ("ends", &"return")]),
            line("case", &[("id", &"b"), ("ends", &"return")]),
            line("case", &[("id", &"f"), ("ends", &"page-fault"), ("through", &"fault::null_read")]),
            line("plan", &[("cases", &3)]),
        ]
    }

    fn run_script(boots: Vec<(Vec<Vec<u8>>, End)>) -> (Result<()>, Vec<(String, bool)>, Vec<String>) {
        let mut script = Script { boots, cmdlines: Vec::new() };
        let mut results = Results::default();
        let ran = run(Rung::Qemu, "", &mut script, None, None, &mut results);
        let json = results.to_json();
        let cases = json["cases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| (case["id"].as_str().unwrap().to_owned(), case["outcome"] == "passed"))
            .collect();
        (ran, cases, script.cmdlines)
    }

    fn passed(id: &'static str) -> [Vec<u8>; 2] {
        [line("begin", &[("id", &id)]), line("end", &[("id", &id), ("outcome", &"pass")])]
    }

    fn epitaph(what: &'static str, frames: &'static str) -> Vec<Vec<u8>> {
        let mut lines = declare();
        lines.push(line("begin", &[("id", &"f")]));
        lines.push(line("epitaph", &[("what", &what), ("message", &"m"), ("frames", &frames)]));
        lines
    }

    fn all_shared_pass() -> (Vec<Vec<u8>>, End) {
        let mut lines = declare();
        lines.extend(passed("a"));
        lines.extend(passed("b"));
        lines.push(line("done", &[("ran", &2)]));
        (lines, End::Stopped)
    }

    #[test]
    fn a_good_run_passes_and_gives_the_fatal_case_its_own_boot() {
        let fatal = (epitaph("page-fault", "x::fault::null_read;main"), End::Crashed("status 35".to_owned()));
        let (ran, cases, cmdlines) = run_script(vec![all_shared_pass(), fatal]);
        ran.unwrap();
        assert_eq!(cases, [("a".into(), true), ("b".into(), true), ("f".into(), true)]);
        assert!(cmdlines[1].contains("test.solo=f"));
    }

    #[test]
    fn a_wrong_epitaph_fails() {
        for (what, frames, end) in [
            ("panic", "x::fault::null_read", End::Crashed(String::new())),
            ("page-fault", "main", End::Crashed(String::new())),
            ("page-fault", "x::fault::null_read", End::Stopped),
        ] {
            let (ran, cases, _) = run_script(vec![all_shared_pass(), (epitaph(what, frames), end)]);
            ran.unwrap();
            assert_eq!(cases[2], ("f".into(), false), "{what} {frames}");
        }
    }

    #[test]
    fn a_fatal_case_may_have_nothing_to_ask() {
        let mut lines = declare();
        lines.push(line("begin", &[("id", &"f")]));
        lines.push(line("end", &[("id", &"f"), ("outcome", &"skip"), ("why", &"one CPU")]));
        let (ran, cases, _) = run_script(vec![all_shared_pass(), (lines, End::Stopped)]);
        ran.unwrap();
        assert_eq!(cases.len(), 3);
        let mut script = declare();
        script.push(line("begin", &[("id", &"f")]));
        script.push(line("end", &[("id", &"f"), ("outcome", &"pass")]));
        let (ran, cases, _) = run_script(vec![all_shared_pass(), (script, End::Stopped)]);
        ran.unwrap();
        assert_eq!(cases[2], ("f".into(), false), "it returned");
    }

    #[test]
    fn an_epitaph_of_the_wrong_cpu_or_with_others_running_fails() {
        let epitaph = |cpu: &'static str, stopped: &'static str| {
            let mut lines = vec![
                line("case", &[("id", &"f"), ("ends", &"panic"), ("through", &"g"), ("cpu", &"other")]),
                line("plan", &[("cases", &1)]),
                line("begin", &[("id", &"f")]),
            ];
            lines.push(line(
                "epitaph",
                &[
                    ("what", &"panic"),
                    ("frames", &"g"),
                    ("cpu", &cpu),
                    ("others", &"3"),
                    ("stopped", &stopped),
                ],
            ));
            lines
        };
        for (cpu, stopped, good) in [("2", "3", true), ("0", "3", false), ("2", "2", false)] {
            let declared = vec![
                line("case", &[("id", &"f"), ("ends", &"panic"), ("through", &"g"), ("cpu", &"other")]),
                line("plan", &[("cases", &1)]),
                line("done", &[("ran", &0)]),
            ];
            let fatal = (epitaph(cpu, stopped), End::Crashed(String::new()));
            let (ran, cases, _) = run_script(vec![(declared, End::Stopped), fatal]);
            ran.unwrap();
            assert_eq!(cases, [("f".into(), good)], "cpu {cpu}, {stopped} stopped");
        }
    }

    #[test]
    fn a_case_that_kills_the_guest_costs_only_itself() {
        let mut first = declare();
        first.push(line("begin", &[("id", &"a")]));
        let mut second = declare();
        second.extend(passed("b"));
        second.push(line("done", &[("ran", &1)]));
        let fatal = (epitaph("page-fault", "fault::null_read"), End::Crashed(String::new()));
        let (ran, cases, cmdlines) =
            run_script(vec![(first, End::Killed(String::new())), (second, End::Stopped), fatal]);
        ran.unwrap();
        assert_eq!(cases, [("a".into(), false), ("b".into(), true), ("f".into(), true)]);
        assert!(cmdlines[1].contains("test.after=a"));
    }

    #[test]
    fn what_the_emulator_broke_is_asked_again_from_where_it_was() {
        let broken = || End::Broken("RIP: e008".to_owned());
        let mut first = declare();
        first.extend(passed("a"));
        first.push(line("begin", &[("id", &"b")]));
        let mut second = declare();
        second.extend(passed("b"));
        second.push(line("done", &[("ran", &1)]));
        let fatal = || epitaph("page-fault", "fault::null_read");
        let good = (fatal(), End::Crashed("status 35".to_owned()));
        let boots = vec![(first, broken()), (second, End::Stopped), (fatal(), broken()), good];
        let (ran, cases, cmdlines) = run_script(boots);
        ran.unwrap();
        assert_eq!(cases, [("a".into(), true), ("b".into(), true), ("f".into(), true)]);
        assert!(cmdlines[1].contains("test.after=a"), "{}", cmdlines[1]);
        assert!(cmdlines[3].contains("test.solo=f"));
    }

    #[test]
    fn nor_is_a_boot_that_broke_before_its_plan_the_end() {
        let fatal = (epitaph("page-fault", "fault::null_read"), End::Crashed(String::new()));
        let boots = vec![(Vec::new(), End::Broken(String::new())), all_shared_pass(), fatal];
        let (ran, cases, _) = run_script(boots);
        ran.unwrap();
        assert_eq!(cases.len(), 3);
    }

    #[test]
    fn what_breaks_every_time_fails() {
        let during_a = || {
            let mut lines = declare();
            lines.push(line("begin", &[("id", &"a")]));
            (lines, End::Broken("RIP: e008".to_owned()))
        };
        let mut rest = declare();
        rest.extend(passed("b"));
        rest.push(line("done", &[("ran", &1)]));
        let fatal = (epitaph("page-fault", "fault::null_read"), End::Crashed(String::new()));
        let mut boots: Vec<_> = (0..=MOST_BROKEN).map(|_| during_a()).collect();
        boots.extend([(rest, End::Stopped), fatal]);
        let (ran, cases, _) = run_script(boots);
        ran.unwrap();
        assert_eq!(cases, [("a".into(), false), ("b".into(), true), ("f".into(), true)]);
    }

    #[test]
    fn the_story_says_what_failed() {
        let mut lines = declare();
        lines.push(line("begin", &[("id", &"f")]));
        lines.push(line("end", &[("id", &"f"), ("outcome", &"fail"), ("why", &"it was refused")]));
        let mut watch = Watch::new();
        for line in lines {
            assert!(watch.line(&line).is_continue());
        }
        assert!(watch.story(&End::Stopped).contains("f: it was refused"));
    }

    #[test]
    fn what_cannot_match_is_not_booted() {
        for (prefix, only, filter, boots) in [
            ("", None, "threads.", true),
            ("", None, "4-vcpus/threads.", false),
            ("8-mib/", Some("boot."), "threads.", false),
            ("8-mib/", Some("boot."), "6-gib/", false),
            ("8-mib/", Some("boot."), "boot.", true),
            ("8-mib/", Some("boot."), "boot.heap", true),
            ("8-mib/", Some("boot."), "mib/boot.he", true),
            ("8-mib/", Some("boot."), "8-mib", true),
            ("8-mib/", Some("boot."), "heap", true),
            ("8-mib/", Some("boot."), "t.heap", true),
        ] {
            assert_eq!(may_match(prefix, only, Some(filter)), boots, "{prefix} {only:?} {filter}");
            assert!(may_match(prefix, only, None));
        }
        let mut script = Script { boots: Vec::new(), cmdlines: Vec::new() };
        let mut results = Results::default();
        run(Rung::Qemu, "8-mib/", &mut script, Some("boot."), Some("smp."), &mut results).unwrap();
        assert!(script.cmdlines.is_empty(), "it was not booted");
    }

    #[test]
    fn a_guest_that_says_nothing_is_an_error() {
        let (ran, _, _) = run_script(vec![(Vec::new(), End::Stopped)]);
        assert!(ran.unwrap_err().to_string().contains("did not declare"));
    }

    #[test]
    fn a_run_without_its_last_record_fails() {
        let (mut lines, end) = all_shared_pass();
        lines.pop();
        let fatal = (epitaph("page-fault", "fault::null_read"), End::Crashed(String::new()));
        let (ran, cases, _) = run_script(vec![(lines, end), fatal]);
        ran.unwrap();
        assert!(cases.contains(&("test-image.ends-cleanly".into(), false)));
    }

    #[test]
    fn a_damaged_record_fails_the_case_that_ran() {
        let mut lines = declare();
        lines.push(line("begin", &[("id", &"a")]));
        lines.push(b"\x1eend id=a outcome=pass #00000000\n".to_vec());
        let mut second = declare();
        second.extend(passed("b"));
        second.push(line("done", &[("ran", &1)]));
        let fatal = (epitaph("page-fault", "fault::null_read"), End::Crashed(String::new()));
        let (ran, cases, _) = run_script(vec![(lines, End::Stopped), (second, End::Stopped), fatal]);
        ran.unwrap();
        assert_eq!(cases[0], ("a".into(), false));
    }
}
