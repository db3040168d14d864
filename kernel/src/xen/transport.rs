//! The lower seam to the hypervisor: a number and five registers in, one register out.
//!
//! Two implementations exist: the hypercall instruction (here, in the image only) and the model hypervisor of
//! the test crate, which decodes the same registers and the same memory. The marshalling above is therefore
//! tested as it runs.
#![expect(unsafe_code, reason = "the hypercall instruction, and the contract of those who issue it")]

/// Five hypercall arguments, in register order: `rdi`, `rsi`, `rdx`, `r10`, `r8`.
pub type Arguments = [u64; 5];

/// A way to make a raw hypercall.
///
/// # Safety
///
/// An implementation touches memory of the caller only as Xen's ABI for the call says: the structures and lists
/// that the arguments point at, for the duration of the call.
pub unsafe trait Transport {
    /// Makes hypercall `number` and answers `rax`.
    ///
    /// # Safety
    ///
    /// Every argument that the ABI of this call reads as a pointer must be valid for what the call reads and
    /// writes, until it returns; and the call must not take away, replace or expose memory that Rust objects
    /// live in.
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64;
}

// SAFETY: forwards to an implementation that promises the same.
unsafe impl<T: Transport + ?Sized> Transport for &T {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        // SAFETY: our caller promised what the callee wants: the contract is the same.
        unsafe { (**self).call(number, arguments) }
    }
}

/// The hypercall instruction of this processor's vendor.
#[cfg(target_os = "none")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction(Vendor);

/// Which instruction enters the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// `vmcall`: Intel, Centaur, Zhaoxin.
    Intel,
    /// `vmmcall`: AMD, Hygon.
    Amd,
}

#[cfg(target_os = "none")]
impl Instruction {
    /// The transport of a guest on Xen.
    ///
    /// # Safety
    ///
    /// CPUID must have shown Xen's signature and this vendor: elsewhere the instruction is an invalid opcode, or
    /// enters a hypervisor with another ABI.
    #[must_use]
    pub const unsafe fn new(vendor: Vendor) -> Self {
        Self(vendor)
    }
}

// SAFETY: the instruction enters Xen, which keeps to its own ABI.
#[cfg(target_os = "none")]
unsafe impl Transport for Instruction {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        macro_rules! hypercall {
            ($instruction:literal) => {{
                let result: i64;
                let [a, b, c, d, e] = arguments;
                // Xen may rewrite the argument registers (a restarted call keeps its progress there, a debug
                // build poisons them), so each is marked as clobbered; it reads and writes memory, so neither
                // `nomem` nor `pure`; it preserves everything else, flags included, and uses no guest stack.
                //
                // SAFETY: the constructor's caller vouched for Xen and the vendor, ours for the arguments.
                unsafe {
                    core::arch::asm!(
                        $instruction,
                        inlateout("rax") u64::from(number) => result,
                        inlateout("rdi") a => _,
                        inlateout("rsi") b => _,
                        inlateout("rdx") c => _,
                        inlateout("r10") d => _,
                        inlateout("r8") e => _,
                        options(nostack, preserves_flags),
                    );
                }
                result
            }};
        }
        match self.0 {
            Vendor::Intel => hypercall!("vmcall"),
            Vendor::Amd => hypercall!("vmmcall"),
        }
    }
}
