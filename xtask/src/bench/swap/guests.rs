//! The same work in two guests: Ebb with its compressed pool, and Linux with zram.
//!
//! Both are there at once and take turns, so that whatever else this machine does meets both alike: who waits for a line
//! sleeps. What each may use is what is *free* in it when the work begins, so what a kernel takes for itself before that
//! does not count; what it needs for the work does: its reserve, its page tables, the compressed copies. Memory beyond is
//! taken by ballast that stays.

use super::figures::Found;
use crate::bench::figure::Figure;
use crate::bench::subject::{Answer, Subject, TSC, tried};
use crate::build::{self, Image};
use crate::xen::{GuestConfig, HostConfig, Session};
use crate::{linux, setup};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Paths in dom0.
const TESTS: &str = "/guests/tests";
const LINUX: &str = "/guests/linux";
const LINUX_INITRAMFS: &str = "/guests/linux-initramfs";
/// The words for Ebb's test image: this one case, and no policy that moves memory by itself.
const EBB_WORDS: &str = "loglevel=warn tmem.selfballooning=0 tmem.frontswap=1 test.solo=bench.swap";
/// More of them for Linux. Where a processor says that it fills memory fast byte by byte (`erms`), the kernel zeroes pages
/// so, and the emulator takes a step for each byte. QEMU's nested virtualisation loses the extended state of the processor
/// between a guest that has some (AVX) and one that has none, and the one that has some dies. A kernel that dies says why.
const LINUX_WORDS: &str = "clearcpuid=erms noxsave loglevel=5";
/// What each guest has, in MiB.
const GUEST_MIB: u32 = 256;
/// The compressed block device: more than is ever swapped.
const ZRAM: &str = "lz4 256";
/// Pages that the work uses: its working set.
pub(super) const PAGES: u64 = 16384;
/// Operations, and those before that are not measured.
pub(super) const OPERATIONS: u64 = 50_000;
const WARM: u64 = 10_000;
/// Pages that come one by one.
const FAULTS: u64 = 10_240;
/// More than the work needs, in percent of its pages.
pub(super) const PLENTY: u32 = 150;
/// What is free when the work begins, in percent of its pages: the hardest last.
pub(super) const SHARES: [u32; 5] = [PLENTY, 100, 75, 50, 40];

/// Who works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Who {
    Ebb,
    Linux,
}

impl Who {
    pub(super) const BOTH: [Self; 2] = [Self::Ebb, Self::Linux];

    const fn name(self) -> &'static str {
        match self {
            Self::Ebb => "ebb",
            Self::Linux => "linux",
        }
    }
}

/// Where a page comes from when it is touched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    /// Nowhere: it is new. For comparison.
    Fresh,
    Same,
    Compressed,
}

impl Source {
    pub(super) const ALL: [Self; 3] = [Self::Fresh, Self::Same, Self::Compressed];

    const fn word(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Same => "same",
            Self::Compressed => "compressed",
        }
    }
}

/// How long pages took to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50_ns: u64,
    pub(super) p90_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
}

impl Latency {
    fn new(source: Source, answer: &Answer) -> Result<Self> {
        let (count, ins) = (answer.number("count")?, answer.number("ins")?);
        // A page that never left, or came with another one, is no fault.
        let faults = source == Source::Fresh || ins * 100 >= count * 99;
        ensure!(faults, "of {count} touched pages only {ins} came from swap: {answer:?}");
        Ok(Self {
            count,
            p50_ns: answer.number("p50_ns")?,
            p90_ns: answer.number("p90_ns")?,
            p99_ns: answer.number("p99_ns")?,
            max_ns: answer.number("max_ns")?,
        })
    }
}

/// What the work took.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) seconds: f64,
    pub(super) fill_seconds: f64,
    /// Processor time of the whole emulated machine.
    pub(super) cpu_seconds: Option<f64>,
    /// Stands for the accesses.
    pub(super) sum: u64,
    /// Pages that were free before.
    pub(super) free: u64,
    pub(super) ins: u64,
    pub(super) outs: u64,
    pub(super) direct: u64,
    /// Pages that were missed soon, if the guest knows.
    pub(super) soon: Option<u64>,
    /// What compressed memory held in the end, uncompressed, and what it took for that.
    pub(super) stored_kib: u64,
    pub(super) used_kib: u64,
}

impl Work {
    fn new(answer: &Answer) -> Result<Self> {
        let seconds = |key| answer.number(key).map(|ns| ns as f64 / 1e9);
        Ok(Self {
            seconds: seconds("ns")?,
            fill_seconds: seconds("fill_ns")?,
            cpu_seconds: answer.cpu.map(|cpu| cpu.as_secs_f64()),
            sum: answer.number("sum")?,
            free: answer.number("free")?,
            ins: answer.number("ins")?,
            outs: answer.number("outs")?,
            direct: answer.number("direct")?,
            soon: answer.maybe("soon"),
            stored_kib: answer.number("stored_kib")?,
            used_kib: answer.number("used_kib")?,
        })
    }
}

/// All of it, round by round.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) latencies: BTreeMap<(Who, Source), Vec<Latency>>,
    pub(super) works: BTreeMap<(Who, u32), Vec<Work>>,
    /// What could not be taken, and why.
    pub(super) failures: BTreeMap<(Who, u32), String>,
}

