//! Starting the other CPUs.
#![expect(unsafe_code, reason = "a CPU begins at an address of our choice")]

use super::local::{self, State};
use super::topology::Topology;
use super::{Cpus, ONLINE, PRESENT, interrupts, now_ns, online, slots, trampoline, wait};
use crate::machine::Machine;
use core::sync::atomic::Ordering;
use ebb::arch::apic::{Ipi, LocalApic};
use ebb::arch::slot::{Part, Slot};
use ebb::arch::{cpu, tables};
use ebb::smp::{CpuId, CpuSet};
use ebb::units::{Gfn, VcpuId};
use ebb::xen::Xen;
use ebb::xen::transport::Instruction;
use x86_64::registers::control::{Cr0, Cr4, Efer, EferFlags};
use xen_abi::vcpu::{CONTEXT_64, HvmContext};

/// How long all of them together may take to come up. An emulated one takes milliseconds, but a busy host may leave one
/// waiting for seconds.
const START_BOUND_NS: u64 = 20_000_000_000;
/// How long a processor needs between INIT and startup, and before a second startup is tried (Intel SDM volume 3,
/// 9.4.4.1).
const INIT_NS: u64 = 10_000_000;
const RETRY_NS: u64 = 10_000_000;

/// Flags: only the bit that is always set.
const RFLAGS: u64 = 2;

/// Starts CPUs 1 to `count - 1`, which have slots, waits until they are up, and reports those that are not.
///
/// # Safety
///
/// The final page tables are in use; interrupts are carried ([`interrupts`]) if there is anything to start. `low` is
/// a free frame below 1 MiB that stays this function's. Once.
pub(crate) unsafe fn start_others(machine: &Machine, topology: &Topology, count: usize, low: Option<Gfn>) {
    PRESENT.store(topology.present, Ordering::Relaxed);
    let wanted: CpuSet = CpuId::first(count).skip(1).collect();
    if wanted.is_empty() {
        return;
    }
    let begun_ns = now_ns();
    let root = machine.page_table_root().start().get();
    for cpu in wanted.iter() {
        if let Some(local) = local::of(cpu) {
            local.apic.store(u32::from(topology.apics[cpu.get()]), Ordering::Relaxed);
            local.change(State::Down, State::Starting);
        }
    }
    match (machine.domain(), interrupts::apic(), low.and_then(slots::startup_page)) {
        (Some(domain), ..) => {
            for cpu in wanted.iter() {
                // SAFETY: the page tables are the final ones, and this CPU's slot is mapped.
                if let Err(error) = unsafe { start_vcpu(domain.xen(), cpu, root) } {
                    log::warn!("{cpu} cannot be started: {error}");
                    give_up(cpu);
                }
            }
        }
        (None, Some(apic), Some(page)) => {
            trampoline::prepare(wanted, topology, root);
            // SAFETY: our caller gave us that frame, and prepared is what its code needs.
            unsafe { trampoline::copy_to(page) };
            // SAFETY: these processors wait in reset, where the firmware has left them.
            unsafe { start_by_apic(apic, wanted, topology, page) };
        }
        _ => {
            log::warn!("no way to start {wanted}");
            wanted.iter().for_each(|cpu| _ = give_up(cpu));
        }
    }
    let mut wait = wait::at_most(START_BOUND_NS);
    let missing = || wanted.minus(online());
    let hoped = |cpu: CpuId| local::of(cpu).is_some_and(|local| !local.is(State::GivenUp));
    while missing().iter().any(hoped) && wait() {}
    for cpu in missing().iter() {
        // One that comes this very moment is either up, or finds that it is too late.
        if give_up(cpu) || !hoped(cpu) {
            log::error!("{cpu} does not come up; going on without it");
        }
    }
    let took_us = (now_ns() - begun_ns) / 1000;
    log::info!("{} CPUs are up; the others took {took_us} us", Cpus(()).count());
}

/// Should `cpu` still come, it is to halt. False if it has come.
fn give_up(cpu: CpuId) -> bool {
    local::of(cpu).is_none_or(|local| local.change(State::Starting, State::GivenUp))
}

