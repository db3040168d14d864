//! Where text goes: a sink, replaced by a better one as the machine comes up.
//!
//! From the first instruction there is the debug port, 0xE9, which Xen logs and QEMU can show. A 16550 takes
//! over on plain QEMU, the console ring under Xen. Lines of different processors do not mix: whoever prints
//! holds the console; only the epitaph does not wait for it.
#![expect(unsafe_code, reason = "port output")]

use core::fmt;
use ebb::arch::cpu;
use spin::mutex::SpinMutex;
use spin::once::Once;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::interrupts::without_interrupts;

/// Takes text, from any context: with interrupts off, from several processors, from a panic inside itself.
///
/// An implementation that needs a lock tries it for a bounded time and then drops the text.
pub trait Sink: Sync {
    /// Takes as much of `text` as it can.
    fn write(&self, text: &[u8]);
}

/// Port 0xE9.
#[derive(Clone, Copy, Debug)]
pub struct DebugPort;

impl Sink for DebugPort {
    fn write(&self, text: &[u8]) {
        for byte in text {
            // SAFETY: only a debug console listens there, here and under Xen; elsewhere nothing does.
            unsafe { cpu::write_port(0xE9, *byte) }
        }
    }
}

/// The first serial port of a PC.
#[derive(Clone, Copy, Debug)]
pub struct Serial(());

/// Base of the first serial port.
const COM1: u16 = 0x3F8;

impl Serial {
    /// Sets the port up for 115200 baud, 8N1, or says `None` where there is none.
    #[must_use]
    pub fn probe() -> Option<Self> {
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
        Self::device()?.init(config).is_ok().then_some(Self(()))
    }

    /// A handle on the port. The driver keeps no state that output needs, so that every writer, and a panic in
    /// the middle of a write, may have its own: at worst, bytes of two lines mix.
    fn device() -> Option<Uart16550<PioBackend>> {
        // SAFETY: the port's registers are claimed by this device or by nothing, on every machine we run on.
        unsafe { Uart16550::new_port(COM1) }.ok()
    }
}

/// How often a byte is offered to a port that does not take it; at 115200 baud one takes less than 0.1 ms.
const PATIENCE: u32 = 100_000;

impl Sink for Serial {
    fn write(&self, text: &[u8]) {
        let Some(mut device) = Self::device() else { return };
        let mut send = |byte| {
            for _ in 0..PATIENCE {
                if device.try_send_byte(byte).is_ok() {
                    return;
                }
                core::hint::spin_loop();
            }
        };
        for byte in text {
            if *byte == b'\n' {
                send(b'\r');
            }
            send(*byte);
        }
    }
}

/// What has replaced the debug port.
static SINK: SpinMutex<Option<&'static dyn Sink>> = SpinMutex::new(None);
/// Held by whoever prints a line.
static CONSOLE: SpinMutex<()> = SpinMutex::new(());

/// How much early text is kept.
const EARLY_BYTES: usize = 2048;

/// Text from before there was a console, which only those see who watch the debug port.
struct Early {
    text: [u8; EARLY_BYTES],
    length: usize,
    /// There is a console: nothing is kept any more.
    over: bool,
}

static EARLY: SpinMutex<Early> = SpinMutex::new(Early { text: [0; EARLY_BYTES], length: 0, over: false });

impl Early {
    /// Keeps as much as fits.
    fn keep(&mut self, text: &[u8]) {
        if self.over {
            return;
        }
        let room = &mut self.text[self.length..];
        let count = room.len().min(text.len());
        room[..count].copy_from_slice(&text[..count]);
        self.length += count;
    }
}

/// Sends all text to `sink` from now on, and first the text from before there was any.
pub fn attach(sink: &'static dyn Sink) {
    without_interrupts(|| {
        let mut early = EARLY.lock();
        if !early.over {
            sink.write(&early.text[..early.length]);
            early.over = true;
        }
        *SINK.lock() = Some(sink);
    });
}

/// Stays with the debug port, or goes back to it.
pub(crate) fn attach_debug_port() {
    without_interrupts(|| {
        EARLY.lock().over = true;
        *SINK.lock() = None;
    });
}

/// The sink that has replaced the debug port; none also if it is being replaced this very moment by somebody who
/// does not finish.
fn attached() -> Option<&'static dyn Sink> {
    without_interrupts(|| {
        for _ in 0..100_000 {
            if let Some(sink) = SINK.try_lock() {
                return *sink;
            }
            core::hint::spin_loop();
        }
        None
    })
}

/// Longest piece of a line that is written at once.
const LINE_BYTES: usize = 256;

/// Formats into a sink, line by line: a formatted line comes in many pieces, and each write to the console ring
/// wakes a daemon in dom0.
struct Text {
    /// The debug port where there is no other.
    sink: Option<&'static dyn Sink>,
    /// Whether the debug port gets the text in any case.
    twice: bool,
    line: [u8; LINE_BYTES],
    length: usize,
}

impl Text {
    const fn to(sink: Option<&'static dyn Sink>, twice: bool) -> Self {
        Self { sink, twice, line: [0; LINE_BYTES], length: 0 }
    }

    fn flush(&mut self) {
        let line = &self.line[..self.length];
        if let Some(mut early) = EARLY.try_lock() {
            early.keep(line);
        }
        if let Some(sink) = self.sink {
            sink.write(line);
        }
        if self.twice || self.sink.is_none() {
            DebugPort.write(line);
        }
        self.length = 0;
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.line[self.length] = byte;
            self.length += 1;
            if byte == b'\n' || self.length == LINE_BYTES {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if self.length > 0 {
            self.flush();
        }
    }
}

/// Runs `print` with the console held and interrupts off.
///
/// `print` must not log or print by itself: it would wait for itself.
pub fn with_console<R>(print: impl FnOnce(&mut dyn fmt::Write) -> R) -> R {
    without_interrupts(|| {
        let _held = loop {
            if let Some(held) = CONSOLE.try_lock() {
                break held;
            }
            // Whoever holds it may be waiting, in the hypervisor, for the console's reader to run.
            crate::cpus::relax();
        };
        print(&mut Text::to(attached(), false))
    })
}

/// Writes a record for the harness; see [`ebb::report`].
pub fn report(kind: &str, fields: &[(&str, &dyn fmt::Display)]) {
    // A sink never fails.
    let _ = with_console(|out| ebb::report::write(out, kind, fields));
}

/// Text that does not wait for whoever holds the console, who may be the code that just failed; and that goes to
/// the debug port too, because what has replaced it may be broken.
pub(crate) fn unheld() -> impl fmt::Write {
    Text::to(attached(), true)
}

static CLOCK: Once<fn() -> u64> = Once::new();

/// Stamps log lines with `clock`, in nanoseconds since boot, from now on: until then, with a clock of our own.
///
/// It must be usable with interrupts off. Only the first call counts.
pub fn set_clock(clock: fn() -> u64) {
    CLOCK.call_once(|| clock);
}

/// Prints log records, one line each: `[seconds since boot] level: text`.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        };
        let now_us = CLOCK.get().map_or_else(crate::clock::now_ns, |clock| clock()) / 1000;
        let (seconds, micros) = (now_us / 1_000_000, now_us % 1_000_000);
        // A sink never fails.
        let _ = with_console(|out| writeln!(out, "[{seconds:5}.{micros:06}] {level}: {}", record.args()));
    }

    fn flush(&self) {}
}

/// Makes the `log` macros work, for records down to `level`.
pub(crate) fn start_log(level: log::LevelFilter) {
    // Fails only if a logger is set already, and then there is one.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
}
