//! The conformance list: each test carries the number of the statement that it checks. `docs/percpu-conformance.md`
//! is the table of all.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "misuse is made with raw references, and callbacks are raw")]

mod again;
mod counter;
mod fast;
mod init;
mod kill;
mod misuse;
mod mode;
mod rcu;
mod support;
mod tryget;
