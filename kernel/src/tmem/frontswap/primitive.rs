//! The atomics of what decides who works on a slot. `tests/loom` gives its own to the same source.

pub(super) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
