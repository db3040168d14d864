use super::*;
use log::LevelFilter;
use proptest::prelude::*;
use std::string::{String, ToString};
use std::vec::Vec;

static MORE: &[Opt] = &[
    Opt { name: "test.filter", kind: Kind::Text, help: "" },
    Opt { name: "pages", kind: Kind::Integer { min: 1, max: 64 }, help: "" },
    Opt { name: "tmem", kind: Kind::Switch, help: "" },
];

/// Every item as text, the way a person would write it down.
fn read(line: &str) -> Vec<String> {
    let mut items = Vec::new();
    parse(line, &[BASE, MORE], |item| {
        items.push(match item {
            Item::Option(opt, Value::Switch(on)) => std::format!("{}:{on}", opt.name),
            Item::Option(opt, Value::Choice(word)) => std::format!("{}:{word}", opt.name),
            Item::Option(opt, Value::Integer(number)) => std::format!("{}:{number}", opt.name),
            Item::Option(opt, Value::Text(text)) => std::format!("{}:{text}", opt.name),
            Item::Argument(word) => std::format!("arg:{word}"),
            Item::Diagnostic(what) => std::format!("{}{what}", if what.is_error() { "error: " } else { "" }),
        });
    });
    items
}

#[test]
fn options_of_every_type() {
    assert_eq!(
        read("  loglevel=debug\ttmem pages=0x10 test.filter=a=b\n"),
        ["loglevel:debug", "tmem:true", "pages:16", "test.filter:a=b"]
    );
    assert_eq!(read("tmem=0 "), ["tmem:false"]);
    assert_eq!(read(""), [""; 0]);
    assert_eq!(read(" \n\t "), [""; 0]);
}

