//! Swap of this machine: the guest's own tiers behind frontswap, and the thread that reclaims.
//!
//! There is no swap device, and where Xen speaks no tmem, as no Xen since 4.13 does, pages go to memory all the same, but
//! to less of it: one word for a page that is one word, a compressed copy for others. So a guest whose balloon can bring
//! nothing more goes on, slower, as long as its data compresses.
#![expect(unsafe_code, reason = "frames of the pool, through the direct map")]

use crate::frames::{KernelFrames, KernelLocks};
use crate::platform::{self, Kernel};
use crate::tunables::tunables;
use crate::{Machine, cpus, paged};
use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::mm::frame::AllocError;
use ebb::mm::pool_frames::DirectFrames;
use ebb::swap::pool::{Config, NoMemory, Pool, Settings, Stats as PoolStats};
use ebb::swap::slots::Slots;
use ebb::swap::space::SwapSpace;
use ebb::swap::tiers::{PoolTier, SameTier};
use ebb::task::{Next, Worker};
use ebb::tmem::frontswap::{Counters, Frontswap, InitError};
use ebb::tmem::tier::{SwapType, Tier};
use ebb::tunable::{Group, Id};
use ebb::units::Frames;
use spin::once::Once;

type KernelPool = PoolTier<DirectFrames<KernelLocks, Kernel>, Kernel>;

/// Slots for each frame of memory: room for this many times the memory, in books that take 17 bytes a slot.
const SLOTS_PER_FRAME: u64 = 3;
/// Frames that the thread takes out at a time, before it looks again.
const STEP: Frames = Frames::new(128);
/// How long the thread rests when nothing will leave.
const REST_NS: u64 = 100_000_000;

/// What there is of swap.
struct Parts {
    frontswap: &'static Frontswap<'static, Kernel>,
    same: &'static SameTier,
    pool: &'static KernelPool,
    slots: u64,
}

static PARTS: Once<Parts> = Once::new();
static WORKER: Once<Worker<Kernel>> = Once::new();
/// Threads that had to reclaim for themselves, and how long that took them.
static DIRECT: AtomicU64 = AtomicU64::new(0);
static DIRECT_NS: AtomicU64 = AtomicU64::new(0);
/// Pages that self-shrinking has brought home.
static HOME: AtomicU64 = AtomicU64::new(0);

/// Why there is no swap.
#[derive(Debug)]
enum SwapError {
    Heap,
    Pool(NoMemory),
    Frontswap(InitError),
    Frames(AllocError),
}

impl fmt::Display for SwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heap => f.write_str("no kernel memory for its books"),
            Self::Pool(error) => error.fmt(f),
            Self::Frontswap(error) => error.fmt(f),
            Self::Frames(error) => error.fmt(f),
        }
    }
}

/// Has paged memory swap. In the first thread, before the main function; at most once.
pub(crate) fn start(machine: &'static Machine) {
    tunables().serve(Group::Swap);
    // On a stack of its own: a pool's work memory passes over it, and takes half of one.
    let made = match platform::threads().spawn("swap", move || make(machine)) {
        Ok(thread) => thread.join(),
        Err(error) => {
            log::error!("no swap: {error}");
            return;
        }
    };
    match made {
        Ok(parts) => {
            let slots = parts.slots;
            PARTS.call_once(|| parts);
            log::info!("swap: {slots} slots; same-filled pages, then a compressed pool");
        }
        Err(error) => {
            log::error!("no swap: {error}");
            return;
        }
    }
    match Worker::spawn(Kernel, "reclaim", move || step(machine)) {
        Ok(worker) => {
            WORKER.call_once(|| worker);
        }
        Err(error) => log::error!("nobody reclaims ahead: {error}"),
    }
}

/// A value for as long as the machine runs.
fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn make(machine: &'static Machine) -> Result<Parts, SwapError> {
    let frames: &'static KernelFrames = machine.frames();
    let managed = frames.stats().managed;
    let swap = SwapType::new(0).ok_or(SwapError::Heap)?;
    let slots = Slots::new(managed.get() * SLOTS_PER_FRAME).map_err(|_| SwapError::Heap)?;
    let count = slots.count();
    // SAFETY: the direct map shows every frame that the allocator gives out, at one place, aligned and writable; it is
    // reached there by who holds the frame, and nobody else.
    let supply = unsafe { DirectFrames::new(frames, Kernel, |frame| paged::bytes(frame).cast()) };
    let config = Config {
        capacity: managed,
        shards: machine.cpus().count(),
        checksum: true,
        settings: Settings::percent_of(managed, tunables().number(Id::SwapPoolMaxPercent)),
    };
    let pool = Pool::new(supply, Kernel, config).map_err(SwapError::Pool)?;
    let pool = keep(PoolTier::new(pool, swap, count).map_err(|_| SwapError::Heap)?);
    let same = keep(SameTier::new(swap, count).map_err(|_| SwapError::Heap)?);
    let tiers: &'static [&'static dyn Tier; 2] = keep([same, pool]);
    let frontswap = keep(Frontswap::new(Kernel, tiers));
    frontswap.init(swap, count).map_err(SwapError::Frontswap)?;
    machine
        .paged()
        .set_swap(keep(SwapSpace::new(frontswap, swap, slots, is_full)))
        .map_err(SwapError::Frames)?;
    Ok(Parts { frontswap, same, pool, slots: count })
}

