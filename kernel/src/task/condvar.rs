//! The condition variable: waiting for a change to what a mutex protects.

use super::mutex::MutexGuard;
use super::platform::Platform;
use super::wait::WaitQueue;

/// Threads that wait until somebody changes what a mutex protects, and says so.
///
/// All threads that wait at a time should use one mutex. Wake-ups without a reason do not happen, but a thread
/// that was woken competes for the mutex with others, so look again: [`wait_while`](Self::wait_while) does.
#[derive(Debug)]
pub struct Condvar<P: Platform> {
    queue: WaitQueue<P>,
}

impl<P: Platform> Condvar<P> {
    /// Nobody waits.
    #[must_use]
    pub const fn new(platform: P) -> Self {
        Self { queue: WaitQueue::new(platform) }
    }

    /// Lets the mutex go and waits, in one step: a notification by whoever takes the mutex next is not missed.
    /// Takes the mutex again. Blocks.
    pub fn wait<'m, T>(&self, guard: MutexGuard<'m, T, P>) -> MutexGuard<'m, T, P> {
        let mutex = guard.mutex();
        let mut waiting = self.queue.enter();
        drop(guard);
        waiting.sleep(None);
        drop(waiting);
        mutex.lock()
    }

    /// As [`wait`](Self::wait), but no longer than `deadline_ns` of system time; answers also whether it was
    /// notified. Taking the mutex again may take longer.
    pub fn wait_until<'m, T>(
        &self,
        guard: MutexGuard<'m, T, P>,
        deadline_ns: u64,
    ) -> (MutexGuard<'m, T, P>, bool) {
        let mutex = guard.mutex();
        let mut waiting = self.queue.enter();
        drop(guard);
        let notified = waiting.sleep(Some(deadline_ns));
        drop(waiting);
        (mutex.lock(), notified)
    }

    /// Waits while `condition` holds. Blocks.
    pub fn wait_while<'m, T>(
        &self,
        mut guard: MutexGuard<'m, T, P>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'m, T, P> {
        while condition(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }

    /// Wakes the thread that has waited longest, and answers whether there was one. Any context.
    pub fn notify_one(&self) -> bool {
        self.queue.wake_one()
    }

    /// Wakes all that wait now, and answers how many. Any context.
    pub fn notify_all(&self) -> usize {
        self.queue.wake_all()
    }
}
