//! Single instructions: ports, identification, halting.
#![expect(unsafe_code, reason = "instructions that Rust has no name for")]

use core::arch::asm;

/// Writes a byte to an I/O port.
///
/// # Safety
///
/// What the device behind `port` does on the write must not break memory safety. Ports that no device claims
/// ignore it, under Xen and under QEMU.
pub unsafe fn write_port(port: u16, value: u8) {
    // SAFETY: the caller vouches for the device; the instruction touches nothing else.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from an I/O port; all ones where no device answers.
///
/// # Safety
///
/// As for [`write_port`]: some devices change state on a read.
pub unsafe fn read_port(port: u16) -> u8 {
    let value;
    // SAFETY: the caller vouches for the device; the instruction touches nothing else.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Stops this processor for good: interrupts off, then halt, again after every non-maskable interrupt.
///
/// Under Xen the last processor to halt like this ends the domain with reason `poweroff`; a caller that wants
/// another reason says so by hypercall first.
pub fn halt_forever() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Turns interrupts on and halts until one has been handled, as one step: an interrupt that comes after interrupts
/// were turned on ends the halt, whenever it comes.
///
/// `sti` keeps interrupts off for one more instruction, so that by itself none should come between it and `hlt`. Under
/// Xen in QEMU 7.2, whose emulated processor nests, some do: a few in ten thousand halts that are raced against, none
/// on bare QEMU. A wake-up that came there would be lost. So the interrupt path looks where it came in, and goes on
/// behind a `hlt` that it came in front of ([`behind_halt`]).
#[unsafe(naked)]
pub extern "C" fn enable_and_halt() {
    core::arch::naked_asm!(
        "sti",
        ".global enable_and_halt_here",
        "enable_and_halt_here:",
        "hlt",
        ".global enable_and_halt_done",
        "enable_and_halt_done:",
        "ret",
    )
}

unsafe extern "C" {
    safe static enable_and_halt_here: u8;
    safe static enable_and_halt_done: u8;
}

/// Where code goes on that an interrupt came into at `rip`, if it was about to halt because there was no interrupt.
#[inline]
#[must_use]
pub fn behind_halt(rip: u64) -> Option<u64> {
    let address = |mark: &'static u8| (&raw const *mark).addr() as u64;
    (rip == address(&enable_and_halt_here)).then(|| address(&enable_and_halt_done))
}

/// The time stamp counter. Not ordered against other instructions.
#[must_use]
pub fn time_stamp() -> u64 {
    // SAFETY: every processor in long mode has RDTSC, and CR4.TSD only binds user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time stamp counter, not read before the loads that precede it in program order have their values: what
/// [`Tsc`](crate::xen::clock::Tsc) wants.
#[must_use]
pub fn time_stamp_after_loads() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: as above. LFENCE lets nothing after it begin before what precedes it is through (Intel SDM volume 2; AMD
    // where DE_CFG[1] is set, as Xen sets it). No `nomem`: the compiler keeps the loads in front of it, too.
    unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) }
    high << 32 | low
}

/// The number of this processor (its initial APIC id), from CPUID: valid before anything is set up.
#[must_use]
pub fn id() -> u32 {
    core::arch::x86_64::__cpuid(1).ebx >> 24
}

/// The frame pointer of the calling function, where a backtrace begins.
#[inline(always)]
#[must_use]
pub fn frame_pointer() -> u64 {
    let frame_pointer;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) }
    frame_pointer
}
