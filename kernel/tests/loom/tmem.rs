//! Frontswap: whatever happens to a slot at the same time, each tier is worked on by one at a time, a load gives what was
//! stored last, and nothing is left behind.
//!
//! The tiers of the models keep each slot in a cell that loom watches: two who work on a slot of a tier, or one who is
//! not ordered behind the other, are found. Who waits really sleeps, so that a wake-up that is lost is a deadlock.

use crate::model::{Mistake, Model, made, tests, weakened};
use ebb::mm::page::Page;
use ebb::mm::paged::Words;
use ebb::units::Gfn;
use frontswap::{Frontswap, Loaded, Stored};
use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};
use percpu::{CpuId, Cpus, Platform, Report, WordIndex, Words as PercpuWords};
use std::cell::Cell;
use tier::{Load, Loss, Slot, Store, SwapType, Tier};
use xen_abi::Errno;

#[allow(dead_code, unreachable_pub, unused_imports, reason = "the kernel's source; models need some of it")]
#[path = "../../src/tmem/frontswap/mod.rs"]
mod frontswap;

// What that source finds around it.
use ebb::tmem::tier;
mod answer {
    pub(super) use ebb::tmem::{Get, Put, Refused};
}
mod pool {
    pub(super) use ebb::tmem::Pool;
}

/// In the place of the kernel's `primitive.rs`.
///
/// Loom takes a sequentially consistent load for an acquiring one, which may answer something old. Whoever changes one of
/// these does so with that ordering; so such a load answers what is newest, as one does here that writes back what it
/// has read.
mod primitive {
    use super::{Cell, Mistake, made, weakened};
    pub(super) use core::sync::atomic::Ordering;
    use loom::sync::atomic as real;
    pub(super) use loom::sync::atomic::fence;
    use std::sync::OnceLock;

    /// The byte of a slot. Of the many that come together only those that are used are loom's.
    #[derive(Debug, Default)]
    pub(super) struct AtomicU8 {
        made: OnceLock<real::AtomicU8>,
        /// Somebody has left a note that he waits.
        noted: Cell<bool>,
    }

    // SAFETY: the threads of a model are one thread.
    unsafe impl Sync for AtomicU8 {}

    impl AtomicU8 {
        fn real(&self) -> &real::AtomicU8 {
            self.made.get_or_init(|| real::AtomicU8::new(0))
        }

        pub(super) fn load(&self, order: Ordering) -> u8 {
            if order == Ordering::SeqCst && !made(Mistake::StaleLook) {
                return self.real().fetch_or(0, Ordering::Acquire);
            }
            self.real().load(Ordering::Relaxed)
        }

        pub(super) fn compare_exchange(
            &self,
            from: u8,
            to: u8,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u8, u8> {
            if made(Mistake::SplitHold) {
                let now = self.real().load(success_load(success));
                if now != from {
                    return Err(now);
                }
                self.real().store(to, Ordering::Release);
                return Ok(now);
            }
            self.real().compare_exchange(from, to, weakened(success, Mistake::RelaxedHold), failure)
        }

        pub(super) fn fetch_or(&self, bits: u8, order: Ordering) -> u8 {
            if made(Mistake::OneNote) && self.noted.replace(true) {
                return self.real().fetch_or(0, order);
            }
            self.real().fetch_or(bits, order)
        }

        pub(super) fn swap(&self, value: u8, order: Ordering) -> u8 {
            let before = self.real().swap(value, weakened(order, Mistake::RelaxedLetGo));
            self.noted.set(self.noted.get() && made(Mistake::OneNote));
            before
        }
    }

    const fn success_load(order: Ordering) -> Ordering {
        match order {
            Ordering::Relaxed => Ordering::Relaxed,
            _ => Ordering::Acquire,
        }
    }

    #[derive(Debug)]
    pub(super) struct AtomicBool(real::AtomicBool);

    impl AtomicBool {
        pub(super) fn new(value: bool) -> Self {
            Self(real::AtomicBool::new(value))
        }

        pub(super) fn load(&self, _: Ordering) -> bool {
            self.0.fetch_or(false, Ordering::Acquire)
        }

        pub(super) fn store(&self, value: bool, order: Ordering) {
            // Loom knows what is newest of what is read and written at once only.
            if !made(Mistake::UnsaidEnd) {
                self.0.swap(value, order);
            }
        }

        pub(super) fn swap(&self, value: bool, order: Ordering) -> bool {
            self.0.swap(value, order)
        }
    }

