//! The hypervisor's tmem as a tier: one persistent pool for all swap types.

use percpu::Platform;

use super::super::answer::{Get, Put, Refused};
use super::super::pool::Pool;
use super::super::tier::{Load, Loss, Refusal, Slot, Store, SwapType, Tier};
use crate::mm::page::Page;
use crate::port::{PageKey, TmemOps};
use xen_abi::Errno;

/// log2 of the objects that a swap type is spread over, so that as many stores can run at once.
const SPREAD_BITS: u32 = 4;
/// The part of an offset that names the object.
const SPREAD_MASK: u64 = (1 << SPREAD_BITS) - 1;

/// How often a load is tried, while the hypervisor would not write to the frame: between the guest's write to it and the
/// load, the toolstack may have collected what was written (see [`Page::copy_in`]).
const LOADS: u32 = 4;

/// A persistent private pool as a tier. While the pool is closed it refuses, and what it had is lost.
#[derive(Debug)]
pub struct Hypervisor<'p, P: Platform, T> {
    pool: &'p Pool<P, T>,
}

impl<'p, P: Platform, T> Hypervisor<'p, P, T> {
    /// The tier of a pool, which whoever made it opens as [`PoolKind::Persistent`](crate::port::PoolKind::Persistent).
    pub const fn new(pool: &'p Pool<P, T>) -> Self {
        Self { pool }
    }
}

/// The object of an offset: (type << 4) | (offset & 15).
const fn object(swap: SwapType, part: u64) -> [u64; 3] {
    [(swap.get() as u64) << SPREAD_BITS | part, 0, 0]
}

/// The name of a slot, as the shim of Linux gave it; `None` for an offset beyond 32 bits.
fn key(slot: Slot) -> Option<PageKey> {
    let offset = u32::try_from(slot.offset).ok()?;
    let object = object(slot.swap, u64::from(offset) & SPREAD_MASK);
    Some(PageKey { object, index: offset >> SPREAD_BITS })
}

fn refusal(why: Refused) -> Refusal {
    match why {
        Refused::NoRoom | Refused::LostOld => Refusal::Full,
        Refused::Frozen | Refused::BadFrame | Refused::NoPool | Refused::Closed => Refusal::Unavailable,
        Refused::Other(error) => Refusal::Broken(error),
    }
}

fn loss(why: Refused) -> Loss {
    match why {
        Refused::NoPool | Refused::Closed => Loss::TierGone,
        Refused::BadFrame => Loss::BadFrame,
        Refused::NoRoom => Loss::Broken(Errno::ENOMEM),
        Refused::LostOld => Loss::Broken(Errno::ENOSPC),
        Refused::Frozen => Loss::Broken(xen_abi::tmem::EFROZEN),
        Refused::Other(error) => Loss::Broken(error),
    }
}

impl<P: Platform, T: TmemOps + Sync> Tier for Hypervisor<'_, P, T> {
    fn name(&self) -> &'static str {
        "tmem"
    }

    fn store(&self, slot: Slot, page: &Page<'_>) -> Store {
        let Some(key) = key(slot) else { return Store::Refused(Refusal::NoName) };
        match self.pool.put(key, page) {
            Put::Stored => Store::Stored,
            Put::Refused(why) => Store::Refused(refusal(why)),
            Put::Doubtful { flush, .. } => Store::Doubtful(flush),
        }
    }

    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load {
        let Some(key) = key(slot) else { return Load::Failed(Loss::Missing) };
        let mut got = self.pool.get(key, page);
        for _ in 1..LOADS {
            if got != Get::Refused(Refused::BadFrame) {
                break;
            }
            got = self.pool.get(key, page);
        }
        match got {
            Get::Hit => Load::Loaded,
            Get::Miss | Get::Empty => Load::Failed(Loss::Missing),
            Get::Refused(why) => Load::Failed(loss(why)),
        }
    }

    fn invalidate(&self, slot: Slot) -> Result<(), Errno> {
        key(slot).map_or(Ok(()), |key| self.pool.flush_page(key).done())
    }

    fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno> {
        // All of them, whatever becomes of each.
        let mut outcome = Ok(());
        for part in (0..=SPREAD_MASK).rev() {
            outcome = outcome.and(self.pool.flush_object(object(swap, part)).done());
        }
        outcome
    }

    fn survives_suspend(&self) -> bool {
        // No toolstack since Xen 4.6 saves tmem.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s128_the_key_layout_is_linuxs() {
        let slot = |offset| Slot { swap: SwapType::new(1).expect("a type"), offset };
        assert_eq!(key(slot(0x25)), Some(PageKey { object: [0x15, 0, 0], index: 2 }));
        assert_eq!(key(slot(0xFFFF_FFFF)), Some(PageKey { object: [0x1F, 0, 0], index: 0x0FFF_FFFF }));
        assert_eq!(key(slot(1 << 32)), None);
    }
}
