//! What the balloon asks of the kernel's direct map: to forget memory that leaves, and to show it again.
//!
//! A frame that went back to the hypervisor does not fault when it is touched: it reads as all ones and swallows
//! writes. Taken out of the direct map first, it does fault, by name. The port is implemented by whoever owns the
//! page tables; on the host there is `fake::FakeMap` for tests.
#![expect(unsafe_code, reason = "declares the contract of operations on unused memory")]

use core::fmt;

use crate::units::{Gfn, Order};

/// There was no frame for the page table that a split mapping needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoTable;

impl fmt::Display for NoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no frame for a page table of the direct map")
    }
}

impl core::error::Error for NoTable {}

/// The direct map, extent by extent. Orders 0 to 9; an extent is aligned to its size.
///
/// Extents need not be shown in the pieces in which they were hidden: a block hidden as one may come back frame by
/// frame, and the other way round. Hiding and showing a whole block must need no memory. A failed call leaves the
/// whole extent as it was.
///
/// **Context.** [`hide`](Self::hide), [`settle`](Self::settle) and [`scrub`](Self::scrub) are called from threads.
/// [`show`](Self::show) is called from anywhere, interrupts off included, on several CPUs at once and while
/// another of these is at work: it must not wait for a thread. None of them may call the balloon, so a page-table
/// frame has to come from what is free, or from a reserve of the implementer's own.
pub trait DirectMap {
    /// Takes an extent out of the map. Other CPUs may go on using the old translation until
    /// [`settle`](Self::settle).
    ///
    /// # Errors
    ///
    /// [`NoTable`], for an extent smaller than the mapping that holds it.
    ///
    /// # Safety
    ///
    /// No Rust object lives in the extent, and nobody uses it, until it has been shown again.
    unsafe fn hide(&self, first: Gfn, order: Order) -> Result<(), NoTable>;

    /// Waits until no CPU knows a translation that was hidden before the call. Asked once for a list of extents.
    fn settle(&self);

    /// Puts an extent that was hidden back into the map. Nobody has to be told: what is not there is not cached.
    ///
    /// # Errors
    ///
    /// [`NoTable`], for an extent smaller than what was hidden.
    fn show(&self, first: Gfn, order: Order) -> Result<(), NoTable>;

    /// Overwrites an extent, which is in the map, with zeroes.
    ///
    /// # Safety
    ///
    /// No Rust object lives in the extent, and nobody else uses it.
    unsafe fn scrub(&self, first: Gfn, order: Order);
}

impl<D: DirectMap + ?Sized> DirectMap for &D {
    unsafe fn hide(&self, first: Gfn, order: Order) -> Result<(), NoTable> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).hide(first, order) }
    }
    fn settle(&self) {
        (**self).settle();
    }
    fn show(&self, first: Gfn, order: Order) -> Result<(), NoTable> {
        (**self).show(first, order)
    }
    unsafe fn scrub(&self, first: Gfn, order: Order) {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).scrub(first, order) }
    }
}

#[cfg(not(target_os = "none"))]
pub mod fake;