/// Starts a vCPU in long mode, with the control registers of this one.
///
/// # Safety
///
/// `root` is the root of the final page tables, and the slot of `cpu` is mapped there and free.
unsafe fn start_vcpu(xen: Xen<Instruction>, cpu: CpuId, root: u64) -> Result<(), xen_abi::Errno> {
    // SAFETY: the caller's promise.
    let stack = unsafe { first_stack(cpu) };
    let entry: extern "C" fn(u64) -> ! = begin;
    let context = HvmContext {
        mode: CONTEXT_64,
        rip: (entry as *const ()).addr() as u64,
        rdi: cpu.get() as u64,
        rsp: stack,
        rflags: RFLAGS,
        cr0: Cr0::read_raw(),
        cr3: root,
        cr4: Cr4::read_raw(),
        // That long mode is active follows from the others, and is not to be said.
        efer: (Efer::read() - EferFlags::LONG_MODE_ACTIVE).bits(),
        ..HvmContext::default()
    };
    let vcpu = VcpuId::new(cpu.get() as u32);
    // SAFETY: those page tables map the code and the stack, which nobody else uses, and the code is made for this.
    unsafe { xen.initialise_vcpu(vcpu, &context) }?;
    xen.start_vcpu(vcpu)
}

/// Puts the end of all backtraces on the idle stack of `cpu`, where a return address would be, and answers the stack
/// pointer that a function expects at its beginning.
///
/// # Safety
///
/// The slot of `cpu` is mapped, and its idle stack not in use.
pub(super) unsafe fn first_stack(cpu: CpuId) -> u64 {
    let end = Slot::of(cpu).part(Part::Idle).end;
    let top = core::ptr::with_exposed_provenance_mut::<[u64; 2]>(end as usize - 16);
    // SAFETY: the top of the stack, mapped and aligned, by our caller's promise.
    unsafe { top.write([0, 0]) };
    // 8 below a multiple of 16, as after a call.
    end - 8
}

/// Sends processors out of reset.
///
/// # Safety
///
/// They run nothing of ours, and at `page` lies code that they may run.
unsafe fn start_by_apic(apic: LocalApic, cpus: CpuSet, topology: &Topology, page: u8) {
    let send = |cpu: CpuId, ipi| {
        let target = topology.apics[cpu.get()];
        // SAFETY: our caller's promise. The others are not up yet, so that nothing else sends.
        let sent = x86_64::instructions::interrupts::without_interrupts(|| unsafe { apic.send(target, ipi) });
        if !sent {
            log::warn!("{ipi:?} for {cpu} does not go out");
        }
    };
    cpus.iter().for_each(|cpu| send(cpu, Ipi::Init));
    pause(INIT_NS, || false);
    cpus.iter().for_each(|cpu| send(cpu, Ipi::Startup(page)));
    let missing = || cpus.minus(online());
    pause(RETRY_NS, || missing().is_empty());
    // One that has begun ignores it.
    missing().iter().for_each(|cpu| send(cpu, Ipi::Startup(page)));
}

/// Lets `pause_ns` pass, or less as soon as `over` says so.
fn pause(pause_ns: u64, over: impl Fn() -> bool) {
    let end_ns = now_ns() + pause_ns;
    let mut wait = wait::at_most(pause_ns);
    while !over() && (wait() || now_ns() < end_ns) && now_ns() < end_ns {}
}

/// The first Rust code of every CPU but the first: on its idle stack and the final page tables, interrupts off, with
/// segments that serve until its own are loaded.
pub(super) extern "C" fn begin(number: u64) -> ! {
    let cpu = usize::try_from(number).ok().and_then(CpuId::new);
    // SAFETY: whoever started it passed its number, and no two have one; a CPU begins here once, for none is started
    // twice (`State`), and a second startup interrupt is ignored by one that runs.
    let found = cpu.and_then(|cpu| Some((cpu, unsafe { local::install(cpu) }?)));
    let Some((cpu, local)) = found else { cpu::halt_forever() };
    // SAFETY: a CPU with an area has its whole slot mapped, and these stacks are in no other's.
    unsafe { local.load_tables(slots::emergency_tops(cpu)) };
    if !local.change(State::Starting, State::Online) {
        cpu::halt_forever();
    }
    interrupts::start_here();
    // In this order: see `ebb::smp::Shootdown`.
    ONLINE.insert(cpu);
    tables::invalidate_all();
    crate::platform::run_cpu()
}
