//! The console ring as a sink for text, and what is typed there.
//!
//! Two wait for the console's port. Whoever writes into a full ring waits for room, with interrupts off, by a call to
//! the hypervisor; who wants input lets the upcall collect the port. On another vCPU the upcall would take the event
//! that the writer waits for, so a writer that must wait masks the port first and looks for room again. An event that
//! it takes then may have told of input too; that is not lost, because the writer writes on, and the daemon tells of
//! having read it when the port is open again.
//!
//! A CPU that waits for room may be stopped there, with the ring held, when another one reports the end of the kernel;
//! what is reported breaks the lock.
#![expect(unsafe_code, reason = "breaks the lock of one who never runs again")]

use super::Polling;
use crate::cpus::stop;
use crate::output::Sink;
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::port::{Clock, Joined, Wait};
use ebb::units::EventPort;
use ebb::xen::console::Console;
use ebb::xen::events::Channels;
use ebb::xen::transport::Instruction;
use ebb::xen::{SharedPage, Xen};
use spin::mutex::{SpinMutex, SpinMutexGuard};
use x86_64::instructions::interrupts::without_interrupts;

/// How long one write waits for room. A daemon that is alive makes some every few milliseconds, on a starved host
/// every few seconds; one that is not costs this once, because the console does not wait again until somebody reads. Who
/// waits has interrupts off, so it is less than what other CPUs wait for this one to forget translations.
const ROOM_BOUND_NS: u64 = 10_000_000_000;
const _: () = assert!(ROOM_BOUND_NS <= crate::cpus::FLUSH_BOUND_NS / 2);
/// How long the end of the machine waits for the daemon.
const DRAIN_BOUND_NS: u64 = ROOM_BOUND_NS;
/// How often the lock is tried before text is dropped: its holder may be the code that panicked.
const LOCK_TRIES: u32 = 1_000_000;

/// The upcall collects the port, for who wants input.
static LISTENED: AtomicBool = AtomicBool::new(false);
/// Whoever holds the ring has masked the port.
static MASKED: AtomicBool = AtomicBool::new(false);

/// Waiting by a writer, with the ring held.
#[derive(Clone, Copy, Debug)]
struct Writer {
    polling: Polling,
    channels: Channels,
}

impl Clock for Writer {
    fn now_ns(&self) -> u64 {
        self.polling.now_ns()
    }
}

impl Wait for Writer {
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        let open = LISTENED.load(Ordering::Acquire) && !MASKED.swap(true, Ordering::AcqRel);
        if open && self.channels.mask(port).is_ok() {
            // The event may have been taken just before.
            return;
        }
        self.polling.wait(port, deadline_ns);
    }
}

/// The console, written to in this way.
type Ring = Console<Joined<Xen<Instruction>, Writer>>;

/// The console ring, shared by all who print.
#[derive(Debug)]
pub(super) struct RingConsole {
    ring: SpinMutex<Ring>,
    writer: Writer,
    port: EventPort,
}

impl RingConsole {
    pub(super) fn new(page: SharedPage, port: EventPort, polling: Polling, channels: Channels) -> Self {
        let writer = Writer { polling, channels };
        let platform = Joined { events: polling.events, wait: writer };
        Self { ring: SpinMutex::new(Console::new(page, port, platform)), writer, port }
    }

    pub(super) const fn port(&self) -> EventPort {
        self.port
    }

    /// From now on the upcall collects the port.
    pub(super) fn set_listened(&self) {
        LISTENED.store(true, Ordering::Release);
    }

    /// Runs `use_ring` unless the ring stays locked: a panic inside it must not wait for itself. It takes the ring from its
    /// holder if all but this CPU have stopped.
    fn with<R>(&self, use_ring: impl FnOnce(&mut Ring, u64) -> R) -> Option<R> {
        without_interrupts(|| {
            let mut ring = self.lock()?;
            let result = use_ring(&mut ring, self.writer.now_ns());
            if MASKED.swap(false, Ordering::AcqRel) {
                // It does not fail for a port that is open, as this one is.
                let _ = self.writer.channels.unmask(&self.writer.polling.events, self.port);
            }
            Some(result)
        })
    }

    fn lock(&self) -> Option<SpinMutexGuard<'_, Ring>> {
        for _ in 0..LOCK_TRIES {
            if let Some(ring) = self.ring.try_lock() {
                return Some(ring);
            }
            core::hint::spin_loop();
        }
        if stop::is_alone() {
            // SAFETY: whoever holds it does not run again: it is on a CPU that has stopped for good, or what this CPU ran
            // before it failed, to which nothing returns. Its indices are right between any two instructions of its: what
            // it has staged is published by one store, or overwritten.
            unsafe { self.ring.force_unlock() };
        }
        self.ring.try_lock()
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
