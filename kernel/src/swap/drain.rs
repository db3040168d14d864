//! Emptying the tiers that forget over a suspend, of all that paged memory has there.
//!
//! No toolstack since Xen 4.6 saves what a domain has in the hypervisor's tmem, so it must be empty before the domain is
//! suspended, and before its pool is given up. Pages go on to later tiers as far as those take them, which needs less
//! memory than having them at home; the others come home.

use percpu::Platform;

use crate::mm::frame::LockKind;
use crate::mm::page::Page;
use crate::mm::paged::{Mmu, Paged, SwapEntry};
use crate::tmem::frontswap::{Frontswap, HeldOff};
use crate::tmem::tier::{Slot, SwapType};
use crate::units::Frames;

/// How often everything is gone through. A page that was on its way when its turn came is met in the next round.
const ROUNDS: u32 = 3;

/// Has everything leave the tiers of `frontswap` that forget, and keeps it so while the answer lives. Pages are passed on
/// through `bounce`, if there is one; they come home while `room` says that there is room for one more. For threads.
///
/// # Errors
///
/// How many pages are still there. Nothing is held back then.
pub fn drain<'f, 't, L: LockKind, M: Mmu, P: Platform>(
    paged: &Paged<L, M, P>,
    frontswap: &'f Frontswap<'t, P>,
    mut bounce: Option<Page<'_>>,
    mut room: impl FnMut() -> bool,
) -> Result<HeldOff<'f, 't, P>, u64> {
    let held_off = frontswap.hold_off();
    let is_there = |entry: SwapEntry| {
        let swap = SwapType::new(entry.kind());
        swap.is_some_and(|swap| frontswap.is_perishable(Slot { swap, offset: entry.slot() }))
    };
    let mut left = frontswap.perishable();
    for _ in 0..ROUNDS {
        if left == 0 {
            return Ok(held_off);
        }
        if let Some(bounce) = &mut bounce {
            frontswap.pass_on_perishable(bounce);
        }
        paged.bring_home_of(Frames::new(u64::MAX), &mut room, is_there);
        left = frontswap.perishable();
    }
    if left == 0 { Ok(held_off) } else { Err(left) }
}
