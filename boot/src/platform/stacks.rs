//! Stacks of threads: in a part of the address space of their own, each above a page that stays unmapped.
//!
//! A slot is mapped when it is first needed, and then serves one thread after another. When a crowd of threads has ended,
//! some slots stay mapped for the next; the frames of the others go back, as do those of all when memory is short.
//!
//! | a slot is | `MAPPED` | `free` | `leaving` |
//! |---|---|---|---|
//! | unmapped, or the first pages of it are mapped (`begun`) | | | |
//! | a thread's, or about to be | set | | |
//! | mapped for the next thread | set | set | |
//! | being unmapped: until no CPU knows its translations | | | set |
#![expect(unsafe_code, reason = "memory that becomes stacks")]

use crate::frames::KernelFrames;
use crate::stacks::{NamedStack, set_other_stacks};
use crate::{relief, space};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::context::Stack;
use ebb::arch::layout::{STACK_SLOT, STACK_SLOTS, STACKS};
use ebb::arch::local as gs;
use ebb::mm::frame::{Contents, Request, Use};
use ebb::units::{FRAME_SIZE, FrameRange, Frames, Gfn, Order, VcpuId};
use spin::mutex::SpinMutex;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

const PAGE: u64 = FRAME_SIZE as u64;
/// Pages of a stack: all of a slot but the guard page.
const PAGES: u64 = STACK_SLOT / PAGE - 1;
/// Free stacks that stay mapped, beside those that ended threads have kept.
pub(super) const MOST_FREE: usize = 32;
/// Where there were more, so many are left: the next thread that ends does not cause another flush.
const KEPT_FREE: usize = MOST_FREE / 2;
/// Stacks that are unmapped with one flush.
const BATCH: usize = 8;

const GROUPS: usize = STACK_SLOTS / 64;

/// Slots whose stack is there, a bit each.
static MAPPED: [AtomicU64; GROUPS] = [const { AtomicU64::new(0) }; GROUPS];
static FRAMES: Once<&'static KernelFrames> = Once::new();
static SLOTS: SpinMutex<Slots> =
    SpinMutex::new(Slots { free: [0; GROUPS], count: 0, leaving: [0; GROUPS], begun: 0, pages: 0 });

struct Slots {
    /// Mapped slots that nobody uses.
    free: [u64; GROUPS],
    /// How many these are.
    count: usize,
    /// Slots that are being unmapped.
    leaving: [u64; GROUPS],
    /// A slot of which the first `pages` pages are mapped: memory may run out on the way.
    begun: usize,
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
        self.count -= 1;
        Some(group * 64 + bit)
    }

    fn put_free(&mut self, slot: usize) {
        self.free[slot / 64] |= 1 << (slot % 64);
        self.count += 1;
    }

    /// Maps one more slot.
    fn map_new(&mut self) -> Option<usize> {
        if self.pages == 0 {
            let used = |group: usize| MAPPED[group].load(Ordering::Relaxed) | self.leaving[group];
            let group = (0..GROUPS).find(|group| used(*group) != u64::MAX)?;
            self.begun = group * 64 + used(group).trailing_ones() as usize;
        }
        let slot = self.begun;
        while self.pages < PAGES {
            map_page(bottom(slot) + self.pages * PAGE)?;
            self.pages += 1;
        }
        self.pages = 0;
        MAPPED[slot / 64].fetch_or(1 << (slot % 64), Ordering::Release);
        Some(slot)
    }

    /// A free slot to be unmapped, if there are more than `keep`: the last, so that the slots in use stay together.
    fn take_surplus(&mut self, keep: usize) -> Option<usize> {
        if self.count <= keep {
            return None;
        }
        let (group, bits) = self.free.iter_mut().enumerate().rfind(|(_, bits)| **bits != 0)?;
        let bit = 1 << bits.ilog2();
        *bits &= !bit;
        self.count -= 1;
        self.leaving[group] |= bit;
        MAPPED[group].fetch_and(!bit, Ordering::Release);
        Some(group * 64 + bit.ilog2() as usize)
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
    // Until the slot is unmapped.
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
    // SAFETY: the slot is mapped, writable, and this call's alone: only free slots are unmapped, and it is free again when
    // the stack has been taken apart, not before. The page below is never mapped.
    Some(unsafe { Stack::new(bottom, (PAGES * PAGE) as usize) })
}

