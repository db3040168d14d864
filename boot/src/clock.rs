//! Time for the log before there is a real clock: the time stamp counter, at the rate that CPUID or, on a PC, the
//! interval timer gives.
#![expect(unsafe_code, reason = "the interval timer's ports")]

use ebb::arch::cpu;
use ebb::xen::cpuid::Detected;
use spin::once::Once;

/// A counter and its rate.
#[derive(Clone, Copy, Debug)]
struct EarlyClock {
    start: u64,
    khz: u64,
}

static CLOCK: Once<EarlyClock> = Once::new();

/// Starts counting.
pub(crate) fn start(xen: Option<&Detected>) {
    let start = cpu::time_stamp();
    let khz = match xen {
        Some(detected) => detected.tsc_khz.map(u64::from),
        None => measure(),
    };
    if let Some(khz) = khz.filter(|khz| *khz != 0) {
        CLOCK.call_once(|| EarlyClock { start, khz });
    }
}

/// Nanoseconds since [`start`]; 0 if nobody knows the rate.
pub(crate) fn now_ns() -> u64 {
    CLOCK.get().map_or(0, |clock| {
        let ticks = u128::from(cpu::time_stamp().wrapping_sub(clock.start));
        (ticks * 1_000_000 / u128::from(clock.khz)) as u64
    })
}

/// Lets channel 2 of the PC's interval timer (Intel 8254) count 5 ms, and counts along; `None` if it never ends.
fn measure() -> Option<u64> {
    const MILLIS: u64 = 5;
    /// The timer counts at 1193182 Hz.
    const COUNT: [u8; 2] = ((1_193_182 * MILLIS / 1000) as u16).to_le_bytes();
    /// Gate of channel 2 on, speaker off.
    const GATE: u8 = 1;
    const OUTPUT: u8 = 1 << 5;
    /// Channel 2, low byte then high byte, mode 0: the output rises at the end.
    const MODE: u8 = 0xB0;
    // SAFETY: the timer's and the speaker's ports, with which nobody else does anything.
    unsafe { cpu::write_port(0x61, GATE) };
    // SAFETY: as above.
    unsafe { cpu::write_port(0x43, MODE) };
    for byte in COUNT {
        // SAFETY: as above.
        unsafe { cpu::write_port(0x42, byte) };
    }
    let start = cpu::time_stamp();
    for _ in 0..1_000_000 {
        // SAFETY: reading the speaker's port changes nothing.
        if unsafe { cpu::read_port(0x61) } & OUTPUT != 0 {
            return Some(cpu::time_stamp().wrapping_sub(start) / MILLIS);
        }
    }
    None
}
