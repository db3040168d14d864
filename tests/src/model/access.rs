//! Reading and writing what a call's pointers name, as Xen does: copy in, copy out, and a fault for an address
//! with nothing behind it.
//!
//! The guest of the model is a host program, so its linear addresses are host addresses. Two kinds fault: the
//! first 64 KiB, which no host program maps, and RAM frames of the domain that are holes.
#![expect(unsafe_code, reason = "follows the addresses in the registers")]

use super::p2m::Slot;
use super::state::State;
use ebb::units::{FRAME_SIZE, Gfn};
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use xen_abi::Errno;

/// Addresses below this have nothing behind them.
const LOWEST: u64 = 0x1_0000;

impl State {
    /// Whether `bytes` at `address` can be accessed. Touches populate-on-demand frames, as an access does.
    fn is_mapped(&mut self, address: u64, bytes: usize) -> bool {
        let Some(end) = address.checked_add(bytes as u64) else { return false };
        if address < LOWEST {
            return false;
        }
        let mut at = address;
        while at < end {
            if let Some(frame) = self.pages.frame_at(at as usize) {
                self.touch(frame);
                if self.p2m.get(frame) == Slot::Hole {
                    return false;
                }
            }
            at = (at | (FRAME_SIZE as u64 - 1)).saturating_add(1);
        }
        true
    }

    /// Copies a structure in.
    ///
    /// # Safety
    ///
    /// Unless it faults by the rules of this module, `address` is valid for reading an `A`, which may have any
    /// bits.
    pub(super) unsafe fn copy_in<A: Copy>(&mut self, address: u64) -> Result<A, Errno> {
        if !self.is_mapped(address, size_of::<A>()) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: mapped, and the caller's promise; Xen asks no alignment, so neither do we.
        Ok(unsafe { with_exposed_provenance::<A>(address as usize).read_unaligned() })
    }

    /// Copies a structure out.
    ///
    /// # Safety
    ///
    /// Unless it faults by the rules of this module, `address` is valid for writing an `A`.
    pub(super) unsafe fn copy_out<A: Copy>(&mut self, address: u64, value: A) -> Result<(), Errno> {
        if !self.is_mapped(address, size_of::<A>()) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: mapped, and the caller's promise; Xen asks no alignment, so neither do we.
        unsafe { with_exposed_provenance_mut::<A>(address as usize).write_unaligned(value) };
        Ok(())
    }

    /// The frame number at `index` of a list.
    ///
    /// # Safety
    ///
    /// Unless it faults, the list is valid for reading up to `index`.
    pub(super) unsafe fn frame_of_list(&mut self, list: u64, index: u64) -> Result<Gfn, Errno> {
        let address =
            index.checked_mul(8).and_then(|offset| list.checked_add(offset)).ok_or(Errno::EFAULT)?;
        // SAFETY: the caller's promise.
        unsafe { self.copy_in(address) }.map(Gfn::new)
    }
}
