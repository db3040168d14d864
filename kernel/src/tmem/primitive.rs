//! The atomics of what decides who works on a slot of frontswap. `tests/loom` gives others to the same source.

pub(super) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
