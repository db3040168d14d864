//! The thread that steps: the portable daemon with this machine's clock, counters and tunables.

use super::{KernelBalloon, SCRATCH, URGENT, stalls, store};
use crate::platform::{Kernel, Mutex};
use crate::tunables::tunables;
use crate::{Domain, Machine, cpus, reclaim, swap, tmem};
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::balloon::toolstack::TargetRule;
use ebb::balloon::{Budget, Evacuate, Outcome, StartPlan};
use ebb::daemon::{Cause, Daemon, Observed, Progress, Toolstack};
use ebb::mm::frame::SparseBlock;
use ebb::port::MemoryOps;
use ebb::task::{Held, Next, Worker};
use ebb::tunable::{Group, Id};
use ebb::units::{BLOCK_FRAMES, Frames, Kib};
use policy::boot::{Selection, Switch};
use policy::selfshrink::Action;
use policy::{Decision, Settings};
use spin::once::Once;

static WORKER: Once<Worker<Kernel>> = Once::new();
/// The toolstack's target or a tunable has changed since the worker looked last.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Pages that go out or come home in one step: between two, the balloon takes what came free, and the toolstack is heard.
const SWAP_STEP: Frames = Frames::new(BLOCK_FRAMES);

/// What the worker has and shares with the store's consumers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) machine: &'static Machine,
    pub(super) balloon: &'static KernelBalloon,
    pub(super) toolstack: Mutex<Toolstack>,
    /// The last decision, for those who publish it.
    pub(super) decision: Mutex<Option<Decision>>,
}

/// Moves what is movable: paged memory.
struct Movers(&'static Machine);

impl Evacuate for Movers {
    fn evacuate(&self, block: SparseBlock) -> Frames {
        self.0.paged().evacuate(&block)
    }
}

/// Begins the worker, and those who tell it of changes.
pub(super) fn start(
    machine: &'static Machine,
    domain: &'static Domain,
    balloon: &'static KernelBalloon,
    plan: &StartPlan,
    sizes: store::Sizes,
    selection: &Selection,
) {
    let tunables = tunables();
    if let Switch::Off(_) = selection.selfballooning {
        switch_off(Id::Selfballooning);
    }
    if let Switch::Off(_) = selection.selfshrinking {
        switch_off(Id::FrontswapSelfshrinking);
    }
    tunables.resolve_for(machine.frames().stats().present());
    tunables.serve(Group::Selfballoon);

    let first = sizes.target.unwrap_or(machine.boot_info().ram().frames().to_kib());
    let rule = TargetRule::new(plan, sizes.static_max, first, least(machine, plan.base));
    let ceiling = rule.apply(first).target;
    static SHARED: Once<Shared> = Once::new();
    let shared = SHARED.call_once(|| Shared {
        machine,
        balloon,
        toolstack: Mutex::new(Kernel, "toolstack's target", Toolstack::new(rule, ceiling)),
        decision: Mutex::new(Kernel, "last decision", None),
    });
    shared.obey(ceiling);
    let mut steps = Steps::new(shared);
    match Worker::spawn(Kernel, "selfballoon", move || steps.step()) {
        Ok(worker) => WORKER.call_once(|| worker).run_now(),
        Err(error) => {
            log::error!("selfballooning disabled: {error}");
            return;
        }
    }
    store::start(domain, shared);
}

fn switch_off(id: Id) {
    let set = tunables().set(id, "0");
    assert!(set.is_ok(), "a switch that cannot be switched off");
}

/// What the toolstack's rule accepts as the least target: what is never free, and room to live.
fn least(machine: &Machine, base: Frames) -> Frames {
    const ROOM: Frames = Frames::new(2 * 256);
    let stats = machine.frames().stats();
    base.saturating_sub(stats.managed) + stats.pinned + stats.watermarks.high + ROOM
}

/// Something was set.
pub(super) fn changed() {
    CHANGED.store(true, Ordering::Release);
    urgent();
}

/// The worker should look at once.
pub(super) fn urgent() {
    if let Some(worker) = WORKER.get() {
        worker.run_now();
    }
}

/// Has the worker stand still, if there is one.
pub(super) fn hold() -> Option<Held<'static, Kernel>> {
    WORKER.get().map(Worker::hold)
}

impl Shared {
    /// Has everybody know the ceiling.
    pub(super) fn obey(&self, ceiling: Frames) {
        let ceiling = self.balloon.set_ceiling(ceiling);
        let withheld = self.balloon.base().saturating_sub(ceiling);
        self.machine.paged().set_commit_limit(super::commit_limit(self.machine, withheld));
        swap::apply(self.machine.frames().stats().managed.saturating_sub(withheld));
    }

