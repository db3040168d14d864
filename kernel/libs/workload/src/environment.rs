//! What an application needs of its surroundings: a clock, sleep, and word of when to stop.

use crate::progress::Phase;

/// Clock, sleep and the wish to stop. A guest gives its thread's; tests give
/// [`virtual_time::Clock`](crate::virtual_time::Clock).
pub trait Environment {
    /// Nanoseconds of a clock that never goes back. Asked every few milliseconds of work, because reading a
    /// clock is dear under emulation.
    fn now_ns(&mut self) -> u64;

    /// Sleeps until the clock says `deadline_ns` or later; may return early, and does at once when the deadline
    /// is past. Never asked for more than a quarter of a second ahead, so it need not watch
    /// [`should_stop`](Self::should_stop).
    fn sleep_until_ns(&mut self, deadline_ns: u64);

    /// Whether the run should end soon. Asked together with the clock.
    fn should_stop(&mut self) -> bool;

    /// Told between batches how many operations were just done: the place to let other threads run, and where
    /// a virtual clock charges for the work.
    fn batch_done(&mut self, operations: u64);

    /// Told when a phase begins.
    fn phase_begins(&mut self, phase: Phase) {
        let _ = phase;
    }
}
