//! The balloon, beside Linux's: on one Xen, one guest after another, each alone.
//!
//! Every guest is new, has 1 GiB in the large pages that the toolstack gave it, and moves memory as it is told: first
//! memory that it has never written, then memory that it has. Linux is told through its own sysfs target, and both time
//! themselves. The toolstack looks before and after each move: what it does not see move is no figure. The emulator
//! breaks a Linux now and then; what that was measured for is measured with another one, from the beginning.

mod figures;

use super::figure::Figure;
use super::subject::{Answer, Subject, TSC, tried};
use crate::build::{self, Image};
use crate::xen::{GuestConfig, HostConfig, Session};
use crate::{linux, setup};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// How often where nobody says.
pub(super) const ROUNDS: u32 = 3;
/// Paths in dom0.
const TESTS: &str = "/guests/tests";
const LINUX: &str = "/guests/linux";
const LINUX_INITRAMFS: &str = "/guests/linux-initramfs";
/// The words for Ebb's test image: this one case, and no policy that moves memory by itself.
const EBB_CMDLINE: &str = "loglevel=warn tmem.selfballooning=0 test.solo=bench.balloon";
/// What each guest has, in MiB.
const GUEST_MIB: u32 = 1024;
/// What it needs itself, and what it moves is rounded to.
const KEPT_MIB: u32 = 256;
const BLOCK_MIB: u32 = 2;
/// How much of the moved memory the toolstack may not see, because it rounds.
const ROUNDING_MIB: u64 = 1;
/// A guest of its own for the spike: so small that what it gave away is missed.
const SPIKE_GUEST_MIB: u32 = 256;
/// How much each gives away before: most of what it does not need itself. Then it wants this much.
const LINUX_DOWN_MIB: u32 = 128;
const EBB_DOWN_MIB: u32 = 236;
const SPIKE_MIB: u32 = 100;

/// Who moves memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum How {
    /// Ebb's own mechanism.
    Balloon,
    /// Linux as the distribution boots it.
    Linux,
    /// Linux without what only costs time here.
    LinuxFast,
    /// Hypercalls for 2 MiB each and nothing else.
    Blocks,
    /// The same after zeroing.
    BlocksScrubbed,
    /// Hypercalls for lists of 512 frames and nothing else.
    Frames,
}

impl How {
    /// Its word on the guest's console, if it needs one.
    const fn word(self) -> &'static str {
        match self {
            Self::Balloon => "balloon ",
            Self::Linux | Self::LinuxFast => "",
            Self::Blocks => "blocks ",
            Self::BlocksScrubbed => "blocks-scrubbed ",
            Self::Frames => "frames ",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Balloon => "Ebb",
            Self::Linux => "Linux",
            Self::LinuxFast => "Linux, mitigations off",
            Self::Blocks => "bare loop of 2 MiB hypercalls",
            Self::BlocksScrubbed => "bare loop of 2 MiB hypercalls, zeroing before",
            Self::Frames => "bare loop of hypercalls for 512 frames",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Direction {
    Down,
    Up,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Down, Self::Up];

    const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

/// What was moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Case {
    mib: u32,
    /// The guest has written that memory before.
    touched: bool,
    direction: Direction,
}

/// One move.
#[derive(Clone, Debug)]
struct Move {
    seconds: f64,
    /// By the clock of this machine.
    host_seconds: f64,
    /// Processor time of the whole emulated machine.
    cpu_seconds: Option<f64>,
    calls: Option<u64>,
    extents_9: Option<u64>,
    extents_0: Option<u64>,
    /// Entries of 2 MiB in Xen's page tables for the guest, afterwards.
    superpages: Option<u64>,
}

impl Move {
    fn new(answer: &Answer) -> Result<Self> {
        // Linux moves frames only, and its probes count those.
        let frames = answer.maybe("frames");
        Ok(Self {
            seconds: answer.number("ns")? as f64 / 1e9,
            host_seconds: answer.host.as_secs_f64(),
            cpu_seconds: answer.cpu.map(|cpu| cpu.as_secs_f64()),
            calls: answer.maybe("calls"),
            extents_9: answer.maybe("extents_9").or(frames.map(|_| 0)),
            extents_0: answer.maybe("extents_0").or(frames),
            superpages: None,
        })
    }
}

/// A sudden demand.
#[derive(Clone, Copy, Debug)]
struct Spike {
    /// Until all of it was written.
    seconds: f64,
    /// Until it was there, if that was a step of its own.
    grown_seconds: Option<f64>,
    /// What was free before.
    free_kib: u64,
    /// How long allocations waited for the balloon, if the guest knows.
    stall_seconds: Option<f64>,
}

impl Spike {
    fn new(answer: &Answer) -> Result<Self> {
        Ok(Self {
            seconds: answer.number("ns")? as f64 / 1e9,
            grown_seconds: answer.maybe("grown_ns").map(|ns| ns as f64 / 1e9),
            free_kib: answer.number("free_kib")?,
            stall_seconds: answer.maybe("stall_ns").map(|ns| ns as f64 / 1e9),
        })
    }
}

/// All moves, round by round.
#[derive(Default)]
struct Moves(BTreeMap<(How, Case), Vec<Move>>);

/// The machine and what is known of it.
struct Rig<'s> {
    session: &'s Session,
    moves: Moves,
    spikes: Vec<(How, Spike)>,
    linux_version: String,
}

