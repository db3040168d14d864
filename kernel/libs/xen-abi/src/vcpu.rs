//! `vcpu_op`: vCPUs and their timers.
//!
//! Source: Xen `xen/include/public/vcpu.h` and `xen/include/public/hvm/hvm_vcpu.h`. `xen-sys` binds neither.

/// Set the registers of a vCPU that was never up: [`HvmContext`].
pub const INITIALISE: u32 = 0;
/// Start a vCPU.
pub const UP: u32 = 1;
/// Stop a vCPU; the last one to stop powers the domain off.
pub const DOWN: u32 = 2;
/// Whether a vCPU is up: 0 or 1.
pub const IS_UP: u32 = 3;
/// Stop the periodic timer.
pub const STOP_PERIODIC_TIMER: u32 = 7;
/// Arm the one-shot timer: [`SetSingleshotTimer`].
pub const SET_SINGLESHOT_TIMER: u32 = 8;
/// Stop the one-shot timer.
pub const STOP_SINGLESHOT_TIMER: u32 = 9;
/// Move a vCPU's part of the shared info page elsewhere: [`RegisterInfo`].
pub const REGISTER_VCPU_INFO: u32 = 10;

/// Interrupt a vCPU by what nothing masks.
pub const SEND_NMI: u32 = 11;

/// Flag of [`SetSingleshotTimer`]: a time in the past is an error (`-ETIME`). Xen 4.17 ignores it.
pub const SINGLESHOT_FUTURE: u32 = 1;

/// Argument of [`SET_SINGLESHOT_TIMER`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SetSingleshotTimer {
    /// When it fires, in nanoseconds of system time.
    pub timeout_abs_ns: u64,
    /// [`SINGLESHOT_FUTURE`] or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

crate::layout!(SetSingleshotTimer: 16 { timeout_abs_ns @ 0, flags @ 8 });

/// Argument of [`REGISTER_VCPU_INFO`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RegisterInfo {
    /// The frame.
    pub gfn: u64,
    /// Where in it; a multiple of 8, and the 64 bytes must fit.
    pub offset: u32,
    /// Zero.
    pub reserved: u32,
}

crate::layout!(RegisterInfo: 16 { gfn @ 0, offset @ 8 });

/// Mode of [`HvmContext`]: 64-bit.
pub const CONTEXT_64: u32 = 1;

/// `vcpu_hvm_context` in its 64-bit form: the state in which a vCPU begins. Xen forces flat segments; descriptor
/// tables are the vCPU's own business, first thing.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HvmContext {
    /// [`CONTEXT_64`].
    pub mode: u32,
    /// Zero.
    pub reserved: u32,
    /// General register.
    pub rax: u64,
    /// General register.
    pub rcx: u64,
    /// General register.
    pub rdx: u64,
    /// General register.
    pub rbx: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Frame pointer.
    pub rbp: u64,
    /// General register.
    pub rsi: u64,
    /// General register: the first argument of the entry function.
    pub rdi: u64,
    /// Where it begins; canonical.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Protection and paging must be on.
    pub cr0: u64,
    /// Page table.
    pub cr3: u64,
    /// Physical address extension must be on.
    pub cr4: u64,
    /// Long mode must be enabled.
    pub efer: u64,
    /// The structure is a union; the 32-bit form is longer.
    pub unused: u64,
}

crate::layout!(HvmContext: 128 {
    mode @ 0, rax @ 8, rcx @ 16, rdx @ 24, rbx @ 32, rsp @ 40, rbp @ 48, rsi @ 56, rdi @ 64, rip @ 72,
    rflags @ 80, cr0 @ 88, cr3 @ 96, cr4 @ 104, efer @ 112,
});
