//! x86-64: what the processor dictates, and the only assembly beside the hypercall.
//!
//! The parts that compute are plain code and are tested on the host: the address [`layout`]. The parts that
//! execute instructions exist in the image only.

pub mod context;
pub mod layout;

#[cfg(target_os = "none")]
pub mod cpu;
