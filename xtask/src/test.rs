//! `cargo xtask test`: the whole ladder, from the host to real Xen.

mod guest;
mod host;
mod outcome;
