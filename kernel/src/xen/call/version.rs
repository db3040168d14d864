//! What the hypervisor says of itself: [`VersionOps`].

use crate::port::VersionOps;
use crate::xen::{Transport, Xen};
use xen_abi::{Errno, hypercall, version as abi};

impl<T: Transport> VersionOps for Xen<T> {
    fn version(&self) -> Result<(u16, u16), Errno> {
        // SAFETY: takes no structure and changes nothing.
        let version = unsafe { self.raw(hypercall::XEN_VERSION, [u64::from(abi::VERSION), 0, 0, 0, 0]) }?;
        let half = |value: u64| u16::try_from(value).map_err(|_| Errno::ERANGE);
        Ok((half(version >> 16)?, half(version & 0xFFFF)?))
    }

    fn extra_version<'b>(&self, buffer: &'b mut [u8; 16]) -> Result<&'b [u8], Errno> {
        const { assert!(abi::EXTRAVERSION_LEN == 16, "the port promises what Xen writes") };
        // SAFETY: the command writes 16 bytes, which the buffer has.
        unsafe { self.command(hypercall::XEN_VERSION, abi::EXTRAVERSION, buffer) }?;
        let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
        Ok(&buffer[..end])
    }

    fn features(&self, index: u32) -> Result<u32, Errno> {
        let mut info = abi::FeatureInfo { submap_idx: index, submap: 0 };
        // SAFETY: the structure of this command.
        unsafe { self.command(hypercall::XEN_VERSION, abi::GET_FEATURES, &mut info) }?;
        Ok(info.submap)
    }
}
