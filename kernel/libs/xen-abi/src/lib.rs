//! Xen's public ABI as plain data: hypercall numbers, structures, constants and error codes.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;

pub use errno::Errno;
