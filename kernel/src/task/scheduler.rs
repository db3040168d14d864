//! The scheduler: locks, interrupts and switches around the decisions of [`CpuState`].
//!
//! Locks, in the order in which they may nest: a wait queue's, then one CPU's. Never two CPUs' at once: a thread
//! that moves is in no queue while it does. No lock is held across a switch.

use super::balance;
use super::cpu::{CpuState, Finished, Why};
use super::id::Name;
use super::list::NONE;
use super::lock::SpinLock;
use super::platform::{CpuId, IrqOff, MAX_CPUS, Pin, Platform, mask};
use super::table::{NoBlock, Table};
use super::wait::WaitQueue;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Queues for waits by key: see [`Scheduler::wait_key`].
const KEY_QUEUES: usize = 16;

/// How long a thread may wait for a mutex in debug builds, unless it is set otherwise, in nanoseconds.
const STUCK_NS: u64 = 60_000_000_000;

/// The shortest time for which the timer is set anew after it was told that a deadline is past, in nanoseconds.
const SOON_NS: u64 = 20_000;

/// Threads, and the CPUs that run them.
pub struct Scheduler<P: Platform> {
    pub(super) platform: P,
    pub(super) table: Table<P>,
    /// Stacks that ended threads may leave behind for new ones.
    pub(super) spare_stacks: u32,
    cpus: [Cpu<P>; MAX_CPUS],
    /// CPUs that run nothing and have not been given anything, as a mask.
    pub(super) idle: AtomicU32,
    online: AtomicU32,
    pub(super) keys: [WaitQueue<P>; KEY_QUEUES],
    pub(super) stuck_limit_ns: AtomicU64,
}

/// One CPU.
#[repr(align(128))]
pub(super) struct Cpu<P> {
    pub(super) state: SpinLock<CpuState, P>,
    /// [`CpuState::load`], to be read without the lock.
    pub(super) load: AtomicU32,
    /// [`CpuState::current`], to be read on this CPU.
    pub(super) current: AtomicU32,
    /// [`CpuState::is_busy`], to be read on this CPU.
    pub(super) busy: AtomicBool,
    /// It must decide anew.
    pub(super) need: AtomicBool,
    /// It has announced that it halts ([`Platform::idle_enter`]).
    pub(super) extended: AtomicBool,
    pub(super) switches: AtomicU64,
    pub(super) steals: AtomicU64,
    pub(super) gifts: AtomicU64,
    pub(super) kicks: AtomicU64,
}

/// Why a CPU was not brought online.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory for an idle thread")
    }
}

impl core::error::Error for NoMemory {}

impl<P: Platform> Scheduler<P> {
    /// A scheduler without CPUs or threads. `spare_stacks` is how many stacks ended threads may leave behind.
    #[must_use]
    pub fn new(platform: P, spare_stacks: u32) -> Self {
        Self {
            platform,
            table: Table::new(platform),
            spare_stacks,
            cpus: core::array::from_fn(|cpu| Cpu::new(platform, CpuId::new(cpu).unwrap_or(CpuId::BOOT))),
            idle: AtomicU32::new(0),
            online: AtomicU32::new(0),
            keys: core::array::from_fn(|_| WaitQueue::new(platform)),
            stuck_limit_ns: AtomicU64::new(STUCK_NS),
        }
    }

    pub(super) fn cpu(&self, cpu: CpuId) -> &Cpu<P> {
        &self.cpus[cpu.get()]
    }

    /// Brings this CPU online: the code that calls becomes its idle thread. It may create threads now, and
    /// then calls [`idle`](Self::idle). Interrupts are off or cannot come yet.
    ///
    /// # Errors
    ///
    /// If there is no memory for the thread's control block.
    ///
    /// # Panics
    ///
    /// If the CPU is online already.
    pub fn adopt_cpu(&'static self) -> Result<(), NoMemory> {
        let irq = IrqOff::new(self.platform);
        // Without a stack: it has one, that on which it runs.
        let (thread, _) = self.table.take(false).map_err(|_: NoBlock| NoMemory)?;
        let cpu = irq.cpu();
        self.platform.adopt(&thread.context);
        thread.life.lock().name = Name::new("idle");
        let local = self.cpu(cpu);
        let mut state = local.state.lock();
        state.adopt(&self.table, thread.index);
        local.publish(&state);
        drop(state);
        self.online.fetch_or(mask(cpu), Ordering::SeqCst);
        Ok(())
    }

