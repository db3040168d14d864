//! What `cargo xtask bench balloon` measures in this guest: memory that goes to Xen and comes back, by order of lines
//! that are typed on the console. Not a test: it runs only when named.
//!
//! | line | what happens | answer |
//! |---|---|---|
//! | `touch MIB` | writes MIB of free memory | `touched`: `ns` |
//! | `down HOW MIB` | MIB go to Xen | `moved`: `ns`, `calls`, `extents_9`, `extents_0`; `scrub_ns` (part of `ns`) of a bare loop, `scrubbed` (frames) of the balloon |
//! | `up HOW MIB` | MIB come back | the same |
//! | `spike MIB` | MIB of paged memory are written for the first time; what is not free, the balloon brings | `spiked`: `ns`, `free_kib` (before), `stalls`, `stall_ns` (of allocations that had to wait for the balloon) |
//! | `off` | the case ends | – |
//!
//! HOW is `balloon`, the kernel's own, timed from its new target until that is reached; or `blocks` or `frames`: a bare
//! loop of hypercalls over lists of up to 512 extents of 2 MiB or 4 KiB. Only the hypercalls are timed there.
//! `blocks-scrubbed` zeroes each block first, and times that too.
#![expect(
    unsafe_code,
    reason = "hypercalls without the kernel's balloon around them, and memory that nobody has"
)]

use crate::keyboard::Keyboard;
use crate::{domain_of, ensure, failed};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use ebb::arch::layout::direct_map;
use ebb::balloon::{Budget, NoEvacuation, Outcome, Scratch};
use ebb::mm::exchange::ExchangeStats;
use ebb::mm::frame::{Ballooned, Contents, Extent, Request, Use};
use ebb::mm::paged::Charge;
use ebb::port::MemoryOps;
use ebb::units::{BLOCK_FRAMES, FRAME_SIZE, Frames, Gfn, Order, VcpuId};
use ebb_boot::cases::Not;
use ebb_boot::elastic::{self, KernelBalloon};
use ebb_boot::{Machine, case, check, report};

/// Extents in one hypercall, at most.
const LIST: usize = 512;

const BOOT: VcpuId = VcpuId::new(0);

case!(on Xen, with help: "bench.balloon", |machine| {
    let mut bare = Bare { machine, out: Vec::new() };
    let mut balloon = Whole::new()?;
    let mut keyboard = Keyboard::new(domain_of(machine)?)?;
    let reservation = domain_of(machine)?.xen().current_reservation().map_err(|error| failed("Xen")(&error))?;
    report("ready", &[("version", &env!("CARGO_PKG_VERSION")), ("kib", &reservation.to_kib().get())]);
    let mut held = Some(elastic::hold());
    loop {
        let line = keyboard.line()?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["touch", mib] => {
                let ns = touch(machine, blocks(mib)?)?;
                report("touched", &[("ns", &ns)]);
            }
            [verb @ ("down" | "up"), how, mib] => {
                report("begin", &[]);
                let (down, count) = (verb == "down", blocks(mib)?);
                let moved = match (how, down) {
                    ("balloon", _) => balloon.move_by(machine, down, count)?,
                    (_, true) => bare.down(How::from_word(how)?, count)?,
                    (_, false) => bare.up(How::from_word(how)?, count)?,
                };
                moved.report();
            }
            ["spike", mib] => {
                // An emergency is the worker's business, too.
                held = None;
                spike(machine, blocks(mib)?)?;
            }
            ["off"] => break,
            _ => return Err(format!("the line {line:?} makes no sense").into()),
        }
    }
    let _held = held.unwrap_or_else(elastic::hold);
    ensure(bare.out.is_empty(), "memory is still with Xen")?;
    balloon.balloon.validate().map_err(|error| Not::Failed(format!("{error:?}")))?;
    check::validate_frames(machine).map_err(|error| failed("the books on frames")(&error))
});

/// The number of blocks in so many MiB.
fn blocks(mib: &str) -> Result<usize, Not> {
    let mib: usize = mib.parse().map_err(|error| failed("a number of MiB")(&error))?;
    ensure(mib > 0 && mib.is_multiple_of(2), "a multiple of 2 MiB")?;
    Ok(mib / 2)
}

/// A bare loop.
#[derive(Clone, Copy)]
struct How {
    order: Order,
    scrub: bool,
}

impl How {
    fn from_word(word: &str) -> Result<Self, Not> {
        match word {
            "blocks" => Ok(Self { order: Order::BLOCK, scrub: false }),
            "blocks-scrubbed" => Ok(Self { order: Order::BLOCK, scrub: true }),
            "frames" => Ok(Self { order: Order::FRAME, scrub: false }),
            _ => Err(format!("no way to move memory is called {word:?}").into()),
        }
    }
}

