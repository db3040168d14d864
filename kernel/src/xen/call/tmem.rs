//! Whether this Xen serves transcendent memory.

use crate::xen::{Transport, Xen};
use xen_abi::{Errno, hypercall, tmem};

impl<T: Transport> Xen<T> {
    /// Asks whether Xen serves tmem, without making it do anything.
    ///
    /// # Errors
    ///
    /// `ENOSYS` if this Xen has no tmem (4.13 and later, and builds without it), `ENODEV` if it is switched off,
    /// whatever else Xen says.
    pub fn probe_tmem(&self) -> Result<(), Errno> {
        #[repr(C, align(8))]
        struct Op([u8; tmem::OP_SIZE]);
        const { assert!(tmem::CONTROL == 0, "the structure of zeros is the probing command") };
        let op = Op([0; tmem::OP_SIZE]);
        let pointer = core::ptr::from_ref(&op).expose_provenance() as u64;
        // SAFETY: the call reads a structure of this size and, for this command, nothing else.
        match unsafe { self.raw(hypercall::TMEM_OP, [pointer, 0, 0, 0, 0]) } {
            Ok(_) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
