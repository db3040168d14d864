//! The atomics and cells of this crate, and the one place where the model checker takes over.
//!
//! A normal build names `core`. Under `cfg(loom)` the same names are loom's, which explores every interleaving and
//! every value that the orderings allow. Nothing else in the crate asks which of the two it is compiled for, bar
//! the constructors ([`crate::const_fn`]), because loom's objects cannot be made in a constant.
#![expect(unsafe_code, reason = "the cell that hands out raw pointers")]

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// For a diagnosis beside the algorithm, which the model checker need not explore.
pub(crate) use core::sync::atomic::{
    AtomicBool as PlainBool, AtomicU32 as PlainU32, Ordering as PlainOrdering,
};

/// A cell whose content is reached through raw pointers, so that the model checker sees each access.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct RawCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> RawCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// A pointer for as long as `_guard` keeps others away.
    pub(crate) const fn access(&self) -> CellPointer<T> {
        CellPointer(self.0.get())
    }
}

/// The pointer that [`RawCell::access`] gives.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct CellPointer<T>(*mut T);

#[cfg(not(loom))]
impl<T> CellPointer<T> {
    /// The content.
    ///
    /// # Safety
    ///
    /// Nobody else may reach the content while the borrow lives.
    pub(crate) const unsafe fn get(&self) -> &T {
        // SAFETY: the caller excludes everybody else.
        unsafe { &*self.0 }
    }

    /// The content, to change.
    ///
    /// # Safety
    ///
    /// Nobody else may reach the content while the borrow lives.
    pub(crate) const unsafe fn get_mut(&mut self) -> &mut T {
        // SAFETY: the caller excludes everybody else.
        unsafe { &mut *self.0 }
    }
}

#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct RawCell<T>(loom::cell::UnsafeCell<T>);

#[cfg(loom)]
impl<T> RawCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    pub(crate) fn access(&self) -> CellPointer<T> {
        CellPointer(self.0.get_mut())
    }
}

/// The pointer that [`RawCell::access`] gives; while it lives, loom reports any other access as a race.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct CellPointer<T>(loom::cell::MutPtr<T>);

#[cfg(loom)]
impl<T> CellPointer<T> {
    /// See the normal build's.
    ///
    /// # Safety
    ///
    /// Nobody else may reach the content while the borrow lives.
    pub(crate) unsafe fn get(&self) -> &T {
        // SAFETY: the caller excludes everybody else.
        unsafe { self.0.deref() }
    }

    /// See the normal build's.
    ///
    /// # Safety
    ///
    /// Nobody else may reach the content while the borrow lives.
    pub(crate) unsafe fn get_mut(&mut self) -> &mut T {
        // SAFETY: the caller excludes everybody else.
        unsafe { self.0.deref() }
    }
}

/// A constructor that is `const` in a normal build and plain under the model checker.
#[macro_export]
#[doc(hidden)]
macro_rules! const_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $type),*) -> $ret $body
        #[cfg(loom)]
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) -> $ret $body
    };
}

/// One value for every CPU, made by an expression.
#[cfg(not(loom))]
macro_rules! per_cpu_array {
    ($value:expr) => {
        [const { $value }; $crate::MAX_CPUS]
    };
}
#[cfg(loom)]
macro_rules! per_cpu_array {
    ($value:expr) => {
        core::array::from_fn(|_| $value)
    };
}
pub(crate) use per_cpu_array;
