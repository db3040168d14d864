//! Several tiers: their order, passing pages on, draining before a suspend.

use crate::rig::{Rig, boot_cpu, fill, key, pattern, persistent, slot, swap};
use ebb::mm::page::Page;
use ebb::tmem::frontswap::{Frontswap, Hypervisor, Loaded, Lost, Stored};
use ebb::tmem::tier::{Load, Loss, Refusal, Slot, Store, SwapType, Tier};
use ebb::tmem::{Get, Put};
use percpu::host::Host;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use xen_abi::Errno;

/// A tier that keeps patterns, up to a limit.
struct Shelf {
    name: &'static str,
    limit: usize,
    pages: Mutex<HashMap<Slot, u64>>,
    corrupt: AtomicBool,
    stuck: AtomicBool,
}

impl Shelf {
    fn new(name: &'static str, limit: usize) -> Self {
        let off = || AtomicBool::new(false);
        Self { name, limit, pages: Mutex::default(), corrupt: off(), stuck: off() }
    }

    fn pages(&self) -> usize {
        self.pages.lock().expect("no panic").len()
    }
}

impl Tier for Shelf {
    fn name(&self) -> &'static str {
        self.name
    }
    fn store(&self, slot: Slot, page: &Page<'_>) -> Store {
        let mut pages = self.pages.lock().expect("no panic");
        pages.remove(&slot);
        if pages.len() >= self.limit {
            return Store::Refused(Refusal::Full);
        }
        let Some(value) = pattern(page) else { return Store::Refused(Refusal::Unsuitable) };
        pages.insert(slot, value);
        Store::Stored
    }
    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load {
        if self.corrupt.load(Ordering::Relaxed) {
            return Load::Failed(Loss::Corrupt);
        }
        let Some(value) = self.pages.lock().expect("no panic").get(&slot).copied() else {
            return Load::Failed(Loss::Missing);
        };
        fill(page, value);
        Load::Loaded
    }
    fn invalidate(&self, slot: Slot) -> Result<(), Errno> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(Errno::EBUSY);
        }
        self.pages.lock().expect("no panic").remove(&slot);
        Ok(())
    }
    fn invalidate_area(&self, swap: SwapType) -> Result<(), Errno> {
        self.pages.lock().expect("no panic").retain(|slot, _| slot.swap != swap);
        Ok(())
    }
}

fn store(rig: &Rig, front: &Frontswap<'_, Host>, offset: u64) -> Stored {
    let mut page = rig.page(10);
    fill(&mut page, offset);
    front.store(slot(offset), &page)
}

fn loads(rig: &Rig, front: &Frontswap<'_, Host>, offset: u64) {
    let mut page = rig.page(11);
    assert_eq!((front.load(slot(offset), &mut page), pattern(&page)), (Ok(Loaded::Copy), Some(offset)));
}

#[test]
fn without_tiers_nothing_is_stored_and_nothing_counted() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let front = Frontswap::new(rig.host, &[]);
    front.init(swap(1), 8).expect("a swap type");
    assert_eq!(store(&rig, &front, 1), Stored::No);
    assert_eq!(front.load(slot(1), &mut rig.page(11)), Ok(Loaded::NotHere));
    assert_eq!(front.counters(), ebb::tmem::frontswap::Counters::default());
}

#[test]
fn tiers_are_tried_in_order_and_a_load_asks_the_one_that_has_the_page() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (small, large) = (Shelf::new("small", 3), Shelf::new("large", 5));
    let tiers: [&dyn Tier; 2] = [&small, &large];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), 100).expect("a swap type");
    let stored: Vec<_> = (0..10).map(|offset| store(&rig, &front, offset)).collect();
    assert_eq!(stored, [[Stored::Done; 8].as_slice(), &[Stored::No; 2]].concat());
    assert_eq!((small.pages(), large.pages(), front.curr_pages()), (3, 5, 8));
    (0..8).for_each(|offset| loads(&rig, &front, offset));
    let mut odd = rig.page(12);
    odd.fill(5);
    assert_eq!(front.store(slot(0), &odd), Stored::No, "unsuitable for both");
    assert_eq!((small.pages(), front.curr_pages()), (2, 7), "and the old page is gone");
    // A corrupt tier loses its own pages, and no others.
    small.corrupt.store(true, Ordering::Relaxed);
    let lost = Lost { slot: slot(1), tier: Some("small"), why: Loss::Corrupt };
    assert_eq!(front.load(slot(1), &mut rig.page(11)), Err(lost));
    loads(&rig, &front, 5);
}