#[test]
fn quotes_and_backslashes() {
    assert_eq!(read(r#"test.filter="a b""#), ["test.filter:a b"]);
    assert_eq!(read(r#""test.filter=a b" tmem"#), ["test.filter:a b", "tmem:true"]);
    assert_eq!(read(r#"test.filter=a\ b"#), ["test.filter:a b"]);
    assert_eq!(read(r#"test.filter=\"a\""#), [r#"test.filter:"a""#]);
    assert_eq!(read(r#"test.filter="a\"b\\""#), [r#"test.filter:a"b\"#]);
    assert_eq!(read(r"test.filter=C:\x\"), [r"test.filter:C:\x\"]);
    assert_eq!(read(r#"test.filter="" tmem"#), ["test.filter:", "tmem:true"]);
    assert_eq!(read("test.filter=grün"), ["test.filter:grün"]);
}

#[test]
fn an_unterminated_quote_is_said_and_the_word_taken() {
    assert_eq!(
        read(r#"tmem test.filter="a tmem"#),
        ["tmem:true", r#"a quote is never closed in "test.filter=a tmem""#, "test.filter:a tmem"]
    );
}

#[test]
fn unknown_options_are_reported_and_ignored() {
    assert_eq!(
        read("quiet root=/dev/xvda =x tmem"),
        [
            r#"unknown option "quiet" is ignored"#,
            r#"unknown option "root=/dev/xvda" is ignored"#,
            r#"unknown option "=x" is ignored"#,
            "tmem:true"
        ]
    );
    assert_eq!(read(r#""""#), [r#"unknown option "" is ignored"#]);
}

#[test]
fn a_bad_value_names_the_accepted_ones() {
    assert_eq!(
        read("console=vga"),
        [r#"error: console="vga" is not accepted; accepted: auto|xen|hvc0|uart|ttyS0|e9"#]
    );
    assert_eq!(read("pages=65"), [r#"error: pages="65" is not accepted; accepted: 1 to 64"#]);
    assert_eq!(read("pages"), ["error: pages needs a value; accepted: 1 to 64"]);
    assert_eq!(
        read("tmem=maybe"),
        [r#"error: tmem="maybe" is not accepted; accepted: 0|1|off|on|no|yes|false|true"#]
    );
    assert_eq!(read("test.filter"), ["error: test.filter needs a value; accepted: any text"]);
}

#[test]
fn numbers_are_digits() {
    for bad in ["", "+1", "-1", "0x", "0x+1", "1k", "99999999999999999999", "1 ", "0"] {
        assert_eq!(read(&std::format!("\"pages={bad}\"")).len(), 1);
        assert!(read(&std::format!("\"pages={bad}\""))[0].starts_with("error"), "{bad:?}");
    }
}

#[test]
fn the_last_of_several_counts_and_is_noticed() {
    assert_eq!(
        read("pages=1 pages=2"),
        ["pages:1", "pages is given more than once; the last one counts", "pages:2"]
    );
    assert_eq!(read("pages=1 pages=99")[0], "pages:1", "a bad value does not undo a good one");
    assert_eq!(read("pages=1 pages=99").len(), 2);
}

#[test]
fn words_after_two_dashes_are_arguments() {
    assert_eq!(read(r#"tmem -- tmem "a b" --"#), ["tmem:true", "arg:tmem", "arg:a b", "arg:--"]);
}

#[test]
fn a_word_that_is_too_long_is_ignored() {
    let longest = "x".repeat(MAX_WORD - "test.filter=".len());
    assert_eq!(read(&std::format!("test.filter={longest} tmem")).len(), 2);
    let items = read(&std::format!("test.filter={longest}y tmem"));
    assert!(
        items[0].starts_with("error: a word longer than 1024 bytes is ignored; it begins with"),
        "{items:?}"
    );
    assert_eq!(items[1], "tmem:true");
}

#[test]
fn base_settings() {
    let settings = |line: &str| {
        let mut settings = Settings::default();
        parse(line, &[BASE, MORE], |item| {
            settings.apply(&item);
        });
        settings
    };
    assert_eq!(settings(""), Settings::default());
    assert_eq!((settings("").log, settings("").console), (LevelFilter::Info, ConsoleChoice::Auto));
    assert_eq!(settings("loglevel=trace").log, LevelFilter::Trace);
    assert_eq!(settings("loglevel=7").log, LevelFilter::Info, "severities below 7");
    assert_eq!(settings("loglevel=0").log, LevelFilter::Off);
    assert_eq!(settings("loglevel=9").log, LevelFilter::Info, "a bad value leaves the default");
    for (word, choice) in [
        ("auto", ConsoleChoice::Auto),
        ("hvc0", ConsoleChoice::Xen),
        ("xen", ConsoleChoice::Xen),
        ("ttyS0", ConsoleChoice::Uart),
        ("uart", ConsoleChoice::Uart),
        ("e9", ConsoleChoice::PortE9),
    ] {
        assert_eq!(settings(&std::format!("tmem console={word}")).console, choice);
    }
    for (line, limit) in [
        ("", u32::MAX),
        ("maxcpus=4", 4),
        ("maxcpus=0", 1),
        ("maxcpus=4 maxcpus=2", 2),
        ("nosmp maxcpus=4", 1),
        ("maxcpus=4 nosmp", 1),
        ("nosmp nosmp=0", u32::MAX),
        ("maxcpus=many", u32::MAX),
    ] {
        assert_eq!(settings(line).cpu_limit(), limit, "{line}");
    }
    // Every word that the table accepts has a meaning.
    for opt in BASE {
        let Kind::Choice(words) = opt.kind else { continue };
        for word in words {
            assert!(Settings::default().apply(&Item::Option(opt, Value::Choice(word))));
        }
    }
}

/// Quotes a word so that it comes back as it is.
fn quote(word: &str) -> String {
    let escaped: String = word
        .chars()
        .flat_map(|c| if c == '"' || c == '\\' { std::vec!['\\', c] } else { std::vec![c] })
        .collect();
    std::format!("\"{escaped}\"")
}

proptest! {
    #[test]
    fn any_input_is_survived(line in "\\PC*", noise in prop::collection::vec(prop::sample::select(
        std::vec!["\"", "\\", " ", "=", "--", "pages=", "tmem", "\u{1F980}", "\n", "\0"]), 0..40)) {
        read(&line);
        let _ = read(&noise.concat()).iter().map(ToString::to_string).count();
    }

    #[test]
    fn any_text_survives_quoting(text in any::<String>()) {
        prop_assume!(text.len() < 512);
        let line = std::format!("tmem {} tmem=1", quote(&std::format!("test.filter={text}")));
        prop_assert_eq!(&read(&line)[1], &std::format!("test.filter:{text}"));
    }
}
