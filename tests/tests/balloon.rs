//! The balloon over the model hypervisor, through the marshalling that runs on Xen: every success, every partial
//! failure, and at the end nothing lost. Each test builds its own machine.
#![expect(clippy::expect_used, reason = "a test")]

#[path = "balloon/guest.rs"]
mod guest;

#[path = "balloon/moves.rs"]
mod moves;
