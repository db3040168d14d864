//! The harness of guest tests, against scripts that guests could follow.

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
            &[("what", &"panic"), ("frames", &"g"), ("cpu", &cpu), ("others", &"3"), ("stopped", &stopped)],
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
