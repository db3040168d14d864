//! Paged memory over the real swap space: slots, frontswap and a tier, turned off and on under load.

use core::sync::atomic::{AtomicBool, Ordering};
use std::boxed::Box;

use percpu::CpuId;
use percpu::host::Host;

use super::sim::World;
use super::*;
use crate::mm::frame::tests::Random;
use crate::swap::slots::Slots;
use crate::swap::space::SwapSpace;
use crate::swap::tiers::SameTier;
use crate::tmem::frontswap::Frontswap;
use crate::tmem::tier::{SwapType, Tier};

const PAGE: u64 = FRAME_SIZE as u64;

/// Swap as the image has it, but for the pool.
struct Swapping {
    world: World,
    space: &'static SwapSpace<'static, Host>,
    frontswap: &'static Frontswap<'static, Host>,
    same: &'static SameTier,
}

impl Swapping {
    fn new(blocks: u64, cpus: usize, count: u64) -> Self {
        let world = World::new(blocks, cpus);
        let _cpu = world.host.enter(CpuId::BOOT);
        let swap = SwapType::new(0).unwrap();
        let slots = Slots::new(count).unwrap();
        let same: &SameTier = Box::leak(Box::new(SameTier::new(swap, slots.count()).unwrap()));
        let tiers: &[&dyn Tier] = Box::leak(Box::new([same as &dyn Tier]));
        let frontswap: &Frontswap<'_, Host> = Box::leak(Box::new(Frontswap::new(world.host, tiers)));
        frontswap.init(swap, slots.count()).unwrap();
        let space: &SwapSpace<'_, Host> =
            Box::leak(Box::new(SwapSpace::new(frontswap, swap, slots, || false)));
        world.set_swap(space).unwrap();
        Self { world, space, frontswap, same }
    }

    fn turn_off(&self) -> bool {
        let world = &self.world;
        let bring_home = || world.bring_home(Frames::new(u64::MAX), || true);
        self.space.turn_off(bring_home, || world.stats().swapped, std::thread::yield_now)
    }

    /// Frontswap, its tier, the slots and paged memory agree on how many pages are out.
    fn assert_out(&self, pages: u64) {
        let (front, same) = (self.frontswap.curr_pages(), self.same.pages());
        let (slots, out) = (self.space.slots().used(), self.world.stats().swapped.get());
        assert_eq!([front, same, slots, out], [pages; 4]);
    }

    /// Fills a page with its number and a salt, in every word.
    fn fill(&self, region: u64, page: u64, salt: u64) {
        (0..512).for_each(|word| self.world.store(region + page * PAGE + 8 * word, page ^ salt).unwrap());
    }

    fn is_right(&self, region: u64, page: u64, salt: u64) -> bool {
        (0..512).all(|word| self.world.load(region + page * PAGE + 8 * word) == Ok(page ^ salt))
    }
}

#[test]
fn swap_that_is_turned_off_takes_nothing_and_has_nothing() {
    let swapping = Swapping::new(4, 1, 3000);
    let world = swapping.world;
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(Frames::new(700), Charge::Whole).unwrap();
    (0..700).for_each(|page| swapping.fill(region.address(), page, 1));
    assert_eq!(world.reclaim(Frames::new(u64::MAX)).freed, Frames::new(700));
    swapping.assert_out(700);
    assert!(swapping.turn_off());
    swapping.assert_out(0);
    let outcome = world.reclaim(Frames::new(10));
    assert!(outcome.full && outcome.freed == Frames::ZERO, "{outcome:?}");
    assert!(swapping.turn_off(), "once more is no harm");
    swapping.space.turn_on();
    assert_eq!(world.reclaim(Frames::new(u64::MAX)).freed, Frames::new(700));
    assert!((0..700).all(|page| swapping.is_right(region.address(), page, 1)));
    swapping.assert_out(0);
    world.release(region);
    world.validate();
}

#[test]
fn without_memory_for_its_pages_swap_stays_on() {
    let swapping = Swapping::new(2, 1, 8000);
    let world = swapping.world;
    let _cpu = world.host.enter(CpuId::BOOT);
    // Two of them are more than fits.
    let most = Frames::new(world.frames.stats().available().get() * 3 / 4);
    let [first, second] = [1, 2].map(|salt| {
        let region = world.reserve(most, Charge::ByCaller).unwrap();
        (0..most.get()).for_each(|page| swapping.fill(region.address(), page, salt));
        assert_eq!(world.reclaim(most).freed, most);
        region
    });
    assert!(!swapping.turn_off());
    let out = world.stats().swapped.get();
    assert!(out > most.get() / 3, "{out} could not come");
    swapping.assert_out(out);
    // And pages still leave.
    assert!(world.reclaim(most).freed > Frames::new(100));
    assert!((0..most.get()).step_by(9).all(|page| swapping.is_right(first.address(), page, 1)));
    world.release(first);
    assert!(swapping.turn_off());
    assert!((0..most.get()).all(|page| swapping.is_right(second.address(), page, 2)));
    world.release(second);
    swapping.assert_out(0);
    world.validate();
}

#[test]
fn turning_off_and_on_races_with_everything() {
    const USERS: usize = 3;
    const PAGES: u64 = 150;
    let swapping = Swapping::new(6, USERS + 2, 3000);
    let swapping = &swapping;
    let world = swapping.world;
    let done = AtomicBool::new(false);
    let done = &done;
    std::thread::scope(|scope| {
        let users: [_; USERS] = core::array::from_fn(|user| {
            scope.spawn(move || {
                let _cpu = world.host.enter(CpuId::new(user).unwrap());
                for round in 0..12 {
                    let salt = (round << 8 | user as u64) << 32;
                    let region = world.reserve(Frames::new(PAGES), Charge::ByCaller).unwrap();
                    (0..PAGES).for_each(|page| swapping.fill(region.address(), page, salt));
                    std::thread::yield_now();
                    assert!((0..PAGES).all(|page| swapping.is_right(region.address(), page, salt)));
                    // Some are out when it goes.
                    let _ = world.reclaim(Frames::new(PAGES));
                    world.release(region);
                }
            })
        });
        let evictor = scope.spawn(move || {
            let _cpu = world.host.enter(CpuId::new(USERS).unwrap());
            let mut random = Random::new(4);
            while !done.load(Ordering::SeqCst) {
                let _ = world.reclaim(Frames::new(1 + random.below(300)));
                world.bring_home(Frames::new(random.below(100)), || true);
                std::thread::yield_now();
            }
        });
        let switcher = scope.spawn(move || {
            let _cpu = world.host.enter(CpuId::new(USERS + 1).unwrap());
            let mut times = 0;
            while !done.load(Ordering::SeqCst) {
                if swapping.turn_off() {
                    times += 1;
                    swapping.space.turn_on();
                }
                std::thread::yield_now();
            }
            times
        });
        let results = users.map(std::thread::ScopedJoinHandle::join);
        done.store(true, Ordering::SeqCst);
        assert!(results.iter().all(Result::is_ok) && evictor.join().is_ok());
        assert!(switcher.join().unwrap() > 0, "it was never off");
    });
    let _cpu = world.host.enter(CpuId::BOOT);
    assert!(world.stats().swap_outs > 1000, "{:?}", world.stats());
    swapping.assert_out(0);
    assert_eq!(world.stats().swap_lost, 0);
    world.validate();
}
