//! The balloon of the image, on real Xen: memory goes and comes, by blocks and by frames, from all CPUs, with what
//! Xen charges checked to the frame; and what has gone faults.
//!
//! The machine's own worker is there, too. With selfballooning off it moves to the toolstack's target when somebody calls
//! it, so most cases have it stand still; emergencies and the allocator go on, so they repeat their own target until it
//! is reached.
#![expect(unsafe_code, reason = "reads memory that is not there")]

use crate::threads::{everywhere, figure};
use crate::tunables::Setting;
use crate::{ensure, failed, same};
use alloc::boxed::Box;
use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::layout::direct_map;
use ebb::balloon::{Budget, Evacuate, NoEvacuation, Outcome, Scratch};
use ebb::mm::frame::{Contents, FrameState, Request, SparseBlock, Use};
use ebb::mm::paged::Charge;
use ebb::port::MemoryOps;
use ebb::tunable::Id;
use ebb::units::{BLOCK_FRAMES, FRAME_SIZE, Frames, Gfn, VcpuId};
use ebb_boot::cases::{Ends, Not};
use ebb_boot::elastic::{self, KernelBalloon};
use ebb_boot::{Machine, case, threads};

/// Frames in a MiB.
const MIB: u64 = 256;
/// How long any way may take.
const WAY_NS: u64 = 60_000_000_000;

fn charged(balloon: &KernelBalloon) -> Result<Frames, Not> {
    let asked = balloon.exchange().port().current_reservation();
    asked.map_err(|errno| format!("current_reservation: {errno:?}").into())
}

fn books_agree() -> Result<(), Not> {
    elastic::validate().map_err(Not::Failed)
}

/// Moves to where `out` frames are in the balloon.
fn hold_out(
    machine: &'static Machine,
    balloon: &KernelBalloon,
    out: u64,
    evacuate: &impl Evacuate,
) -> Result<(), Not> {
    let mut scratch = Box::new(Scratch::new());
    let cpus = machine.cpus();
    let deadline_ns = cpus.now_ns() + WAY_NS;
    loop {
        balloon.set_target(balloon.base() - Frames::new(out));
        let step = balloon.step(cpus.now_ns(), &Budget::DEFAULT, &mut scratch, evacuate);
        if step.outcome == Outcome::Reached && balloon.ballooned() == Frames::new(out) {
            return Ok(());
        }
        if cpus.now_ns() > deadline_ns {
            return Err(format!("not there after {WAY_NS} ns: {step:?}, {:?}", balloon.status()).into());
        }
        threads().yield_now();
    }
}