/// Takes a stack back. In a thread that may block.
pub(super) fn free(stack: Stack) {
    let (bottom, _) = stack.into_raw();
    let slot = (bottom.addr().get() as u64 - STACKS) / STACK_SLOT;
    let count = without_interrupts(|| {
        let mut slots = SLOTS.lock();
        slots.put_free(slot as usize);
        slots.count
    });
    if count > MOST_FREE {
        trim(KEPT_FREE);
    }
}

/// Gives back the memory of free stacks, but for `keep` of them, and answers how much that was. In a thread that may
/// block: waits for the other CPUs.
pub(super) fn trim(keep: usize) -> Frames {
    let mut all = Frames::ZERO;
    loop {
        let given_back = give_back(keep);
        if given_back == Frames::ZERO {
            return all;
        }
        all += given_back;
    }
}

/// As [`trim`], with one flush.
fn give_back(keep: usize) -> Frames {
    let (mut batch, mut gone) = ([0; BATCH], [Gfn::new(0); BATCH * PAGES as usize]);
    let count = without_interrupts(|| {
        let mut slots = SLOTS.lock();
        let surplus = core::iter::from_fn(|| slots.take_surplus(keep));
        batch.iter_mut().zip(surplus).map(|(place, slot)| *place = slot).count()
    });
    let (batch, gone) = (&batch[..count], &mut gone[..count * PAGES as usize]);
    for (slot, gone) in batch.iter().zip(gone.chunks_mut(PAGES as usize)) {
        space::unmap(bottom(*slot), gone);
    }
    if !batch.is_empty() {
        space::settle();
    }
    for frame in gone.iter() {
        give_frame_back(*frame);
    }
    without_interrupts(|| {
        let mut slots = SLOTS.lock();
        batch.iter().for_each(|slot| slots.leaving[slot / 64] &= !(1 << (slot % 64)));
    });
    Frames::new(gone.len() as u64)
}

/// Gives a frame back that no stack needs any more.
fn give_frame_back(frame: Gfn) {
    let Some(frames) = FRAMES.get() else { unreachable!("stacks are mapped, and there are no frames") };
    let given_back = without_interrupts(|| {
        let cpu = VcpuId::new(gs::cpu().get() as u32);
        // SAFETY: `map_page` detached it, for a page of a free slot that has been unmapped and forgotten by all CPUs.
        let attached = unsafe { frames.attach(frame, Order::FRAME) };
        attached.map(|extent| frames.free(extent, Contents::Unknown, cpu))
    });
    assert!(matches!(given_back, Ok(Ok(()))), "the frame of a stack is not the stacks'");
}

/// Stacks that are mapped, and how many of them nobody uses.
pub(super) fn counts() -> (usize, usize) {
    without_interrupts(|| {
        let slots = SLOTS.lock();
        let mapped = MAPPED.iter().map(|bits| bits.load(Ordering::Relaxed).count_ones() as usize).sum();
        (mapped, slots.count)
    })
}

/// The stack that has `address` in its guard page or in itself. Takes no lock.
fn find(address: u64) -> Option<NamedStack> {
    let slot = usize::try_from(address.checked_sub(STACKS)? / STACK_SLOT).ok()?;
    if MAPPED.get(slot / 64)?.load(Ordering::Acquire) & 1 << (slot % 64) == 0 {
        return None;
    }
    let start = bottom(slot);
    let (guard, usable) = (start - PAGE..start, start..start + PAGES * PAGE);
    Some(NamedStack { name: "stack of a thread", cpu: None, guard, usable })
}