#[test]
fn pages_are_passed_on() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (first, second) = (Shelf::new("first", 4), Shelf::new("second", 2));
    let tiers: [&dyn Tier; 2] = [&first, &second];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), 100).expect("a swap type");
    for offset in 0..4 {
        assert_eq!(store(&rig, &front, offset), Stored::Done);
    }
    let mut bounce = rig.page(13);
    for (offset, went) in [(0, true), (1, true), (2, false), (0, false), (50, false)] {
        assert_eq!(front.demote(slot(offset), &mut bounce), Ok(went), "slot {offset}");
    }
    assert_eq!((first.pages(), second.pages(), front.curr_pages()), (2, 2, 4));
    (0..4).for_each(|offset| loads(&rig, &front, offset));
    first.corrupt.store(true, Ordering::Relaxed);
    assert!(front.demote(slot(3), &mut bounce).is_err());
    // What cannot be removed where it came from is never loaded from there again.
    first.corrupt.store(false, Ordering::Relaxed);
    front.invalidate_page(slot(0));
    first.stuck.store(true, Ordering::Relaxed);
    assert_eq!(front.demote(slot(3), &mut bounce), Ok(true));
    first.corrupt.store(true, Ordering::Relaxed);
    loads(&rig, &front, 3);
    // What it keeps is known, until it is gone.
    let census = front.validate().expect("the books balance");
    assert_eq!((census.pages, census.doubtful, census.in_tier[0], census.in_tier[1]), (3, 1, 1, 2));
    assert_eq!((front.settle(), first.pages()), (1, 2));
    first.stuck.store(false, Ordering::Relaxed);
    assert_eq!((front.settle(), first.pages()), (0, 1));
    assert_eq!(front.validate().map(|census| census.doubtful), Ok(0));
    loads(&rig, &front, 3);
}

#[test]
fn a_page_that_went_on_and_left_a_copy_goes_with_it() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (first, second) = (Shelf::new("first", 4), Shelf::new("second", 4));
    let tiers: [&dyn Tier; 2] = [&first, &second];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), 8).expect("a swap type");
    assert_eq!(store(&rig, &front, 1), Stored::Done);
    first.stuck.store(true, Ordering::Relaxed);
    assert_eq!(front.demote(slot(1), &mut rig.page(13)), Ok(true));
    front.invalidate_page(slot(1));
    assert_eq!((first.pages(), second.pages(), front.curr_pages()), (1, 0, 0), "the copy is in doubt");
    first.stuck.store(false, Ordering::Relaxed);
    assert_eq!(store(&rig, &front, 1), Stored::Done);
    assert_eq!((first.pages(), front.validate().map(|census| census.doubtful)), (1, Ok(0)));
    front.invalidate_page(slot(1));
    assert_eq!((first.pages(), second.pages()), (0, 0));
}

#[test]
fn tiers_are_counted_and_what_a_suspend_would_lose_is_passed_on() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = persistent(&pool);
    let (hypervisor, shelf) = (Hypervisor::new(&pool), Shelf::new("shelf", 6));
    let tiers: [&dyn Tier; 2] = [&hypervisor, &shelf];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), 100).expect("a swap type");
    for offset in 0..10 {
        assert_eq!(store(&rig, &front, offset), Stored::Done);
    }
    assert_eq!([0, 1, 2].map(|tier| front.pages_in(tier)), [10, 0, 0]);
    assert!(front.is_perishable(slot(3)) && !front.is_perishable(slot(50)));
    let mut bounce = rig.page(13);
    let held_off = front.hold_off();
    assert_eq!((front.pass_on_perishable(&mut bounce), front.perishable()), (6, 4), "as many as fit");
    assert_eq!([0, 1].map(|tier| front.pages_in(tier)), [4, 6]);
    assert_eq!(rig.model.tmem_persistent_pages(), 4);
    assert_eq!(store(&rig, &front, 20), Stored::No, "the shelf is full, and tmem is not asked");
    drop(held_off);
    assert_eq!(store(&rig, &front, 20), Stored::Done);
    (0..10).for_each(|offset| loads(&rig, &front, offset));
    let census = front.validate().expect("the books balance");
    assert_eq!((census.pages, census.in_tier[0], census.in_tier[1]), (11, 5, 6));
    assert_eq!(front.invalidate_area(swap(1)), Ok(()));
    assert_eq!([0, 1].map(|tier| front.pages_in(tier)), [0, 0]);
    open.close().expect("an empty pool");
}

