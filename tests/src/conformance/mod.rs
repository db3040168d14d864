//! The conformance suite: what Xen does, as cases that run unchanged on the model and in a guest on Xen.
//!
//! A case is a function over an [`Env`]. It says what it found wrong as a value, never by panicking, and gives
//! back what it took; [`Case::run`] checks that it did and mends what a failed one left behind. The list is
//! [`for_each_case!`](crate::for_each_case): both sides enumerate the same [`COUNT`] cases.
//!
//! Rules for an environment that runs them: one case at a time, interrupts off, nothing else of the domain
//! making reservation calls or opening ports meanwhile, 24 KiB of stack.
//!
//! | area | what it covers |
//! |---|---|
//! | `memory` | releasing and populating: counts, holes, orders, accounting |
//! | `malformed` | reservation calls that no typed call can make, and the other memory commands |
//! | `event` | ports: binding, closing, statuses, errors |
//! | `delivery` | pending bits, masks, selectors, upcalls |
//! | `sched` | polling |
//! | `vcpu` | vCPUs and one-shot timers |
//! | [`tmem`] | transcendent memory, statement by statement; skipped where there is none |
//! | `version`, `hvm`, `hypercall` | what Xen says of itself, parameters, numbers that mean nothing |

mod check;
mod delivery;
mod event;
mod hvm;
mod hypercall;
mod list;
mod malformed;
mod memory;
mod own;
mod sched;
pub mod tmem;
mod vcpu;
mod version;

pub use check::{Failure, Outcome, Stop};
pub use list::{COUNT, cases};

use check::{done, same};
use core::fmt;
use ebb::port::{FrameType, HvmOps, MemoryOps};
use ebb::units::{BLOCK_FRAMES, EventPort, Frames, Gfn, VcpuId};
use ebb::xen::{SharedPage, Transport, Xen};

/// What a case may use.
///
/// # Safety
///
/// The frames of [`block`](Env::block) and [`holes`](Env::holes) belong to the cases: no Rust object lives there,
/// nobody else uses them, and the environment's own mapping of the block tolerates that they come and go.
#[expect(unsafe_code, reason = "cases release and populate the frames that the environment promises")]
pub unsafe trait Env {
    /// How hypercalls are made.
    type Transport: Transport;

    /// Typed hypercalls.
    fn xen(&self) -> &Xen<Self::Transport>;

    /// The vCPU that runs the cases.
    fn vcpu(&self) -> VcpuId;

    /// The first of 512 aligned frames of RAM, all populated at the start.
    fn block(&self) -> Gfn;

    /// The first of 1024 frame numbers, aligned to 512, outside the memory map and unused; for instance 0xFD000.
    fn holes(&self) -> Gfn;

    /// Reads a word of a frame of the block. A hole answers all ones.
    fn read(&self, frame: Gfn, index: usize) -> u64;

    /// Writes a word of a frame of the block. A hole swallows it.
    fn write(&self, frame: Gfn, index: usize, value: u64);

    /// The linear address of a frame of the block, as the hypervisor would read a list through it. Consecutive
    /// frames have consecutive addresses.
    fn address(&self, frame: Gfn) -> u64;

    /// A linear address that nothing is mapped at.
    fn unmapped_address(&self) -> u64;

    /// The shared info page.
    fn shared_info(&self) -> SharedPage;

    /// Where the shared info page is mapped. One case moves it and puts it back.
    fn shared_info_frame(&self) -> Gfn;

    /// The port on which this vCPU receives its timer, masked while a case runs, not pending. The environment
    /// bound it; nothing else arms the timer meanwhile.
    fn timer_port(&self) -> EventPort;

    /// System time.
    fn now_ns(&self) -> u64;

    /// Enables interrupts and waits, as an idle vCPU does, until an upcall comes (true) or until `deadline_ns`
    /// (false). An upcall that was due before the call ends the wait at once. The upcall handler acknowledges as
    /// the kernel's does: it clears the pending bits of unmasked ports. Interrupts are off again on return.
    fn wait_for_upcall(&self, deadline_ns: u64) -> bool;

