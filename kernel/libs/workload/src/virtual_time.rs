//! A clock that only work and sleep move: hours of an application in seconds, the same every time.

use crate::environment::Environment;
use crate::progress::Phase;

/// An [`Environment`] in which every operation takes the same time and sleep takes none.
#[derive(Clone, Debug)]
pub struct Clock {
    now_ns: u64,
    stop_ns: u64,
    operation_ns: u64,
    reads: u64,
    phases: [Option<(u64, Phase)>; 64],
    begun: usize,
}

impl Clock {
    /// At time 0, with operations of `operation_ns` each, never asking to stop.
    #[must_use]
    pub const fn new(operation_ns: u64) -> Self {
        Self { now_ns: 0, stop_ns: u64::MAX, operation_ns, reads: 0, phases: [None; 64], begun: 0 }
    }

    /// The same, asking to stop from `stop_ns` on.
    #[must_use]
    pub const fn stopping_at(self, stop_ns: u64) -> Self {
        Self { stop_ns, ..self }
    }

    /// How often the clock was read.
    #[must_use]
    pub const fn reads(&self) -> u64 {
        self.reads
    }

    /// The time, without counting as a read.
    #[must_use]
    pub const fn time_ns(&self) -> u64 {
        self.now_ns
    }

    /// The first 64 phases that began, with their times in nanoseconds.
    pub fn phases(&self) -> impl Iterator<Item = (u64, Phase)> + '_ {
        self.phases.iter().flatten().copied()
    }
}

impl Environment for Clock {
    fn now_ns(&mut self) -> u64 {
        self.reads += 1;
        self.now_ns
    }

    fn sleep_until_ns(&mut self, deadline_ns: u64) {
        self.now_ns = self.now_ns.max(deadline_ns);
    }

    fn should_stop(&mut self) -> bool {
        self.now_ns >= self.stop_ns
    }

    fn batch_done(&mut self, operations: u64) {
        self.now_ns = self.now_ns.saturating_add(operations.saturating_mul(self.operation_ns));
    }

    fn phase_begins(&mut self, phase: Phase) {
        if let Some(slot) = self.phases.get_mut(self.begun) {
            *slot = Some((self.now_ns, phase));
            self.begun += 1;
        }
    }
}