/// Measures.
///
/// # Errors
///
/// If Xen does not come up, a guest does not do as it is told, or the toolstack does not see the memory move.
pub(super) fn run(rounds: u32, sizes_mib: &[u32], out: &Path) -> Result<Vec<Value>> {
    check_sizes(sizes_mib)?;
    let kit = setup::ensure()?;
    let tests = build::build(Image::GuestTests)?.image;
    let initramfs = out.join("linux-initramfs");
    linux::write_initramfs(&kit, &linux::Extras::default(), &initramfs)?;
    let mut host = HostConfig::for_guests(out, GUEST_MIB, 1);
    for (place, file) in [(TESTS, &tests), (LINUX, &kit.linux), (LINUX_INITRAMFS, &initramfs)] {
        host.files.push((place.into(), file.clone()));
    }
    let session = Session::boot(&kit, &host)?;
    eprintln!("bench: Xen {} is up after {:.1} s", kit.xen_version, session.ready_after().as_secs_f64());
    let mut rig =
        Rig { session: &session, moves: Moves::default(), spikes: Vec::new(), linux_version: String::new() };
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}");
        for &mib in sizes_mib {
            rig.linux(How::Linux, mib, round)?;
            rig.linux(How::LinuxFast, mib, round)?;
            rig.ebb(mib, round)?;
            rig.bare(mib, round)?;
        }
        rig.linux_spike(round)?;
        rig.ebb_spike(round)?;
    }
    let accelerator = session.accelerator();
    let Rig { moves, spikes, linux_version, .. } = rig;
    for note in session.notes() {
        eprintln!("bench: {note}");
    }
    session.power_off()?;
    let found =
        figures::Found { sizes_mib, moves: &moves, spikes: &spikes, linux: &linux_version, accelerator };
    Ok(found.figures().iter().map(Figure::record).collect())
}

/// Sizes that a guest can move.
fn check_sizes(sizes_mib: &[u32]) -> Result<()> {
    for &mib in sizes_mib {
        let most = GUEST_MIB - KEPT_MIB;
        let right = (BLOCK_MIB..=most).contains(&mib) && mib.is_multiple_of(BLOCK_MIB);
        ensure!(right, "cannot move {mib} MiB: a multiple of {BLOCK_MIB}, up to {most}, is accepted");
    }
    Ok(())
}

