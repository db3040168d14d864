//! What makes this machine elastic: the balloon, the thread that drives it, and who tells it what.
//!
//! `start` runs in a thread, before the main function. Its first act is the urgent one: a guest that was started with
//! less memory than its map shows gives the rest back before anybody touches it. Then the worker begins, which is the
//! portable [`ebb::daemon`] with this machine's clock, counters and store around it.
//!
//! | file | what lives there |
//! |---|---|
//! | `mod.rs` | the balloon, relief for allocations, and the state that others see |
//! | `worker.rs` | the thread that steps |
//! | `store.rs` | `memory/target`, and what is published |
#![expect(unsafe_code, reason = "brings together the three that the balloon's soundness rests on")]

mod store;
mod worker;

use crate::direct_map::Ram;
use crate::frames::KernelLocks;
use crate::machine::{Machine, OnXen};
use crate::paged::KernelPaged;
use crate::platform::Mutex;
use crate::tunables::{switches, tunables};
use crate::{cpus, paged, platform, reclaim, relief, swap, tmem};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb::balloon::{
    Balloon, Budget, Deflated, NoEvacuation, Outcome, Reason, Scratch, StartFacts, StartPlan,
};
use ebb::boot_info::MAX_ENTRIES;
use ebb::mm::exchange::Exchange;
use ebb::mm::paged::{Context, Overcommit, Shortage};
use ebb::port::{MapEntry, MemoryKind, MemoryOps};
use ebb::task;
use ebb::tunable::{Group, Id};
use ebb::units::{FRAME_SIZE, Frames};
use ebb::xen::Xen;
use ebb::xen::transport::Instruction;
use policy::boot::{Platform, Selection, select};
use spin::once::Once;

/// The balloon of this machine.
pub type KernelBalloon = Balloon<'static, 'static, Xen<Instruction>, Ram, KernelLocks>;

static BALLOON: Once<KernelBalloon> = Once::new();
static SELECTION: Once<Selection> = Once::new();
/// The lists of those who step: too large for a stack, also on the way to a heap.
static SCRATCH: Mutex<Scratch> = Mutex::new(platform::Kernel, "the balloon's lists", Scratch::new());

/// An allocation found nothing free since the worker looked last.
static URGENT: AtomicBool = AtomicBool::new(false);
/// Allocations that had to wait for the balloon, and how long.
static STALLS: AtomicU64 = AtomicU64::new(0);
static STALL_NS: AtomicU64 = AtomicU64::new(0);

/// When somebody wanted memory from the balloon last, none came.
static DRY: AtomicBool = AtomicBool::new(false);

/// The balloon, where there is Xen.
#[must_use]
pub fn balloon() -> Option<&'static KernelBalloon> {
    BALLOON.get()
}

/// The threads that move memory of their own accord stand still while this lives.
#[derive(Debug)]
#[must_use = "they go on when this is dropped"]
pub struct Held {
    _balloon: Option<task::Held<'static, platform::Kernel>>,
    _reclaim: Option<task::Held<'static, platform::Kernel>>,
}

/// Has the threads stand still that move memory of their own accord: the balloon's worker, who goes on to the toolstack's
/// target and has idle pages leave, and the one that reclaims ahead. For those who test and measure, and for `validate`
/// of what these two change. An allocation that finds nothing free still gets memory from the balloon, and has pages
/// leave. For threads that may block, and that are none of the two; waits until their steps are over.
pub fn hold() -> Held {
    Held { _balloon: worker::hold(), _reclaim: reclaim::hold() }
}

/// What is on and what is off, and why, once that is known.
#[must_use]
pub fn selection() -> Option<&'static Selection> {
    SELECTION.get()
}

/// Allocations that had to wait for memory since boot, and the time that they waited, in nanoseconds.
#[must_use]
pub fn stalls() -> (u64, u64) {
    let (stalls, stall_ns) = reclaim::stalls();
    (STALLS.load(Ordering::Relaxed) + stalls, STALL_NS.load(Ordering::Relaxed) + stall_ns)
}

/// Has the worker look at everything soon. For threads.
pub fn wake() {
    worker::changed();
}

