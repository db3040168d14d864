//! The hypervisor's transcendent memory, as this machine uses it: whether there is any, and the tier over it.
//!
//! It is asked for once, before other CPUs are up, because two first calls at once make Xen lose a client. Every Xen
//! since 4.13 answers that it has none; then nothing here does anything, and the guest's own tiers do the work. Where it
//! is served, and the option `tmem` is on the command line, evicted pages that are not one word go there first, and to
//! the compressed pool when it refuses. What it keeps is charged to the domain, but is no memory that the balloon counts.
//!
//! **Giving it up.** `swap.tmem=0` empties it and then destroys its pool, when the last user has left that; `swap.tmem=1`
//! begins again with an empty one.
//!
//! **Suspend** would lose what is there: no toolstack since Xen 4.6 saves it. This image does not acknowledge the
//! request to suspend (see [`ebb::xen::shutdown`]), so a toolstack that asks does not go on; whoever adds suspending
//! calls the same [`drain`] before the acknowledgement, and keeps what it answers until the domain has resumed.
//!
//! **The end** of the machine leaves everything where it is. Xen takes the pages back with the rest of the domain, while
//! threads on other CPUs may need theirs to the last moment; and to fetch or flush pages that nobody will ask for again
//! would only put off a stop for which somebody waits.

use crate::platform::{self, Kernel, Mutex};
use crate::tunables::{switches, tunables};
use crate::{Machine, paged, swap};
use alloc::boxed::Box;
use core::fmt;
use core::ops::RangeInclusive;
use ebb::mm::frame::{Contents, Request, Use};
use ebb::mm::page::Page;
use ebb::port::PoolKind;
use ebb::swap::drain::drain;
use ebb::tmem::frontswap::{Frontswap, Hypervisor, charge};
use ebb::tmem::tier::Tier;
use ebb::tmem::{Absent, Open, Pool, Tmem};
use ebb::tunable::Id;
use ebb::units::VcpuId;
use ebb::xen::Xen;
use ebb::xen::transport::Instruction;
use policy::boot::Selection;
use spin::once::Once;

type Ops = Xen<Instruction>;
type KernelTier = Hypervisor<'static, Kernel, Ops>;

/// What was found at boot.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// It is served, and was asked for.
    Served(Tmem<Ops>),
    /// It is served, and nobody asked for it: this domain stays unknown to it.
    NotAsked,
    /// There is none.
    Absent(Absent),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served(_) => f.write_str("this hypervisor serves tmem"),
            Self::NotAsked => f.write_str("this hypervisor serves tmem, and tmem is not on the command line"),
            Self::Absent(absent) => absent.fmt(f),
        }
    }
}

/// The pool that evicted pages go to.
struct Service {
    pool: &'static Pool<Kernel, Ops>,
    state: Mutex<State>,
    tier: KernelTier,
}

/// How far it obeys.
struct State {
    /// The right to close the pool, while it is open.
    open: Option<Open<'static, Kernel, Ops>>,
    /// The tunables' generation when there was no pool to be had: it is asked for again when something is set.
    refused_at: Option<u64>,
    /// Pages that would not leave the last time.
    stuck: u64,
}

static FOUND: Once<Found> = Once::new();
static SERVICE: Once<Service> = Once::new();

/// Asks Xen. While one CPU is up; at most once.
pub(crate) fn probe(xen: Ops) {
    FOUND.call_once(|| {
        let probed = xen.probe_tmem();
        if probed.is_ok() && !(switches().tmem && switches().tmem_frontswap != Some(false)) {
            log::info!("tmem: {}", Found::NotAsked);
            return Found::NotAsked;
        }
        Tmem::start(xen, probed).map_or_else(Found::Absent, Found::Served)
    });
}

/// What Xen has said; `None` without Xen.
#[must_use]
pub fn found() -> Option<&'static Found> {
    FOUND.get()
}

/// Whether the hypervisor serves it, asked for or not.
pub(crate) fn answers() -> bool {
    matches!(found(), Some(Found::Served(_) | Found::NotAsked))
}

/// Says what became of a wish for cleancache: without a page cache there is nothing to keep.
pub(crate) fn tell(selection: &Selection) {
    if switches().tmem_cleancache == Some(true) {
        log::info!("cleancache {}", selection.cleancache);
    }
}

/// The tier, if there is one to be had. Makes the pool; for whoever makes frontswap, once.
pub(crate) fn tier() -> Option<&'static dyn Tier> {
    let tmem = match found()? {
        Found::Served(tmem) => *tmem,
        why => {
            log::info!("tmem: {why}; the guest's own tiers do its work");
            return None;
        }
    };
    let pool: &'static Pool<Kernel, Ops> = match Pool::new(platform::rcu(), tmem) {
        Ok(pool) => Box::leak(Box::new(pool)),
        Err(error) => {
            log::error!("tmem: no memory for its books: {error}; the guest's own tiers do its work");
            return None;
        }
    };
    let service = SERVICE.call_once(|| Service {
        pool,
        state: Mutex::new(Kernel, "tmem pool", State { open: None, refused_at: None, stuck: 0 }),
        tier: Hypervisor::new(pool),
    });
    if tunables().is_on(Id::SwapTmem) {
        service.begin(&mut service.state.lock());
    }
    Some(&service.tier)
}

