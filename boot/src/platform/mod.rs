//! The machine as threads, per-CPU references and RCU see it: one zero-sized [`Kernel`], and the statics behind it.
//!
//! Each CPU adopts what it came up with as its idle thread. The main function is a thread of the boot CPU; another
//! thread drives RCU, and each CPU has one for what [`Cpus::run_on`](crate::Cpus::run_on) sends.
//!
//! An interrupt may end with a switch of threads (`interrupt_exit`). It is there that an interrupted fast path of
//! a per-CPU reference is sent back to its beginning: see [`percpu::gs`].
#![expect(unsafe_code, reason = "what the scheduler and RCU are told must be true")]

mod percpu_ops;
mod stacks;
mod task_ops;
mod wait;
mod workers;

pub(crate) use task_ops::preemption_is_on;
pub use wait::Parked;
pub(crate) use wait::port_fired;
pub(crate) use workers::work_posted;

use crate::domain::Processor;
use crate::frames::KernelFrames;
use crate::{Machine, cpus, end, image};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use ebb::arch::trap::TrapFrame;
use ebb::arch::{interrupts, local as gs};
use ebb::smp::CpuId;
use ebb::task::Scheduler;
use ebb::units::Frames;
use ebb::xen::wait::Halt;
use percpu::rcu::Laziness;
use percpu::{Rcu, WordPool};
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

/// The platform of threads, per-CPU references and RCU. A handle: all are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kernel;

/// Threads of this image that wait for one another.
pub type Mutex<T> = ebb::task::Mutex<T, Kernel>;
/// See [`ebb::task::WaitQueue`].
pub type WaitQueue = ebb::task::WaitQueue<Kernel>;

/// Stacks that ended threads may leave behind for new ones.
const SPARE_STACKS: u32 = 32;
/// Groups of 64 words in each CPU's area.
const WORD_GROUPS: usize = gs::WORDS / 64;

static SCHEDULER: Once<Scheduler<Kernel>> = Once::new();
static RCU: Rcu<Kernel> = Rcu::new(Kernel, Laziness::DEFAULT);
static WORDS: WordPool<WORD_GROUPS> = WordPool::new();
/// CPUs that have an area.
static CPUS: AtomicUsize = AtomicUsize::new(1);
/// Reports of misuse, which are logged as errors.
static REPORTS: AtomicU64 = AtomicU64::new(0);

/// The threads of this machine.
///
/// # Panics
///
/// Before the machine is up.
#[must_use]
pub fn threads() -> &'static Scheduler<Kernel> {
    match SCHEDULER.get() {
        Some(scheduler) => scheduler,
        None => unreachable!("threads are prepared before any CPU may use them"),
    }
}

/// Stacks for threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackCounts {
    /// Stacks that have memory.
    pub mapped: usize,
    /// Those of them that are nobody's, neither a thread's nor kept where a thread has ended.
    pub free: usize,
}

impl StackCounts {
    /// The most that are free, but for a moment.
    pub const MOST_FREE: usize = stacks::MOST_FREE;
}

/// The stacks of this machine's threads, now.
#[must_use]
pub fn stack_counts() -> StackCounts {
    let (mapped, free) = stacks::counts();
    StackCounts { mapped, free }
}

/// Gives back the memory of all stacks that no thread uses, and answers how much that was. In a thread that may block,
/// with no lock held.
pub fn trim_stacks() -> Frames {
    threads().trim(0);
    stacks::trim(0)
}

/// The domain of RCU.
#[must_use]
pub fn rcu() -> &'static Rcu<Kernel> {
    &RCU
}

/// Per-CPU words in use.
#[must_use]
pub fn words_in_use() -> usize {
    WORDS.in_use()
}

/// The machine code of all fast paths of per-CPU references, for those who check it.
pub fn fast_paths() -> impl Iterator<Item = &'static [u8]> {
    image::restart_sections().iter().map(|section| image::code(section.begin(), section.end()))
}