    fn observe(&self) -> Observed {
        let paged = self.machine.paged().stats();
        let balloon = self.balloon;
        let (stalls, stall_ns) = stalls();
        // What is in the hypervisor's tmem is charged, too, and is not what the balloon moves.
        let charged =
            if tmem::is_used() { None } else { balloon.exchange().port().current_reservation().ok() };
        Observed {
            frames: self.machine.frames().stats(),
            committed: paged.committed,
            resident: paged.resident,
            active: paged.active,
            inactive: paged.inactive,
            swapped: paged.swapped,
            swap: self.machine.paged().has_swap(),
            reservation: charged.unwrap_or(balloon.reservation()),
            base: balloon.base(),
            ceiling: self.toolstack.lock().ceiling(),
            taken: paged.filled + paged.swap_ins,
            refaulted: paged.refaulted,
            stalls,
            stall_ns,
        }
    }
}

/// The worker's own.
struct Steps {
    shared: &'static Shared,
    daemon: Daemon,
    /// The tunables as they were applied last.
    generation: Option<u64>,
    /// The outcome that was logged last.
    held: Option<Outcome>,
    /// No page would leave any more: none is tried again before the next decision.
    fruitless: bool,
    /// How many pages the last decision leaves out, until the others are home.
    stay_out: Option<Frames>,
}

impl Steps {
    fn new(shared: &'static Shared) -> Self {
        Self { shared, daemon: Daemon::new(), generation: None, held: None, fruitless: false, stay_out: None }
    }

    fn step(&mut self) -> Next {
        // Taken before anything is looked at: what comes later causes another step.
        let urgent = URGENT.swap(false, Ordering::AcqRel);
        let changed = CHANGED.swap(false, Ordering::AcqRel);
        let settings = self.apply_tunables();
        let shared = self.shared;
        let progress = self.daemon.step(
            cpus::now_ns(),
            Cause { urgent, changed },
            &settings,
            || shared.observe(),
            shared.balloon,
            &Budget::DEFAULT,
            &mut SCRATCH.lock(),
            &Movers(shared.machine),
        );
        self.tell(&progress);
        if let Some(decision) = &progress.decision {
            self.swap(decision);
            self.fruitless = false;
        }
        // What came free is for the balloon, before others have it; and nobody waits until all are home.
        if self.make_room(progress.in_use) || self.bring_home() {
            return Next::After(0);
        }
        match progress.next_ns {
            Some(next_ns) => Next::After(next_ns.saturating_sub(cpus::now_ns())),
            None => Next::Idle,
        }
    }

    /// Does the decision's part that concerns swap.
    fn swap(&mut self, decision: &Decision) {
        if decision.evict_frames > 0 && tunables().is_on(Id::SwapEvict) {
            let outcome = reclaim::reclaim(Frames::new(decision.evict_frames));
            log::debug!("reclaim: {} of {} frames evicted", outcome.freed.get(), decision.evict_frames);
        }
        match decision.shrink {
            Action::Shrink { to_frames } => self.stay_out = Some(Frames::new(to_frames)),
            // There may have been more than an interval's worth of them.
            Action::Wait { .. } => {}
            // Memory has run short meanwhile, or pages leave again.
            _ => self.stay_out = None,
        }
        tmem::obey(self.shared.machine);
        reclaim::wake();
    }

    /// Brings some of the pages home that the last decision wants home. Says whether there may be more of them.
    fn bring_home(&mut self) -> bool {
        let Some(target) = self.stay_out else { return false };
        let home = swap::shrink(self.shared.machine, target, SWAP_STEP);
        log::debug!("selfshrink: {} frames came home, {} are to stay out", home.get(), target.get());
        if home < SWAP_STEP {
            self.stay_out = None;
        }
        self.stay_out.is_some()
    }

    /// Has pages leave where the toolstack takes away memory that is in use, a part of it at a time. Says whether memory
    /// came free.
    fn make_room(&mut self, in_use: Frames) -> bool {
        if in_use == Frames::ZERO || self.fruitless || !tunables().is_on(Id::SwapEvict) {
            return false;
        }
        let outcome = reclaim::reclaim(in_use.min(SWAP_STEP));
        self.fruitless = outcome.freed == Frames::ZERO && !outcome.busy;
        outcome.freed > Frames::ZERO
    }

    /// Hands the tunables to those who obey them, if any has changed.
    fn apply_tunables(&mut self) -> Settings {
        let tunables = tunables();
        let generation = tunables.generation();
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            self.shared.balloon.set_scrub(tunables.is_on(Id::ScrubPages));
            self.shared.obey(self.shared.toolstack.lock().ceiling());
        }
        tunables.settings()
    }

    fn tell(&mut self, progress: &Progress) {
        if let Some(decision) = progress.decision {
            log::debug!(
                "selfballoon: {} of {} (goal {}, floor {}): {}",
                kib(decision.target_frames),
                self.shared.balloon.reservation().to_kib(),
                kib(decision.goal_frames),
                kib(decision.floor_frames),
                decision.reason
            );
            *self.shared.decision.lock() = Some(decision);
        }
        let held = match progress.moved.outcome {
            Outcome::Held(reason, _) => Some(Outcome::Held(reason, 0)),
            _ => None,
        };
        if held != self.held {
            if let Some(Outcome::Held(reason, _)) = held {
                log::debug!("balloon: held: {reason}");
            }
            self.held = held;
        }
    }
}

fn kib(frames: u64) -> Kib {
    Frames::new(frames).to_kib()
}
