//! The same guest tests on real Xen, and what only a toolstack can ask: shutdown, reboot, daemons that do not
//! answer. One boot of Xen serves them all.

use super::guest::{self, End, Guest, Watch};
use super::outcome::{Case, Outcome, Results, Rung};
use super::system::Ask;
use super::{elastic, several, swap, system};
use crate::build::{self, Built, Image};
use crate::console::Event;
use crate::setup::{self, Kit};
use crate::xen::{Ending, GuestConfig, HostConfig, Session, XEN_LOG, fate};
use anyhow::Result;
use std::path::Path;
use std::time::Instant;

/// The test image's path in dom0.
pub(super) const TESTS: &str = "/guests/tests";
/// The image's path in dom0.
pub(super) const IMAGE: &str = "/guests/ebb";

/// One domain: what makes it different, and which cases are asked there.
struct Shape {
    name: &'static str,
    memory_mib: u32,
    maxmem_mib: u32,
    vcpus: u32,
    only: Option<&'static str>,
}

/// Ordinary; one vCPU and many; tiny; memory above 4 GiB; populate-on-demand, which a kernel that touches all its
/// memory does not survive.
const SHAPES: [Shape; 11] = [
    Shape { name: "", memory_mib: 256, maxmem_mib: 256, vcpus: 2, only: None },
    Shape { name: "1-vcpu/", memory_mib: 32, maxmem_mib: 32, vcpus: 1, only: Some("boot.") },
    Shape { name: "4-vcpus/", memory_mib: 64, maxmem_mib: 64, vcpus: 4, only: Some("smp.") },
    Shape { name: "4-vcpus/", memory_mib: 64, maxmem_mib: 64, vcpus: 4, only: Some("threads.") },
    Shape { name: "4-vcpus/", memory_mib: 64, maxmem_mib: 64, vcpus: 4, only: Some("percpu.") },
    Shape { name: "4-vcpus/", memory_mib: 64, maxmem_mib: 64, vcpus: 4, only: Some("reclaim.") },
    Shape { name: "4-vcpus/", memory_mib: 64, maxmem_mib: 64, vcpus: 4, only: Some("soak.") },
    Shape { name: "8-vcpus/", memory_mib: 32, maxmem_mib: 32, vcpus: 8, only: Some("boot.") },
    Shape { name: "8-mib/", memory_mib: 8, maxmem_mib: 8, vcpus: 1, only: Some("boot.") },
    Shape { name: "6-gib/", memory_mib: 6144, maxmem_mib: 6144, vcpus: 1, only: Some("boot.") },
    Shape { name: "16-of-1024-mib/", memory_mib: 16, maxmem_mib: 1024, vcpus: 1, only: Some("boot.") },
];
/// Areas of cases that are not in the image.
const AREAS_OF_TOOLSTACK: [&str; 4] = ["system.", "elastic.", "several.", "swap."];
/// Memory for guests that the cases of these areas count on.
const LEAST_MIB: u32 = 1200;
/// Consoles: one is used at a time, the others are for guests that a failed case left behind.
const CONSOLES: usize = 8;

/// Runs the rung.
///
/// # Errors
///
/// If an image does not build, or Xen does not come up.
pub(crate) fn run(
    filter: Option<&str>,
    soak_s: Option<u32>,
    guest_words: &str,
    out: &Path,
    results: &mut Results,
) -> Result<()> {
    let kit = setup::ensure()?;
    let tests = build::build(Image::GuestTests)?;
    let image = build::build(Image::Ebb)?.image;
    let begun = Instant::now();
    let wanted = |id: &str| filter.is_none_or(|filter| id.contains(filter));
    // What only a toolstack can ask needs none of these boots.
    let of_toolstack = |filter: &str| AREAS_OF_TOOLSTACK.iter().any(|area| filter.starts_with(area));
    let shapes = if filter.is_some_and(of_toolstack) { &[][..] } else { &SHAPES[..] };
    let matches = |shape: &&Shape| guest::may_match(shape.name, shape.only, filter);
    let shapes: Vec<&Shape> = shapes.iter().filter(matches).collect();
    let cases: Vec<&(&str, Ask)> =
        system::CASES.iter().chain(elastic::CASES).chain(swap::CASES).filter(|(id, _)| wanted(id)).collect();
    if !shapes.is_empty() || !cases.is_empty() {
        on_one_host(&kit, (&tests, &image), &shapes, &cases, (filter, soak_s, guest_words), out, results)?;
    }
    for (id, ask) in several::CASES.iter().filter(|(id, _)| wanted(id)) {
        let out = out.join(id.replace('.', "-"));
        judge(id, results, &out.join(XEN_LOG), || ask(&image, &out));
    }
    results.finish(Rung::Xen, begun.elapsed());
    Ok(())
}

