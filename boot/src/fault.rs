//! Faults on purpose, for tests: each ends with an epitaph.
#![expect(unsafe_code, reason = "what these functions do is undefined behaviour, made defined by assembly")]

use core::arch::asm;

/// Reads through a null pointer.
#[inline(never)]
pub fn null_read() {
    // SAFETY: faults; assembly, so that the compiler cannot reason about it.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) 0_u64 => _, options(nostack)) }
}

/// Calls itself until the stack is full.
///
/// The last call of a frame would be a jump, so there is work after it.
#[expect(unconditional_recursion, reason = "that is the point")]
#[inline(never)]
pub fn overflow_stack() {
    let room = [0_u64; 32];
    core::hint::black_box(&room);
    overflow_stack();
    core::hint::black_box(&room);
}

/// Panics.
#[expect(clippy::panic, reason = "that is the point")]
#[inline(never)]
pub fn panic() {
    panic!("a panic on purpose");
}

/// Panics while the epitaph of a panic is being printed.
#[expect(clippy::panic, reason = "that is the point")]
#[inline(never)]
pub fn panic_in_epitaph() {
    crate::epitaph::set_appendix(|_| panic!("a panic in the epitaph"));
    panic();
}

/// Executes what is no instruction.
#[inline(never)]
pub fn invalid_opcode() {
    // SAFETY: faults.
    unsafe { asm!("ud2", options(nostack)) }
}

/// Writes to the kernel's code.
#[inline(never)]
pub fn write_text() {
    let target = (write_text as *const ()).addr();
    // SAFETY: faults.
    unsafe { asm!("mov byte ptr [{}], 0xCC", in(reg) target, options(nostack)) }
}

/// Writes to the kernel's code through the direct map.
#[inline(never)]
pub fn write_text_alias() {
    let physical = (write_text as *const ()).addr() as u64 - ebb::arch::layout::KERNEL_BASE;
    let target = ebb::arch::layout::DIRECT_MAP + physical;
    // SAFETY: faults.
    unsafe { asm!("mov byte ptr [{}], 0xCC", in(reg) target, options(nostack)) }
}

/// Jumps into data.
#[inline(never)]
pub fn execute_data() {
    static mut DATA: u8 = 0xC3;
    let target = (&raw const DATA).addr();
    // SAFETY: faults.
    unsafe { asm!("call {}", in(reg) target, clobber_abi("C")) }
}
