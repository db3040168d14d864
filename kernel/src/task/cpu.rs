//! What one CPU runs, and what waits for it: the decisions of the scheduler, as a value.
//!
//! A [`CpuState`] knows the thread that runs, those that could ([`List`]), those that sleep until some time
//! ([`TimerQueue`]), and the one that was just left. It decides; the [scheduler](super::scheduler) locks, switches
//! and interrupts.
//!
//! Every thread has a *home*: the CPU it runs on, or ran on last, or is queued for. The lock around the home's
//! `CpuState` guards all of the thread's [`Sched`]. A thread moves only from a queue, or on its way into one.
//!
//! ```text
//!            wake, time                     pick
//!  Blocked ─────────────▶ Queued ───────────────────────▶ Running ──▶ Dead
//!     ▲                      ▲      preempted, yielded        │  exited
//!     │                      └────────────────────────────────┤
//!     └──── finish: blocked, and not woken in the meantime ◀──┘
//! ```
//!
//! A thread that leaves the CPU stays `Running` until its registers are saved: only then does its successor call
//! [`finish`](CpuState::finish), which queues it or declares it blocked. So no other CPU can pick a thread whose
//! stack is still in use. A wake-up in between, or at any time before the thread blocks, leaves a *token*, and a
//! thread with a token does not block.

use super::list::{Link, Links, List, NONE};
use super::platform::CpuId;
use super::timer::{TimerNode, TimerNodes, TimerQueue};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

/// How long a thread runs while others wait, in nanoseconds.
pub(crate) const SLICE_NS: u64 = 4_000_000;

/// Threads that a search for one that may move looks at, at most: it happens with interrupts off.
const SEARCH: u32 = 16;

/// What a thread is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// Not a thread now.
    Unused = 0,
    /// In a queue, or on its way into one.
    Queued,
    /// On a CPU, or leaving it.
    Running,
    /// Until it is woken.
    Blocked,
    /// Through.
    Dead,
}

/// The part of a thread that scheduling is about. Guarded by the lock of the thread's home; atomics only to be
/// reachable through shared references.
#[derive(Debug)]
pub(crate) struct Sched {
    home: AtomicU8,
    state: AtomicU8,
    /// The only CPU that the thread may run on, or 255.
    only: AtomicU8,
    /// A wake-up came while the thread was awake.
    token: AtomicBool,
    queue: Link,
    timer: TimerNode,
    /// How often it was picked. Wraps.
    picked: AtomicU32,
}

/// No restriction in [`Sched::only`].
const ANYWHERE: u8 = u8::MAX;

impl Sched {
    pub(crate) const fn new() -> Self {
        Self {
            home: AtomicU8::new(0),
            state: AtomicU8::new(State::Unused as u8),
            only: AtomicU8::new(ANYWHERE),
            token: AtomicBool::new(false),
            queue: Link::new(),
            timer: TimerNode::new(),
            picked: AtomicU32::new(0),
        }
    }

    /// Where the thread is at home. Without the lock, a guess to be checked with it.
    pub(crate) fn home(&self) -> CpuId {
        CpuId::new(usize::from(self.home.load(Relaxed))).unwrap_or(CpuId::BOOT)
    }

