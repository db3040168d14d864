//! The test crate: conformance cases (no_std, also in the guest) and, on the host, the model hypervisor.
#![no_std]

#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(not(target_os = "none"))]
pub mod dom0;