impl Rig<'_> {
    /// Has a job done by a new Linux guest, with so much memory.
    fn by_linux<T>(
        &mut self,
        name: &str,
        words: &str,
        memory_mib: u32,
        job: impl Fn(&mut Subject<'_>) -> Result<T>,
    ) -> Result<T> {
        let (version, done) = tried(|number| {
            let config = config(&format!("{name}-{number}"), LINUX, words, memory_mib);
            let config = GuestConfig { ramdisk: Some(LINUX_INITRAMFS.into()), ..config };
            let (subject, ready) = Subject::start(self.session, &config)?;
            let (subject, done) =
                subject.doing(|subject| Ok((ready.word("version")?.to_owned(), job(subject)?)))?;
            subject.end()?;
            Ok(done)
        })?;
        self.linux_version = version;
        Ok(done)
    }

    /// Has a job done by a new Ebb guest, with so much memory. One that breaks is what this is here to find.
    fn by_ebb<T>(
        &self,
        name: &str,
        memory_mib: u32,
        job: impl FnOnce(&mut Subject<'_>) -> Result<T>,
    ) -> Result<T> {
        let config = config(name, TESTS, EBB_CMDLINE, memory_mib);
        let (subject, done) = Subject::start(self.session, &config)?.0.doing(job)?;
        subject.end()?;
        Ok(done)
    }

    fn linux(&mut self, how: How, mib: u32, round: u32) -> Result<()> {
        let (name, words) = match how {
            How::LinuxFast => ("linux-fast", format!("{} {}", linux::CMDLINE, linux::FAST)),
            _ => ("linux", linux::CMDLINE.to_owned()),
        };
        let name = format!("{name}-{mib}-{round}");
        let moves = self.by_linux(&name, &words, GUEST_MIB, |subject| moves(subject, mib, how, &[how]))?;
        self.moves.add(moves);
        Ok(())
    }

    fn ebb(&mut self, mib: u32, round: u32) -> Result<()> {
        let name = format!("ebb-{mib}-{round}");
        let ours = How::Balloon;
        let moves = self.by_ebb(&name, GUEST_MIB, |subject| moves(subject, mib, ours, &[ours]))?;
        self.moves.add(moves);
        Ok(())
    }

    fn bare(&mut self, mib: u32, round: u32) -> Result<()> {
        let name = format!("bare-{mib}-{round}");
        let touched = [How::BlocksScrubbed, How::Frames];
        let moves = self.by_ebb(&name, GUEST_MIB, |subject| moves(subject, mib, How::Blocks, &touched))?;
        self.moves.add(moves);
        Ok(())
    }

    /// Linux cannot ask for memory by itself: somebody must raise its target first. Here the guest does, which costs
    /// no word with dom0.
    fn linux_spike(&mut self, round: u32) -> Result<()> {
        let name = format!("linux-spike-{round}");
        let down = format!("down {LINUX_DOWN_MIB}");
        let spike = self.by_linux(&name, linux::CMDLINE, SPIKE_GUEST_MIB, |subject| spike(subject, &down))?;
        self.spikes.push((How::Linux, spike));
        Ok(())
    }

    /// Ebb gets memory back where a page is touched and none is free.
    fn ebb_spike(&mut self, round: u32) -> Result<()> {
        let down = format!("down balloon {EBB_DOWN_MIB}");
        let name = format!("ebb-spike-{round}");
        let spike = self.by_ebb(&name, SPIKE_GUEST_MIB, |subject| spike(subject, &down))?;
        self.spikes.push((How::Balloon, spike));
        Ok(())
    }
}

/// A guest that is not populated on demand.
fn config(name: &str, kernel: &str, cmdline: &str, memory_mib: u32) -> GuestConfig {
    GuestConfig {
        name: name.into(),
        kernel: kernel.into(),
        ramdisk: None,
        cmdline: cmdline.into(),
        memory_mib,
        maxmem_mib: memory_mib,
        vcpus: 1,
        extra: vec![TSC.into()],
    }
}

/// What was moved, and how that went.
type Taken = Vec<((How, Case), Move)>;

/// Moves memory that was never written, one way, and then, when it has been written, each of some ways.
fn moves(subject: &mut Subject<'_>, mib: u32, untouched: How, touched: &[How]) -> Result<Taken> {
    let mut moves = Vec::new();
    both_ways(subject, untouched, mib, false, &mut moves)?;
    subject.ask(&format!("touch {mib}"), "touched")?;
    for &how in touched {
        both_ways(subject, how, mib, true, &mut moves)?;
    }
    Ok(moves)
}

/// Gives memory away and then wants much.
fn spike(subject: &mut Subject<'_>, down: &str) -> Result<Spike> {
    subject.ask(down, "moved")?;
    Spike::new(&subject.ask(&format!("spike {SPIKE_MIB}"), "spiked")?)
}

/// Moves memory down and up again.
fn both_ways(subject: &mut Subject<'_>, how: How, mib: u32, touched: bool, moves: &mut Taken) -> Result<()> {
    for direction in Direction::BOTH {
        let before = subject.seen_mib()?;
        let line = format!("{} {}{mib}", direction.word(), how.word());
        let mut taken = Move::new(&subject.ask(&line, "moved")?)?;
        let after = subject.seen_mib()?;
        ensure!(
            before.abs_diff(after).abs_diff(mib.into()) <= ROUNDING_MIB,
            "{}: {line}: the toolstack saw {before} MiB before and {after} MiB after",
            how.name()
        );
        taken.superpages = subject.superpages()?;
        eprintln!("bench: {}: {line} MiB: {:.3} s", how.name(), taken.seconds);
        moves.push(((how, Case { mib, touched, direction }), taken));
    }
    Ok(())
}

impl Moves {
    fn add(&mut self, moves: Taken) {
        for (key, taken) in moves {
            self.0.entry(key).or_default().push(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_guest_has_is_moved() {
        assert!(check_sizes(&[2, 128, 512, 768]).is_ok());
        for mib in [0, 1, 129, 770, u32::MAX] {
            let error = check_sizes(&[128, mib]).unwrap_err().to_string();
            assert!(error.contains(&format!("cannot move {mib} MiB")), "{error}");
        }
    }
}
