//! The whole loop on the host: observe, decide, move, with the kernel's own frame allocator, balloon, daemon, tunables
//! and toolstack rule, over the model hypervisor and under a virtual clock. Hours of a guest's life in seconds, the same
//! on every run.
#![expect(clippy::expect_used, reason = "a test")]

#[path = "daemon/application.rs"]
mod application;
#[path = "daemon/day.rs"]
mod day;
#[path = "daemon/faults.rs"]
mod faults;
#[path = "daemon/following.rs"]
mod following;
#[path = "balloon/guest.rs"]
#[expect(dead_code, reason = "the tests of the balloon use more of it")]
mod guest;
#[path = "daemon/machine.rs"]
mod machine;
#[path = "daemon/policies.rs"]
mod policies;
#[path = "daemon/several.rs"]
mod several;
#[path = "daemon/toolstack.rs"]
mod toolstack;
