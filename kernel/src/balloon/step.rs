//! One step of the worker: towards the target by a bounded amount, whole blocks first.

use core::sync::atomic::{AtomicBool, Ordering};

use super::{Balloon, Evacuate, Reason, add};
use crate::mm::direct_map::DirectMap;
use crate::mm::exchange::{LIST, Released, Scratch, Stop};
use crate::mm::frame::{Contents, LockKind, SparseBlock};
use crate::port::{HvmOps, MemoryOps};
use crate::units::{BLOCK_FRAMES, Frames, Gfn, VcpuId};

/// After an emergency nothing is given away for so long.
pub const PRESSURE_HOLD_NS: u64 = 1_000_000_000;

/// What the guest itself prevents (its reserve, its page tables) is looked at again after so long.
pub const RECHECK_NS: u64 = 250_000_000;

/// Blocks that are evacuated at a time, before what became free is released.
const EVACUATIONS: usize = 8;

/// How much a step may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Frames to move. A step that begins moves at least one.
    pub frames: Frames,
    /// Blocks in one hypercall. The hypervisor lets interrupts in between two blocks.
    pub list: usize,
    /// Blocks to evacuate, where too few are free as a whole.
    pub evacuate: usize,
    /// Frames in use that are worth moving for a block, at most.
    pub evacuate_frames: Frames,
}

impl Budget {
    /// 256 MiB, in lists of 64 blocks, evacuating up to 32 blocks that are at least half empty.
    pub const DEFAULT: Self = Self {
        frames: Frames::new(128 * BLOCK_FRAMES),
        list: 64,
        evacuate: 32,
        evacuate_frames: Frames::new(BLOCK_FRAMES / 2),
    };
}

impl Default for Budget {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The target is reached.
    Reached,
    /// The budget is used up: go on with another step.
    More,
    /// Nothing can be done just now, for this reason. Worth another step at this time, or when something changes.
    Held(Reason, u64),
    /// Another step was under way: nothing was done.
    Busy,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Step {
    /// Frames that went to the hypervisor.
    pub released: Frames,
    /// Frames that came back.
    pub populated: Frames,
    /// How it ended.
    pub outcome: Outcome,
}

/// One direction's progress, or its end.
type Moved = Result<Frames, Outcome>;

/// What a step has left of its budget for evacuations, and what came of those it had.
struct Evacuations {
    left: usize,
    emptied: u64,
}

/// The right to step.
struct Turn<'b>(&'b AtomicBool);

