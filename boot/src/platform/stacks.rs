//! Stacks of threads: in a part of the address space of their own, each above a page that stays unmapped.
//!
//! A slot is mapped when it is first needed, and then serves one thread after another: its frames stay with it.
#![expect(unsafe_code, reason = "memory that becomes stacks")]

use crate::frames::KernelFrames;
use crate::stacks::{NamedStack, set_other_stacks};
use crate::{relief, space};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use ebb::arch::context::Stack;
use ebb::arch::layout::{STACK_SLOT, STACK_SLOTS, STACKS};
use ebb::arch::local as gs;
use ebb::mm::frame::{Contents, Request, Use};
use ebb::units::{FRAME_SIZE, FrameRange, Frames, VcpuId};
use spin::mutex::SpinMutex;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

const PAGE: u64 = FRAME_SIZE as u64;
/// Pages of a stack: all of a slot but the guard page.
const PAGES: u64 = STACK_SLOT / PAGE - 1;

/// Slots that are mapped: the first so many.
static MAPPED: AtomicUsize = AtomicUsize::new(0);
static FRAMES: Once<&'static KernelFrames> = Once::new();
static SLOTS: SpinMutex<Slots> = SpinMutex::new(Slots { free: [0; STACK_SLOTS / 64], pages: 0 });

struct Slots {
    /// A set bit is a mapped slot that nobody uses.
    free: [u64; STACK_SLOTS / 64],
    /// Pages of the first unmapped slot that are mapped: memory may run out on the way.
    pages: u64,
}

/// Takes stacks from `frames`, and lets the epitaph know them.
pub(super) fn prepare(frames: &'static KernelFrames) {
    FRAMES.call_once(|| frames);
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
        while self.pages < PAGES {
            map_page(bottom(slot) + self.pages * PAGE)?;
            self.pages += 1;
        }
        self.pages = 0;
        MAPPED.store(slot + 1, Ordering::Release);
        Some(slot)
    }
}

/// Puts a frame behind the page at `address`.
fn map_page(address: u64) -> Option<()> {
    let frames = FRAMES.get()?;
    let cpu = VcpuId::new(gs::cpu().get() as u32);
    let extent = relief::alloc(frames, Request::new(Use::Kernel, cpu), Frames::new(PAGES)).ok()?;
    if space::map(address, FrameRange::counted(extent.first(), Frames::new(1))?).is_err() {
        let given_back = frames.free(extent, Contents::Unknown, cpu);
        assert!(given_back.is_ok(), "the frame allocator refuses a frame of its own");
        return None;
    }
    // For good: the slot is used again and again.
    frames.detach(extent).ok().map(drop)
}

/// The lowest mapped address of a slot.
fn bottom(slot: usize) -> u64 {
    STACKS + slot as u64 * STACK_SLOT + PAGE
}

/// A stack, if there is memory for one. Any context.
pub(super) fn allocate() -> Option<Stack> {
    let take = || {
        without_interrupts(|| {
            let mut slots = SLOTS.lock();
            slots.take_free().or_else(|| slots.map_new())
        })
    };
    let mut tries = 0;
    let slot = loop {
        if let Some(slot) = take() {
            break slot;
        }
        tries += 1;
        if tries > relief::MOST_TRIES || !relief::wait(Frames::new(PAGES)) {
            return None;
        }
    };
    let bottom = NonNull::new(core::ptr::with_exposed_provenance_mut(bottom(slot) as usize))?;
    // SAFETY: the slot is mapped, writable, for good, and this call's alone; the page below is never mapped.
    Some(unsafe { Stack::new(bottom, (PAGES * PAGE) as usize) })
}

/// Takes a stack back. Any context.
pub(super) fn free(stack: Stack) {
    let (bottom, _) = stack.into_raw();
    let slot = (bottom.addr().get() as u64 - STACKS) / STACK_SLOT;
    without_interrupts(|| SLOTS.lock().free[slot as usize / 64] |= 1 << (slot % 64));
}

/// The stack that has `address` in its guard page or in itself. Takes no lock.
fn find(address: u64) -> Option<NamedStack> {
    let slot = usize::try_from(address.checked_sub(STACKS)? / STACK_SLOT).ok()?;
    if slot >= MAPPED.load(Ordering::Acquire) {
        return None;
    }
    let start = bottom(slot);
    let (guard, usable) = (start - PAGE..start, start..start + PAGES * PAGE);
    Some(NamedStack { name: "stack of a thread", cpu: None, guard, usable })
}
