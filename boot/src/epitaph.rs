//! The last words: what happened, where, and how it came there.
//!
//! Printed on a panic and on an exception that nobody resolves, from any context and at any time, even before
//! there is a console. Nothing here waits, allocates, or trusts what may be broken; if it fails all the same, one
//! line says so and the machine ends.

use crate::cpus::stop::{self, Stopped};
use crate::end::{Outcome, exit};
use crate::stacks::{self, Stacks};
use crate::{cpus, image, output};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use ebb::arch::backtrace::{Backtrace, StackMemory};
use ebb::arch::layout::{self, WINDOW, WINDOW_SLOTS};
use ebb::arch::trap::{Exception, PageFaultCode, SelectorCode, TrapFrame};
use ebb::arch::{cpu, interrupts};
use ebb::symbols::Symbol;
use ebb::units::FRAME_SIZE;
use spin::once::Once;

static APPENDIX: Once<fn(&mut dyn Write) -> fmt::Result> = Once::new();

/// Has the epitaph end with what `print` prints, such as the last trace events.
///
/// `print` must not lock, allocate or fault. Only the first call counts.
pub fn set_appendix(print: fn(&mut dyn Write) -> fmt::Result) {
    APPENDIX.call_once(|| print);
}

/// Nobody reports.
const NOBODY: u32 = u32::MAX;
/// The processor that reports.
static REPORTER: AtomicU32 = AtomicU32::new(NOBODY);

/// Stops the other processors, runs `report` and ends the machine. Of several processors that fail, one reports and
/// the others stop; a processor that fails while it reports prints `nested`.
fn last_words(nested: fmt::Arguments<'_>, report: impl FnOnce(&mut dyn Write, Stopped) -> fmt::Result) -> ! {
    x86_64::instructions::interrupts::disable();
    let me = cpu::id();
    match REPORTER.compare_exchange(NOBODY, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            // A sink never fails.
            let _ = report(&mut output::unheld(), stop::stop_others());
        }
        Err(reporter) if reporter == me => {
            // Once only: were this to fail too, the next time ends without a word.
            static NESTED: AtomicU32 = AtomicU32::new(0);
            if NESTED.fetch_add(1, Ordering::Relaxed) == 0 {
                let _ = writeln!(output::unheld(), "\n*** failed while reporting: {nested}");
            }
        }
        Err(_) => stop::stop_me(),
    }
    exit(Outcome::Failure)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame_pointer = cpu::frame_pointer();
    last_words(format_args!("{info}"), |out, stopped| {
        writeln!(out, "\n*** ebb: {info}")?;
        processors(out, frame_pointer, stopped)?;
        writeln!(out, "backtrace:")?;
        trace(out, Backtrace::new(Stacks, frame_pointer))?;
        record(out, "panic", info, Names { interrupted: None, frame_pointer }, stopped)?;
        appendix(out)
    })
}

/// Reports an exception that nobody resolved.
pub(crate) fn exception(frame: &TrapFrame) -> ! {
    let exception = u8::try_from(frame.vector).ok().and_then(Exception::new);
    if exception == Some(Exception::NMI) {
        stop::stop_if_asked();
    }
    let name = exception.map_or("unexpected interrupt", Exception::name);
    last_words(format_args!("{name} at {:#x}", frame.rip), |out, stopped| {
        let detail = Detail(frame, exception);
        writeln!(out, "\n*** ebb: {name}{detail}")?;
        processors(out, frame.rsp, stopped)?;
        writeln!(out, "{frame}")?;
        writeln!(out, "backtrace:")?;
        // The interrupted instruction, then whoever called it.
        place_of_code(out, frame.rip, 0)?;
        let jumper = caller_of_nowhere(frame);
        if let Some(caller) = jumper {
            place_of_code(out, caller, 1)?;
        }
        trace(out, Backtrace::new(Stacks, frame.rbp))?;
        let interrupted = Some(jumper.unwrap_or(frame.rip));
        record(out, name, &detail, Names { interrupted, frame_pointer: frame.rbp }, stopped)?;
        appendix(out)
    })
}

/// Says on which processor and which stack it happened, and what became of the other processors.
fn processors(out: &mut dyn Write, stack: u64, stopped: Stopped) -> fmt::Result {
    match cpus::local::who() {
        Some(cpu) => write!(out, "on {cpu}")?,
        None => write!(out, "on a processor whose GS base is wrong (APIC {})", cpu::id())?,
    }
    if let Some(stack) = stacks::find(stack) {
        write!(out, ", on the {stack}")?;
    }
    let Stopped { asked, obeyed } = stopped;
    if !asked.is_empty() {
        write!(out, "; {} of {} others stopped", obeyed.len(), asked.len())?;
    }
    if obeyed != asked {
        write!(out, ", not {}", asked.minus(obeyed))?;
    }
    writeln!(out)
}

/// Who called, if the call went to where there is no code: it has no frame there, only the return address that the
/// call pushed.
fn caller_of_nowhere(frame: &TrapFrame) -> Option<u64> {
    if image::is_text(frame.rip) || !frame.rsp.is_multiple_of(8) {
        return None;
    }
    let stack = Stacks.stack_of(frame.rsp).filter(|stack| stack.end - frame.rsp >= 8);
    stack.map(|_| Stacks.word(frame.rsp)).filter(|address| image::is_text(*address))
}