    #[derive(Debug)]
    pub(super) struct AtomicU64(real::AtomicU64);

    impl AtomicU64 {
        pub(super) fn new(value: u64) -> Self {
            Self(real::AtomicU64::new(value))
        }

        pub(super) fn load(&self, _: Ordering) -> u64 {
            self.0.fetch_add(0, Ordering::Acquire)
        }

        pub(super) fn fetch_add(&self, more: u64, order: Ordering) -> u64 {
            self.0.fetch_add(if made(Mistake::UnsaidDrain) { 0 } else { more }, order)
        }

        pub(super) fn fetch_sub(&self, less: u64, order: Ordering) -> u64 {
            self.0.fetch_sub(if made(Mistake::UnsaidDrain) { 0 } else { less }, order)
        }
    }
}

/// A machine whose CPUs are loom's threads.
#[derive(Clone, Copy)]
pub(crate) struct Host;

loom::thread_local! {
    static PINS: Cell<usize> = Cell::new(0);
}

loom::lazy_static! {
    static ref ASLEEP: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
}

// SAFETY: nothing preempts a thread but loom, which switches where that makes a difference, and nothing here is a CPU's
// own; there are no interrupts.
unsafe impl Cpus for Host {
    fn cpu_count(self) -> usize {
        percpu::MAX_CPUS
    }
    fn preempt_disable(self) {
        PINS.with(|pins| pins.set(pins.get() + 1));
    }
    unsafe fn preempt_enable(self) {
        PINS.with(|pins| pins.set(pins.get() - 1));
    }
    fn current_cpu(self) -> CpuId {
        CpuId::BOOT
    }
    fn irq_save(self) -> usize {
        self.preempt_disable();
        0
    }
    unsafe fn irq_restore(self, _: usize) {
        // SAFETY: `irq_save` disabled it.
        unsafe { self.preempt_enable() };
    }
    fn relax(self, _: u32) {
        thread::yield_now();
    }
    fn may_block(self) -> bool {
        PINS.with(Cell::get) == 0
    }
}

// SAFETY: there are none.
unsafe impl PercpuWords for Host {
    fn alloc_word(self) -> Option<WordIndex> {
        None
    }
    fn free_word(self, _: WordIndex) {}
    fn word(self, _: CpuId, _: usize) -> &'static loom::sync::atomic::AtomicU64 {
        unreachable!("no word was given out")
    }
}

impl Platform for Host {
    fn now_ns(self) -> u64 {
        0
    }
    fn kick(self, _: CpuId) {}
    fn rcu_work(self) {}
    fn wait_until(self, _: usize, done: &dyn Fn() -> bool) {
        assert!(self.may_block(), "a wait with preemption off");
        let mut asleep = ASLEEP.0.lock().unwrap();
        while !done() {
            asleep = ASLEEP.1.wait(asleep).unwrap();
        }
    }
    fn wake_all(self, _: usize) {
        drop(ASLEEP.0.lock().unwrap());
        ASLEEP.1.notify_all();
    }
    fn report(self, report: Report) {
        unreachable!("{report:?}");
    }
}

/// A tier of one slot. What is stored is never 0.
struct Shelf {
    cell: UnsafeCell<u64>,
    survives_suspend: bool,
}

// SAFETY: loom watches the cell.
unsafe impl Sync for Shelf {}

impl Shelf {
    fn set(&self, word: u64) {
        // SAFETY: frontswap promises that nobody else is here; loom says if somebody is.
        self.cell.with_mut(|cell| unsafe { *cell = word });
    }

    fn get(&self) -> u64 {
        // SAFETY: as above.
        self.cell.with(|cell| unsafe { *cell })
    }
}

impl Tier for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }
    fn store(&self, _: Slot, page: &Page<'_>) -> Store {
        self.set(page.same_filled().unwrap());
        Store::Stored
    }
    fn load(&self, _: Slot, page: &mut Page<'_>) -> Load {
        page.fill(self.get());
        if self.get() == 0 { Load::Failed(Loss::Missing) } else { Load::Loaded }
    }
    fn invalidate(&self, _: Slot) -> Result<(), Errno> {
        self.set(0);
        Ok(())
    }
    fn invalidate_area(&self, _: SwapType) -> Result<(), Errno> {
        self.set(0);
        Ok(())
    }
    fn survives_suspend(&self) -> bool {
        self.survives_suspend
    }
}

