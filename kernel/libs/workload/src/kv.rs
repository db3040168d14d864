//! The key-value workload: a store under a YCSB-like mix whose data rises, falls and rises again.
//!
//! Reads choose items by Zipf's law with YCSB's exponent; one read in 64 asks for an item that is not there. A
//! tenth of the operations are updates (half in the burst's aftermath), each of which checks the old value before
//! it writes the next version, half in place and half into new memory of a newly drawn size. Whatever is stored
//! is checked at least once more: when it is read, overwritten, or at last deleted.
//!
//! The [`SCHEDULE`] is stretched to the seconds asked for. Steps that move data go on until they have moved it;
//! what they overrun is taken from the step after, of which a quarter remains.

use crate::environment::Environment;
use crate::options::Options;
use crate::progress::{Phase, Progress};
use crate::random::Rng;
use crate::run::{Allowance, End, Outcome, Patience, Run, SECOND_NS};
use crate::store::{Store, draw_words};
use crate::zipf::{THETA, Zipf};
use allocator_api2::alloc::Allocator;

/// How long one course of the schedule takes where no time was given, seconds.
pub const DEFAULT_SECONDS: u32 = 75;

/// One step of the schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is done.
    pub phase: Phase,
    /// Data at its end, in percent of the size.
    pub goal_percent: u64,
    /// When it should end, in percent of the time.
    pub end_percent: u64,
    /// Updates among the operations, in percent.
    pub update_percent: u64,
}

const fn step(phase: Phase, goal_percent: u64, end_percent: u64, update_percent: u64) -> Step {
    Step { phase, goal_percent, end_percent, update_percent }
}

/// The course of the data.
pub const SCHEDULE: [Step; 8] = [
    step(Phase::Load, 100, 20, 10),
    step(Phase::Serve, 100, 36, 10),
    step(Phase::Delete, 10, 40, 0),
    step(Phase::Idle, 10, 55, 0),
    step(Phase::Burst, 90, 63, 0),
    step(Phase::Serve, 90, 80, 50),
    step(Phase::Delete, 10, 84, 0),
    step(Phase::Idle, 10, 100, 0),
];

/// What an operation was, in the sum over all of them.
const READ: u64 = 1 << 56;
const REWRITE: u64 = 2 << 56;
const REPLACE: u64 = 3 << 56;
const INSERT: u64 = 4 << 56;
const REMOVE: u64 = 5 << 56;

/// The workload.
#[derive(Debug)]
pub struct Kv<A: Allocator + Clone> {
    store: Store<A>,
    rng: Rng,
    zipf: Zipf,
    size_bytes: u64,
    seconds: u32,
    shift_ns: u64,
    rate: Option<u64>,
}

impl<A: Allocator + Clone> Kv<A> {
    /// The workload of `options`; holds no memory before it runs.
    #[must_use]
    pub fn new(options: &Options, allocator: A) -> Self {
        Self {
            store: Store::new(options.values, options.seed, allocator),
            rng: Rng::new(options.seed),
            zipf: Zipf::new(1, THETA),
            size_bytes: u64::from(options.size_mib) << 20,
            seconds: options.seconds.unwrap_or(DEFAULT_SECONDS),
            shift_ns: u64::from(options.shift_s) * SECOND_NS,
            rate: options.rate,
        }
    }

    /// Runs to its end. Blocks.
    pub fn run<E: Environment>(&mut self, environment: &mut E, progress: &Progress) -> Outcome {
        let mut run = Run::begin(environment, progress);
        let end = self.play(&mut run);
        let end = match end {
            // Told to stop: somebody waits, so nothing is checked any more.
            Err(End::Stopped) => End::Stopped,
            end => match self.delete(&mut run, 0) {
                Err(stopped) => stopped,
                Ok(()) => end.err().unwrap_or(End::Done),
            },
        };
        run.finish(end)
    }

