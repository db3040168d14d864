//! The guest test image: many cases in one boot, on Xen or on bare QEMU.
//!
//! It declares every case that is asked for, runs those that return, and says how each ended, as records on the console
//! (`xtask/src/test/guest.rs` lists them). The others are not declared: a console takes some hundred lines a second, and
//! there are hundreds of cases. Cases that end the machine run alone, when the command line names one.
//!
//! | option | meaning |
//! |---|---|
//! | `test.filter=TEXT` | declare and run only cases whose id contains it |
//! | `test.after=ID` | go on after this case, which ended an earlier boot |
//! | `test.solo=ID` | declare and run this case and nothing else |
//! | `test.soak_s=N` | soak for N seconds instead of 3 |
#![no_std]
#![no_main]

extern crate alloc;

mod balloon;
mod bench_balloon;
mod bench_core;
mod bench_evict;
mod bench_swap;
mod conformance;
mod console;
mod domain;
mod fast_path;
mod faults;
mod keyboard;
mod paged;
mod percpu;
mod reclaim;
mod smp;
mod soak;
mod store;
mod store_service;
mod threads;
mod tmem;
mod tunables;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;
use ebb::arch::interrupts;
use ebb::cmdline::{self, BASE, Item, Kind, Opt, Value};
use ebb_boot::cases::{self, Case, Ends, Needs, Not};
use ebb_boot::{Machine, Outcome, check, report};

ebb_boot::entry!(main, OPTIONS);

static OPTIONS: &[Opt] = &[
    Opt { name: "test.filter", kind: Kind::Text, help: "run only cases whose id contains this" },
    Opt { name: "test.after", kind: Kind::Text, help: "go on after this case" },
    Opt { name: "test.solo", kind: Kind::Text, help: "run this case alone" },
    Opt { name: "test.soak_s", kind: Kind::Text, help: "how long the soak runs, in seconds" },
];

/// What the command line asks for.
#[derive(Default)]
struct Wish {
    filter: Option<String>,
    after: Option<String>,
    solo: Option<String>,
    soak_s: Option<u64>,
}

impl Wish {
    fn read(line: &str) -> Self {
        let mut wish = Self::default();
        cmdline::parse(line, &[BASE, OPTIONS], |item| {
            if let Item::Option(opt, Value::Text(value)) = item {
                if opt.name == "test.soak_s" {
                    wish.soak_s = value.parse().ok();
                    return;
                }
                let value = Some(String::from(value));
                match opt.name {
                    "test.filter" => wish.filter = value,
                    "test.after" => wish.after = value,
                    "test.solo" => wish.solo = value,
                    _ => {}
                }
            }
        });
        wish
    }
}

/// A case from any source: registered in the link section, from the conformance suite, from the boot crate.
enum Any {
    Registered(&'static Case),
    Check(&'static check::Check),
    Conformance(conformance::GuestCase),
}

impl Any {
    fn id(&self) -> &'static str {
        match self {
            Self::Registered(case) => case.id,
            Self::Check((id, _)) => id,
            Self::Conformance(case) => case.id,
        }
    }

    fn ends(&self) -> Ends {
        match self {
            Self::Registered(case) => case.ends,
            Self::Check(_) | Self::Conformance(_) => Ends::Returns,
        }
    }

    fn run(&self, machine: &'static Machine) -> Result<(), Not> {
        match self {
            Self::Registered(case) => (case.run)(machine),
            Self::Check((_, run)) => run(machine).map_err(Not::from),
            Self::Conformance(case) => conformance::run(case, machine),
        }
    }
}

fn main(machine: &'static Machine) -> Outcome {
    let wish = Wish::read(machine.boot_info().command_line());
    let on_xen = machine.domain().is_some();
    let several = machine.cpus().count() > 1;
    let here = |case: &&Case| match case.needs {
        Needs::Nothing => true,
        Needs::Xen => on_xen,
        Needs::Cpus => several,
    };
    let mut all: Vec<Any> = cases::registered().iter().filter(here).map(Any::Registered).collect();
    all.extend(check::CHECKS.iter().map(Any::Check));
    if on_xen {
        all.extend(conformance::all().into_iter().map(Any::Conformance));
    }
    all.sort_by_key(Any::id);
    for pair in all.windows(2) {
        assert!(pair[0].id() != pair[1].id(), "two cases are called {}", pair[0].id());
    }

    all.retain(|case| match (&wish.solo, &wish.filter) {
        (Some(solo), _) => case.id() == solo,
        (None, Some(filter)) => case.id().contains(filter.as_str()),
        (None, None) => true,
    });
    for case in &all {
        match case.ends() {
            Ends::Returns => report("case", &[("id", &case.id()), ("ends", &"return")]),
            Ends::WithHelp => report("case", &[("id", &case.id()), ("ends", &"return-with-help")]),
            Ends::Epitaph { what, through } => {
                report("case", &[("id", &case.id()), ("ends", &what), ("through", &through)]);
            }
            Ends::EpitaphElsewhere { what, through } => {
                let cpu = "other";
                report("case", &[("id", &case.id()), ("ends", &what), ("through", &through), ("cpu", &cpu)]);
            }
        }
    }
    report("plan", &[("cases", &all.len())]);

    if let Some(solo) = &wish.solo {
        let Some(case) = all.first() else {
            log::error!("there is no case {solo}");
            return Outcome::Failure;
        };
        run(case, machine);
        return Outcome::Success;
    }
    let wanted = |case: &&Any| {
        case.ends() == Ends::Returns && wish.after.as_ref().is_none_or(|after| case.id() > after.as_str())
    };
    let mut ran = 0_usize;
    for case in all.iter().filter(wanted) {
        run(case, machine);
        ran += 1;
    }
    let (skipped, forced) = (interrupts::halts_skipped(), interrupts::forced());
    report("done", &[("ran", &ran), ("halts_skipped", &skipped), ("forced", &forced)]);
    Outcome::Success
}

fn run(case: &Any, machine: &'static Machine) {
    let id = case.id();
    report("begin", &[("id", &id), ("at_ns", &machine.cpus().now_ns())]);
    let (outcome, why) = match case.run(machine) {
        Ok(()) => ("pass", String::new()),
        Err(Not::Failed(why)) => ("fail", why),
        Err(Not::Skipped(why)) => ("skip", why),
    };
    report("end", &[("id", &id), ("outcome", &outcome), ("why", &why)]);
}

/// The condition holds.
fn ensure(condition: bool, otherwise: &str) -> Result<(), Not> {
    if condition { Ok(()) } else { Err(otherwise.into()) }
}

/// The two are the same.
fn same<T: PartialEq + core::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), Not> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:?}, wanted {wanted:?}").into()) }
}

/// An error that the case did not expect.
fn failed(what: &str) -> impl Fn(&dyn Display) -> Not {
    move |error| Not::Failed(format!("{what}: {error}"))
}

/// The domain's services, or a skip on a bare machine.
fn domain_of(machine: &'static Machine) -> Result<&'static ebb_boot::Domain, Not> {
    machine.domain().ok_or_else(|| Not::Skipped("not on Xen".into()))
}
