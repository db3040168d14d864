//! Swap space: slots, frontswap and the tiers, as paged memory uses them.

use std::boxed::Box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use super::*;
use crate::mm::paged::{Lost, Refused, Swap, SwapEntry};
use crate::swap::pool::tests::damage::{Kind, flip};
use crate::swap::slots::Slots;
use crate::swap::space::SwapSpace;
use crate::swap::tiers::SameTier;
use crate::tmem::frontswap::Frontswap;
use crate::tmem::tier::Tier;

struct Rig {
    space: SwapSpace<'static, Host>,
    front: &'static Frontswap<'static, Host>,
    same: &'static SameTier,
    pool: &'static TestTier,
    frames: &'static HostFrames,
    _cpu: OnCpu,
}

fn rig(limit: u64, is_full: fn() -> bool) -> Rig {
    let (pool, frames, host, cpu) = pool_tier(limit);
    let same: &SameTier = Box::leak(Box::new(SameTier::new(swap(), SLOTS).unwrap()));
    let tiers: &'static [&'static dyn Tier] = Box::leak(Box::new([same as &dyn Tier, pool]));
    let front: &Frontswap<'_, Host> = Box::leak(Box::new(Frontswap::new(host, tiers)));
    front.init(swap(), SLOTS).unwrap();
    let space = SwapSpace::new(front, swap(), Slots::new(SLOTS).unwrap(), is_full);
    Rig { space, front, same, pool, frames, _cpu: cpu }
}

impl Rig {
    fn store(&self, near: u64, contents: &Contents) -> Result<SwapEntry, Refused> {
        self.space.store(near, &Page::with(contents))
    }

    fn load(&self, entry: SwapEntry) -> Result<Contents, Lost> {
        let mut page = filled(0xBAD);
        self.space.load(entry, &mut page).map(|()| page.to_bytes())
    }
}

fn no() -> bool {
    false
}

#[test]
fn pages_leave_and_come_back_each_by_its_tier() {
    let rig = rig(256, no);
    let entries: Vec<_> = (0..40)
        .map(|n| {
            let page = if n % 4 == 0 { filled(n).to_bytes() } else { contents(n) };
            (rig.store(n, &page).unwrap(), page)
        })
        .collect();
    assert!(entries.iter().enumerate().all(|(n, (entry, _))| entry.slot() == n as u64 && entry.kind() == 3));
    assert_eq!((rig.same.pages(), rig.pool.pool().stats().stored, rig.space.slots().used()), (10, 30, 40));
    for (entry, page) in &entries {
        assert_eq!(rig.load(*entry).as_ref(), Ok(page));
        rig.space.free(*entry);
        assert_eq!(rig.load(*entry), Err(Lost { holder: "frontswap", why: "no tier has it" }));
    }
    assert_eq!((rig.same.pages(), rig.frames.held(), rig.space.slots().used()), (0, 0, 0));
    assert_eq!(rig.front.curr_pages(), 0);
}

#[test]
fn without_a_slot_it_is_full_and_without_a_tier_the_slot_is_free_again() {
    let rig = rig(256, no);
    let entries: Vec<_> = (0..SLOTS).map(|n| rig.store(n, &filled(n).to_bytes()).unwrap()).collect();
    assert_eq!(rig.store(SLOTS, &filled(1).to_bytes()), Err(Refused::Full));
    assert_eq!(rig.front.counters().failed_stores, 0, "no tier was asked");
    rig.space.free(entries[9]);
    assert_eq!(rig.store(SLOTS, &noise()), Err(Refused::Unsuitable));
    assert_eq!(rig.space.slots().used(), SLOTS - 1);
    assert_eq!(rig.store(9, &contents(1)), Ok(entries[9]));
}

#[test]
fn whether_more_is_worth_trying_is_asked_when_a_page_is_refused() {
    static FULL: AtomicBool = AtomicBool::new(false);
    let rig = rig(0, || FULL.load(Ordering::Relaxed));
    assert_eq!(rig.store(0, &contents(1)), Err(Refused::Unsuitable));
    FULL.store(true, Ordering::Relaxed);
    assert_eq!(rig.store(0, &contents(1)), Err(Refused::Full));
    rig.store(0, &filled(1).to_bytes()).expect("this one needs no room");
    assert_eq!(rig.space.slots().used(), 1);
}

#[test]
fn a_corrupt_page_is_lost_by_name_and_the_others_are_not() {
    let rig = rig(256, no);
    let entries: Vec<_> = (0..3).map(|n| rig.store(n, &contents(n)).unwrap()).collect();
    let each = rig.pool.pool().stats().live_bytes as usize / 3;
    flip(rig.pool.pool(), Kind::Log, 0, each + 100, 4);
    let lost = Lost { holder: "compressed pool", why: "its copy is corrupt" };
    for _ in 0..2 {
        assert_eq!(rig.load(entries[1]), Err(lost));
    }
    assert_eq!([rig.load(entries[0]), rig.load(entries[2])], [Ok(contents(0)), Ok(contents(2))]);
    assert_eq!((rig.front.counters().lost, rig.pool.pool().stats().corrupt), (2, 2));
    entries.iter().for_each(|entry| rig.space.free(*entry));
    assert_eq!((rig.space.slots().used(), rig.frames.held(), rig.front.curr_pages()), (0, 0, 0));
}

#[test]
fn no_memory_while_compressing_is_a_refusal() {
    let rig = rig(256, no);
    let entry = rig.store(0, &contents(0)).unwrap();
    for left in [Some(0), None] {
        rig.frames.limit(left);
        // Fills the frame that is there.
        let stored: Vec<_> = (1..20).map_while(|n| rig.store(n, &contents(n)).ok()).collect();
        assert_eq!(stored.len() == 19, left.is_none(), "{} stored", stored.len());
        stored.into_iter().for_each(|entry| rig.space.free(entry));
        assert_eq!((rig.load(entry), rig.space.slots().used()), (Ok(contents(0)), 1));
    }
}

#[test]
#[should_panic(expected = "swap: a page of another type")]
fn an_entry_of_another_type_is_a_broken_invariant() {
    let _ = rig(256, no).load(SwapEntry::new(4, 0).unwrap());
}

#[test]
#[should_panic(expected = "slot 0x0 is freed, and not in use")]
fn a_page_that_is_freed_twice_is_a_broken_invariant() {
    let rig = rig(256, no);
    let entry = rig.store(0, &contents(0)).unwrap();
    rig.space.free(entry);
    rig.space.free(entry);
}
