//! The end of the kernel: the CPU that reports it stops the others first.

use super::{interrupts, local, wait};
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::arch::cpu;
use ebb::smp::{CpuId, CpuSet, Message, SharedCpuSet};

/// How long the others have to stop when they are asked. One that runs with interrupts off does not hear it.
const ASKED_NS: u64 = 300_000_000;
/// How long they have when they are forced. One that has not stopped then does not run at all: a host that is busy with
/// other things may put one aside for seconds.
const FORCED_NS: u64 = 5_000_000_000;

/// The others are to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);
static STOPPED: SharedCpuSet = SharedCpuSet::new();

/// What became of the other CPUs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped {
    /// Those that were up.
    pub(crate) asked: CpuSet,
    /// Those of them that have stopped.
    pub(crate) obeyed: CpuSet,
}

/// Stops all other CPUs, by an interrupt or, where those are off, by the one that nothing masks. Bounded; any
/// context. The second call does nothing.
pub(crate) fn stop_others() -> Stopped {
    let Some(me) = local::who() else { return Stopped { asked: CpuSet::EMPTY, obeyed: CpuSet::EMPTY } };
    let asked = super::online().without(me);
    if !STOPPING.swap(true, Ordering::SeqCst) {
        ask(asked, ASKED_NS, |cpu, local| {
            local.messages.post(Message::Stop);
            interrupts::ring(cpu, local);
        });
        ask(asked.minus(STOPPED.get()), FORCED_NS, interrupts::send_nmi);
    }
    Stopped { asked, obeyed: asked.minus(asked.minus(STOPPED.get())) }
}

/// Whether this CPU has stopped all others, and runs alone for the rest of the machine's life. Any context.
pub(crate) fn is_alone() -> bool {
    let others = || local::who().map(|me| super::online().without(me).minus(STOPPED.get()));
    STOPPING.load(Ordering::SeqCst) && others().is_some_and(|running| running.is_empty())
}

/// Asks each of `cpus` and waits until all have stopped, or for `bound_ns`.
fn ask(cpus: CpuSet, bound_ns: u64, how: impl Fn(CpuId, &local::Local)) {
    for cpu in cpus.iter() {
        if let Some(local) = local::of(cpu) {
            how(cpu, local);
        }
    }
    let mut wait = wait::at_most(bound_ns);
    while !cpus.minus(STOPPED.get()).is_empty() && wait() {}
}

/// Stops this CPU for good.
pub(super) fn stop_here(me: CpuId) -> ! {
    STOPPED.insert(me);
    cpu::halt_forever()
}

/// Stops this CPU, which has failed while another reports.
pub(crate) fn stop_me() -> ! {
    match local::who() {
        Some(me) => stop_here(me),
        None => cpu::halt_forever(),
    }
}

/// For the interrupt that nothing masks: stops this CPU if that is what it came for.
pub(crate) fn stop_if_asked() {
    if STOPPING.load(Ordering::SeqCst)
        && let Some(me) = local::who()
    {
        stop_here(me);
    }
}
