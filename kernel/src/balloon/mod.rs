//! The balloon: memory that the guest does not need goes back to the hypervisor, and returns when it is wanted.
//!
//! Mechanism only. Somebody else decides on a target (the reservation that the guest should have, in the frames of
//! `XENMEM_current_reservation`); [`Balloon::step`] moves towards it by a bounded amount, and
//! [`Balloon::deflate_now`] gets memory back on the spot for an allocator that has run out. Whatever the target, the
//! balloon takes only memory that is free beyond the allocator's own reserve, and whatever the hypervisor answers,
//! it loses no frame.
//!
//! | file | what lives there |
//! |---|---|
//! | `step.rs` | the worker's step: down and up, whole blocks first |
//! | `emergency.rs` | deflating from the allocator's slow path |
//! | `account.rs` | what the hypervisor should charge, and whether it does |
//! | `backoff.rs` | waiting after a refusal, and its reason |
//! | `evacuate.rs` | what makes blocks whole: a port to those who can move frames |
//! | `start.rs` | what a guest has to give back at boot |
//! | `toolstack.rs` | the toolstack's `memory/target` in frames |
//!
//! [`mm::exchange`](crate::mm::exchange) does the trading; the frame table keeps what is in the balloon.
//!
//! **Context.** A balloon is shared by reference and has no lock. Its numbers are atomics, and every extent is owned,
//! at any time, by the frame table or by the one call that trades it. One step runs at a time (others are told so);
//! any number of emergencies run beside it.

mod account;
mod backoff;
mod emergency;
mod evacuate;
mod start;
mod step;
pub mod toolstack;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::mm::exchange::{Exchange, ExchangeStats};
use crate::mm::frame::LockKind;
use crate::units::{BLOCK_FRAMES, Frames};

use self::backoff::Backoff;

pub use self::account::{Accounts, Disagreement};
pub use self::backoff::{LONGEST_WAIT_NS, Reason, SHORTEST_WAIT_NS};
pub use self::emergency::Deflated;
pub use self::evacuate::{Evacuate, NoEvacuation};
pub use self::start::{StartFacts, StartPlan};
pub use self::step::{Budget, Outcome, PRESSURE_HOLD_NS, RECHECK_NS, Step};
pub use crate::mm::exchange::Scratch;

/// The balloon of one guest.
pub struct Balloon<'a, 'm, P, D, L: LockKind> {
    exchange: Exchange<'a, 'm, P, D, L>,
    /// What the hypervisor would charge if nothing were in the balloon and nothing were owed.
    base: u64,
    /// The wished reservation.
    target: AtomicU64,
    /// No more than this, whoever asks.
    ceiling: AtomicU64,
    /// Frames in the balloon. Lowered *before* frames are populated, by as many as may come, so that several CPUs
    /// together stay below the ceiling.
    held: AtomicU64,
    /// Populate-on-demand: frames that the map shows, that are neither in the balloon nor charged. At most; see
    /// `account.rs`.
    debt: AtomicU64,
    scrub: AtomicBool,
    /// Grows with every emergency: whoever is about to give memory away looks at it.
    pressure: AtomicU64,
    /// How much of that the worker has seen, and until when it keeps memory because of it.
    pressure_seen: AtomicU64,
    keep_until_ns: AtomicU64,
    /// The hypervisor has refused a block since the last step: it may have frames all the same.
    no_blocks: AtomicBool,
    stepping: AtomicBool,
    /// Calls under way, and calls ever begun: what `validate` needs to find a quiet moment.
    under_way: AtomicU64,
    begun: AtomicU64,
    down: Backoff,
    up: Backoff,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    steps: AtomicU64,
    emergencies: AtomicU64,
    emergency_frames: AtomicU64,
    evacuations: AtomicU64,
    evacuated_blocks: AtomicU64,
    evacuated_frames: AtomicU64,
}

/// What the balloon shows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// The reservation that is wished.
    pub target: Frames,
    /// The reservation that is never exceeded.
    pub ceiling: Frames,
    /// The reservation with an empty balloon.
    pub base: Frames,
    /// The reservation as the balloon counts it.
    pub reservation: Frames,
    /// Frames in the balloon.
    pub ballooned: Frames,
    /// Populate-on-demand debt, at most.
    pub debt: Frames,
    /// Frames that neither leave nor come back just now.
    pub limbo: Frames,
    /// Why nothing more is released, and until when.
    pub held_down: Option<(Reason, u64)>,
    /// Why nothing more is populated, and until when.
    pub held_up: Option<(Reason, u64)>,
    /// Steps taken.
    pub steps: u64,
    /// Emergencies.
    pub emergencies: u64,
    /// Frames that emergencies brought.
    pub emergency_frames: u64,
    /// Blocks that somebody was asked to empty.
    pub evacuations: u64,
    /// Blocks that became empty that way.
    pub evacuated_blocks: u64,
    /// Frames that were moved for it.
    pub evacuated_frames: u64,
    /// What was traded.
    pub exchange: ExchangeStats,
}

impl<P, D, L: LockKind> fmt::Debug for Balloon<'_, '_, P, D, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}

