//! The local APIC, which stands in for event channels and Xen's timer where there is no Xen.
//!
//! Each CPU has one. It carries interrupts from one CPU to another, starts CPUs that wait in reset, and has a
//! one-shot timer (Intel SDM volume 3, chapter 11). Registers are memory at one physical address that shows every
//! CPU its own, or model-specific registers if the firmware has switched to x2APIC mode.
#![expect(unsafe_code, reason = "device registers")]

use super::trap::Exception;
use core::ptr::NonNull;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

/// An offset into the register page; the MSR number is 0x800 plus a sixteenth of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Register(u32);

const TASK_PRIORITY: Register = Register(0x80);
const END_OF_INTERRUPT: Register = Register(0xB0);
const SPURIOUS: Register = Register(0xF0);
const COMMAND: Register = Register(0x300);
const COMMAND_TARGET: Register = Register(0x310);
const TIMER: Register = Register(0x320);
const LINT0: Register = Register(0x350);
const INITIAL_COUNT: Register = Register(0x380);
const CURRENT_COUNT: Register = Register(0x390);
const DIVIDE: Register = Register(0x3E0);

/// In [`SPURIOUS`]: the APIC is on.
const ENABLED: u32 = 1 << 8;
/// In a local vector: no interrupts.
const MASKED: u32 = 1 << 16;
/// In [`DIVIDE`]: one tick of the timer for 16 of the bus.
const BY_16: u32 = 0b0011;
/// In [`COMMAND`]: not yet sent.
const SENDING: u32 = 1 << 12;
/// In [`COMMAND`]: assert; only the obsolete de-assertion of INIT has it clear.
const ASSERT: u32 = 1 << 14;

/// What is sent to a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipi {
    /// An interrupt.
    Vector(u8),
    /// The interrupt that nothing masks.
    Nmi,
    /// Back into reset, to wait.
    Init,
    /// Out of the wait, to begin in real mode at this page below 1 MiB.
    Startup(u8),
}

impl Ipi {
    const fn command(self) -> u32 {
        ASSERT
            | match self {
                Self::Vector(vector) => vector as u32,
                Self::Nmi => 4 << 8,
                Self::Init => 5 << 8,
                Self::Startup(page) => 6 << 8 | page as u32,
            }
    }
}

/// How often a command is asked whether it has gone out. It takes a few bus cycles.
const PATIENCE: u32 = 1_000_000;

/// Access to the local APIC of whichever CPU uses it.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic {
    /// The register page; `None` in x2APIC mode.
    page: Option<NonNull<u8>>,
}

// SAFETY: the page is mapped on every CPU, and shows each its own registers.
unsafe impl Send for LocalApic {}
// SAFETY: no two CPUs reach the same register, each access is one volatile word, and two that an interrupt comes between
// are a command and its target, which [`LocalApic::send`] wants interrupts off for.
unsafe impl Sync for LocalApic {}

impl LocalApic {
    /// Where the registers are, if they are memory: for the one who maps them. `None` in x2APIC mode.
    #[must_use]
    pub fn physical_address() -> Option<u64> {
        let (frame, flags) = ApicBase::read();
        (!flags.contains(ApicBaseFlags::X2APIC_ENABLE)).then(|| frame.start_address().as_u64())
    }

    /// The APIC whose registers are mapped at `page`; or without a page, in x2APIC mode.
    ///
    /// # Safety
    ///
    /// The page maps [`physical_address`](Self::physical_address) for reading and writing, for good, and nobody else
    /// uses it. (The firmware has made those addresses uncached by its range registers.) Without a page, that
    /// function answers `None` on every CPU.
    #[must_use]
    pub const unsafe fn new(page: Option<NonNull<u8>>) -> Self {
        Self { page }
    }

