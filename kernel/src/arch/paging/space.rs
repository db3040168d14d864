//! The kernel's address space, as built once at boot.
//!
//! The direct map shows all RAM, by blocks where it can; of the image's own frames it shows text and constants
//! read-only, so that no alias makes them writable. The image is mapped frame by frame, each segment with its own
//! access, the guard pages below the stacks left out. The window's table exists from the beginning, so that
//! mapping a single frame later needs no memory.

use super::{Access, AddressSpace, MapError, Tables};
use crate::arch::layout::{DIRECT_MAP, DIRECT_MAP_SIZE, KERNEL_BASE, WINDOW};
use crate::boot_info::FrameRange;
use crate::units::{FRAME_SHIFT, Gfn, Order};

/// A part of the image with one access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it was loaded.
    pub frames: FrameRange,
    /// What may be done with it.
    pub access: Access,
}

/// What the address space is made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// All RAM, sorted and disjoint. What lies beyond the direct map is left out.
    pub ram: &'p [FrameRange],
    /// The image, sorted and disjoint.
    pub image: &'p [Segment],
    /// Pages of the image that stay unmapped where the image was linked, by virtual address.
    pub guards: &'p [u64],
}

/// Builds the address space.
///
/// # Errors
///
/// If frames for tables run out, or two parts of the plan overlap.
pub fn build<T: Tables>(plan: &Plan<'_>, tables: T) -> Result<AddressSpace<T>, MapError> {
    let mut space = AddressSpace::new(tables)?;
    for range in plan.ram {
        map_ram(&mut space, plan, *range)?;
    }
    for segment in plan.image {
        for frame in segment.frames.start().get()..segment.frames.end().get() {
            let address = KERNEL_BASE + (frame << FRAME_SHIFT);
            if !plan.guards.contains(&address) {
                space.map(address, Gfn::new(frame), Order::FRAME, segment.access)?;
            }
        }
    }
    // Mapping and unmapping one page leaves the tables on the way to it.
    space.map(WINDOW, Gfn::new(0), Order::FRAME, Access::Read)?;
    let _was = space.unmap(WINDOW, Order::FRAME)?;
    Ok(space)
}

/// Maps `range` in the direct map: blocks where they are whole and hold nothing of the image.
fn map_ram<T: Tables>(
    space: &mut AddressSpace<T>,
    plan: &Plan<'_>,
    range: FrameRange,
) -> Result<(), MapError> {
    let end = range.end().min(Gfn::new(DIRECT_MAP_SIZE >> FRAME_SHIFT));
    let mut frame = range.start();
    while frame < end {
        let whole = frame.is_aligned(Order::BLOCK) && end - frame >= Order::BLOCK.frames();
        let block = FrameRange::new(frame, frame + Order::BLOCK.frames());
        let (size, access) = if whole && !plan.image.iter().any(|segment| overlap(segment.frames, block)) {
            (Order::BLOCK, Access::Write)
        } else {
            (Order::FRAME, direct_access(plan, frame))
        };
        space.map(DIRECT_MAP + frame.start().get(), frame, size, access)?;
        frame = frame + size.frames();
    }
    Ok(())
}

/// What the direct map allows with a frame: text and constants of the image are not for writing.
fn direct_access(plan: &Plan<'_>, frame: Gfn) -> Access {
    match plan.image.iter().find(|segment| segment.frames.contains(frame)) {
        Some(Segment { access: Access::Read | Access::Execute, .. }) => Access::Read,
        _ => Access::Write,
    }
}

fn overlap(one: FrameRange, other: FrameRange) -> bool {
    one.start().max(other.start()) < one.end().min(other.end())
}
