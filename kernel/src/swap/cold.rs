//! Room in tiers that have too much: what no later tier takes of their coldest pages comes home, as far as memory has room.

use percpu::Platform;

use crate::mm::frame::LockKind;
use crate::mm::paged::{Mmu, Paged, SwapEntry};
use crate::tmem::frontswap::{Frontswap, Relief};
use crate::units::Frames;

/// Makes room in crowded tiers of `frontswap`, whose pages are those of `paged`: they go on to later tiers, or come home
/// while `room` says that there is room for one more. A bounded piece of work, of some tens of pages and, if some are to
/// come home, one walk over the tables of paged memory. For threads.
pub fn make_room<L: LockKind, M: Mmu, P: Platform>(
    paged: &Paged<L, M, P>,
    frontswap: &Frontswap<'_, P>,
    mut room: impl FnMut() -> bool,
) -> Relief {
    frontswap.relieve(|slots| {
        let is_one = |entry: SwapEntry| {
            slots.iter().any(|slot| slot.offset == entry.slot() && slot.swap.get() == entry.kind())
        };
        paged.bring_home_of(Frames::new(slots.len() as u64), &mut room, is_one).get()
    })
}
