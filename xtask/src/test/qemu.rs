//! Guest tests on bare QEMU: the fast path for processor and memory, without a hypervisor.

use super::fast_path;
use super::guest::{self, End, Guest, Watch};
use super::outcome::{Case, Outcome, Results, Rung};
use crate::bare::{BareConfig, BareEnding, BareGuest};
use crate::build::{self, Built, Image};
use crate::console::Event;
use crate::setup;
use anyhow::Result;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a plain image may take.
const PLAIN_BOUND: Duration = Duration::from_secs(60);

/// One machine: what makes it different, and which cases are asked there.
struct Shape {
    name: &'static str,
    memory_mib: u32,
    vcpus: u32,
    only: Option<&'static str>,
}

/// Ordinary; several CPUs; tiny, and with memory above 4 GiB.
const SHAPES: [Shape; 15] = [
    Shape { name: "", memory_mib: 64, vcpus: 1, only: None },
    Shape { name: "2-cpus/", memory_mib: 64, vcpus: 2, only: Some("smp.") },
    Shape { name: "4-cpus/", memory_mib: 64, vcpus: 4, only: Some("smp.") },
    Shape { name: "2-cpus/", memory_mib: 64, vcpus: 2, only: Some("threads.") },
    Shape { name: "4-cpus/", memory_mib: 64, vcpus: 4, only: Some("threads.") },
    Shape { name: "2-cpus/", memory_mib: 64, vcpus: 2, only: Some("percpu.") },
    Shape { name: "4-cpus/", memory_mib: 64, vcpus: 4, only: Some("percpu.") },
    Shape { name: "2-cpus/", memory_mib: 64, vcpus: 2, only: Some("paged.") },
    Shape { name: "4-cpus/", memory_mib: 64, vcpus: 4, only: Some("paged.") },
    Shape { name: "2-cpus/", memory_mib: 64, vcpus: 2, only: Some("reclaim.") },
    Shape { name: "4-cpus/", memory_mib: 64, vcpus: 4, only: Some("reclaim.") },
    Shape { name: "4-cpus/", memory_mib: 64, vcpus: 4, only: Some("soak.") },
    Shape { name: "8-mib/", memory_mib: 8, vcpus: 1, only: Some("boot.") },
    Shape { name: "6-gib/", memory_mib: 6144, vcpus: 1, only: Some("boot.") },
    Shape { name: "8-cpus/", memory_mib: 64, vcpus: 8, only: Some("boot.") },
];

/// Runs the rung.
///
/// # Errors
///
/// If an image does not build or QEMU does not start.
pub(crate) fn run(
    filter: Option<&str>,
    soak_s: Option<u32>,
    out: &Path,
    results: &mut Results,
) -> Result<()> {
    let begun = Instant::now();
    setup::ensure_qemu()?;
    let Built { image: tests, debug, .. } = build::build(Image::GuestTests)?;
    fast_path::in_the_image(&debug, filter, results);
    for shape in &SHAPES {
        let mut machine = Bare { shape, image: &tests, out, options: guest::options(soak_s), boots: 0 };
        guest::run(Rung::Qemu, shape.name, &mut machine, shape.only, filter, results)?;
    }
    for plain in &PLAIN {
        if filter.is_none_or(|filter| plain.id.contains(filter)) {
            let begun = Instant::now();
            let outcome = plain.run(out)?;
            results.add(Case { id: plain.id.to_owned(), rung: Rung::Qemu, outcome, took: begun.elapsed() });
        }
    }
    results.finish(Rung::Qemu, begun.elapsed());
    Ok(())
}

/// A machine that boots the test image as often as it is asked.
struct Bare<'i> {
    shape: &'i Shape,
    image: &'i Path,
    out: &'i Path,
    options: String,
    boots: u32,
}

impl Guest for Bare<'_> {
    fn boot(&mut self, cmdline: &str, watch: &mut Watch) -> Result<End> {
        self.boots += 1;
        let mut guest = BareGuest::start(&BareConfig {
            out: self.out.to_path_buf(),
            name: format!("qemu-{}{}", self.shape.name.replace('/', "-"), self.boots),
            kernel: self.image.to_path_buf(),
            cmdline: format!("{cmdline}{}", self.options),
            memory_mib: self.shape.memory_mib,
            vcpus: self.shape.vcpus,
        })?;
        loop {
            match guest.next(watch.deadline())? {
                Event::Line(line) if watch.line(&line.bytes).is_break() => {
                    return Ok(End::Killed(String::new()));
                }
                Event::Line(_) | Event::Interrupted => {}
                Event::Ended(BareEnding::Success) => return Ok(End::Stopped),
                Event::Ended(BareEnding::Failure(code)) => {
                    return Ok(End::Crashed(format!("code {code:#x}")));
                }
                Event::Ended(BareEnding::Silent(why)) => return Ok(End::Crashed(why)),
                Event::Deadline => return Ok(End::Killed(String::new())),
            }
        }
    }
}

/// An image without test cases, judged by how it ends and by what it says to people.
struct Plain {
    id: &'static str,
    image: Image,
    cmdline: &'static str,
    says: &'static [&'static str],
}

/// The image that users run says that there is no balloon, and ends well; the application of docs/applications.md, too.
const PLAIN: [Plain; 2] = [
    Plain {
        id: "image.says_what_it_found_and_ends",
        image: Image::Ebb,
        cmdline: "no.such.option loglevel=loud",
        says: &["ballooning is unavailable", "unknown option \"no.such.option\"", "accepted: off|error|warn"],
    },
    Plain {
        id: "example.takes_checks_and_gives_back",
        image: Image::Example,
        cmdline: "app.mib=16 app.rounds=2 app.pause_s=0",
        says: &["round 2: 16 MiB taken", "round 2: checked, and given back"],
    },
];

impl Plain {
    fn run(&self, out: &Path) -> Result<Outcome> {
        let image = build::build(self.image)?.image;
        let mut guest = BareGuest::start(&BareConfig {
            out: out.to_path_buf(),
            name: format!("qemu-{}", self.id.split('.').next().unwrap_or_default()),
            kernel: image,
            cmdline: self.cmdline.to_owned(),
            memory_mib: 64,
            vcpus: 1,
        })?;
        let deadline = Instant::now() + PLAIN_BOUND;
        let mut text = String::new();
        loop {
            match guest.next(deadline)? {
                Event::Line(line) => text += &(String::from_utf8_lossy(&line.bytes) + "\n"),
                Event::Interrupted => {}
                Event::Ended(BareEnding::Success) => break,
                Event::Ended(other) => {
                    return Ok(Outcome::Failed(format!("it ended as {other:?}\n{text}")));
                }
                Event::Deadline => return Ok(Outcome::Failed(format!("it did not end\n{text}"))),
            }
        }
        Ok(match self.says.iter().find(|said| !text.contains(**said)) {
            Some(missing) => Outcome::Failed(format!("it does not say {missing:?}\n{text}")),
            None => Outcome::Passed,
        })
    }
}