/// Measures.
///
/// # Errors
///
/// If Xen does not come up, a guest does not obey, or the two did not do the same.
pub(super) fn run(rounds: u32, out: &Path) -> Result<Vec<Value>> {
    let kit = setup::ensure()?;
    let tests = build::build(Image::GuestTests)?.image;
    let program = build::swap_peer()?;
    let program = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let extras = linux::Extras {
        modules: setup::guest_modules(&kit)?,
        programs: vec![(linux::SWAP_PEER.to_owned(), program)],
    };
    let initramfs = out.join("linux-swap-initramfs");
    linux::write_initramfs(&kit, &extras, &initramfs)?;
    let mut host = HostConfig::for_guests(out, GUEST_MIB * 2, 2);
    for (place, file) in [(TESTS, &tests), (LINUX, &kit.linux), (LINUX_INITRAMFS, &initramfs)] {
        host.files.push((place.into(), file.clone()));
    }
    let session = Session::boot(&kit, &host)?;
    eprintln!("bench: Xen {} is up after {:.1} s", kit.xen_version, session.ready_after().as_secs_f64());
    let mut taken = Taken::default();
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}");
        taken.one_round(&session, round)?;
    }
    let accelerator = session.accelerator();
    for note in session.notes() {
        eprintln!("bench: {note}");
    }
    session.power_off()?;
    let found = Found { taken: &taken, linux: &kit.linux_version, accelerator };
    Ok(found.figures().iter().map(Figure::record).collect())
}

/// A guest that does as it is told, and is replaced when it does not.
struct Worker<'s> {
    session: &'s Session,
    who: Who,
    round: u32,
    subject: Option<Subject<'s>>,
    starts: u32,
}

impl<'s> Worker<'s> {
    fn new(session: &'s Session, who: Who, round: u32) -> Self {
        Self { session, who, round, subject: None, starts: 0 }
    }

    /// Has it do `words`. A guest that the emulator broke, which happens, gets a successor that is asked again.
    fn ask<T>(&mut self, words: &str, kind: &str, read: impl Fn(&Answer) -> Result<T>) -> Result<T> {
        tried(|_| self.ask_once(words, kind, &read))
    }

    fn ask_once<T>(&mut self, words: &str, kind: &str, read: impl Fn(&Answer) -> Result<T>) -> Result<T> {
        let subject = match self.subject.take() {
            Some(subject) => subject,
            None => self.start()?,
        };
        let line = line(self.who, words);
        let (subject, answer) = subject.doing(|subject| read(&subject.ask(&line, kind)?))?;
        self.subject = Some(subject);
        Ok(answer)
    }

    fn start(&mut self) -> Result<Subject<'s>> {
        self.starts += 1;
        let config = GuestConfig {
            name: format!("{}-swap-{}-{}", self.who.name(), self.round, self.starts),
            kernel: TESTS.into(),
            ramdisk: None,
            cmdline: EBB_WORDS.into(),
            memory_mib: GUEST_MIB,
            maxmem_mib: GUEST_MIB,
            vcpus: 1,
            extra: vec![TSC.into()],
        };
        match self.who {
            Who::Ebb => Ok(Subject::start(self.session, &config)?.0),
            Who::Linux => {
                let config = GuestConfig {
                    kernel: LINUX.into(),
                    ramdisk: Some(LINUX_INITRAMFS.into()),
                    cmdline: format!("{} {} {LINUX_WORDS}", linux::CMDLINE, linux::FAST),
                    ..config
                };
                let subject = Subject::start(self.session, &config)?.0;
                Ok(subject.doing(|subject| subject.ask(&format!("swap {ZRAM}"), "swapping"))?.0)
            }
        }
    }
}

/// How a guest is told.
fn line(who: Who, words: &str) -> String {
    match who {
        Who::Ebb => words.to_owned(),
        Who::Linux => format!("peer {words}"),
    }
}

impl Taken {
    /// Everything once, in new guests, by turns.
    fn one_round(&mut self, session: &Session, round: u32) -> Result<()> {
        let mut workers = Who::BOTH.map(|who| Worker::new(session, who, round));
        for source in Source::ALL {
            for worker in &mut workers {
                let words = format!("latency {} {FAULTS}", source.word());
                let latency = worker.ask(&words, "latency", |answer| Latency::new(source, answer))?;
                eprintln!(
                    "bench: {}: {}: {:.1} us",
                    worker.who.name(),
                    source.word(),
                    latency.p50_ns as f64 / 1e3
                );
                self.latencies.entry((worker.who, source)).or_default().push(latency);
            }
        }
        for share in SHARES {
            let free = PAGES * u64::from(share) / 100;
            let words = format!("work {PAGES} {free} {WARM} {OPERATIONS} {round}");
            let mut sums = Vec::new();
            for worker in &mut workers {
                match worker.ask(&words, "worked", Work::new) {
                    Ok(work) => {
                        eprintln!("bench: {}: {share} % free: {:.2} s", worker.who.name(), work.seconds);
                        sums.push(work.sum);
                        self.works.entry((worker.who, share)).or_default().push(work);
                    }
                    Err(error) => {
                        eprintln!("bench: {error:#}");
                        self.failures.insert((worker.who, share), format!("{error:#}"));
                    }
                }
            }
            let same = sums.windows(2).all(|pair| pair[0] == pair[1]);
            ensure!(same, "with {share} % free, the two did not do the same: {sums:x?}");
        }
        for worker in workers {
            worker.subject.map_or(Ok(()), Subject::end)?;
        }
        Ok(())
    }
}
