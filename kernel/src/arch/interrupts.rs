//! Interrupts and exceptions: entry stubs, the table that names them, and who is called.
//!
//! Every stub saves all registers as a [`TrapFrame`] and calls [`dispatch`]. An interrupt goes to the function
//! registered for its vector; a page fault to the page-fault handlers, one after the other; any other exception, and
//! a page fault that nobody resolves, to the fatal handler, which does not return.
#![expect(unsafe_code, reason = "entry stubs and the trap table")]

use super::descriptors::{CODE_SELECTOR, EmergencyStack};
use super::trap::{Exception, PageFaultCode, TrapFrame};
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::once::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

/// Where the vectors for interrupts begin; those below are exceptions.
pub const FIRST_INTERRUPT: u8 = Exception::COUNT as u8;
/// Vectors for interrupts.
pub const INTERRUPTS: usize = 16;
const VECTORS: usize = Exception::COUNT + INTERRUPTS;

/// A page fault, for one who might resolve it.
#[derive(Clone, Copy, Debug)]
pub struct PageFault {
    /// The address whose access failed.
    pub address: u64,
    /// What was tried, and what was in the way.
    pub code: PageFaultCode,
    /// The instruction that tried.
    pub instruction: u64,
    /// Whether interrupts were on there.
    pub interrupts_were_on: bool,
}

/// What became of a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The access may be tried again.
    Resolved,
    /// It is an error.
    Fatal,
}

/// The flag that lets interrupts in.
const INTERRUPTS_ON: u64 = 1 << 9;

static HANDLERS: [Once<fn()>; INTERRUPTS] = [const { Once::new() }; INTERRUPTS];
static HOOKS: Once<Hooks> = Once::new();
/// Page-fault handlers that there can be.
const PAGE_FAULT_HANDLERS: usize = 4;
/// Resolves page faults, or leaves them to the next.
pub type PageFaultHandler = fn(&PageFault) -> Resolution;
static PAGE_FAULT: [Once<PageFaultHandler>; PAGE_FAULT_HANDLERS] =
    [const { Once::new() }; PAGE_FAULT_HANDLERS];
static FATAL: Once<fn(&TrapFrame) -> !> = Once::new();

/// What is called around every interrupt, whatever its vector.
#[derive(Clone, Copy, Debug)]
struct Hooks {
    enter: fn(),
    exit: fn(&mut TrapFrame),
}

/// Has every interrupt call `enter` before its handler and `exit` after it, both with interrupts off. What `exit`
/// leaves in the frame is where the interrupted code goes on; it may return much later, and on another processor.
/// Exceptions call neither. Only the first call counts.
///
/// # Safety
///
/// The code that was interrupted may go on with the registers that `exit` leaves in the frame, and on the processor on
/// which it returns.
pub unsafe fn set_hooks(enter: fn(), exit: fn(&mut TrapFrame)) {
    HOOKS.call_once(|| Hooks { enter, exit });
}

/// Why a handler was not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandlerError {
    /// No such interrupt vector here.
    BadVector(u8),
    /// The vector has a handler, and keeps it.
    Taken(u8),
}

/// Has interrupts of `vector` call `handler`, on the interrupted stack, with interrupts off.
///
/// # Errors
///
/// If the vector is not one of the [`INTERRUPTS`] from [`FIRST_INTERRUPT`], or has another handler.
pub fn set_interrupt_handler(vector: u8, handler: fn()) -> Result<(), HandlerError> {
    let slot = vector.checked_sub(FIRST_INTERRUPT).and_then(|index| HANDLERS.get(usize::from(index)));
    let set = *slot.ok_or(HandlerError::BadVector(vector))?.call_once(|| handler);
    if core::ptr::fn_addr_eq(set, handler) { Ok(()) } else { Err(HandlerError::Taken(vector)) }
}

/// Has page faults ask `handler`, after those that came before it, on the faulting stack, with interrupts off. It
/// answers [`Resolution::Fatal`] for a fault that is not its own, and may turn interrupts on meanwhile where they were
/// on, if it turns them off again.
///
/// # Errors
///
/// If there are handlers enough.
pub fn add_page_fault_handler(handler: PageFaultHandler) -> Result<(), HandlerError> {
    let added = PAGE_FAULT.iter().any(|place| core::ptr::fn_addr_eq(*place.call_once(|| handler), handler));
    if added { Ok(()) } else { Err(HandlerError::Taken(Exception::PAGE_FAULT.vector())) }
}

/// Has exceptions that nobody resolves call `handler`. Only the first call counts.
pub fn set_fatal_handler(handler: fn(&TrapFrame) -> !) {
    FATAL.call_once(|| handler);
}

/// The address of the last page fault of this processor.
#[must_use]
pub fn fault_address() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

static HALTS_SKIPPED: AtomicU64 = AtomicU64::new(0);

/// How many interrupts came between the turning on of interrupts and the halt that was to wait for them, and found
/// the halt skipped. A processor that keeps to its manual has none.
#[must_use]
pub fn halts_skipped() -> u64 {
    HALTS_SKIPPED.load(Ordering::Relaxed)
}

static FORCED: AtomicU64 = AtomicU64::new(0);

/// How many interrupts came while interrupts were off, and were not answered. A processor that keeps to its manual
/// has none.
///
/// Under Xen in QEMU 7.2, whose emulated processor nests, there is one now and then: QEMU notes the vector of an
/// interrupt that Xen injects as if it were an exception, and forgets to cross it out when it has delivered it. If
/// another thread of QEMU calls for this processor at the wrong moment, the vector is delivered once more, wherever the
/// guest is by then. Nothing is lost if the second one is ignored: Xen injects its upcall until the guest has lowered
/// the flag for it.
#[must_use]
pub fn forced() -> u64 {
    FORCED.load(Ordering::Relaxed)
}