impl<'a, 'm, P, D, L: LockKind> Balloon<'a, 'm, P, D, L> {
    /// An empty balloon for a guest that starts as `plan` says. Its target, and its ceiling, is what the plan wants;
    /// nothing moves before the first step.
    pub fn new(exchange: Exchange<'a, 'm, P, D, L>, plan: &StartPlan) -> Self {
        Self {
            exchange,
            base: plan.base.get(),
            target: AtomicU64::new(plan.target().get()),
            ceiling: AtomicU64::new(plan.target().get()),
            held: AtomicU64::new(0),
            debt: AtomicU64::new(plan.debt.get()),
            scrub: AtomicBool::new(true),
            pressure: AtomicU64::new(0),
            pressure_seen: AtomicU64::new(0),
            keep_until_ns: AtomicU64::new(0),
            no_blocks: AtomicBool::new(false),
            stepping: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            down: Backoff::new(),
            up: Backoff::new(),
            counters: Counters::default(),
        }
    }

    /// Sets the reservation that the following steps move towards. Any number is allowed; what cannot be reached is
    /// approached. Answers what it means for this guest: no more than the ceiling.
    pub fn set_target(&self, target: Frames) -> Frames {
        self.target.store(target.get(), Ordering::Relaxed);
        Frames::new(self.goal())
    }

    /// The target as it was set.
    #[must_use]
    pub fn target(&self) -> Frames {
        Frames::new(self.target.load(Ordering::Relaxed))
    }

    /// Sets the reservation that not even an emergency exceeds: the toolstack's target. At most
    /// [`base`](Self::base).
    pub fn set_ceiling(&self, ceiling: Frames) -> Frames {
        let ceiling = ceiling.get().min(self.base);
        self.ceiling.store(ceiling, Ordering::Relaxed);
        Frames::new(ceiling)
    }

    /// Whether memory of unknown content is overwritten before it leaves (`xen_scrub_pages`). On at first.
    pub fn set_scrub(&self, scrub: bool) {
        self.scrub.store(scrub, Ordering::Relaxed);
    }

    /// Forgets that the hypervisor has refused: for a new limit from the toolstack.
    pub fn retry(&self) {
        self.up.reset();
        self.down.reset();
    }

    /// The reservation with an empty balloon: RAM, special pages, and whatever else the domain is charged for.
    #[must_use]
    pub const fn base(&self) -> Frames {
        Frames::new(self.base)
    }

    /// The reservation as the balloon counts it, without asking anybody.
    #[must_use]
    pub fn reservation(&self) -> Frames {
        let held = self.held.load(Ordering::Relaxed) + self.debt.load(Ordering::Relaxed);
        Frames::new(self.base.saturating_sub(held))
    }

    /// What the guest has and the toolstack wants back, by the balloon's count.
    #[must_use]
    pub fn above_ceiling(&self) -> Frames {
        self.reservation().saturating_sub(Frames::new(self.ceiling.load(Ordering::Relaxed)))
    }

    /// Frames in the balloon.
    #[must_use]
    pub fn ballooned(&self) -> Frames {
        Frames::new(self.held.load(Ordering::Relaxed))
    }

    /// What trades for the balloon.
    pub const fn exchange(&self) -> &Exchange<'a, 'm, P, D, L> {
        &self.exchange
    }

    /// Everything at a glance.
    #[must_use]
    pub fn status(&self) -> Status {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            target: self.target(),
            ceiling: Frames::new(of(&self.ceiling)),
            base: self.base(),
            reservation: self.reservation(),
            ballooned: self.ballooned(),
            debt: Frames::new(of(&self.debt)),
            limbo: self.exchange.limbo(),
            held_down: self.down.state(),
            held_up: self.up.state(),
            steps: of(&self.counters.steps),
            emergencies: of(&self.counters.emergencies),
            emergency_frames: of(&self.counters.emergency_frames),
            evacuations: of(&self.counters.evacuations),
            evacuated_blocks: of(&self.counters.evacuated_blocks),
            evacuated_frames: of(&self.counters.evacuated_frames),
            exchange: self.exchange.stats(),
        }
    }

    /// The target, as far as it is allowed.
    fn goal(&self) -> u64 {
        self.target.load(Ordering::Relaxed).min(self.ceiling.load(Ordering::Relaxed))
    }

    /// Marks a call as under way, until the mark is dropped.
    fn enter(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        UnderWay(&self.under_way)
    }

    /// Frames have gone into the balloon.
    fn count_gone(&self, gone: Frames) {
        self.held.fetch_add(gone.get(), Ordering::SeqCst);
        // While memory is owed, what is released pays for it first, and the reservation stays.
        let _ = self.debt.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |debt| {
            (debt > 0).then(|| debt.saturating_sub(gone.get()))
        });
    }

    /// Frames in the balloon that are parts of blocks, about. Where blocks are not to be had, these come back first,
    /// so that not every refusal breaks another block.
    fn in_pieces(&self) -> u64 {
        let stats = self.exchange.frames().stats();
        stats.ballooned.get().saturating_sub(stats.ballooned_blocks * BLOCK_FRAMES)
    }

    /// Allows up to `most` frames to leave the balloon, a multiple of `unit`: not more than are in it, and not above
    /// the ceiling. They count as gone from now on; [`refund`](Self::refund) what does not come.
    fn claim(&self, most: u64, unit: u64) -> u64 {
        let mut claimed = 0;
        let _ = self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| {
            claimed = most.min(self.room(held)).min(held) / unit * unit;
            (claimed > 0).then(|| held - claimed)
        });
        claimed
    }

    /// Frames that the ceiling allows to come, while `held` are in the balloon.
    fn room(&self, held: u64) -> u64 {
        (self.ceiling.load(Ordering::Relaxed) + held).saturating_sub(self.base)
    }

    fn refund(&self, frames: u64) {
        self.held.fetch_add(frames, Ordering::SeqCst);
    }
}

/// A call under way.
struct UnderWay<'b>(&'b AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Adds to a counter.
fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
