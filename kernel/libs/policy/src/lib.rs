//! How much memory a domain should hold, decided by pure functions.
//!
//! A guest under Xen can give memory back through its balloon and take it again. *How much* it should hold is a
//! question of policy, and this crate is only that: a decision is a function of [`Settings`], of a small value
//! that the last decision returned ([`State`]), and of an [`Observation`]. Nothing here reads a clock, takes a
//! lock, allocates or writes a log, so every rule can be run, and argued about, on paper.
//!
//! | module | what lives there |
//! |---|---|
//! | [`selfballoon`] | Linux's xen-selfballoon: hold what is *committed*, go down to it slowly |
//! | [`selfshrink`] | bring pages home from frontswap when swapping has been quiet |
//! | [`pressure`] | another: hold what is *used*, and a headroom learnt from stalls and refaults |
//! | [`approach`] | what a periodic worker calls: policy, ceiling, floor, the next run |
//! | [`boot`] | what is on and what is off, from boot options, and why |
//! | [`settings`] | every tunable with its range, default and meaning |
//!
//! # The committed-memory policy in one formula
//!
//! Counts are 4 KiB frames; `M(x)` is x MiB in frames; `/` rounds down.
//!
//! ```text
//! goal   = committed + total_reserve + M(reserved_mb) + frontswap
//! raw    = current - (current - goal) / downhysteresis     above the goal
//!        = current + (goal - current) / uphysteresis       below it
//! target = max(raw, floor)
//! balloon target = target + reservation - current
//! ```
//!
//! `current` counts the memory that the domain can use, `reservation` what the hypervisor has charged to it; the
//! difference is a constant of the domain (firmware, shared pages). The floor is a function of the size of the
//! machine, see [`selfballoon::floor`].
//!
//! # Two arithmetics
//!
//! The original has sharp edges: it can ask for more than the domain may have, divide by zero, get stuck short of
//! its goal. [`Arithmetic::Compatible`] keeps every one of them, bit for bit, for study and for comparison;
//! [`Arithmetic::Fixed`], the default, excludes them and is the same everywhere else. `tests/defects.rs` shows
//! each of the fifteen in both.
//!
//! # Example
//!
//! A domain of 4 GiB whose applications have committed 800 MiB:
//!
//! ```
//! use policy::{Observation, Settings, State, approach};
//!
//! let mut settings = Settings::default();
//! settings.resolve_reserve(1_000_000);                  // once, at start: 10 % of the memory
//! let observation = Observation {
//!     committed_frames: 200_000,
//!     current_frames: 1_000_000,
//!     reservation_frames: 1_000_500,
//!     total_reserve_frames: 11_500,
//!     span_frames: 1_048_576,
//!     ceiling_frames: 1_000_500,                        // the toolstack's target
//!     static_max_frames: 1_048_576,
//!     ..Observation::default()
//! };
//! let (decision, _state) = approach::decide(&settings, &State::default(), &observation);
//! assert_eq!(decision.target_frames, 913_918 + 500);    // one eighth of the way
//! assert_eq!(decision.next_run_s, Some(5));
//! assert_eq!(decision.reason.to_string(), "above the goal: shrinking");
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod approach;
pub mod boot;
mod math;
pub mod observation;
pub mod original;
pub mod pressure;
mod reason;
pub mod selfballoon;
pub mod selfshrink;
pub mod settings;

pub use approach::{Decision, State, decide};
pub use math::mib_frames;
pub use observation::{Activity, Observation};
pub use reason::Reason;
pub use settings::{Arithmetic, Generation, Policy, Settings, Tunable};

/// Frames of 4 KiB in a MiB.
pub const FRAMES_PER_MIB: u64 = 256;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
