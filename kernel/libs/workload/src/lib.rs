//! What an image runs: applications whose memory rises and falls, and that check every byte they stored.
//!
//! All bulk data comes from an allocator that the caller gives (paged memory in a guest, the global one on the
//! host), all time from an [`Environment`], all chance from a seed: the same options under the same clock do the
//! same operations in the same order. Refused memory is a value and never ends a run by itself; data that comes
//! back wrong is counted, and the first case kept.
//!
//! | module | what lives there |
//! |---|---|
//! | [`kv`] | a key-value store under a YCSB-like mix: load, serve, delete, idle, burst |
//! | [`hog`] | memory held and touched at a rate |
//! | [`trace`], [`player`] | the size and touch rate of a hog, over time, from a text |
//! | [`options`] | the options of the command line |
//! | [`environment`], [`progress`], [`run`] | clock and sleep; what is known while it runs; what is known after |
//! | [`store`], [`arena`] | the checked memory under the applications |
//! | [`corpus`] | pages to try compression on |
//! | [`pages`], [`spread`] | pages touched in a sequence that two systems repeat; how times are spread |
//! | [`content`], [`zipf`], [`random`], [`fixed`] | contents, popularity, chance, and their arithmetic without floats |
//!
//! ```
//! use workload::{Options, Progress, Workload, virtual_time::Clock};
//!
//! let pairs = [("workload", "kv"), ("workload.size_mib", "2"), ("workload.seconds", "10")];
//! let options = Options::parse(pairs)?;
//! let allocator = allocator_api2::alloc::Global;
//! if let Some(mut workload) = Workload::from_options(&options, None, allocator)? {
//!     static PROGRESS: Progress = Progress::new(); // other threads read PROGRESS.snapshot()
//!     let outcome = workload.run(&mut Clock::new(200_000), &PROGRESS);
//!     assert_eq!((outcome.word(), outcome.errors), ("done", 0));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod arena;
pub mod content;
pub mod corpus;
pub mod environment;
pub mod fixed;
pub mod hog;
pub mod kv;
pub mod mismatch;
pub mod options;
pub mod pages;
pub mod player;
pub mod progress;
pub mod random;
pub mod run;
pub mod spread;
pub mod store;
pub mod trace;
pub mod virtual_time;
mod workload;
pub mod zipf;

pub use content::Values;
pub use environment::Environment;
pub use mismatch::{Fault, Mismatch};
pub use options::{Kind, OptionError, Options};
pub use progress::{Phase, Progress, Snapshot};
pub use run::{End, FirstError, Outcome};
pub use workload::{SetupError, Workload};
