//! Pages that leave and come back, on a machine of arrays.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::boxed::Box;
use std::vec::Vec;

use percpu::CpuId;

use super::sim::{Shelf, World};
use super::tests::write_round;
use super::*;
use crate::mm::frame::tests::Random;

const PAGE: u64 = FRAME_SIZE as u64;

fn pages(count: u64) -> Frames {
    Frames::new(count)
}

/// Frees memory by taking pages out.
struct Reclaim(World);

impl Shortage for Reclaim {
    fn relieve(&self, need: Frames, context: Context) -> bool {
        let outcome = self.0.reclaim(need);
        context == Context::MayBlock && (outcome.freed > Frames::ZERO || outcome.busy)
    }
}

fn reclaim_on_shortage(world: World) {
    world.set_shortage(Box::leak(Box::new(Reclaim(world))));
}

/// A world with a region of which each page holds its number.
fn filled(blocks: u64, count: u64) -> (World, &'static Shelf, Region) {
    let world = World::new(blocks, 1);
    let shelf = world.attach_swap();
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(pages(count), Charge::Whole).unwrap();
    (0..count).for_each(|page| world.store(region.address() + page * PAGE, page + 1).unwrap());
    (world, shelf, region)
}

#[test]
fn a_page_leaves_and_comes_back_as_it_was() {
    let (world, shelf, region) = filled(4, 600);
    let _cpu = world.host.enter(CpuId::BOOT);
    let at = |page: u64| region.address() + page * PAGE;
    (0..512).for_each(|word| world.store(at(5) + 8 * word, word * 3).unwrap());
    let free = world.frames.stats().available();
    let outcome = world.reclaim(pages(u64::MAX));
    assert_eq!(outcome, Reclaimed { freed: pages(600), ..Reclaimed::default() });
    assert_eq!(world.frames.stats().available(), free + pages(600));
    let stats = world.stats();
    assert_eq!((stats.resident, stats.swapped, stats.swap_outs), (pages(0), pages(600), 600));
    assert_eq!((stats.active, world.stats().swapped, shelf.len()), (pages(0), pages(600), 600));
    world.validate();
    assert!((0..512).all(|word| world.load(at(5) + 8 * word) == Ok(word * 3)));
    for page in (0..600).filter(|page| *page != 5) {
        assert_eq!(world.load(at(page)), Ok(page + 1));
    }
    let stats = world.stats();
    assert_eq!((stats.swapped, stats.swap_ins, stats.resident), (pages(0), 600, pages(600)));
    assert_eq!((shelf.len(), shelf.loads.load(Ordering::Relaxed)), (0, 600), "nothing stays behind");
    world.validate();
    world.release(region);
    world.validate();
}

#[test]
fn what_is_used_stays_longer() {
    let (world, _, region) = filled(4, 600);
    let _cpu = world.host.enter(CpuId::BOOT);
    let at = |page: u64| region.address() + page * PAGE;
    // Twice round: everything was accessed once; then only some.
    world.scan(pages(u64::MAX));
    world.scan(pages(u64::MAX));
    (0..600).step_by(3).for_each(|page| assert_eq!(world.load(at(page)), Ok(page + 1)));
    assert_eq!(world.reclaim(pages(400)).freed, pages(400));
    let there = |page: &u64| world.frame_of(at(*page)).is_some();
    assert_eq!((0..600).filter(there).count(), 200);
    assert!((0..600).step_by(3).all(|page| there(&page)));
    world.validate();
    world.release(region);
}

