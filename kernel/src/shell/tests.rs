use super::*;
use crate::tunable::Group;
use proptest::prelude::*;
use std::string::String;

struct Figures;

impl Stats for Figures {
    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "reservation_kib 4096")
    }
}

fn offered() -> Tunables {
    let tunables = Tunables::new();
    tunables.serve(Group::Selfballoon);
    tunables
}

fn answer(tunables: &Tunables, line: &str) -> String {
    let mut out = String::new();
    run(line, tunables, &Figures, &mut out);
    out
}

/// Everything that is shown for these bytes.
fn shown(typed: &[u8]) -> String {
    let mut out = String::new();
    Shell::new().feed(typed, &offered(), &Figures, &mut out);
    out
}

#[test]
fn commands() {
    let tunables = offered();
    assert_eq!(answer(&tunables, ""), "");
    assert_eq!(answer(&tunables, "  \t "), "");
    assert_eq!(answer(&tunables, "help"), HELP);
    assert_eq!(answer(&tunables, "stats"), "reservation_kib 4096\n");
    assert_eq!(
        answer(&tunables, "get selfballoon/selfballoon_interval"),
        "selfballoon/selfballoon_interval = 5 s\n  between two runs\n  takes 1 to 86400 s; at start 5\n"
    );
    assert!(answer(&tunables, "get selfballoon.selfballoon_reserved_mb").contains("(computed at start)"));
    assert_eq!(
        answer(&tunables, " set  selfballoon.selfballoon_interval\t7 "),
        "selfballoon/selfballoon_interval = 7 s\n"
    );
    assert_eq!(
        answer(&tunables, "set selfballoon/selfballoon_interval 7"),
        "selfballoon/selfballoon_interval = 7 s, as before\n"
    );
    assert_eq!(tunables.number(Id::SelfballoonInterval), 7);
    assert_eq!(answer(&tunables, "list").lines().count(), tunables.offered().count());
    assert_eq!(answer(&tunables, "list selfballoon/pol"), "selfballoon/policy = committed\n");
}

#[test]
fn misuse_is_answered() {
    let tunables = offered();
    for (line, wanted) in [
        ("dance", "\"dance\" is not a command; help lists them\n"),
        ("get", "get NAME\n"),
        ("get a b", "get NAME\n"),
        ("set", "set NAME VALUE\n"),
        ("set selfballoon/policy", "set NAME VALUE\n"),
        ("set a b c", "set NAME VALUE\n"),
        ("set a b c d e f", "set NAME VALUE\n"),
        ("stats now", "stats: too many words\n"),
        ("list a b", "list: too many words\n"),
        ("get x/y", "\"x/y\": there is no such tunable\n"),
        ("set vm/overcommit always", "vm/overcommit: nothing obeys it in this guest\n"),
        ("list vm", "no tunable that this guest obeys begins so\n"),
        (
            "set selfballoon/policy chaos",
            "selfballoon/policy: \"chaos\" is not accepted; accepted: committed|pressure\n",
        ),
    ] {
        assert_eq!(answer(&tunables, line), wanted);
    }
    assert_eq!(tunables.generation(), 0);
}

#[test]
fn only_a_set_that_is_accepted_is_to_be_published() {
    let tunables = offered();
    let set = |line: &str| run(line, &tunables, &Figures, &mut String::new()).set;
    assert!(set("set selfballoon/policy pressure"));
    assert!(!set("set selfballoon/policy x") && !set("get selfballoon/policy") && !set("list"));
}

#[test]
fn lines_end_with_either_or_both() {
    for end in ["\r", "\n", "\r\n"] {
        let typed = std::format!("help{end}stats{end}");
        let prompt = PROMPT;
        assert_eq!(
            shown(typed.as_bytes()),
            std::format!("help\n{HELP}{prompt}stats\nreservation_kib 4096\n{prompt}")
        );
    }
    assert_eq!(shown(b"\n\r"), std::format!("\n{PROMPT}\n{PROMPT}"), "two ends");
}

#[test]
fn lines_are_edited() {
    assert!(shown(b"heXX\x08\x7flp\r").ends_with(&std::format!("{HELP}{PROMPT}")));
    assert_eq!(shown(b"\x08\x08"), "", "nothing to take back");
    assert!(shown(b"garbage\x15stats\r").contains("reservation_kib"));
    assert_eq!(shown(b"garbage\x03\r"), std::format!("garbage^C\n{PROMPT}\n{PROMPT}"));
}

#[test]
fn escape_sequences_are_swallowed() {
    // Arrow up, F1, delete, a mouse report begun and given up, alt-x.
    let typed = b"st\x1b[A\x1bOP\x1b[3~\x1b[1;2\x15st\x1bxats\r";
    assert!(shown(typed).contains("reservation_kib"), "{:?}", shown(typed));
    assert_eq!(shown(b"\x1b\x1b\x1b[\r"), std::format!("\n{PROMPT}"));
}

#[test]
fn a_line_that_is_too_long_is_said_and_forgotten() {
    let long = std::vec![b'x'; 100_000];
    let text = shown(&[&long[..], b"\x08\rstats\r"].concat());
    assert!(text.len() < 1000, "{} characters for a line of 100000", text.len());
    assert!(text.contains("a line may have 256 characters") && text.contains("reservation_kib"));
    let full = std::vec![b'y'; LINE_MAX];
    assert!(shown(&[&full[..], b"\r"].concat()).contains("is not a command"), "as long as it may be");
    assert!(shown(&[&long[..], b"\x15help\r"].concat()).contains(HELP), "begun again");
}

#[test]
fn pieces_are_as_good_as_the_whole() {
    let typed = b"set selfballoon/selfballoon_interval 9\r\nget selfballoon/selfballoon_interval\r\n";
    let (mut shell, tunables, mut out) = (Shell::new(), offered(), String::new());
    for byte in typed {
        shell.feed(&[*byte], &tunables, &Figures, &mut out);
    }
    assert_eq!(out, shown(typed));
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_nothing_but_plain_text_is_shown(typed in prop::collection::vec(any::<u8>(), 0..2000)) {
        let out = shown(&typed);
        prop_assert!(out.chars().all(|c| matches!(c, ' '..='~' | '\n' | '\x08' | '\x07')), "{:?}", out);
    }

    #[test]
    fn any_words_are_survived(words in prop::collection::vec("(get|set|list|help|stats|[a-z/._]{0,30}|selfballoon/policy|[0-9]{0,25}|.{0,5})", 0..6)) {
        let line = words.join(" ");
        let tunables = offered();
        let out = answer(&tunables, &line);
        prop_assert!(out.len() < 4000);
        prop_assert!(["committed", "pressure"].contains(&tunables.word(Id::Policy)));
    }

    #[test]
    fn the_line_is_what_was_typed(typed in "[ -~]{0,256}") {
        let (mut editor, mut echo) = (Editor::new(), String::new());
        for byte in typed.bytes() {
            prop_assert_eq!(editor.feed(byte, &mut echo), Entered::Nothing);
        }
        prop_assert_eq!(&echo, &typed);
        prop_assert_eq!(editor.feed(b'\n', &mut echo), Entered::Line(&typed));
    }
}