impl Service {
    /// Opens the pool. While it is closed the tier refuses all pages.
    fn begin(&self, state: &mut State) {
        let generation = tunables().generation();
        if state.refused_at == Some(generation) {
            return;
        }
        match self.pool.open(PoolKind::Persistent) {
            Ok(opened) => {
                log::info!("tmem: evicted pages may go to the hypervisor");
                *state = State { open: Some(opened), refused_at: None, stuck: 0 };
            }
            Err(error) => {
                log::error!("tmem: no pool: {error}; the guest's own tiers do its work");
                state.refused_at = Some(generation);
            }
        }
    }

    /// Empties the pool and closes it. If something stays there, it stays open, too, and that is tried again.
    fn end(&self, state: &mut State, machine: &Machine, frontswap: &Frontswap<'static, Kernel>) {
        match with_bounce(machine, |bounce| drain(machine.paged(), frontswap, bounce, || has_room(machine))) {
            Ok(held_off) => {
                if let Some(Err(error)) = state.open.take().map(Open::close) {
                    log::warn!("tmem: the pool is empty, but is still there: {error}");
                } else {
                    log::info!("tmem: given up; evicted pages go to the guest's own tiers");
                }
                // A closed pool refuses by itself.
                drop(held_off);
            }
            Err(left) => {
                if state.stuck != left {
                    log::warn!("tmem: {left} pages cannot leave it now; it stays in use");
                }
                state.stuck = left;
            }
        }
    }
}

/// Whether pages may come home.
fn has_room(machine: &Machine) -> bool {
    let stats = machine.frames().stats();
    stats.available() > stats.watermarks.low
}

/// Does `work` with a page through which others can pass from tier to tier, if there is a frame for it.
fn with_bounce<R>(machine: &Machine, work: impl FnOnce(Option<Page<'_>>) -> R) -> R {
    let frames = machine.frames();
    let tables = paged::tables();
    let mut bounce = frames.alloc(Request::new(Use::Kernel, VcpuId::new(0))).ok();
    let done = work(bounce.as_mut().and_then(|frame| Page::of(frame, &tables)));
    if let Some(frame) = bounce
        && let Err(rejected) = frames.free(frame, Contents::Unknown, VcpuId::new(0))
    {
        unreachable!("a frame that was just allocated is refused: {rejected}");
    }
    done
}

/// Does what `swap.tmem` says, and removes old pages that could not be removed at the time. For the thread that obeys
/// tunables; takes time when pages have to leave.
pub(crate) fn obey(machine: &Machine) {
    let Some(frontswap) = swap::frontswap() else { return };
    let left = frontswap.settle();
    if left > 0 {
        log::debug!("frontswap: old pages of {left} slots cannot be removed yet");
    }
    let Some(service) = SERVICE.get() else { return };
    let mut state = service.state.lock();
    match (tunables().is_on(Id::SwapTmem), state.open.is_some()) {
        (true, false) => service.begin(&mut state),
        (false, true) => service.end(&mut state, machine, frontswap),
        (true, true) | (false, false) => {}
    }
}

/// Whether what Xen charges to this domain may include pages in tmem.
pub(crate) fn is_used() -> bool {
    SERVICE.get().is_some()
}

/// Pages of frontswap that are in the hypervisor's tmem; `None` where none can be.
#[must_use]
pub fn pages() -> Option<u64> {
    let (service, frontswap) = (SERVICE.get()?, swap::frontswap()?);
    let is_ours = |tier: &&dyn Tier| core::ptr::addr_eq(*tier, &raw const service.tier);
    frontswap.tiers().iter().position(is_ours).map(|number| frontswap.pages_in(number))
}

/// Frames that Xen charges this domain for what is in tmem, as far as that can be known.
pub(crate) fn charged() -> RangeInclusive<u64> {
    let pages = pages().unwrap_or(0) + SERVICE.get().map_or(0, |service| service.pool.doubtful());
    charge(pages, swap::slots())
}

/// The lines of `stats` about tmem.
///
/// # Errors
///
/// Those of `out`.
pub fn write_stats(out: &mut dyn fmt::Write) -> fmt::Result {
    match (pages(), found()) {
        (Some(pages), _) => {
            let refused = SERVICE.get().map_or(0, |service| service.pool.doubtful());
            writeln!(out, "tmem_pages {pages}\ntmem_doubtful_puts {refused}")
        }
        (None, Some(found)) => writeln!(out, "tmem_pages ? {found}"),
        (None, None) => writeln!(out, "tmem_pages ? there is no hypervisor to have any"),
    }
}
