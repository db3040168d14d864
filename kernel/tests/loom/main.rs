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
mod channels;
#[path = "../../libs/percpu/tests/loom/explore.rs"]
mod explore;
mod frame;
mod interrupt;
mod mailbox;
mod model;
mod ports;
mod tmem;

/// Where the kernel's source looks for the hypervisor: what it needs of it.
mod port {
    pub(crate) use ebb::port::{PageKey, TmemOps};

    pub(crate) trait EventOps {
        /// Clears the port's mask and, if it was pending, raises its upcall.
        fn unmask(&self, port: ebb::units::EventPort) -> Result<(), xen_abi::Errno>;
    }
}

/// Where it looks for memory.
mod mm {
    pub(crate) use ebb::mm::{page, sparse};
}

/// Where it looks for its units.
mod units {
    pub(crate) use ebb::units::{EventPort, FRAME_SIZE, VcpuId};
}
