//! Wait queues: threads that wait until something is true, and the wake-ups that tell them to look again.
//!
//! No wake-up is lost: a thread enters the queue *before* it looks whether it must wait, so one who makes the
//! condition true and then wakes either is seen by that look, or finds the thread in the queue. And none is
//! swallowed: a thread that was chosen by [`wake_one`](WaitQueue::wake_one), but had stopped waiting for another
//! reason, passes the wake-up on to the next.

use super::list::{Link, Links, List};
use super::lock::SpinLock;
use super::platform::Platform;
use super::scheduler::Scheduler;
use super::table::Table;

/// The links of wait queues and of the pool of unused threads.
pub(super) struct Waits<'t, P: Platform>(pub(super) &'t Table<P>);

impl<P: Platform> Links for Waits<'_, P> {
    fn link(&self, index: u32) -> &Link {
        &self.0.get(index).wait
    }
}

/// Threads that wait, first come, first woken.
#[derive(Debug)]
pub struct WaitQueue<P: Platform> {
    platform: P,
    list: SpinLock<List, P>,
}

impl<P: Platform> WaitQueue<P> {
    /// Nobody waits.
    #[must_use]
    pub const fn new(platform: P) -> Self {
        Self { platform, list: SpinLock::new(platform, List::new()) }
    }

    fn table(&self) -> &'static Table<P> {
        &self.platform.scheduler().table
    }

    /// Waits until `done` answers true: asks at once, and again after each wake-up. Blocks.
    ///
    /// `done` must not block, since the thread is in the queue while it runs; it may take spin locks.
    pub fn wait_until(&self, mut done: impl FnMut() -> bool) {
        self.platform.scheduler().assert_may_block("WaitQueue::wait_until");
        loop {
            let mut waiting = self.enter();
            if done() {
                return;
            }
            waiting.sleep(None);
        }
    }

    /// As [`wait_until`](Self::wait_until), but no longer than `deadline_ns` of system time. Answers what `done`
    /// said last.
    #[must_use]
    pub fn wait_until_deadline(&self, deadline_ns: u64, mut done: impl FnMut() -> bool) -> bool {
        self.platform.scheduler().assert_may_block("WaitQueue::wait_until_deadline");
        loop {
            let mut waiting = self.enter();
            if done() {
                return true;
            }
            if !waiting.sleep(Some(deadline_ns)) {
                drop(waiting);
                return done();
            }
        }
    }

    /// Wakes the thread that has waited longest, and answers whether there was one. Any context.
    ///
    /// Make the condition true before.
    pub fn wake_one(&self) -> bool {
        let mut list = self.list.lock();
        let first = list.pop(&Waits(self.table()));
        // Under the lock: until it opens, the thread cannot leave the queue's protocol and become another.
        first.inspect(|index| self.platform.scheduler().wake(*index)).is_some()
    }

    /// Wakes all threads that wait now, and answers how many. Any context. The lock opens in between.
    pub fn wake_all(&self) -> usize {
        let waiting = self.list.lock().len() as usize;
        (0..waiting).take_while(|_| self.wake_one()).count()
    }

    /// How many threads wait. Old news unless the caller knows better.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.list.lock().len() as usize
    }

    /// Puts the running thread into the queue.
    pub(super) fn enter(&self) -> Waiting<'_, P> {
        let index = self.platform.scheduler().current_index();
        self.list.lock().push(&Waits(self.table()), index);
        Waiting { queue: self, index, heard: false }
    }
}

/// The running thread is in a wait queue while this lives, unless it has been woken.
#[must_use = "the thread leaves the queue as soon as this is dropped"]
pub(super) struct Waiting<'q, P: Platform> {
    queue: &'q WaitQueue<P>,
    index: u32,
    /// It has seen that it was woken.
    heard: bool,
}

impl<P: Platform> Waiting<'_, P> {
    /// Blocks until woken, or until the deadline, and answers whether woken.
    pub(super) fn sleep(&mut self, deadline_ns: Option<u64>) -> bool {
        let scheduler = self.queue.platform.scheduler();
        while !self.was_woken() {
            if deadline_ns.is_some_and(|deadline| scheduler.platform.now_ns() >= deadline) {
                return false;
            }
            scheduler.block(deadline_ns);
        }
        self.heard = true;
        true
    }

    /// Whether a wake-up has taken the thread out of the queue. The waker may not be through yet; the lock in `drop`
    /// waits for that.
    fn was_woken(&self) -> bool {
        !self.queue.table().get(self.index).wait.is_in_list()
    }
}

impl<P: Platform> Drop for Waiting<'_, P> {
    fn drop(&mut self) {
        if self.queue.list.lock().remove(&Waits(self.queue.table()), self.index) {
            return;
        }
        // The wake-up may have left a token: then the next `block` returns at once, for no reason, as it may.
        if !self.heard {
            self.queue.wake_one();
        }
    }
}

impl<P: Platform> Scheduler<P> {
    /// Blocks the running thread until `done` answers true: asks at once, and after each
    /// [`wake_key`](Self::wake_key) of `key`. For those who have no queue of their own: keys share queues.
    pub fn wait_key(&self, key: usize, done: impl FnMut() -> bool) {
        self.key_queue(key).wait_until(done);
    }

    /// Wakes those who wait for `key`, any number, which is only compared. Any context.
    pub fn wake_key(&self, key: usize) {
        self.key_queue(key).wake_all();
    }

    fn key_queue(&self, key: usize) -> &WaitQueue<P> {
        // Keys are addresses: spread them by a multiplication, and take high bits.
        let spread = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.keys[spread as usize % self.keys.len()]
    }

    /// Blocks the running thread until `deadline_ns` of system time.
    pub fn sleep_until(&self, deadline_ns: u64) {
        self.assert_may_block("sleep_until");
        while self.platform.now_ns() < deadline_ns {
            self.block(Some(deadline_ns));
        }
    }

    /// Blocks the running thread for at least `duration_ns`.
    pub fn sleep_for(&self, duration_ns: u64) {
        self.sleep_until(self.platform.now_ns().saturating_add(duration_ns));
    }

    /// Whether the running code may block: it is a thread other than the idle one, with preemption and interrupts
    /// on. Any context.
    #[must_use]
    pub fn may_block(&self) -> bool {
        self.platform.irqs_on() && self.platform.preempt_count() == 0 && !self.is_idle_thread()
    }

    /// In debug builds, stops code that is about to block, or might, where it must not: with preemption off, which
    /// a read section is too; with interrupts off; in an interrupt handler; as the idle thread. `what` names it.
    ///
    /// # Panics
    ///
    /// Then, with the reason.
    #[inline]
    #[track_caller]
    pub fn assert_may_block(&self, what: &str) {
        if cfg!(debug_assertions) {
            assert!(
                self.platform.irqs_on(),
                "{what} may block, with interrupts off or in an interrupt handler"
            );
            let depth = self.platform.preempt_count();
            assert!(depth == 0, "{what} may block, with preemption off or in a read section ({depth} deep)");
            assert!(!self.is_idle_thread(), "{what} may block, in the idle thread");
        }
    }
}
