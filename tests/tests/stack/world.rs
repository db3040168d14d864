//! The guest, put together as the image does it, with a clock that only the test moves.
//!
//! What threads do in the image, a loop does here: the daemon steps when it said that it would or when there is a cause,
//! and reclaims and brings home what it decided; frames that are missing are reclaimed ahead. Everything lives as long as
//! the process, for paged memory wants that.

use super::guest::{Allocator, Books, CPU, GuestBalloon, S, direct_map, exchange, facts};
use super::mangle::Mangled;
use super::soft::{GuestFrames, Soft};
use ebb::balloon::{Balloon, Budget, Evacuate, Outcome, Reason, Scratch, StartPlan};
use ebb::daemon::{Cause, Daemon, Observed};
use ebb::mm::frame::{Request, SparseBlock, Use};
use ebb::mm::page::Page;
use ebb::mm::paged::{
    Config as PagedConfig, Context, FaultError, Overcommit, Paged, Region, Shortage, Words,
};
use ebb::swap::drain::drain;
use ebb::swap::pool::{Config as PoolConfig, Pool as Compressed, Settings};
use ebb::swap::slots::Slots;
use ebb::swap::space::SwapSpace;
use ebb::swap::tiers::{PoolTier, SameTier};
use ebb::tmem::frontswap::{Census, Frontswap, Hypervisor};
use ebb::tmem::tier::{SwapType, Tier};
use ebb::tmem::{Open, Pool, Tmem};
use ebb::tunable::{Group, Id, Tunables};
use ebb::units::{Frames, VcpuId};
use ebb_tests::model::{Config, Model};
use percpu::host::{Host, Machine, OnCpu};
use percpu::{CpuId, Cpus};
use policy::selfshrink::Action;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where the window begins.
const BASE: u64 = 0xFFFF_E000_0000_0000;
/// Slots for each frame of memory, as the image has it.
const SLOTS_PER_FRAME: u64 = 3;
/// Frames that are reclaimed ahead in one go.
const STEP: Frames = Frames::new(128);
/// Steps at one instant that nobody needs: the worker would spin.
const SPIN: u32 = 4096;
/// What one emergency is taken to last.
const EMERGENCY_NS: u64 = 1_000_000;

/// The places of the tiers.
pub(crate) const SAME: usize = 0;
pub(crate) const TMEM: usize = 1;
pub(crate) const POOL: usize = 2;

pub(crate) type GuestPaged = Paged<super::guest::HostLocks, &'static Soft, Host>;
pub(crate) type TmemPool = Pool<Host, &'static Mangled>;
type CompressedTier = PoolTier<GuestFrames, Host>;

thread_local! {
    /// The compressed pool of the world of this thread, for a plain function that asks whether it is full.
    static COMPRESSED: Cell<Option<&'static CompressedTier>> = const { Cell::new(None) };
}

fn is_full() -> bool {
    COMPRESSED.get().is_some_and(PoolTier::is_full)
}

fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// What is shared by all threads of the guest.
pub(crate) struct World {
    pub(crate) model: &'static Model,
    pub(crate) host: Host,
    pub(crate) frames: &'static Allocator<'static>,
    pub(crate) soft: &'static Soft,
    pub(crate) balloon: &'static GuestBalloon<'static>,
    pub(crate) paged: &'static GuestPaged,
    pub(crate) port: &'static Mangled,
    pub(crate) tmem: Tmem<&'static Mangled>,
    pub(crate) pool: &'static TmemPool,
    pub(crate) front: &'static Frontswap<'static, Host>,
    pub(crate) space: &'static SwapSpace<'static, Host>,
    pub(crate) same: &'static SameTier,
    pub(crate) compressed: &'static CompressedTier,
    relief: &'static Relief,
    /// What the guest was charged when it had just begun.
    pub(crate) base: Frames,
    /// What the operator has set.
    pub(crate) tunables: Tunables,
}

/// Gets memory for a page: out of the balloon, and if there is none, from other pages. As the image does.
struct Relief {
    balloon: &'static GuestBalloon<'static>,
    paged: &'static GuestPaged,
    urgent: AtomicBool,
    stalls: AtomicU64,
}

