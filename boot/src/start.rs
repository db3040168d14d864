//! The order in which the machine comes up.
#![expect(unsafe_code, reason = "each of these steps happens once, in this order")]

use crate::machine::{Machine, OnXen};
use crate::{end, epitaph, memory, output, stacks};
use ebb::arch::descriptors::{Segments, TaskState};
use ebb::arch::{cpu, interrupts};
use ebb::boot_info::BootInfo;
use ebb::port::{MapEntry, MemoryKind};
use ebb::units::PhysAddr;
use ebb::xen::cpuid::{self, Processor};
use ebb::xen::transport::Instruction;
use ebb::xen::{Transport, Xen};
use spin::once::Once;

/// The first Rust code, on the boot stack and the bootstrap page tables, with the physical address of the start
/// info.
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    catch_exceptions();
    let hypervisor = find_hypervisor();
    start_console(hypervisor.is_some());
    log::info!("ebb {}", env!("CARGO_PKG_VERSION"));
    match hypervisor {
        Some(OnXen { detected, .. }) => {
            let (major, minor) = detected.version;
            log::info!("Xen {major}.{minor}, {:?} hypercalls", detected.vendor);
        }
        None => log::info!("no Xen: memory stays as it is"),
    }

    let boot_info = read_boot_info(PhysAddr::new(start_info), hypervisor.as_ref());
    let ram = boot_info.ram().frames();
    // SAFETY: the one call, on the bootstrap page tables, alone; the start info has been copied.
    let memory = match unsafe { memory::set_up(&boot_info) } {
        Ok(memory) => memory,
        Err(error) => stop(format_args!("with {} of RAM: {error}", ram.to_kib())),
    };
    log::info!("{} of RAM, {} free", ram.to_kib(), memory.free.frames().to_kib());

    static MACHINE: Once<Machine> = Once::new();
    let machine = MACHINE.call_once(|| {
        // SAFETY: just activated; what is free is what the page tables and the heap left; once.
        unsafe { Machine::new(boot_info, hypervisor, memory.free, memory.root) }
    });
    end::exit(crate::ebb_main(machine))
}

/// Ends the machine for a reason that is not ours to report as a bug.
fn stop(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("cannot start: {why}");
    end::exit(end::Outcome::Failure)
}

/// From here on an exception has a name.
fn catch_exceptions() {
    static STATE: Once<TaskState> = Once::new();
    static SEGMENTS: Once<Segments> = Once::new();
    let state = STATE.call_once(|| TaskState::new(stacks::emergency_tops()));
    let segments = SEGMENTS.call_once(|| Segments::new(state));
    // SAFETY: only this processor is up, and this happens once; the emergency stacks belong to it.
    unsafe { segments.load() };
    interrupts::set_fatal_handler(epitaph::exception);
    interrupts::load();
}

/// Looks for Xen, and remembers how to end the machine.
fn find_hypervisor() -> Option<OnXen> {
    match cpuid::detect(&Processor) {
        Ok(Some(detected)) => {
            // SAFETY: CPUID has shown Xen and the vendor.
            let instruction = unsafe { Instruction::new(detected.vendor) };
            end::set_platform(end::Platform::Xen(instruction));
            Some(OnXen { detected, xen: Xen::new(instruction) })
        }
        Ok(None) => {
            end::set_platform(end::Platform::Bare);
            None
        }
        Err(error) => stop(format_args!("{error}")),
    }
}

/// Under Xen the debug port serves until the console ring is up; elsewhere there is a serial port, and an
/// interrupt controller that must not interrupt.
fn start_console(on_xen: bool) {
    static SERIAL: Once<output::Serial> = Once::new();
    if !on_xen {
        mask_legacy_interrupts();
        if let Some(serial) = output::Serial::probe() {
            output::attach(SERIAL.call_once(|| serial));
        }
    }
    output::start_log(log::LevelFilter::Info);
}

/// Masks all lines of the two 8259 interrupt controllers of a PC.
fn mask_legacy_interrupts() {
    for port in [0x21, 0xA1] {
        // SAFETY: the mask registers; all ones silence the controllers.
        unsafe { cpu::write_port(port, 0xFF) }
    }
}

fn read_boot_info(at: PhysAddr, hypervisor: Option<&OnXen>) -> BootInfo {
    // SAFETY: the bootstrap page tables are in use, and the value does not outlive this function.
    let memory = unsafe { memory::Bootstrap::new() };
    let ask = |entries: &mut [MapEntry]| memory_map(hypervisor?, entries);
    let info = match BootInfo::read(&memory, at, ask) {
        Ok(info) => info,
        Err(error) => stop(format_args!("start info: {error}")),
    };
    let warnings = info.warnings();
    if warnings.command_line_cut {
        log::warn!("the command line is cut: it is longer than {}", ebb::boot_info::MAX_COMMAND_LINE);
    }
    if warnings.command_line_not_utf8 {
        log::warn!("the command line is cut where it is not UTF-8");
    }
    if warnings.entries_dropped > 0 {
        log::warn!("{} entries of the memory map make no sense", warnings.entries_dropped);
    }
    info
}

/// XENMEM_memory_map (Xen: xen/include/public/memory.h), for start infos without one: hypercall 12, command 9, the
/// capacity and the address of a list of packed 20-byte entries.
fn memory_map(hypervisor: &OnXen, entries: &mut [MapEntry]) -> Option<usize> {
    const MEMORY_OP: u32 = 12;
    const MEMORY_MAP: u64 = 9;
    #[repr(C)]
    struct Request {
        count: u32,
        list: u64,
    }
    let mut list = [[0_u8; 20]; ebb::boot_info::MAX_ENTRIES];
    let mut request = Request { count: list.len() as u32, list: (&raw mut list).expose_provenance() as u64 };
    let argument = (&raw mut request).expose_provenance() as u64;
    // SAFETY: the structure and the list that it points at live until the call returns, and the list is as long
    // as the structure says.
    let result = unsafe { hypervisor.xen.transport().call(MEMORY_OP, [MEMORY_MAP, argument, 0, 0, 0]) };
    if result != 0 {
        return None;
    }
    let list = list.get(..request.count as usize)?;
    for (entry, bytes) in entries.get_mut(..list.len())?.iter_mut().zip(list) {
        let long = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        let kind = match bytes[16] {
            1 => MemoryKind::Ram,
            other => MemoryKind::Other(u32::from(other)),
        };
        *entry = MapEntry { start: long(0), size: long(8), kind };
    }
    Some(list.len())
}
