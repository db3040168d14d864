//! The exchange with a host that is a set of frames. The whole way, over hypercalls, is tested with the model
//! hypervisor in the test crate.

use super::*;
use crate::mm::direct_map::fake::FakeMap;
use crate::mm::frame::{Block, Config, Entry, FrameState, Layout, Metadata, TicketLocks};
use crate::port::{Completed, MapEntry, SpecialPage};
use crate::units::FrameRange;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::vec::Vec;
use xen_abi::Errno;

/// Frames in the test's machine: four blocks.
const FRAMES: u64 = 2048;

/// A host that has given the guest the frames in a set, and takes and gives until a number of frames has moved.
struct Host {
    there: Mutex<BTreeSet<u64>>,
    patience: Mutex<u64>,
}

impl Host {
    fn new() -> Self {
        Self { there: Mutex::new((0..FRAMES).collect()), patience: Mutex::new(u64::MAX) }
    }

    fn moves(
        &self,
        order: Order,
        list: &[Gfn],
        change: impl Fn(&mut BTreeSet<u64>, u64) -> bool,
    ) -> Completed {
        let (mut there, mut patience) = (self.there.lock().unwrap(), self.patience.lock().unwrap());
        let mut one = |frame| {
            *patience > 0 && change(&mut there, frame) && {
                *patience -= 1;
                true
            }
        };
        let extent = |first: &&Gfn| (first.get()..first.get() + order.frames().get()).all(&mut one);
        Completed::new(list.iter().take_while(extent).count())
    }
}

