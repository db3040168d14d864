//! Paged memory as a whole, on a machine of arrays.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::vec::Vec;

use percpu::CpuId;

use super::sim::{BASE, World};
use super::*;
use crate::mm::frame::tests::Random;
use crate::mm::frame::{AllocError, Contents, Request, Use};
use crate::units::Gfn;

const PAGE: u64 = FRAME_SIZE as u64;

fn pages(count: u64) -> Frames {
    Frames::new(count)
}

fn whole(world: World, count: u64) -> Region {
    world.reserve(pages(count), Charge::Whole).unwrap()
}

#[test]
fn pages_are_zero_at_first_and_come_one_by_one() {
    let world = World::new(8, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let free = world.frames.stats().available();
    let region = whole(world, 1000);
    assert_eq!((world.stats().resident, world.committed_exactly()), (pages(0), pages(1000)));
    for page in (0..1000).step_by(7) {
        let at = region.address() + page * PAGE;
        assert_eq!(world.load(at + 8 * (page % 512)), Ok(0));
        world.store(at, page + 1).unwrap();
    }
    for page in 0..1000 {
        let wanted = if page % 7 == 0 { page + 1 } else { 0 };
        assert_eq!(world.load(region.address() + page * PAGE), Ok(wanted));
    }
    world.validate();
    let stats = world.stats();
    assert_eq!((stats.resident, stats.filled, stats.tables), (pages(1000), 1000, pages(2)));
    world.release(region);
    world.validate();
    let stats = world.stats();
    assert_eq!((stats.resident, stats.committed, stats.tables), (pages(0), pages(0), pages(0)));
    assert_eq!(world.frames.stats().available(), free - pages(1), "a directory stays");
}

#[test]
fn what_is_outside_of_a_region_is_an_error() {
    let world = World::new(4, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 3);
    let end = region.address() + 3 * PAGE;
    world.store(end - 8, 1).unwrap();
    for outside in [end, region.address() - 8, BASE, BASE - 8, BASE + (8 << 30), 0, u64::MAX - 7] {
        assert_eq!(world.load(outside), Err(FaultError::NoRegion), "{outside:#x}");
        assert!(!world.is_reserved(outside));
    }
    assert!(world.is_reserved(end - 1) && world.covers(end) && !world.covers(BASE - 1));
    let first = region.address();
    world.release(region);
    assert_eq!(world.store(first, 2), Err(FaultError::NoRegion));
    // The addresses serve again, and have forgotten.
    let region = whole(world, 3);
    assert_eq!(region.address(), first);
    assert_eq!(world.load(end - 8), Ok(0));
    world.release(region);
}

#[test]
fn nothing_is_freed_before_all_cpus_have_forgotten() {
    let world = World::new(4, 2);
    let region = {
        let _cpu = world.host.enter(CpuId::new(1).unwrap());
        let region = whole(world, 600);
        (0..600).for_each(|page| world.store(region.address() + page * PAGE, page).unwrap());
        region
    };
    let _cpu = world.host.enter(CpuId::BOOT);
    let flushes = world.sim.flushes.load(Ordering::Relaxed);
    world.release(region);
    assert_eq!(world.sim.flushes.load(Ordering::Relaxed), flushes + 1, "one flush for all");
    // The other CPU had translations of all of it; with them gone, it faults.
    drop(_cpu);
    let _cpu = world.host.enter(CpuId::new(1).unwrap());
    assert_eq!(world.load(BASE + (2 << 20)), Err(FaultError::NoRegion));
}

#[test]
fn a_discard_forgets_what_it_covers_and_nothing_else() {
    let world = World::new(8, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 1500);
    let at = |page: u64| region.address() + page * PAGE;
    let mut random = Random::new(5);
    let mut model = BTreeMap::new();
    for step in 1..400 {
        let from = random.below(1500);
        let to = (from + random.below(if step % 10 == 0 { 1500 } else { 60 })).min(1500);
        if random.below(2) == 0 {
            for page in from..to {
                world.store(at(page), step).unwrap();
                model.insert(page, step);
            }
        } else if random.below(4) == 0 {
            // The same by a mask over one piece of 2 MiB.
            let (piece, mut mask) = (from / 512, [0_u64; 8]);
            for page in (0..512).filter(|page| (page ^ step) % 3 == 0) {
                mask[page as usize / 64] |= 1 << (page % 64);
                model.remove(&(piece * 512 + page));
            }
            world.discard_masked(at(piece * 512), &mask);
        } else {
            world.discard(&region, from..to).unwrap();
            model.retain(|page, _| !(from..to).contains(page));
        }
        assert_eq!(world.stats().resident, pages(model.len() as u64));
    }
    world.validate();
    for page in 0..1500 {
        assert_eq!(world.load(at(page)), Ok(model.get(&page).copied().unwrap_or(0)), "page {page}");
    }
    assert_eq!(world.discard(&region, 0..1501), Err(OutsideRegion));
    assert_eq!(world.discard(&region, 1500..1500), Ok(()));
    world.discard(&region, 0..1500).unwrap();
    assert_eq!((world.stats().resident, world.stats().tables), (pages(0), pages(0)), "tables go too");
    world.release(region);
    world.validate();
}

#[test]
fn promises_end_at_the_limit_and_come_back() {
    let world = World::new(4, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    world.set_commit_limit(pages(100));
    let first = whole(world, 60);
    match world.reserve(pages(41), Charge::Whole) {
        Err(ReserveError::Commit(error)) => {
            assert_eq!((error.asked, error.committed, error.limit), (pages(41), pages(60), pages(100)));
        }
        other => panic!("{other:?}"),
    }
    let second = whole(world, 40);
    assert_eq!(world.stats().refused, 1);
    assert!(world.charge(pages(1)).is_err());
    world.release(first);
    // Addresses are not memory: a region that its user charges costs nothing by itself.
    let large = world.reserve(pages(1 << 20), Charge::ByCaller).unwrap();
    assert_eq!(world.committed_exactly(), pages(40));
    world.charge(pages(60)).unwrap();
    assert!(world.charge(pages(1)).is_err());
    world.uncharge(pages(60));
    world.release(large);
    world.release(second);
    assert_eq!(world.committed_exactly(), pages(0));
    assert_eq!(world.reserve(pages(0), Charge::Whole).unwrap_err(), ReserveError::Empty);
    world.set_overcommit(Overcommit::Always);
    let beyond = world.reserve(pages(1 << 40), Charge::Whole).unwrap_err();
    assert_eq!((beyond, world.committed_exactly()), (ReserveError::NoAddresses, pages(0)));
    world.validate();
}

#[test]
fn without_a_directory_nothing_is_reserved() {
    let world = World::new(4, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    world.sim.directories_left.store(1, Ordering::Relaxed);
    let error = world.reserve(pages(3 << 18), Charge::ByCaller).unwrap_err();
    assert_eq!(error, ReserveError::NoBooks);
    let region = whole(world, 5);
    world.store(region.address(), 1).unwrap();
    world.release(region);
    world.sim.directories_left.store(9, Ordering::Relaxed);
    let region = world.reserve(pages(3 << 18), Charge::ByCaller).unwrap();
    world.store(region.address() + (2 << 30) + 4096, 1).unwrap();
    world.release(region);
    world.validate();
}

#[test]
fn a_region_is_known_by_its_address() {
    let world = World::new(4, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 1300);
    world.set_tag(&region, 77);
    let (address, other) = (region.address(), world.reserve(pages(2), Charge::ByCaller).unwrap());
    assert_eq!(world.tag_at(address + 1299 * PAGE), 77);
    assert_eq!((world.tag_at(other.address()), world.tag_at(BASE), world.tag_at(3)), (0, 0, 0));
    assert!(world.attach(region.start()).is_none(), "its token is out");
    let start = world.detach(region);
    let beyond = core::num::NonZero::new(start.addr().get() + (2 << 20)).unwrap();
    assert!(world.attach(start.with_addr(beyond)).is_none(), "it does not begin there");
    let region = world.attach(start).unwrap();
    assert_eq!((region.address(), region.pages()), (address, pages(1300)));
    assert!(world.attach(start).is_none(), "one wins");
    world.release(region);
    assert!(world.attach(start).is_none(), "nothing is there");
    assert_eq!(world.committed_exactly(), pages(0), "it was charged, and is not any more");
    let start = world.detach(other);
    world.release(world.attach(start).unwrap());
    assert_eq!(world.committed_exactly(), pages(0), "it was not charged");
    world.validate();
}

#[test]
fn known_zero_frames_are_not_zeroed_again() {
    let world = World::new(2, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 64);
    (0..64).for_each(|page| world.store(region.address() + page * PAGE, 1).unwrap());
    assert_eq!(world.stats().zeroed, 64, "memory of a guest does not come zeroed");
    world.release(region);
    let frame = world.frames.alloc(Request::new(Use::Paged, VcpuId::new(0))).unwrap();
    world.sim.zero_by_hand(frame.first());
    world.frames.free(frame, Contents::Zero, VcpuId::new(0)).unwrap();
    let region = whole(world, 2);
    assert_eq!(world.load(region.address()), Ok(0));
    assert_eq!(world.stats().zeroed, 64);
    assert_eq!(world.load(region.address() + PAGE), Ok(0));
    assert_eq!(world.stats().zeroed, 65, "there was one such frame");
    world.release(region);
}

#[test]
fn exhaustion_is_a_value_and_the_reserve_serves_accesses() {
    let world = World::new(2, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(pages(2000), Charge::ByCaller).unwrap();
    let Err(PopulateError::Page(filled, FaultError::NoFrame(error))) = world.populate(&region, 0..2000)
    else {
        panic!("more frames than there are")
    };
    assert!(matches!(error, AllocError::Reserve { .. } | AllocError::Exhausted { .. }), "{error}");
    assert_eq!(world.stats().resident, pages(filled));
    assert!(world.frames.stats().available() > pages(0), "a reserve stays");
    world.validate();
    assert_eq!(world.populate(&region, 0..2001), Err(PopulateError::Outside));
    assert_eq!(world.populate(&region, 0..filled), Ok(()), "what is there needs no frame");
    // Accesses cannot be refused, as long as there is anything.
    let served =
        (filled..2000).take_while(|page| world.store(region.address() + page * PAGE, 1).is_ok()).count();
    assert!(served > 0);
    assert_eq!(world.frames.stats().available(), pages(0));
    world.validate();
    world.release(region);
    world.validate();
}

/// Frees frames of a store, some at a time.
struct Store {
    held: std::sync::Mutex<Vec<crate::mm::frame::Extent>>,
    world: World,
    asked: AtomicUsize,
}

impl Shortage for Store {
    fn relieve(&self, need: Frames, context: Context) -> bool {
        assert_eq!(context, Context::MayBlock);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held.lock().unwrap();
        let end = held.len().saturating_sub(need.get() as usize);
        let given: Vec<_> = held.drain(end..).collect();
        let gave = !given.is_empty();
        for extent in given {
            self.world.frames.free(extent, Contents::Unknown, VcpuId::new(0)).unwrap();
        }
        gave
    }
}

#[test]
fn a_shortage_is_told_and_relieved() {
    let world = World::new(2, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(pages(1000), Charge::ByCaller).unwrap();
    let request = Request::new(Use::Kernel, VcpuId::new(0));
    let held: Vec<_> = core::iter::from_fn(|| world.frames.alloc(request).ok()).collect();
    let taken = held.len();
    let held = std::sync::Mutex::new(held);
    let store: &Store = Box::leak(Box::new(Store { held, world, asked: AtomicUsize::new(0) }));
    world.set_shortage(store);
    for page in 0..taken as u64 - 3 {
        world.store(region.address() + page * PAGE, page).unwrap();
    }
    assert_eq!(store.asked.load(Ordering::Relaxed), taken.div_ceil(64), "once for many pages");
    assert_eq!(world.stats().shortages, store.asked.load(Ordering::Relaxed) as u64);
    assert!((0..taken as u64 - 3).all(|page| world.load(region.address() + page * PAGE) == Ok(page)));
    world.release(region);
    world.validate();
}

#[test]
fn a_page_moves_with_its_contents() {
    let world = World::new(4, 2);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 4);
    let at = region.address() + 2 * PAGE;
    (0..512).for_each(|word| world.store(at + 8 * word, word * 3).unwrap());
    let old = world.frame_of(at).unwrap();
    let new = world.migrate(old).unwrap();
    assert!(new != old && world.frame_of(at) == Some(new));
    assert!((0..512).all(|word| world.load(at + 8 * word) == Ok(word * 3)));
    assert_eq!(world.migrate(old), Err(MigrateError::NotPaged(old)), "nothing is there any more");
    assert_eq!(world.migrate(Gfn::new(0)), Err(MigrateError::NotPaged(Gfn::new(0))));
    assert_eq!(world.migrate(Gfn::new(1 << 30)), Err(MigrateError::NotPaged(Gfn::new(1 << 30))));
    assert_eq!((world.stats().migrated, world.stats().resident), (1, pages(1)));
    world.validate();
    world.release(region);
    world.validate();
}

#[test]
fn a_block_is_emptied() {
    let world = World::new(8, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 2000);
    let at = |page: u64| region.address() + page * PAGE;
    (0..2000).for_each(|page| world.store(at(page), page).unwrap());
    // Most of it goes, at random: the blocks are sparse now.
    let mut random = Random::new(9);
    let kept: Vec<_> = (0..2000).filter(|_| random.below(10) == 0).collect();
    for page in (0..2000).filter(|page| kept.binary_search(page).is_err()) {
        world.discard(&region, page..page + 1).unwrap();
    }
    world.frames.drain(VcpuId::new(0));
    let before = world.frames.stats().whole_blocks;
    let victim = kept.iter().map(|page| world.block_of(world.frame_of(at(*page)).unwrap())).next().unwrap();
    let inside = |page: &&u64| world.block_of(world.frame_of(at(**page)).unwrap()).first == victim.first;
    let there = kept.iter().filter(inside).count() as u64;
    assert!(there > 0);
    assert_eq!(world.evacuate(&victim), pages(there));
    assert_eq!(kept.iter().filter(inside).count(), 0);
    world.frames.drain(VcpuId::new(0));
    assert!(world.frames.stats().whole_blocks > before, "the block came free");
    assert!(kept.iter().all(|page| world.load(at(*page)) == Ok(*page)));
    world.validate();
    world.release(region);
}

#[test]
fn pages_in_use_become_active_and_others_idle() {
    let world = World::new(8, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = whole(world, 1100);
    let at = |page: u64| region.address() + page * PAGE;
    (0..1100).for_each(|page| world.store(at(page), page).unwrap());
    assert_eq!((world.stats().active, world.stats().inactive), (pages(0), pages(1100)));
    let all = pages(u64::MAX);
    assert_eq!(
        world.scan(all),
        Scanned { pages: 1100, accessed: 1100, activated: 1100, ..Scanned::default() }
    );
    (0..100).for_each(|page| assert_eq!(world.load(at(page)), Ok(page)));
    let second = world.scan(all);
    assert_eq!(second, Scanned { pages: 1100, accessed: 100, deactivated: 1000, ..Scanned::default() });
    assert_eq!((world.stats().active, world.stats().inactive), (pages(100), pages(1000)));
    assert_eq!(world.scan(all).idle, 1000);
    world.validate();
    // In parts, round and round: each call goes on where the last one ended.
    let seen: u64 = (0..3).map(|_| world.scan(pages(1)).pages).sum();
    assert_eq!(seen, 1100);
    // A move keeps a page where it is; a discard takes it off its list.
    (0..50).for_each(|page| assert_eq!(world.load(at(page)), Ok(page)));
    world.scan(all);
    assert_eq!(world.stats().active, pages(50));
    world.migrate(world.frame_of(at(7)).unwrap()).unwrap();
    assert_eq!(world.stats().active, pages(50));
    world.discard(&region, 0..20).unwrap();
    assert_eq!(world.stats().active, pages(30));
    world.validate();
    world.release(region);
    assert_eq!(world.stats().active, pages(0));
    world.validate();
}

/// A round of a writer: counts up its own word, the first of which is at `mine`, of each of `shared` pages; then fills a
/// region of its own, each `step`th page of it, discards all from page `middle` on, and reads what must be there.
pub(super) fn write_round(
    world: World,
    mine: u64,
    shared: u64,
    round: u64,
    own: Region,
    middle: u64,
    step: usize,
) {
    for page in 0..shared {
        let was = world.access(mine + page * PAGE, |word| word.fetch_add(1, Ordering::Relaxed)).unwrap();
        assert_eq!(was, round, "a write was lost");
    }
    let (at, count) = (own.address(), own.pages().get());
    for page in (0..count).step_by(step) {
        assert_eq!(world.load(at + page * PAGE), Ok(0), "somebody else's page");
        world.store(at + page * PAGE, round ^ page).unwrap();
    }
    world.discard(&own, middle..count).unwrap();
    for page in (0..count).step_by(step) {
        let wanted = if page < middle { round ^ page } else { 0 };
        assert_eq!(world.load(at + page * PAGE), Ok(wanted));
    }
    world.release(own);
}

/// Everything at once: CPUs that write, discard, release and fault, one that moves pages and one that scans. Each word
/// has one writer, which knows what it must read.
#[test]
fn cpus_write_while_pages_come_go_and_move() {
    const WRITERS: usize = 3;
    const SHARED: u64 = 40;
    let world = World::new(16, WRITERS + 2);
    let region = {
        let _cpu = world.host.enter(CpuId::BOOT);
        whole(world, SHARED)
    };
    let shared = region.address();
    let (busy, moved) = (AtomicUsize::new(WRITERS), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cpu in CpuId::first(WRITERS) {
            let (busy, done) = (&busy, &done);
            scope.spawn(move || {
                let _cpu = world.host.enter(cpu);
                let mine = shared + 8 * (cpu.get() as u64 + 1);
                let mut random = Random::new(cpu.get() as u64 + 1);
                for round in 0..150_u64 {
                    let own = whole(world, 1 + random.below(700));
                    let middle = random.below(own.pages().get() + 1);
                    write_round(world, mine, SHARED, round, own, middle, 5);
                }
                done.store(busy.fetch_sub(1, Ordering::SeqCst) == 1, Ordering::SeqCst);
            });
        }
        let (done, moved) = (&done, &moved);
        scope.spawn(move || {
            let _cpu = world.host.enter(CpuId::new(WRITERS).unwrap());
            let mut random = Random::new(99);
            while !done.load(Ordering::SeqCst) {
                let frame = Gfn::new(random.below(16 * 512));
                if random.below(20) == 0 {
                    moved.fetch_add(world.evacuate(&world.block_of(frame)).get(), Ordering::Relaxed);
                }
                moved.fetch_add(u64::from(world.migrate(frame).is_ok()), Ordering::Relaxed);
            }
        });
        scope.spawn(move || {
            let _cpu = world.host.enter(CpuId::new(WRITERS + 1).unwrap());
            while !done.load(Ordering::SeqCst) {
                world.scan(pages(300));
                std::thread::yield_now();
            }
        });
    });
    let _cpu = world.host.enter(CpuId::BOOT);
    for word in (0..WRITERS as u64).map(|writer| shared + 8 * (writer + 1)) {
        assert!((0..SHARED).all(|page| world.load(word + page * PAGE) == Ok(150)));
    }
    assert!(moved.load(Ordering::Relaxed) > 100, "pages moved meanwhile");
    assert_eq!(world.stats().migrated, moved.load(Ordering::Relaxed));
    world.validate();
    world.release(region);
    world.validate();
    assert_eq!((world.stats().resident, world.committed_exactly()), (pages(0), pages(0)));
}

#[test]
fn many_cpus_fault_one_page_and_one_wins() {
    const CPUS: usize = 4;
    let world = World::new(4, CPUS);
    let region = {
        let _cpu = world.host.enter(CpuId::BOOT);
        whole(world, 512)
    };
    let address = region.address();
    let gate = std::sync::Barrier::new(CPUS);
    std::thread::scope(|scope| {
        for cpu in CpuId::first(CPUS) {
            let gate = &gate;
            scope.spawn(move || {
                let _cpu = world.host.enter(cpu);
                gate.wait();
                for page in 0..512 {
                    world.access(address + page * PAGE, |word| word.fetch_add(1, Ordering::Relaxed)).unwrap();
                }
            });
        }
    });
    let _cpu = world.host.enter(CpuId::BOOT);
    assert!((0..512).all(|page| world.load(address + page * PAGE) == Ok(CPUS as u64)));
    assert_eq!((world.stats().filled, world.stats().resident), (512, pages(512)));
    world.validate();
    world.release(region);
    world.validate();
}