/// The same, for the harness.
fn record(
    out: &mut dyn Write,
    what: &str,
    message: &dyn fmt::Display,
    frames: Names,
    stopped: Stopped,
) -> fmt::Result {
    let cpu = cpus::local::who().map_or(u32::MAX, |cpu| cpu.get() as u32);
    let (others, obeyed) = (stopped.asked.len(), stopped.obeyed.len());
    let fields: [(&str, &dyn fmt::Display); 6] = [
        ("what", &what),
        ("message", message),
        ("cpu", &cpu),
        ("others", &others),
        ("stopped", &obeyed),
        ("frames", &frames),
    ];
    ebb::report::write(out, "epitaph", &fields)
}

/// What an exception was about, as far as it is known.
struct Detail<'f>(&'f TrapFrame, Option<Exception>);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(frame, exception) = self;
        match *exception {
            Some(Exception::PAGE_FAULT) => {
                let address = interrupts::fault_address();
                write!(out, ": {} at {address:#x}", PageFaultCode::new(frame.error_code))?;
                name_place(out, address)
            }
            // A full stack cannot take the page fault that it causes; the address remains.
            Some(Exception::DOUBLE_FAULT) => {
                let address = interrupts::fault_address();
                if let Some(stack) = stacks::find(address).filter(|stack| stack.guard.contains(&address)) {
                    write!(out, ": stack overflow: {address:#x} is in the guard page of the {stack}")
                } else {
                    write!(out, "; the last page fault was at {address:#x}")?;
                    name_place(out, address)
                }
            }
            Some(exception) if exception.has_error_code() => {
                write!(out, ": {} (error code {:#x})", SelectorCode(frame.error_code), frame.error_code)
            }
            _ => Ok(()),
        }
    }
}

/// The functions of a backtrace, innermost first, separated by semicolons; a recursion once.
struct Names {
    interrupted: Option<u64>,
    frame_pointer: u64,
}

impl fmt::Display for Names {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More would fill the console's ring.
        const MOST: usize = 12;
        let mut last = None;
        let callers = Backtrace::new(Stacks, self.frame_pointer).map(|address| address.saturating_sub(1));
        let places =
            self.interrupted.into_iter().chain(callers).filter_map(symbol_at).map(|found| found.name);
        for name in places.filter(|name| last.replace(*name) != Some(*name)).take(MOST) {
            write!(out, "{name};")?;
        }
        Ok(())
    }
}

fn appendix(out: &mut dyn Write) -> fmt::Result {
    match APPENDIX.get() {
        Some(print) => print(out),
        None => Ok(()),
    }
}

/// Says what an address that faulted belongs to, where that is known.
fn name_place(out: &mut dyn Write, address: u64) -> fmt::Result {
    let window_end = WINDOW + (WINDOW_SLOTS * FRAME_SIZE) as u64;
    if let Some(stack) = stacks::find(address) {
        let part = if stack.guard.contains(&address) { "the guard page of " } else { "" };
        return write!(out, ", {part}the {stack}");
    }
    let place = if address < FRAME_SIZE as u64 {
        "the null page"
    } else if address < 1 << 47 {
        "the lower half, where nothing is mapped"
    } else if let Some(frame) = layout::direct_mapped(address) {
        return write!(out, ", {frame} in the direct map");
    } else if image::is_text(address) {
        "the kernel's code"
    } else if image::is_constant(address) {
        "the kernel's constants"
    } else if image::is_data(address) {
        "the kernel's data"
    } else if let Some(said) = crate::paged::name_place(out, address) {
        return said;
    } else if (WINDOW..window_end).contains(&address) {
        "the window for frames outside RAM"
    } else {
        "a part of the address space without a use"
    };
    write!(out, ", {place}")
}

/// Prints return addresses; one that repeats, as in a recursion, once with a count.
fn trace(out: &mut dyn Write, addresses: impl Iterator<Item = u64>) -> fmt::Result {
    let mut addresses = addresses.peekable();
    while let Some(address) = addresses.next() {
        // The call may be the last instruction of its function, so look just before.
        place_of_code(out, address, 1)?;
        let mut repeated = 0;
        while addresses.next_if_eq(&address).is_some() {
            repeated += 1;
        }
        if repeated > 0 {
            writeln!(out, "  ... {repeated} times more")?;
        }
    }
    Ok(())
}

/// Prints an address with the name of the function that has the byte `back` before it.
fn place_of_code(out: &mut dyn Write, address: u64, back: u64) -> fmt::Result {
    write!(out, "  {address:016x}")?;
    match address.checked_sub(back).and_then(symbol_at) {
        Some(symbol) => writeln!(out, "  {}+{:#x}", symbol.name, u64::from(symbol.offset) + back),
        None => writeln!(out),
    }
}

/// The function that an address lies in.
fn symbol_at(address: u64) -> Option<Symbol<'static>> {
    image::symbols().look_up(u32::try_from(address.checked_sub(image::base())?).ok()?)
}