    /// CPUs online.
    pub fn online(&self) -> impl Iterator<Item = CpuId> + use<P> {
        let online = self.online.load(Ordering::SeqCst);
        CpuId::first(MAX_CPUS).filter(move |cpu| online & mask(*cpu) != 0)
    }

    /// What an idle CPU does, for ever: runs threads, halts while there are none. Interrupts on.
    pub fn idle(&'static self) -> ! {
        loop {
            self.idle_once();
        }
    }

    fn idle_once(&self) {
        // No guard: the halt turns interrupts on.
        self.platform.irq_save();
        let cpu = self.platform.current_cpu();
        let local = self.cpu(cpu);
        self.leave_extended(local);
        // First say so, then look: one who queues a thread looks in the other order, so one of the two sees.
        self.idle.fetch_or(mask(cpu), Ordering::SeqCst);
        if local.state.lock().has_queued() || self.steal(cpu) {
            self.reschedule(Why::Yielded);
            self.platform.irq_restore(true);
            return;
        }
        local.extended.store(true, Ordering::Relaxed);
        self.platform.idle_enter();
        self.platform.halt_unless(|| local.need.swap(false, Ordering::SeqCst));
    }

    fn leave_extended(&self, local: &Cpu<P>) {
        if local.extended.swap(false, Ordering::Relaxed) {
            self.platform.idle_exit();
        }
    }

    /// An interrupt has come: called before anything else is done about it, with interrupts off.
    pub fn interrupt_enter(&self) {
        self.leave_extended(self.cpu(self.platform.current_cpu()));
    }

    /// The one-shot timer of this CPU has fired, or may have. Interrupts are off.
    pub fn timer_interrupt(&self) {
        let cpu = self.platform.current_cpu();
        let local = self.cpu(cpu);
        let now_ns = self.platform.now_ns();
        let mut state = local.state.lock();
        if state.current() == NONE {
            return;
        }
        state.disarmed();
        let mut spare = state.expire(&self.table, now_ns);
        if state.end_slice(now_ns) {
            local.need.store(true, Ordering::SeqCst);
            spare = spare.saturating_sub(1);
        }
        local.publish(&state);
        drop(state);
        self.rearm(cpu);
        for _ in 0..spare {
            if !self.nudge_idle(cpu) {
                break;
            }
        }
    }

    /// Another CPU has kicked this one. Interrupts are off.
    pub fn kick_interrupt(&self) {
        self.rearm(self.platform.current_cpu());
    }

    /// Makes `cpu` decide anew soon, and thereby pass a quiescent state. Any context.
    pub fn kick(&self, cpu: CpuId) {
        let pin = Pin::new(self.platform);
        self.nudge(pin.cpu(), cpu);
    }

    /// Whether this CPU should call [`preempt`](Self::preempt): asked at the end of an interrupt, with interrupts
    /// off.
    #[must_use]
    pub fn wants_switch(&self) -> bool {
        let cpu = self.platform.current_cpu();
        self.platform.preempt_count() == 0 && self.cpu(cpu).need.load(Ordering::Relaxed)
    }

    /// Lets another thread run, if one waits: at the end of an interrupt, with interrupts off. Returns when the
    /// interrupted thread goes on, perhaps on another CPU.
    pub fn preempt(&self) {
        self.reschedule(Why::Preempted);
    }

    /// Whether a switch was put off on `cpu`, as it seems: asked where the preemption count has fallen to 0.
    #[inline]
    #[must_use]
    pub fn is_due(&self, cpu: CpuId) -> bool {
        self.cpu(cpu).need.load(Ordering::Relaxed)
    }

    /// The preemption count has fallen to 0 in a thread, with interrupts on: makes up for a switch that was put
    /// off. Hardly ever called, by code that is everywhere.
    #[cold]
    #[inline(never)]
    pub fn preempt_point(&self) {
        let irq = IrqOff::new(self.platform);
        if irq.were_on() && self.wants_switch() {
            self.reschedule(Why::Preempted);
        }
    }

    /// Lets other threads run.
    pub fn yield_now(&self) {
        self.assert_may_block("yield_now");
        let _irq = self.irq_off_to_leave("yield_now");
        self.reschedule(Why::Yielded);
    }

    /// Takes the CPU away from the running thread until it is woken or `deadline_ns`; not at all if it was woken
    /// since it last blocked. May return for no reason.
    pub(super) fn block(&self, deadline_ns: Option<u64>) {
        let _irq = self.irq_off_to_leave("blocking");
        self.reschedule(Why::Blocked { deadline_ns });
    }

