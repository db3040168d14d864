//! All CPUs of the machine: who they are, how they come up, and how they reach each other.
//!
//! The boot CPU is CPU 0 from the first instruction on. The others are found while the bootstrap page tables are in
//! use (`topology`), get a slot of stacks and an area when the final ones are built (`slots`), and are started
//! when interrupts work (`start`): under Xen by hypercalls, without Xen through the local APIC. One that does not
//! come up is reported and left alone.
//!
//! Then each of them runs threads ([`platform`](crate::platform)), one of which does what [`Cpus::run_on`] sends.
#![expect(unsafe_code, reason = "translations of the processor, and each CPU's first steps")]

pub(crate) mod check;
pub(crate) mod interrupts;
pub(crate) mod local;
pub(crate) mod slots;
mod start;
pub(crate) mod stop;
pub(crate) mod topology;
mod trampoline;
mod wait;

pub(crate) use interrupts::set_threads_timer_handler;
pub use interrupts::{set_kick_handler, set_timer_handler};
pub(crate) use start::start_others;

use crate::domain;
use crate::{clock, stacks};
use core::sync::atomic::{AtomicUsize, Ordering};
use ebb::arch::{local as gs, tables};
use ebb::port::Clock;
use ebb::smp::{
    CallError, CpuId, CpuSet, Flush, Job, Mailbox, Message, SharedCpuSet, Shootdown, Tlb, Unanswered,
};
use ebb::units::FRAME_SIZE;
use x86_64::instructions::interrupts::{are_enabled, without_interrupts};

/// How long another CPU may take for a function, in nanoseconds. A host may leave one waiting for seconds.
const CALL_BOUND_NS: u64 = 20_000_000_000;
/// How long all CPUs together may take to forget translations.
pub(crate) const FLUSH_BOUND_NS: u64 = 20_000_000_000;

/// CPUs that the machine has, used or not.
static PRESENT: AtomicUsize = AtomicUsize::new(1);
static ONLINE: SharedCpuSet = SharedCpuSet::new();
static SHOOTDOWN: Shootdown = Shootdown::new();

/// Those that are up.
fn online() -> CpuSet {
    ONLINE.get()
}

/// System time under Xen, time since boot without. Interrupt-safe.
pub(crate) fn now_ns() -> u64 {
    domain::clock().map_or_else(clock::now_ns, |clock| clock.now_ns())
}

/// Gives the boot CPU its area and its descriptor tables: from here on it has a number, and an exception a name.
///
/// # Safety
///
/// For the boot CPU, once, before anything else.
pub(crate) unsafe fn start_boot() {
    // SAFETY: the caller's promise.
    unsafe { local::install_boot() };
    ONLINE.insert(CpuId::BOOT);
    // SAFETY: these stacks are part of the image, and the boot CPU's.
    unsafe { local::mine().load_tables(stacks::emergency_tops()) };
}

/// How the processors forget.
struct Translations;

impl Tlb for Translations {
    fn online(&self) -> CpuSet {
        online()
    }

    fn ring(&self, cpu: CpuId) {
        post(cpu, Message::Flush);
    }

    fn invalidate(&self, what: Flush) {
        match what {
            Flush::All => tables::invalidate_all(),
            Flush::Pages { start, count } => {
                for page in 0..count {
                    tables::invalidate(start.wrapping_add(page * FRAME_SIZE as u64));
                }
            }
        }
    }
}

/// Posts a message and rings. Any context.
pub(crate) fn post(cpu: CpuId, message: Message) {
    if let Some(local) = local::of(cpu) {
        local.messages.post(message);
        interrupts::ring(cpu, local);
    }
}

/// Has every CPU forget `what`, whose mapping has been taken away or changed in the page table already. When this
/// returns, the frame that was mapped may serve something else. Any context; waits, but not for interrupts.
///
/// The caller holds no lock that others wait for with interrupts off, unless they [answer](answer_flush) meanwhile.
///
/// # Panics
///
/// If a CPU does not answer: it may use the old mapping, so that nothing is safe any more.
pub(crate) fn flush(what: Flush) {
    let flushed = without_interrupts(|| {
        let mut wait = wait::at_most(FLUSH_BOUND_NS);
        let flushed = SHOOTDOWN.flush(what, gs::cpu(), &Translations, &mut wait);
        // Perhaps it is somebody else's turn now.
        wait::wake_nappers(gs::cpu());
        flushed
    });
    if let Err(error) = flushed {
        unanswered(error);
    }
}