#[test]
fn without_swap_nothing_leaves_and_exhaustion_is_a_value() {
    let world = World::new(2, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    reclaim_on_shortage(world);
    assert!(!world.has_swap());
    let region = world.reserve(pages(2000), Charge::ByCaller).unwrap();
    assert!(matches!(world.populate(&region, 0..2000), Err(PopulateError::Page(_, FaultError::NoFrame(_)))));
    assert_eq!(world.reclaim(pages(1)), Reclaimed::default());
    world.validate();
    world.release(region);
}

#[test]
fn more_than_memory_fits_when_pages_can_leave() {
    let world = World::new(2, 1);
    let shelf = world.attach_swap();
    let _cpu = world.host.enter(CpuId::BOOT);
    reclaim_on_shortage(world);
    let region = world.reserve(pages(5000), Charge::ByCaller).unwrap();
    let at = |page: u64| region.address() + page * PAGE;
    (0..5000).for_each(|page| world.store(at(page) + 8, page ^ 77).unwrap());
    world.validate();
    let mut random = Random::new(3);
    for _ in 0..10_000 {
        let page = random.below(5000);
        assert_eq!(world.load(at(page) + 8), Ok(page ^ 77));
    }
    let stats = world.stats();
    assert!(stats.swap_ins > 5000 && stats.refaulted > 0 && stats.refaulted < stats.swap_ins, "{stats:?}");
    // No more room: a value for who can take one, and nothing is lost.
    shelf.full.store(true, Ordering::Relaxed);
    world.discard(&region, 0..1).unwrap();
    assert!(matches!(world.populate(&region, 0..5000), Err(PopulateError::Page(_, FaultError::NoFrame(_)))));
    shelf.full.store(false, Ordering::Relaxed);
    assert!((1..5000).all(|page| world.load(at(page) + 8) == Ok(page ^ 77)));
    world.validate();
    world.release(region);
    world.validate();
    assert_eq!(shelf.len(), 0);
}

#[test]
fn what_is_discarded_or_released_leaves_swap() {
    let (world, shelf, region) = filled(4, 1100);
    let _cpu = world.host.enter(CpuId::BOOT);
    assert_eq!(world.reclaim(pages(1000)).freed, pages(1000));
    let flushes = world.sim.flushes.load(Ordering::Relaxed);
    let at = |page: u64| region.address() + page * PAGE;
    let away: Vec<u64> = (0..1100).filter(|page| world.frame_of(at(*page)).is_none()).collect();
    for page in &away[..300] {
        world.discard(&region, *page..*page + 1).unwrap();
    }
    assert_eq!(world.sim.flushes.load(Ordering::Relaxed) - flushes, 0, "no CPU knew those pages");
    assert_eq!((world.stats().swapped, shelf.len()), (pages(700), 700));
    world.validate();
    assert_eq!(world.load(at(away[0])), Ok(0));
    assert_eq!(world.load(at(away[300])), Ok(away[300] + 1));
    world.release(region);
    assert_eq!((world.stats().swapped, shelf.len()), (pages(0), 0));
    world.validate();
}

#[test]
fn a_refusal_keeps_the_page_and_a_loss_is_named() {
    let (world, shelf, region) = filled(4, 300);
    let _cpu = world.host.enter(CpuId::BOOT);
    let at = |page: u64| region.address() + page * PAGE;
    shelf.refuse_each.store(3, Ordering::Relaxed);
    let outcome = world.reclaim(pages(100));
    assert_eq!(outcome.freed, pages(100));
    assert!(outcome.refused >= 45 && !outcome.full, "{outcome:?}");
    assert_eq!(world.stats().swap_refused, outcome.refused);
    world.validate();
    shelf.full.store(true, Ordering::Relaxed);
    let full = world.reclaim(pages(1));
    assert_eq!((full.freed, full.refused, full.full), (pages(0), 1, true));
    world.validate();
    let away = (0..300).find(|page| world.frame_of(at(*page)).is_none()).unwrap();
    shelf.losing.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let Err(FaultError::Lost(_, lost)) = world.load(at(away)) else { panic!("zeros for a lost page") };
        assert_eq!(lost.holder, "the shelf");
    }
    assert_eq!((world.stats().swap_lost, world.stats().swapped), (2, pages(100)));
    assert_eq!(world.bring_home(pages(300), || true), pages(0));
    world.validate();
    shelf.losing.store(false, Ordering::Relaxed);
    assert!((0..300).all(|page| world.load(at(page)) == Ok(page + 1)), "it was a passing trouble");
    world.release(region);
    assert_eq!(shelf.len(), 0);
    world.validate();
}

#[test]
fn pages_come_home_while_there_is_room() {
    let (world, shelf, region) = filled(4, 1000);
    let _cpu = world.host.enter(CpuId::BOOT);
    assert_eq!(world.reclaim(pages(900)).freed, pages(900));
    assert_eq!(world.bring_home(pages(250), || true), pages(250));
    let mut room = 100;
    let has_room = || {
        room -= 1;
        room >= 0
    };
    assert_eq!(world.bring_home(pages(u64::MAX), has_room), pages(100));
    assert_eq!((world.stats().swapped, shelf.len()), (pages(550), 550));
    world.validate();
    assert_eq!(world.bring_home(pages(u64::MAX), || true), pages(550));
    assert!((0..1000).all(|page| world.frame_of(region.address() + page * PAGE).is_some()));
    assert!((0..1000).all(|page| world.load(region.address() + page * PAGE) == Ok(page + 1)));
    world.release(region);
    world.validate();
}

