//! Looking at the scheduler: who runs, what was done, whether the books are right.

use super::cpu::{State, Threads};
use super::id::{Name, ThreadId};
use super::list::NONE;
use super::platform::{CpuId, Pin, Platform};
use super::scheduler::Scheduler;
use core::fmt;
use core::sync::atomic::Ordering;

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

impl<P: Platform> fmt::Debug for Scheduler<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("census", &self.census()).finish_non_exhaustive()
    }
}

impl<P: Platform> Scheduler<P> {
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