/// Answers another CPU's flush, for one who waits with interrupts off. Any context.
pub(crate) fn answer_flush() {
    without_interrupts(|| SHOOTDOWN.serve(gs::cpu(), &Translations));
}

#[cold]
#[expect(clippy::panic, reason = "a broken invariant: every CPU that is up takes interrupts")]
fn unanswered(error: Unanswered) -> ! {
    panic!("{error}")
}

/// When a CPU's timer fired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerRecord {
    /// How often, at a deadline.
    pub count: u64,
    /// When it did last.
    pub last_ns: u64,
}

/// The CPUs of the machine. A handle: all are the same.
#[derive(Clone, Copy, Debug)]
pub struct Cpus(pub(crate) ());

impl Cpus {
    /// Those that are up.
    #[must_use]
    pub fn online(self) -> CpuSet {
        online()
    }

    /// How many are up.
    #[must_use]
    pub fn count(self) -> usize {
        online().len()
    }

    /// How many the machine has, used or not.
    #[must_use]
    pub fn present(self) -> usize {
        PRESENT.load(Ordering::Relaxed)
    }

    /// The one that runs this. One load. Where the code may be moved to another, a hint.
    #[must_use]
    pub fn this(self) -> CpuId {
        gs::cpu()
    }

    /// Runs `function` on `cpu`, in an interrupt there, and waits for its end. It must be short, and take no lock
    /// that is ever held with interrupts on.
    ///
    /// Interrupts must be on here, or two CPUs that call each other wait for each other.
    ///
    /// # Errors
    ///
    /// Says whether the function will not run, or still runs, if that CPU does not answer in time.
    ///
    /// # Panics
    ///
    /// If interrupts are off.
    pub fn call(self, cpu: CpuId, function: fn(usize), argument: usize) -> Result<(), CallError> {
        assert!(are_enabled(), "a call of another CPU needs interrupts on");
        let job = Job { function, argument };
        if cpu == self.this() {
            without_interrupts(|| function(argument));
            return Ok(());
        }
        send(cpu, job, |local| &local.calls, Message::Call)
    }

    /// Runs `function` in an interrupt on all CPUs, here too, one after the other: see [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// The first CPU that fails, and why; the ones after it are not asked.
    pub fn call_all(self, function: fn(usize), argument: usize) -> Result<(), (CpuId, CallError)> {
        self.online()
            .iter()
            .try_for_each(|cpu| self.call(cpu, function, argument).map_err(|error| (cpu, error)))
    }

    /// Runs `function` on `cpu` as ordinary code with interrupts on, in a thread that is there for this, and waits
    /// for its end. On the CPU of a thread that stays there it is called directly.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// If interrupts are off.
    pub fn run_on(self, cpu: CpuId, function: fn(usize), argument: usize) -> Result<(), CallError> {
        assert!(are_enabled(), "work for another CPU needs interrupts on");
        if cpu == self.this() {
            function(argument);
            return Ok(());
        }
        send(cpu, Job { function, argument }, |local| &local.work, Message::Work)
    }

    /// Runs `function` as ordinary code on all CPUs at once, on this one too, which must be the boot CPU, and waits
    /// for all.
    ///
    /// # Errors
    ///
    /// The first CPU that failed, and why. The others have ended.
    ///
    /// # Panics
    ///
    /// If interrupts are off.
    pub fn run_on_all(self, function: fn(usize), argument: usize) -> Result<(), (CpuId, CallError)> {
        assert!(are_enabled(), "work for another CPU needs interrupts on");
        let mut wait = wait::at_most(CALL_BOUND_NS);
        let job = Job { function, argument };
        let mut posted = [const { None }; ebb::smp::MAX_CPUS];
        let mut failed = Ok(());
        for cpu in self.online().without(self.this()).iter() {
            let Some(local) = local::of(cpu) else { continue };
            match local.work.post(job, &mut wait) {
                Ok(token) => {
                    posted[cpu.get()] = Some(token);
                    post(cpu, Message::Work);
                }
                Err(error) => failed = failed.and(Err((cpu, error))),
            }
        }
        function(argument);
        // Anew: what ran here has taken its time.
        let mut wait = wait::at_most(CALL_BOUND_NS);
        for (cpu, token) in CpuId::first(posted.len()).zip(posted) {
            if let Some(Err(error)) = token.map(|token| token.finish(&mut wait)) {
                failed = failed.and(Err((cpu, error)));
            }
        }
        failed
    }