impl Shortage for Relief {
    fn relieve(&self, need: Frames, context: Context) -> bool {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.urgent.store(true, Ordering::Release);
        let deflated = self.balloon.deflate_now(need);
        if deflated.frames > Frames::ZERO {
            return true;
        }
        if context == Context::MayNotBlock {
            return false;
        }
        if deflated.stopped == Some(Reason::InTransit) {
            std::thread::yield_now();
            return true;
        }
        let outcome = self.paged.reclaim(need);
        outcome.freed > Frames::ZERO || outcome.busy
    }
}

struct Movers(&'static GuestPaged);

impl Evacuate for Movers {
    fn evacuate(&self, block: SparseBlock) -> Frames {
        self.0.evacuate(&block)
    }
}

impl World {
    /// A guest that has just begun, its hypervisor honest, and the thread that is its first CPU.
    pub(crate) fn new(config: &Config, cpus: usize, seed: u64) -> (&'static Self, OnCpu) {
        let model: &'static Model = keep(Model::new(config.clone()));
        let host = Machine::new(cpus);
        let cpu = host.enter(CpuId::BOOT);
        let frames: &'static Allocator<'static> =
            keep(Box::leak(Box::new(Books::new(model, cpus))).allocator());
        let map = keep(direct_map(model));
        let plan = StartPlan::new(&facts(model, config));
        let balloon: &'static GuestBalloon<'static> = keep(Balloon::new(exchange(model, map, frames), &plan));
        balloon.set_ceiling(balloon.base());
        let soft = keep(Soft::new(model, frames, map, host));
        let managed = frames.stats().managed;
        let window = PagedConfig { base: BASE, gibs: 2, limit: managed };
        let paged = keep(GuestPaged::new(frames, soft, host, window).expect("the host has memory for books"));
        paged.set_overcommit(Overcommit::Always);

        let port = keep(Mangled::new(model, host, seed));
        let tmem = Tmem::start(port, model.xen().probe_tmem()).expect("the model serves tmem");
        let pool = keep(Pool::new(host.rcu(), tmem).expect("the host has words"));
        let swap = SwapType::new(0).expect("a swap type");
        let slots = Slots::new(managed.get() * SLOTS_PER_FRAME).expect("the host has memory");
        let count = slots.count();
        let settings = Settings::percent_of(managed, 60);
        let config = PoolConfig { capacity: managed, shards: cpus, checksum: true, settings };
        let compressed = Compressed::new(GuestFrames::new(soft), host, config).expect("the host has memory");
        let compressed =
            keep(PoolTier::new(compressed, swap, count).expect("the host has memory for the handles"));
        COMPRESSED.set(Some(compressed));
        let same = keep(SameTier::new(swap, count).expect("the host has memory for the words"));
        let tiers: &'static [&'static dyn Tier; 3] = keep([same, keep(Hypervisor::new(pool)), compressed]);
        let front = keep(Frontswap::new(host, tiers));
        front.init(swap, count).expect("a swap type comes into use");
        let space = keep(SwapSpace::new(front, swap, slots, is_full));
        #[expect(unsafe_code, reason = "says that the swap under test keeps what it is given")]
        // SAFETY: the memory behind these pages is the model's, in which no object lives; the tests look at every byte.
        unsafe { paged.set_swap(space) }.expect("there are frames for those who evict");
        let relief =
            keep(Relief { balloon, paged, urgent: AtomicBool::new(false), stalls: AtomicU64::new(0) });
        paged.set_shortage(relief);

        let tunables = Tunables::new();
        tunables.resolve_for(frames.stats().present());
        for group in [Group::Selfballoon, Group::Swap] {
            tunables.serve(group);
        }
        let base = model.charged();
        let world = Self {
            model,
            host,
            frames,
            soft,
            balloon,
            paged,
            port,
            tmem,
            pool,
            front,
            space,
            same,
            compressed,
            relief,
            base,
            tunables,
        };
        (keep(world), cpu)
    }

    /// An access to a page of a region, with the faults that it takes.
    pub(crate) fn access<R>(
        &self,
        region: &Region,
        page: u64,
        access: impl Fn(&Words) -> R,
    ) -> Result<R, FaultError> {
        let address = region.address() + page * 4096;
        let context = if self.host.may_block() { Context::MayBlock } else { Context::MayNotBlock };
        loop {
            if let Some(result) = self.soft.access(address, &access) {
                return Ok(result);
            }
            self.paged.fault(address, context)?;
        }
    }

    /// What the worker that reclaims ahead does in one go.
    pub(crate) fn reclaim_ahead(&self) {
        let stats = self.frames.stats();
        let missing = stats.watermarks.high.saturating_sub(stats.available());
        if missing > Frames::ZERO && self.tunables.is_on(Id::SwapEvict) {
            let _ = self.paged.reclaim(missing.min(STEP));
        }
    }

    /// Empties the hypervisor's tmem and closes its pool, as `swap.tmem=0` does. Gives the right to close back if something
    /// stays there.
    pub(crate) fn give_up(
        &self,
        open: Open<'static, Host, &'static Mangled>,
    ) -> Result<(), Open<'static, Host, &'static Mangled>> {
        let room = || {
            let stats = self.frames.stats();
            stats.available() > stats.watermarks.low
        };
        let mut bounce = self.frames.alloc(Request::new(Use::Kernel, CPU)).ok();
        let lent = bounce.as_mut().and_then(|frame| Page::of(frame, &self.soft));
        let closed = match drain(self.paged, self.front, lent, room) {
            Ok(_held_off) => {
                // Refused, it is closed all the same, and torn down when it is opened the next time.
                let _ = open.close();
                Ok(())
            }
            Err(left) => {
                assert!(left > 0, "nothing is there, and it was not drained");
                Err(open)
            }
        };
        if let Some(frame) = bounce {
            self.frames.free(frame, ebb::mm::frame::Contents::Unknown, CPU).expect("a frame of ours");
        }
        closed
    }

    /// All books agree while the hypervisor is honest and nothing else goes on: paged memory's, the frame table's,
    /// frontswap's, each tier's, and the hypervisor's own.
    pub(crate) fn check(&self) -> Census {
        self.paged.validate().expect("the books of paged memory balance");
        self.frames.validate().expect("the frame table's books balance");
        self.model.validate().expect("the model's books balance");
        self.compressed.pool().validate().expect("the compressed pool's books balance");
        let census = self.front.validate().expect("frontswap's books balance");
        let stats = self.paged.stats();
        assert_eq!(census.pages, stats.swapped.get(), "pages that are out, and pages that tiers have");
        assert_eq!(census.pages, self.space.slots().used(), "slots in use");
        let counters = self.front.counters();
        assert_eq!(counters.succ_stores - counters.invalidates, census.pages, "{counters:?}");
        assert_eq!(census.in_tier[SAME], self.same.pages(), "same-filled pages");
        assert_eq!(census.in_tier[POOL], self.compressed.pool().stats().stored, "compressed pages");
        if census.doubtful == 0 {
            assert_eq!(census.in_tier[TMEM], self.model.tmem_persistent_pages(), "pages in the hypervisor");
        } else {
            let there = self.model.tmem_persistent_pages();
            let sure = census.in_tier[TMEM];
            assert!((sure..=sure + census.doubtful).contains(&there), "{there} pages: {census:?}");
        }
        assert_eq!(self.model.tmem_hazards(), [], "nothing was done that hurts Xen");
        assert_eq!((self.model.leaked(), self.model.crash()), (Frames::ZERO, None));
        census
    }

    /// What the hypervisor charges is what the balloon counts and what tmem has, metadata included.
    pub(crate) fn check_charge(&self) {
        let exchange = self.balloon.exchange();
        if exchange.limbo() == Frames::ZERO && exchange.doubtful() == Frames::ZERO {
            let counted = self.balloon.reservation() + self.model.tmem_charged();
            assert_eq!(self.model.charged(), counted, "{:?}", self.balloon.status());
        }
    }

    /// Everything has gone: the pool, the cache, the application. The guest is as it began.
    pub(crate) fn is_clean(&self) {
        let census = self.check();
        assert_eq!((census.pages, census.doubtful), (0, 0));
        assert_eq!(self.model.tmem_pages(), 0, "pages in tmem");
        assert_eq!(self.compressed.pool().frames().0, Frames::ZERO, "frames in the compressed pool");
        assert_eq!(self.model.charged(), self.base, "what the guest is charged");
        assert_eq!(self.host.take_reports(), []);
    }
}

