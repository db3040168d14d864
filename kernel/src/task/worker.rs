//! Workers: a function that a thread of its own runs when its time has come.
//!
//! At most one run is pending at a time: asking again before it begins changes its time. A run that is asked for
//! while one is under way follows it. The function says after each run whether and when it wants another, which
//! counts unless somebody has asked in the meantime. Who must see the function's work at rest holds the worker.

use super::lock::SpinLock;
use super::platform::Platform;
use super::spawn::{JoinHandle, SpawnError};
use super::wait::WaitQueue;
use alloc::sync::Arc;

/// What a worker's function wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing until somebody asks.
    Idle,
    /// Another run, this long after the end of this one, in nanoseconds.
    After(u64),
}

/// A thread that runs a function after a delay, again, or on demand.
///
/// Dropping it ends the thread after the run that is under way, without waiting; [`stop`](Self::stop) waits.
pub struct Worker<P: Platform> {
    shared: Arc<Shared<P>>,
    thread: Option<JoinHandle<(), P>>,
}

struct Shared<P: Platform> {
    platform: P,
    state: SpinLock<Runs, P>,
    /// The worker waits here for its time.
    asked: WaitQueue<P>,
    /// Others wait here for the end of a run.
    ended: WaitQueue<P>,
}

/// The runs of a worker.
#[derive(Clone, Copy, Default, Debug)]
struct Runs {
    /// When the next begins.
    due_ns: Option<u64>,
    running: bool,
    /// What the run under way wants next does not count.
    cancelled: bool,
    stopping: bool,
    begun: u64,
    ended: u64,
    /// How many want that no run begins.
    holds: u32,
}

/// No run of a worker begins or goes on while this lives; see [`Worker::hold`].
#[must_use = "the worker goes on when this is dropped"]
pub struct Held<'a, P: Platform> {
    shared: &'a Shared<P>,
}

impl<P: Platform> core::fmt::Debug for Held<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl<P: Platform> Drop for Held<'_, P> {
    fn drop(&mut self) {
        self.shared.state.lock().holds -= 1;
        self.shared.asked.wake_one();
    }
}

impl<P: Platform> core::fmt::Debug for Worker<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Worker").field("runs", &*self.shared.state.lock()).finish_non_exhaustive()
    }
}

