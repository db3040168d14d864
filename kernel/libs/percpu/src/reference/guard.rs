//! References as values that put themselves back.
#![expect(unsafe_code, reason = "references that travel without a guard")]

use super::{Events, Kind, PercpuRef};
use crate::platform::Platform;
use core::fmt;
use core::mem::forget;

/// One reference. Cloning takes another; dropping puts it back, which may release the object.
///
/// Leaking it (`mem::forget`) keeps the object for ever, and can do no harm beyond.
#[must_use = "the reference is put back as soon as this is dropped"]
pub struct Ref<'a, P: Platform, E: Events, K: Kind> {
    count: &'a PercpuRef<P, E, K>,
}

impl<'a, P: Platform, E: Events, K: Kind> Ref<'a, P, E, K> {
    /// The guard of a reference that was taken.
    #[inline]
    pub(super) fn new(count: &'a PercpuRef<P, E, K>) -> Self {
        Self { count }
    }

    /// `n` more references at once.
    #[inline]
    pub fn get_many(&self, n: u64) -> Refs<'a, P, E, K> {
        self.count.get(n);
        Refs { count: self.count, n }
    }

    /// The count.
    #[must_use]
    pub fn count(&self) -> &'a PercpuRef<P, E, K> {
        self.count
    }

    /// Drops the guard but not the reference, for one that travels through a ring or a descriptor. It comes back
    /// through [`PercpuRef::put_raw`].
    pub fn into_raw(self) {
        forget(self);
    }
}

impl<P: Platform, E: Events, K: Kind> Clone for Ref<'_, P, E, K> {
    #[inline]
    fn clone(&self) -> Self {
        self.count.get(1);
        Self { count: self.count }
    }
}

impl<P: Platform, E: Events, K: Kind> Drop for Ref<'_, P, E, K> {
    #[inline]
    fn drop(&mut self) {
        self.count.put(1);
    }
}

impl<P: Platform, E: Events, K: Kind> fmt::Debug for Ref<'_, P, E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ref").field(self.count).finish()
    }
}

/// Several references of one count, put back together. There may be none.
#[must_use = "the references are put back as soon as this is dropped"]
pub struct Refs<'a, P: Platform, E: Events, K: Kind> {
    count: &'a PercpuRef<P, E, K>,
    n: u64,
}

impl<'a, P: Platform, E: Events, K: Kind> Refs<'a, P, E, K> {
    /// The guard of `n` references that were taken.
    #[inline]
    pub(super) fn new(count: &'a PercpuRef<P, E, K>, n: u64) -> Self {
        Self { count, n }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Splits one off.
    pub fn pop(&mut self) -> Option<Ref<'a, P, E, K>> {
        self.n = self.n.checked_sub(1)?;
        Some(Ref { count: self.count })
    }
}

impl<P: Platform, E: Events, K: Kind> Drop for Refs<'_, P, E, K> {
    #[inline]
    fn drop(&mut self) {
        self.count.put(self.n);
    }
}

impl<P: Platform, E: Events, K: Kind> fmt::Debug for Refs<'_, P, E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refs").field("n", &self.n).field("count", self.count).finish()
    }
}

/// References without guards.
impl<P: Platform, E: Events, K: Kind> PercpuRef<P, E, K> {
    /// Takes `n` references. Never fails, never checks (but an atomic count notices if it was zero, and reports).
    ///
    /// # Safety
    ///
    /// The caller knows that a reference exists and goes on existing during the call, and each of the `n` goes
    /// back by [`put_raw`](Self::put_raw) before the count is dropped, or never.
    #[inline]
    pub unsafe fn get_raw(&self, n: u64) {
        self.get(n);
    }

    /// Gives `n` references back to the count at `this`. May release the object, and with it this count: hence the
    /// pointer, which is not used after that.
    ///
    /// # Safety
    ///
    /// `this` is valid, and the caller has `n` references from [`get_raw`](Self::get_raw), [`Ref::into_raw`] or the
    /// like. Afterwards it does not use the count unless it knows of another reference.
    #[inline]
    pub unsafe fn put_raw(this: *const Self, n: u64) {
        // SAFETY: the caller's references keep the count until they are given back.
        unsafe { Self::put_at(this, n) };
    }
}
