//! What the mailbox is made of, in one place, so that a model checker can put its own here.

pub(super) use core::sync::atomic::{AtomicU32, Ordering};
pub(super) use spin::mutex::SpinMutex;