/// What a move took.
#[derive(Default)]
struct Moved {
    ns: u64,
    scrub_ns: u64,
    scrubbed: u64,
    calls: u64,
    extents: [u64; 2],
}

impl Moved {
    fn report(&self) {
        report(
            "moved",
            &[
                ("ns", &self.ns),
                ("scrub_ns", &self.scrub_ns),
                ("scrubbed", &self.scrubbed),
                ("calls", &self.calls),
                ("extents_9", &self.extents[1]),
                ("extents_0", &self.extents[0]),
            ],
        );
    }
}

/// Memory that the bare loops have given to Xen.
struct Bare {
    machine: &'static Machine,
    out: Vec<Extent<Ballooned>>,
}

impl Bare {
    /// Gives `count` blocks to Xen.
    fn down(&mut self, how: How, count: usize) -> Result<Moved, Not> {
        let (xen, frames) = (domain_of(self.machine)?.xen(), self.machine.frames());
        let taken: Vec<Extent> = take(self.machine, count)?;
        let list = list(how.order, taken.iter().map(Extent::first));
        self.out.reserve(count);
        let cpus = self.machine.cpus();
        let begun_ns = cpus.now_ns();
        if how.scrub {
            taken.iter().for_each(|block| write(block, 0));
        }
        let scrub_ns = cpus.now_ns() - begun_ns;
        let calls = in_lists(&list, |part| {
            // SAFETY: whole free blocks, of which we have the tokens: nothing lives there, nobody uses them, and
            // nothing will until they were populated again. What Xen did not take is lost with the case.
            unsafe { xen.decrease_reservation(how.order, part) }
        })?;
        let ns = cpus.now_ns() - begun_ns;
        for block in taken {
            self.out
                .push(frames.mark_ballooned(block).map_err(|error| failed("a block that went out")(&error))?);
        }
        let extents = extents(how.order, list.len());
        Ok(Moved { ns, scrub_ns, calls, extents, ..Moved::default() })
    }

    /// Takes `count` blocks back, the last ones first.
    fn up(&mut self, how: How, count: usize) -> Result<Moved, Not> {
        let (xen, frames) = (domain_of(self.machine)?.xen(), self.machine.frames());
        let start = self.out.len().checked_sub(count).ok_or("more than is out")?;
        let back = self.out.split_off(start);
        let list = list(how.order, back.iter().map(Extent::first));
        let cpus = self.machine.cpus();
        let begun_ns = cpus.now_ns();
        let calls = in_lists(&list, |part| {
            // SAFETY: these are holes, of which we have the tokens; nobody uses them.
            unsafe { xen.populate_physmap(how.order, part) }
        })?;
        let ns = cpus.now_ns() - begun_ns;
        for block in back {
            // SAFETY: Xen has counted all of them.
            unsafe { frames.give_back(block) }.map_err(|error| failed("a block that came back")(&error))?;
        }
        Ok(Moved { ns, calls, extents: extents(how.order, list.len()), ..Moved::default() })
    }
}

/// The kernel's own balloon, without a policy: the worker must stand still.
struct Whole {
    balloon: &'static KernelBalloon,
    scratch: Box<Scratch>,
}

impl Whole {
    fn new() -> Result<Self, Not> {
        Ok(Self { balloon: elastic::balloon().ok_or("there is no balloon")?, scratch: Box::default() })
    }

    /// Sets a target that is `count` blocks away, and takes steps until it is reached.
    fn move_by(&mut self, machine: &'static Machine, down: bool, count: usize) -> Result<Moved, Not> {
        let distance = Frames::new(count as u64 * BLOCK_FRAMES);
        let from = self.balloon.reservation();
        let goal = if down { from.saturating_sub(distance) } else { from + distance };
        let before = self.balloon.exchange().stats();
        let cpus = machine.cpus();
        let begun_ns = cpus.now_ns();
        self.balloon.set_target(goal);
        loop {
            let step = self.balloon.step(cpus.now_ns(), &Budget::DEFAULT, &mut self.scratch, &NoEvacuation);
            match step.outcome {
                Outcome::Reached => break,
                Outcome::More => {}
                outcome => return Err(format!("the balloon does not get there: {outcome:?}").into()),
            }
        }
        let ns = cpus.now_ns() - begun_ns;
        ensure(self.balloon.reservation() == goal, "the balloon stopped somewhere else")?;
        let after = self.balloon.exchange().stats();
        let counted = |of: fn(&ExchangeStats) -> u64| of(&after) - of(&before);
        Ok(Moved {
            ns,
            scrub_ns: 0,
            scrubbed: counted(|stats| stats.scrubbed_frames),
            calls: counted(|stats| stats.release_calls + stats.populate_calls + stats.probe_calls),
            extents: [
                counted(|stats| stats.released_frames + stats.populated_frames),
                counted(|stats| stats.released_blocks + stats.populated_blocks),
            ],
        })
    }
}