impl<P: Platform> Worker<P> {
    /// A worker named `name` that runs `function` when it is told to. Nothing is pending.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::spawn`](super::Scheduler::spawn). (The state shared with the thread, some hundred bytes, is
    /// the one allocation that cannot fail with a value.)
    pub fn spawn<F>(platform: P, name: &str, mut function: F) -> Result<Self, SpawnError>
    where
        F: FnMut() -> Next + Send + 'static,
    {
        let shared = Arc::new(Shared {
            platform,
            state: SpinLock::new(platform, Runs::default()),
            asked: WaitQueue::new(platform),
            ended: WaitQueue::new(platform),
        });
        let inner = Arc::clone(&shared);
        let thread = platform.scheduler().spawn(name, move || {
            while inner.wait_for_run() {
                let next = function();
                inner.end_run(next);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The next run begins `delay_ns` from now, whatever was pending. Any context. After [`stop`](Self::stop) has
    /// begun, nothing happens.
    pub fn run_after(&self, delay_ns: u64) {
        let due_ns = self.shared.platform.now_ns().saturating_add(delay_ns);
        self.shared.state.lock().due_ns = Some(due_ns);
        self.shared.asked.wake_one();
    }

    /// The next run begins now. Any context.
    pub fn run_now(&self) {
        self.run_after(0);
    }

    /// Runs the function now, and blocks until a run that began after this call has ended; answers whether one did.
    /// False: what was pending was taken back by [`cancel`](Self::cancel).
    ///
    /// # Panics
    ///
    /// If the function itself calls it.
    pub fn flush(&self) -> bool {
        self.refuse_own_thread("flush");
        let mut state = self.shared.state.lock();
        state.due_ns = Some(self.shared.platform.now_ns());
        let begun = state.begun;
        drop(state);
        self.shared.asked.wake_one();
        let mut ran = false;
        self.shared.ended.wait_until(|| {
            let state = self.shared.state.lock();
            ran = state.ended > begun;
            ran || (state.due_ns.is_none() && !state.running)
        });
        ran
    }

    /// Takes back what is pending, and blocks until no run is under way that was when this was called. What such a
    /// run wants next does not count. Answers whether a run was pending.
    ///
    /// # Panics
    ///
    /// If the function itself calls it.
    pub fn cancel(&self) -> bool {
        self.refuse_own_thread("cancel");
        let mut state = self.shared.state.lock();
        let was_pending = state.due_ns.take().is_some();
        state.cancelled = state.running;
        let under_way = state.begun;
        drop(state);
        // For those who flush: there may be nothing to wait for any more.
        self.shared.ended.wake_all();
        self.shared.ended.wait_until(|| self.shared.state.lock().ended >= under_way);
        was_pending
    }

    /// Has the worker stand still: blocks until no run is under way, and none begins until what this answers is dropped.
    /// What is due meanwhile stays pending. Several may hold a worker at a time. Who holds it must not
    /// [`flush`](Self::flush) it, which waits for a run.
    ///
    /// # Panics
    ///
    /// If the function itself calls it.
    pub fn hold(&self) -> Held<'_, P> {
        self.refuse_own_thread("hold");
        let mut state = self.shared.state.lock();
        state.holds += 1;
        let under_way = state.begun;
        drop(state);
        let held = Held { shared: &self.shared };
        self.shared.ended.wait_until(|| self.shared.state.lock().ended >= under_way);
        held
    }

    /// Whether a run is pending. Any context.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.shared.state.lock().due_ns.is_some()
    }

    /// How many runs have ended. Any context.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.shared.state.lock().ended
    }

    /// Cancels, and ends the thread. Blocks until it has ended.
    pub fn stop(mut self) {
        self.refuse_own_thread("stop");
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }

    fn refuse_own_thread(&self, what: &str) {
        let me = self.shared.platform.scheduler().current();
        let own = self.thread.as_ref().is_some_and(|thread| thread.id() == me);
        assert!(!own, "the function of a worker waits for itself: {what}");
    }
}

impl<P: Platform> Drop for Worker<P> {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl<P: Platform> Shared<P> {
    fn stop(&self) {
        let mut state = self.state.lock();
        (state.stopping, state.due_ns) = (true, None);
        drop(state);
        self.asked.wake_one();
        self.ended.wake_all();
    }

    /// Waits until a run is due, and begins it; answers false when the worker must end.
    fn wait_for_run(&self) -> bool {
        loop {
            let (due_ns, held) = {
                let mut state = self.state.lock();
                if state.stopping {
                    return false;
                }
                let held = state.holds > 0;
                if !held && state.due_ns.is_some_and(|due| due <= self.platform.now_ns()) {
                    (state.due_ns, state.running, state.cancelled) = (None, true, false);
                    state.begun += 1;
                    return true;
                }
                (state.due_ns, held)
            };
            let changed = || {
                let state = self.state.lock();
                state.stopping || state.due_ns != due_ns || (state.holds > 0) != held
            };
            match due_ns {
                // Whether it changed or the time has come, the next round finds out.
                Some(due_ns) if !held => drop(self.asked.wait_until_deadline(due_ns, changed)),
                _ => self.asked.wait_until(changed),
            }
        }
    }

    fn end_run(&self, next: Next) {
        let now_ns = self.platform.now_ns();
        let mut state = self.state.lock();
        (state.running, state.ended) = (false, state.begun);
        if let Next::After(delay_ns) = next
            && state.due_ns.is_none()
            && !state.cancelled
        {
            state.due_ns = Some(now_ns.saturating_add(delay_ns));
        }
        drop(state);
        self.ended.wake_all();
    }
}