fn is_full() -> bool {
    PARTS.get().is_some_and(|parts| parts.pool.is_full())
}

/// The tunables may have changed, or the most that the guest may have.
pub(crate) fn apply(most: Frames) {
    if let Some(parts) = PARTS.get() {
        parts.pool.pool().set(&Settings::percent_of(most, tunables().number(Id::SwapPoolMaxPercent)));
    }
}

/// What may be promised beyond memory, where the guest may have `most`: as much as the operator says that the tiers will
/// hold, and not more than there are slots.
pub(crate) fn promise(most: Frames) -> Frames {
    let Some(parts) = PARTS.get() else { return Frames::ZERO };
    let share = most.get().saturating_mul(tunables().number(Id::SwapCommitPercent)) / 100;
    Frames::new(share.min(parts.slots))
}

/// Takes pages out of memory for a thread that needs `want` frames, and says whether another try makes sense. May block.
pub(crate) fn reclaim_now(want: Frames) -> bool {
    if PARTS.get().is_none() || !tunables().is_on(Id::SwapEvict) {
        return false;
    }
    let begun_ns = cpus::now_ns();
    let outcome = paged::get().reclaim(want);
    DIRECT.fetch_add(1, Ordering::Relaxed);
    DIRECT_NS.fetch_add(cpus::now_ns().saturating_sub(begun_ns), Ordering::Relaxed);
    if outcome.freed > Frames::ZERO {
        // So that the next one need not wait.
        wake();
        return true;
    }
    if outcome.busy {
        platform::threads().yield_now();
    }
    outcome.busy
}

/// Has the thread look whether memory is short.
pub(crate) fn wake() {
    if let Some(worker) = WORKER.get() {
        worker.run_now();
    }
}

/// One step of the thread: it goes on until the high watermark is free.
fn step(machine: &Machine) -> Next {
    let stats = machine.frames().stats();
    let missing = stats.watermarks.high.saturating_sub(stats.available());
    if missing == Frames::ZERO || !tunables().is_on(Id::SwapEvict) {
        return Next::Idle;
    }
    let outcome = machine.paged().reclaim(missing.min(STEP));
    if outcome.freed > Frames::ZERO {
        Next::After(0)
    } else if outcome.busy {
        Next::After(REST_NS)
    } else {
        // Until somebody is short again.
        Next::Idle
    }
}

/// Pages come home until `target` are left out or `most` have come, while more than the high watermark is free.
pub(crate) fn shrink(machine: &Machine, target: Frames, most: Frames) -> Frames {
    let paged = machine.paged();
    let most = paged.stats().swapped.saturating_sub(target).min(most);
    let home = paged.bring_home(most, || {
        let stats = machine.frames().stats();
        stats.available() > stats.watermarks.high
    });
    HOME.fetch_add(home.get(), Ordering::Relaxed);
    home
}

/// Threads that had to reclaim for themselves since boot, and the time that it took them, in nanoseconds.
pub(crate) fn stalls() -> (u64, u64) {
    (DIRECT.load(Ordering::Relaxed), DIRECT_NS.load(Ordering::Relaxed))
}

/// Swap at a glance.
#[derive(Clone, Copy, Debug)]
pub struct SwapFigures {
    /// Frontswap's counters.
    pub counters: Counters,
    /// Pages that are one word.
    pub same: u64,
    /// The compressed pool.
    pub pool: PoolStats,
    /// Pages that the hypervisor's tmem has; `None` where it is no tier.
    pub tmem: Option<u64>,
    /// Pages that self-shrinking has brought home.
    pub home: u64,
}

/// Looks; `None` without swap. For threads.
#[must_use]
pub fn figures() -> Option<SwapFigures> {
    let parts = PARTS.get()?;
    Some(SwapFigures {
        counters: parts.frontswap.counters(),
        same: parts.same.pages(),
        pool: parts.pool.pool().stats(),
        tmem: None,
        home: HOME.load(Ordering::Relaxed),
    })
}