    /// Gives it another home. Only for a thread in no queue, by whoever moves it.
    pub(crate) fn set_home(&self, cpu: CpuId) {
        self.home.store(cpu.get() as u8, Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            1 => State::Queued,
            2 => State::Running,
            3 => State::Blocked,
            4 => State::Dead,
            _ => State::Unused,
        }
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// The only CPU that it may run on.
    pub(crate) fn only(&self) -> Option<CpuId> {
        CpuId::new(usize::from(self.only.load(Relaxed)))
    }

    pub(crate) fn set_only(&self, cpu: Option<CpuId>) {
        self.only.store(cpu.map_or(ANYWHERE, |cpu| cpu.get() as u8), Relaxed);
    }

    /// How often it was picked.
    pub(crate) fn picked(&self) -> u32 {
        self.picked.load(Relaxed)
    }

    /// Begins a thread that is on its way into the queue of `home`.
    pub(crate) fn begin(&self, home: CpuId, only: Option<CpuId>) {
        self.token.store(false, Relaxed);
        self.picked.store(0, Relaxed);
        self.set_home(home);
        self.set_only(only);
        self.set(State::Queued);
    }

    /// Ends it.
    pub(crate) fn retire(&self) {
        self.set(State::Unused);
    }
}

/// Where the threads are.
pub(crate) trait Threads {
    /// The scheduling part of thread `index`.
    fn sched(&self, index: u32) -> &Sched;
}

/// The links of run queues.
struct Queues<'t, T>(&'t T);

impl<T: Threads> Links for Queues<'_, T> {
    fn link(&self, index: u32) -> &Link {
        &self.0.sched(index).queue
    }
}

/// The nodes of timer queues.
struct Timers<'t, T>(&'t T);

impl<T: Threads> TimerNodes for Timers<'_, T> {
    fn node(&self, index: u32) -> &TimerNode {
        &self.0.sched(index).timer
    }
}

/// Why a thread leaves the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Its slice is over, or something more urgent is to be looked at.
    Preempted,
    /// It lets others run.
    Yielded,
    /// It waits: for a wake-up, or for the time.
    Blocked {
        /// When to go on without a wake-up.
        deadline_ns: Option<u64>,
    },
    /// It is through.
    Exited,
}

/// What a wake-up found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Woken {
    /// The thread was blocked and must now be queued, here or elsewhere.
    Runnable,
    /// It was awake; it has a token now.
    Awake,
}

/// What has become of the thread that was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finished {
    /// It is queued here, or blocked, or was the idle thread: nothing more to do.
    Settled,
    /// It must be queued at this CPU, which is its home already.
    Send(u32, CpuId),
    /// It is through and off its stack.
    Dead(u32),
}

/// What a CPU must be told after its queue has grown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// It idles: it must decide anew.
    Reschedule,
    /// Its timer is set too late.
    Rearm,
}

/// What one CPU runs, and what waits for it.
#[derive(Debug)]
pub(crate) struct CpuState {
    cpu: CpuId,
    /// The thread that runs when no other can; [`NONE`] while the CPU is offline.
    idle: u32,
    current: u32,
    /// The thread that was left, until its successor has finished with it.
    left: Option<(u32, Why)>,
    queue: List,
    timers: TimerQueue,
    /// When the slice of `current` began.
    slice_from_ns: u64,
    /// `current` was found at the end of its slice and will leave as soon as it may: no use in asking again.
    leaving: bool,
    /// For when the CPU's timer is set.
    armed_ns: Option<u64>,
}

impl CpuState {
    /// An offline CPU.
    pub(crate) const fn new(cpu: CpuId) -> Self {
        Self {
            cpu,
            idle: NONE,
            current: NONE,
            left: None,
            queue: List::new(),
            timers: TimerQueue::new(),
            slice_from_ns: 0,
            leaving: false,
            armed_ns: None,
        }
    }

    /// Brings the CPU online: the code that runs is thread `idle` from now on.
    ///
    /// # Panics
    ///
    /// If it is online.
    pub(crate) fn adopt(&mut self, threads: &impl Threads, idle: u32) {
        assert!(self.idle == NONE, "{} is brought online twice", self.cpu);
        let sched = threads.sched(idle);
        sched.begin(self.cpu, Some(self.cpu));
        sched.set(State::Running);
        (self.idle, self.current) = (idle, idle);
    }

    /// Whether a thread runs that is not the idle one.
    pub(crate) fn is_busy(&self) -> bool {
        self.current != self.idle
    }

    /// Whether somebody waits for this CPU.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Threads that run or could run.
    pub(crate) fn load(&self) -> u32 {
        self.queue.len() + u32::from(self.is_busy())
    }

