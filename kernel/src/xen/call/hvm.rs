//! HVM parameters and services: [`HvmOps`].

use crate::port::{FrameType, HvmOps, HvmParam};
use crate::units::{Gfn, VcpuId};
use crate::xen::{Transport, Xen};
use xen_abi::{DOMID_SELF, Errno, hvm, hypercall};

impl HvmParam {
    /// Xen's number for it.
    #[must_use]
    pub const fn index(self) -> u32 {
        match self {
            Self::CallbackIrq => hvm::PARAM_CALLBACK_IRQ,
            Self::StoreGfn => hvm::PARAM_STORE_PFN,
            Self::StorePort => hvm::PARAM_STORE_EVTCHN,
            Self::ConsoleGfn => hvm::PARAM_CONSOLE_PFN,
            Self::ConsolePort => hvm::PARAM_CONSOLE_EVTCHN,
            Self::Other(index) => index,
        }
    }
}

impl<T: Transport> HvmOps for Xen<T> {
    fn get_param(&self, param: HvmParam) -> Result<u64, Errno> {
        let mut argument = hvm::Param { domid: DOMID_SELF, reserved: 0, index: param.index(), value: 0 };
        // SAFETY: the structure of this command, which reads a parameter and changes nothing.
        unsafe { self.command(hypercall::HVM_OP, hvm::GET_PARAM, &mut argument) }?;
        Ok(argument.value)
    }

    fn set_param(&self, param: HvmParam, value: u64) -> Result<(), Errno> {
        let mut argument = hvm::Param { domid: DOMID_SELF, reserved: 0, index: param.index(), value };
        // SAFETY: the structure of this command. Of the parameters that Xen lets a domU write, only the two for
        // real mode name memory that Xen would write, and only when a vCPU enters real mode, which a kernel in
        // long mode never does.
        unsafe { self.command(hypercall::HVM_OP, hvm::SET_PARAM, &mut argument) }.map(drop)
    }

    fn set_upcall_vector(&self, vcpu: VcpuId, vector: u8) -> Result<(), Errno> {
        let mut argument = hvm::UpcallVector { vcpu: vcpu.get(), vector, reserved: [0; 3] };
        // SAFETY: the structure of this command, which touches no memory.
        unsafe { self.command(hypercall::HVM_OP, hvm::SET_EVTCHN_UPCALL_VECTOR, &mut argument) }.map(drop)
    }

    fn frame_type(&self, frame: Gfn) -> Result<FrameType, Errno> {
        let mut argument =
            hvm::GetMemType { domid: DOMID_SELF, mem_type: 0, reserved: [0; 2], pfn: frame.get() };
        // SAFETY: the structure of this command, which changes nothing.
        unsafe { self.command(hypercall::HVM_OP, hvm::GET_MEM_TYPE, &mut argument) }?;
        match argument.mem_type {
            hvm::MEM_RAM_RW => Ok(FrameType::ReadWrite),
            hvm::MEM_RAM_RO => Ok(FrameType::ReadOnly),
            hvm::MEM_MMIO_DM => Ok(FrameType::HoleOrDevice),
            _ => Err(Errno::ERANGE),
        }
    }
}
