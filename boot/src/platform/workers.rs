//! The kernel's own threads: one that drives RCU, and one on each CPU for functions sent to it.

use super::{Kernel, RCU, WaitQueue, threads};
use crate::cpus;
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::smp::{CpuId, MAX_CPUS};

/// RCU has work.
static RCU_WORK: AtomicBool = AtomicBool::new(false);
static RCU_WORKER: WaitQueue = WaitQueue::new(Kernel);
/// The threads that wait for functions.
static RUNNERS: [WaitQueue; MAX_CPUS] = [const { WaitQueue::new(Kernel) }; MAX_CPUS];

/// How long a grace period that nobody hurries may take before the CPUs that delay it are asked to pass a quiescent
/// state: one that runs a single thread has no reason of its own to switch.
const PATIENCE_NS: u64 = 20_000_000;

/// Begins them.
pub(super) fn start() {
    // It stays on the boot CPU: woken by somebody there who waits for a grace period himself, it would else go to a
    // CPU that halts, and the grace period would have to wait for that one to come up and settle again.
    match threads().spawn_on(CpuId::BOOT, "rcu", drive_rcu) {
        Ok(thread) => thread.detach(),
        Err(error) => super::stop(error),
    }
    for cpu in threads().online() {
        match threads().spawn_on(cpu, "run_on", move || run_functions(cpu)) {
            Ok(thread) => thread.detach(),
            Err(error) => log::error!("{cpu} runs no functions of others: {error}"),
        }
    }
}

/// Tells the thread that drives RCU. Any context.
pub(super) fn rcu_work() {
    // Only who makes it true wakes: until the thread has taken it, it will look in any case.
    if !RCU_WORK.swap(true, Ordering::AcqRel) && super::SCHEDULER.is_completed() {
        RCU_WORKER.wake_one();
    }
}

fn drive_rcu() {
    loop {
        let next = RCU.advance();
        let stall = RCU.stall();
        if let Some(stall) = stall.filter(|stall| stall.age_ns >= PATIENCE_NS) {
            for cpu in CpuId::first(MAX_CPUS).filter(|cpu| stall.waiting_for & 1 << cpu.get() != 0) {
                threads().kick(cpu);
            }
        }
        let look_again_ns = stall.map(|_| cpus::now_ns() + PATIENCE_NS);
        let deadline_ns = next.call_again_ns.into_iter().chain(look_again_ns).min();
        let work = || RCU_WORK.swap(false, Ordering::AcqRel);
        // Whether there is work or the time has come, the next round finds out.
        let _ = RCU_WORKER.wait_until_deadline(deadline_ns.unwrap_or(u64::MAX), work);
    }
}

/// A function was posted for this CPU, `cpu`. In the doorbell's interrupt.
pub(crate) fn work_posted(cpu: CpuId) {
    if super::SCHEDULER.is_completed() {
        RUNNERS[cpu.get()].wake_one();
    }
}

fn run_functions(cpu: CpuId) {
    loop {
        RUNNERS[cpu.get()].wait_until(|| cpus::has_work(cpu));
        cpus::serve_work(cpu);
    }
}
