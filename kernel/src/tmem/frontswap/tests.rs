//! Cold pages that leave, and what happens to them on the way.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::vec::Vec;

use percpu::host::{Host, Machine, OnCpu};
use percpu::{CpuId, CpuPin};

use super::super::tier::{Load, Loss, Store};
use super::*;

/// What runs in the middle of a store.
type Hook = Box<dyn FnOnce() + Send>;

/// A tier that keeps pages of one word, says whether it is crowded, and sees to it that nobody works on a slot of it
/// while somebody else does.
struct Shelf {
    name: &'static str,
    /// Pages that fit.
    limit: AtomicUsize,
    /// From so many on it is crowded.
    high: AtomicUsize,
    state: Mutex<State>,
    losing: AtomicBool,
    stuck: AtomicBool,
    in_store: Mutex<Option<Hook>>,
}

#[derive(Default)]
struct State {
    /// When it was stored, and what.
    pages: BTreeMap<u64, (u64, u64)>,
    named: BTreeSet<u64>,
    at_work: BTreeSet<u64>,
    clock: u64,
}

/// Somebody works on a slot of a shelf.
struct AtWork<'s>(&'s Shelf, u64);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().at_work.remove(&self.1);
    }
}

impl Shelf {
    fn new(name: &'static str, limit: usize, high: usize) -> &'static Self {
        Box::leak(Box::new(Self {
            name,
            limit: AtomicUsize::new(limit),
            high: AtomicUsize::new(high),
            state: Mutex::default(),
            losing: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            in_store: Mutex::new(None),
        }))
    }

    fn work(&self, slot: Slot) -> AtWork<'_> {
        let first = self.state.lock().unwrap().at_work.insert(slot.offset);
        assert!(first, "two work on {slot} of {}", self.name);
        AtWork(self, slot.offset)
    }

    fn slots(&self) -> Vec<u64> {
        self.state.lock().unwrap().pages.keys().copied().collect()
    }

    fn hook(&self, hook: impl FnOnce() + Send + 'static) {
        *self.in_store.lock().unwrap() = Some(Box::new(hook));
    }
}

impl Tier for Shelf {
    fn name(&self) -> &'static str {
        self.name
    }
    fn store(&self, slot: Slot, page: &Page<'_>) -> Store {
        let _work = self.work(slot);
        if let Some(hook) = self.in_store.lock().unwrap().take() {
            hook();
        }
        let mut state = self.state.lock().unwrap();
        state.named.remove(&slot.offset);
        state.pages.remove(&slot.offset);
        if state.pages.len() >= self.limit.load(Ordering::Relaxed) {
            return Store::Refused(Refusal::Full);
        }
        let Some(word) = page.same_filled() else { return Store::Refused(Refusal::Unsuitable) };
        state.clock += 1;
        let now = state.clock;
        state.pages.insert(slot.offset, (now, word));
        Store::Stored
    }
    fn load(&self, slot: Slot, page: &mut Page<'_>) -> Load {
        let _work = self.work(slot);
        if self.losing.load(Ordering::Relaxed) {
            page.fill(0);
            return Load::Failed(Loss::Corrupt);
        }
        match self.state.lock().unwrap().pages.get(&slot.offset) {
            Some((_, word)) => {
                page.fill(*word);
                Load::Loaded
            }
            None => Load::Failed(Loss::Missing),
        }
    }
    fn invalidate(&self, slot: Slot) -> Result<(), Errno> {
        let _work = self.work(slot);
        if self.stuck.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        let mut state = self.state.lock().unwrap();
        state.named.remove(&slot.offset);
        state.pages.remove(&slot.offset);
        Ok(())
    }
    fn invalidate_area(&self, _: SwapType) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap();
        assert!(state.at_work.is_empty(), "a swap type ends while somebody is at {:?}", state.at_work);
        state.pages.clear();
        Ok(())
    }
    fn is_crowded(&self) -> bool {
        self.state.lock().unwrap().pages.len() >= self.high.load(Ordering::Relaxed)
    }
    fn coldest(&self) -> Option<Slot> {
        let mut state = self.state.lock().unwrap();
        let unnamed = state.pages.iter().filter(|(offset, _)| !state.named.contains(offset));
        let (offset, _) = unnamed.min_by_key(|(_, (stored, _))| *stored)?;
        let offset = *offset;
        state.named.insert(offset);
        Some(slot(offset))
    }
    fn stays(&self, slot: Slot) {
        let mut state = self.state.lock().unwrap();
        state.clock += 1;
        let now = state.clock;
        state.named.remove(&slot.offset);
        if let Some((stored, _)) = state.pages.get_mut(&slot.offset) {
            *stored = now;
        }
    }
}

