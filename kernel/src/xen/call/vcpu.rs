//! vCPUs and their timers: [`VcpuOps`], and the start of further vCPUs.

use crate::port::{Armed, VcpuOps};
use crate::units::VcpuId;
use crate::xen::{Transport, Xen};
use xen_abi::{Errno, hypercall, vcpu as abi};

impl<T: Transport> Xen<T> {
    /// A command without a structure.
    ///
    /// # Safety
    ///
    /// The command takes none, and touches no memory that Rust objects live in.
    unsafe fn vcpu_plain(&self, command: u32, vcpu: VcpuId) -> Result<u64, Errno> {
        // SAFETY: our caller's promise.
        unsafe { self.raw(hypercall::VCPU_OP, [u64::from(command), u64::from(vcpu.get()), 0, 0, 0]) }
    }

    /// Sets the registers in which `vcpu`, which was never up, shall begin.
    ///
    /// # Errors
    ///
    /// `EEXIST` if that was done before, `EINVAL` for an impossible state, `ENOENT` for an unknown vCPU.
    ///
    /// # Safety
    ///
    /// The context is a sound beginning: its page table maps its code and stack, and the code there may run on a
    /// vCPU of its own, at any time from [`start_vcpu`](Self::start_vcpu) on.
    pub unsafe fn initialise_vcpu(&self, vcpu: VcpuId, context: &abi::HvmContext) -> Result<(), Errno> {
        let pointer = core::ptr::from_ref(context).expose_provenance() as u64;
        let arguments = [u64::from(abi::INITIALISE), u64::from(vcpu.get()), pointer, 0, 0];
        // SAFETY: the structure of this command, which is only read; that the vCPU may begin there is our
        // caller's promise.
        unsafe { self.raw(hypercall::VCPU_OP, arguments) }.map(drop)
    }

    /// Starts a vCPU whose registers were set.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they were not, `ENOENT` for an unknown vCPU.
    pub fn start_vcpu(&self, vcpu: VcpuId) -> Result<(), Errno> {
        // SAFETY: takes no structure; that the vCPU may run was promised when its registers were set.
        unsafe { self.vcpu_plain(abi::UP, vcpu) }.map(drop)
    }

    /// Takes a vCPU down, at once and wherever it is; the last one to go powers the domain off. It may be started
    /// again and then goes on where it was.
    ///
    /// # Errors
    ///
    /// `ENOENT` for an unknown vCPU.
    pub fn stop_vcpu(&self, vcpu: VcpuId) -> Result<(), Errno> {
        // SAFETY: takes no structure and touches no memory; a vCPU that stands still is one that is slow.
        unsafe { self.vcpu_plain(abi::DOWN, vcpu) }.map(drop)
    }

    /// Sends a vCPU the interrupt that nothing masks.
    ///
    /// # Errors
    ///
    /// `ENOENT` for an unknown vCPU.
    pub fn send_nmi(&self, vcpu: VcpuId) -> Result<(), Errno> {
        // SAFETY: takes no structure and touches no memory; every vCPU that runs has an entry for it.
        unsafe { self.vcpu_plain(abi::SEND_NMI, vcpu) }.map(drop)
    }
}

impl<T: Transport> VcpuOps for Xen<T> {
    fn is_up(&self, vcpu: VcpuId) -> Result<bool, Errno> {
        // SAFETY: takes no structure and changes nothing.
        unsafe { self.vcpu_plain(abi::IS_UP, vcpu) }.map(|up| up != 0)
    }

    fn set_timer(&self, vcpu: VcpuId, deadline_ns: u64) -> Result<Armed, Errno> {
        // Without the flag for it a time in the past is no error; with it, only some hypervisors say so.
        let set = abi::SetSingleshotTimer { timeout_abs_ns: deadline_ns, flags: 0, reserved: 0 };
        let pointer = core::ptr::from_ref(&set).expose_provenance() as u64;
        let arguments = [u64::from(abi::SET_SINGLESHOT_TIMER), u64::from(vcpu.get()), pointer, 0, 0];
        // SAFETY: the structure of this command, which is only read; no other memory is touched.
        match unsafe { self.raw(hypercall::VCPU_OP, arguments) } {
            Ok(_) => Ok(Armed::Pending),
            Err(Errno::ETIME) => Ok(Armed::Expired),
            Err(error) => Err(error),
        }
    }

    fn stop_timer(&self, vcpu: VcpuId) -> Result<(), Errno> {
        // SAFETY: takes no structure and touches no memory.
        unsafe { self.vcpu_plain(abi::STOP_SINGLESHOT_TIMER, vcpu) }.map(drop)
    }
}
