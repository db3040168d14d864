//! Plays a trace: a hog whose size and rate are those of the trace's points.
//!
//! Memory that is refused is counted and asked for again, and the trace goes on with what there is.

use crate::environment::Environment;
use crate::hog::{Holder, Refusal};
use crate::options::Options;
use crate::progress::{Phase, Progress};
use crate::run::{End, Outcome, Run, SECOND_NS};
use crate::trace::Trace;
use allocator_api2::alloc::Allocator;

/// The workload.
#[derive(Debug)]
pub struct Player<A: Allocator + Clone> {
    holder: Holder<A>,
    trace: Trace<A>,
    /// `workload.seconds`: none is the trace's own length, 0 repeats it.
    seconds: Option<u32>,
    shift_ns: u64,
}

impl<A: Allocator + Clone> Player<A> {
    /// Plays `trace` once; for `options.seconds` if given, in which the last point is held if the trace is
    /// shorter; again and again if that is 0. Size and rate of the options do not count.
    #[must_use]
    pub fn new(options: &Options, trace: Trace<A>, allocator: A) -> Self {
        let shift_ns = u64::from(options.shift_s) * SECOND_NS;
        Self { holder: Holder::new(options, allocator), trace, seconds: options.seconds, shift_ns }
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
        loop {
            let begun_ns = run.now_ns();
            let at_ns = |at_ms: u64| begun_ns.saturating_add(at_ms * (SECOND_NS / 1000));
            let last_ns = at_ns(self.trace.points().last().map_or(0, |last| last.at_ms));
            let end_ns = match self.seconds {
                None => last_ns,
                // A trace without length cannot be repeated: it is held.
                Some(0) if last_ns == begun_ns => u64::MAX,
                Some(0) => last_ns,
                Some(seconds) => at_ns(u64::from(seconds) * 1000),
            };
            for (index, point) in self.trace.points().iter().enumerate() {
                if at_ns(point.at_ms) >= end_ns {
                    break;
                }
                run.sleep_until(at_ns(point.at_ms))?;
                let until_ns = self.trace.points().get(index + 1).map_or(end_ns, |next| at_ns(next.at_ms));
                let (mib, rate) = (point.resident_mib, point.touches_per_s);
                self.holder.hold(run, mib, rate, Refusal::GoesOn, until_ns.min(end_ns))?;
            }
            run.sleep_until(end_ns)?;
            if self.seconds != Some(0) {
                return Ok(());
            }
        }
    }
}