const SLOT: Slot = match SwapType::new(0) {
    Some(swap) => Slot { swap, offset: 0 },
    None => unreachable!(),
};

/// Two tiers and the front end, as long as an execution.
#[derive(Clone, Copy)]
struct World {
    shelves: &'static [Shelf; 2],
    front: &'static Frontswap<'static, Host>,
}

/// Runs `what` with a page of one word.
fn with_page<R>(word: u64, what: impl FnOnce(&mut Page<'_>) -> R) -> R {
    let words: Box<Words> = Box::new([const { core::sync::atomic::AtomicU64::new(0) }; 512]);
    // SAFETY: memory of its own, which stands for a frame that no hypervisor is told of.
    let mut page = unsafe { Page::new(Gfn::new(1), &words) };
    page.fill(word);
    what(&mut page)
}

impl World {
    fn store(self, word: u64) -> Stored {
        with_page(word, |page| self.front.store(SLOT, page))
    }

    /// The word of the page that a tier has; 0 if none has.
    fn load(self) -> u64 {
        with_page(99, |page| match self.front.load(SLOT, page).unwrap() {
            Loaded::NotHere => 0,
            Loaded::Copy | Loaded::Only => page.same_filled().unwrap(),
        })
    }

    /// Passes the page on, unless somebody is there.
    fn try_demote(self) {
        let _ = with_page(98, |page| self.front.demote(SLOT, page)).unwrap();
    }

    fn spawn(self, work: impl FnOnce(Self) + 'static) -> JoinHandle<()> {
        thread::spawn(move || work(self))
    }

    /// What the tiers have; when nobody else is there any more.
    fn kept(self) -> [u64; 2] {
        [self.shelves[0].get(), self.shelves[1].get()]
    }
}

/// Runs a model in a world in which 7 is stored in the first tier.
fn in_a_world(survive: [bool; 2], model: impl FnOnce(World)) {
    let shelves = survive.map(|survives_suspend| Shelf { cell: UnsafeCell::new(0), survives_suspend });
    let shelves = Box::into_raw(Box::new(shelves));
    // SAFETY: freed below, after all that refers to it.
    let kept = unsafe { &*shelves };
    let tiers: *mut [&'static dyn Tier; 2] = Box::into_raw(Box::new([&kept[0], &kept[1]]));
    // SAFETY: as above.
    let front = Box::into_raw(Box::new(Frontswap::new(Host, unsafe { &*tiers })));
    // SAFETY: as above.
    let world = World { shelves: kept, front: unsafe { &*front } };
    world.front.init(SLOT.swap, 1).unwrap();
    assert_eq!(world.store(7), Stored::Done);
    model(world);
    // SAFETY: the model has joined its threads; a failed one leaks all of it.
    drop(unsafe { Box::from_raw(front) });
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(tiers) });
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(shelves) });
}

/// The swap type goes out of use while somebody stores to a slot that was empty, and loads.
fn teardown_and_store() {
    in_a_world([true; 2], |world| {
        world.front.invalidate_page(SLOT);
        let other = world.spawn(|world| {
            let stored = world.store(8) == Stored::Done;
            let found = world.load();
            assert!(found == 0 || stored && found == 8, "{found} was found");
        });
        world.front.invalidate_area(SLOT.swap).unwrap();
        assert_eq!(world.store(9), Stored::No, "it is out of use");
        other.join().unwrap();
        assert_eq!((world.kept(), world.front.curr_pages(), world.load()), ([0, 0], 0, 0));
    });
}

/// The same while one loads and one invalidates.
fn teardown_and_load() {
    in_a_world([true; 2], |world| {
        let others = [
            world.spawn(|world| assert!([0, 7].contains(&world.load()))),
            world.spawn(|world| world.front.invalidate_page(SLOT)),
        ];
        world.front.invalidate_area(SLOT.swap).unwrap();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!((world.kept(), world.front.curr_pages()), ([0, 0], 0));
    });
}

/// The swap type goes out of use while a page is on its way.
fn teardown_and_move() {
    in_a_world([true; 2], |world| {
        let other = world.spawn(World::try_demote);
        world.front.invalidate_area(SLOT.swap).unwrap();
        other.join().unwrap();
        assert_eq!((world.kept(), world.front.curr_pages(), world.load()), ([0, 0], 0, 0));
    });
}