/// Begins. In the first thread, before the main function.
pub(crate) fn start(machine: &'static Machine) {
    let xen = machine.hypervisor().zip(machine.domain());
    let platform = Platform {
        xen: xen.is_some(),
        tmem_answers: tmem::answers(),
        frontswap_built: true,
        own_tier: true,
        ..Platform::default()
    };
    let selection = SELECTION.call_once(|| select(&switches(), &platform));
    log::info!("selfballooning {}", selection.selfballooning);
    tmem::tell(selection);
    paged::set_shortage(&Deflate);
    obey_overcommit(machine);
    let Some((on_xen, domain)) = xen else {
        start_swap(machine, selection);
        return;
    };
    let sizes = store::Sizes::read(domain);
    let facts = facts(machine, on_xen, sizes);
    let plan = StartPlan::new(&facts);
    // SAFETY: the machine's own three: Xen's memory map made the allocator, whose frames are nobody's but a token's
    // holder's, and nothing has been ballooned yet.
    let exchange = unsafe { Exchange::new(on_xen.xen, Ram, machine.frames()) };
    let balloon = BALLOON.call_once(|| Balloon::new(exchange, &plan));
    if plan.is_urgent() {
        pay_debt(balloon, &plan);
    }
    relief::set(relieve);
    log::info!(
        "balloon: {} of RAM, {} charged, {} in the balloon",
        facts.ram.to_kib(),
        balloon.reservation().to_kib(),
        balloon.ballooned().to_kib()
    );
    tunables().serve(Group::Balloon);
    // Not before: its books are memory, and memory that was not paid for must not be touched.
    start_swap(machine, selection);
    worker::start(machine, domain, balloon, &plan, sizes, selection);
}

/// Has paged memory promise as `vm.overcommit` says, from now on. A change holds when whoever makes it goes on: the next
/// promise may be theirs.
fn obey_overcommit(machine: &'static Machine) {
    static PAGED: Once<&'static KernelPaged> = Once::new();
    fn obey() {
        if let Some(paged) = PAGED.get() {
            paged.set_overcommit(match tunables().word(Id::Overcommit) {
                "always" => Overcommit::Always,
                "heuristic" => Overcommit::Heuristic,
                _ => Overcommit::Strict,
            });
        }
    }
    PAGED.call_once(|| machine.paged());
    tunables().serve(Group::Vm);
    tunables().on_change(|id| {
        if id == Id::Overcommit {
            obey();
        }
        worker::changed();
    });
    obey();
}

/// Has paged memory swap, unless that was not wanted.
fn start_swap(machine: &'static Machine, selection: &Selection) {
    log::info!("frontswap {}", selection.frontswap);
    if selection.frontswap.is_on() {
        swap::start(machine);
    }
    machine.paged().set_commit_limit(commit_limit(machine, Frames::ZERO));
}

/// What is known of this domain's memory.
fn facts(machine: &Machine, on_xen: &OnXen, sizes: store::Sizes) -> StartFacts {
    let mut entries = [MapEntry { start: 0, size: 0, kind: MemoryKind::Ram }; MAX_ENTRIES];
    // Without a map there is nothing beside RAM that we know of.
    let count = on_xen.xen.memory_map(&mut entries).unwrap_or(0);
    let extra = entries[..count]
        .iter()
        .filter(|entry| matches!(entry.kind, MemoryKind::Reserved | MemoryKind::Acpi))
        .map(|entry| entry.size / FRAME_SIZE as u64)
        .sum();
    let ram = machine.boot_info().ram().frames();
    // Only a hypervisor that is none refuses these.
    let reservation = on_xen.xen.current_reservation().unwrap_or(ram);
    let limit = on_xen.xen.maximum_reservation().unwrap_or(ram);
    let store::Sizes { static_max, target } = sizes;
    StartFacts { ram, extra: Frames::new(extra), reservation, limit, static_max, target }
}

/// Gives back what was never paid for, before it is touched.
fn pay_debt(balloon: &KernelBalloon, plan: &StartPlan) {
    log::info!("populated on demand: giving {} back before it is touched", plan.give_back.to_kib());
    let mut scratch = SCRATCH.lock();
    balloon.set_target(plan.target());
    loop {
        let step = balloon.step(cpus::now_ns(), &Budget::DEFAULT, &mut scratch, &NoEvacuation);
        match step.outcome {
            Outcome::More => {}
            Outcome::Reached => return,
            Outcome::Held(reason, _) => {
                let debt = balloon.status().debt.to_kib();
                log::warn!("{debt} of what was not paid for cannot be given back now: {reason}");
                return;
            }
            Outcome::Busy => unreachable!("nobody else has the balloon yet"),
        }
    }
}

/// Gets memory back for an allocation. Any context.
fn deflate(balloon: &KernelBalloon, wanted: Frames) -> Deflated {
    let begun_ns = cpus::now_ns();
    let deflated = balloon.deflate_now(wanted);
    DRY.store(
        deflated.frames == Frames::ZERO && deflated.stopped != Some(Reason::InTransit),
        Ordering::Relaxed,
    );
    STALLS.fetch_add(1, Ordering::Relaxed);
    STALL_NS.fetch_add(cpus::now_ns().saturating_sub(begun_ns), Ordering::Relaxed);
    URGENT.store(true, Ordering::Release);
    // Elsewhere a lock may be held that waking would want: the worker finds the flag when it looks.
    if platform::may_block() {
        worker::urgent();
    }
    deflated
}

