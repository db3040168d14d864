//! The mutex of threads: who finds it held, blocks.
//!
//! One word says who holds it, so taking and letting go without contention is one exchange each. Under contention
//! the lock is handed to the thread that has waited longest: nobody starves, and nobody who comes late overtakes.
//! The price is a switch of threads for each hand-over.

use super::deadlock::Reason;
use super::id::ThreadId;
use super::list::List;
use super::lock::SpinLock;
use super::platform::Platform;
use super::table::Thread;
use super::wait::Waits;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// In the word of a mutex: threads wait, so letting go must hand over.
const CONTENDED: u64 = 1 << 63;

/// Data that one thread at a time may use, for as long as it likes.
///
/// The holder may block and may be preempted. Not for interrupt handlers. In debug builds a deadlock among mutexes
/// (and joins) is a panic that names the threads and the locks, and so is a wait longer than
/// [`Scheduler::stuck_limit_ns`](super::Scheduler::stuck_limit_ns); a thread that takes a mutex twice is stopped
/// in every build.
pub struct Mutex<T, P: Platform> {
    lock: RawMutex<P>,
    /// Free whenever its turn comes: who gets here has taken `lock`.
    data: SpinMutex<T>,
}

/// Holds a [`Mutex`] until it is dropped.
#[must_use = "the mutex is free again as soon as this is dropped"]
pub struct MutexGuard<'m, T, P: Platform> {
    // In this order: the data is let go, then the mutex.
    data: SpinMutexGuard<'m, T>,
    held: Held<'m, T, P>,
}

struct Held<'m, T, P: Platform> {
    mutex: &'m Mutex<T, P>,
    not_send: PhantomData<*mut ()>,
}

struct RawMutex<P: Platform> {
    platform: P,
    name: &'static str,
    /// [`ThreadId::to_bits`] of the holder, perhaps with [`CONTENDED`]; 0 while free.
    word: AtomicU64,
    waiters: SpinLock<List, P>,
}

impl<T: fmt::Debug, P: Platform> fmt::Debug for Mutex<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Mutex");
        out.field("name", &self.lock.name).field("holder", &self.holder());
        match self.data.try_lock() {
            Some(data) => out.field("data", &*data).finish(),
            None => out.finish_non_exhaustive(),
        }
    }
}

impl<T, P: Platform> Mutex<T, P> {
    /// A free mutex; `name` is for reports.
    pub const fn new(platform: P, name: &'static str, data: T) -> Self {
        let (word, waiters) = (AtomicU64::new(0), SpinLock::new(platform, List::new()));
        Self { lock: RawMutex { platform, name, word, waiters }, data: SpinMutex::new(data) }
    }

    /// Takes the mutex, blocking while another thread holds it.
    ///
    /// # Panics
    ///
    /// If the running thread holds it already. In debug builds also where [`Scheduler::assert_may_block`] does, in a
    /// deadlock, and after a very long wait.
    ///
    /// [`Scheduler::assert_may_block`]: super::Scheduler::assert_may_block
    pub fn lock(&self) -> MutexGuard<'_, T, P> {
        self.lock.platform.scheduler().assert_may_block("Mutex::lock");
        if !self.lock.try_lock() {
            self.lock.wait(None);
        }
        self.guard()
    }

    /// Takes the mutex if that is possible before `deadline_ns` of system time.
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock), but for the deadlock and the long wait.
    pub fn lock_until(&self, deadline_ns: u64) -> Option<MutexGuard<'_, T, P>> {
        self.lock.platform.scheduler().assert_may_block("Mutex::lock_until");
        let taken = self.lock.try_lock() || self.lock.wait(Some(deadline_ns));
        taken.then(|| self.guard())
    }

    /// Takes the mutex if it is free. Does not block.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, P>> {
        self.lock.try_lock().then(|| self.guard())
    }

    /// The data, of a mutex that nobody else knows.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// The data.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }

    /// Who holds it. Old news unless it is the caller.
    #[must_use]
    pub fn holder(&self) -> Option<ThreadId> {
        self.lock.holder()
    }

    fn guard(&self) -> MutexGuard<'_, T, P> {
        let held = Held { mutex: self, not_send: PhantomData };
        let Some(data) = self.data.try_lock() else {
            unreachable!("the data of mutex {:?} is in use by one who does not hold it", self.lock.name)
        };
        MutexGuard { data, held }
    }
}

impl<'m, T, P: Platform> MutexGuard<'m, T, P> {
    /// The mutex.
    pub(super) fn mutex(&self) -> &'m Mutex<T, P> {
        self.held.mutex
    }
}

