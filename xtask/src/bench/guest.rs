//! The core in a guest: what a frame and a switch of threads cost, in instructions, and how long a grace period takes.
//!
//! The test image has a case for each, which runs only when it is named and tells its figures as records
//! (`tests/guest/src/bench_core.rs`).

use super::figure::Figure;
use crate::bare::{BareConfig, BareEnding, BareGuest};
use crate::build::{self, Image};
use crate::console::Event;
use crate::qemu::Accelerator;
use crate::setup;
use crate::xen::{Ending, GuestConfig, HostConfig, Session};
use anyhow::{Context, Result, bail};
use ebb::report::Record;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// The image's path in dom0.
const TESTS: &str = "/guests/tests";
/// How long a guest may take for its case.
const BOUND: Duration = Duration::from_secs(300);
/// The guest of each case.
const MEMORY_MIB: u32 = 64;

/// Measures.
///
/// # Errors
///
/// If a guest cannot be started, or its case does not pass.
pub(super) fn run(out: &Path) -> Result<Vec<Value>> {
    let kit = setup::ensure()?;
    let tests = build::build(Image::GuestTests)?.image;
    let mut figures = frames(&tests, out)?;
    figures.extend(switch(&tests, out)?);
    let mut host = HostConfig::for_guests(out, MEMORY_MIB, 1);
    host.files.push((TESTS.into(), tests));
    let session = Session::boot(&kit, &host)?;
    figures.extend(grace_periods(&session)?);
    session.power_off()?;
    Ok(figures.iter().map(Figure::record).collect())
}

/// Runs `case` on QEMU alone, where its emulation counts instructions.
fn counted(case: &str, image: &Path, out: &Path) -> Result<Heard> {
    let mut guest = BareGuest::start_on(
        Accelerator::Counted,
        &BareConfig {
            out: out.to_path_buf(),
            name: case.replace('.', "-"),
            kernel: image.to_path_buf(),
            cmdline: format!("test.solo={case}"),
            memory_mib: MEMORY_MIB,
            vcpus: 1,
        },
    )?;
    let deadline = Instant::now() + BOUND;
    let mut heard = Heard::default();
    loop {
        match guest.next(deadline)? {
            Event::Line(line) => heard.line(&line.bytes)?,
            Event::Ended(BareEnding::Success) => return Ok(heard),
            Event::Ended(ending) => bail!("the guest ended as {ending:?}; see {}", guest.log().display()),
            Event::Interrupted | Event::Deadline => {
                bail!("the guest did not end; see {}", guest.log().display())
            }
        }
    }
}

/// A frame of the image's own allocator, through the magazine of its CPU.
fn frames(image: &Path, out: &Path) -> Result<Vec<Figure>> {
    let heard = counted("bench.frames", image, out)?;
    let note = "counted by QEMU's emulation (-icount), one CPU; the shortest of 400 portions, with the loop around it";
    let figure = |case: &str, what: &str| -> Result<Figure> {
        let value = heard.value(what, "ticks")?;
        Ok(Figure::new("frames", case, "pair", "instructions", Some(value)).note(note))
    };
    Ok(vec![
        figure("order 0, repeat, in the image", "frame taken and given back")?,
        figure("the same with a shared magazine", "frame taken and given back, shared magazine")?,
    ])
}

/// Two threads that take turns.
fn switch(image: &Path, out: &Path) -> Result<Vec<Figure>> {
    let heard = counted("bench.switch", image, out)?;
    let note = "counted by QEMU's emulation (-icount), one CPU; the shortest of 200 portions, with the loop around it";
    let figure = |metric: &str, what: &str| -> Result<Figure> {
        let value = heard.value(what, "ticks")?;
        Ok(Figure::new("threads", "two threads", metric, "instructions", Some(value)).note(note))
    };
    Ok(vec![
        figure("switch by yield", "yield to another thread")?,
        figure("yield, nobody else ready", "yield, nobody else ready")?,
    ])
}

