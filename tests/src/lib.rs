//! The test crate: conformance cases, which also run in the guest, and on the host the model hypervisor that
//! they run on first.
//!
//! - [`conformance`]: what Xen does, as cases over any transport. One list, two implementations; a case that
//!   differs is a bug in the model or in our facts, and Xen decides which.
//! - `model`: a hypervisor that decodes the same registers and the same memory, deterministic, with every
//!   failure at hand. Host only.
//! - `dom0`: the other side of the rings. Host only.
#![no_std]

#[cfg(not(target_os = "none"))]
extern crate std;

pub mod conformance;
#[cfg(not(target_os = "none"))]
pub mod dom0;
#[cfg(not(target_os = "none"))]
pub mod model;