    /// Whether the domain owes populate-on-demand memory: it was started with less than its map shows, and has not
    /// released the difference yet. What it releases then stays charged, so cases about frames are skipped.
    fn has_populate_on_demand_debt(&self) -> bool;

    /// Other domains, controls and failures, for the cases about tmem, where there are such things.
    fn lab(&self) -> Option<&dyn tmem::Lab> {
        None
    }
}

/// One statement about the hypervisor.
pub struct Case<E> {
    /// `area.name`, the same on both sides.
    pub id: &'static str,
    /// The statement.
    pub fact: &'static str,
    /// Frames that stay charged for the domain's life, by the very thing that is shown.
    pub leaks: Frames,
    run: fn(&E) -> Outcome,
}

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The hypervisor does what the case says.
    Pass,
    /// It does not.
    Fail(Failure),
    /// The case does not apply here.
    Skip(&'static str),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail(failure) => write!(f, "fail: {failure}"),
            Self::Skip(why) => write!(f, "skip: {why}"),
        }
    }
}

impl<E: Env> Case<E> {
    /// Runs the case, and checks that it gave back what it took: the block is whole, and as much is charged as
    /// before. Mends the block otherwise, so that the next case has one.
    pub fn run(&self, env: &E) -> Verdict {
        match self.guarded(env) {
            Ok(()) => Verdict::Pass,
            Err(stop) => mend(env).err().unwrap_or(stop).into(),
        }
    }

    /// Why the case would be skipped on this hypervisor, as far as can be told without an environment: a hundred cases
    /// are about tmem, and few hypervisors have it.
    pub fn pointless<T: Transport>(&self, xen: &Xen<T>) -> Option<&'static str> {
        let about_its_absence = ["tmem.s001", "tmem.s002", "tmem.s010"];
        if !self.id.starts_with("tmem.") || about_its_absence.iter().any(|id| self.id.starts_with(id)) {
            return None;
        }
        xen.probe_tmem().is_err().then_some("this hypervisor serves no tmem")
    }

    /// Whether the case changes what is behind frame numbers.
    fn uses_frames(&self) -> bool {
        self.id.starts_with("memory.") || self.id.starts_with("malformed.")
    }

    fn guarded(&self, env: &E) -> Outcome {
        if let Some(why) = self.pointless(env.xen()) {
            return Err(Stop::Skip(why));
        }
        if self.uses_frames() && env.has_populate_on_demand_debt() {
            return Err(Stop::Skip("released frames stay charged while populate-on-demand memory is owed"));
        }
        let before = done("tot_pages before", env.xen().current_reservation())?;
        (self.run)(env)?;
        for frame in own::block(env).filter(|_| self.uses_frames()) {
            if env.xen().frame_type(frame) != Ok(FrameType::ReadWrite) {
                return Err(Stop::Fail(Failure::new("the case left a hole at this frame", frame.get(), 0)));
            }
        }
        let after = done("tot_pages after", env.xen().current_reservation())?;
        same("tot_pages after the case", after.get(), (before + self.leaks).get())
    }
}

/// Populates what is missing of the block and releases what is left in the holes.
fn mend<E: Env>(env: &E) -> Outcome {
    for frame in own::block(env) {
        if env.xen().frame_type(frame) == Ok(FrameType::HoleOrDevice) {
            same("the block could be mended", own::populate_frame(env, frame)?, 1)?;
        }
    }
    for frame in own::run(env.holes(), 2 * BLOCK_FRAMES) {
        if env.xen().frame_type(frame) == Ok(FrameType::ReadWrite) {
            same("the holes could be mended", own::release_frame(env, frame)?, 1)?;
        }
    }
    Ok(())
}

impl From<Stop> for Verdict {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fail(failure) => Self::Fail(failure),
            Stop::Skip(why) => Self::Skip(why),
        }
    }
}