    /// The thread that runs; [`NONE`] while offline.
    pub(crate) fn current(&self) -> u32 {
        self.current
    }

    /// Decides who runs after `current`, and makes that one current. `None`: `current` does not leave, because it
    /// has a token, or its deadline has passed, or nobody else wants to run.
    pub(crate) fn pick(&mut self, threads: &impl Threads, why: Why, now_ns: u64) -> Option<u32> {
        let from = self.current;
        let sched = threads.sched(from);
        debug_assert_eq!(sched.home(), self.cpu, "a thread runs away from home");
        debug_assert!(self.left.is_none(), "a thread that was left has not been finished with");
        match why {
            Why::Preempted | Why::Yielded => {
                let may_stay = sched.only().is_none_or(|only| only == self.cpu);
                if self.queue.is_empty() && may_stay {
                    (self.slice_from_ns, self.leaving) = (now_ns, false);
                    return None;
                }
            }
            Why::Blocked { deadline_ns } => {
                // Should it stay, the call to leave that this decision answers has gone unheeded: it is due again.
                self.leaving = false;
                if sched.token.swap(false, Relaxed) {
                    return None;
                }
                // The end of time is no deadline.
                if let Some(deadline_ns) = deadline_ns.filter(|deadline| *deadline != u64::MAX) {
                    if deadline_ns <= now_ns {
                        return None;
                    }
                    self.timers.insert(&Timers(threads), from, deadline_ns);
                }
            }
            Why::Exited => {}
        }
        let next = self.queue.pop(&Queues(threads)).unwrap_or(self.idle);
        if next == from {
            // The idle thread, with nothing to do.
            return None;
        }
        let entered = threads.sched(next);
        entered.set(State::Running);
        entered.picked.store(entered.picked().wrapping_add(1), Relaxed);
        self.left = Some((from, why));
        self.current = next;
        (self.slice_from_ns, self.leaving) = (now_ns, false);
        Some(next)
    }

    /// Settles what becomes of the thread that was left, now that its registers are saved. A preempted one may be
    /// given away: `give` is asked with this CPU's load, that thread included.
    pub(crate) fn finish(
        &mut self,
        threads: &impl Threads,
        give: impl FnOnce(u32) -> Option<CpuId>,
    ) -> Finished {
        let Some((index, why)) = self.left.take() else { return Finished::Settled };
        let sched = threads.sched(index);
        if index == self.idle {
            sched.set(State::Queued);
            return Finished::Settled;
        }
        match why {
            Why::Exited => {
                sched.set(State::Dead);
                return Finished::Dead(index);
            }
            Why::Blocked { .. } => {
                if !sched.token.swap(false, Relaxed) {
                    sched.set(State::Blocked);
                    return Finished::Settled;
                }
                self.timers.remove(&Timers(threads), index);
            }
            Why::Preempted | Why::Yielded => {}
        }
        sched.set(State::Queued);
        let to = match sched.only() {
            Some(only) => only,
            None if why == Why::Preempted => give(self.load() + 1).unwrap_or(self.cpu),
            None => self.cpu,
        };
        if to == self.cpu {
            self.queue.push(&Queues(threads), index);
            return Finished::Settled;
        }
        sched.set_home(to);
        Finished::Send(index, to)
    }

    /// Wakes `index`, whose home this is. A thread that was blocked is in no queue then.
    pub(crate) fn wake(&mut self, threads: &impl Threads, index: u32) -> Woken {
        let sched = threads.sched(index);
        debug_assert_eq!(sched.home(), self.cpu, "woken away from home");
        match sched.state() {
            State::Blocked => {
                self.timers.remove(&Timers(threads), index);
                sched.set(State::Queued);
                Woken::Runnable
            }
            State::Queued | State::Running => {
                sched.token.store(true, Relaxed);
                Woken::Awake
            }
            State::Unused | State::Dead => Woken::Awake,
        }
    }