#[test]
fn a_page_that_is_touched_on_its_way_out_stays() {
    let (world, shelf, region) = filled(4, 1);
    let address = region.address();
    let _cpu = world.host.enter(CpuId::BOOT);
    // The write comes after the copy was made: were the copy used, it would be lost.
    *shelf.in_store.lock().unwrap() = Some(Box::new(move || world.store(address, 99).unwrap()));
    let outcome = world.reclaim(pages(1));
    // The next time round it goes.
    assert_eq!((outcome.freed, outcome.kept), (pages(1), 1));
    assert_eq!((world.stats().kept, shelf.len()), (1, 1));
    assert_eq!(world.load(address), Ok(99));
    // And if it is discarded meanwhile, its frame is freed once, and the copy forgotten.
    let start = world.detach(region);
    *shelf.in_store.lock().unwrap() = Some(Box::new(move || {
        let region = world.attach(core::ptr::NonNull::new(address as *mut u8).unwrap()).unwrap();
        world.release(region);
    }));
    assert_eq!(start.addr().get() as u64, address);
    let outcome = world.reclaim(pages(1));
    assert_eq!((outcome.freed, outcome.kept, shelf.len()), (pages(0), 1, 0));
    world.validate();
}

#[test]
fn a_page_that_many_need_is_loaded_once() {
    const CPUS: usize = 4;
    let world = World::new(4, CPUS);
    let shelf = world.attach_swap();
    let region = {
        let _cpu = world.host.enter(CpuId::BOOT);
        let region = world.reserve(pages(512), Charge::Whole).unwrap();
        (0..512).for_each(|page| world.store(region.address() + page * PAGE, page).unwrap());
        assert_eq!(world.reclaim(pages(512)).freed, pages(512));
        region
    };
    let gate = std::sync::Barrier::new(CPUS);
    std::thread::scope(|scope| {
        for cpu in CpuId::first(CPUS) {
            let (gate, address) = (&gate, region.address());
            scope.spawn(move || {
                let _cpu = world.host.enter(cpu);
                gate.wait();
                for page in 0..512 {
                    assert_eq!(world.load(address + page * PAGE), Ok(page));
                }
            });
        }
    });
    let _cpu = world.host.enter(CpuId::BOOT);
    assert_eq!((shelf.loads.load(Ordering::Relaxed), world.stats().swap_ins), (512, 512));
    world.validate();
    world.release(region);
}

/// Everything at once: CPUs that write, discard and release; CPUs that take pages out; one that brings them home; one
/// that moves and scans. Swap refuses now and then. Each word has one writer, which knows what it must read.
#[test]
fn cpus_write_while_pages_leave_and_come_back() {
    const WRITERS: usize = 3;
    const OTHERS: usize = 4;
    const SHARED: u64 = 60;
    const ROUNDS: u64 = 60;
    let world = World::new(6, WRITERS + OTHERS);
    let shelf = world.attach_swap();
    shelf.refuse_each.store(7, Ordering::Relaxed);
    let region = {
        let _cpu = world.host.enter(CpuId::BOOT);
        reclaim_on_shortage(world);
        world.reserve(pages(SHARED), Charge::Whole).unwrap()
    };
    let shared = region.address();
    let (busy, done) = (AtomicUsize::new(WRITERS), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for cpu in CpuId::first(WRITERS) {
            let (busy, done) = (&busy, &done);
            scope.spawn(move || {
                let _cpu = world.host.enter(cpu);
                let mine = shared + 8 * (cpu.get() as u64 + 1);
                let mut random = Random::new(cpu.get() as u64 + 1);
                for round in 0..ROUNDS {
                    let count = 1 + random.below(600);
                    let own = world.reserve(pages(count), Charge::ByCaller).unwrap();
                    write_round(world, mine, SHARED, round, own, random.below(count + 1), 1);
                }
                done.store(busy.fetch_sub(1, Ordering::SeqCst) == 1, Ordering::SeqCst);
            });
        }
        let done = &done;
        for number in 0..OTHERS {
            scope.spawn(move || {
                let _cpu = world.host.enter(CpuId::new(WRITERS + number).unwrap());
                let mut random = Random::new(number as u64 + 50);
                while !done.load(Ordering::SeqCst) {
                    match number {
                        0 | 1 => {
                            let _ = world.reclaim(pages(1 + random.below(200)));
                        }
                        2 => {
                            world.bring_home(pages(random.below(100)), || true);
                        }
                        _ => {
                            let _ = world.migrate(crate::units::Gfn::new(random.below(6 * 512)));
                            world.scan(pages(random.below(300)));
                        }
                    }
                    std::thread::yield_now();
                }
            });
        }
    });
    let _cpu = world.host.enter(CpuId::BOOT);
    for word in (0..WRITERS as u64).map(|writer| shared + 8 * (writer + 1)) {
        assert!((0..SHARED).all(|page| world.load(word + page * PAGE) == Ok(ROUNDS)));
    }
    let stats = world.stats();
    assert!(stats.swap_outs > 1000 && stats.swap_ins > 100, "{stats:?}");
    world.validate();
    world.release(region);
    world.validate();
    let stats = world.stats();
    assert_eq!((stats.resident, stats.swapped, shelf.len()), (pages(0), pages(0), 0));
}
