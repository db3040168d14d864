//! One run of an application: counts, time and publication, the same for every application.
//!
//! Reading the clock and asking whether to stop are dear under emulation, so operations are counted in batches
//! whose length follows the time they take.

use crate::environment::Environment;
use crate::mismatch::Mismatch;
use crate::progress::{Phase, Progress, Snapshot};
use crate::random::mix;

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// A batch is made longer when it took less time than this, …
const SHORT_NS: u64 = 2_000_000;

/// … and shorter when it took more than this.
const LONG_NS: u64 = 8_000_000;

/// The longest batch, in operations.
const MAX_BATCH: u64 = 1024;

/// The longest sleep at a time: a wish to stop is seen after it.
const MAX_SLEEP_NS: u64 = SECOND_NS / 4;

/// Between two attempts to get memory that was refused.
pub const RETRY_NS: u64 = SECOND_NS / 50;

/// How long memory may be refused, without one success, until a run gives up: balloons and hosts answer within
/// seconds.
pub const PATIENCE_NS: u64 = 5 * SECOND_NS;

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It did all it was to do.
    Done,
    /// It was told to stop.
    Stopped,
    /// Memory that it cannot do without was refused for [`PATIENCE_NS`].
    OutOfMemory,
}

/// The first case of data that came back wrong, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstError {
    /// What was wrong.
    pub mismatch: Mismatch,
    /// During which phase.
    pub phase: Phase,
    /// After how many operations.
    pub work: u64,
}

/// What is known after a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Outcome {
    /// Operations done.
    pub work: u64,
    /// Times that data came back wrong.
    pub errors: u64,
    /// Allocations that were refused.
    pub refused: u64,
    /// Why it ended.
    pub end: End,
    /// The first of `errors`.
    pub first_error: Option<FirstError>,
    /// A sum over the operations in their order: equal where two runs did the same.
    pub digest: u64,
    /// How long it took.
    pub elapsed_ns: u64,
}

impl Outcome {
    /// The outcome in a record: `verify-errors` as soon as there was one, else `done`, `stopped` or
    /// `out-of-memory`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.end {
            _ if self.errors != 0 => "verify-errors",
            End::Done => "done",
            End::Stopped => "stopped",
            End::OutOfMemory => "out-of-memory",
        }
    }
}

/// A run in progress.
#[derive(Debug)]
pub struct Run<'e, E: Environment> {
    environment: &'e mut E,
    progress: &'e Progress,
    begun_ns: u64,
    now_ns: u64,
    batch: u64,
    pending: u64,
    live_bytes: u64,
    figures: Snapshot,
    first_error: Option<FirstError>,
    digest: u64,
}

impl<'e, E: Environment> Run<'e, E> {
    /// A run that begins now, idle.
    pub fn begin(environment: &'e mut E, progress: &'e Progress) -> Self {
        let begun_ns = environment.now_ns();
        let run = Self {
            environment,
            progress,
            begun_ns,
            now_ns: 0,
            batch: 1,
            pending: 0,
            live_bytes: 0,
            figures: Snapshot::default(),
            first_error: None,
            digest: 0,
        };
        run.publish();
        run
    }

    /// Nanoseconds since the beginning, as of the last look at the clock.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// A phase begins. Looks at the clock.
    ///
    /// # Errors
    ///
    /// [`End::Stopped`].
    pub fn enter(&mut self, phase: Phase) -> Result<(), End> {
        let flow = self.look();
        self.figures.phase = phase;
        self.environment.phase_begins(phase);
        self.publish();
        flow
    }

    /// Counts `operations` done, known by `code`; looks at the clock where a batch is full.
    ///
    /// # Errors
    ///
    /// [`End::Stopped`].
    pub fn did(&mut self, operations: u64, code: u64) -> Result<(), End> {
        self.digest = mix(self.digest ^ code);
        self.figures.work += operations;
        self.pending += operations;
        if self.pending < self.batch { Ok(()) } else { self.look() }
    }

    /// Data is held: the bytes that are published.
    pub const fn holds(&mut self, bytes: u64) {
        self.live_bytes = bytes;
    }

