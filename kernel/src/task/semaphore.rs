//! Counted permits, and an event that happens once.

use super::platform::Platform;
use super::wait::WaitQueue;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A number of permits, to be taken and given back, not necessarily by the same thread.
#[derive(Debug)]
pub struct Semaphore<P: Platform> {
    permits: AtomicU32,
    queue: WaitQueue<P>,
}

impl<P: Platform> Semaphore<P> {
    /// A semaphore with `permits`.
    #[must_use]
    pub const fn new(platform: P, permits: u32) -> Self {
        Self { permits: AtomicU32::new(permits), queue: WaitQueue::new(platform) }
    }

    /// Takes a permit, blocking while there is none.
    pub fn acquire(&self) {
        self.queue.wait_until(|| self.try_acquire());
    }

    /// Takes a permit if there is one before `deadline_ns` of system time; answers whether it did. Blocks.
    #[must_use]
    pub fn acquire_until(&self, deadline_ns: u64) -> bool {
        self.queue.wait_until_deadline(deadline_ns, || self.try_acquire())
    }

    /// Takes a permit if there is one; answers whether it did. Any context.
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        let one_less = |permits: u32| permits.checked_sub(1);
        self.permits.try_update(Ordering::Acquire, Ordering::Relaxed, one_less).is_ok()
    }

    /// Gives a permit. Any context.
    ///
    /// # Panics
    ///
    /// If there are 2^32 - 1 already: somebody gives what nobody took.
    pub fn release(&self) {
        let one_more = |permits: u32| permits.checked_add(1);
        let given = self.permits.try_update(Ordering::Release, Ordering::Relaxed, one_more);
        assert!(given.is_ok(), "a semaphore with more than 2^32 - 1 permits");
        self.queue.wake_one();
    }

    /// Permits to be had. Old news at once.
    #[must_use]
    pub fn permits(&self) -> u32 {
        self.permits.load(Ordering::Relaxed)
    }
}

/// Something that happens once, for which others wait.
#[derive(Debug)]
pub struct Completion<P: Platform> {
    done: AtomicBool,
    queue: WaitQueue<P>,
}

impl<P: Platform> Completion<P> {
    /// It has not happened.
    #[must_use]
    pub const fn new(platform: P) -> Self {
        Self { done: AtomicBool::new(false), queue: WaitQueue::new(platform) }
    }

    /// It happens: what was done before is seen by all who wait for it. Any context.
    pub fn complete(&self) {
        self.done.store(true, Ordering::Release);
        self.queue.wake_all();
    }

    /// Whether it has happened. Any context.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Blocks until it has happened.
    pub fn wait(&self) {
        self.queue.wait_until(|| self.is_done());
    }

    /// Blocks until it has happened or until `deadline_ns` of system time; answers whether it has.
    #[must_use]
    pub fn wait_until(&self, deadline_ns: u64) -> bool {
        self.queue.wait_until_deadline(deadline_ns, || self.is_done())
    }
}
