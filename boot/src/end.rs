//! How the machine ends: with an outcome that whoever started it can read.
#![expect(unsafe_code, reason = "the exit port")]

use ebb::arch::cpu;
use ebb::port::{SchedOps, ShutdownReason};
use ebb::xen::Xen;
use ebb::xen::transport::Instruction;
use spin::once::Once;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As wished: `poweroff` under Xen, exit status 33 of QEMU.
    Success,
    /// Not: `crash` under Xen, exit status 35 of QEMU.
    Failure,
    /// To start anew: `reboot` under Xen; QEMU, told to exit, has nothing else, so as a success.
    Reboot,
}

/// What can end the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Platform {
    /// The hypercall.
    Xen(Xen<Instruction>),
    /// QEMU's `isa-debug-exit` at port 0xF4.
    Bare,
}

static PLATFORM: Once<Platform> = Once::new();
static LAST: Once<fn()> = Once::new();

/// Remembers how to end the machine.
pub(crate) fn set_platform(platform: Platform) {
    PLATFORM.call_once(|| platform);
}

/// Has `last` called just before the end, to get text out. It must be bounded, and work in any context.
pub(crate) fn set_last(last: fn()) {
    LAST.call_once(|| last);
}

/// Ends the machine, from any context.
///
/// Without a device or a hypervisor that takes notice, the processor halts.
pub fn exit(outcome: Outcome) -> ! {
    if let Some(last) = LAST.get() {
        last();
    }
    match PLATFORM.get() {
        Some(Platform::Xen(xen)) => {
            let reason = match outcome {
                Outcome::Success => ShutdownReason::Poweroff,
                Outcome::Failure => ShutdownReason::Crash,
                Outcome::Reboot => ShutdownReason::Reboot,
            };
            // If Xen refuses there is nobody left to tell: the last processor that halts ends the domain.
            let _refused = xen.shutdown(reason);
        }
        Some(Platform::Bare) => {
            let code = match outcome {
                Outcome::Success | Outcome::Reboot => 0x10,
                Outcome::Failure => 0x11,
            };
            // SAFETY: the exit device of QEMU, which ends the machine, or nothing, listens there.
            unsafe { cpu::write_port(0xF4, code) }
        }
        None => {}
    }
    cpu::halt_forever()
}
