//! The balloon over the model hypervisor, through the marshalling that runs on Xen: every success, every partial
//! failure, and at the end nothing lost. Each test builds its own machine.
#![expect(clippy::expect_used, reason = "a test")]

#[path = "balloon/emergency.rs"]
mod emergency;
#[path = "balloon/guest.rs"]
mod guest;
#[path = "balloon/moves.rs"]
mod moves;
#[path = "balloon/on_demand.rs"]
mod on_demand;
#[path = "balloon/pieces.rs"]
mod pieces;
#[path = "balloon/races.rs"]
mod races;
#[path = "balloon/random.rs"]
mod random;
#[path = "balloon/refusals.rs"]
mod refusals;