    fn play<E: Environment>(&mut self, run: &mut Run<'_, E>) -> Result<(), End> {
        run.enter(Phase::Idle)?;
        run.sleep_until(self.shift_ns)?;
        loop {
            let seconds = if self.seconds == 0 { DEFAULT_SECONDS } else { self.seconds };
            let begun_ns = run.now_ns();
            let after = |percent: u64| begun_ns + u64::from(seconds) * (SECOND_NS / 100) * percent;
            let mut before = 0;
            for step in &SCHEDULE {
                let share_ns = after(step.end_percent) - after(before);
                before = step.end_percent;
                let until_ns = after(step.end_percent).max(run.now_ns() + share_ns / 4);
                self.step(run, step, until_ns)?;
            }
            if self.seconds != 0 {
                return Ok(());
            }
        }
    }

    fn step<E: Environment>(&mut self, run: &mut Run<'_, E>, step: &Step, until_ns: u64) -> Result<(), End> {
        // Percentages of at most 2⁴⁰ bytes.
        let goal_bytes = self.size_bytes * step.goal_percent / 100;
        match step.phase {
            Phase::Load => self.load(run, goal_bytes, until_ns, step.update_percent)?,
            Phase::Burst => self.burst(run, goal_bytes)?,
            Phase::Serve => self.serve(run, until_ns, step.update_percent)?,
            Phase::Delete => self.delete(run, goal_bytes)?,
            Phase::Idle | Phase::Touch | Phase::Done => {
                run.enter(Phase::Idle)?;
                run.sleep_until(until_ns)?;
            }
        }
        run.checked(self.store.audit());
        Ok(())
    }

    /// Grows steadily until `until_ns`, and serves meanwhile.
    fn load<E: Environment>(
        &mut self,
        run: &mut Run<'_, E>,
        goal_bytes: u64,
        until_ns: u64,
        update_percent: u64,
    ) -> Result<(), End> {
        run.enter(Phase::Load)?;
        let (begun_ns, begun_bytes) = (run.now_ns(), self.store.bytes());
        let grow_bytes = goal_bytes.saturating_sub(begun_bytes);
        let mut allowance = Allowance::new(self.rate, begun_ns);
        let mut patience = Patience::default();
        while self.store.bytes() < goal_bytes {
            let (spent_ns, span_ns) = (run.now_ns() - begun_ns, until_ns.saturating_sub(begun_ns).max(1));
            let due = u128::from(grow_bytes) * u128::from(spent_ns.min(span_ns)) / u128::from(span_ns);
            if self.store.bytes().saturating_sub(begun_bytes) <= due as u64 {
                self.insert(run, &mut patience)?;
            } else {
                self.serve_one(run, &mut allowance, until_ns, update_percent)?;
            }
        }
        Ok(())
    }

    /// Grows as fast as it can.
    fn burst<E: Environment>(&mut self, run: &mut Run<'_, E>, goal_bytes: u64) -> Result<(), End> {
        run.enter(Phase::Burst)?;
        let mut patience = Patience::default();
        while self.store.bytes() < goal_bytes {
            self.insert(run, &mut patience)?;
        }
        Ok(())
    }

    fn serve<E: Environment>(
        &mut self,
        run: &mut Run<'_, E>,
        until_ns: u64,
        update_percent: u64,
    ) -> Result<(), End> {
        run.enter(Phase::Serve)?;
        self.zipf = Zipf::new(self.store.items(), THETA);
        let mut allowance = Allowance::new(self.rate, run.now_ns());
        while run.now_ns() < until_ns {
            self.serve_one(run, &mut allowance, until_ns, update_percent)?;
        }
        Ok(())
    }

    /// Checks and frees, the newest first, down to `goal_bytes`.
    fn delete<E: Environment>(&mut self, run: &mut Run<'_, E>, goal_bytes: u64) -> Result<(), End> {
        run.enter(Phase::Delete)?;
        while self.store.items() > 0 && self.store.bytes() > goal_bytes {
            run.checked(self.store.remove_last());
            run.holds(self.store.bytes());
            run.did(1, REMOVE | u64::from(self.store.items()))?;
        }
        Ok(())
    }

