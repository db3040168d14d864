//! The first instructions: from the PVH entry state to Rust in long mode.
//!
//! The loader finds the entry through the ELF note of type 18 and jumps to its physical address in 32-bit
//! protected mode, paging off, interrupts off, `ebx` pointing at the start info; no stack, no descriptor table
//! that can be relied on (Xen: docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h). Any
//! exception before the trap table is loaded is a triple fault, which Xen turns into a silent reboot, so the code
//! below does only what cannot fault and checks the two processor features it needs.
#![expect(unsafe_code, reason = "the entry point and its page tables")]

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use ebb::arch::layout::KERNEL_BASE;

/// Page tables and descriptors that only the entry writes, before Rust runs.
#[repr(C, align(4096))]
pub(crate) struct Table<const N: usize>(UnsafeCell<[u64; N]>);

// SAFETY: written by the entry only, when nothing else runs; afterwards only the processor's page walk reads.
unsafe impl<const N: usize> Sync for Table<N> {}

impl<const N: usize> Table<N> {
    const fn zeroed() -> Self {
        Self(UnsafeCell::new([0; N]))
    }
}

/// The bootstrap page tables: the first 4 GiB by 2 MiB pages, at 0 (for the switch itself) and in the direct
/// map; and the first GiB where the image was linked. Other processors begin on them too.
pub(crate) static ROOT: Table<512> = Table::zeroed();
static LOW: Table<512> = Table::zeroed();
static HIGH: Table<512> = Table::zeroed();
static PAGES: Table<2048> = Table::zeroed();

/// How much physical memory the bootstrap page tables map, in bytes.
pub(crate) const BOOTSTRAP_MAPPED: u64 = 4 << 30;

/// Null, 64-bit code, data, 32-bit code: flat, present, accessed. The last is for other processors, whose way leads
/// through it.
pub(crate) static DESCRIPTORS: [u64; 4] =
    [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_9B00_0000_FFFF];

/// Where the loader jumps to, at its physical address, in 32-bit mode.
///
/// # Safety
///
/// For the loader only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn pvh_entry() -> ! {
    naked_asm!(
        // The note: name "Xen", type 18 (PHYS32_ENTRY), an 8-byte physical address.
        ".pushsection .note.Xen, \"a\", @note",
        ".balign 4",
        ".long 4, 8, 18",
        ".asciz \"Xen\"",
        ".quad pvh_entry - {base}",
        ".popsection",

        ".code32",
        "cli",
        "cld",
        "movl %ebx, %esi", // start info, until `cpuid` is done with ebx
        // Long mode (bit 29) and no-execute (bit 20), or say so on the debug port and stop.
        "movl $0x80000000, %eax",
        "cpuid",
        "cmpl $0x80000001, %eax",
        "jb 8f",
        "movl $0x80000001, %eax",
        "cpuid",
        "andl $0x20100000, %edx",
        "cmpl $0x20100000, %edx",
        "jne 8f",

        // 2048 entries of 2 MiB: present, writable, large.
        "movl $({pages} - {base}), %edi",
        "movl $0x83, %eax",
        "xorl %ecx, %ecx",
        "2:",
        "movl %eax, (%edi, %ecx, 8)",
        "movl $0, 4(%edi, %ecx, 8)",
        "addl $0x200000, %eax",
        "incl %ecx",
        "cmpl $2048, %ecx",
        "jne 2b",
        // Four directories of them, from 0.
        "movl $({low} - {base}), %edx",
        "leal 3(%edi), %eax",
        "movl %eax, (%edx)",
        "addl $0x1000, %eax",
        "movl %eax, 8(%edx)",
        "addl $0x1000, %eax",
        "movl %eax, 16(%edx)",
        "addl $0x1000, %eax",
        "movl %eax, 24(%edx)",
        // The first again, at -2 GiB.
        "leal 3(%edi), %eax",
        "movl %eax, ({high} - {base} + 510 * 8)",
        // The root: 0, the direct map, the image.
        "movl $({root} - {base}), %edi",
        "leal 3(%edx), %eax",
        "movl %eax, (%edi)",
        "movl %eax, 256 * 8(%edi)",
        "movl $({high} - {base} + 3), 511 * 8(%edi)",

        // A descriptor table pointer on the stack, at its physical address.
        "movl $({stack} - {base} + {stack_size}), %esp",
        "pushl $({descriptors} - {base})",
        "pushw $23",
        "lgdt (%esp)",

        "movl $0x20, %eax", // PAE
        "movl %eax, %cr4",
        "movl %edi, %cr3",
        "movl $0xC0000080, %ecx", // EFER
        "rdmsr",
        "orl $0x900, %eax", // LME, NXE
        "wrmsr",
        "movl $0x80010033, %eax", // PG, WP, NE, ET, MP, PE
        "movl %eax, %cr0",
        "ljmp $8, $(3f - {base})",

        // No long mode, or no no-execute: name it where Xen's log shows it.
        "8:",
        "movl $(7f - {base}), %esi",
        "9:",
        "lodsb",
        "testb %al, %al",
        "jz 6f",
        "outb %al, $0xE9",
        "jmp 9b",
        "6:",
        "hlt",
        "jmp 6b",
        "7:",
        ".asciz \"ebb: this processor lacks long mode or NX\\n\"",

        ".code64",
        "3:",
        "movl $16, %eax",
        "movl %eax, %ss",
        "movl %eax, %ds",
        "movl %eax, %es",
        "xorl %eax, %eax",
        "movl %eax, %fs",
        "movl %eax, %gs",
        "movl %esi, %edi", // the argument; the upper half is zero now
        "movq ${stack} + {stack_size}, %rsp",
        "movq ${start}, %rax",
        "xorl %ebp, %ebp", // the end of every backtrace
        "pushq $0",
        "jmpq *%rax",
        base = const KERNEL_BASE,
        pages = sym PAGES,
        low = sym LOW,
        high = sym HIGH,
        root = sym ROOT,
        descriptors = sym DESCRIPTORS,
        stack = sym crate::stacks::BOOT,
        stack_size = const size_of_val(&crate::stacks::BOOT),
        start = sym crate::start::start,
        options(att_syntax),
    )
}