/// Whether the balloon is to take memory that it does not have yet.
pub(crate) fn wants_memory() -> bool {
    BALLOON.get().is_some_and(|balloon| balloon.target() < balloon.reservation())
}

/// Whether memory can be expected from the balloon, as far as is known: there is some in it, the toolstack allows more, and
/// nobody has been refused since some came last.
pub(crate) fn can_bring() -> bool {
    let can = |balloon: &KernelBalloon| {
        let status = balloon.status();
        status.ballooned > Frames::ZERO && status.reservation < status.ceiling && status.held_up.is_none()
    };
    !DRY.load(Ordering::Relaxed) && BALLOON.get().is_some_and(can)
}

/// Relief for the kernel's own allocations. Any context.
fn relieve(wanted: Frames) -> Frames {
    let Some(balloon) = BALLOON.get() else { return Frames::ZERO };
    let deflated = deflate(balloon, wanted);
    if deflated.frames == Frames::ZERO && deflated.stopped == Some(Reason::InTransit) && platform::may_block()
    {
        // It is on another thread's way, which may have to run on this CPU.
        platform::threads().yield_now();
        return Frames::new(1);
    }
    deflated.frames
}

/// How long a page that has no frame waits before it asks again, where memory may yet come: the host may be short for a
/// while, or the toolstack may raise its target. Paged memory asks 64 times.
const PAGE_WAIT_NS: u64 = 500_000_000;

/// What may be promised to the application, where the guest is to do without `withheld` of its memory.
fn commit_limit(machine: &Machine, withheld: Frames) -> Frames {
    let stats = machine.frames().stats();
    let most = stats.managed.saturating_sub(withheld);
    paged::commit_limit(&stats).saturating_sub(withheld) + swap::promise(most)
}

/// Gets memory when paged memory has no frame for a page: out of the balloon, and if there is none, from other pages.
struct Deflate;

impl Shortage for Deflate {
    fn relieve(&self, need: Frames, context: Context) -> bool {
        let stopped = match BALLOON.get().map(|balloon| deflate(balloon, need)) {
            Some(deflated) if deflated.frames > Frames::ZERO => return true,
            Some(deflated) => deflated.stopped,
            None => None,
        };
        if context == Context::MayNotBlock {
            reclaim::wake();
            return false;
        }
        if stopped != Some(Reason::InTransit) && reclaim::relieve(need) {
            return true;
        }
        match stopped {
            // All that the guest may have, it has.
            None | Some(Reason::Empty) => false,
            Some(Reason::InTransit) => {
                platform::threads().yield_now();
                true
            }
            Some(reason) => {
                log::warn!("a page waits for memory: {reason}");
                platform::threads().sleep_for(PAGE_WAIT_NS);
                true
            }
        }
    }
}

/// The memory of this guest at a glance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Paged memory that was promised.
    pub committed: Frames,
    /// Paged memory that is there.
    pub resident: Frames,
    /// Free memory.
    pub free: Frames,
    /// The reservation as Xen charges it just now; without Xen, all RAM.
    pub reservation: Frames,
    /// The reservation that the balloon moves to; without Xen, all RAM.
    pub target: Frames,
    /// Pages that are out in swap.
    pub swapped: Frames,
}

/// Looks. For threads.
#[must_use]
pub fn figures(machine: &Machine) -> Figures {
    let paged = machine.paged();
    let ram = machine.boot_info().ram().frames();
    let charged = |balloon: &KernelBalloon| balloon.exchange().port().current_reservation().ok();
    Figures {
        committed: paged.committed_exactly(),
        resident: paged.resident(),
        free: machine.frames().stats().available(),
        reservation: BALLOON.get().and_then(charged).unwrap_or(ram),
        target: BALLOON.get().map_or(ram, KernelBalloon::target),
        swapped: paged.stats().swapped,
    }
}

/// Says that Xen charges what the balloon counts, or what is wrong. For tests and for people.
///
/// # Errors
///
/// What is wrong; also that there is no balloon.
pub fn validate() -> Result<(), alloc::string::String> {
    let balloon = BALLOON.get().ok_or("there is no balloon")?;
    balloon.validate().map(drop).map_err(|wrong| alloc::format!("{wrong}"))
}
