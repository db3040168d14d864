//! Models of lock-free parts of the kernel under loom, and mistakes that it must find.
//!
//! Run with `cargo xtask test --only loom`, or by itself with
//! `RUSTFLAGS="--cfg loom" cargo test -p ebb --release --test loom -- --nocapture`. Each model prints the bound on
//! preemptions it was explored with and the number of executions.
//!
//! The models run the kernel's own source over atomics that forward to loom's. Every model is run as it is, and must
//! hold; and again with each mistake that it is there to notice, and must fail.
#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(
    unsafe_code,
    reason = "models of code that shares memory by other means than the borrow checker knows"
)]

extern crate alloc;

mod atomic;
mod frame;
mod model;
mod ports;
mod tmem;

// What the kernel's source finds in its own crate.
use ebb::port;
mod mm {
    pub(crate) use ebb::mm::{page, sparse};
}
