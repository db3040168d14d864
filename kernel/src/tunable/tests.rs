use super::*;
use crate::cmdline::{self, Item};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::string::{String, ToString};
use std::vec::Vec;

const INTERVAL: Id = Id::SelfballoonInterval;

fn all_served() -> Tunables {
    let tunables = Tunables::new();
    Group::ALL.iter().for_each(|group| tunables.serve(*group));
    tunables
}

#[test]
fn names_are_unique_and_legal() {
    let mut seen = BTreeSet::new();
    for row in &TABLE {
        assert!(seen.insert(row.path) && seen.insert(row.option), "{}", row.path);
        // What a path of xenstore may have.
        assert!(row.path.chars().all(|c| c.is_ascii_alphanumeric() || "-/_".contains(c)), "{}", row.path);
        assert!(!row.help.is_empty() && !row.help.contains('|') && !row.help.contains('\n'), "{}", row.path);
    }
    assert!(!Group::ALL.is_empty());
}

#[test]
fn the_names_of_the_original_are_there() {
    for name in [
        "selfballooning",
        "selfballoon_interval",
        "selfballoon_downhysteresis",
        "selfballoon_uphysteresis",
        "selfballoon_min_usable_mb",
        "selfballoon_reserved_mb",
        "frontswap_selfshrinking",
        "frontswap_hysteresis",
        "frontswap_inertia",
    ] {
        assert!(all_served().named(&std::format!("selfballoon/{name}")).is_ok(), "{name}");
    }
}

/// A domain's node may have about 2 KiB of children's names and value together, and 1000 nodes are its share
/// (Xen: `tools/xenstore/xenstored_core.c`, the quotas).
#[test]
fn the_nodes_fit_the_quota_of_a_domain() {
    for group in Group::ALL {
        let names = TABLE.iter().filter(|row| row.group == *group).map(|row| row.name.len() + 1);
        assert!(names.sum::<usize>() <= 1024, "{}", group.name());
    }
    assert!(Group::ALL.iter().map(|group| group.name().len() + 1).sum::<usize>() <= 1024);
    assert!(TABLE.len() + Group::ALL.len() < 100);
}

#[test]
fn values_at_start() {
    let tunables = Tunables::new();
    assert_eq!(tunables.number(INTERVAL), 5);
    assert!(tunables.is_on(Id::Selfballooning));
    assert_eq!(tunables.word(Id::Policy), "committed");
    assert_eq!(tunables.word(Id::Generation), "last");
    assert_eq!(tunables.word(Id::Arithmetic), "fixed");
    assert_eq!(tunables.value(Id::SelfballoonReservedMb), None);
    assert_eq!(tunables.generation(), 0);
}

#[test]
fn what_is_computed_at_start_gives_way_to_what_was_set() {
    let tunables = Tunables::new();
    assert_eq!(tunables.resolve(Id::SelfballoonReservedMb, 51), 51);
    assert_eq!(tunables.resolve(Id::SelfballoonReservedMb, 99), 51, "once");
    let tunables = Tunables::new();
    assert_eq!(tunables.set(Id::SelfballoonReservedMb, "0"), Ok(true));
    assert_eq!(tunables.resolve(Id::SelfballoonReservedMb, 51), 0, "0 was set, and is a value");
}

#[test]
#[should_panic(expected = "is computed as 0, which it does not accept")]
fn a_computed_value_must_be_accepted() {
    Tunables::new().resolve(INTERVAL, 0);
}

#[test]
fn what_would_wedge_a_mechanism_is_refused() {
    let tunables = all_served();
    // The original stored 2^32 as 0 and divided by it, and took any interval times HZ.
    for (id, values) in [
        (INTERVAL, &["0", "86401", "4294967296", "-1", "+5", "5s", "", " ", "1e3", "0x", "５"][..]),
        (Id::SelfballoonDownhysteresis, &["0", "4294967296"]),
        (Id::SelfballoonUphysteresis, &["0", "4294967296"]),
        (Id::FrontswapHysteresis, &["0", "4294967296"]),
        (Id::FrontswapInertia, &["0", "18446744073709551616"]),
        (Id::SelfballoonMinUsableMb, &["16777216", "18446744073709551615"]),
        (Id::Selfballooning, &["2", "ON", ""]),
        (Id::Policy, &["0", "Committed", "commit"]),
        (Id::Overcommit, &["2"]),
    ] {
        let before = tunables.value(id);
        for value in values {
            assert_eq!(tunables.set(id, value), Err(Refusal::BadValue(id, value)));
            assert_eq!(tunables.value(id), before);
        }
    }
    assert_eq!(tunables.generation(), 0);
}

