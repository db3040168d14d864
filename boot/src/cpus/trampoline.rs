//! From reset to Rust: the way of a processor that a startup interrupt wakes.
//!
//! It begins in real mode at a page below 1 MiB, with the page's number in CS. The few instructions there
//! ([`copy_to`]) enter protected mode and jump into the image, at its physical address; from there on the way is
//! that of the boot processor, on the same bootstrap page tables and descriptors. Then each looks itself up by the
//! number of its local APIC, to find its stack: several may come at once, and one that comes late must not take
//! another's.
#![expect(unsafe_code, reason = "the first instructions of a processor")]

use super::start::{begin, first_stack};
use super::topology::Topology;
use crate::entry::{DESCRIPTORS, ROOT};
use core::arch::{global_asm, naked_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ebb::arch::layout::{KERNEL_BASE, direct_map};
use ebb::smp::{CpuId, CpuSet, MAX_CPUS};
use ebb::units::{FRAME_SHIFT, FRAME_SIZE, PhysAddr};

/// What a processor finds by its APIC's number.
#[repr(C)]
struct Entry {
    apic: AtomicU32,
    unused: u32,
    stack: AtomicU64,
}

/// No processor that we start has this number.
const NOBODY: u32 = u32::MAX;

static ENTRIES: [Entry; MAX_CPUS] =
    [const { Entry { apic: AtomicU32::new(NOBODY), unused: 0, stack: AtomicU64::new(0) } }; MAX_CPUS];
/// The root of the final page tables.
static FINAL_ROOT: AtomicU64 = AtomicU64::new(0);

const _: () = assert!(size_of::<Entry>() == 16 && core::mem::offset_of!(Entry, stack) == 8);

global_asm!(
    ".pushsection .rodata.trampoline, \"a\", @progbits",
    ".balign 16",
    ".code16",
    "trampoline_start:",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl trampoline_table - trampoline_start",
    "movl %cr0, %eax",
    "orb $1, %al",
    "movl %eax, %cr0",
    "ljmpl $24, $({protected} - {base})",
    ".balign 4",
    "trampoline_table:",
    ".word 31",
    ".long {descriptors} - {base}",
    "trampoline_end:",
    ".code64",
    ".popsection",
    protected = sym protected,
    descriptors = sym DESCRIPTORS,
    base = const KERNEL_BASE,
    options(att_syntax),
);

unsafe extern "C" {
    safe static trampoline_start: u8;
    safe static trampoline_end: u8;
}

/// In 32-bit protected mode, at its physical address, paging off.
///
/// # Safety
///
/// For the trampoline only.
#[unsafe(naked)]
unsafe extern "C" fn protected() -> ! {
    naked_asm!(
        ".code32",
        "movl $16, %eax",
        "movl %eax, %ds",
        "movl %eax, %es",
        "movl %eax, %ss",
        // As `pvh_entry`: PAE; the bootstrap page tables; LME and NXE; PG, WP, NE, ET, MP, PE. The caches, which
        // reset turns off, are on again with the last.
        "movl $0x20, %eax",
        "movl %eax, %cr4",
        "movl $({root} - {base}), %eax",
        "movl %eax, %cr3",
        "movl $0xC0000080, %ecx",
        "rdmsr",
        "orl $0x900, %eax",
        "wrmsr",
        "movl $0x80010033, %eax",
        "movl %eax, %cr0",
        "ljmp $8, $(2f - {base})",
        ".code64",
        "2:",
        "xorl %eax, %eax",
        "movl %eax, %fs",
        "movl %eax, %gs",
        "movq $3f, %rax",
        "jmpq *%rax",
        // Where the image was linked. Which one is this?
        "3:",
        "movl $1, %eax",
        "cpuid",
        "shrl $24, %ebx",
        "movq ${entries}, %rsi",
        "xorl %edi, %edi",
        "4:",
        "cmpl %ebx, (%rsi)",
        "je 6f",
        "addq $16, %rsi",
        "incl %edi",
        "cmpl ${most}, %edi",
        "jne 4b",
        // Not one of ours.
        "5:",
        "cli",
        "hlt",
        "jmp 5b",
        "6:",
        "movq {final_root}(%rip), %rax",
        "movq %rax, %cr3",
        "movq 8(%rsi), %rsp",
        "xorl %ebp, %ebp",
        "movq ${begin}, %rax",
        "jmpq *%rax",
        root = sym ROOT,
        base = const KERNEL_BASE,
        entries = sym ENTRIES,
        most = const MAX_CPUS,
        final_root = sym FINAL_ROOT,
        begin = sym begin,
        options(att_syntax),
    )
}

/// Writes down what each of `cpus` will look for.
pub(super) fn prepare(cpus: CpuSet, topology: &Topology, root: u64) {
    FINAL_ROOT.store(root, Ordering::Relaxed);
    for cpu in cpus.iter().filter(|cpu| *cpu != CpuId::BOOT) {
        let entry = &ENTRIES[cpu.get()];
        // SAFETY: it is not started yet, so its stack is not in use; that its slot is mapped is what makes it one of
        // those to start.
        entry.stack.store(unsafe { first_stack(cpu) }, Ordering::Relaxed);
        entry.apic.store(u32::from(topology.apics[cpu.get()]), Ordering::Release);
    }
}

/// Copies the first instructions to the page with this number.
///
/// # Safety
///
/// The page is a free frame in the direct map.
pub(super) unsafe fn copy_to(page: u8) {
    let (start, end) = (&raw const trampoline_start, &raw const trampoline_end);
    let size = end.addr() - start.addr();
    assert!(size <= FRAME_SIZE, "the trampoline fits a page");
    let Some(to) = direct_map(PhysAddr::new(u64::from(page) << FRAME_SHIFT)) else {
        unreachable!("the first MiB is in the direct map")
    };
    let to = core::ptr::with_exposed_provenance_mut::<u8>(to as usize);
    // SAFETY: between the marks lie constants of the image; the target is a page of its own, by our caller's
    // promise, and large enough.
    unsafe { core::ptr::copy_nonoverlapping(start, to, size) };
}
