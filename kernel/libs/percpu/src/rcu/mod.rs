//! Read-copy-update: readers that cost almost nothing, and writers that wait until every old reader is gone.
//!
//! A *read section* is any code that runs with preemption off, interrupt handlers included. There is nothing else
//! to do for a reader: [`Rcu::read_lock`] is one preemption-count increment on the own CPU, its end one decrement;
//! no fence, no shared line.
//!
//! A *quiescent state* of a CPU is a moment with no read section on it: a context switch, or any point of a thread
//! with preemption on. A CPU that idles in a halt is in an *extended* quiescent state: it announces that before it
//! halts and takes it back with a full fence before it reads again, so a halted CPU never delays anybody, and
//! waking it never lets a reader slip by. An offline CPU looks the same.
//!
//! A *grace period* has a number. It begins with a full fence and the increment of `started`, and ends when every
//! CPU has reported a quiescent state that saw that number (or is in an extended one). Any section that was running
//! when it began is then over, and its effects are visible; any section that begins later sees what was stored
//! before.
//!
//! Grace periods are driven by [`Rcu::advance`], which a worker thread of the kernel calls when the platform's
//! `rcu_work` says so, and by those who wait.
//!
//! Gotchas: a read section must not block, yield or halt; a grace period waits for *all* read sections, also those
//! of people one has never heard of; a callback runs with preemption off, on any CPU; two callbacks of one CPU and
//! one class run in the order of their calls, any other two in any order.
#![expect(unsafe_code, reason = "reports on which memory safety rests, and callbacks through raw pointers")]

mod callback;
mod deferred;
mod grace;

pub use callback::{CallbackFn, Head};
pub use deferred::Deferred;
pub use grace::{Advance, Stall};

use crate::data::CachePadded;
use crate::lock::SpinLock;
use crate::mutation::{Mutation, made, ordering};
use crate::platform::{CpuId, CpuPin, MAX_CPUS, Pinned, Platform};
use crate::primitive::{AtomicU64, Ordering, fence};
use crate::report::Report;
use callback::Fifo;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// What a CPU's `seen` holds while the CPU is idle or offline: later than every grace period.
const EXTENDED: u64 = u64::MAX;

/// How long lazy callbacks may wait for somebody else's grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laziness {
    /// The longest that a lazy callback waits before it asks for a grace period of its own, in nanoseconds.
    pub limit_ns: u64,
    /// The number of waiting lazy callbacks on one CPU from which on they ask for one at once.
    pub limit_count: usize,
}

impl Laziness {
    /// Ten seconds or 10,000 callbacks.
    pub const DEFAULT: Self = Self { limit_ns: 10_000_000_000, limit_count: 10_000 };
}

/// A domain of grace periods. A kernel has one; a test makes as many as it likes.
#[derive(Debug)]
pub struct Rcu<P> {
    platform: P,
    laziness: Laziness,
    /// The number of the newest grace period that has begun.
    started: AtomicU64,
    /// The number of the newest that has ended: `started`, or one less.
    done: AtomicU64,
    period: SpinLock<grace::Period>,
    cpus: [CachePadded<CpuState>; MAX_CPUS],
}

/// What the domain knows of one CPU.
#[derive(Debug)]
struct CpuState {
    /// The newest grace period that the CPU saw in a quiescent state, or [`EXTENDED`].
    seen: AtomicU64,
    queues: SpinLock<Queues>,
}

/// The callbacks queued on one CPU.
#[derive(Debug)]
struct Queues {
    hurried: Fifo,
    lazy: Fifo,
    /// Somebody runs this CPU's callbacks; nobody else may, or they would run out of order.
    running: bool,
}

impl CpuState {
    crate::const_fn! {
        fn new() -> Self {
            Self {
                seen: AtomicU64::new(EXTENDED),
                queues: SpinLock::new(
                    "rcu callbacks",
                    Queues { hurried: Fifo::new(), lazy: Fifo::new(), running: false },
                ),
            }
        }
    }
}

/// Proof of a read section, which lasts as long as the value.
#[derive(Debug)]
#[must_use = "the read section ends when this is dropped"]
pub struct ReadGuard<'a, P: Platform> {
    pin: CpuPin<P>,
    domain: PhantomData<&'a Rcu<P>>,
}

