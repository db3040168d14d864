//! The console ring as a sink for text.

use super::Polling;
use crate::output::Sink;
use ebb::port::Clock;
use ebb::units::EventPort;
use ebb::xen::SharedPage;
use ebb::xen::console::Console;
use spin::mutex::SpinMutex;
use x86_64::instructions::interrupts::without_interrupts;

/// How long one write waits for room. A daemon that is alive makes some every few milliseconds, on a starved host
/// every second; one that is not
/// costs this once, because the console does not wait again until somebody reads.
const ROOM_BOUND_NS: u64 = 3_000_000_000;
/// How long the end of the machine waits for the daemon.
const DRAIN_BOUND_NS: u64 = 2_000_000_000;
/// How often the lock is tried before text is dropped: its holder may be the code that panicked.
const LOCK_TRIES: u32 = 1_000_000;

/// The console ring, shared by all who print.
#[derive(Debug)]
pub(super) struct RingConsole {
    ring: SpinMutex<Console<Polling>>,
    platform: Polling,
}

impl RingConsole {
    pub(super) fn new(page: SharedPage, port: EventPort, platform: Polling) -> Self {
        Self { ring: SpinMutex::new(Console::new(page, port, platform)), platform }
    }

    /// Runs `use_ring` unless the ring stays locked: a panic inside it must not wait for itself.
    fn with<R>(&self, use_ring: impl FnOnce(&mut Console<Polling>, u64) -> R) -> Option<R> {
        without_interrupts(|| {
            for _ in 0..LOCK_TRIES {
                if let Some(mut ring) = self.ring.try_lock() {
                    return Some(use_ring(&mut ring, self.platform.now_ns()));
                }
                core::hint::spin_loop();
            }
            None
        })
    }

    /// Waits until the daemon has read all, within a bound.
    pub(super) fn drain(&self) {
        // There is nobody to tell if it has not.
        let _ = self.with(|ring, now_ns| ring.drain(now_ns + DRAIN_BOUND_NS));
    }

    /// Reads what was typed.
    pub(super) fn read(&self, into: &mut [u8]) -> usize {
        self.with(|ring, _| ring.read(into)).and_then(Result::ok).unwrap_or(0)
    }
}

impl Sink for RingConsole {
    fn write(&self, text: &[u8]) {
        // A console that failed says so itself, at its next write and for ever; there is no other place to say it.
        let _ = self.with(|ring, now_ns| ring.write_all(text, now_ns + ROOM_BOUND_NS));
    }
}