/// Boots Xen once for all these.
fn on_one_host(
    kit: &Kit,
    (tests, image): (&Built, &Path),
    shapes: &[&Shape],
    cases: &[&(&str, Ask)],
    (filter, soak_s, guest_words): (Option<&str>, Option<u32>, &str),
    out: &Path,
    results: &mut Results,
) -> Result<()> {
    let largest = shapes.iter().map(|shape| shape.memory_mib).max().unwrap_or_default();
    let mut host = HostConfig::for_guests(out, largest.max(LEAST_MIB), CONSOLES);
    host.guest_words = guest_words.to_owned();
    host.files.push((TESTS.into(), tests.image.clone()));
    host.files.push((IMAGE.into(), image.to_path_buf()));
    let session = Session::boot(kit, &host)?;
    println!("xen    Xen {} is up after {:.1} s", kit.xen_version, session.ready_after().as_secs_f64());
    for &shape in shapes {
        let mut domain =
            Domain { shape, session: &session, tests, options: guest::options(soak_s), boots: 0 };
        guest::run(Rung::Xen, shape.name, &mut domain, shape.only, filter, results)?;
    }
    for (id, ask) in cases {
        judge(id, results, &session.xen_log(), || ask(&session));
    }
    system::settle(&session)?;
    for note in session.notes() {
        println!("xen    {note}");
    }
    session.power_off()
}

/// Asks, and keeps what came of it. If Xen's log shows that the emulator broke a guest meanwhile, it is asked once more.
fn judge(id: &str, results: &mut Results, xen_log: &Path, ask: impl Fn() -> Result<()>) {
    let log = || String::from_utf8_lossy(&std::fs::read(xen_log).unwrap_or_default()).into_owned();
    let (begun, before) = (Instant::now(), log());
    let mut answer = ask();
    if answer.is_err() {
        let after = log();
        // A host of the case's own has a log of its own.
        let since = after.strip_prefix(before.as_str()).unwrap_or(&after);
        if let Some(fate) = fate::emulators_doing(since) {
            results.again(Rung::Xen, id, &fate);
            answer = ask();
        }
    }
    let outcome = match answer {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    results.add(Case { id: id.to_owned(), rung: Rung::Xen, outcome, took: begun.elapsed() });
}

/// A domain that boots the test image as often as it is asked.
struct Domain<'s> {
    shape: &'s Shape,
    session: &'s Session,
    tests: &'s Built,
    options: String,
    boots: u32,
}

impl Domain<'_> {
    /// Where the vCPUs of domain `domid` are, from Xen's own books; a line for each.
    fn whereabouts(&self, domid: u32) -> String {
        let log = || {
            String::from_utf8_lossy(&std::fs::read(self.session.xen_log()).unwrap_or_default()).into_owned()
        };
        let before = log().len();
        // Xen writes them to its console, which takes a moment.
        match self.session.exec("xl debug-keys v && sleep 1", system::COMMAND_BOUND) {
            Ok(_) => fate::whereabouts(log().get(before..).unwrap_or_default(), domid, self.tests),
            Err(error) => format!("where it is, dom0 does not tell: {error:#}"),
        }
    }
}

impl Guest for Domain<'_> {
    fn boot(&mut self, cmdline: &str, watch: &mut Watch) -> Result<End> {
        self.boots += 1;
        let mut guest = self.session.create(&GuestConfig {
            name: format!("tests-{}{}", self.shape.name.replace('/', "-"), self.boots),
            kernel: TESTS.to_owned(),
            ramdisk: None,
            // The cases count frames: nobody else moves any.
            cmdline: format!("tmem.selfballooning=0 {cmdline}{}", self.options),
            memory_mib: self.shape.memory_mib,
            maxmem_mib: self.shape.maxmem_mib,
            vcpus: self.shape.vcpus,
            extra: Vec::new(),
        })?;
        let end = loop {
            match guest.next(watch.deadline())? {
                Event::Line(line) if watch.line(&line.bytes).is_break() => {
                    break End::Killed(String::new());
                }
                Event::Line(_) | Event::Interrupted => {}
                Event::Ended(Ending::Poweroff) => break End::Stopped,
                Event::Ended(other) => {
                    let log = std::fs::read(self.session.xen_log()).unwrap_or_default();
                    let fate = fate::of(&String::from_utf8_lossy(&log), guest.domid(), Some(self.tests));
                    if fate::is_emulators(&fate) {
                        break End::Broken(fate);
                    }
                    break End::Crashed(format!(
                        "{other:?}{}{fate}",
                        if fate.is_empty() { "" } else { "; " }
                    ));
                }
                Event::Deadline => break End::Killed(self.whereabouts(guest.domid())),
            }
        };
        guest.destroy()?;
        Ok(end)
    }
}
