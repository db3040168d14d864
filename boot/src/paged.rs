//! Paged memory of this machine: its window, its page tables, and the page faults that fill it.
#![expect(unsafe_code, reason = "page tables and frames, through the direct map")]

use crate::frames::{KernelFrames, KernelLocks};
use crate::platform::Kernel;
use crate::{Machine, cpus, space};
use core::fmt;
use core::ptr;
use ebb::arch::interrupts::{self, PageFault, Resolution};
use ebb::arch::layout::{PAGED, PAGED_SIZE, direct_map};
use ebb::arch::local as gs;
use ebb::mm::frame::Stats as FrameStats;
use ebb::mm::paged::heap::{PagedAlloc, PagedHeap};
use ebb::mm::paged::{Config, Context, FaultError, Mmu, Paged, ReserveError, Shortage, Words};
use ebb::smp::Flush;
use ebb::units::{FRAME_SIZE, Frames, Gfn};
use spin::once::Once;

/// Paged memory, as this machine has it.
pub type KernelPaged = Paged<KernelLocks, WindowTables, Kernel>;

/// What the application's collections are given, so that they live in paged memory.
pub type AppAlloc = PagedAlloc<&'static KernelPaged, Kernel>;

static PAGED_MEMORY: Once<KernelPaged> = Once::new();
static APP_HEAP: Once<PagedHeap<&'static KernelPaged, Kernel>> = Once::new();
static SHORTAGE: Once<&'static dyn Shortage> = Once::new();

/// The window's page tables. A handle: all are the same.
#[derive(Clone, Copy, Debug)]
pub struct WindowTables(());

/// Where the direct map shows a frame.
pub(crate) fn bytes(frame: Gfn) -> *mut u8 {
    match direct_map(frame.start()) {
        Some(address) => ptr::with_exposed_provenance_mut(address as usize),
        None => unreachable!("{frame} was given out, and lies beyond the direct map"),
    }
}

/// The way to frames as words.
pub(crate) fn tables() -> WindowTables {
    WindowTables(())
}

// SAFETY: the direct map shows every frame that the allocator gives out, at one place, writable, and is a view of its
// own beside the window; the directories are made by `space` in entries of the root table that belong to the window
// alone, as the layout says, and are never taken away; `cpus::flush` returns when all CPUs have forgotten. Values are
// made in this crate only (`tables`), which has one allocator.
unsafe impl Mmu for WindowTables {
    unsafe fn words(&self, frame: Gfn) -> &Words {
        // SAFETY: mapped, aligned to a page, never unmapped while the caller has the frame (its promise), and of a type
        // that allows others to change it.
        unsafe { &*bytes(frame).cast::<Words>() }
    }

    fn directory(&self, address: u64) -> Option<Gfn> {
        space::directory(address)
    }

    fn flush(&self, what: Flush) {
        cpus::flush(what);
    }

    unsafe fn zero(&self, frame: Gfn) {
        // SAFETY: a whole frame in the direct map, and the caller's alone by its promise.
        unsafe { bytes(frame).write_bytes(0, FRAME_SIZE) }
    }

    unsafe fn copy(&self, from: Gfn, to: Gfn) {
        // SAFETY: two different frames in the direct map; nobody writes to either by the caller's promise.
        unsafe { ptr::copy_nonoverlapping(bytes(from), bytes(to), FRAME_SIZE) }
    }
}

/// Why there is no paged memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PagedError {
    /// No memory for its books.
    Books(ReserveError),
    /// Others resolve page faults, too many of them.
    Handlers,
}

impl fmt::Display for PagedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Books(error) => write!(f, "paged memory: {error}"),
            Self::Handlers => f.write_str("paged memory: page faults have too many handlers"),
        }
    }
}

/// Addresses for paged memory, in GiB: many times the memory, so that fragments do not matter, and few books in a small
/// guest.
fn gibs(managed: Frames) -> usize {
    const GIB_FRAMES: u64 = 1 << 18;
    const LEAST: u64 = 64;
    let most = PAGED_SIZE >> 30;
    (managed.get().div_ceil(GIB_FRAMES) * 32).clamp(LEAST, most) as usize
}

