//! The scheduler: locks, interrupts and switches around the decisions of [`CpuState`].
//!
//! Locks, in the order in which they may nest: a wait queue's, then one CPU's. Never two CPUs' at once: a thread
//! that moves is in no queue while it does. No lock is held across a switch.

use super::balance;
use super::cpu::{CpuState, Finished, Need, State, Threads, Why, Woken};
use super::id::{Name, ThreadId};
use super::list::NONE;
use super::lock::SpinLock;
use super::platform::{CpuId, IrqOff, MAX_CPUS, Pin, Platform};
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
    idle: AtomicU32,
    online: AtomicU32,
    pub(super) keys: [WaitQueue<P>; KEY_QUEUES],
    stuck_limit_ns: AtomicU64,
}

/// One CPU.
#[repr(align(128))]
struct Cpu<P> {
    state: SpinLock<CpuState, P>,
    /// [`CpuState::load`], to be read without the lock.
    load: AtomicU32,
    /// [`CpuState::current`], to be read on this CPU.
    current: AtomicU32,
    /// [`CpuState::is_busy`], to be read on this CPU.
    busy: AtomicBool,
    /// It must decide anew.
    need: AtomicBool,
    /// It has announced that it halts ([`Platform::idle_enter`]).
    extended: AtomicBool,
    switches: AtomicU64,
    steals: AtomicU64,
    gifts: AtomicU64,
    kicks: AtomicU64,
}

/// What a CPU has done, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuStats {
    /// Switches from one thread to another.
    pub switches: u64,
    /// Threads taken from other CPUs' queues.
    pub steals: u64,
    /// Threads given to other CPUs.
    pub gifts: u64,
    /// Interrupts sent to other CPUs.
    pub kicks: u64,
}

/// Threads by what they are doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Control blocks of threads that run, wait, or have ended and not been joined; idle threads included.
    pub threads: u32,
    /// Stacks kept for threads to come.
    pub spare_stacks: u32,
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

