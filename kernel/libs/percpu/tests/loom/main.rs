//! Models of the real source under loom, and mistakes that it must find.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p percpu --release --test loom -- --nocapture`. Each model prints
//! the bound on preemptions it was explored with and the number of executions. Two CPUs, two or three threads.
//!
//! Every model is run as it is, and must hold; and again with each mistake that it is there to notice (see
//! `percpu::mutation`), and must fail.
#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(
    unsafe_code,
    reason = "models of code that shares memory by other means than the borrow checker knows"
)]

mod counter;
mod explore;
mod lock;
mod machine;
mod rcu;
mod reference;