/// Reserves `count` blocks' worth of paged memory and writes all of it, as an application would that knows nothing of
/// a balloon.
fn spike(machine: &'static Machine, count: usize) -> Result<(), Not> {
    let paged = machine.paged();
    let pages = Frames::new(count as u64 * BLOCK_FRAMES);
    let free_kib = machine.frames().stats().available().to_kib().get();
    let (stalls_before, stall_ns_before) = elastic::stalls();
    let begun_ns = machine.cpus().now_ns();
    let region = paged.reserve(pages, Charge::Whole).map_err(|error| failed("a region")(&error))?;
    for page in 0..pages.get() as usize {
        let page =
            core::ptr::with_exposed_provenance_mut::<u8>(region.address() as usize + page * FRAME_SIZE);
        // SAFETY: a page of a region that nobody else has; it comes with the first write.
        unsafe { page.write_bytes(0xA5, FRAME_SIZE) };
    }
    let ns = machine.cpus().now_ns() - begun_ns;
    let (stalls, stall_ns) = elastic::stalls();
    paged.release(region);
    report(
        "spiked",
        &[
            ("ns", &ns),
            ("free_kib", &free_kib),
            ("stalls", &(stalls - stalls_before)),
            ("stall_ns", &(stall_ns - stall_ns_before)),
        ],
    );
    Ok(())
}

fn extents(order: Order, count: usize) -> [u64; 2] {
    let count = count as u64;
    if order == Order::BLOCK { [0, count] } else { [count, 0] }
}

/// Whole free blocks.
fn take(machine: &'static Machine, count: usize) -> Result<Vec<Extent>, Not> {
    let frames = machine.frames();
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        let Some(block) = frames.take_block_for_balloon(Contents::Unknown) else {
            let had = taken.len();
            for block in taken {
                frames.free(block, Contents::Unknown, BOOT).map_err(|error| failed("a block")(&error))?;
            }
            return Err(format!("only {had} of {count} blocks are free").into());
        };
        taken.push(block);
    }
    Ok(taken)
}

/// The first frames of all extents of `order` in these blocks.
fn list(order: Order, blocks: impl Iterator<Item = Gfn>) -> Vec<Gfn> {
    let step = order.frames().get();
    let starts = |block: Gfn| (0..BLOCK_FRAMES / step).map(move |index| block + Frames::new(index * step));
    blocks.flat_map(starts).collect()
}

/// Hands `list` to `call` in parts, each of which must be done whole, and says how many there were.
fn in_lists(
    list: &[Gfn],
    mut call: impl FnMut(&[Gfn]) -> Result<ebb::port::Completed, xen_abi::Errno>,
) -> Result<u64, Not> {
    let mut calls = 0;
    for part in list.chunks(LIST) {
        let done = call(part).map_err(|error| failed("Xen")(&error))?;
        if !done.is_all_of(part.len()) {
            return Err(format!("Xen did {} of {} extents", done.count(), part.len()).into());
        }
        calls += 1;
    }
    Ok(calls)
}

/// Fills an extent with one byte.
fn write(extent: &Extent, byte: u8) {
    let Some(start) = direct_map(extent.first().start()) else { return };
    let start = core::ptr::with_exposed_provenance_mut::<u8>(start as usize);
    let bytes = extent.frames().get() as usize * FRAME_SIZE;
    // SAFETY: memory of the guest that the token's holder has alone, shown by the direct map.
    unsafe { start.write_bytes(byte, bytes) };
}

/// Writes `count` free blocks and answers how long that took.
fn touch(machine: &'static Machine, count: usize) -> Result<u64, Not> {
    let frames = machine.frames();
    let begun_ns = machine.cpus().now_ns();
    let request = Request::new(Use::Special, BOOT).order(Order::BLOCK);
    let blocks = (0..count).map(|_| frames.alloc(request)).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.map_err(|error| failed("memory to write")(&error))?;
    blocks.iter().for_each(|block| write(block, 0xA5));
    let ns = machine.cpus().now_ns() - begun_ns;
    for block in blocks {
        frames.free(block, Contents::Unknown, BOOT).map_err(|error| failed("a block")(&error))?;
    }
    Ok(ns)
}