impl<P: Platform> fmt::Debug for Scheduler<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("census", &self.census()).finish_non_exhaustive()
    }
}

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

    fn cpu(&self, cpu: CpuId) -> &Cpu<P> {
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
        self.online.fetch_or(cpu.mask(), Ordering::SeqCst);
        Ok(())
    }

    /// CPUs online.
    pub fn online(&self) -> impl Iterator<Item = CpuId> + use<P> {
        let online = self.online.load(Ordering::SeqCst);
        CpuId::first(MAX_CPUS).filter(move |cpu| online & cpu.mask() != 0)
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
        self.idle.fetch_or(cpu.mask(), Ordering::SeqCst);
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

    /// The preemption count has fallen to 0 in a thread, with interrupts on: makes up for a switch that was put
    /// off.
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
            self.idle.fetch_and(!cpu.mask(), Ordering::SeqCst);
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

    /// Wakes a thread if it is blocked; else it will not block the next time it would. Any context.
    pub(super) fn wake(&self, index: u32) {
        let irq = IrqOff::new(self.platform);
        let sched = self.table.sched(index);
        loop {
            let home = sched.home();
            let mut state = self.cpu(home).state.lock();
            if sched.home() != home {
                // It moved before the lock was ours.
                continue;
            }
            if state.wake(&self.table, index) == Woken::Awake {
                return;
            }
            let to = sched.only().unwrap_or_else(|| self.place(home));
            sched.set_home(to);
            drop(state);
            self.deliver(irq.cpu(), index, to);
            return;
        }
    }

    /// Takes the token of the running thread: it knows why it was woken.
    pub(super) fn forget_wake(&self) {
        let irq = IrqOff::new(self.platform);
        self.cpu(irq.cpu()).state.lock().take_token(&self.table);
    }

    /// Where a thread goes that is at home at `home`. An idle CPU that is chosen is not idle any more for others.
    fn place(&self, home: CpuId) -> CpuId {
        loop {
            let to = balance::place(home, self.idle.load(Ordering::SeqCst));
            let idle = self.idle.fetch_and(!to.mask(), Ordering::SeqCst);
            if idle == 0 || idle & to.mask() != 0 {
                return to;
            }
        }
    }

    /// Where a new thread goes: to an idle CPU, or else to the one with the least to do.
    pub(super) fn place_new(&self) -> CpuId {
        let pin = Pin::new(self.platform);
        if self.idle.load(Ordering::SeqCst) != 0 {
            return self.place(pin.cpu());
        }
        self.loads().min_by_key(|(cpu, load)| (*load, *cpu != pin.cpu())).map_or(CpuId::BOOT, |(cpu, _)| cpu)
    }

    /// Puts a thread, whose home `to` is, into the queue there, and tells that CPU. `me` is this CPU; interrupts
    /// are off.
    fn deliver(&self, me: CpuId, index: u32, to: CpuId) {
        let there = self.cpu(to);
        let mut state = there.state.lock();
        let need = state.queue(&self.table, index);
        there.publish(&state);
        drop(state);
        match need {
            Need::Nothing => {}
            Need::Reschedule => self.nudge(me, to),
            Need::Rearm if to == me => self.rearm(me),
            Need::Rearm => self.send_kick(me, to),
        }
        if need != Need::Reschedule {
            // Somebody may have run out of work since the place was chosen.
            self.nudge_idle(me);
        }
    }

    /// Queues a new thread.
    pub(super) fn launch(&self, index: u32) {
        let irq = IrqOff::new(self.platform);
        let to = self.table.sched(index).home();
        self.deliver(irq.cpu(), index, to);
    }

    /// Makes `cpu` decide anew.
    fn nudge(&self, me: CpuId, cpu: CpuId) {
        self.cpu(cpu).need.store(true, Ordering::SeqCst);
        if cpu != me {
            self.send_kick(me, cpu);
        }
    }

    /// Makes one idle CPU look for work, and answers whether there was one.
    fn nudge_idle(&self, me: CpuId) -> bool {
        if self.idle.load(Ordering::SeqCst) & !me.mask() == 0 {
            return false;
        }
        let chosen = self.place(me);
        self.nudge(me, chosen);
        chosen != me
    }

    fn send_kick(&self, me: CpuId, to: CpuId) {
        self.cpu(me).kicks.fetch_add(1, Ordering::Relaxed);
        self.platform.kick(to);
    }

    /// Takes a thread from the busiest queue into that of `me`, which has nothing to do. Interrupts are off.
    fn steal(&self, me: CpuId) -> bool {
        let Some(victim) = balance::victim(me, self.loads()) else { return false };
        let from = self.cpu(victim);
        let mut state = from.state.lock();
        let taken = state.release(&self.table, me);
        from.publish(&state);
        drop(state);
        let Some(index) = taken else { return false };
        let local = self.cpu(me);
        local.steals.fetch_add(1, Ordering::Relaxed);
        let mut state = local.state.lock();
        state.queue(&self.table, index);
        local.publish(&state);
        true
    }

    fn loads(&self) -> impl Iterator<Item = (CpuId, u32)> {
        self.online().map(|cpu| (cpu, self.cpu(cpu).load.load(Ordering::SeqCst)))
    }

    /// Sets this CPU's timer if it is not set right. Interrupts are off.
    fn rearm(&self, cpu: CpuId) {
        let arm = self.cpu(cpu).state.lock().next_arming(&self.table);
        if let Some(deadline_ns) = arm {
            self.arm(deadline_ns);
        }
    }

    fn arm(&self, mut deadline_ns: Option<u64>) {
        while !self.platform.arm_timer(deadline_ns) {
            deadline_ns = Some(self.platform.now_ns().saturating_add(SOON_NS));
        }
    }

    /// The running thread.
    ///
    /// # Panics
    ///
    /// If this CPU is not online.
    #[must_use]
    pub fn current(&self) -> ThreadId {
        self.table.get(self.current_index()).id()
    }

    /// Whether the running code is the idle thread of its CPU.
    pub(super) fn is_idle_thread(&self) -> bool {
        let pin = Pin::new(self.platform);
        !self.cpu(pin.cpu()).busy.load(Ordering::Relaxed)
    }

    pub(super) fn current_index(&self) -> u32 {
        let pin = Pin::new(self.platform);
        self.cpu(pin.cpu()).current.load(Ordering::Relaxed)
    }

    /// The name of a thread; `None` if it has ended.
    #[must_use]
    pub fn name(&self, id: ThreadId) -> Option<Name> {
        let thread = self.table.get(id.index());
        (thread.id() == id).then(|| thread.name())
    }

    /// The thread of this CPU whose stack ends above `address`, if that is in its guard page: for the handler of a
    /// fault that must name a stack overflow. Takes no lock that could be held.
    #[must_use]
    pub fn overflowed(&self, address: usize) -> Option<(ThreadId, Name)> {
        let current = self.cpu(self.platform.current_cpu()).current.load(Ordering::Relaxed);
        let thread = (current != NONE).then(|| self.table.get(current))?;
        self.platform.is_guard(&thread.context, address).then(|| (thread.id(), thread.name()))
    }

    /// How long a thread may wait for a mutex before that is reported as a panic, in nanoseconds. Debug builds only.
    #[must_use]
    pub fn stuck_limit_ns(&self) -> u64 {
        self.stuck_limit_ns.load(Ordering::Relaxed)
    }

    /// Sets [`stuck_limit_ns`](Self::stuck_limit_ns) for waits that begin later.
    pub fn set_stuck_limit_ns(&self, limit_ns: u64) {
        self.stuck_limit_ns.store(limit_ns, Ordering::Relaxed);
    }

    /// The context of thread `index`: for a platform that has been told to prepare or adopt it.
    #[must_use]
    pub fn context(&self, index: u32) -> &P::Context {
        &self.table.get(index).context
    }

    /// What `cpu` has done.
    #[must_use]
    pub fn cpu_stats(&self, cpu: CpuId) -> CpuStats {
        let cpu = self.cpu(cpu);
        CpuStats {
            switches: cpu.switches.load(Ordering::Relaxed),
            steals: cpu.steals.load(Ordering::Relaxed),
            gifts: cpu.gifts.load(Ordering::Relaxed),
            kicks: cpu.kicks.load(Ordering::Relaxed),
        }
    }

    /// How many threads there are.
    #[must_use]
    pub fn census(&self) -> Census {
        let counts = self.table.counts();
        Census { threads: counts.made - counts.spare - counts.bare, spare_stacks: counts.spare }
    }

    /// Re-derives what can be re-derived. Exact only while nothing else happens.
    ///
    /// # Errors
    ///
    /// The first rule that is found broken.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.table.validate()?;
        let (mut running, mut queued) = (0, 0);
        for cpu in self.online() {
            let state = self.cpu(cpu).state.lock();
            state.validate(&self.table)?;
            if self.cpu(cpu).load.load(Ordering::SeqCst) != state.load() {
                return Err("a load that is not what was published");
            }
            running += 1;
            queued += state.load() - u32::from(state.is_busy());
        }
        let all = (0..self.table.counts().made).map(|index| self.table.sched(index).state());
        let (is_running, is_queued) = all.fold((0, 0), |(running, queued), state| {
            (running + u32::from(state == State::Running), queued + u32::from(state == State::Queued))
        });
        // Idle threads that do not run count as queued, but are in no queue.
        let resting = self.online().filter(|cpu| self.cpu(*cpu).state.lock().is_busy()).count();
        if is_running != running {
            return Err("as many threads run as there are CPUs");
        }
        if is_queued as usize != queued as usize + resting {
            return Err("a queued thread is in a queue");
        }
        Ok(())
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
    fn publish(&self, state: &CpuState) {
        self.load.store(state.load(), Ordering::SeqCst);
        self.current.store(state.current(), Ordering::Relaxed);
        self.busy.store(state.is_busy(), Ordering::Relaxed);
    }
}
