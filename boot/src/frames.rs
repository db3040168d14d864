//! The frame allocator of this machine: who owns RAM once boot is over.
//!
//! Its books lie in RAM that nobody else gets, zeroed here: memory of a guest does not come zeroed. Everything that
//! boot took before (the image, page tables, the CPUs' slots, the first heap, these books) is reserved for good.
#![expect(unsafe_code, reason = "the books are made out of raw memory")]

use crate::{Cpus, cpus, platform};
use core::fmt;
use ebb::arch::layout::direct_map;
use ebb::arch::local as gs;
use ebb::boot_info::RamMap;
use ebb::mm::frame::{
    Block, Config, Entry, Exclusive, FrameAllocator, Layout, LocalGate, LockKind, Magazine, MapError,
    Metadata,
};
use ebb::smp::{CpuId, Message};
use ebb::units::{FRAME_SIZE, Frames, VcpuId};
use spin::mutex::SpinMutex;
use spin::once::Once;
use spin::relax::RelaxStrategy;
use x86_64::instructions::interrupts::without_interrupts;

/// The allocator's locks: interrupts stay off while one is held, so that handlers may allocate. A magazine is its
/// CPU's; others are asked for theirs by an interrupt.
#[derive(Debug)]
pub enum KernelLocks {}

/// How long another CPU may take to answer. A host may leave one waiting for seconds.
const ANSWER_BOUND_NS: u64 = 20_000_000_000;

impl LockKind for KernelLocks {
    type Of<T: Send> = InterruptsOff<T>;
    type Gate = LocalGate;

    #[inline(always)]
    fn pinned<R>(_hint: usize, work: impl FnOnce(usize) -> R) -> R {
        // As `Pin` does it, but the CPU is not looked up again in the end.
        gs::preempt_disable();
        let cpu = gs::cpu();
        // A handler that comes now is on the same CPU, and leaves the magazine as it found it, or parked.
        let result = work(cpu.get());
        // SAFETY: once, for what was turned off above.
        if unsafe { gs::preempt_enable() } {
            platform::preemption_is_on(cpu);
        }
        result
    }

    fn ring(cpu: usize) {
        // Not this one: it is inside its magazine, below an interrupt, and looks when it leaves.
        if let Some(cpu) = CpuId::new(cpu).filter(|cpu| *cpu != gs::cpu()) {
            cpus::post(cpu, Message::Frames);
        }
    }

    fn wait(done: &mut dyn FnMut() -> bool) -> bool {
        // Another CPU answers when it has interrupts on and is not inside its magazine: neither waits for a thread.
        if platform::may_block() { Cpus(()).wait_until(ANSWER_BOUND_NS, done) } else { done() }
    }
}

/// Any number: the allocator looks up the CPU.
const ANY_CPU: VcpuId = VcpuId::new(0);

/// Does what others ask of this CPU's magazine. In the interrupt that tells it to.
pub(crate) fn answer() {
    if let Some(frames) = FRAMES.get() {
        frames.answer(ANY_CPU);
    }
}

/// Leaves this CPU's magazine to the others, until it needs it again. Any context.
pub(crate) fn park() {
    if let Some(frames) = FRAMES.get() {
        frames.park(ANY_CPU);
    }
}

/// A spin lock that is held with interrupts off. Whoever finds it free takes it: see [`percpu::lock`].
#[derive(Debug)]
pub struct InterruptsOff<T>(SpinMutex<T, Waiting>);

/// Waits for a CPU that the hypervisor may have put aside.
#[derive(Debug)]
pub enum Waiting {}

impl RelaxStrategy for Waiting {
    fn relax() {
        cpus::relax();
    }
}

impl<T> Exclusive<T> for InterruptsOff<T> {
    fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        without_interrupts(|| work(&mut self.0.lock()))
    }
}

/// The allocator, as this machine has it.
pub type KernelFrames = FrameAllocator<'static, KernelLocks>;

static FRAMES: Once<KernelFrames> = Once::new();

/// Why there is no allocator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FramesError {
    /// The map makes no sense to the allocator.
    Map(MapError),
    /// There is not enough RAM in one piece for its books.
    Books(Frames),
    /// RAM has too many holes.
    Ranges,
}

impl fmt::Display for FramesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "{error}"),
            Self::Books(size) => write!(f, "no {} in one piece for the books on frames", size.to_kib()),
            Self::Ranges => f.write_str("RAM has too many holes"),
        }
    }
}

/// A piece of RAM to be cut into slices.
struct Books {
    next: u64,
    end: u64,
}

impl Books {
    /// A slice of `count` values made by `make`.
    ///
    /// # Safety
    ///
    /// The rest of the piece is mapped, writable, nobody's, and never given back.
    unsafe fn slice<T>(&mut self, count: usize, make: impl Fn() -> T) -> Option<&'static mut [T]> {
        let start = self.next.next_multiple_of(align_of::<T>() as u64);
        let end = start.checked_add((count * size_of::<T>()) as u64).filter(|end| *end <= self.end)?;
        self.next = end;
        let first = core::ptr::with_exposed_provenance_mut::<T>(start as usize);
        for index in 0..count {
            // SAFETY: aligned, and inside the piece, which is ours by the caller's promise.
            unsafe { first.wrapping_add(index).write(make()) };
        }
        // SAFETY: all of it was just written, and nobody else has it.
        Some(unsafe { core::slice::from_raw_parts_mut(first, count) })
    }
}

type Own = Magazine<LocalGate>;

/// Makes the allocator of `ram`, of which `free` is free, and takes its books out of `free`.
///
/// # Safety
///
/// What is free is nobody's, and the direct map shows it for good. Called once.
pub(crate) unsafe fn start(
    ram: &RamMap,
    free: &mut RamMap,
    cpus: usize,
) -> Result<&'static KernelFrames, FramesError> {
    let layout = Layout::for_map(ram.ranges()).map_err(FramesError::Map)?;
    let magazines = cpus.max(1) * size_of::<Own>();
    let bytes = layout.bytes() + magazines + align_of::<Own>() + align_of::<Block>();
    let size = Frames::new(bytes.div_ceil(FRAME_SIZE) as u64);
    let books = free.take(size).ok_or(FramesError::Books(size))?;
    let mut taken = ram.clone();
    for range in free.ranges() {
        taken.remove(*range).map_err(|_| FramesError::Ranges)?;
    }
    let start = direct_map(books.start().start()).ok_or(FramesError::Books(size))?;
    let mut books = Books { next: start, end: start + size.get() * FRAME_SIZE as u64 };
    let full = FramesError::Books(size);
    // SAFETY: just taken out of what is free, in the direct map, and kept for ever.
    let magazines = unsafe { books.slice(cpus.max(1), Own::new) }.ok_or(full)?;
    // SAFETY: as above.
    let blocks = unsafe { books.slice(layout.blocks(), Block::new) }.ok_or(full)?;
    // SAFETY: as above.
    let entries = unsafe { books.slice(layout.entries(), Entry::unused) }.ok_or(full)?;
    let config = Config { memory: ram.ranges(), reserved: taken.ranges(), id: 1 };
    let metadata = Metadata { entries, blocks, magazines };
    let frames = KernelFrames::new(config, metadata).map_err(FramesError::Map)?;
    Ok(FRAMES.call_once(|| frames))
}