/// The worker, and the time.
pub(crate) struct Worker {
    world: &'static World,
    daemon: Daemon,
    scratch: Box<Scratch>,
    budget: Budget,
    pub(crate) ceiling: Frames,
    pub(crate) now_ns: u64,
    next_ns: Option<u64>,
    generation: u64,
    pub(crate) decisions: u64,
    /// Pages that self-shrinking has brought home.
    pub(crate) shrunk: u64,
}

impl Worker {
    pub(crate) fn new(world: &'static World) -> Self {
        Self {
            world,
            daemon: Daemon::new(),
            scratch: Box::new(Scratch::new()),
            budget: Budget::DEFAULT,
            ceiling: world.balloon.base(),
            now_ns: 0,
            next_ns: Some(0),
            generation: 0,
            decisions: 0,
            shrunk: 0,
        }
    }

    fn observe(&self) -> Observed {
        let world = self.world;
        let (paged, balloon) = (world.paged.stats(), world.balloon);
        let stalls = world.relief.stalls.load(Ordering::Relaxed);
        Observed {
            frames: world.frames.stats(),
            committed: paged.committed,
            resident: paged.resident,
            active: paged.active,
            inactive: paged.inactive,
            swapped: paged.swapped,
            swap: true,
            // What is in tmem is charged, too, and is not what the balloon moves.
            reservation: balloon.reservation(),
            base: balloon.base(),
            ceiling: self.ceiling,
            taken: paged.filled + paged.swap_ins,
            refaulted: paged.refaulted,
            stalls,
            stall_ns: stalls * EMERGENCY_NS,
        }
    }