// SAFETY: no memory is behind these frames at all.
unsafe impl MemoryOps for Host {
    fn current_reservation(&self) -> Result<Frames, Errno> {
        Ok(Frames::new(self.there.lock().unwrap().len() as u64))
    }
    fn maximum_reservation(&self) -> Result<Frames, Errno> {
        Ok(Frames::new(FRAMES))
    }
    fn maximum_gpfn(&self) -> Result<Gfn, Errno> {
        Ok(Gfn::new(FRAMES))
    }
    fn memory_map(&self, _: &mut [MapEntry]) -> Result<usize, Errno> {
        Err(Errno::ENOSYS)
    }
    unsafe fn decrease_reservation(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno> {
        Ok(self.moves(order, extents, |there, frame| there.remove(&frame)))
    }
    unsafe fn populate_physmap(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno> {
        Ok(self.moves(order, extents, |there, frame| {
            assert!(there.insert(frame), "frame {frame:#x} is populated over");
            true
        }))
    }
    fn increase_reservation(&self, _: Order, _: usize) -> Result<Completed, Errno> {
        Ok(Completed::new(0))
    }
    unsafe fn map_special(&self, _: SpecialPage, _: Gfn) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
    unsafe fn unmap_special(&self, _: Gfn) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
}

impl HvmOps for Host {
    fn get_param(&self, _: crate::port::HvmParam) -> Result<u64, Errno> {
        Err(Errno::ENOSYS)
    }
    fn set_param(&self, _: crate::port::HvmParam, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
    fn set_upcall_vector(&self, _: VcpuId, _: u8) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
    fn frame_type(&self, frame: Gfn) -> Result<FrameType, Errno> {
        let there = self.there.lock().unwrap().contains(&frame.get());
        Ok(if there { FrameType::ReadWrite } else { FrameType::HoleOrDevice })
    }
}

type Tested<'a, 'm> = Exchange<'a, 'm, &'a Host, &'a FakeMap<'a>, TicketLocks>;

fn with(test: impl FnOnce(&Tested<'_, '_>)) {
    let memory = [FrameRange::new(Gfn::new(0), Gfn::new(FRAMES))];
    let layout = Layout::for_map(&memory).unwrap();
    let mut entries: Vec<_> = (0..layout.entries()).map(|_| Entry::unused()).collect();
    let mut blocks: Vec<_> = (0..layout.blocks()).map(|_| Block::new()).collect();
    let metadata = Metadata { entries: &mut entries, blocks: &mut blocks, magazines: &mut [] };
    let frames = FrameAllocator::new(Config { memory: &memory, reserved: &[], id: 9 }, metadata).unwrap();
    let (host, map) = (Host::new(), FakeMap::new());
    // SAFETY: the host is a set of numbers, and the map is another: no memory is touched.
    let exchange = unsafe { Exchange::new(&host, &map, &frames) };
    test(&exchange);
    // Whatever happened: every frame is either free memory that is shown, or a hole that is in the balloon.
    frames.validate().unwrap();
    for frame in (0..FRAMES).map(Gfn::new) {
        let there = host.there.lock().unwrap().contains(&frame.get());
        match frames.state(frame) {
            FrameState::Free(..) => assert!(there && !map.is_hidden(frame), "{frame}"),
            FrameState::Ballooned => assert!(!there && map.is_gone(frame), "{frame}"),
            other => assert_eq!(exchange.limbo(), Frames::new(1), "{frame} is {other:?}"),
        }
    }
}

fn take<const N: usize>(exchange: &Tested<'_, '_>, lot: &mut Lot<Owned, N>, blocks: usize) {
    for _ in 0..blocks {
        exchange.collect(lot, exchange.frames().take_block_for_balloon(Contents::Unknown).unwrap());
    }
}

#[test]
fn a_lot_goes_out_in_one_call_and_comes_back_in_one() {
    with(|exchange| {
        let mut out = Lot::<Owned, 4>::new();
        take(exchange, &mut out, 3);
        let released = exchange.release(&mut out, false, || false);
        assert_eq!((released.gone, released.kept, released.stopped), (Frames::new(1536), Frames::ZERO, None));
        assert!(out.is_empty());
        assert_eq!((exchange.stats().release_calls, exchange.map().settles()), (1, 1));
        let mut back = Lot::<Ballooned, 4>::new();
        exchange.withdraw(&mut back, Order::BLOCK, 99);
        let populated = exchange.populate(&mut back, Frames::ZERO);
        assert_eq!((populated.usable, populated.stopped), (Frames::new(1536), None));
        assert_eq!(exchange.stats().populate_calls, 1);
    });
}

#[test]
fn a_host_may_stop_at_any_frame_on_the_way_out() {
    for patience in [0, 1, 511, 512, 513, 700, 1023, 1024, 1535] {
        with(|exchange| {
            let mut out = Lot::<Owned, 4>::new();
            take(exchange, &mut out, 3);
            *exchange.port().patience.lock().unwrap() = patience;
            let released = exchange.release(&mut out, true, || false);
            assert_eq!(released.gone, Frames::new(patience));
            assert_eq!(released.kept, Frames::new(1536 - patience));
            assert_eq!(released.stopped, Some(Stop::Refused));
            assert_eq!(exchange.frames().stats().known_zero, released.kept, "scrubbed, and still so");
            assert_eq!(exchange.stats().half_done_blocks, u64::from(!patience.is_multiple_of(512)));
        });
    }
}

#[test]
fn a_host_may_stop_at_any_extent_on_the_way_back() {
    for patience in [0, 1, 100, 511, 512, 600] {
        with(|exchange| {
            let mut out = Lot::<Owned, 4>::new();
            let frame = || exchange.frames().take_frame_for_balloon(Contents::Unknown).unwrap();
            let full = (0..4).map(|_| exchange.collect(&mut out, frame())).last();
            assert_eq!(full, Some(true));
            assert_eq!(exchange.release(&mut out, false, || false).gone, Frames::new(4));
            *exchange.port().patience.lock().unwrap() = patience;
            let mut back = Lot::<Ballooned, 8>::new();
            exchange.withdraw(&mut back, Order::FRAME, 8);
            let populated = exchange.populate(&mut back, Frames::ZERO);
            assert_eq!(populated.usable, Frames::new(patience.min(4)));
            assert_eq!(populated.stopped.is_some(), patience < 4);
        });
    }
}

#[test]
fn a_caller_may_change_its_mind_until_the_last_moment() {
    with(|exchange| {
        let mut out = Lot::<Owned, 4>::new();
        take(exchange, &mut out, 2);
        let hidden = || exchange.map().hidden() == Frames::new(1024);
        let released = exchange.release(&mut out, false, || hidden() && exchange.map().settles() == 1);
        assert_eq!((released.kept, released.stopped), (Frames::new(1024), Some(Stop::Aborted)));
        assert_eq!(exchange.stats().release_calls, 0);
    });
}

#[test]
fn what_does_not_fit_a_lot_is_free_again() {
    with(|exchange| {
        let mut out = Lot::<Owned, 2>::new();
        take(exchange, &mut out, 1);
        let frame = exchange.frames().take_frame_for_balloon(Contents::Unknown).unwrap();
        assert!(!exchange.collect(&mut out, frame), "of another order");
        take(exchange, &mut out, 2);
        assert_eq!((out.len(), out.frames(), out.order()), (2, Frames::new(1024), Order::BLOCK));
        assert_eq!(exchange.frames().stats().free, Frames::new(1024));
        let _ = exchange.release(&mut out, false, || true);
    });
}

#[test]
fn limbo_is_left_when_the_map_has_room() {
    with(|exchange| {
        let mut out = Lot::<Owned, 1>::new();
        take(exchange, &mut out, 1);
        assert_eq!(exchange.release(&mut out, false, || false).gone, Frames::new(512));
        let mut back = Lot::<Ballooned, 1>::new();
        exchange.withdraw(&mut back, Order::FRAME, 1);
        // One frame comes, cannot be shown, and is not taken back.
        exchange.map().limit_tables(Some(0));
        *exchange.port().patience.lock().unwrap() = 1;
        let populated = exchange.populate(&mut back, Frames::ZERO);
        assert_eq!((populated.usable, populated.returned), (Frames::ZERO, Frames::new(1)));
        assert_eq!((exchange.limbo(), exchange.doubtful()), (Frames::new(1), Frames::ZERO));
        assert_eq!(exchange.retry_limbo(), Frames::ZERO);
        assert_eq!(exchange.limbo(), Frames::new(1), "still no table");
        exchange.map().limit_tables(None);
        assert_eq!(exchange.retry_limbo(), Frames::ZERO);
        assert_eq!((exchange.limbo(), exchange.frames().stats().free), (Frames::ZERO, Frames::new(1537)));
    });
}