    /// Waits until `done`, or for `bound_ns`, and answers whether it is done: for what another CPU does soon. Spins,
    /// and under Xen lets other vCPUs run now and then. Any context. `done` should be quick: it is asked some thousand
    /// times in any case, because a machine that stood still would find its bound over at once.
    pub fn wait_until(self, bound_ns: u64, mut done: impl FnMut() -> bool) -> bool {
        let mut wait = wait::at_most(bound_ns);
        loop {
            if done() {
                return true;
            }
            if !wait() {
                return done();
            }
        }
    }

    /// Interrupts `cpu`, so that it looks again at what there is to do: the handler of [`set_kick_handler`] is
    /// called there, and a halt ends. Any context.
    pub fn kick(self, cpu: CpuId) {
        post(cpu, Message::Kick);
    }

    /// Has every CPU forget the translations of `count` pages of 4 KiB from virtual address `start` on. See the
    /// module for what that means for the frames.
    ///
    /// # Panics
    ///
    /// If a CPU does not answer.
    pub fn flush(self, start: u64, count: u64) {
        flush(Flush::pages(start, count));
    }

    /// Has every CPU forget all translations.
    ///
    /// # Panics
    ///
    /// If a CPU does not answer.
    pub fn flush_all(self) {
        flush(Flush::All);
    }

    /// System time under Xen, time since boot without: one for all CPUs, never going back, in nanoseconds.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        now_ns()
    }

    /// Has this CPU's one-shot timer fire at `deadline_ns`, or soon after if that is past; `None` stops it. Replaces
    /// what was set before. It does not fire early: the handler of [`set_timer_handler`] finds the deadline over.
    ///
    /// Answers false if no interrupt will come, because the deadline is over or there is no timer. Any context.
    pub fn arm_timer(self, deadline_ns: Option<u64>) -> bool {
        without_interrupts(|| interrupts::arm(deadline_ns))
    }

    /// Sets this CPU's timer again: for those who have used it behind the back of everybody else.
    pub fn restore_timer(self) {
        without_interrupts(interrupts::restore_timer);
    }

    /// When the timer of `cpu` fired, if there is that CPU.
    #[must_use]
    pub fn timer_record(self, cpu: CpuId) -> Option<TimerRecord> {
        let local = local::of(cpu)?;
        // The count is written last.
        let count = local.timer_count.load(Ordering::Acquire);
        Some(TimerRecord { count, last_ns: local.timer_last_ns.load(Ordering::Relaxed) })
    }

    /// How often `cpu` was interrupted by others.
    #[must_use]
    pub fn doorbells(self, cpu: CpuId) -> u64 {
        local::of(cpu).map_or(0, |local| local.doorbell_count.load(Ordering::Relaxed))
    }
}

/// Puts `job` into a mailbox of `cpu`, and waits for its end.
fn send(
    cpu: CpuId,
    job: Job,
    mailbox: impl FnOnce(&'static local::Local) -> &'static Mailbox,
    message: Message,
) -> Result<(), CallError> {
    let local = local::of(cpu).filter(|_| online().contains(cpu)).ok_or(CallError::Offline)?;
    let mut wait = wait::at_most(CALL_BOUND_NS);
    let posted = mailbox(local).post(job, &mut wait)?;
    post(cpu, message);
    posted.finish(&mut wait)
}

/// Whether a function waits for `cpu` to run it.
pub(crate) fn has_work(cpu: CpuId) -> bool {
    local::of(cpu).is_some_and(|local| local.work.is_posted())
}

/// Runs the function that waits for `cpu`, this CPU.
pub(crate) fn serve_work(cpu: CpuId) {
    if local::of(cpu).is_some_and(|local| local.work.serve()) {
        wait::wake_nappers(cpu);
    }
}

/// Has this CPU's timer fire for its threads. Interrupts are off.
pub(crate) fn arm_threads_timer(deadline_ns: u64) -> bool {
    interrupts::arm_threads(deadline_ns)
}

/// One round of waiting for another CPU. Any context. Answers a flush: who holds what is waited for may touch paged
/// memory, and so wait for one who flushes.
pub(crate) fn relax() {
    answer_flush();
    interrupts::relax();
}
