//! What is each CPU's own, reached through GS.
//!
//! The GS base of every CPU points at its [`Area`]: a head with fixed places, the per-CPU words of the library
//! `percpu`, and whatever else the image keeps per CPU. The number of the CPU is one load; so is the way to the rest.
#![expect(unsafe_code, reason = "memory that GS points at")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use percpu::CpuId;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

/// Per-CPU words in an area.
pub const WORDS: usize = 512;

/// What GS points at.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Area<L> {
    /// The address of the area itself.
    this: AtomicUsize,
    cpu: AtomicU32,
    /// How often preemption was turned off.
    preempt: AtomicU32,
    words: [AtomicU64; WORDS],
    local: L,
}

/// Where the per-CPU words begin, in bytes behind the GS base: the `AT` of `percpu::gs`.
pub const WORDS_AT: i32 = core::mem::offset_of!(Area<()>, words) as i32;

const _: () =
    assert!(core::mem::offset_of!(Area<()>, cpu) == 8 && core::mem::offset_of!(Area<()>, preempt) == 12);
const _: () = assert!(WORDS_AT == 16);

impl<L> Area<L> {
    /// An area that no CPU uses yet.
    pub const fn new(local: L) -> Self {
        Self {
            this: AtomicUsize::new(0),
            cpu: AtomicU32::new(0),
            preempt: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
            local,
        }
    }

    /// What the image keeps here.
    pub const fn local(&self) -> &L {
        &self.local
    }

    /// The per-CPU words.
    pub const fn words(&self) -> &[AtomicU64; WORDS] {
        &self.words
    }

    /// The GS base of the CPU that has this area.
    pub fn base(&'static self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }

    /// Makes this the area of the calling CPU, `cpu`.
    ///
    /// # Safety
    ///
    /// No other CPU uses it, or has this number. All areas of the machine are of this type.
    pub unsafe fn install(&'static self, cpu: CpuId) {
        self.this.store(core::ptr::from_ref(self).expose_provenance(), Ordering::Relaxed);
        self.cpu.store(cpu.get() as u32, Ordering::Relaxed);
        GsBase::write(VirtAddr::new_truncate(self.base()));
    }
}

/// The number of this CPU, from 0. One load. Where the code may be moved to another CPU, a hint.
#[inline(always)]
#[must_use]
pub fn cpu() -> CpuId {
    let number: u32;
    // SAFETY: reads the head of this CPU's area, which is installed before anything else happens on a CPU.
    unsafe { asm!("mov {:e}, gs:[8]", out(reg) number, options(nostack, preserves_flags, readonly)) }
    // Only numbers of CPUs are stored there.
    CpuId::new(number as usize).unwrap_or(CpuId::BOOT)
}

/// The area of this CPU.
///
/// # Safety
///
/// `L` is the type with which areas were installed.
#[inline(always)]
#[must_use]
pub unsafe fn area<L>() -> &'static Area<L> {
    let this: usize;
    // SAFETY: as in `cpu`.
    unsafe { asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly)) }
    // SAFETY: `install` stored the address of an area that lives for ever; its type is our caller's promise.
    unsafe { &*core::ptr::with_exposed_provenance(this) }
}

/// Turns preemption off on this CPU: one instruction, which an interrupt cannot split. Nests.
#[inline(always)]
pub fn preempt_disable() {
    // SAFETY: adds to the head of this CPU's area. A compiler barrier: what follows stays behind it.
    unsafe { asm!("inc dword ptr gs:[12]", options(nostack)) }
}

/// Ends what [`preempt_disable`] began, and answers whether preemption is on again. Whether a switch is due is for
/// the caller to ask.
///
/// # Safety
///
/// Exactly one call for one [`preempt_disable`], by the code that made it: read sections of RCU, and all that is one
/// CPU's own, rest on the count of others, too.
#[inline(always)]
pub unsafe fn preempt_enable() -> bool {
    let on: u8;
    // SAFETY: subtracts from the head of this CPU's area, where our caller has added. A compiler barrier, as above.
    unsafe { asm!("dec dword ptr gs:[12]", "setz {}", out(reg_byte) on, options(nostack)) }
    on != 0
}

/// How often preemption is turned off on this CPU.
#[inline(always)]
#[must_use]
pub fn preempt_count() -> u32 {
    let count: u32;
    // SAFETY: reads the head of this CPU's area.
    unsafe { asm!("mov {:e}, gs:[12]", out(reg) count, options(nostack, preserves_flags, readonly)) }
    count
}

/// The GS base of this CPU: the address of its area, or anything before that is installed.
#[must_use]
pub fn gs_base() -> u64 {
    GsBase::read().as_u64()
}
