//! The other hypercalls: scheduling, vCPUs, version, HVM parameters. And which number means which.
#![expect(unsafe_code, reason = "passes on the caller's promise about the addresses in the registers")]

use super::p2m::Slot;
use super::state::State;
use ebb::units::Gfn;
use ebb::xen::transport::Arguments;
use xen_abi::{Errno, hvm, hypercall, sched, vcpu, version};

/// What this hypervisor says it is.
const VERSION: i64 = 4 << 16 | 17;
/// And what its vendor adds to that.
const EXTRA_VERSION: [u8; version::EXTRAVERSION_LEN] = *b".7\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Feature bits that a PVH guest sees.
const FEATURES: u32 = 1 << version::FEATURE_WRITABLE_PAGE_TABLES
    | 1 << version::FEATURE_AUTO_TRANSLATED_PHYSMAP
    | 1 << version::FEATURE_HVM_CALLBACK_VECTOR
    | 1 << version::FEATURE_HVM_SAFE_PVCLOCK
    | 1 << version::FEATURE_MEMORY_OP_VNODE_SUPPORTED
    | 1 << version::FEATURE_NOT_DIRECT_MAPPED;

impl State {
    /// One hypercall of `vcpu`.
    ///
    /// # Safety
    ///
    /// As `Transport::call`.
    pub(super) unsafe fn hypercall(&mut self, vcpu: u32, number: u32, arguments: Arguments) -> i64 {
        self.hypercalls += 1;
        self.hypercall_passes();
        if let Some(error) = self.faults.refusal(number, arguments[0]) {
            return error.to_rax();
        }
        let [first, second, third, ..] = arguments;
        // Commands are 32 bits wide, apart from `memory_op`'s, which has Xen's progress above them.
        let command = first as u32;
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one arm of them is taken")]
        // SAFETY: the caller's promise, in each arm: the argument is what this number and command want.
        let result = unsafe {
            match number {
                hypercall::MEMORY_OP => self.memory_op(first, second),
                hypercall::MULTICALL => self.multicall(vcpu, first, second),
                hypercall::SET_TIMER_OP => {
                    self.set_timer_op(vcpu, first);
                    Ok(0)
                }
                hypercall::XEN_VERSION => self.xen_version(command, second),
                hypercall::VCPU_OP => self.vcpu_op(vcpu, command, second as u32, third),
                hypercall::SCHED_OP => self.sched_op(vcpu, command, second),
                hypercall::EVENT_CHANNEL_OP => self.event_op(command, second),
                hypercall::HVM_OP => self.hvm_op(command, second),
                hypercall::TMEM_OP => self.tmem_op(self.config.domid, first),
                hypercall::SYSCTL | hypercall::DOMCTL => Err(Errno::EPERM),
                _ => Err(Errno::ENOSYS),
            }
        };
        result.unwrap_or_else(Errno::to_rax)
    }

    /// # Safety
    ///
    /// As `Transport::call`.
    unsafe fn multicall(&mut self, vcpu: u32, list: u64, count: u64) -> Result<i64, Errno> {
        for index in 0..count {
            let at = index.checked_mul(size_of::<hypercall::MulticallEntry>() as u64);
            let at = at.and_then(|offset| list.checked_add(offset)).ok_or(Errno::EFAULT)?;
            // SAFETY: the caller's promise.
            let mut entry: hypercall::MulticallEntry = unsafe { self.copy_in(at) }?;
            let [a, b, c, d, e, _] = entry.args;
            entry.result = match u32::try_from(entry.op) {
                // SAFETY: the caller's promise covers each call of the list.
                Ok(number) if number != hypercall::MULTICALL => unsafe {
                    self.hypercall(vcpu, number, [a, b, c, d, e])
                },
                _ => Errno::ENOSYS.to_rax(),
            };
            // SAFETY: the caller's promise.
            unsafe { self.copy_out(at, entry) }?;
        }
        Ok(0)
    }

    /// # Safety
    ///
    /// As `Transport::call`.
    unsafe fn xen_version(&mut self, command: u32, argument: u64) -> Result<i64, Errno> {
        match command {
            version::VERSION => return Ok(VERSION),
            version::PAGESIZE => return Ok(4096),
            // SAFETY: the caller's promise.
            version::EXTRAVERSION => unsafe { self.copy_out(argument, EXTRA_VERSION) }?,
            version::GET_FEATURES => {
                // SAFETY: the caller's promise.
                let mut info: version::FeatureInfo = unsafe { self.copy_in(argument) }?;
                info.submap = if info.submap_idx == 0 { FEATURES } else { return Err(Errno::EINVAL) };
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, info) }?;
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }

