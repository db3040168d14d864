//! A check of the shootdown, run in the guest by the test image: it needs mappings that change under everyone's eyes.
#![expect(unsafe_code, reason = "reads through mappings that change")]

use super::Cpus;
use crate::Machine;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::layout::direct_map;
use ebb::arch::local as gs;
use ebb::smp::MAX_CPUS;
use ebb::units::{Gfn, Order};

/// The page that everybody looks at.
static PAGE: AtomicU64 = AtomicU64::new(0);
/// What each found there.
static SEEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The marks of the two frames that take turns behind the page.
const MARKS: [u64; 2] = [0xAAAA, 0xBBBB];

fn look(_: usize) {
    let page = core::ptr::with_exposed_provenance::<u64>(PAGE.load(Ordering::Acquire) as usize);
    // SAFETY: mapped while anybody looks, or faults. The frame behind it is one of ours.
    let seen = unsafe { page.read_volatile() };
    SEEN[gs::cpu().get()].store(seen, Ordering::Relaxed);
}

/// One page shows two frames in turn. All CPUs have touched the one when the other comes.
pub(crate) fn an_unmapped_page_is_forgotten_everywhere(
    machine: &'static Machine,
) -> Result<(), &'static str> {
    let cpus = machine.cpus();
    let order = Order::new(1).ok_or("no such order")?;
    let extent = crate::check::extent(machine, order)?;
    let first = extent.first();
    let frames = [first, Gfn::new(first.get() + 1)];
    for (frame, mark) in frames.into_iter().zip(MARKS) {
        let at = direct_map(frame.start()).ok_or("RAM beyond the direct map")?;
        // SAFETY: a free frame, in the direct map.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>(at as usize).write_volatile(mark) };
    }
    let mut place = None;
    for round in 0..40 {
        let (frame, mark) = (frames[round % 2], MARKS[round % 2]);
        let page = machine.map_special(frame).map_err(|_| "the window is full")?;
        let moved = place.replace(page).is_some_and(|before| before != page);
        PAGE.store(page.addr().get() as u64, Ordering::Release);
        // In an interrupt and outside of one; those that have nothing to do halt in between.
        let everywhere = if round % 4 < 2 { Cpus::call_all } else { Cpus::run_on_all };
        everywhere(cpus, look, 0).map_err(|_| "a CPU does not answer")?;
        let stale = cpus.online().iter().any(|cpu| SEEN[cpu.get()].load(Ordering::Relaxed) != mark);
        // SAFETY: nobody looks now.
        let was = unsafe { machine.unmap_special(page) };
        if stale {
            return Err("a CPU sees the frame that was there before");
        }
        if moved {
            return Err("the page has moved, so that nothing is learnt");
        }
        if was != Some(frame) {
            return Err("the window forgot the frame");
        }
    }
    crate::check::give_back(machine, extent)
}