#[test]
fn draining_empties_what_a_suspend_would_lose() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let pool = rig.pool();
    let open = persistent(&pool);
    let (hypervisor, shelf) = (Hypervisor::new(&pool), Shelf::new("shelf", 100));
    let tiers: [&dyn Tier; 2] = [&hypervisor, &shelf];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), 100).expect("a swap type");
    rig.set_headroom(20);
    for offset in 0..30 {
        assert_eq!(store(&rig, &front, offset), Stored::Done);
    }
    let in_tmem = rig.model.tmem_pages();
    assert!((1..20).contains(&in_tmem) && shelf.pages() as u64 == 30 - in_tmem);

    let home = |at: Slot| {
        let mut page = rig.page(11);
        assert_eq!((front.load(at, &mut page), pattern(&page)), (Ok(Loaded::Copy), Some(at.offset)));
        front.invalidate_page(at);
        true
    };
    let refuses = |at: Slot| at.offset != 0 && home(at);
    assert_eq!(front.drain(&refuses).err(), Some(1), "one would not come home");
    let drained = front.drain(&home).expect("all come home");
    assert_eq!((rig.model.tmem_pages(), front.curr_pages()), (0, 30 - in_tmem), "the shelf stays");
    assert_eq!(store(&rig, &front, 50), Stored::Done);
    assert_eq!(rig.model.tmem_pages(), 0, "while it is drained, nothing new goes there");
    rig.model.tmem_restart(); // as after a resume elsewhere
    drop(drained);
    open.close().expect("the pool is gone already");
    let _open = persistent(&pool);
    assert_eq!(store(&rig, &front, 51), Stored::Done);
    assert_eq!(rig.model.tmem_pages(), 1);
}

#[test]
fn a_live_migration_that_comes_to_nothing_loses_no_page() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let open = persistent(&pool);
    let (tmem, later) = (Hypervisor::new(&pool), Shelf::new("later", 9));
    let tiers: [&dyn Tier; 2] = [&tmem, &later];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), 100).expect("a swap type");
    let cold = {
        let mut page = rig.page(20);
        fill(&mut page, 3);
        page
    };
    for offset in 0..3 {
        assert_eq!(store(&rig, &front, offset), Stored::Done);
    }
    assert_eq!((front.pages_in(0), later.pages()), (3, 0));
    rig.model.tmem_log_dirty(true);
    // Into frames that nobody has written to lately, whatever they hold.
    for offset in 0..3 {
        rig.model.tmem_log_dirty(true);
        loads(&rig, &front, offset);
    }
    // A page that was not written to is refused there, goes elsewhere, and leaves nothing behind.
    rig.model.tmem_log_dirty(true);
    assert_eq!(front.store(slot(3), &cold), Stored::Done);
    assert_eq!((front.pages_in(0), later.pages()), (3, 1));
    assert_eq!(front.store(slot(0), &cold), Stored::Done, "in the place of one that was there");
    assert_eq!((front.pages_in(0), later.pages()), (2, 2));
    rig.model.tmem_log_dirty(false);
    assert_eq!(store(&rig, &front, 3), Stored::Done);
    assert_eq!((front.pages_in(0), later.pages()), (3, 1));
    for offset in 1..4 {
        loads(&rig, &front, offset);
    }
    assert_eq!(front.invalidate_area(swap(1)), Ok(()));
    open.close().expect("nobody is inside");
    rig.is_clean(charged);
}

#[test]
fn a_get_of_an_ephemeral_page_into_a_frame_that_was_not_written_to_is_no_hazard() {
    let rig = Rig::xen412();
    let _cpu = boot_cpu(rig.host);
    let (charged, pool) = (rig.charged(), rig.pool());
    let open = pool.open(ebb::port::PoolKind::Ephemeral).expect("the model makes pools");
    let (mut page, mut other) = (rig.page(10), rig.page(11));
    fill(&mut page, 1);
    fill(&mut other, 2);
    assert_eq!(pool.put(key(1, 1), &page), Put::Stored);
    rig.model.tmem_log_dirty(true);
    assert_eq!((pool.get(key(1, 2), &mut other), pattern(&other)), (Get::Miss, Some(2)), "as it was");
    assert_eq!((pool.get(key(1, 1), &mut other), pattern(&other)), (Get::Hit, Some(1)));
    open.close().expect("nobody is inside");
    rig.is_clean(charged);
}
