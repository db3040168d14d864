//! How the machine ends: with an outcome that whoever started it can read.
#![expect(unsafe_code, reason = "the exit port and the shutdown hypercall")]

use ebb::arch::cpu;
use ebb::xen::Transport;
use ebb::xen::transport::Instruction;
use spin::once::Once;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As wished: `poweroff` under Xen, exit status 33 of QEMU.
    Success,
    /// Not: `crash` under Xen, exit status 35 of QEMU.
    Failure,
}

/// What can end the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Platform {
    /// The hypercall.
    Xen(Instruction),
    /// QEMU's `isa-debug-exit` at port 0xF4.
    Bare,
}

static PLATFORM: Once<Platform> = Once::new();

/// Remembers how to end the machine.
pub(crate) fn set_platform(platform: Platform) {
    PLATFORM.call_once(|| platform);
}

/// Ends the machine, from any context.
///
/// Without a device or a hypervisor that takes notice, the processor halts.
pub fn exit(outcome: Outcome) -> ! {
    match PLATFORM.get() {
        Some(Platform::Xen(instruction)) => shut_down(*instruction, outcome),
        Some(Platform::Bare) => {
            let code = match outcome {
                Outcome::Success => 0x10,
                Outcome::Failure => 0x11,
            };
            // SAFETY: the exit device of QEMU, which ends the machine, or nothing, listens there.
            unsafe { cpu::write_port(0xF4, code) }
        }
        None => {}
    }
    cpu::halt_forever()
}

/// SCHEDOP_shutdown (Xen: xen/include/public/sched.h): number 29, command 2, a pointer to the reason.
fn shut_down(instruction: Instruction, outcome: Outcome) {
    const SCHED_OP: u32 = 29;
    const SHUTDOWN: u64 = 2;
    let reason: u32 = match outcome {
        Outcome::Success => 0, // poweroff
        Outcome::Failure => 3, // crash
    };
    // SAFETY: the pointer is to a live `u32`, which is what the call reads.
    let _refused =
        unsafe { instruction.call(SCHED_OP, [SHUTDOWN, (&raw const reason).addr() as u64, 0, 0, 0]) };
}