    pub(super) fn check_vcpu(&self, vcpu: u32) -> Result<(), Errno> {
        if vcpu < self.config.vcpus { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// # Safety
    ///
    /// As `Transport::call`.
    unsafe fn vcpu_op(
        &mut self,
        caller: u32,
        command: u32,
        target: u32,
        argument: u64,
    ) -> Result<i64, Errno> {
        self.check_vcpu(target)?;
        let own = if target == caller { Ok(()) } else { Err(Errno::EINVAL) };
        let index = target as usize;
        match command {
            vcpu::INITIALISE => {
                // SAFETY: the caller's promise.
                let context: vcpu::HvmContext = unsafe { self.copy_in(argument) }?;
                if self.contexts[index].is_some() {
                    return Err(Errno::EEXIST);
                }
                if context.mode != vcpu::CONTEXT_64 || context.reserved != 0 {
                    return Err(Errno::EINVAL);
                }
                self.contexts[index] = Some(context);
            }
            vcpu::UP if self.contexts[index].is_some() => self.up[index] = true,
            vcpu::UP => return Err(Errno::EINVAL),
            vcpu::DOWN => self.up[index] = false,
            vcpu::IS_UP => return Ok(i64::from(self.up[index])),
            vcpu::SET_SINGLESHOT_TIMER => {
                own?;
                // SAFETY: the caller's promise.
                let set: vcpu::SetSingleshotTimer = unsafe { self.copy_in(argument) }?;
                self.set_timer(target, set.timeout_abs_ns);
            }
            vcpu::STOP_SINGLESHOT_TIMER => {
                own?;
                self.stop_timer(target);
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }

    /// # Safety
    ///
    /// As `Transport::call`.
    unsafe fn sched_op(&mut self, vcpu: u32, command: u32, argument: u64) -> Result<i64, Errno> {
        match command {
            sched::YIELD => Ok(0),
            // SAFETY: the caller's promise.
            sched::POLL => unsafe { self.poll(vcpu, argument) },
            sched::SHUTDOWN => {
                // SAFETY: the caller's promise.
                let sched::Shutdown { reason } = unsafe { self.copy_in(argument) }?;
                self.shutdown.get_or_insert(reason);
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// # Safety
    ///
    /// As `Transport::call`.
    unsafe fn hvm_op(&mut self, command: u32, argument: u64) -> Result<i64, Errno> {
        match command {
            hvm::GET_PARAM | hvm::SET_PARAM => {
                // SAFETY: the caller's promise.
                let mut param: hvm::Param = unsafe { self.copy_in(argument) }?;
                if param.index >= hvm::NR_PARAMS {
                    return Err(Errno::EINVAL);
                }
                self.check_domain(param.domid)?;
                let (read, write) = param_access(param.index);
                let value = &mut self.params[param.index as usize];
                match command {
                    hvm::SET_PARAM if write => *value = param.value,
                    hvm::GET_PARAM if read => {
                        param.value = *value;
                        // SAFETY: the caller's promise.
                        unsafe { self.copy_out(argument, param) }?;
                    }
                    _ => return Err(Errno::EPERM),
                }
            }
            hvm::GET_MEM_TYPE => {
                // SAFETY: the caller's promise.
                let mut query: hvm::GetMemType = unsafe { self.copy_in(argument) }?;
                self.check_domain(query.domid)?;
                query.mem_type = match self.p2m.get(Gfn::new(query.pfn)) {
                    Slot::Hole | Slot::Device => hvm::MEM_MMIO_DM,
                    _ => hvm::MEM_RAM_RW,
                };
                // SAFETY: the caller's promise.
                unsafe { self.copy_out(argument, query) }?;
            }
            hvm::SET_EVTCHN_UPCALL_VECTOR => {
                // SAFETY: the caller's promise.
                let upcall: hvm::UpcallVector = unsafe { self.copy_in(argument) }?;
                if upcall.vector < hvm::LOWEST_UPCALL_VECTOR {
                    return Err(Errno::EINVAL);
                }
                self.check_vcpu(upcall.vcpu)?;
                self.upcall_vectors[upcall.vcpu as usize] = Some(upcall.vector);
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }
}

/// Whether a domU may read and write a parameter.
fn param_access(index: u32) -> (bool, bool) {
    match index {
        hvm::PARAM_CALLBACK_IRQ
        | hvm::PARAM_STORE_EVTCHN
        | hvm::PARAM_VM86_TSS
        | hvm::PARAM_VM86_TSS_SIZED
        | hvm::PARAM_CONSOLE_EVTCHN
        | hvm::PARAM_ACPI_IOPORTS_LOCATION
        | hvm::PARAM_VM_GENERATION_ID_ADDR
        | hvm::PARAM_X87_FIP_WIDTH => (true, true),
        hvm::PARAM_STORE_PFN | hvm::PARAM_CONSOLE_PFN | hvm::PARAM_ALTP2M => (true, false),
        _ => (false, false),
    }
}