#[test]
fn refusals_name_what_is_accepted_and_the_unit() {
    let tunables = all_served();
    let said = |id, value| tunables.set(id, value).unwrap_err().to_string();
    assert_eq!(
        said(INTERVAL, "0"),
        r#"selfballoon/selfballoon_interval: "0" is not accepted; accepted: 1 to 86400 s"#
    );
    assert_eq!(
        said(Id::Policy, "x"),
        r#"selfballoon/policy: "x" is not accepted; accepted: committed|pressure"#
    );
    assert!(said(Id::ScrubPages, "\x1b[2J\n").contains(r#""\u{1b}[2J\n""#), "nothing that a terminal obeys");
    assert!(said(INTERVAL, &"é".repeat(9999)).len() < 200);
    assert_eq!(tunables.named("x/y").unwrap_err().to_string(), r#""x/y": there is no such tunable"#);
}

#[test]
fn changes_are_counted_and_told() {
    static LAST: AtomicU64 = AtomicU64::new(UNSET);
    let tunables = Tunables::new();
    tunables.on_change(|id| LAST.store(id as u64, Ordering::Relaxed));
    tunables.on_change(|_| unreachable!("only the first counts"));
    assert_eq!(tunables.set(INTERVAL, " 7\n"), Ok(true));
    assert_eq!((tunables.number(INTERVAL), tunables.generation()), (7, 1));
    assert_eq!(LAST.load(Ordering::Relaxed), INTERVAL as u64);
    assert_eq!(tunables.set(INTERVAL, "0x7"), Ok(false), "the same");
    assert_eq!(tunables.generation(), 1);
}

#[test]
fn only_what_is_served_is_offered() {
    let tunables = Tunables::new();
    assert_eq!(tunables.offered().count(), 0);
    assert_eq!(tunables.named("selfballoon/policy"), Err(Refusal::NotServed(Id::Policy)));
    tunables.serve(Group::Selfballoon);
    assert_eq!(tunables.named("selfballoon/policy"), Ok(Id::Policy));
    assert_eq!(tunables.named("selfballoon.policy"), Ok(Id::Policy));
    assert_eq!(tunables.named("xen_scrub_pages"), Err(Refusal::NotServed(Id::ScrubPages)));
    tunables.serve(Group::Balloon);
    for name in ["xen_scrub_pages", "balloon/xen_scrub_pages", "balloon.xen_scrub_pages"] {
        assert_eq!(tunables.named(name), Ok(Id::ScrubPages));
    }
    assert!(tunables.offered().all(|id| id.declaration().group != Group::Vm));
}

/// Applies a command line, and answers what is wrong with it.
fn command_line(tunables: &Tunables, line: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    cmdline::parse(line, &[OPTIONS], |item| {
        if let Item::Diagnostic(diagnostic) = &item {
            wrong.push(
                explain(diagnostic).map_or_else(|| diagnostic.to_string(), |refusal| refusal.to_string()),
            );
        } else {
            assert!(tunables.apply(&item));
        }
    });
    wrong
}

#[test]
fn the_command_line_sets_every_group() {
    let tunables = Tunables::new();
    let line = "selfballoon.policy=pressure selfballoon.selfballoon_interval=0x10 xen_scrub_pages=0 \
                vm.overcommit=always selfballoon.selfballooning=off selfballoon.selfballoon_reserved_mb=0";
    assert_eq!(command_line(&tunables, line), [""; 0]);
    assert_eq!(tunables.word(Id::Policy), "pressure");
    assert_eq!(tunables.number(INTERVAL), 16);
    assert!(!tunables.is_on(Id::ScrubPages) && !tunables.is_on(Id::Selfballooning));
    assert_eq!(tunables.word(Id::Overcommit), "always");
    assert_eq!(tunables.value(Id::SelfballoonReservedMb), Some(0));
}

#[test]
fn the_command_line_is_judged_as_everything_else() {
    let tunables = Tunables::new();
    let line = "selfballoon.selfballoon_interval=0 selfballoon.policy balloon.xen_scrub_pages=1";
    assert_eq!(
        command_line(&tunables, line),
        [
            r#"selfballoon/selfballoon_interval: "0" is not accepted; accepted: 1 to 86400 s"#,
            r#"selfballoon/policy: "" is not accepted; accepted: committed|pressure"#,
            r#"unknown option "balloon.xen_scrub_pages=1" is ignored"#,
        ]
    );
    assert_eq!(tunables.generation(), 0);
    let foreign = cmdline::Opt { name: "other", kind: Kind::Switch, help: "" };
    let foreign: &'static cmdline::Opt = std::boxed::Box::leak(std::boxed::Box::new(foreign));
    assert!(!tunables.apply(&Item::Option(foreign, Value::Switch(true))));
}

proptest! {
    #[test]
    fn any_text_is_refused_or_shown_as_it_reads(index in 0..COUNT, text in ".{0,40}") {
        let tunables = Tunables::new();
        let id = TABLE[index].id;
        match tunables.set(id, &text) {
            Ok(_) => {
                // What is shown sets the same again.
                let shown = tunables.text(id).unwrap().to_string();
                prop_assert_eq!(tunables.set(id, &shown), Ok(false));
            }
            Err(refusal) => prop_assert!(refusal.to_string().starts_with(TABLE[index].path)),
        }
    }

    #[test]
    fn numbers_are_accepted_exactly_in_their_range(index in 0..COUNT, near in -2_i128..3, at_max: bool) {
        if let Kind::Integer { min, max } = TABLE[index].kind {
            let number = i128::from(if at_max { max } else { min }) + near;
            let accepted = (i128::from(min)..=i128::from(max)).contains(&number);
            let tunables = Tunables::new();
            prop_assert_eq!(tunables.set(TABLE[index].id, &number.to_string()).is_ok(), accepted);
        }
    }
}
