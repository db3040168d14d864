//! Paged memory over the compressed pool, which lives in the same memory: it needs frames when there are none.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::boxed::Box;
use std::vec::Vec;

use percpu::host::Host;
use percpu::{CpuId, Cpus};

use super::sim::World;
use super::*;
use crate::mm::frame::tests::Random;
use crate::mm::frame::{Contents, Extent, Request, Use};
use crate::mm::pool_frames::{FrameBytes, PoolFrames};
use crate::swap::cold::make_room;
use crate::swap::pool::{Config as PoolConfig, Pool, Settings};
use crate::swap::slots::Slots;
use crate::swap::space::SwapSpace;
use crate::swap::tiers::{PoolTier, SameTier};
use crate::tmem::frontswap::{Frontswap, Relief};
use crate::tmem::tier::{SwapType, Tier};

const PAGE: u64 = FRAME_SIZE as u64;

/// Frames of the world, with bytes beside them.
struct WorldFrames {
    world: World,
    refused: AtomicU64,
}

impl WorldFrames {
    fn cpu(&self) -> VcpuId {
        VcpuId::new(self.world.host.current_cpu().get() as u32)
    }
}

impl PoolFrames for WorldFrames {
    type Frame = (Extent, Box<FrameBytes>);
    fn allocate(&self) -> Option<Self::Frame> {
        let frame = self.world.frames.alloc(Request::new(Use::Kernel, self.cpu()).emergency()).ok();
        self.refused.fetch_add(u64::from(frame.is_none()), Ordering::Relaxed);
        frame.map(|frame| (frame, Box::new([0xDB; FRAME_SIZE])))
    }
    fn free(&self, frame: Self::Frame) {
        self.world.frames.free(frame.0, Contents::Unknown, self.cpu()).unwrap();
    }
    fn bytes<'f>(&self, frame: &'f Self::Frame) -> &'f FrameBytes {
        &frame.1
    }
    fn bytes_mut<'f>(&self, frame: &'f mut Self::Frame) -> &'f mut FrameBytes {
        &mut frame.1
    }
}

/// Frees memory by taking pages out, and sees to it that this never needs itself.
struct Reclaim {
    world: World,
    inside: AtomicBool,
    calls: AtomicU64,
}

impl Shortage for Reclaim {
    fn relieve(&self, need: Frames, context: Context) -> bool {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "reclaim wants what it is reclaiming");
        self.calls.fetch_add(1, Ordering::Relaxed);
        let outcome = self.world.reclaim(need);
        self.inside.store(false, Ordering::SeqCst);
        context == Context::MayBlock && outcome.freed > Frames::ZERO
    }
}

/// Swap as the image has it, on a machine of arrays with one CPU.
struct Swapping {
    world: World,
    front: &'static Frontswap<'static, Host>,
    pool: &'static PoolTier<&'static WorldFrames, Host>,
    frames: &'static WorldFrames,
    reclaim: &'static Reclaim,
}

fn kept<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn swapping(blocks: u64, limit: u64) -> Swapping {
    let world = World::new(blocks, 1);
    let _cpu = world.host.enter(CpuId::BOOT);
    let frames = kept(WorldFrames { world, refused: AtomicU64::new(0) });
    let settings = Settings::new(Frames::new(limit));
    let config = PoolConfig { capacity: Frames::new(blocks * 512), shards: 1, checksum: true, settings };
    let (swap, slots) = (SwapType::new(0).unwrap(), Slots::new(8192).unwrap());
    let pool =
        kept(PoolTier::new(Pool::new(frames, world.host, config).unwrap(), swap, slots.count()).unwrap());
    let same = kept(SameTier::new(swap, slots.count()).unwrap());
    let front = kept(Frontswap::new(world.host, kept([same as &dyn Tier, pool])));
    front.init(swap, slots.count()).unwrap();
    world.set_swap(kept(SwapSpace::new(front, swap, slots, || false))).unwrap();
    let reclaim = kept(Reclaim { world, inside: AtomicBool::new(false), calls: AtomicU64::new(0) });
    world.set_shortage(reclaim);
    Swapping { world, front, pool, frames, reclaim }
}

impl Swapping {
    /// Fills the beginning of a page with so many words of noise.
    fn fill(&self, address: u64, words: u64) -> Result<(), FaultError> {
        let mut random = Random::new(address);
        (0..words).try_for_each(|word| self.world.store(address + 8 * word, random.next()))
    }

    fn is_right(&self, address: u64, words: u64) -> bool {
        let mut random = Random::new(address);
        (0..512).all(|word| {
            let wanted = if word < words { random.next() } else { 0 };
            self.world.load(address + 8 * word) == Ok(wanted)
        })
    }
}