fn swap() -> SwapType {
    SwapType::new(2).unwrap()
}

fn slot(offset: u64) -> Slot {
    Slot { swap: swap(), offset }
}

/// A front end over these, with 64 slots, and a CPU to run on.
fn front(tiers: &[&'static Shelf], bounce: bool) -> (&'static Frontswap<'static, Host>, Host, OnCpu) {
    let host = Machine::new(4);
    let cpu = host.enter(CpuId::BOOT);
    let tiers: Vec<&'static dyn Tier> = tiers.iter().map(|shelf| *shelf as &dyn Tier).collect();
    let front = &*Box::leak(Box::new(Frontswap::new(host, tiers.leak())));
    front.init(swap(), 64).unwrap();
    if bounce {
        front.set_bounce(Page::leaked());
    }
    (front, host, cpu)
}

fn store(front: &Frontswap<'_, Host>, offset: u64, word: u64) -> Stored {
    let mut page = Page::leaked();
    page.fill(word);
    front.store(slot(offset), &page)
}

fn load(front: &Frontswap<'_, Host>, offset: u64) -> Result<Option<u64>, Lost> {
    let mut page = Page::leaked();
    Ok(match front.load(slot(offset), &mut page)? {
        Loaded::Copy | Loaded::Only => page.same_filled(),
        Loaded::NotHere => None,
    })
}

#[test]
fn a_store_to_a_crowded_tier_passes_its_coldest_pages_on() {
    let (first, second) = (Shelf::new("first", 10, 8), Shelf::new("second", 64, 64));
    let (front, _, _cpu) = front(&[first, second], true);
    for offset in 0..30 {
        assert_eq!(store(front, offset, offset + 100), Stored::Done);
    }
    assert_eq!((first.slots(), second.slots()), ((22..30).collect(), (0..22).collect()));
    let counters = front.counters();
    assert_eq!((counters.written_on, counters.stayed, front.curr_pages()), (22, 0, 30));
    assert!((0..30).all(|offset| load(front, offset) == Ok(Some(offset + 100))));
    // However crowded, a store does not do more than its share.
    first.high.store(0, Ordering::Relaxed);
    assert_eq!(store(front, 40, 1), Stored::Done);
    assert_eq!(first.slots(), [26, 27, 28, 29, 40]);
    assert_eq!(front.counters().written_on, 22 + MOVES_PER_STORE as u64);
    (0..64).for_each(|offset| front.invalidate_page(slot(offset)));
    assert_eq!((first.slots().len(), second.slots().len(), front.curr_pages()), (0, 0, 0));
}

#[test]
fn where_no_page_can_pass_the_next_tier_gets_the_new_ones() {
    let (first, second) = (Shelf::new("first", 10, 8), Shelf::new("second", 3, 64));
    let (front, _, _cpu) = front(&[first, second], false);
    let stored: Vec<_> = (0..15).map(|offset| store(front, offset, offset)).collect();
    assert_eq!(stored.iter().filter(|stored| **stored == Stored::Done).count(), 13);
    assert_eq!((first.slots(), second.slots()), ((0..10).collect(), (10..13).collect()));
    assert_eq!(front.counters().written_on, 0);
}

#[test]
fn with_every_tier_full_a_store_is_refused_and_nothing_is_lost() {
    let (first, second) = (Shelf::new("first", 10, 8), Shelf::new("second", 3, 64));
    let (front, _, _cpu) = front(&[first, second], true);
    let stored: Vec<_> = (0..15).map(|offset| store(front, offset, offset)).collect();
    assert!(stored[..13].iter().all(|stored| *stored == Stored::Done) && stored[13] == Stored::No);
    let counters = front.counters();
    assert_eq!((counters.written_on, counters.failed_stores), (3, 2));
    assert!(counters.stayed >= 2, "each refusal tried: {counters:?}");
    assert!((0..13).all(|offset| load(front, offset) == Ok(Some(offset))));
    assert_eq!(load(front, 13), Ok(None));
}

#[test]
fn what_no_tier_takes_comes_home_if_home_has_room() {
    let only = Shelf::new("only", 64, 10);
    let (front, _, _cpu) = front(&[only], true);
    (0..40).for_each(|offset| assert_eq!(store(front, offset, offset), Stored::Done));
    let mut asked = Vec::new();
    let relief = front.relieve(|slots| {
        asked = slots.to_vec();
        for slot in &slots[..5] {
            assert_eq!(load(front, slot.offset), Ok(Some(slot.offset)));
            front.invalidate_page(*slot);
        }
        5
    });
    assert_eq!(relief, Relief { written_on: 0, brought_home: 5, stayed: 27 });
    assert_eq!(asked, (0..32).map(slot).collect::<Vec<_>>(), "the coldest first, and not without end");
    // Those that stayed are asked after the others.
    let relief = front.relieve(|slots| {
        assert_eq!(slots[..8], (32..40).map(slot).collect::<Vec<_>>());
        0
    });
    assert_eq!((relief.brought_home, relief.stayed), (0, 32));
    let counters = front.counters();
    assert_eq!((counters.brought_home, counters.stayed, counters.written_on), (5, 59, 0));
    // Not crowded, nothing to do.
    only.high.store(64, Ordering::Relaxed);
    assert_eq!(front.relieve(|_| unreachable!("nobody has to leave")), Relief::default());
    assert!((5..40).all(|offset| load(front, offset) == Ok(Some(offset))));
}

#[test]
fn relief_passes_on_first_and_brings_the_rest_home() {
    let (first, second) = (Shelf::new("first", 64, 10), Shelf::new("second", 7, 64));
    let (front, _, _cpu) = front(&[first, second], false);
    (0..20).for_each(|offset| assert_eq!(store(front, offset, offset), Stored::Done));
    front.set_bounce(Page::leaked());
    let relief = front.relieve(|slots| {
        slots.iter().for_each(|slot| front.invalidate_page(*slot));
        slots.len() as u64
    });
    // Of those that are listed for home none has left while the list is made.
    assert_eq!(relief, Relief { written_on: 7, brought_home: 13, stayed: 0 });
    assert_eq!((first.slots(), second.slots()), (Vec::new(), (0..7).collect()));
}

#[test]
fn who_is_also_on_the_swap_device_stays_so_and_who_is_not_does_not_become_so() {
    let (first, second) = (Shelf::new("first", 64, 64), Shelf::new("second", 64, 64));
    let (front, _, _cpu) = front(&[first, second], true);
    front.set_write_through(true);
    assert_eq!(store(front, 1, 1), Stored::WriteToo);
    front.set_write_through(false);
    assert_eq!(store(front, 2, 2), Stored::Done);
    assert_eq!(front.demote(slot(1), &mut Page::leaked()), Ok(true));
    front.set_write_through(true);
    assert_eq!(front.demote(slot(2), &mut Page::leaked()), Ok(true));
    second.losing.store(true, Ordering::Relaxed);
    assert_eq!(load(front, 1), Ok(None), "the device has it");
    assert_eq!(load(front, 2), Err(Lost { slot: slot(2), tier: Some("second"), why: Loss::Corrupt }));
}

#[test]
fn a_corrupt_page_does_not_move_and_holds_nobody_up() {
    let (first, second) = (Shelf::new("first", 10, 4), Shelf::new("second", 64, 64));
    let (front, _, _cpu) = front(&[first, second], true);
    (0..4).for_each(|offset| assert_eq!(store(front, offset, offset), Stored::Done));
    first.losing.store(true, Ordering::Relaxed);
    assert_eq!(store(front, 10, 10), Stored::Done);
    assert_eq!((second.slots(), front.counters().lost), (Vec::new(), 4));
    first.losing.store(false, Ordering::Relaxed);
    assert_eq!(store(front, 11, 11), Stored::Done);
    assert_eq!(second.slots(), [10], "what was lost is not asked again");
    assert!((0..4).all(|offset| load(front, offset) == Ok(Some(offset))), "it was a passing trouble");
}

/// A front end of two, with a page in the first, that is moved while `meanwhile` runs.
fn moved_while(
    meanwhile: impl FnOnce(&Frontswap<'_, Host>, Host) + Send + 'static,
) -> (Result<bool, Lost>, &'static Frontswap<'static, Host>, [&'static Shelf; 2], OnCpu) {
    let (first, second) = (Shelf::new("first", 64, 64), Shelf::new("second", 64, 64));
    let (front, host, cpu) = front(&[first, second], true);
    assert_eq!(store(front, 5, 55), Stored::Done);
    second.hook(move || meanwhile(front, host));
    (front.demote(slot(5), &mut Page::leaked()), front, [first, second], cpu)
}

#[test]
fn a_page_on_its_way_is_found_where_it_was() {
    let (moved, front, [first, second], _cpu) = moved_while(|front, _| {
        assert_eq!(load(front, 5), Ok(Some(55)));
        assert_eq!(front.demote(slot(5), &mut Page::leaked()), Ok(false), "it is on its way already");
    });
    assert_eq!((moved, first.slots(), second.slots()), (Ok(true), Vec::new(), std::vec![5]));
    assert_eq!((load(front, 5), front.curr_pages()), (Ok(Some(55)), 1));
}

#[test]
fn a_page_that_is_invalidated_on_its_way_is_nowhere() {
    let (moved, front, [first, second], _cpu) = moved_while(|front, _| front.invalidate_page(slot(5)));
    assert_eq!((moved, first.slots(), second.slots()), (Ok(false), Vec::new(), Vec::new()));
    assert_eq!((load(front, 5), front.curr_pages()), (Ok(None), 0));
    assert_eq!(store(front, 5, 6), Stored::Done);
}

#[test]
fn a_page_that_is_fetched_for_good_on_its_way_is_nowhere() {
    let (moved, front, shelves, _cpu) = moved_while(|front, _| {
        front.set_exclusive_gets(true);
        assert_eq!(load(front, 5), Ok(Some(55)));
    });
    assert_eq!((moved, front.curr_pages()), (Ok(false), 0));
    assert!(shelves.iter().all(|shelf| shelf.slots().is_empty()));
}

#[test]
fn who_must_not_wait_for_a_page_on_its_way_is_refused_and_the_old_page_is_gone() {
    let (moved, front, [first, second], _cpu) = moved_while(|front, host| {
        let _pin = CpuPin::new(host);
        assert_eq!(store(front, 5, 7), Stored::No);
        assert_eq!(load(front, 5), Ok(None));
    });
    assert_eq!((moved, first.slots(), second.slots()), (Ok(false), Vec::new(), Vec::new()));
    assert_eq!((store(front, 5, 8), load(front, 5), front.curr_pages()), (Stored::Done, Ok(Some(8)), 1));
}

#[test]
fn a_page_in_doubt_does_not_move() {
    let (first, second) = (Shelf::new("first", 64, 64), Shelf::new("second", 64, 64));
    let (front, _, _cpu) = front(&[first, second], true);
    assert_eq!(store(front, 5, 55), Stored::Done);
    assert_eq!(front.demote(slot(5), &mut Page::leaked()), Ok(true));
    first.stuck.store(true, Ordering::Relaxed);
    second.stuck.store(true, Ordering::Relaxed);
    front.invalidate_page(slot(5));
    assert_eq!(load(front, 5), Err(Lost { slot: slot(5), tier: None, why: Loss::Missing }));
    assert_eq!((store(front, 5, 1), front.demote(slot(5), &mut Page::leaked())), (Stored::No, Ok(false)));
    first.stuck.store(false, Ordering::Relaxed);
    second.stuck.store(false, Ordering::Relaxed);
    assert_eq!((store(front, 5, 9), load(front, 5), front.curr_pages()), (Stored::Done, Ok(Some(9)), 1));
}

#[test]
fn one_that_becomes_doubtful_on_its_way_is_left_to_the_next_store() {
    static FIRST: Mutex<Option<&Shelf>> = Mutex::new(None);
    let (first, second) = (Shelf::new("first", 64, 64), Shelf::new("second", 64, 64));
    *FIRST.lock().unwrap() = Some(first);
    let (front, _, _cpu) = front(&[first, second], true);
    assert_eq!(store(front, 5, 55), Stored::Done);
    second.hook(move || {
        let first = FIRST.lock().unwrap().unwrap();
        first.stuck.store(true, Ordering::Relaxed);
        front.invalidate_page(slot(5));
        // Again: the tier that is being given the page is not touched.
        first.stuck.store(false, Ordering::Relaxed);
        front.invalidate_page(slot(5));
    });
    assert_eq!(front.demote(slot(5), &mut Page::leaked()), Ok(false));
    assert_eq!((second.slots(), front.curr_pages()), (Vec::new(), 0));
    assert!(load(front, 5).is_err(), "nobody knows");
    assert_eq!((store(front, 5, 1), load(front, 5)), (Stored::Done, Ok(Some(1))));
}

#[test]
fn pages_move_while_they_are_stored_loaded_and_invalidated() {
    const OWNERS: u64 = 3;
    let (first, second, third) =
        (Shelf::new("first", 14, 6), Shelf::new("second", 8, 5), Shelf::new("third", 64, 64));
    let (front, host, cpu) = front(&[first, second, third], true);
    drop(cpu);
    let running = AtomicU64::new(OWNERS);
    std::thread::scope(|scope| {
        for owner in 0..OWNERS {
            let running = &running;
            scope.spawn(move || {
                let _cpu = host.enter(CpuId::new(owner as usize).unwrap());
                let mut random = crate::mm::frame::tests::Random::new(owner + 1);
                // Each slot has one owner, who knows what is in it; the others only move it.
                let mut wanted = BTreeMap::new();
                let mut page = Page::leaked();
                for round in 0..4000 {
                    let offset = random.below(64 / OWNERS) * OWNERS + owner;
                    match random.below(8) {
                        0..3 => {
                            page.fill(round << 8 | offset);
                            match front.store(slot(offset), &page) {
                                Stored::No => drop(wanted.remove(&offset)),
                                _ => drop(wanted.insert(offset, round << 8 | offset)),
                            }
                        }
                        3..6 => match front.load(slot(offset), &mut page).unwrap() {
                            Loaded::NotHere => assert_eq!(wanted.get(&offset), None),
                            _ => assert_eq!(page.same_filled(), wanted.get(&offset).copied()),
                        },
                        _ => {
                            front.invalidate_page(slot(offset));
                            wanted.remove(&offset);
                        }
                    }
                }
                for (offset, word) in wanted {
                    assert_eq!(load(front, offset), Ok(Some(word)));
                    front.invalidate_page(slot(offset));
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let running = &running;
        scope.spawn(move || {
            let _cpu = host.enter(CpuId::new(OWNERS as usize).unwrap());
            let mut bounce = Page::leaked();
            let mut random = crate::mm::frame::tests::Random::new(99);
            while running.load(Ordering::SeqCst) > 0 {
                let _ = front.relieve(|_| 0);
                let _ = front.demote(slot(random.below(64)), &mut bounce).unwrap();
                // Now and then the last one is full.
                third.limit.store(random.below(64) as usize, Ordering::Relaxed);
            }
        });
    });
    let _cpu = host.enter(CpuId::BOOT);
    let counters = front.counters();
    assert!(counters.written_on > 100 && counters.lost == 0, "{counters:?}");
    assert_eq!(front.curr_pages(), 0);
    assert!([first, second, third].iter().all(|shelf| shelf.slots().is_empty()));
    front.invalidate_area(swap()).unwrap();
}