    fn has_cause(&self) -> bool {
        self.world.relief.urgent.load(Ordering::Acquire)
            || self.generation != self.world.tunables.generation()
    }

    fn step(&mut self) -> Outcome {
        let world = self.world;
        let generation = world.tunables.generation();
        let cause = Cause {
            urgent: world.relief.urgent.swap(false, Ordering::AcqRel),
            changed: generation != self.generation,
        };
        self.generation = generation;
        let observed = self.observe();
        let progress = self.daemon.step(
            self.now_ns,
            cause,
            &world.tunables.settings(),
            || observed,
            world.balloon,
            &self.budget,
            &mut self.scratch,
            &Movers(world.paged),
        );
        if let Some(decision) = progress.decision {
            self.decisions += 1;
            if decision.evict_frames > 0 && world.tunables.is_on(Id::SwapEvict) {
                let _ = world.paged.reclaim(Frames::new(decision.evict_frames));
            }
            if let Action::Shrink { to_frames } = decision.shrink {
                let most = world.paged.stats().swapped.saturating_sub(Frames::new(to_frames));
                let room = || {
                    let stats = world.frames.stats();
                    stats.available() > stats.watermarks.high
                };
                self.shrunk += world.paged.bring_home(most, room).get();
            }
            world.front.settle();
        }
        self.next_ns = progress.next_ns;
        progress.moved.outcome
    }

    /// Lets the daemon run for a while.
    pub(crate) fn pass(&mut self, ns: u64) {
        let until_ns = self.now_ns + ns;
        let mut at_once = 0;
        loop {
            let due_ns = if self.has_cause() { Some(self.now_ns) } else { self.next_ns };
            let Some(due_ns) = due_ns.filter(|due_ns| *due_ns <= until_ns) else { break };
            at_once = if due_ns > self.now_ns { 0 } else { at_once + 1 };
            self.now_ns = self.now_ns.max(due_ns);
            let outcome = self.step();
            assert!(at_once < SPIN, "the worker spins at {} s: {outcome:?}", self.now_ns / S);
        }
        self.now_ns = until_ns;
        self.world.reclaim_ahead();
    }
}

/// The magazines of all CPUs are given back, so that free frames count as such.
pub(crate) fn drain_magazines(world: &World) {
    for cpu in 0..world.host.cpu_count() as u32 {
        world.frames.drain(VcpuId::new(cpu));
    }
}
