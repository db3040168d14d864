//! Swap of this machine: the guest's own tiers behind frontswap. Who sends pages there is in [`reclaim`].
//!
//! There is no swap device, and where Xen speaks no tmem, as no Xen since 4.13 does, pages go to memory all the same, but
//! to less of it: one word for a page that is one word, a compressed copy for others. So a guest whose balloon can bring
//! nothing more goes on, slower, as long as its data compresses.
//!
//! It is there from the start, and costs a guest that never needs it little: work memory of 21 KiB and a frame for each
//! CPU, a stack, a frame, books for 2 MiB, and 40 bytes for each 2 MiB of slots. All other books come with what is out.
#![expect(unsafe_code, reason = "frames of the pool, through the direct map")]

use crate::frames::{KernelFrames, KernelLocks};
use crate::platform::{self, Kernel};
use crate::tunables::tunables;
use crate::{Machine, paged, reclaim, tmem};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::mm::frame::AllocError;
use ebb::mm::pool_frames::DirectFrames;
use ebb::swap::cold;
use ebb::swap::pool::{Config, NoMemory, Pool, Settings, Stats as PoolStats};
use ebb::swap::slots::Slots;
use ebb::swap::space::SwapSpace;
use ebb::swap::tiers::{PoolTier, SameTier};
use ebb::tmem::frontswap::{Counters, Frontswap, InitError};
use ebb::tmem::tier::{SwapType, Tier};
use ebb::tunable::{Group, Id};
use ebb::units::Frames;
use spin::once::Once;

type KernelPool = PoolTier<DirectFrames<KernelLocks, Kernel>, Kernel>;

/// Slots for each frame of memory: room for this many times the memory.
const SLOTS_PER_FRAME: u64 = 3;

/// What there is of swap.
struct Parts {
    frontswap: &'static Frontswap<'static, Kernel>,
    space: &'static SwapSpace<'static, Kernel>,
    same: &'static SameTier,
    pool: &'static KernelPool,
    slots: u64,
}

static PARTS: Once<Parts> = Once::new();
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
    match make(machine) {
        Ok(parts) => {
            let parts = PARTS.call_once(|| parts);
            let tiers: Vec<_> = parts.frontswap.tiers().iter().map(|tier| tier.name()).collect();
            log::info!("swap: {} slots; pages go to: {}", parts.slots, tiers.join(", then "));
        }
        Err(error) => {
            log::error!("no swap: {error}");
            return;
        }
    }
    reclaim::start(machine);
}

/// Whether there is swap.
pub(crate) fn is_on() -> bool {
    PARTS.is_completed()
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
    let mut tiers: Vec<&'static dyn Tier> = Vec::with_capacity(3);
    tiers.push(same);
    tiers.extend(tmem::tier());
    tiers.push(pool);
    let frontswap = keep(Frontswap::new(Kernel, tiers.leak()));
    frontswap.init(swap, count).map_err(SwapError::Frontswap)?;
    let space = keep(SwapSpace::new(frontswap, swap, slots, is_full));
    space.keep_ahead();
    // SAFETY: frontswap answers a load from the one tier that took the page, by the slot's own record; slots are given out
    // once until they are freed. The pool has a checksum of each page and loses it rather than answer another; tmem is
    // the hypervisor, on whose honesty all memory of this guest rests.
    unsafe { machine.paged().set_swap(space) }.map_err(SwapError::Frames)?;
    Ok(Parts { frontswap, space, same, pool, slots: count })
}

/// The front end, if there is swap.
pub(crate) fn frontswap() -> Option<&'static Frontswap<'static, Kernel>> {
    PARTS.get().map(|parts| parts.frontswap)
}

/// Places that there are for pages; none without swap.
pub(crate) fn slots() -> u64 {
    PARTS.get().map_or(0, |parts| parts.slots)
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

/// Makes room in a pool that is above its high mark: cold pages come home, as long as that leaves twice the high watermark
/// free. Answers whether something has moved. For threads.
pub(crate) fn make_room(machine: &Machine) -> bool {
    let Some(parts) = PARTS.get() else { return false };
    let has_room = || {
        let stats = machine.frames().stats();
        stats.available() > stats.watermarks.high + stats.watermarks.high
    };
    if !parts.pool.is_crowded() || !has_room() {
        return false;
    }
    let relief = cold::make_room(machine.paged(), parts.frontswap, has_room);
    relief.written_on + relief.brought_home > 0
}

/// Has no page leave any more, brings all home that are out, and answers whether that was possible: where there is no
/// memory for them, or some are lost, it was not, and swap goes on as before. If it was, the tiers are empty, and nothing
/// leaves until [`on`]. For threads; not two at a time.
pub fn off(machine: &Machine) -> bool {
    let Some(parts) = PARTS.get() else { return true };
    let paged = machine.paged();
    parts.space.turn_off(
        || paged.bring_home(Frames::new(u64::MAX), || true),
        || paged.stats().swapped,
        || platform::threads().yield_now(),
    )
}

/// Has pages leave again.
pub fn on() {
    if let Some(parts) = PARTS.get() {
        parts.space.turn_on();
    }
}

/// Says that frontswap, its tiers and paged memory agree on what is out. For tests, while nobody else uses paged memory.
///
/// # Errors
///
/// What is wrong; also that there is no swap.
pub fn validate(machine: &Machine) -> Result<(), alloc::string::String> {
    let parts = PARTS.get().ok_or("there is no swap")?;
    parts.pool.pool().validate().map_err(|wrong| alloc::format!("the compressed pool: {wrong}"))?;
    let own = parts.same.pages() + parts.pool.pool().stats().stored;
    let counts = [
        ("frontswap", parts.frontswap.curr_pages()),
        ("slots", parts.space.slots().used()),
        ("tiers", own + tmem::pages().unwrap_or(0)),
    ];
    let out = machine.paged().stats().swapped.get();
    match counts.iter().find(|(_, count)| *count != out) {
        Some((who, count)) => Err(alloc::format!("{out} pages are out, and {who}: {count}")),
        None => Ok(()),
    }
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
        tmem: tmem::pages(),
        home: HOME.load(Ordering::Relaxed),
    })
}

/// The lines of `stats` about pages that leave a tier.
///
/// # Errors
///
/// Those of `out`.
pub fn write_stats(out: &mut dyn fmt::Write) -> fmt::Result {
    let Some(parts) = PARTS.get() else { return Ok(()) };
    let counters = parts.frontswap.counters();
    writeln!(out, "swap_written_on {}", counters.written_on)?;
    writeln!(out, "swap_brought_home {}", counters.brought_home)?;
    writeln!(out, "swap_stayed {}\nswap_refused {}", counters.stayed, counters.failed_stores)
}