    fn insert<E: Environment>(&mut self, run: &mut Run<'_, E>, patience: &mut Patience) -> Result<(), End> {
        let words = draw_words(&mut self.rng);
        match self.store.insert(words) {
            Ok(mismatch) => {
                patience.rewarded();
                run.checked(mismatch);
                run.holds(self.store.bytes());
                run.did(1, INSERT | u64::from(words))
            }
            Err(_) => patience.tried(run),
        }
    }

    /// One operation of the mix, or a sleep until the next is due.
    fn serve_one<E: Environment>(
        &mut self,
        run: &mut Run<'_, E>,
        allowance: &mut Allowance,
        until_ns: u64,
        update_percent: u64,
    ) -> Result<(), End> {
        if !allowance.take(run.now_ns()) {
            // Not in shorter steps than a millisecond, and not beyond what a load has to grow by.
            let next_ns = allowance.next_ns().max(run.now_ns() + SECOND_NS / 1000);
            return run.sleep_until(next_ns.min(until_ns).min(run.now_ns() + SECOND_NS / 20));
        }
        let items = self.store.items();
        // While the store grows, popularity follows in steps of a quarter.
        if items < self.zipf.items() || items / 5 * 4 > self.zipf.items() {
            self.zipf = Zipf::new(items, THETA);
        }
        let chance = self.rng.draw();
        if items == 0 || chance & 63 == 0 {
            let absent = items.saturating_add(self.rng.below(1000) as u32);
            run.checked(self.store.read(absent));
            return run.did(1, READ | u64::from(absent));
        }
        let item = self.zipf.item(&mut self.rng);
        run.checked(self.store.read(item));
        let code = if (chance >> 8) % 100 >= update_percent {
            READ
        } else if chance & 64 == 0 {
            self.store.rewrite(item);
            REWRITE
        } else {
            // Where memory is refused, the item keeps its old value.
            let words = draw_words(&mut self.rng);
            if self.store.replace(item, words).is_err() {
                run.refused();
            }
            run.holds(self.store.bytes());
            REPLACE
        };
        run.did(1, code ^ u64::from(item) << 24 ^ u64::from(self.store.version(item)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mismatch::Fault;
    use crate::virtual_time::Clock;
    use allocator_api2::alloc::Global;

    fn small() -> Kv<Global> {
        Kv::new(&Options { size_mib: 1, ..Options::default() }, Global)
    }

    #[test]
    fn a_flipped_bit_is_noticed_while_serving_and_counted_once() {
        let (mut clock, progress, mut kv) = (Clock::new(500_000), Progress::new(), small());
        let mut run = Run::begin(&mut clock, &progress);
        kv.burst(&mut run, 1 << 20).unwrap();
        kv.serve(&mut run, SECOND_NS, 0).unwrap();
        assert_eq!(progress.snapshot().errors, 0);
        let popular = kv.zipf.item(&mut Rng::new(5));
        kv.store.flip(popular, 7);
        kv.serve(&mut run, 20 * SECOND_NS, 10).unwrap();
        kv.delete(&mut run, 0).unwrap();
        let outcome = run.finish(End::Done);
        assert_eq!((outcome.errors, outcome.word()), (1, "verify-errors"));
        let first = outcome.first_error.unwrap();
        assert_eq!((first.phase, first.mismatch.fault), (Phase::Serve, Fault::Content));
        assert_eq!((first.mismatch.item, first.mismatch.word), (popular.into(), 7));
        assert_eq!(first.mismatch.expected ^ first.mismatch.found, 1 << 13);
    }

    #[test]
    fn what_is_never_read_is_checked_when_it_is_deleted() {
        let (mut clock, progress, mut kv) = (Clock::new(500_000), Progress::new(), small());
        let mut run = Run::begin(&mut clock, &progress);
        kv.burst(&mut run, 1 << 20).unwrap();
        let items = kv.store.items();
        (0..items).for_each(|item| kv.store.flip(item, 0));
        kv.delete(&mut run, 0).unwrap();
        let outcome = run.finish(End::Done);
        assert_eq!(outcome.errors, items.into());
        assert_eq!(outcome.first_error.unwrap().phase, Phase::Delete);
    }
}
