//! Typed hypercalls: the one place where Xen's structures are filled in and its answers decoded.
//!
//! Each file implements a port of [`crate::port`] for [`Xen`] over any transport. A call marshals its arguments
//! into the structures of [`xen_abi`], on this stack, passes their linear addresses and decodes the result
//! register: `Errno` for a negative one, the count of extents for reservation calls.
#![expect(unsafe_code, reason = "the pointers in the registers must match what each call reads and writes")]

mod event;
mod hvm;
mod memory;
mod sched;
mod tmem;
mod vcpu;
mod version;

#[cfg(test)]
mod tests;

use crate::xen::Xen;
use crate::xen::transport::{Arguments, Transport};
use xen_abi::Errno;

impl<T: Transport> Xen<T> {
    /// Makes a raw call and decodes the sign of its result.
    ///
    /// # Safety
    ///
    /// As [`Transport::call`].
    unsafe fn raw(&self, number: u32, arguments: Arguments) -> Result<u64, Errno> {
        // SAFETY: the caller's promise is the one that the transport wants.
        Errno::check(unsafe { self.transport.call(number, arguments) })
    }

    /// Calls `number(command, &mut argument)`: the shape of most hypercalls.
    ///
    /// # Safety
    ///
    /// `A` is the structure that Xen's ABI gives this command, or one as large. Any address in it satisfies
    /// [`Transport::call`]. The call takes away, replaces or exposes no memory that Rust objects live in.
    unsafe fn command<A>(&self, number: u32, command: u32, argument: &mut A) -> Result<u64, Errno> {
        let pointer = core::ptr::from_mut(argument).expose_provenance() as u64;
        // SAFETY: the structure is valid for reads and writes until the call returns, for it is borrowed
        // mutably; that it is what the command wants, and the rest, our caller promised.
        unsafe { self.raw(number, [u64::from(command), pointer, 0, 0, 0]) }
    }
}

/// The linear address of a list that a call reads.
fn address_of<E>(list: &[E]) -> u64 {
    list.as_ptr().expose_provenance() as u64
}