/// How often misuse of references, callbacks or locks was reported since boot.
#[must_use]
pub fn reports() -> u64 {
    REPORTS.load(Ordering::Relaxed)
}

/// Makes the scheduler, for `cpus` CPUs with stacks from `frames`, and has interrupts tell it. On the boot CPU, before
/// the others start.
pub(crate) fn prepare(cpus: usize, frames: &'static KernelFrames) {
    stacks::prepare(frames);
    CPUS.store(cpus, Ordering::Relaxed);
    SCHEDULER.call_once(|| Scheduler::new(Kernel, SPARE_STACKS));
    cpus::set_threads_timer_handler(|| threads().timer_interrupt());
    cpus::set_kick_handler(|| threads().kick_interrupt());
    // SAFETY: of the frame, `interrupt_exit` changes the address at which an interrupted fast path goes on, to the
    // beginning of that path, which may begin anew as long as its last instruction has not been executed
    // (`percpu::gs`). The thread comes back on another CPU only if it was not pinned: `wants_switch` looks.
    unsafe { interrupts::set_hooks(interrupt_enter, interrupt_exit) };
}

/// An interrupt has come, whichever.
fn interrupt_enter() {
    threads().interrupt_enter();
}

/// The interrupt is over: perhaps another thread runs first.
fn interrupt_exit(frame: &mut TrapFrame) {
    // Interrupts were on: none of the locks is held under which somebody may have wanted this.
    crate::reclaim::pass_on_calls(|| true);
    let threads = threads();
    if threads.wants_switch() {
        // What the fast path has read may not be true any more when the thread goes on.
        frame.rip = percpu::gs::restart(frame.rip as usize, image::restart_sections()) as u64;
        threads.preempt();
    }
}

/// Whether the caller is a thread that may wait: interrupts and preemption are on, and no read section is open.
pub(crate) fn may_block() -> bool {
    percpu::Cpus::may_block(Kernel)
}

/// Brings this CPU online for threads and RCU; the calling code is its idle thread. Says so if that fails.
fn adopt() -> bool {
    let adopted = without_interrupts(|| {
        // SAFETY: this CPU; it has been offline until now.
        unsafe { RCU.idle_exit(gs::cpu()) };
        threads().adopt_cpu()
    });
    if let Err(error) = adopted {
        log::error!("{} runs no threads: {error}", gs::cpu());
    }
    adopted.is_ok()
}

/// What every CPU but the first does, from its first instructions on.
pub(crate) fn run_cpu() -> ! {
    if adopt() {
        x86_64::instructions::interrupts::enable();
        threads().idle();
    }
    // SAFETY: this CPU, which from here on only answers interrupts, and those without RCU.
    unsafe { RCU.idle_enter(gs::cpu()) };
    loop {
        Processor.halt_unless(|| false);
    }
}

/// Begins the threads that the kernel needs, then `main` as a thread of the boot CPU, whose idle thread the caller
/// becomes.
///
/// # Panics
///
/// If there is no memory for them.
pub(crate) fn run_main(machine: &'static Machine) -> ! {
    assert!(adopt(), "no memory for the first thread");
    let online = machine.cpus().online();
    // They are up, and on their way here.
    machine.cpus().wait_until(ADOPT_BOUND_NS, || threads().online().count() >= online.len());
    workers::start();
    let main = threads().spawn_on(CpuId::BOOT, "main", move || run(machine));
    match main {
        Ok(thread) => thread.detach(),
        Err(error) => stop(error),
    }
    threads().idle()
}

/// How long the other CPUs may take to bring their idle threads online.
const ADOPT_BOUND_NS: u64 = 20_000_000_000;

fn run(machine: &'static Machine) {
    crate::elastic::start(machine);
    end::exit(crate::ebb_main(machine))
}

/// Ends a machine that cannot run its first threads.
fn stop(why: ebb::task::SpawnError) -> ! {
    log::error!("cannot start threads: {why}");
    end::exit(end::Outcome::Failure)
}