    /// Queues a thread whose home this is, and says what the CPU must be told.
    pub(crate) fn queue(&mut self, threads: &impl Threads, index: u32) -> Need {
        debug_assert_eq!(threads.sched(index).home(), self.cpu, "queued away from home");
        self.queue.push(&Queues(threads), index);
        match self.slice_end_ns() {
            _ if !self.is_busy() => Need::Reschedule,
            Some(end) if self.armed_ns.is_none_or(|armed| armed > end) => Need::Rearm,
            _ => Need::Nothing,
        }
    }

    /// Takes the thread that has waited longest among those that may run on `to`, and makes `to` its home.
    pub(crate) fn release(&mut self, threads: &impl Threads, to: CpuId) -> Option<u32> {
        let movable = |index| threads.sched(index).only().is_none_or(|only| only == to);
        let index = self.queue.pop_if(&Queues(threads), SEARCH, movable)?;
        threads.sched(index).set_home(to);
        Some(index)
    }

    /// Makes those whose time has come runnable, and answers how many were queued.
    pub(crate) fn expire(&mut self, threads: &impl Threads, now_ns: u64) -> u32 {
        let mut queued = 0;
        while let Some(index) = self.timers.pop_due(&Timers(threads), now_ns) {
            if self.wake(threads, index) == Woken::Runnable {
                self.queue.push(&Queues(threads), index);
                queued += 1;
            }
        }
        queued
    }

    /// Whether `current` must make room. Answers yes once per slice.
    pub(crate) fn end_slice(&mut self, now_ns: u64) -> bool {
        if !self.is_busy() {
            return self.has_queued();
        }
        let over = self.slice_end_ns().is_some_and(|end| now_ns >= end);
        self.leaving |= over;
        over
    }

    /// When `current` must make room: if somebody waits, and it has not been told yet.
    fn slice_end_ns(&self) -> Option<u64> {
        let matters = self.is_busy() && self.has_queued() && !self.leaving;
        matters.then(|| self.slice_from_ns.saturating_add(SLICE_NS))
    }

    /// For when the timer must be set, if it is not set for then or earlier already; it counts as set afterwards.
    ///
    /// The end of a slice matters only while somebody waits for it: a CPU with one thread, or none, has no tick. A
    /// timer that turns out to be set too early is left alone: setting it is a hypercall, and threads that take turns
    /// quickly would pay for one at every switch, where this way there is one interrupt too many per slice.
    pub(crate) fn next_arming(&mut self, threads: &impl Threads) -> Option<u64> {
        let timer = self.timers.earliest_ns(&Timers(threads));
        let next = self.slice_end_ns().into_iter().chain(timer).min()?;
        if self.armed_ns.is_some_and(|armed| armed <= next) {
            return None;
        }
        self.armed_ns = Some(next);
        Some(next)
    }

    /// The timer has fired: it is set no more.
    pub(crate) fn disarmed(&mut self) {
        self.armed_ns = None;
    }

    /// Walks the queue and says what is wrong. For a CPU that does nothing meanwhile.
    ///
    /// # Errors
    ///
    /// The first rule that is found broken.
    pub(crate) fn validate(&self, threads: &impl Threads) -> Result<(), &'static str> {
        let queues = Queues(threads);
        self.queue.validate(&queues)?;
        for index in self.queue.iter(&queues) {
            let sched = threads.sched(index);
            if sched.state() != State::Queued {
                return Err("a thread in a run queue that is not queued");
            }
            if sched.home() != self.cpu {
                return Err("a thread in the run queue of a CPU that is not its home");
            }
        }
        if self.idle != NONE && threads.sched(self.current).state() != State::Running {
            return Err("a current thread that does not run");
        }
        if self.timers.earliest_ns(&Timers(threads)).is_none() != (self.timers.len() == 0) {
            return Err("a timer queue that miscounts");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
