//! Which CPUs there are, before any but the first runs.
#![expect(unsafe_code, reason = "reads firmware tables through the bootstrap page tables")]

use crate::machine::OnXen;
use crate::memory::Bootstrap;
use ebb::arch::cpu;
use ebb::boot_info::{BootInfo, acpi};
use ebb::port::VcpuOps;
use ebb::smp::MAX_CPUS;
use ebb::units::VcpuId;

/// The CPUs to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Topology {
    /// CPUs that the machine has.
    pub(crate) present: usize,
    /// CPUs that are to be used: at least 1, at most [`MAX_CPUS`].
    pub(crate) wanted: usize,
    /// Without Xen, the number of each one's local APIC; the first is the boot CPU's.
    pub(super) apics: [u8; MAX_CPUS],
}

impl Topology {
    /// Looks for CPUs, and takes `limit` of them at most.
    ///
    /// # Safety
    ///
    /// The bootstrap page tables are in use.
    pub(crate) unsafe fn discover(hypervisor: Option<&OnXen>, info: &BootInfo, limit: u32) -> Self {
        let mut topology = Self { present: 1, wanted: 1, apics: [0; MAX_CPUS] };
        match hypervisor {
            Some(on_xen) => topology.ask_xen(on_xen),
            // SAFETY: the caller's promise; the value does not outlive the call.
            None => topology.read_tables(&unsafe { Bootstrap::new() }, info),
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if topology.present > MAX_CPUS.min(limit) {
            let why =
                if limit < MAX_CPUS { "as the command line says" } else { "the most that this kernel can" };
            log::info!("{} CPUs, of which {} are used, {why}", topology.present, MAX_CPUS.min(limit));
        }
        topology.wanted = topology.wanted.min(limit);
        topology
    }

    /// The vCPUs are numbered without gaps, and Xen knows none beyond the last.
    fn ask_xen(&mut self, on_xen: &OnXen) {
        /// Xen gives an HVM guest no more.
        const MOST: u32 = 512;
        let exists = |number: &u32| on_xen.xen.is_up(VcpuId::new(*number)).is_ok();
        self.present = (1..MOST).take_while(exists).count() + 1;
        self.wanted = self.present.min(MAX_CPUS);
    }

    /// The boot CPU comes first, whatever its place in the table.
    fn read_tables(&mut self, memory: &Bootstrap, info: &BootInfo) {
        let own = cpu::id();
        self.apics[0] = own as u8;
        let Some(found) = acpi::processors(memory, info.rsdp()) else {
            log::warn!("no ACPI table of processors: only this one is used");
            return;
        };
        let others = found.apic_ids().iter().filter(|id| **id != own);
        self.present = others.clone().count() + found.dropped + 1;
        // Number 255 is everybody; larger ones want other commands.
        let reachable = others.filter_map(|id| u8::try_from(*id).ok()).filter(|id| *id != u8::MAX);
        for (slot, id) in self.apics[1..].iter_mut().zip(reachable) {
            *slot = id;
            self.wanted += 1;
        }
    }
}