/// On Xen, with two vCPUs.
fn grace_periods(session: &Session) -> Result<Vec<Figure>> {
    let mut guest = session.create(&GuestConfig {
        name: "grace-periods".into(),
        kernel: TESTS.into(),
        ramdisk: None,
        cmdline: "test.solo=bench.grace_periods".into(),
        memory_mib: MEMORY_MIB,
        maxmem_mib: MEMORY_MIB,
        vcpus: 2,
        extra: Vec::new(),
    })?;
    let deadline = Instant::now() + BOUND;
    let mut heard = Heard::default();
    loop {
        match guest.next(deadline)? {
            Event::Line(line) => heard.line(&line.bytes)?,
            Event::Ended(Ending::Poweroff) => break,
            Event::Ended(ending) => bail!("the guest ended as {ending:?}; see {}", guest.log().display()),
            Event::Interrupted | Event::Deadline => {
                bail!("the guest did not end; see {}", guest.log().display())
            }
        }
    }
    guest.destroy()?;
    let note = format!("of 100, in a guest of Xen under {}", session.accelerator().name());
    let mut figures = Vec::new();
    for case in ["idle", "busy"] {
        for metric in ["median", "99 of 100"] {
            let value = heard.value(&format!("grace period, {case}, {metric}"), "ns")? / 1000.0;
            figures.push(
                Figure::new("rcu", &format!("grace period, 2 vCPUs, {case}"), metric, "us", Some(value))
                    .note(&note),
            );
        }
    }
    Ok(figures)
}

/// What a guest told.
#[derive(Default)]
struct Heard {
    figures: Vec<Record>,
    passed: bool,
}

impl Heard {
    /// Takes a line of its console. A record that lost bytes, because the guest was faster than the host, is no
    /// record: if it was a figure, that is missed later.
    fn line(&mut self, line: &[u8]) -> Result<()> {
        let Ok(record) = Record::parse(line) else { return Ok(()) };
        match record.kind.as_str() {
            "figure" => self.figures.push(record),
            "end" => match record.get("outcome") {
                Some("pass") => self.passed = true,
                _ => bail!("the case did not pass: {record:?}"),
            },
            _ => {}
        }
        Ok(())
    }

    /// A figure of a case that passed.
    fn value(&self, what: &str, unit: &str) -> Result<f64> {
        let figure = self.figures.iter().find(|figure| figure.get("what") == Some(what));
        let figure = figure.filter(|figure| self.passed && figure.get("unit") == Some(unit));
        let value = figure.and_then(|figure| figure.number("value"));
        Ok(value.with_context(|| format!("the guest did not tell {what:?} in {unit}"))? as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, fields: &[(&str, &dyn std::fmt::Display)]) -> Vec<u8> {
        let mut line = String::new();
        ebb::report::write(&mut line, kind, fields).unwrap();
        line.into_bytes()
    }

    #[test]
    fn figures_count_when_their_case_has_passed() {
        let mut heard = Heard::default();
        heard.line(b"some text").unwrap();
        heard.line(&record("figure", &[("what", &"a turn"), ("value", &7), ("unit", &"ticks")])).unwrap();
        assert!(heard.value("a turn", "ticks").is_err(), "the case has not passed");
        heard.line(&record("end", &[("outcome", &"pass")])).unwrap();
        assert_eq!(heard.value("a turn", "ticks").unwrap(), 7.0);
        assert!(heard.value("a turn", "ns").is_err(), "another unit");
        assert!(heard.value("no turn", "ticks").is_err());
    }

    #[test]
    fn a_case_that_fails_is_an_error_and_a_damaged_figure_is_missed() {
        let mut heard = Heard::default();
        assert!(heard.line(&record("end", &[("outcome", &"fail"), ("why", &"x")])).is_err());
        heard.line(b"\x1efigure what=x value=1 unit=ns #00000000").unwrap();
        heard.line(&record("end", &[("outcome", &"pass")])).unwrap();
        assert!(heard.value("x", "ns").is_err());
    }
}