/// A page is on its way to the next tier while somebody loads it, and then frees it.
fn move_load_and_invalidate() {
    in_a_world([true; 2], |world| {
        let other = world.spawn(World::try_demote);
        assert_eq!(world.load(), 7);
        world.front.invalidate_page(SLOT);
        assert_eq!(world.load(), 0);
        other.join().unwrap();
        assert_eq!((world.kept(), world.front.curr_pages(), world.load()), ([0, 0], 0, 0));
    });
}

/// The same, loaded by one and freed by another.
fn move_load_invalidate() {
    in_a_world([true; 2], |world| {
        let others =
            [world.spawn(World::try_demote), world.spawn(|world| assert!([0, 7].contains(&world.load())))];
        world.front.invalidate_page(SLOT);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!((world.kept(), world.front.curr_pages()), ([0, 0], 0));
    });
}

/// A page is on its way while its slot is stored again.
fn move_and_store() {
    in_a_world([true; 2], |world| {
        let other = world.spawn(World::try_demote);
        assert_eq!(world.store(8), Stored::Done);
        assert_eq!(world.load(), 8);
        other.join().unwrap();
        assert_eq!((world.load(), world.front.curr_pages()), (8, 1));
        assert!([[8, 0], [0, 8]].contains(&world.kept()), "{:?}", world.kept());
    });
}

/// A page is on its way to a tier that a suspend would empty, while somebody drains those.
fn move_and_drain() {
    in_a_world([true, false], |world| {
        let other = world.spawn(World::try_demote);
        let home = |slot| {
            assert_eq!(world.load(), 7);
            world.front.invalidate_page(slot);
            true
        };
        let drained = world.front.drain(&home).unwrap();
        let at_suspend = world.front.curr_pages();
        other.join().unwrap();
        assert_eq!((world.kept()[1], world.front.curr_pages()), (0, at_suspend), "lost by a suspend");
        assert_eq!(world.load(), if at_suspend == 1 { 7 } else { 0 });
        drop(drained);
    });
}

/// Three want a slot: each gets it in the end.
fn three_want_a_slot() {
    in_a_world([true; 2], |world| {
        let others = [8, 9].map(|word| world.spawn(move |world| assert_eq!(world.store(word), Stored::Done)));
        assert!([7, 8, 9].contains(&world.load()));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!([8, 9].contains(&world.load()));
    });
}

const fn model(name: &'static str, preemptions: Option<usize>, run: fn()) -> Model {
    Model { name, preemptions, run }
}

const TEARDOWN_STORE: Model =
    model("frontswap: teardown against a store and a load", Some(4), teardown_and_store);
const TEARDOWN_LOAD: Model =
    model("frontswap: teardown against a load and an invalidation", Some(3), teardown_and_load);
const TEARDOWN_MOVE: Model = model("frontswap: teardown against a move", Some(4), teardown_and_move);
const MOVE_FREE: Model =
    model("frontswap: a move against a load, then an invalidation", Some(4), move_load_and_invalidate);
const MOVE_LOAD: Model =
    model("frontswap: a move against a load and an invalidation", Some(3), move_load_invalidate);
const MOVE_STORE: Model = model("frontswap: a move against a store", Some(4), move_and_store);
const MOVE_DRAIN: Model = model("frontswap: a move against a drain", Some(4), move_and_drain);
const THREE: Model = model("frontswap: three want a slot", Some(3), three_want_a_slot);

tests! {
    teardown_meets_a_store: TEARDOWN_STORE;
    teardown_meets_a_load_and_an_invalidation: TEARDOWN_LOAD;
    teardown_meets_a_move: TEARDOWN_MOVE;
    a_page_on_its_way_is_loaded_and_freed: MOVE_FREE;
    a_page_on_its_way_is_loaded_while_it_is_freed: MOVE_LOAD;
    a_page_on_its_way_is_stored_again: MOVE_STORE;
    a_page_on_its_way_is_not_lost_by_a_suspend: MOVE_DRAIN;
    who_waits_for_a_slot_gets_it: THREE;
    mutant_split_hold: MOVE_FREE catches SplitHold;
    mutant_relaxed_hold: MOVE_STORE catches RelaxedHold;
    mutant_relaxed_let_go: MOVE_STORE catches RelaxedLetGo;
    mutant_stale_look: TEARDOWN_STORE catches StaleLook;
    mutant_unsaid_end: TEARDOWN_STORE catches UnsaidEnd;
    mutant_unsaid_drain: MOVE_DRAIN catches UnsaidDrain;
    mutant_one_note: THREE catches OneNote;
}
