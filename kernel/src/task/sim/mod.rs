//! A simulated machine for the scheduler: real closures on real stacks, several CPUs, one order per seed.
//!
//! Every simulated context is a thread of the host, and one *baton* decides which of them runs: at any time exactly
//! one does. At every call into the platform, and wherever a test says [`Sim::step`], time passes, interrupts may
//! come, and the baton may go to another simulated CPU, all as a generator of random numbers says that was
//! seeded. So a run is a sequence of decisions that a seed reproduces, and code that is preempted "between two
//! instructions" is code between two steps.
//!
//! Time is virtual. When all CPUs are halted it jumps to the next timer; when there is none, the machine is at
//! rest. A run ends at rest, and fails if the main function has not returned by then (some thread waits for ever),
//! if threads, stacks or interrupts-off sections are left over, if the scheduler's own books are wrong, or if
//! anything panicked.

mod context;
mod machine;
mod platform;

pub use context::{SimContext, SimStack};
pub use machine::{Config, Outcome, Sim, run};
