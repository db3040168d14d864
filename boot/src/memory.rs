//! From the bootstrap page tables to the final ones.
#![expect(unsafe_code, reason = "physical memory before there is anybody to ask for it")]

use crate::cpus::slots::{self, Reserved};
use crate::cpus::topology::Topology;
use crate::entry::BOOTSTRAP_MAPPED;
use crate::frames::{self, FramesError, KernelFrames};
use crate::{heap, image, space as kernel_space, stacks};
use core::fmt;
use ebb::arch::interrupts::HandlerError;
use ebb::arch::layout::{DIRECT_MAP_SIZE, direct_map};
use ebb::arch::paging::space::{self, Plan};
use ebb::arch::paging::{AddressSpace, MapError};
use ebb::arch::tables::{self, DirectTables, FrameSource};
use ebb::boot_info::{BootInfo, PhysRead, RamMap, TooManyRanges, Unreadable};
use ebb::units::{FRAME_SHIFT, FrameRange, Frames, Gfn, PhysAddr};

/// Physical memory through the bootstrap page tables.
pub(crate) struct Bootstrap(());

impl Bootstrap {
    /// A way to read physical memory.
    ///
    /// # Safety
    ///
    /// The bootstrap page tables are in use until the value is dropped.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl PhysRead for Bootstrap {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let end = at.checked_add(into.len() as u64).ok_or(Unreadable)?;
        let start = direct_map(at).filter(|_| end.get() <= BOOTSTRAP_MAPPED).ok_or(Unreadable)?;
        let start = core::ptr::with_exposed_provenance::<u8>(start as usize);
        for (offset, byte) in into.iter_mut().enumerate() {
            // SAFETY: mapped (constructor, and the bound above). Volatile, because nobody vouches that it is
            // memory: a wild pointer may lead to a hole, which reads as ones.
            *byte = unsafe { start.wrapping_add(offset).read_volatile() };
        }
        Ok(())
    }
}

/// Frames for the page tables, from the lowest free RAM, which the bootstrap page tables map.
struct LowFrames(RamMap);

// SAFETY: takes each frame out of a map of free RAM, and only where the bootstrap page tables reach.
unsafe impl FrameSource for LowFrames {
    fn frame(&mut self) -> Option<Gfn> {
        let frame = self.0.take(Frames::new(1))?.start();
        (frame < Gfn::new(BOOTSTRAP_MAPPED >> FRAME_SHIFT)).then_some(frame)
    }
}

/// Why there is no address space.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MemoryError {
    /// Too many holes in RAM.
    Ranges(TooManyRanges),
    /// The page tables could not be built.
    Tables(MapError),
    /// Not enough RAM in one piece for the heap.
    Heap,
    /// The frame allocator could not be made.
    Frames(FramesError),
    /// Page faults have too many handlers.
    Handlers(HandlerError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranges(_) => f.write_str("RAM has too many holes"),
            Self::Tables(error) => write!(f, "page tables: {error}"),
            Self::Frames(error) => write!(f, "frames: {error}"),
            Self::Heap => f.write_str("not enough RAM for the heap"),
            Self::Handlers(error) => write!(f, "page faults have too many handlers: {error:?}"),
        }
    }
}

/// What [`set_up`] leaves.
pub(crate) struct Memory {
    /// The root of the final page tables.
    pub(crate) root: Gfn,
    /// Who has the rest of RAM.
    pub(crate) frames: &'static KernelFrames,
    /// What is set aside for the CPUs; their slots are mapped.
    pub(crate) cpus: Reserved,
}

/// Builds the final page tables, switches to them, and makes the heap.
///
/// # Safety
///
/// Called once, on the bootstrap page tables, when nobody else runs; everything of the loader that is still
/// needed has been copied.
pub(crate) unsafe fn set_up(
    info: &BootInfo,
    topology: &Topology,
    on_xen: bool,
) -> Result<Memory, MemoryError> {
    let mut free = info.usable(image::frames()).map_err(MemoryError::Ranges)?;
    // What the direct map cannot show, whatever the loader says of it, is nobody's.
    let unseen = FrameRange::new(Gfn::new(DIRECT_MAP_SIZE >> FRAME_SHIFT), info.ram().end());
    free.remove(unseen).map_err(MemoryError::Ranges)?;
    let cpus = slots::reserve(topology, on_xen, &mut free);
    // SAFETY: the bootstrap page tables show all frames below their bound, writable, and nobody else runs.
    let tables = unsafe { DirectTables::new(LowFrames(free)) };
    let plan = Plan { ram: info.ram().ranges(), image: &image::segments(), guards: &stacks::guards() };
    let mut space = space::build(&plan, tables).map_err(MemoryError::Tables)?;
    slots::map(&mut space, &cpus).map_err(MemoryError::Tables)?;
    // SAFETY: the image is mapped where it was linked, with the accesses of its segments; this stack is part of
    // it, and so are the descriptor tables.
    unsafe { tables::activate(&space) };
    let (root, LowFrames(mut free)) = split(space);
    // SAFETY: the direct map shows all RAM now; what is free is free; and this is the only call.
    unsafe { heap::start(&mut free) }.ok_or(MemoryError::Heap)?;
    // SAFETY: as above.
    let frames = unsafe { frames::start(info.ram(), &mut free, topology.wanted) };
    let frames = frames.map_err(MemoryError::Frames)?;
    // SAFETY: just activated, and the direct map shows it.
    unsafe { kernel_space::start(root, frames) }.map_err(MemoryError::Handlers)?;
    heap::grow_from(frames, info.ram().frames());
    Ok(Memory { root, frames, cpus })
}

/// Takes an address space apart into its root and its source of frames.
fn split(space: AddressSpace<DirectTables<LowFrames>>) -> (Gfn, LowFrames) {
    (space.root(), space.into_tables().into_source())
}
