//! Memory for the stacks and the areas of all CPUs but the first.
#![expect(unsafe_code, reason = "memory that becomes stacks and areas")]

use super::local;
use super::topology::Topology;
use core::sync::atomic::{AtomicUsize, Ordering};
use ebb::arch::descriptors::EmergencyStack;
use ebb::arch::paging::{Access, AddressSpace, MapError, Tables};
use ebb::arch::slot::{EMERGENCY_STACKS, Part, Slot};
use ebb::boot_info::{FrameRange, RamMap};
use ebb::smp::CpuId;
use ebb::units::{FRAME_SHIFT, Frames, Gfn, Order};

const _: () = assert!(EMERGENCY_STACKS == EmergencyStack::COUNT);

/// CPUs whose slots are mapped, the first one counted, which has none.
static MAPPED: AtomicUsize = AtomicUsize::new(1);

/// Frames set aside for the CPUs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserved {
    slots: Option<FrameRange>,
    /// A page below 1 MiB, where CPUs begin that come out of reset.
    pub(crate) low: Option<Gfn>,
}

/// Sets frames aside, out of `free`: fewer if there are not enough, which is reported.
pub(crate) fn reserve(topology: &Topology, on_xen: bool, free: &mut RamMap) -> Reserved {
    let others = topology.wanted as u64 - 1;
    if others == 0 {
        return Reserved { slots: None, low: None };
    }
    // The lowest one; frame 0 is never free.
    let low = if on_xen {
        None
    } else {
        let below_1m = |frame: &Gfn| frame.start().get() < 1 << 20;
        free.take(Frames::new(1)).map(FrameRange::start).filter(below_1m)
    };
    let slots = free.take(Frames::new(others * Slot::FRAMES));
    if slots.is_none() {
        log::warn!("no RAM for {others} more CPUs");
    }
    Reserved { slots, low }
}

/// Maps the slots.
///
/// # Errors
///
/// If frames for page tables run out.
pub(crate) fn map<T: Tables>(space: &mut AddressSpace<T>, reserved: &Reserved) -> Result<(), MapError> {
    let Some(frames) = reserved.slots else { return Ok(()) };
    let numbers = frames.start().get()..frames.end().get();
    for (page, frame) in pages().zip(numbers) {
        space.map(page, Gfn::new(frame), Order::FRAME, Access::Write)?;
    }
    Ok(())
}

/// The pages of all slots, in order.
fn pages() -> impl Iterator<Item = u64> {
    CpuId::first(ebb::smp::MAX_CPUS).skip(1).flat_map(|cpu| Slot::of(cpu).pages())
}

/// Makes the areas, once the slots are in use, and answers how many CPUs have one, the first counted.
///
/// # Safety
///
/// The frames of `reserved` are mapped where [`map`] has mapped them, for good, and nobody else's. Once.
pub(crate) unsafe fn create(reserved: &Reserved) -> usize {
    let slots = reserved.slots.map_or(0, |frames| frames.count().get() / Slot::FRAMES);
    let cpus = 1 + slots as usize;
    for cpu in CpuId::first(cpus).skip(1) {
        // SAFETY: mapped for this, by our caller's promise, and each slot is one CPU's.
        unsafe { local::create(cpu, Slot::of(cpu).part(Part::Area).start) };
    }
    MAPPED.store(cpus, Ordering::Release);
    cpus
}

/// The slot and the part that have `address`, if that slot is mapped.
pub(crate) fn find(address: u64) -> Option<(Slot, Part)> {
    Slot::find(address).filter(|(slot, _)| (1..MAPPED.load(Ordering::Acquire)).contains(&slot.cpu().get()))
}

/// Where the emergency stacks of a CPU end.
pub(super) fn emergency_tops(cpu: CpuId) -> [u64; EmergencyStack::COUNT] {
    [0, 1, 2].map(|number| Slot::of(cpu).part(Part::Emergency(number)).end)
}

/// The page frame number of the page for CPUs that come out of reset, as the startup interrupt wants it.
pub(super) fn startup_page(low: Gfn) -> Option<u8> {
    u8::try_from(low.start().get() >> FRAME_SHIFT).ok()
}
