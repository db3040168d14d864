//! The memory hog: holds a size, touches its pages in turn at a rate, and checks them.
//!
//! Growing is as fast as memory comes. An operation is a page written, touched, or checked at its end.

use crate::arena::{Arena, CHUNK_PAGES};
use crate::environment::Environment;
use crate::options::Options;
use crate::progress::{Phase, Progress};
use crate::run::{Allowance, End, Outcome, Patience, RETRY_NS, Run, SECOND_NS};
use allocator_api2::alloc::Allocator;

/// How long a hog runs where no time was given, seconds.
pub const DEFAULT_SECONDS: u32 = 75;

/// Pages touched per second where no rate was given.
pub const DEFAULT_RATE: u64 = 1000;

/// What an operation was, in the sum over all of them.
const GROW: u64 = 1 << 56;
const TOUCH: u64 = 2 << 56;
const SHRINK: u64 = 3 << 56;

/// What happens when memory is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The run waits, and ends when patience does.
    Ends,
    /// The run goes on with what it has, and tries again meanwhile.
    GoesOn,
}

/// A hog whose size and rate change over time.
#[derive(Debug)]
pub struct Holder<A: Allocator + Clone> {
    arena: Arena<A>,
    phase: Phase,
}

impl<A: Allocator + Clone> Holder<A> {
    /// Of no memory yet.
    #[must_use]
    pub fn new(options: &Options, allocator: A) -> Self {
        Self { arena: Arena::new(options.values, options.seed, allocator), phase: Phase::Idle }
    }

    /// Goes to `mib` and holds it, touching `rate` pages per second, until `until_ns` of the run. Shrinks even if
    /// that takes longer.
    ///
    /// # Errors
    ///
    /// [`End::Stopped`], and [`End::OutOfMemory`] with [`Refusal::Ends`].
    pub fn hold<E: Environment>(
        &mut self,
        run: &mut Run<'_, E>,
        mib: u64,
        rate: u64,
        refusal: Refusal,
        until_ns: u64,
    ) -> Result<(), End> {
        let mut allowance = Allowance::new(Some(rate), run.now_ns());
        let mut patience = Patience::default();
        let mut retry_ns = 0;
        loop {
            if self.arena.mib() > mib {
                self.enter(run, Phase::Delete)?;
                let (first, wrong) = self.arena.shrink();
                (0..wrong).for_each(|_| run.checked(first));
                run.holds(self.arena.mib() << 20);
                run.did(CHUNK_PAGES as u64, SHRINK | self.arena.mib())?;
            } else if run.now_ns() >= until_ns {
                return Ok(());
            } else if self.arena.mib() < mib && run.now_ns() >= retry_ns {
                self.enter(run, Phase::Load)?;
                if self.arena.grow().is_ok() {
                    patience.rewarded();
                    run.holds(self.arena.mib() << 20);
                    run.did(CHUNK_PAGES as u64, GROW | self.arena.mib())?;
                } else if refusal == Refusal::Ends {
                    patience.tried(run)?;
                } else {
                    run.refused();
                    retry_ns = run.now_ns().saturating_add(RETRY_NS);
                }
            } else {
                if self.arena.mib() == mib {
                    self.enter(run, Phase::Touch)?;
                }
                self.touch(run, &mut allowance, until_ns)?;
            }
        }
    }

    /// Touches a page, or sleeps until the next is due.
    fn touch<E: Environment>(
        &mut self,
        run: &mut Run<'_, E>,
        allowance: &mut Allowance,
        until_ns: u64,
    ) -> Result<(), End> {
        if self.arena.mib() > 0 && allowance.take(run.now_ns()) {
            let (page, mismatch) = self.arena.touch().unwrap_or_default();
            run.checked(mismatch);
            return run.did(1, TOUCH | page);
        }
        // Not in shorter steps than a millisecond, and not past the next attempt to grow.
        let next_ns = allowance.next_ns().max(run.now_ns().saturating_add(SECOND_NS / 1000));
        run.sleep_until(next_ns.min(until_ns).min(run.now_ns().saturating_add(RETRY_NS)))
    }

    fn enter<E: Environment>(&mut self, run: &mut Run<'_, E>, phase: Phase) -> Result<(), End> {
        if self.phase == phase {
            return Ok(());
        }
        self.phase = phase;
        run.enter(phase)
    }

    /// Checks and gives back all, unless the run was stopped: the end of a run.
    pub fn leave<E: Environment>(&mut self, mut run: Run<'_, E>, end: Result<(), End>) -> Outcome {
        let end = match end {
            Err(End::Stopped) => End::Stopped,
            end => match self.hold(&mut run, 0, 0, Refusal::GoesOn, 0) {
                Err(stopped) => stopped,
                Ok(()) => end.err().unwrap_or(End::Done),
            },
        };
        run.finish(end)
    }
}

/// The workload.
#[derive(Debug)]
pub struct Hog<A: Allocator + Clone> {
    holder: Holder<A>,
    mib: u64,
    rate: u64,
    seconds: u32,
    shift_ns: u64,
}

impl<A: Allocator + Clone> Hog<A> {
    /// The workload of `options`; holds no memory before it runs.
    #[must_use]
    pub fn new(options: &Options, allocator: A) -> Self {
        Self {
            holder: Holder::new(options, allocator),
            mib: options.size_mib.into(),
            rate: options.rate.unwrap_or(DEFAULT_RATE),
            seconds: options.seconds.unwrap_or(DEFAULT_SECONDS),
            shift_ns: u64::from(options.shift_s) * SECOND_NS,
        }
    }

    /// Runs to its end. Blocks.
    pub fn run<E: Environment>(&mut self, environment: &mut E, progress: &Progress) -> Outcome {
        let mut run = Run::begin(environment, progress);
        let end = self.play(&mut run);
        self.holder.leave(run, end)
    }

    fn play<E: Environment>(&mut self, run: &mut Run<'_, E>) -> Result<(), End> {
        run.enter(Phase::Idle)?;
        run.sleep_until(self.shift_ns)?;
        let until_ns = match self.seconds {
            0 => u64::MAX,
            seconds => run.now_ns() + u64::from(seconds) * SECOND_NS,
        };
        self.holder.hold(run, self.mib, self.rate, Refusal::Ends, until_ns)
    }
}
