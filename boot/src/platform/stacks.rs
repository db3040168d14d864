//! Stacks of threads: in a window of the address space, each above a page that stays unmapped.
//!
//! A slot is mapped when it is first needed, and then serves one thread after another.
#![expect(unsafe_code, reason = "page tables, and memory that becomes stacks")]

use crate::stacks::{NamedStack, set_other_stacks};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use ebb::arch::context::Stack;
use ebb::arch::layout::{STACK_SLOT, STACK_SLOTS, STACKS};
use ebb::arch::paging::{Access, AddressSpace};
use ebb::arch::tables::{DirectTables, FrameSource};
use ebb::boot_info::{FrameRange, RamMap};
use ebb::units::{FRAME_SIZE, Frames, Gfn, Order};
use spin::mutex::SpinMutex;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

const PAGE: u64 = FRAME_SIZE as u64;
/// Frames of a stack: all of a slot but the guard page.
const STACK_FRAMES: u64 = STACK_SLOT / PAGE - 1;
/// What of RAM may become stacks, as a fraction: one in this many frames.
const SHARE: u64 = 8;
/// The most slots that are set aside for.
const MOST: u64 = 256;
/// The fewest, whatever the share is: the kernel's own threads, and a few.
const FEWEST: u64 = 8;
/// Slots whose pages one page table maps.
const SLOTS_PER_TABLE: u64 = 512 * PAGE / STACK_SLOT;

/// What is set aside and not in use yet.
static RESERVED: SpinMutex<Reserve> =
    SpinMutex::new(Reserve { stacks: FrameRange::EMPTY, tables: FrameRange::EMPTY });
/// Slots that are mapped: the first so many.
static MAPPED: AtomicUsize = AtomicUsize::new(0);
static SLOTS: Once<SpinMutex<Slots>> = Once::new();

/// Frames for stacks and their page tables.
#[derive(Debug)]
struct Reserve {
    stacks: FrameRange,
    tables: FrameRange,
}

/// Takes the first `count` frames out of a range, if it has as many.
fn take(from: &mut FrameRange, count: u64) -> Option<FrameRange> {
    let taken = FrameRange::counted(from.start(), Frames::new(count)).filter(|run| from.covers(*run))?;
    *from = FrameRange::new(taken.end(), from.end());
    Some(taken)
}

/// Gives frames for page tables out of what is set aside.
#[derive(Debug)]
struct Reserved;

// SAFETY: what is set aside was free RAM, in the direct map, and each frame is taken out once.
unsafe impl FrameSource for Reserved {
    fn frame(&mut self) -> Option<Gfn> {
        take(&mut RESERVED.lock().tables, 1).map(FrameRange::start)
    }
}

/// The mapped slots.
#[derive(Debug)]
struct Slots {
    space: AddressSpace<DirectTables<Reserved>>,
    /// A set bit is a mapped slot that nobody uses.
    free: [u64; STACK_SLOTS / 64],
}

/// Sets frames aside out of `free` for a machine with so many CPUs.
pub(crate) fn reserve(cpus: usize, free: &mut RamMap) {
    let share = free.frames().get() / SHARE / STACK_FRAMES;
    let mut slots = share.min(MOST).max(FEWEST + cpus as u64);
    // One more than the slots need if they began with a table.
    let tables = free.take(Frames::new(slots.div_ceil(SLOTS_PER_TABLE) + 1)).unwrap_or(FrameRange::EMPTY);
    let stacks = loop {
        if let Some(run) = free.take(Frames::new(slots * STACK_FRAMES)) {
            break run;
        }
        // RAM with holes may have no run that is long enough.
        slots /= 2;
        if slots == 0 {
            break FrameRange::EMPTY;
        }
    };
    without_interrupts(|| *RESERVED.lock() = Reserve { stacks, tables });
}

/// Prepares the window.
///
/// # Safety
///
/// `root` is the root of the address space in use, whose direct map covers all tables. Once.
pub(crate) unsafe fn prepare(root: Gfn) {
    SLOTS.call_once(|| {
        // SAFETY: our caller's promise; of the tables below the root, those of this window are changed here only,
        // under the lock.
        let tables = unsafe { DirectTables::new(Reserved) };
        SpinMutex::new(Slots { space: AddressSpace::from_root(root, tables), free: [0; STACK_SLOTS / 64] })
    });
    set_other_stacks(find);
}

impl Slots {
    /// A mapped slot that nobody uses.
    fn take_free(&mut self) -> Option<usize> {
        let (group, bits) = self.free.iter_mut().enumerate().find(|(_, bits)| **bits != 0)?;
        let bit = bits.trailing_zeros() as usize;
        *bits &= *bits - 1;
        Some(group * 64 + bit)
    }

    /// Maps one more slot.
    fn map_new(&mut self) -> Option<usize> {
        let slot = MAPPED.load(Ordering::Relaxed);
        if slot >= STACK_SLOTS {
            return None;
        }
        let frames = take(&mut RESERVED.lock().stacks, STACK_FRAMES)?;
        for (page, frame) in (0..).zip(frames.iter()) {
            let at = bottom(slot) + page * PAGE;
            // The first page of a slot is the only one that may want a page table, and frames are set aside for all.
            self.space.map(at, frame, Order::FRAME, Access::Write).ok()?;
        }
        MAPPED.store(slot + 1, Ordering::Release);
        Some(slot)
    }
}

/// The lowest mapped address of a slot.
fn bottom(slot: usize) -> u64 {
    STACKS + slot as u64 * STACK_SLOT + PAGE
}

/// A stack, if there is memory for one. Any context.
pub(super) fn allocate() -> Option<Stack> {
    let slots = SLOTS.get()?;
    let slot = without_interrupts(|| {
        let mut slots = slots.lock();
        slots.take_free().or_else(|| slots.map_new())
    })?;
    let bottom = NonNull::new(core::ptr::with_exposed_provenance_mut(bottom(slot) as usize))?;
    // SAFETY: the slot is mapped, writable, for good, and this call's alone; the page below is never mapped.
    Some(unsafe { Stack::new(bottom, (STACK_FRAMES * PAGE) as usize) })
}

/// Takes a stack back. Any context.
pub(super) fn free(stack: Stack) {
    let (bottom, _) = stack.into_raw();
    let slot = (bottom.addr().get() as u64 - STACKS) / STACK_SLOT;
    if let Some(slots) = SLOTS.get() {
        without_interrupts(|| slots.lock().free[slot as usize / 64] |= 1 << (slot % 64));
    }
}

/// The stack that has `address` in its guard page or in itself. Takes no lock.
fn find(address: u64) -> Option<NamedStack> {
    let slot = usize::try_from(address.checked_sub(STACKS)? / STACK_SLOT).ok()?;
    if slot >= MAPPED.load(Ordering::Acquire) {
        return None;
    }
    let start = bottom(slot);
    let (guard, usable) = (start - PAGE..start, start..start + STACK_FRAMES * PAGE);
    Some(NamedStack { name: "stack of a thread", cpu: None, guard, usable })
}
