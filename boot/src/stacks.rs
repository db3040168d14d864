//! The stacks of the boot processor, each above a page that the final page tables leave out.
#![expect(unsafe_code, reason = "memory that only the processor's stack pointer uses")]

use core::cell::UnsafeCell;
use core::ops::Range;
use ebb::arch::backtrace::StackMemory;
use ebb::arch::descriptors::EmergencyStack;
use ebb::units::FRAME_SIZE;
use spin::once::Once;

/// A stack of `N` pages, growing down towards its lowest page, which is never mapped.
#[repr(C, align(4096))]
pub(crate) struct Stack<const N: usize>(UnsafeCell<[[u8; FRAME_SIZE]; N]>);

// SAFETY: no reference to the contents is ever made; the value only reserves addresses.
unsafe impl<const N: usize> Sync for Stack<N> {}

impl<const N: usize> Stack<N> {
    const fn new() -> Self {
        Self(UnsafeCell::new([[0; FRAME_SIZE]; N]))
    }

    fn named(&'static self, name: &'static str) -> NamedStack {
        let start = self.0.get().addr() as u64;
        let guard_end = start + FRAME_SIZE as u64;
        NamedStack { name, guard: start..guard_end, usable: guard_end..start + size_of::<Self>() as u64 }
    }
}

/// Where the boot processor runs, up to and including the application's main function: 64 KiB.
pub(crate) static BOOT: Stack<17> = Stack::new();

/// Its emergency stacks: 16 KiB each, enough for an epitaph.
static DOUBLE_FAULT: Stack<5> = Stack::new();
static NMI: Stack<5> = Stack::new();
static MACHINE_CHECK: Stack<5> = Stack::new();

/// A stack, for the epitaph.
#[derive(Clone, Debug)]
pub struct NamedStack {
    /// Whose it is.
    pub name: &'static str,
    /// The unmapped page below it.
    pub guard: Range<u64>,
    /// The stack itself; mapped.
    pub usable: Range<u64>,
}

/// The stacks of the boot processor.
fn own() -> [NamedStack; 1 + EmergencyStack::COUNT] {
    [
        BOOT.named("boot stack"),
        DOUBLE_FAULT.named("double fault stack"),
        NMI.named("NMI stack"),
        MACHINE_CHECK.named("machine check stack"),
    ]
}

/// Where the emergency stacks end, in the order that the processor's tables want.
pub(crate) fn emergency_tops() -> [u64; EmergencyStack::COUNT] {
    let [_, double_fault, nmi, machine_check] = own().map(|stack| stack.usable.end);
    [double_fault, nmi, machine_check]
}

/// The guard pages.
pub(crate) fn guards() -> [u64; 1 + EmergencyStack::COUNT] {
    own().map(|stack| stack.guard.start)
}

static OTHERS: Once<fn(u64) -> Option<NamedStack>> = Once::new();

/// Lets the epitaph know more stacks: `find` answers the one that has an address in its guard page or in itself.
///
/// `find` must not fault, lock or allocate; the stacks stay mapped while anything may run on them. Only the first
/// call counts.
pub fn set_other_stacks(find: fn(u64) -> Option<NamedStack>) {
    OTHERS.call_once(|| find);
}

/// The stack that has `address` in its guard page or in itself.
pub(crate) fn find(address: u64) -> Option<NamedStack> {
    let has = |stack: &NamedStack| stack.guard.contains(&address) || stack.usable.contains(&address);
    own().into_iter().find(has).or_else(|| OTHERS.get().and_then(|find| find(address)).filter(has))
}

/// The known stacks as memory for a backtrace.
#[derive(Debug)]
pub(crate) struct Stacks;

impl StackMemory for Stacks {
    fn stack_of(&self, address: u64) -> Option<Range<u64>> {
        find(address).map(|stack| stack.usable).filter(|stack| stack.contains(&address))
    }

    fn word(&self, address: u64) -> u64 {
        // SAFETY: whole, aligned, and in the mapped part of a stack, by the trait's contract. What runs on the
        // stack may change it meanwhile, hence volatile; any word will do.
        unsafe { core::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
    }
}
