//! `docs/tunables.md` says what the table says.
//!
//! `EBB_WRITE_DOCS=1 cargo test -p ebb tunable::docs` writes it anew.

use super::{Declaration, Group, Initial, SWITCHES, TABLE, Text};
use crate::cmdline::{BASE, Kind, Opt};
use std::fmt::Write as _;
use std::string::{String, ToString};
use std::{format, fs};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tunables.md");

const HEAD: &str = "# Tunables

<!-- Written by the table in kernel/src/tunable/table.rs; a test compares. To write it anew:
     EBB_WRITE_DOCS=1 cargo test -p ebb tunable::docs -->

What an operator may set. A value that is not accepted is refused with a sentence that names the accepted ones, and the
value in force stays.

| where | how |
|---|---|
| command line | the option, such as `selfballoon.selfballoon_interval=3` |
| dom0 | `xenstore-write /local/domain/$N/data/ebb/tunables/selfballoon/selfballoon_interval 3` |
| the guest's console | `set selfballoon/selfballoon_interval 3`; `help` tells more |

In xenstore, each node holds the value in force, and `data/ebb/tunables-status` says what came of the last write: its
name and `ok`, or its name and why it was refused, after which the node shows the value in force again. A guest offers
the groups whose mechanism it has: without Xen, nothing of ballooning. A node written before the guest is up, such as by
a script that runs between `xl create -p` and `xl unpause`, counts as a write.

Switches take `0` and `1`, and also `off`, `on`, `no`, `yes`, `false`, `true`. Numbers may be hexadecimal after `0x`.
";

const OPTIONS: &str = "
## Options of the command line alone

They are read once, at boot. A switch that stands alone, without a value, is on. An option that nobody knows is reported in
the log and ignored; one with a value that is not accepted is reported with those that are, and what held before holds.
The image of this repository also knows `sample_ms` and those of its [workloads](workloads.md). What became of the switches
of Linux's drivers is told [elsewhere](selfballooning.md#options-of-older-kernels).

| option | values | meaning |
|---|---|---|
";

fn render() -> String {
    let mut page = HEAD.to_string();
    for group in Group::ALL {
        let _ = write!(page, "\n## {}\n\n{}\n\n", group.name(), group.help());
        page += "| name | option | values | unit | at start | meaning |\n|---|---|---|---|---|---|\n";
        for row in TABLE.iter().filter(|row| row.group == *group) {
            let Declaration { name, option, unit, help, .. } = row;
            let values = values(row.kind);
            let start = match row.initial {
                Initial::Value(value) => format!("`{}`", Text { id: row.id, value }),
                Initial::AtStart(how) => how.to_string(),
            };
            let _ = writeln!(page, "| `{name}` | `{option}` | {values} | {unit} | {start} | {help} |");
        }
    }
    page += OPTIONS;
    for Opt { name, kind, help } in BASE.iter().chain(SWITCHES) {
        let _ = writeln!(page, "| `{name}` | {} | {help} |", values(*kind));
    }
    page
}

fn values(kind: Kind) -> String {
    match kind {
        Kind::Switch => "`0`, `1`".to_string(),
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<std::vec::Vec<_>>().join(", ")
        }
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::Text => "any text".to_string(),
    }
}

#[test]
fn the_page_says_what_the_table_says() {
    let page = render();
    if std::env::var_os("EBB_WRITE_DOCS").is_some() {
        fs::write(FILE, &page).unwrap();
    }
    let written = fs::read_to_string(FILE).unwrap();
    assert!(
        written == page,
        "docs/tunables.md differs from the table; EBB_WRITE_DOCS=1 cargo test -p ebb tunable::docs writes it anew"
    );
}