    /// Data came back wrong, or did not.
    pub fn checked(&mut self, mismatch: Option<Mismatch>) {
        let Some(mismatch) = mismatch else { return };
        self.figures.errors += 1;
        let (phase, work) = (self.figures.phase, self.figures.work);
        self.first_error.get_or_insert(FirstError { mismatch, phase, work });
        self.publish();
    }

    /// An allocation was refused.
    pub const fn refused(&mut self) {
        self.figures.refused += 1;
    }

    /// Ends the batch: publishes, lets others run, reads the clock, and asks whether to stop.
    ///
    /// # Errors
    ///
    /// [`End::Stopped`].
    pub fn look(&mut self) -> Result<(), End> {
        self.publish();
        self.environment.batch_done(self.pending);
        let now_ns = self.environment.now_ns().saturating_sub(self.begun_ns).max(self.now_ns);
        if self.pending >= self.batch {
            match now_ns - self.now_ns {
                took_ns if took_ns < SHORT_NS => self.batch = (self.batch * 2).min(MAX_BATCH),
                took_ns if took_ns > LONG_NS => self.batch = (self.batch / 2).max(1),
                _ => {}
            }
        }
        self.pending = 0;
        self.now_ns = now_ns;
        if self.environment.should_stop() { Err(End::Stopped) } else { Ok(()) }
    }

    /// Sleeps until `deadline_ns` after the beginning.
    ///
    /// # Errors
    ///
    /// [`End::Stopped`].
    pub fn sleep_until(&mut self, deadline_ns: u64) -> Result<(), End> {
        self.look()?;
        while self.now_ns < deadline_ns {
            let until_ns = deadline_ns.min(self.now_ns.saturating_add(MAX_SLEEP_NS));
            self.environment.sleep_until_ns(self.begun_ns.saturating_add(until_ns));
            self.look()?;
        }
        Ok(())
    }

    /// The end.
    pub fn finish(mut self, end: End) -> Outcome {
        // Whether the run was to be stopped no longer matters.
        let _ = self.look();
        self.figures.phase = Phase::Done;
        self.environment.phase_begins(Phase::Done);
        self.publish();
        let Snapshot { work, errors, refused, .. } = self.figures;
        let (first_error, digest, elapsed_ns) = (self.first_error, self.digest, self.now_ns);
        Outcome { work, errors, refused, end, first_error, digest, elapsed_ns }
    }

    fn publish(&self) {
        self.progress.publish(Snapshot { live_kib: self.live_bytes / 1024, ..self.figures });
    }
}

/// Waiting for memory that was refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    since_ns: Option<u64>,
}

impl Patience {
    /// Memory came.
    pub const fn rewarded(&mut self) {
        self.since_ns = None;
    }

    /// Memory was refused: counts it and sleeps a little.
    ///
    /// # Errors
    ///
    /// [`End::OutOfMemory`] when it has been refused for [`PATIENCE_NS`], and [`End::Stopped`].
    pub fn tried<E: Environment>(&mut self, run: &mut Run<'_, E>) -> Result<(), End> {
        run.refused();
        run.look()?;
        let since_ns = *self.since_ns.get_or_insert(run.now_ns());
        if run.now_ns() - since_ns >= PATIENCE_NS {
            return Err(End::OutOfMemory);
        }
        run.sleep_until(run.now_ns().saturating_add(RETRY_NS))
    }
}

/// Operations that a rate allows.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Per second; none: any number.
    rate: Option<u64>,
    since_ns: u64,
    taken: u64,
}

impl Allowance {
    /// `rate` operations per second from `now_ns` on; none: as many as can be done.
    #[must_use]
    pub const fn new(rate: Option<u64>, now_ns: u64) -> Self {
        Self { rate, since_ns: now_ns, taken: 0 }
    }