/// Runs a case with selfballooning off and the machine's worker at rest, and leaves an empty balloon.
fn alone(
    machine: &'static Machine,
    case: impl FnOnce(&'static KernelBalloon) -> Result<(), Not>,
) -> Result<(), Not> {
    let balloon = elastic::balloon().ok_or("there is no balloon")?;
    let _off = Setting::new(Id::Selfballooning, "0")?;
    let _held = elastic::hold();
    hold_out(machine, balloon, 0, &NoEvacuation)?;
    books_agree()?;
    let done = case(balloon);
    balloon.set_scrub(true);
    let back = hold_out(machine, balloon, 0, &NoEvacuation).and_then(|()| books_agree());
    done.and(back)
}

case!(on Xen: "balloon.whole_blocks_go_and_come", |machine| alone(machine, |balloon| {
    const OUT: u64 = 64 * MIB;
    let (base, stats) = (charged(balloon)?, balloon.status().exchange);
    for scrub in [true, false] {
        balloon.set_scrub(scrub);
        let begun_ns = machine.cpus().now_ns();
        hold_out(machine, balloon, OUT, &NoEvacuation)?;
        let down_ns = machine.cpus().now_ns();
        same("charged when it is out", charged(balloon)?, base - Frames::new(OUT))?;
        hold_out(machine, balloon, 0, &NoEvacuation)?;
        let up_ns = machine.cpus().now_ns();
        same("charged when it is back", charged(balloon)?, base)?;
        books_agree()?;
        let blocks = OUT / BLOCK_FRAMES;
        let name = if scrub { "block released, scrubbed" } else { "block released" };
        figure(name, (down_ns - begun_ns) / blocks, "ns");
        figure("block populated", (up_ns - down_ns) / blocks, "ns");
    }
    let now = balloon.status().exchange;
    let released = (now.released_blocks - stats.released_blocks) * BLOCK_FRAMES;
    same("released", released + now.released_frames - stats.released_frames, 2 * OUT)?;
    ensure(released > OUT, "hardly anything went in blocks")?;
    same("refused", now.release_refusals - stats.release_refusals, 0)
}));

case!(on Xen: "balloon.a_tail_of_frames_goes_and_comes", |machine| alone(machine, |balloon| {
    let base = charged(balloon)?;
    for out in [1, 2, 513, 1000, 999, 3, 0] {
        hold_out(machine, balloon, out, &NoEvacuation)?;
        same("charged", charged(balloon)?, base - Frames::new(out))?;
        books_agree()?;
    }
    Ok(())
}));

case!(on Xen: "balloon.memory_that_came_back_is_memory", |machine| alone(machine, |balloon| {
    hold_out(machine, balloon, 32 * MIB, &NoEvacuation)?;
    hold_out(machine, balloon, 0, &NoEvacuation)?;
    let frames = machine.frames();
    let mut held = alloc::vec::Vec::new();
    let spare = frames.stats().free - frames.stats().watermarks.high;
    for _ in 0..spare.get() / 2 {
        let extent = frames.alloc(Request::new(Use::Kernel, VcpuId::new(0)));
        let extent = extent.map_err(|error| failed("a frame")(&error))?;
        word(extent.first()).store(!extent.first().get(), Ordering::Relaxed);
        held.push(extent);
    }
    let mut wrong = 0;
    for extent in held {
        wrong += u64::from(word(extent.first()).load(Ordering::Relaxed) != !extent.first().get());
        let freed = frames.free(extent, Contents::Unknown, VcpuId::new(0));
        freed.map_err(|rejected| failed("free")(&rejected))?;
    }
    frames.drain(VcpuId::new(0));
    same("frames that lost what was written", wrong, 0)
}));

case!(on Xen: "balloon.emergencies_on_all_cpus_race_with_a_worker", |machine| alone(machine, |balloon| {
    const OUT: u64 = 48 * MIB;
    hold_out(machine, balloon, OUT, &NoEvacuation)?;
    let brought = everywhere(machine, "emergency", move |cpu| {
        let mut scratch = Box::new(Scratch::new());
        let mut brought = 0;
        for round in 0..12_u64 {
            if cpu.get() == 0 {
                // Gives away what the others want.
                balloon.set_target(balloon.base() - Frames::new(OUT - round * 100));
                let now_ns = machine.cpus().now_ns();
                let _ = balloon.step(now_ns, &Budget::DEFAULT, &mut scratch, &NoEvacuation);
            } else {
                brought += balloon.deflate_now(Frames::new(1 + round * 150)).frames.get();
            }
            threads().yield_now();
        }
        brought
    })?;
    books_agree()?;
    let several = machine.cpus().count() > 1;
    ensure(!several || brought.iter().sum::<u64>() > 0, "no emergency brought anything")?;
    let status = balloon.status();
    same("limbo", status.limbo, Frames::ZERO)?;
    same("what is charged", charged(balloon)?, status.base - status.ballooned)
}));

/// Pages of paged memory move.
struct Movers(&'static Machine);

impl Evacuate for Movers {
    fn evacuate(&self, block: SparseBlock) -> Frames {
        self.0.paged().evacuate(&block)
    }
}

case!(on Xen: "balloon.blocks_in_use_here_and_there_are_emptied", |machine| alone(machine, |balloon| {
    const PAGES: u64 = 40 * MIB;
    /// Of so many pages, one stays. Each discard is a flush on all CPUs, which a busy host makes slow.
    const OF: u64 = 128;
    let paged = machine.paged();
    let region = paged
        .reserve(Frames::new(PAGES), Charge::Whole)
        .map_err(|error| failed("a region")(&error))?;
    let at = |page: u64| {
        let address = region.address() as usize + page as usize * FRAME_SIZE;
        // SAFETY: in a region that is released at the end; atomic, because pages move meanwhile.
        unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address)) }
    };
    (0..PAGES).for_each(|page| at(page).store(page ^ 0xE5B, Ordering::Relaxed));
    for first in (0..PAGES).step_by(OF as usize) {
        paged.discard(&region, first + 1..first + OF).map_err(|error| failed("a discard")(&error))?;
    }
    machine.frames().drain(VcpuId::new(0));
    let before = balloon.status();
    let stats = machine.frames().stats();
    let out = (stats.free - stats.watermarks.high).get() - 4 * MIB;
    let whole = stats.whole_blocks * BLOCK_FRAMES;
    ensure(out > whole + 8 * MIB, &format!("{whole} of {out} frames are whole blocks: nothing to be moved"))?;
    let reached = hold_out(machine, balloon, out, &Movers(machine));
    let now = balloon.status();
    let forgot = |page: &u64| at(*page).load(Ordering::Relaxed) != page ^ 0xE5B;
    let forgotten = (0..PAGES).step_by(OF as usize).filter(forgot).count();
    paged.release(region);
    reached?;
    same("pages that forgot", forgotten, 0)?;
    ensure(now.evacuated_blocks > before.evacuated_blocks, &format!("no block was emptied: {now:?}"))?;
    figure("blocks emptied", now.evacuated_blocks - before.evacuated_blocks, "blocks");
    figure("frames moved", now.evacuated_frames - before.evacuated_frames, "frames");
    let singly = now.exchange.released_frames - before.exchange.released_frames;
    figure("frames that went singly", singly, "frames");
    books_agree()
}));

/// The first word of a frame, through the direct map.
fn word(frame: Gfn) -> &'static AtomicU64 {
    let Some(address) = direct_map(frame.start()) else { unreachable!("a frame outside of the direct map") };
    // SAFETY: a frame of RAM; the callers hold it, or want the fault.
    unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address as usize)) }
}

/// Reads what the hypervisor has.
#[inline(never)]
fn touch_what_is_gone(frame: Gfn) -> u64 {
    word(frame).load(Ordering::Relaxed)
}

case!(
    "balloon.what_is_gone_faults",
    ebb_boot::cases::Needs::Xen,
    |machine| {
        let balloon = elastic::balloon().ok_or("there is no balloon")?;
        let _off = Setting::new(Id::Selfballooning, "0")?;
        // The worker, whom the switch has woken, would have it come back before it is touched.
        let _held = elastic::hold();
        hold_out(machine, balloon, 8 * MIB, &NoEvacuation)?;
        let ram = machine.boot_info().ram().frames().get();
        let gone =
            (0..ram).map(Gfn::new).find(|frame| machine.frames().state(*frame) == FrameState::Ballooned);
        let read = touch_what_is_gone(gone.ok_or("nothing is gone")?);
        Err(format!("memory that is not there reads {read:#x}").into())
    },
    Ends::Epitaph { what: "page fault", through: "touch_what_is_gone" }
);
