//! The order in which the machine comes up.
#![expect(unsafe_code, reason = "each of these steps happens once, in this order")]

use crate::cpus::topology::Topology;
use crate::domain::Domain;
use crate::machine::{Machine, OnXen};
use crate::{clock, cpus, end, epitaph, memory, options, output, paged, platform, tmem};
use ebb::arch::{cpu, interrupts};
use ebb::boot_info::BootInfo;
use ebb::cmdline::ConsoleChoice;
use ebb::port::{MapEntry, MemoryOps};
use ebb::units::PhysAddr;
use ebb::xen::Xen;
use ebb::xen::cpuid::{self, Processor};
use ebb::xen::transport::Instruction;
use spin::once::Once;

/// The first Rust code, on the boot stack and the bootstrap page tables, with the physical address of the start
/// info.
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    let machine = bring_up(PhysAddr::new(start_info));
    platform::run_main(machine)
}

/// Everything before the main function. Not part of [`start`], whose frame stays on the stack for good.
#[inline(never)]
fn bring_up(start_info: PhysAddr) -> &'static Machine {
    catch_exceptions();
    let hypervisor = find_hypervisor();
    clock::start(hypervisor.as_ref().map(|found| &found.detected));
    output::start_log(log::LevelFilter::Info);
    start_serial(hypervisor.is_some());
    log::info!("ebb {}", env!("CARGO_PKG_VERSION"));
    match hypervisor {
        Some(OnXen { detected, .. }) => {
            let (major, minor) = detected.version;
            log::info!("Xen {major}.{minor}, {:?} hypercalls", detected.vendor);
        }
        None => log::info!("no Xen here: ballooning is unavailable"),
    }

    let boot_info = read_boot_info(start_info, hypervisor.as_ref());
    let settings = options::apply(boot_info.command_line());
    // SAFETY: only `set_up`, below, leaves the bootstrap page tables.
    let topology = unsafe { Topology::discover(hypervisor.as_ref(), &boot_info, settings.cpu_limit()) };
    let ram = boot_info.ram().frames();
    // SAFETY: the one call, on the bootstrap page tables, alone; the start info has been copied.
    let memory = match unsafe { memory::set_up(&boot_info, &topology, hypervisor.is_some()) } {
        Ok(memory) => memory,
        Err(error) => stop(format_args!("with {} of RAM: {error}", ram.to_kib())),
    };
    log::info!("{} of RAM, {} free", ram.to_kib(), memory.frames.stats().available().to_kib());
    // SAFETY: mapped with the address space that was just activated; once.
    let cpus = unsafe { cpus::slots::create(&memory.cpus) };
    platform::prepare(cpus, memory.frames);
    if let Err(error) = paged::start(memory.frames) {
        stop(format_args!("{error}"));
    }

    static MACHINE: Once<Machine> = Once::new();
    let machine = MACHINE.call_once(|| {
        // SAFETY: the root that `set_up` has activated, which nobody leaves; this runs once.
        unsafe { Machine::new(boot_info, hypervisor, memory.frames, memory.root) }
    });
    check_console(settings.console, hypervisor.is_some());
    if let Some(on_xen) = machine.hypervisor() {
        match Domain::start(machine, on_xen, settings.console, cpus) {
            Ok(domain) => machine.set_domain(domain),
            Err(error) => stop(format_args!("no services of Xen: {error}")),
        }
        // No other CPU is up: see `Tmem::start`.
        tmem::probe(on_xen.xen);
        static THIS: Once<&'static Machine> = Once::new();
        THIS.call_once(|| machine);
        end::set_last(|| {
            if let Some(domain) = THIS.get().and_then(|machine| machine.domain()) {
                domain.drain_console();
            }
        });
    } else if let Err(why) = cpus::interrupts::use_apic(machine) {
        log::warn!("no local APIC: {why}; only this processor is used, without a timer");
    }
    // SAFETY: all is as this function wants it, and the low frame was set aside for it.
    unsafe { cpus::start_others(machine, &topology, cpus, memory.cpus.low) };
    machine
}

/// Applies the choice of a console where it is not Xen's ring.
fn check_console(choice: ConsoleChoice, on_xen: bool) {
    match (choice, on_xen) {
        (ConsoleChoice::PortE9, _) => output::attach_debug_port(),
        (ConsoleChoice::Uart, true) => log::warn!("console: a PVH domU has no serial port; using port 0xE9"),
        (ConsoleChoice::Xen, false) => log::warn!("console: no Xen; using the serial port"),
        _ => {}
    }
}

/// Ends the machine for a reason that is not ours to report as a bug.
fn stop(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("cannot start: {why}");
    end::exit(end::Outcome::Failure)
}

/// From here on this processor has a number, and an exception a name.
fn catch_exceptions() {
    interrupts::set_fatal_handler(epitaph::exception);
    // SAFETY: the boot processor, at the very beginning.
    unsafe { cpus::start_boot() };
}

/// Looks for Xen, and remembers how to end the machine.
fn find_hypervisor() -> Option<OnXen> {
    match cpuid::detect(&Processor) {
        Ok(Some(detected)) => {
            // SAFETY: CPUID has shown Xen and the vendor.
            let instruction = unsafe { Instruction::new(detected.vendor) };
            let xen = Xen::new(instruction);
            end::set_platform(end::Platform::Xen(xen));
            Some(OnXen { detected, xen })
        }
        Ok(None) => {
            end::set_platform(end::Platform::Bare);
            None
        }
        Err(error) => stop(format_args!("{error}")),
    }
}

/// Without Xen there is a serial port, and an interrupt controller that must not interrupt. Under Xen the debug
/// port serves until the console ring is up.
fn start_serial(on_xen: bool) {
    static SERIAL: Once<output::Serial> = Once::new();
    if on_xen {
        return;
    }
    mask_legacy_interrupts();
    if let Some(serial) = output::Serial::probe() {
        output::attach(SERIAL.call_once(|| serial));
    }
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
    let ask = |entries: &mut [MapEntry]| hypervisor?.xen.memory_map(entries).ok();
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