    /// Interrupts off, in code that may block. Checked in every build: per-CPU data is exclusive to pinned code.
    fn irq_off_to_leave(&self, what: &str) -> IrqOff<P> {
        let irq = IrqOff::new(self.platform);
        assert!(irq.were_on(), "{what} with interrupts off, or in an interrupt handler");
        irq
    }

    /// Decides, and switches. Interrupts are off; returns when this thread goes on.
    fn reschedule(&self, why: Why) {
        if let Some((from, to)) = self.decide(why) {
            self.platform.switch(&self.table.get(from).context, &self.table.get(to).context);
            self.after_switch();
        }
    }

    /// Decides who runs next on this CPU and answers who does not any more and who does, unless that is the same.
    /// Interrupts are off. The switch must follow.
    pub(super) fn decide(&self, why: Why) -> Option<(u32, u32)> {
        let depth = self.platform.preempt_count();
        assert!(depth == 0, "a switch of threads with preemption off ({depth} deep): {why:?}");
        let cpu = self.platform.current_cpu();
        let local = self.cpu(cpu);
        local.need.store(false, Ordering::SeqCst);
        // No read section is open here, whatever is decided.
        self.platform.quiescent();
        if matches!(why, Why::Blocked { .. } | Why::Exited) && local.load.load(Ordering::Relaxed) < 2 {
            self.steal(cpu);
        }
        let now_ns = self.platform.now_ns();
        let mut state = local.state.lock();
        let (from, was_busy) = (state.current(), state.is_busy());
        let is_leaving = matches!(why, Why::Blocked { .. } | Why::Exited);
        assert!(was_busy || !is_leaving, "the idle thread of {cpu} cannot block or end: {why:?}");
        let next = state.pick(&self.table, why, now_ns);
        let arm = state.next_arming(&self.table);
        local.publish(&state);
        drop(state);
        if !was_busy && next.is_some() {
            self.idle.fetch_and(!mask(cpu), Ordering::SeqCst);
        }
        if let Some(deadline_ns) = arm {
            self.arm(deadline_ns);
        }
        next.map(|next| {
            local.switches.fetch_add(1, Ordering::Relaxed);
            (from, next)
        })
    }

    /// The first thing that code does when it has been switched to: settles what becomes of the thread before it.
    pub(super) fn after_switch(&self) {
        let cpu = self.platform.current_cpu();
        let local = self.cpu(cpu);
        let mut state = local.state.lock();
        let finished = state.finish(&self.table, |load| balance::beneficiary(cpu, load, self.loads()));
        let arm = state.next_arming(&self.table);
        local.publish(&state);
        drop(state);
        if let Some(deadline_ns) = arm {
            self.arm(deadline_ns);
        }
        match finished {
            Finished::Settled => {}
            Finished::Send(index, to) => {
                local.gifts.fetch_add(1, Ordering::Relaxed);
                self.deliver(cpu, index, to);
            }
            Finished::Dead(index) => self.bury(self.table.get(index)),
        }
    }

    /// Sets this CPU's timer if it is not set right. Interrupts are off.
    pub(super) fn rearm(&self, cpu: CpuId) {
        let arm = self.cpu(cpu).state.lock().next_arming(&self.table);
        if let Some(deadline_ns) = arm {
            self.arm(deadline_ns);
        }
    }

    fn arm(&self, mut deadline_ns: u64) {
        while !self.platform.arm_timer(deadline_ns) {
            deadline_ns = self.platform.now_ns().saturating_add(SOON_NS);
        }
    }
}

impl<P: Platform> Cpu<P> {
    fn new(platform: P, cpu: CpuId) -> Self {
        Self {
            state: SpinLock::new(platform, CpuState::new(cpu)),
            load: AtomicU32::new(0),
            current: AtomicU32::new(NONE),
            busy: AtomicBool::new(false),
            need: AtomicBool::new(false),
            extended: AtomicBool::new(false),
            switches: AtomicU64::new(0),
            steals: AtomicU64::new(0),
            gifts: AtomicU64::new(0),
            kicks: AtomicU64::new(0),
        }
    }

    /// Copies out what is read without the lock.
    pub(super) fn publish(&self, state: &CpuState) {
        self.load.store(state.load(), Ordering::SeqCst);
        self.current.store(state.current(), Ordering::Relaxed);
        self.busy.store(state.is_busy(), Ordering::Relaxed);
    }
}