/// What may be promised to the application: the memory that the domain has or could have, less what the kernel holds for
/// good, keeps free, and needs for page tables and its heap as the application grows.
#[must_use]
pub fn commit_limit(frames: &FrameStats) -> Frames {
    const KERNEL_SHARE: u64 = 64;
    let growth = Frames::new(frames.managed.get() / KERNEL_SHARE);
    [frames.pinned, frames.watermarks.high, growth].into_iter().fold(frames.managed, Frames::saturating_sub)
}

/// Makes paged memory, and has page faults fill it. On the boot CPU, once CPUs have their areas.
pub(crate) fn start(frames: &'static KernelFrames) -> Result<(), PagedError> {
    let stats = frames.stats();
    let config = Config { base: PAGED, gibs: gibs(stats.managed), limit: commit_limit(&stats) };
    let paged = KernelPaged::new(frames, WindowTables(()), Kernel, config).map_err(PagedError::Books)?;
    paged.set_shortage(&Relief);
    let paged = PAGED_MEMORY.call_once(|| paged);
    APP_HEAP.call_once(|| PagedHeap::new(paged, Kernel));
    interrupts::add_page_fault_handler(resolve).map_err(|_| PagedError::Handlers)
}

/// Has `shortage` asked when there is no frame for a page. Where it may block it is called with interrupts on, also out
/// of a page fault. Only the first call counts.
pub fn set_shortage(shortage: &'static dyn Shortage) {
    SHORTAGE.call_once(|| shortage);
}

/// Turns interrupts on for one who may block: a page fault has turned them off.
struct Relief;

impl Shortage for Relief {
    fn relieve(&self, need: Frames, context: Context) -> bool {
        let Some(shortage) = SHORTAGE.get() else { return false };
        let in_fault = context == Context::MayBlock && !x86_64::instructions::interrupts::are_enabled();
        if in_fault {
            x86_64::instructions::interrupts::enable();
        }
        let relieved = shortage.relieve(need, context);
        if in_fault {
            x86_64::instructions::interrupts::disable();
        }
        relieved
    }
}

/// Resolves a fault on a page of a region.
fn resolve(fault: &PageFault) -> Resolution {
    let Some(paged) = PAGED_MEMORY.get().filter(|paged| paged.covers(fault.address)) else {
        return Resolution::Fatal;
    };
    // The pages are writable and hold no code: what a mapping forbids is no matter of memory.
    if fault.code.is_protection() || fault.code.is_reserved_bit() || fault.code.is_fetch() {
        return Resolution::Fatal;
    }
    let may_block = fault.interrupts_were_on && gs::preempt_count() == 0;
    let context = if may_block { Context::MayBlock } else { Context::MayNotBlock };
    match paged.fault(fault.address, context) {
        Ok(_) => Resolution::Resolved,
        Err(error) => {
            UNSERVED.call_once(|| (fault.address, error));
            Resolution::Fatal
        }
    }
}

/// The access that could not be served, and that the epitaph is about: a load or a store cannot return an error. Of
/// memory that is exhausted, strict accounting keeps it from coming to this.
static UNSERVED: Once<(u64, FaultError)> = Once::new();

/// Says what an address that faulted is in the window, for the epitaph. Takes no lock. `None` outside of the window.
pub(crate) fn name_place(out: &mut dyn fmt::Write, address: u64) -> Option<fmt::Result> {
    PAGED_MEMORY.get().filter(|paged| paged.covers(address))?;
    Some(match UNSERVED.get() {
        Some((unserved, FaultError::NoFrame(error))) if *unserved == address => {
            write!(out, ", paged memory: no frame for {address:#x}: {error}")
        }
        Some((unserved, error)) if *unserved == address => write!(out, ", paged memory: {error}"),
        _ => out.write_str(", paged memory"),
    })
}

/// Paged memory.
pub(crate) fn get() -> &'static KernelPaged {
    match PAGED_MEMORY.get() {
        Some(paged) => paged,
        None => unreachable!("paged memory is made before the main function runs"),
    }
}

impl Machine {
    /// Paged memory: where the application's bulk data lives.
    #[must_use]
    pub fn paged(&self) -> &'static KernelPaged {
        get()
    }

    /// The allocator of the application's collections, over [`paged`](Self::paged) memory.
    #[must_use]
    pub fn paged_alloc(&self) -> AppAlloc {
        match APP_HEAP.get() {
            Some(heap) => PagedAlloc::new(heap),
            None => unreachable!("the application's allocator is made with paged memory"),
        }
    }
}