/// Called by every stub, with interrupts off.
extern "C" fn dispatch(frame: &mut TrapFrame) {
    const PAGE_FAULT_VECTOR: u64 = Exception::PAGE_FAULT.vector() as u64;
    if frame.vector == PAGE_FAULT_VECTOR {
        let fault = PageFault {
            address: fault_address(),
            code: PageFaultCode::new(frame.error_code),
            instruction: frame.rip,
            interrupts_were_on: frame.rflags & INTERRUPTS_ON != 0,
        };
        let mut handlers = PAGE_FAULT.iter().map_while(Once::get);
        if handlers.any(|handler| handler(&fault) == Resolution::Resolved) {
            return;
        }
    }
    let interrupt =
        usize::try_from(frame.vector).ok().and_then(|vector| vector.checked_sub(Exception::COUNT));
    match interrupt {
        // Not to be answered: the interrupted code may hold any lock, or be between two stacks. See `forced`.
        Some(_) if frame.rflags & INTERRUPTS_ON == 0 => {
            FORCED.fetch_add(1, Ordering::Relaxed);
        }
        // An interrupt that nobody claims is spurious: there is nobody who would miss it.
        Some(index) => {
            let hooks = HOOKS.get();
            if let Some(hooks) = hooks {
                (hooks.enter)();
            }
            if let Some(handler) = HANDLERS.get(index).and_then(Once::get) {
                handler();
            }
            if let Some(behind) = super::cpu::behind_halt(frame.rip) {
                frame.rip = behind;
                HALTS_SKIPPED.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(hooks) = hooks {
                (hooks.exit)(frame);
            }
        }
        None => match FATAL.get() {
            Some(fatal) => fatal(frame),
            None => super::cpu::halt_forever(),
        },
    }
}

/// The entry of one vector. The processor has aligned the stack to 16 and pushed five words; an error code, the
/// vector and fifteen registers make 22 words, so the stack is aligned again at the call.
#[unsafe(naked)]
extern "C" fn stub<const VECTOR: u8>() {
    naked_asm!(
        // The processor pushes an error code for some exceptions only; make frames alike.
        ".if {has_code} == 0",
        "push 0",
        ".endif",
        "push {vector}",
        "jmp {common}",
        has_code = const has_error_code(VECTOR) as u8,
        vector = const VECTOR,
        common = sym common,
    )
}

const fn has_error_code(vector: u8) -> bool {
    match Exception::new(vector) {
        Some(exception) => exception.has_error_code(),
        None => false,
    }
}

/// Saves the registers, calls [`dispatch`], restores them. The image uses no vector registers, so these are all.
#[unsafe(naked)]
extern "C" fn common() {
    naked_asm!(
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        // The backtrace of a handler ends here; the interrupted side is in the frame.
        "xor ebp, ebp",
        "call {dispatch}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rbp",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rbx",
        "pop rax",
        "add rsp, 16", // vector and error code
        "iretq",
        dispatch = sym dispatch,
    )
}

/// A trap gate of long mode (Intel SDM volume 3, 6.14.1).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Gate {
    address_low: u16,
    selector: u16,
    /// 0, or the number of an emergency stack, from 1.
    stack: u8,
    kind: u8,
    address_middle: u16,
    address_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    /// Present, 64-bit interrupt gate: interrupts are off on entry.
    const INTERRUPT: u8 = 0x8E;

    fn new(entry: extern "C" fn(), stack: Option<EmergencyStack>) -> Self {
        let address = (entry as *const ()).addr() as u64;
        Self {
            address_low: address as u16,
            selector: CODE_SELECTOR,
            stack: stack.map_or(0, |stack| stack.index() as u8 + 1),
            kind: Self::INTERRUPT,
            address_middle: (address >> 16) as u16,
            address_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

/// The entries of sixteen vectors from `$first`.
macro_rules! stubs {
    ($($first:literal)*) => {
        [$(
            stub::<{ $first }>, stub::<{ $first + 1 }>, stub::<{ $first + 2 }>, stub::<{ $first + 3 }>,
            stub::<{ $first + 4 }>, stub::<{ $first + 5 }>, stub::<{ $first + 6 }>, stub::<{ $first + 7 }>,
            stub::<{ $first + 8 }>, stub::<{ $first + 9 }>, stub::<{ $first + 10 }>, stub::<{ $first + 11 }>,
            stub::<{ $first + 12 }>, stub::<{ $first + 13 }>, stub::<{ $first + 14 }>, stub::<{ $first + 15 }>,
        )*]
    };
}

static STUBS: [extern "C" fn(); VECTORS] = stubs!(0 16 32);

static TABLE: Once<[Gate; VECTORS]> = Once::new();

/// Makes the table of all processors, if need be, and loads it into this one.
///
/// The segments must be loaded before: the gates name the code segment, and three of them emergency stacks.
pub fn load() {
    let table = TABLE.call_once(|| {
        let mut vector = 0;
        STUBS.map(|entry| {
            let stack = match Exception::new(vector) {
                Some(Exception::DOUBLE_FAULT) => Some(EmergencyStack::DoubleFault),
                Some(Exception::NMI) => Some(EmergencyStack::Nmi),
                Some(Exception::MACHINE_CHECK) => Some(EmergencyStack::MachineCheck),
                _ => None,
            };
            vector += 1;
            Gate::new(entry, stack)
        })
    });
    let limit = (size_of_val(table) - 1) as u16;
    let base = VirtAddr::from_ptr(table);
    // SAFETY: a static table whose gates all lead to stubs that keep every register.
    unsafe { lidt(&DescriptorTablePointer { limit, base }) }
}
