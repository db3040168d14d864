//! Grace periods: how they begin and end, who waits for them, and the running of what they make due.

use super::{EXTENDED, Queues, Rcu};
use crate::misuse::Misuse;
use crate::mutation::{Mutation, made, ordering};
use crate::platform::{CpuId, CpuPin, Platform};
use crate::primitive::{Ordering, fence};
use crate::report::Report;

/// Callbacks that run in a row before the runner looks whether a grace period can end.
const BATCH: usize = 64;

/// What is wanted of grace periods. Behind the lock that serialises their begins and ends.
#[derive(Debug)]
pub(super) struct Period {
    /// The newest that anybody waits for.
    wanted: u64,
    /// The newest that somebody is in a hurry for.
    hurried: u64,
    /// When the newest began.
    began_ns: u64,
}

impl Period {
    pub(super) const fn new() -> Self {
        Self { wanted: 0, hurried: 0, began_ns: 0 }
    }
}

/// What [`Rcu::advance`] did, and when it wants to be called again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Callbacks that were run.
    pub callbacks: usize,
    /// When the oldest waiting lazy callback reaches its limit, on the platform's clock. `advance` must be called
    /// then even if nothing else happens.
    pub call_again_ns: Option<u64>,
}

/// A grace period that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Its number.
    pub period: u64,
    /// Its age in nanoseconds.
    pub age_ns: u64,
    /// The CPUs that it waits for, bit 0 for CPU 0.
    pub waiting_for: u64,
}

/// What a step found out, to be acted upon without the lock.
#[derive(Default)]
struct Outcome {
    ended: bool,
    /// CPUs to kick, by bit.
    kick: u64,
}

impl<P: Platform> Rcu<P> {
    /// The first grace period that begins after this call.
    pub(super) fn next_period(&self) -> u64 {
        // A read-modify-write, not a load: it comes before the begin of the answered period in the order of
        // `started`, and so the caller's earlier stores do too, for every reader that sees that begin.
        let started = self.started.fetch_add(0, Ordering::AcqRel);
        if made(Mutation::JoinRunning) && self.done.load(Ordering::Relaxed) < started {
            return started;
        }
        started + 1
    }

    /// The CPUs, by bit, that have not passed a quiescent state since period `number` began.
    fn lagging(&self, number: u64) -> u64 {
        CpuId::first(self.platform.cpu_count())
            .filter(|cpu| {
                let seen = &self.cpu(*cpu).seen;
                seen.load(ordering(Ordering::Acquire, Mutation::RelaxedScan)) < number
            })
            .fold(0, |mask, cpu| mask | 1 << cpu.get())
    }

    /// Asks for grace period `number`, and for all before it.
    pub(super) fn request(&self, number: u64, hurry: bool) {
        let mut period = self.period.lock(self.platform);
        period.wanted = period.wanted.max(number);
        if hurry {
            period.hurried = period.hurried.max(number);
        }
        let outcome = self.step(&mut period, hurry);
        drop(period);
        self.act_on(&outcome);
    }

    /// Ends what can end and begins what is wanted. Any context.
    pub fn poll(&self) {
        let mut period = self.period.lock(self.platform);
        let outcome = self.step(&mut period, false);
        drop(period);
        self.act_on(&outcome);
    }