#[test]
fn more_data_than_memory_fits_as_long_as_it_gets_small() {
    let swapping = swapping(1, 400);
    let world = swapping.world;
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(Frames::new(900), Charge::ByCaller).unwrap();
    let at = |page: u64| region.address() + page * PAGE;
    (0..900).for_each(|page| swapping.fill(at(page), 60).unwrap());
    assert!((0..900).all(|page| swapping.is_right(at(page), 60)));
    assert!(swapping.reclaim.calls.load(Ordering::Relaxed) > 0);
    world.validate();
    swapping.pool.pool().validate().unwrap();
    world.release(region);
    assert_eq!((swapping.front.curr_pages(), swapping.pool.pool().frames().0), (0, Frames::ZERO));
    world.validate();
}

#[test]
fn what_does_not_get_small_is_an_error_of_who_asks_for_more() {
    let swapping = swapping(1, 400);
    let world = swapping.world;
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(Frames::new(900), Charge::ByCaller).unwrap();
    let at = |page: u64| region.address() + page * PAGE;
    let failed = (0..900).find(|page| swapping.fill(at(*page), 512).is_err()).unwrap();
    assert!(matches!(swapping.fill(at(failed), 512), Err(FaultError::NoFrame(_))));
    assert!((0..failed).all(|page| swapping.is_right(at(page), 512)), "nothing is lost");
    assert!(swapping.pool.pool().stats().refused_incompressible > 0);
    world.validate();
    world.release(region);
}

#[test]
fn a_pool_that_finds_no_frame_refuses_and_asks_nobody_to_reclaim() {
    let swapping = swapping(1, 400);
    let world = swapping.world;
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(Frames::new(200), Charge::Whole).unwrap();
    let at = |page: u64| region.address() + page * PAGE;
    (0..200).for_each(|page| swapping.fill(at(page), 60).unwrap());
    // Everything is gone, the reserve, too.
    let cpu = VcpuId::new(0);
    let last = || world.frames.alloc(Request::new(Use::Kernel, cpu).emergency()).ok();
    let hoard: Vec<_> = core::iter::from_fn(last).collect();
    assert_eq!(world.frames.stats().free, Frames::ZERO);
    let outcome = world.reclaim(Frames::new(10));
    assert!(outcome.freed == Frames::ZERO && outcome.refused > 0, "{outcome:?}");
    assert!(swapping.frames.refused.load(Ordering::Relaxed) > 0 && swapping.pool.is_crowded());
    assert_eq!(swapping.reclaim.calls.load(Ordering::Relaxed), 0, "the pool had others reclaim for it");
    // One frame for what is stored and one for its books are enough to begin with.
    for frame in hoard {
        world.frames.free(frame, Contents::Unknown, cpu).unwrap();
    }
    assert_eq!(world.reclaim(Frames::new(100)).freed, Frames::new(100));
    assert!((0..200).all(|page| swapping.is_right(at(page), 60)));
    world.validate();
    world.release(region);
}

#[test]
fn cold_pages_come_home_from_a_pool_that_is_full_while_there_is_room() {
    let swapping = swapping(4, 20);
    let world = swapping.world;
    let _cpu = world.host.enter(CpuId::BOOT);
    let region = world.reserve(Frames::new(400), Charge::Whole).unwrap();
    let at = |page: u64| region.address() + page * PAGE;
    (0..400).for_each(|page| swapping.fill(at(page), 60).unwrap());
    let outcome = world.reclaim(Frames::new(400));
    assert!(outcome.refused > 0 && swapping.pool.is_full(), "{outcome:?}");
    let stored = |page: u64| world.frame_of(at(page)).is_none();
    let out: Vec<u64> = (0..400).filter(|page| stored(*page)).collect();
    // Without room nobody comes, and nothing changes.
    let relief = make_room(world.paged, swapping.front, || false);
    assert_eq!((relief.brought_home, relief.written_on, relief.stayed), (0, 0, 32));
    assert_eq!((0..400).filter(|page| stored(*page)).count(), out.len());
    let mut home = 0;
    while swapping.pool.is_crowded() {
        let relief = make_room(world.paged, swapping.front, || true);
        assert!(relief.brought_home > 0, "{relief:?}");
        home += relief.brought_home;
    }
    let left: Vec<u64> = (0..400).filter(|page| stored(*page)).collect();
    assert_eq!((out.len() - left.len()) as u64, home);
    assert_eq!(make_room(world.paged, swapping.front, || true), Relief::default());
    let counters = swapping.front.counters();
    assert_eq!((counters.brought_home, counters.stayed), (home, 32));
    // There is room for others now.
    assert!(world.reclaim(Frames::new(20)).freed > Frames::ZERO);
    assert!((0..400).all(|page| swapping.is_right(at(page), 60)));
    world.validate();
    world.release(region);
    world.validate();
}