impl<P: Platform> ReadGuard<'_, P> {
    /// The pin that the section consists of.
    pub fn pin(&self) -> &CpuPin<P> {
        &self.pin
    }

    /// The CPU that the section runs on.
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.pin.cpu()
    }
}

/// What [`Rcu::irq_enter`] found, for [`Rcu::irq_exit`].
#[derive(Debug)]
#[must_use = "an interrupt of an idle CPU must put it back to idle"]
pub struct IrqEntry {
    cpu: CpuId,
    was_idle: bool,
}

impl<P: Platform> Rcu<P> {
    crate::const_fn! {
        /// A domain in which every CPU is offline.
        #[must_use]
        pub fn new(platform: P, laziness: Laziness) -> Self {
            Self {
                platform,
                laziness,
                started: AtomicU64::new(0),
                done: AtomicU64::new(0),
                period: SpinLock::new("rcu grace period", grace::Period::new()),
                cpus: crate::primitive::per_cpu_array!(CachePadded::new(CpuState::new())),
            }
        }
    }

    /// The platform that the domain was made with.
    #[must_use]
    pub fn platform(&self) -> P {
        self.platform
    }

    /// Begins a read section: one increment of this CPU's preemption count. Nests. Any context.
    #[inline]
    pub fn read_lock(&self) -> ReadGuard<'_, P> {
        ReadGuard { pin: CpuPin::new(self.platform), domain: PhantomData }
    }

    /// The number of grace periods that have ended.
    #[must_use]
    pub fn periods(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn cpu(&self, cpu: CpuId) -> &CpuState {
        &self.cpus[cpu.get()]
    }

    /// Reports a quiescent state of this CPU, from a thread that could block here: a poll in a long loop.
    ///
    /// Elsewhere it changes nothing, and is reported.
    pub fn quiesce(&self) {
        if !self.platform.may_block() {
            self.platform.report(Report::QuiescentInReadSection);
            return;
        }
        let pin = CpuPin::new(self.platform);
        // SAFETY: a thread that could block is in no read section; nor is anything else on this CPU, because
        // sections are not preempted and this code is not in an interrupt handler. The pin opens one, but nothing
        // has been read in it.
        unsafe { self.quiescent(pin.cpu()) };
    }

    /// Reports a quiescent state of `cpu`: for the scheduler, at a context switch. A load, and a store if a grace
    /// period has begun since the last report.
    ///
    /// # Safety
    ///
    /// Runs on `cpu`, on which no read section is open, no interrupted fast path either (on x86-64, one that was
    /// has been sent back by [`gs::restart`](crate::gs::restart)).
    pub unsafe fn quiescent(&self, cpu: CpuId) {
        // Acquire: sections after this one see what was stored before the grace period began.
        let started = self.started.load(ordering(Ordering::Acquire, Mutation::RelaxedQuiescentLoad));
        let seen = &self.cpu(cpu).seen;
        let before = seen.load(Ordering::Relaxed);
        if before == started || before == EXTENDED {
            return;
        }
        // Release: whoever ends the grace period sees what earlier sections did.
        seen.store(started, ordering(Ordering::Release, Mutation::RelaxedQuiescentStore));
        self.platform.rcu_work();
    }

    /// Announces that `cpu` halts, or goes offline: grace periods no longer wait for it.
    ///
    /// # Safety
    ///
    /// As for [`quiescent`](Self::quiescent); and no read section begins on `cpu`, and no fast path of a reference
    /// count runs there, until [`idle_exit`](Self::idle_exit) (or, in a handler, [`irq_enter`](Self::irq_enter)).
    pub unsafe fn idle_enter(&self, cpu: CpuId) {
        let value = if made(Mutation::WaitForIdle) { self.started.load(Ordering::Relaxed) } else { EXTENDED };
        self.cpu(cpu).seen.store(value, Ordering::Release);
        // Either the scan of a new grace period sees the store above, or this load sees the grace period.
        fence(Ordering::SeqCst);
        if self.done.load(Ordering::Relaxed) != self.started.load(Ordering::Relaxed) {
            self.platform.rcu_work();
        }
    }

    /// Takes back [`idle_enter`](Self::idle_enter), or brings `cpu` online: before its first read section.
    ///
    /// # Safety
    ///
    /// Runs on `cpu`.
    pub unsafe fn idle_exit(&self, cpu: CpuId) {
        let started = self.started.load(Ordering::Acquire);
        self.cpu(cpu).seen.store(started, Ordering::Release);
        // Either the scan of a grace period sees the store above and waits, or the sections that follow see what
        // was stored before that grace period began.
        if !made(Mutation::NoIdleFence) {
            fence(Ordering::SeqCst);
        }
    }

    /// Begins an interrupt handler, which is a reader, on a CPU that may be idle.
    ///
    /// # Safety
    ///
    /// Runs on `cpu` with interrupts off, and [`irq_exit`](Self::irq_exit) follows on the way out.
    pub unsafe fn irq_enter(&self, cpu: CpuId) -> IrqEntry {
        let was_idle = self.is_idle(cpu);
        if was_idle {
            // SAFETY: runs on `cpu`.
            unsafe { self.idle_exit(cpu) };
        }
        IrqEntry { cpu, was_idle }
    }

    /// Ends an interrupt handler.
    ///
    /// # Safety
    ///
    /// Runs on the CPU of `entry` with interrupts off, after the last read of the handler, and the code that was
    /// interrupted goes on (an idle loop that the handler woke leaves by [`idle_exit`](Self::idle_exit)).
    pub unsafe fn irq_exit(&self, entry: IrqEntry) {
        if entry.was_idle {
            // SAFETY: the CPU was idle, hence in no section, and the handler's own are over.
            unsafe { self.idle_enter(entry.cpu) };
        }
    }

    /// Whether `cpu` is idle or offline. Exact only on `cpu` itself.
    #[must_use]
    pub fn is_idle(&self, cpu: CpuId) -> bool {
        self.cpu(cpu).seen.load(Ordering::Relaxed) == EXTENDED
    }

    /// Runs `function` with `head` after a grace period that begins after this call. Not urgent: it waits until
    /// somebody wants a grace period, at most as long as [`Laziness`] says. Any context; allocates nothing.
    ///
    /// # Safety
    ///
    /// `head` is valid, and nobody moves, frees or queues it, until `function` has been called; `function` may be
    /// called with it from any CPU.
    pub unsafe fn call(&self, head: NonNull<Head>, function: CallbackFn) {
        // SAFETY: the contracts are the same.
        unsafe { self.queue(head, function, false) };
    }

    /// As [`call`](Self::call), but asks for the grace period at once, kicks the CPUs that delay it, and runs
    /// before all lazy callbacks.
    ///
    /// # Safety
    ///
    /// As for [`call`](Self::call).
    pub unsafe fn call_hurry(&self, head: NonNull<Head>, function: CallbackFn) {
        // SAFETY: the contracts are the same.
        unsafe { self.queue(head, function, true) };
    }

    /// # Safety
    ///
    /// As for [`call`](Self::call).
    unsafe fn queue(&self, head: NonNull<Head>, function: CallbackFn, hurry: bool) {
        // SAFETY: valid, by our contract.
        if !unsafe { head.as_ref() }.claim() {
            self.platform.report(Report::DoubleCall);
            return;
        }
        if made(Mutation::NoGracePeriod) {
            // SAFETY: this is the mistake: the grace period is missing.
            unsafe { function(head) };
            return;
        }
        let now_ns = self.platform.now_ns();
        let pin = CpuPin::new(self.platform);
        let mut queues = self.cpu(pin.cpu()).queues.lock(self.platform);
        let due = self.next_period();
        let class = if hurry { &mut queues.hurried } else { &mut queues.lazy };
        // SAFETY: valid and untouched until the callback, by our contract; in no list, because it was claimed.
        unsafe { class.push(head, due, now_ns, function) };
        let many = class.waiting == self.laziness.limit_count;
        let first = class.waiting == 1;
        drop(queues);
        drop(pin);
        if hurry || many {
            self.request(due, hurry);
        }
        if hurry || many || first {
            // A first lazy one starts the clock of whoever calls `advance`.
            self.platform.rcu_work();
        }
    }
}
