//! x86-64: what the processor dictates, and the only assembly beside the hypercall.
//!
//! The parts that compute are plain code and are tested on the host: the address [`layout`], [`paging`], the
//! vocabulary of [`trap`]s, the [`backtrace`]; and so is the switch of [`context`]s. The other parts that execute instructions exist in the image only.

pub mod backtrace;
pub mod context;
pub mod layout;
pub mod paging;
pub mod slot;
pub mod trap;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod local;
#[cfg(target_os = "none")]
pub mod tables;
