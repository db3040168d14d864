//! A guest, as far as a balloon needs one: the model's RAM with an allocator over it, a direct map, a clock.

use ebb::balloon::{Balloon, Budget, NoEvacuation, Outcome, Scratch, StartFacts, StartPlan, Step};
use ebb::mm::direct_map::fake::FakeMap;
use ebb::mm::exchange::Exchange;
use ebb::mm::frame::{
    Block, Config as Map, Entry, Exclusive, Extent, FrameAllocator, Layout, LockKind, Magazine, Metadata,
    Request, SharedGate, Use,
};
use ebb::port::MemoryOps;
use ebb::units::{FrameRange, Frames, Gfn, Kib, VcpuId};
use ebb::xen::Xen;
use ebb_tests::model::{Config, Model};
use std::sync::{Mutex, PoisonError};

pub(crate) const S: u64 = 1_000_000_000;
pub(crate) const CPU: VcpuId = VcpuId::new(0);
pub(crate) const MIB: u64 = 256;
pub(crate) const BLOCK: u64 = 512;

/// What the guest keeps for itself for good: the first block (image, books), as a guest does.
const IMAGE: u64 = 512;

/// The host's own mutex: threads on a spin lock would wait for the scheduler.
pub(crate) enum HostLocks {}

impl LockKind for HostLocks {
    type Of<T: Send> = HostLock<T>;
    type Gate = SharedGate;
}

pub(crate) struct HostLock<T>(Mutex<T>);

impl<T> Exclusive<T> for HostLock<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) type Allocator<'m> = FrameAllocator<'m, HostLocks>;
pub(crate) type GuestBalloon<'g> = Balloon<'g, 'g, Xen<&'g Model>, &'g FakeMap<'g>, HostLocks>;

/// The allocator's books.
pub(crate) struct Books {
    entries: Vec<Entry>,
    blocks: Vec<Block>,
    magazines: Vec<Magazine>,
    ram: FrameRange,
}

impl Books {
    pub(crate) fn new(model: &Model, cpus: usize) -> Self {
        let ram = FrameRange::new(Gfn::new(0), Gfn::new(model.ram_frames().get()));
        let layout = Layout::for_map(&[ram]).expect("RAM is a map");
        Self {
            entries: (0..layout.entries()).map(|_| Entry::unused()).collect(),
            blocks: (0..layout.blocks()).map(|_| Block::new()).collect(),
            magazines: (0..cpus).map(|_| Magazine::new()).collect(),
            ram,
        }
    }

    pub(crate) fn allocator(&mut self) -> Allocator<'_> {
        let reserved = [FrameRange::new(Gfn::new(0), Gfn::new(IMAGE))];
        let config = Map { memory: &[self.ram], reserved: &reserved, id: 3 };
        let metadata =
            Metadata { entries: &mut self.entries, blocks: &mut self.blocks, magazines: &mut self.magazines };
        FrameAllocator::new(config, metadata).expect("the books fit")
    }
}

/// The facts that the guest finds at boot.
pub(crate) fn facts(model: &Model, config: &Config) -> StartFacts {
    StartFacts {
        ram: model.ram_frames(),
        extra: Frames::new(12),
        reservation: model.xen().current_reservation().expect("asked"),
        limit: model.xen().maximum_reservation().expect("asked"),
        static_max: Some(Kib::new(config.maximum_mib << 10)),
        target: Some(Kib::new(config.memory_mib << 10)),
    }
}

/// The exchange of a guest, all of whose RAM the allocator has.
#[expect(unsafe_code, reason = "says that the allocator's frames are this guest's")]
pub(crate) fn exchange<'g>(
    model: &'g Model,
    map: &'g FakeMap<'g>,
    frames: &'g Allocator<'g>,
) -> Exchange<'g, 'g, Xen<&'g Model>, &'g FakeMap<'g>, HostLocks> {
    // SAFETY: the books are on the model's own RAM, in which no object of the host lives, and its balloon is empty.
    unsafe { Exchange::new(model.xen(), map, frames) }
}

/// A direct map whose scrubbing writes through the model.
pub(crate) fn direct_map(model: &Model) -> FakeMap<'_> {
    FakeMap::wiping(|frame| model.clear(frame))
}

pub(crate) fn plain(memory_mib: u64) -> Config {
    Config { maximum_mib: memory_mib, memory_mib, host_mib: 2 * memory_mib + 16, ..Config::default() }
}

/// Runs a test in a freshly booted guest.
pub(crate) fn booted<R>(config: &Config, cpus: usize, test: impl FnOnce(&Guest<'_>) -> R) -> R {
    let model = Model::new(config.clone());
    let mut books = Books::new(&model, cpus);
    let frames = books.allocator();
    let map = direct_map(&model);
    let plan = StartPlan::new(&facts(&model, config));
    let balloon = Balloon::new(exchange(&model, &map, &frames), &plan);
    test(&Guest { model: &model, map: &map, frames: &frames, plan, balloon })
}

pub(crate) struct Guest<'g> {
    pub(crate) model: &'g Model,
    pub(crate) map: &'g FakeMap<'g>,
    pub(crate) frames: &'g Allocator<'g>,
    pub(crate) plan: StartPlan,
    pub(crate) balloon: GuestBalloon<'g>,
}

impl Guest<'_> {
    /// One step with the usual budget.
    pub(crate) fn step(&self, now_ns: u64) -> Step {
        self.balloon.step(now_ns, &Budget::DEFAULT, &mut Scratch::new(), &NoEvacuation)
    }

    /// Sets a target relative to the base and steps until something else than "more" comes out.
    pub(crate) fn hold_out(&self, frames: u64) -> Outcome {
        self.hold_out_at(frames, 0)
    }

    /// The same, from a time on.
    pub(crate) fn hold_out_at(&self, frames: u64, start_ns: u64) -> Outcome {
        self.balloon.set_target(self.balloon.base().saturating_sub(Frames::new(frames)));
        for now in 0..10_000 {
            let step = self.step(start_ns + now);
            if step.outcome != Outcome::More {
                return step.outcome;
            }
        }
        unreachable!("the balloon is on its way for ever")
    }

    /// All books agree: the balloon's, the frame table's, the direct map's, the model's.
    pub(crate) fn check(&self) {
        let accounts = self.balloon.validate().expect("the balloon's books balance");
        self.model.validate().expect("the model's books balance");
        assert_eq!(self.model.charged(), accounts.reservation);
        assert_eq!(self.map.hidden(), accounts.ballooned + self.balloon.exchange().limbo());
        assert_eq!(self.model.leaked(), Frames::ZERO, "nothing leaks");
        assert_eq!(self.model.crash(), None);
    }

    pub(crate) fn ballooned(&self) -> u64 {
        self.balloon.ballooned().get()
    }

    /// Allocates single frames for the guest's own use, as many as there are up to `count`.
    pub(crate) fn use_frames(&self, count: u64, usage: Use) -> Vec<Extent> {
        (0..count).map_while(|_| self.frames.alloc(Request::new(usage, CPU)).ok()).collect()
    }

    pub(crate) fn give_up(&self, extents: Vec<Extent>) {
        for extent in extents {
            let _ = self.frames.free(extent, ebb::mm::frame::Contents::Unknown, CPU).map_err(|rejected| {
                unreachable!("the guest's own extent is refused: {rejected}");
            });
        }
    }
}