    /// Takes one, if one is due. What was not taken for more than a second lapses.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let Some(rate) = self.rate else { return true };
        let due = u128::from(now_ns - self.since_ns) * u128::from(rate) / u128::from(SECOND_NS);
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.taken = self.taken.max(due.saturating_sub(rate));
        let one = self.taken < due;
        self.taken += u64::from(one);
        one
    }

    /// When the next is due.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        match self.rate {
            None => self.since_ns,
            Some(0) => u64::MAX,
            Some(rate) => {
                let wait_ns = (u128::from(self.taken) + 1) * u128::from(SECOND_NS);
                let wait_ns = u64::try_from(wait_ns.div_ceil(u128::from(rate))).unwrap_or(u64::MAX);
                self.since_ns.saturating_add(wait_ns)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mismatch::Fault;
    use crate::virtual_time::Clock;

    #[test]
    fn the_clock_is_read_every_few_milliseconds() {
        for (operation_ns, most_reads) in [(1_000, 1_000), (100_000, 600), (50_000_000, 30)] {
            let mut clock = Clock::new(operation_ns);
            let progress = Progress::new();
            let mut run = Run::begin(&mut clock, &progress);
            while run.now_ns() < SECOND_NS {
                run.did(1, 0).unwrap();
            }
            assert_eq!(run.finish(End::Done).work, clock.time_ns() / operation_ns);
            assert!(clock.reads() <= most_reads, "{} reads", clock.reads());
        }
    }

    #[test]
    fn stop_is_seen_within_one_sleep() {
        let mut clock = Clock::new(1).stopping_at(SECOND_NS);
        let progress = Progress::new();
        let mut run = Run::begin(&mut clock, &progress);
        assert_eq!(run.sleep_until(100 * SECOND_NS), Err(End::Stopped));
        assert!(run.now_ns() <= SECOND_NS + MAX_SLEEP_NS);
    }

    #[test]
    fn the_first_error_is_kept_and_spoils_the_outcome() {
        let mut clock = Clock::new(1);
        let progress = Progress::new();
        let mut run = Run::begin(&mut clock, &progress);
        run.enter(Phase::Serve).unwrap();
        run.did(5, 1).unwrap();
        let mismatch =
            |item| Mismatch { fault: Fault::Content, item, version: 0, word: 0, expected: 1, found: 2 };
        run.checked(None);
        run.checked(Some(mismatch(7)));
        run.checked(Some(mismatch(8)));
        let outcome = run.finish(End::Done);
        assert_eq!((outcome.errors, outcome.word()), (2, "verify-errors"));
        let first = outcome.first_error.unwrap();
        assert_eq!((first.mismatch.item, first.phase, first.work), (7, Phase::Serve, 5));
        assert_eq!((progress.snapshot().errors, progress.snapshot().phase), (2, Phase::Done));
    }

    #[test]
    fn patience_ends_unless_rewarded() {
        let mut clock = Clock::new(1);
        let progress = Progress::new();
        let mut run = Run::begin(&mut clock, &progress);
        let mut patience = Patience::default();
        for _ in 0..100 {
            patience.tried(&mut run).unwrap();
            patience.rewarded();
        }
        patience.rewarded();
        let begun_ns = run.now_ns();
        while patience.tried(&mut run).is_ok() {}
        assert!((PATIENCE_NS..PATIENCE_NS + RETRY_NS).contains(&(run.now_ns() - begun_ns)));
        assert_eq!(patience.tried(&mut run), Err(End::OutOfMemory));
    }

    #[test]
    fn an_allowance_is_the_rate_and_debts_lapse() {
        let mut allowance = Allowance::new(Some(10), 0);
        assert!(!allowance.take(SECOND_NS / 10 - 1));
        assert_eq!(allowance.next_ns(), SECOND_NS / 10);
        assert!(allowance.take(SECOND_NS / 10));
        assert_eq!(allowance.next_ns(), SECOND_NS / 5);
        // A minute late: one second's worth.
        let taken = (0..1000).filter(|_| allowance.take(60 * SECOND_NS)).count();
        assert_eq!(taken, 10);
        assert!(!Allowance::new(Some(0), 0).take(u64::MAX));
        assert_eq!(Allowance::new(Some(0), 0).next_ns(), u64::MAX);
        assert!(Allowance::new(None, 5).take(5));
        assert!(Allowance::new(Some(u64::MAX), 0).take(u64::MAX));
    }
}
