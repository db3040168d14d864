//! The atomics of the lock-free part (entries, gates, magazines), in one place, so that a model checker can put its
//! own here.

pub(super) use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence,
};