    fn step(&self, period: &mut Period, mut hurry: bool) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            // Exact: both change under the lock only.
            let (started, done) = (self.started.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed));
            if done < started {
                let lagging = self.lagging(started);
                if lagging != 0 {
                    outcome.kick = if hurry { lagging } else { 0 };
                    return outcome;
                }
                // Release: who reads it knows that all sections are over, and what they did.
                self.done.store(started, Ordering::Release);
                outcome.ended = true;
            } else if started < period.wanted {
                self.started.fetch_add(1, Ordering::AcqRel);
                // With the fence of a CPU that leaves idle: see `idle_exit`.
                if !made(Mutation::NoStartFence) {
                    fence(Ordering::SeqCst);
                }
                period.began_ns = self.platform.now_ns();
                hurry = started < period.hurried;
            } else {
                return outcome;
            }
        }
    }

    fn act_on(&self, outcome: &Outcome) {
        for cpu in CpuId::first(self.platform.cpu_count()) {
            if outcome.kick & 1 << cpu.get() != 0 {
                self.platform.kick(cpu);
            }
        }
        if outcome.ended {
            self.platform.wake_all(self.key());
            self.platform.rcu_work();
        }
    }

    /// What those wait for who wait for a grace period or for callbacks.
    fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Whether [`poll`](Self::poll) would find something to do.
    fn can_step(&self) -> bool {
        let started = self.started.load(Ordering::Relaxed);
        self.done.load(Ordering::Relaxed) < started && self.lagging(started) == 0
    }

    /// Waits until every read section that is running now is over, in a hurry. Blocks.
    ///
    /// # Errors
    ///
    /// [`Misuse::MayNotBlock`], without having waited, inside a read section, with a spin lock held or in an
    /// interrupt handler: it would wait for itself.
    pub fn synchronize(&self) -> Result<(), Misuse> {
        self.check_may_block("Rcu::synchronize")?;
        let number = self.next_period();
        self.request(number, true);
        loop {
            self.quiesce();
            self.poll();
            if self.done.load(Ordering::Acquire) >= number {
                return Ok(());
            }
            self.platform
                .wait_until(self.key(), &|| self.done.load(Ordering::Acquire) >= number || self.can_step());
        }
    }

    /// Waits until every callback that was queued before, lazy ones included, on any CPU, has returned. Hurries
    /// them. Blocks, and runs callbacks itself.
    ///
    /// # Errors
    ///
    /// As for [`synchronize`](Self::synchronize). Also in a callback, which would wait for itself.
    pub fn barrier(&self) -> Result<(), Misuse> {
        self.check_may_block("Rcu::barrier")?;
        let mut before = [(0, 0); crate::MAX_CPUS];
        let mut due = 0;
        for cpu in CpuId::first(self.platform.cpu_count()) {
            let queues = self.cpu(cpu).queues.lock(self.platform);
            before[cpu.get()] = (queues.hurried.queued, queues.lazy.queued);
            due = due.max(queues.hurried.last_due().max(queues.lazy.last_due()).unwrap_or(0));
        }
        self.request(due, true);
        let finished = || {
            CpuId::first(self.platform.cpu_count()).all(|cpu| {
                let queues = self.cpu(cpu).queues.lock(self.platform);
                let (hurried, lazy) = before[cpu.get()];
                queues.hurried.finished >= hurried && queues.lazy.finished >= lazy
            })
        };
        self.drive_until(self.key(), &finished);
        Ok(())
    }

    /// Blocks until `done`, whose change is announced under `key`; meanwhile does what there is to do, so that a
    /// waiter which is alone waits for nobody.
    pub(crate) fn drive_until(&self, key: usize, done: &dyn Fn() -> bool) {
        loop {
            self.advance();
            if done() {
                return;
            }
            self.platform.wait_until(key, &|| done() || self.can_step() || self.has_due());
        }
    }

    pub(crate) fn check_may_block(&self, what: &'static str) -> Result<(), Misuse> {
        if self.platform.may_block() {
            return Ok(());
        }
        self.platform.report(Report::BlockingForbidden { what });
        Err(Misuse::MayNotBlock)
    }

    /// Whether some callback could run now, and nobody is running it.
    fn has_due(&self) -> bool {
        let done = self.done.load(Ordering::Acquire);
        CpuId::first(self.platform.cpu_count()).any(|cpu| {
            let queues = self.cpu(cpu).queues.lock(self.platform);
            let due = |first: Option<(u64, u64)>| first.is_some_and(|(due, _)| due <= done);
            !queues.running && (due(queues.hurried.first()) || due(queues.lazy.first()))
        })
    }

    /// Does everything there is to do: reports a quiescent state, ends and begins grace periods, and runs the
    /// callbacks that are due, of all CPUs. For a thread of the kernel, when `rcu_work` or the time of the last
    /// answer says so; any number of threads may call it.
    ///
    /// Where the caller may not block it does nothing, and reports that.
    pub fn advance(&self) -> Advance {
        let mut result = Advance::default();
        if self.check_may_block("Rcu::advance").is_err() {
            return result;
        }
        self.request(self.wanted_by_lazy(), false);
        // After the begin of a grace period: this may be all that it waits for.
        self.quiesce();
        self.poll();
        for cpu in CpuId::first(self.platform.cpu_count()) {
            result.callbacks += self.run_due(cpu);
        }
        if result.callbacks != 0 {
            self.platform.wake_all(self.key());
        }
        result.call_again_ns = CpuId::first(self.platform.cpu_count())
            .filter_map(|cpu| self.cpu(cpu).queues.lock(self.platform).lazy.first())
            .map(|(_, queued_ns)| queued_ns.saturating_add(self.laziness.limit_ns))
            .min();
        result
    }

    /// The newest grace period that lazy callbacks, beyond a limit, or forgotten hurried ones want.
    fn wanted_by_lazy(&self) -> u64 {
        let now_ns = self.platform.now_ns();
        CpuId::first(self.platform.cpu_count())
            .filter_map(|cpu| {
                let queues = self.cpu(cpu).queues.lock(self.platform);
                let (_, oldest_ns) = queues.lazy.first()?;
                let over = now_ns.saturating_sub(oldest_ns) >= self.laziness.limit_ns
                    || queues.lazy.waiting >= self.laziness.limit_count;
                if over { queues.lazy.last_due() } else { None }
            })
            .max()
            .unwrap_or(0)
    }

    /// Runs what is due on `cpu`'s queues, hurried first, unless somebody else does.
    fn run_due(&self, cpu: CpuId) -> usize {
        let state = self.cpu(cpu);
        let mut ran = 0;
        let mut queues = state.queues.lock(self.platform);
        if queues.running {
            return 0;
        }
        loop {
            // Acquire: the callback happens after the sections that its grace period waited for.
            let done = self.done.load(Ordering::Acquire);
            let Queues { hurried, lazy, .. } = &mut *queues;
            let (due, hurry) = match hurried.pop_due(done) {
                Some(due) => (due, true),
                None => match lazy.pop_due(done) {
                    Some(due) => (due, false),
                    None => break,
                },
            };
            queues.running = true;
            drop(queues);
            {
                // Off, so that a callback which blocks is noticed.
                let _pin = CpuPin::new(self.platform);
                due.run();
            }
            ran += 1;
            if ran % BATCH == 0 {
                self.quiesce();
                self.poll();
            }
            queues = state.queues.lock(self.platform);
            let class = if hurry { &mut queues.hurried } else { &mut queues.lazy };
            class.finished += 1;
        }
        queues.running = false;
        ran
    }

    /// The grace period that is running, if one is: who is too old, and waits for whom, is the caller's to judge.
    #[must_use]
    pub fn stall(&self) -> Option<Stall> {
        let period = self.period.lock(self.platform);
        let started = self.started.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed) < started).then(|| Stall {
            period: started,
            age_ns: self.platform.now_ns().saturating_sub(period.began_ns),
            waiting_for: self.lagging(started),
        })
    }

    /// Re-derives what can be: the numbers are in order, no queue is ahead of itself.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), &'static str> {
        let period = self.period.lock(self.platform);
        let (started, done) = (self.started.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed));
        if done > started || started > done + 1 {
            return Err("grace periods overlap");
        }
        if period.wanted > started + 1 || period.hurried > period.wanted {
            return Err("a grace period is wanted that nobody can have asked for");
        }
        drop(period);
        for cpu in CpuId::first(self.platform.cpu_count()) {
            let seen = self.cpu(cpu).seen.load(Ordering::Relaxed);
            if seen != EXTENDED && seen > self.started.load(Ordering::Acquire) {
                return Err("a CPU has seen a grace period that has not begun");
            }
            let queues = self.cpu(cpu).queues.lock(self.platform);
            for class in [&queues.hurried, &queues.lazy] {
                let running = u64::from(queues.running);
                let gone = class.queued - class.waiting as u64;
                if class.finished > gone || gone - class.finished > running {
                    return Err("callbacks were lost");
                }
            }
        }
        Ok(())
    }
}
