//! Threads: creation, scheduling, sleep, and what they wait for one another with.
//!
//! A [`Scheduler`] runs kernel threads on several CPUs: each CPU has a queue, threads take turns of 4 ms, CPUs
//! without work take some from those with more, and a CPU that has one thread or none is not interrupted by any
//! tick. A thread may be preempted wherever a [`Pin`] or interrupts off do not forbid it.
//!
//! Everything is a value over a [`Platform`]: the kernel makes one scheduler, a test as many as it likes, on the
//! simulated machine of [`sim`], where the very same code runs real closures on several CPUs in an order that a
//! seed decides.
//!
//! | module | what lives there |
//! |---|---|
//! | `platform` | what the scheduler needs from the machine |
//! | `list`, `timer` | queues of threads, and their deadlines, without memory of their own |
//! | `cpu`, `balance` | the decisions: who runs, who waits, who moves |
//! | `scheduler`, `placement`, `inspect` | locks, interrupts and switches around the decisions |
//! | `table`, `spawn` | control blocks, and how threads begin and end |
//! | `wait` | wait queues and sleep |
//! | `mutex`, `condvar`, `semaphore`, `worker` | what threads share |
//! | `deadlock` | circles of threads that wait for each other, reported by name |

mod balance;
mod condvar;
mod cpu;
mod deadlock;
mod id;
mod inspect;
mod list;
mod lock;
mod mutex;
mod placement;
mod platform;
mod scheduler;
mod semaphore;
#[cfg(any(test, not(target_os = "none")))]
pub mod sim;
mod spawn;
mod table;
mod timer;
mod wait;
mod worker;

pub use condvar::Condvar;
pub use id::{Name, ThreadId};
pub use inspect::{Census, CpuStats};
pub use mutex::{Mutex, MutexGuard};
pub use platform::{CpuId, Cpus, IrqOff, MAX_CPUS, Pin, Platform, StackSource};
pub use scheduler::{NoMemory, Scheduler};
pub use semaphore::{Completion, Semaphore};
pub use spawn::{JoinHandle, SpawnError};
pub use wait::WaitQueue;
pub use worker::{Held, Next, Worker};

#[cfg(test)]
mod tests;