    fn read(self, register: Register) -> u32 {
        match self.page {
            Some(page) => {
                let at = page.as_ptr().wrapping_add(register.0 as usize).cast::<u32>();
                // SAFETY: an aligned register in the page (constructor); reading these changes nothing.
                unsafe { at.read_volatile() }
            }
            // SAFETY: in x2APIC mode (constructor) these registers exist.
            None => unsafe { Msr::new(0x800 + register.0 / 16).read() as u32 },
        }
    }

    /// # Safety
    ///
    /// The write may not break memory safety: it sends no CPU anywhere it may not begin.
    unsafe fn write(self, register: Register, value: u32) {
        match self.page {
            Some(page) => {
                let at = page.as_ptr().wrapping_add(register.0 as usize).cast::<u32>();
                // SAFETY: an aligned register in the page (constructor); the effect is our caller's to argue.
                unsafe { at.write_volatile(value) }
            }
            // SAFETY: as above.
            None => unsafe { Msr::new(0x800 + register.0 / 16).write(u64::from(value)) },
        }
    }

    /// Turns this CPU's APIC on: spurious interrupts come as `spurious`, timer interrupts as `timer`, and nothing
    /// of the old interrupt controllers comes through.
    ///
    /// # Panics
    ///
    /// If one of the vectors is an exception's. The entries of some expect an error code, which an interrupt has not:
    /// they would take the return address for it.
    pub fn enable(self, spurious: u8, timer: u8) {
        assert!(
            [spurious, timer].into_iter().all(|vector| Exception::new(vector).is_none()),
            "interrupts at vectors {spurious} and {timer}, which exceptions have"
        );
        let settings = [
            (TASK_PRIORITY, 0),
            (LINT0, MASKED),
            (DIVIDE, BY_16),
            (INITIAL_COUNT, 0),
            (TIMER, u32::from(timer)),
            (SPURIOUS, ENABLED | u32::from(spurious)),
        ];
        for (register, value) in settings {
            // SAFETY: these vectors lead to entries that keep all registers and expect what an interrupt pushes, or,
            // beyond the table, to an exception with a name. Nothing is sent.
            unsafe { self.write(register, value) }
        }
    }

    /// Ends the interrupt that is being handled.
    pub fn end_of_interrupt(self) {
        // SAFETY: lets the next interrupt come, no more.
        unsafe { self.write(END_OF_INTERRUPT, 0) }
    }

    /// Has the timer of this CPU fire after `ticks`; 0 stops it.
    pub fn set_timer(self, ticks: u32) {
        // SAFETY: starts or stops the timer, whose interrupt has an entry.
        unsafe { self.write(INITIAL_COUNT, ticks) }
    }

    /// What is left of the ticks.
    #[must_use]
    pub fn timer(self) -> u32 {
        self.read(CURRENT_COUNT)
    }

    /// Sends `ipi` to the CPU whose APIC has the number `target`, with interrupts off, and answers whether it has
    /// gone out.
    ///
    /// # Safety
    ///
    /// [`Ipi::Init`] and [`Ipi::Startup`] go to a CPU that runs nothing of ours, the latter with code at that page
    /// which may run there. The number in [`Ipi::Vector`] is no exception's.
    pub unsafe fn send(self, target: u8, ipi: Ipi) -> bool {
        let Some(_page) = self.page else {
            let command = u64::from(target) << 32 | u64::from(ipi.command());
            // SAFETY: x2APIC mode (constructor); the effect is our caller's promise. The write is not ordered behind
            // stores to memory, which the target may read at once, so a fence is.
            unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) }
            // SAFETY: as above.
            unsafe { Msr::new(0x800 + COMMAND.0 / 16).write(command) }
            return true;
        };
        // SAFETY: selects the target of the next command.
        unsafe { self.write(COMMAND_TARGET, u32::from(target) << 24) }
        // SAFETY: the caller's promise.
        unsafe { self.write(COMMAND, ipi.command()) }
        for _ in 0..PATIENCE {
            if self.read(COMMAND) & SENDING == 0 {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }
}