impl<T, P: Platform> Deref for MutexGuard<'_, T, P> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T, P: Platform> DerefMut for MutexGuard<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

impl<T: fmt::Debug, P: Platform> fmt::Debug for MutexGuard<'_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T, P: Platform> Drop for Held<'_, T, P> {
    fn drop(&mut self) {
        self.mutex.lock.unlock();
    }
}

impl<P: Platform> RawMutex<P> {
    fn holder(&self) -> Option<ThreadId> {
        ThreadId::from_bits(self.word.load(Ordering::Relaxed) & !CONTENDED)
    }

    fn try_lock(&self) -> bool {
        let me = self.platform.scheduler().current().to_bits();
        self.word.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Waits for the lock, and answers whether it was taken.
    fn wait(&self, deadline_ns: Option<u64>) -> bool {
        let scheduler = self.platform.scheduler();
        let me = scheduler.table.get(scheduler.current_index());
        if self.take_or_queue(me, deadline_ns.is_none()) {
            return true;
        }
        if deadline_ns.is_none() {
            scheduler.check_deadlock();
        }
        let began_ns = self.platform.now_ns();
        let stuck_ns = began_ns.saturating_add(scheduler.stuck_limit_ns());
        let until_ns = deadline_ns.or(cfg!(debug_assertions).then_some(stuck_ns));
        loop {
            scheduler.block(until_ns);
            // The lock makes sure that who handed over, or is about to, is through.
            let mut waiters = self.waiters.lock();
            if !me.wait.is_in_list() {
                return true;
            }
            if until_ns.is_some_and(|until| self.platform.now_ns() >= until) {
                if deadline_ns.is_some() {
                    waiters.remove(&Waits(&scheduler.table), me.index);
                    return false;
                }
                drop(waiters);
                self.report_stuck(me);
            }
        }
    }

    /// Takes the lock if it has come free; else puts `me` among the waiters and answers false.
    fn take_or_queue(&self, me: &Thread<P>, for_ever: bool) -> bool {
        let scheduler = self.platform.scheduler();
        let mut waiters = self.waiters.lock();
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let Some(holder) = ThreadId::from_bits(word & !CONTENDED) else {
                if self.try_lock() {
                    return true;
                }
                continue;
            };
            if holder == me.id() {
                drop(waiters);
                self.report_twice(me);
            }
            // From here on the holder must come to the list, which is locked, to let go.
            let marked =
                self.word.compare_exchange(word, word | CONTENDED, Ordering::Relaxed, Ordering::Relaxed);
            if marked.is_ok() {
                if for_ever {
                    me.waits_for.set(holder, Reason::Mutex(self.name));
                }
                waiters.push(&Waits(&scheduler.table), me.index);
                return false;
            }
        }
    }

    fn unlock(&self) {
        let word = self.word.load(Ordering::Relaxed);
        if word & CONTENDED == 0
            && self.word.compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed).is_ok()
        {
            return;
        }
        let scheduler = self.platform.scheduler();
        let waits = Waits(&scheduler.table);
        let mut waiters = self.waiters.lock();
        let Some(next) = waiters.pop(&waits) else {
            // Those who waited have given up.
            self.word.store(0, Ordering::Release);
            return;
        };
        let thread = scheduler.table.get(next);
        let id = thread.id();
        thread.waits_for.clear();
        if cfg!(debug_assertions) {
            for index in waiters.iter(&waits) {
                scheduler.table.get(index).waits_for.renew(id);
            }
        }
        let contended = if waiters.is_empty() { 0 } else { CONTENDED };
        self.word.store(id.to_bits() | contended, Ordering::Release);
        scheduler.wake(next);
    }

    #[expect(clippy::panic, reason = "the thread would wait for itself for ever")]
    fn report_twice(&self, me: &Thread<P>) -> ! {
        let me = self.platform.scheduler().describe(me.id());
        panic!("deadlock: {me} takes mutex {:?}, which it holds", self.name);
    }

    #[expect(clippy::panic, reason = "the documented end of a wait that never ends, in debug builds")]
    fn report_stuck(&self, me: &Thread<P>) -> ! {
        let scheduler = self.platform.scheduler();
        let seconds = scheduler.stuck_limit_ns() / 1_000_000_000;
        let (me, name) = (scheduler.describe(me.id()), self.name);
        match self.holder() {
            Some(holder) => {
                let holder = scheduler.describe(holder);
                panic!("{me} has waited {seconds} s for mutex {name:?}, held by {holder}");
            }
            None => panic!("{me} has waited {seconds} s for mutex {name:?}, which nobody holds"),
        }
    }
}
