//! The stacks of the boot processor, each above a page that the final page tables leave out.
#![expect(unsafe_code, reason = "memory that only the processor's stack pointer uses")]

use core::cell::UnsafeCell;
use ebb::units::FRAME_SIZE;

/// A stack of `N` pages, growing down towards its lowest page, which is never mapped.
#[repr(C, align(4096))]
pub(crate) struct Stack<const N: usize>(UnsafeCell<[[u8; FRAME_SIZE]; N]>);

// SAFETY: no reference to the contents is ever made; the value only reserves addresses.
unsafe impl<const N: usize> Sync for Stack<N> {}

impl<const N: usize> Stack<N> {
    const fn new() -> Self {
        Self(UnsafeCell::new([[0; FRAME_SIZE]; N]))
    }
}

/// Where the boot processor runs, up to and including the application's main function.
pub(crate) static BOOT: Stack<17> = Stack::new();
