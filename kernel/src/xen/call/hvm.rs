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

/// The vectors below are exceptions' (Intel SDM volume 3, 6.2).
const FIRST_INTERRUPT: u8 = 32;

/// Why a parameter may not be written, if it may not: what Xen lets a domU write (Xen: `xen/arch/x86/hvm/hvm.c`,
/// `hvm_allow_set_param`) is not all harmless to the guest that does it.
const fn harm(index: u32, value: u64) -> Option<Errno> {
    const CALLBACK_KIND_SHIFT: u32 = 56;
    const CALLBACK_BY_VECTOR: u64 = 2;
    match index {
        hvm::PARAM_CALLBACK_IRQ
            if value >> CALLBACK_KIND_SHIFT == CALLBACK_BY_VECTOR && (value as u8) < FIRST_INTERRUPT =>
        {
            Some(Errno::EINVAL)
        }
        // Memory that Xen writes for a vCPU in real mode, or the toolstack when it restores the domain.
        hvm::PARAM_VM86_TSS | hvm::PARAM_VM86_TSS_SIZED | hvm::PARAM_VM_GENERATION_ID_ADDR => {
            Some(Errno::EPERM)
        }
        _ => None,
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
        if let Some(error) = harm(param.index(), value) {
            return Err(error);
        }
        let mut argument = hvm::Param { domid: DOMID_SELF, reserved: 0, index: param.index(), value };
        // SAFETY: the structure of this command. Of the parameters that Xen lets a domU write, those that name memory
        // for others to write have just been refused, and so has a callback that would come in at an entry which
        // expects an error code; the others are ports, and the width of a register.
        unsafe { self.command(hypercall::HVM_OP, hvm::SET_PARAM, &mut argument) }.map(drop)
    }

    fn set_upcall_vector(&self, vcpu: VcpuId, vector: u8) -> Result<(), Errno> {
        if vector < FIRST_INTERRUPT {
            return Err(Errno::EINVAL);
        }
        let mut argument = hvm::UpcallVector { vcpu: vcpu.get(), vector, reserved: [0; 3] };
        // SAFETY: the structure of this command, which touches no memory; the vector is an interrupt's, so that its
        // entry expects what an interrupt pushes.
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