impl<'b> Turn<'b> {
    fn take(stepping: &'b AtomicBool) -> Option<Self> {
        (!stepping.swap(true, Ordering::Acquire)).then(|| Self(stepping))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<P: MemoryOps + HvmOps, D: DirectMap, L: LockKind> Balloon<'_, '_, P, D, L> {
    /// Moves towards the target, within `budget`. `now_ns` is any clock that does not go backwards, the same in all
    /// calls.
    ///
    /// From a thread: it may wait for other CPUs to forget translations. Looks at the target again after each
    /// list, so it may be changed meanwhile.
    pub fn step(
        &self,
        now_ns: u64,
        budget: &Budget,
        scratch: &mut Scratch,
        evacuate: &impl Evacuate,
    ) -> Step {
        let mut step = Step { released: Frames::ZERO, populated: Frames::ZERO, outcome: Outcome::Busy };
        let Some(_turn) = Turn::take(&self.stepping) else { return step };
        let _under_way = self.enter();
        add(&self.counters.steps, 1);
        self.count_gone(self.exchange.retry_limbo());
        self.heed_pressure(now_ns);
        self.no_blocks.store(false, Ordering::Relaxed);
        let mut left = budget.frames.get().max(1);
        let mut evacuations = Evacuations { left: budget.evacuate, emptied: 0 };
        step.outcome = loop {
            let wanted = self.base.saturating_sub(self.goal());
            let held = self.held.load(Ordering::SeqCst);
            if wanted == held {
                break Outcome::Reached;
            }
            if left == 0 {
                break Outcome::More;
            }
            let moved = if wanted > held {
                let most = (wanted - held).min(left);
                let moved = self.down(now_ns, most, budget, &mut evacuations, scratch, evacuate);
                moved.inspect(|frames| step.released += *frames)
            } else {
                let moved = self.up(now_ns, (held - wanted).min(left), budget, scratch);
                moved.inspect(|frames| step.populated += *frames)
            };
            match moved {
                Ok(frames) => left = left.saturating_sub(frames.get()),
                Err(outcome) => break outcome,
            }
        };
        step
    }

    /// If there was an emergency since the last look, memory is kept for a while.
    fn heed_pressure(&self, now_ns: u64) {
        let pressure = self.pressure.load(Ordering::SeqCst);
        if self.pressure_seen.swap(pressure, Ordering::Relaxed) != pressure {
            self.keep_until_ns.store(now_ns.saturating_add(PRESSURE_HOLD_NS), Ordering::Relaxed);
        }
    }

    /// Releases one list of up to `most` frames.
    fn down(
        &self,
        now_ns: u64,
        most: u64,
        budget: &Budget,
        evacuations: &mut Evacuations,
        scratch: &mut Scratch,
        evacuate: &impl Evacuate,
    ) -> Moved {
        let debt = self.debt.load(Ordering::SeqCst);
        let keep_until_ns = self.keep_until_ns.load(Ordering::Relaxed);
        // Debts come first: until they are paid, what is free is not really there. And what the toolstack takes away is no
        // matter for a better target: a load that keeps running out of memory would keep it for ever.
        if now_ns < keep_until_ns && debt == 0 && self.above_ceiling() == Frames::ZERO {
            return Err(Outcome::Held(Reason::Pressure, self.down.held(keep_until_ns, Reason::Pressure)));
        }
        // A refusal is waited out; a state of the guest is looked at again.
        if let Some((Reason::Release, until_ns)) = self.down.waiting(now_ns) {
            return Err(Outcome::Held(Reason::Release, until_ns));
        }
        let most = most.min(self.spare());
        let scrub = self.scrub.load(Ordering::Relaxed);
        if most >= BLOCK_FRAMES {
            let blocks = (most / BLOCK_FRAMES).min(budget.list.clamp(1, LIST) as u64);
            self.take_blocks(scratch, blocks, scrub);
            if scratch.out.is_empty() && self.make_whole(blocks, budget, evacuations, evacuate) {
                self.take_blocks(scratch, blocks, scrub);
            }
            if scratch.out.is_empty() && evacuations.left == 0 && evacuations.emptied > 0 {
                // It works, and there may be more: with the next step, before blocks are broken for single frames.
                return Err(Outcome::More);
            }
        }
        if scratch.out.is_empty() {
            self.take_frames(scratch, most.min(LIST as u64), scrub);
        }
        if scratch.out.is_empty() {
            let until_ns = now_ns.saturating_add(RECHECK_NS);
            return Err(Outcome::Held(Reason::Reserve, self.down.held(until_ns, Reason::Reserve)));
        }
        // What is owed was mostly never touched, and must not be now. It is the domain's own again in any case: Xen
        // keeps such frames for populating on demand, and clears them.
        let scrub = scrub && debt < scratch.out.frames().get();
        let seen = self.pressure_seen.load(Ordering::Relaxed);
        let abort = || debt == 0 && self.pressure.load(Ordering::SeqCst) != seen;
        let released = self.exchange.release(&mut scratch.out, scrub, abort);
        self.count_gone(released.gone);
        self.judge_release(now_ns, released)
    }

    fn judge_release(&self, now_ns: u64, Released { gone, stopped, .. }: Released) -> Moved {
        match stopped {
            Some(Stop::Aborted) => {
                self.heed_pressure(now_ns);
                if self.above_ceiling() > Frames::ZERO {
                    return Err(Outcome::More);
                }
                let until_ns = self.keep_until_ns.load(Ordering::Relaxed);
                Err(Outcome::Held(Reason::Pressure, self.down.held(until_ns, Reason::Pressure)))
            }
            Some(Stop::Refused) if gone == Frames::ZERO => {
                Err(Outcome::Held(Reason::Release, self.down.refused(now_ns, Reason::Release)))
            }
            Some(Stop::NoTable) if gone == Frames::ZERO => {
                let until_ns = now_ns.saturating_add(RECHECK_NS);
                Err(Outcome::Held(Reason::DirectMap, self.down.held(until_ns, Reason::DirectMap)))
            }
            _ => {
                self.down.reset();
                Ok(gone)
            }
        }
    }

    /// Frames that are free beyond what the guest needs as a reserve: the allocator's highest watermark, which is
    /// what self-ballooning counts as the total reserve.
    fn spare(&self) -> u64 {
        let stats = self.exchange.frames().stats();
        stats.free.saturating_sub(stats.watermarks.total_reserve()).get()
    }

    /// Blocks for the lot. With scrubbing on, those that need none come first; with scrubbing off, they are left to
    /// those whom they save the trouble.
    fn take_blocks(&self, scratch: &mut Scratch, count: u64, scrub: bool) {
        let prefer = if scrub { Contents::Zero } else { Contents::Unknown };
        for _ in 0..count {
            let Some(block) = self.exchange.frames().take_block_for_balloon(prefer) else { break };
            if self.exchange.collect(&mut scratch.out, block) {
                break;
            }
        }
    }

    fn take_frames(&self, scratch: &mut Scratch, count: u64, scrub: bool) {
        let prefer = if scrub { Contents::Zero } else { Contents::Unknown };
        for _ in 0..count {
            let Some(frame) = self.exchange.frames().take_frame_for_balloon(prefer) else { break };
            if self.exchange.collect(&mut scratch.out, frame) {
                break;
            }
        }
    }

    /// Tries to make `wanted` blocks whole: out of the magazines, then by moving what is in the way. Says whether it
    /// is worth looking for blocks again.
    fn make_whole(
        &self,
        wanted: u64,
        budget: &Budget,
        evacuations: &mut Evacuations,
        evacuate: &impl Evacuate,
    ) -> bool {
        let frames = self.exchange.frames();
        // The magazines of all CPUs, or a request to empty them.
        let whole = || {
            frames.drain(VcpuId::new(u32::MAX));
            frames.stats().whole_blocks
        };
        let mut now = whole();
        let mut found = [SparseBlock { first: Gfn::new(0), movable: Frames::ZERO }; EVACUATIONS];
        let room = EVACUATIONS.min(evacuations.left);
        let count = frames.emptiest_blocks(budget.evacuate_frames, &mut found[..room]);
        for block in &found[..count] {
            // What is moved needs a place, and the reserve is none.
            if now >= wanted || self.spare() < block.movable.get() {
                break;
            }
            evacuations.left -= 1;
            let moved = evacuate.evacuate(*block);
            let then = core::mem::replace(&mut now, whole());
            let emptied = u64::from(now > then);
            evacuations.emptied += emptied;
            add(&self.counters.evacuations, 1);
            add(&self.counters.evacuated_blocks, emptied);
            add(&self.counters.evacuated_frames, moved.get());
        }
        now > 0
    }

    /// Populates one list of up to `most` frames.
    fn up(&self, now_ns: u64, most: u64, budget: &Budget, scratch: &mut Scratch) -> Moved {
        if let Some((reason, until_ns)) = self.up.waiting(now_ns)
            && !self.limit_was_raised(reason)
        {
            return Err(Outcome::Held(reason, until_ns));
        }
        let blocks = (most / BLOCK_FRAMES).min(budget.list.clamp(1, LIST) as u64);
        let Some(populated) = self.grow(&mut scratch.back, blocks, most) else {
            // An emergency elsewhere has it all.
            let until_ns = now_ns.saturating_add(RECHECK_NS);
            return Err(Outcome::Held(Reason::InTransit, self.up.held(until_ns, Reason::InTransit)));
        };
        match populated.stopped {
            Some(stop) if populated.returned == Frames::ZERO => {
                let reason = self.why_not_up(stop);
                Err(Outcome::Held(reason, self.up.refused(now_ns, reason)))
            }
            _ => Ok(populated.returned),
        }
    }

    /// Whether the domain was at its limit when it was refused, and is not any more.
    fn limit_was_raised(&self, reason: Reason) -> bool {
        let port = self.exchange.port();
        match (reason, port.current_reservation(), port.maximum_reservation()) {
            (Reason::Limit, Ok(current), Ok(maximum)) => current < maximum,
            _ => false,
        }
    }
}
