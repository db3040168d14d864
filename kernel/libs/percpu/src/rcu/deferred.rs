//! A callback as a box: the safe front of [`Rcu::call`](super::Rcu::call).
#![expect(unsafe_code, reason = "a box travels through an intrusive queue")]

use super::{Head, Rcu};
use crate::platform::Platform;
use alloc::boxed::Box;
use core::ptr::NonNull;

/// A value with room to be queued. Allocated when it is made, so that giving it up cannot fail.
#[derive(Debug)]
#[repr(C)]
pub struct Deferred<T> {
    /// First, so that a pointer to it is a pointer to the whole.
    head: Head,
    /// The value.
    pub value: T,
}

impl<T> Deferred<T> {
    /// The value, in a box with a head.
    pub fn boxed(value: T) -> Box<Self> {
        Box::new(Self { head: Head::new(), value })
    }
}

impl<P: Platform> Rcu<P> {
    /// Drops `retired` after a grace period, lazily: no reader that found it before this call can still hold it.
    ///
    /// The value must be unreachable for new readers already. Any context; the drop runs where callbacks run, and
    /// must not block.
    pub fn drop_later<T: Send + 'static>(&self, retired: Box<Deferred<T>>) {
        let whole = NonNull::from(Box::leak(retired));
        // SAFETY: the head is the first field of a leaked box that nobody else has; the callback takes it back.
        // `T: Send`, so any CPU may drop it.
        unsafe { self.call(whole.cast(), drop_whole::<T>) };
    }

    /// As [`drop_later`](Self::drop_later), hurried.
    pub fn drop_soon<T: Send + 'static>(&self, retired: Box<Deferred<T>>) {
        let whole = NonNull::from(Box::leak(retired));
        // SAFETY: as in `drop_later`.
        unsafe { self.call_hurry(whole.cast(), drop_whole::<T>) };
    }
}

/// # Safety
///
/// `head` is the head of a leaked `Box<Deferred<T>>`, passed on to nobody else.
unsafe fn drop_whole<T>(head: NonNull<Head>) {
    // SAFETY: `repr(C)` puts the head first, and the pointer was made from the whole box.
    drop(unsafe { Box::from_raw(head.cast::<Deferred<T>>().as_ptr()) });
}
