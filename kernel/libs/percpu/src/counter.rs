//! A counter that many CPUs add to and that is read approximately: committed memory, pages in use.
//!
//! Each CPU keeps a *local* part, of magnitude below the *batch*; an add that would take it to the batch goes to
//! the *global* part, and takes the local part along. Reading the global part is one load, and wrong by at most
//! `cpus * (batch - 1)` either way; the exact sum visits every CPU.
//!
//! Whether an add fits in the batch is decided and done in one step on the CPU, so an interrupt between the two
//! cannot push the local part beyond.

use crate::lock::SpinLock;
use crate::misuse::Misuse;
use crate::mutation::{Mutation, made};
use crate::platform::{CpuId, IrqOff, Pinned, Platform, WordIndex};
use crate::primitive::{AtomicI64, Ordering, fence};
use core::cmp;

/// A signed count spread over the CPUs.
///
/// ```
/// # use percpu::{host::Machine, CpuId, PercpuCounter};
/// let machine = Machine::new(2);
/// let _cpu = machine.enter(CpuId::BOOT);
///
/// let committed = PercpuCounter::new(machine, 32)?;
/// committed.add(20);                       // local: below the batch
/// assert_eq!(committed.read(), 0);         // approximate: within 2 * 31
/// assert_eq!(committed.sum(), 20);         // exact
/// assert!(!committed.limited_add(50, 31)); // would go beyond 50: refused, nothing added
/// assert!(committed.limited_add(50, 30));
/// # Ok::<(), percpu::Misuse>(())
/// ```
#[derive(Debug)]
pub struct PercpuCounter<P: Platform> {
    platform: P,
    global: AtomicI64,
    batch: AtomicI64,
    /// Held by whoever moves local parts to the global one, so that a sum sees each part once.
    folding: SpinLock<()>,
    /// `None` only while the counter is being dropped.
    word: Option<WordIndex>,
}

impl<P: Platform> PercpuCounter<P> {
    /// A counter at 0. `batch` is at least 1 (smaller values are taken as 1, which counts exactly).
    ///
    /// # Errors
    ///
    /// [`Misuse::NoMemory`] if there is no per-CPU word.
    pub fn new(platform: P, batch: i64) -> Result<Self, Misuse> {
        let word = platform.alloc_word().ok_or(Misuse::NoMemory)?;
        for cpu in CpuId::first(platform.cpu_count()) {
            platform.word(cpu, word.get()).store(0, Ordering::Relaxed);
        }
        Ok(Self {
            platform,
            global: AtomicI64::new(0),
            batch: AtomicI64::new(batch.max(1)),
            folding: SpinLock::new("percpu counter", ()),
            word: Some(word),
        })
    }

    /// The batch that Linux takes by default: 32, or twice the CPUs if that is more.
    #[must_use]
    #[expect(clippy::cast_possible_wrap, reason = "a number of CPUs")]
    pub fn default_batch(platform: P) -> i64 {
        (2 * platform.cpu_count() as i64).max(32)
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> i64 {
        self.batch.load(Ordering::Relaxed)
    }

    /// Sets the batch. Local parts may be beyond a smaller one until [`sync_local`](Self::sync_local) has run on
    /// every CPU; from then on the new bound of [`read`](Self::read) holds.
    pub fn set_batch(&self, batch: i64) {
        self.batch.store(batch.max(1), Ordering::Relaxed);
    }

    /// The most that [`read`](Self::read) can differ from [`sum`](Self::sum): `cpus * (batch - 1)`.
    #[must_use]
    #[expect(clippy::cast_possible_wrap, reason = "a number of CPUs")]
    pub fn error_bound(&self) -> i64 {
        (self.batch() - 1).saturating_mul(self.platform.cpu_count() as i64)
    }

    fn local(&self, cpu: CpuId) -> &'static crate::primitive::AtomicU64 {
        let number = self.word.as_ref().map_or(0, WordIndex::get);
        self.platform.word(cpu, number)
    }

    fn add_local(&self, amount: i64, batch: i64) -> bool {
        self.word.as_ref().is_some_and(|word| self.platform.local_add_within(word, amount, batch))
    }

    /// Adds `amount`, which may be negative. Any context. One unlocked step on the own CPU unless the batch is full.
    #[inline]
    pub fn add(&self, amount: i64) {
        if !self.add_local(amount, self.batch()) {
            self.add_global(amount);
        }
    }

    #[cold]
    fn add_global(&self, amount: i64) {
        if made(Mutation::UnlockedFold) {
            let irq = IrqOff::new(self.platform);
            self.fold(irq.cpu(), amount);
            return;
        }
        let guard = self.folding.lock(self.platform);
        self.fold(guard.cpu(), amount);
    }

    /// Moves the local part of `cpu` to the global one, and `amount` with it. The lock is held, with interrupts
    /// off; `cpu` is this CPU, or adds nothing meanwhile.
    fn fold(&self, cpu: CpuId, amount: i64) {
        let local = self.local(cpu);
        let part = local.load(Ordering::Relaxed).cast_signed();
        // Wrapping, as the hardware's counters are; a sum of pages or bytes does not get there.
        self.global.fetch_add(part.wrapping_add(amount), Ordering::Relaxed);
        local.store(0, Ordering::Relaxed);
    }

    /// The global part: within [`error_bound`](Self::error_bound) of the sum. One load.
    #[inline]
    #[must_use]
    pub fn read(&self) -> i64 {
        self.global.load(Ordering::Relaxed)
    }

    /// [`read`](Self::read), or 0 if that is negative.
    #[inline]
    #[must_use]
    pub fn read_positive(&self) -> i64 {
        self.read().max(0)
    }

    /// The sum of all parts: exact if nobody adds meanwhile, and otherwise a value that includes every add that
    /// was over before and some of those that ran meanwhile. Takes the lock and visits every CPU.
    #[must_use]
    pub fn sum(&self) -> i64 {
        let _guard = self.folding.lock(self.platform);
        self.sum_locked()
    }

    fn sum_locked(&self) -> i64 {
        CpuId::first(self.platform.cpu_count())
            .map(|cpu| self.local(cpu).load(Ordering::Relaxed).cast_signed())
            .fold(self.global.load(Ordering::Relaxed), i64::wrapping_add)
    }

    /// [`sum`](Self::sum), or 0 if that is negative.
    #[must_use]
    pub fn sum_positive(&self) -> i64 {
        self.sum().max(0)
    }

    /// Compares the sum with `with`: by the global part alone if that is far enough away, else exactly.
    #[must_use]
    pub fn compare(&self, with: i64) -> cmp::Ordering {
        let rough = self.read();
        if rough.abs_diff(with) > self.error_bound().unsigned_abs() {
            return rough.cmp(&with);
        }
        self.sum().cmp(&with)
    }

    /// Sets the sum to `value`. Exact only if nobody adds meanwhile: an add that runs at the same time may be lost
    /// or kept.
    pub fn set(&self, value: i64) {
        let _guard = self.folding.lock(self.platform);
        for cpu in CpuId::first(self.platform.cpu_count()) {
            self.local(cpu).store(0, Ordering::Relaxed);
        }
        self.global.store(value, Ordering::Relaxed);
    }

    /// Adds `amount` if the sum does not pass `limit` by it: does not exceed it for a positive amount, does not
    /// fall below it for a negative one. Whether it did.
    ///
    /// As long as all adds that go towards the limit are limited ones, the sum never passes it. Far from the limit
    /// the add is local, with one fence; near it, exact under the lock.
    #[must_use]
    pub fn limited_add(&self, limit: i64, amount: i64) -> bool {
        if amount == 0 {
            return true;
        }
        let batch = self.batch();
        if self.far_from(limit, amount) && self.add_local(amount, batch) {
            // With the fence below: either the exact sum of another CPU sees our local part, or we see what that
            // CPU has reserved of the global part.
            if !made(Mutation::LimitWithoutFence) {
                fence(Ordering::SeqCst);
            }
            if self.far_from(limit, amount) {
                return true;
            }
            // Taken back: by then it may be in the global part, so it is the sum that is put right.
            self.add(-amount);
        }
        let _guard = self.folding.lock(self.platform);
        // Reserved first, so that local adds see it; then counted.
        self.global.fetch_add(amount, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let sum = self.sum_locked();
        let fits = if amount > 0 { sum <= limit } else { sum >= limit };
        if !fits {
            self.global.fetch_sub(amount, Ordering::Relaxed);
        }
        fits
    }

    /// Whether the limit is out of reach, whatever the CPUs hold.
    fn far_from(&self, limit: i64, amount: i64) -> bool {
        let slack = self.error_bound();
        if amount > 0 {
            self.read().saturating_add(slack) <= limit
        } else {
            self.read().saturating_sub(slack) >= limit
        }
    }

    /// Moves this CPU's local part to the global one.
    pub fn sync_local(&self) {
        self.add_global(0);
    }

    /// Moves the local part of a CPU that went offline to the global one.
    ///
    /// Nothing is lost if `cpu` adds nothing meanwhile.
    pub fn fold_offline(&self, cpu: CpuId) {
        let _guard = self.folding.lock(self.platform);
        self.fold(cpu, 0);
    }

    /// Re-derives what can be: every local part is within the batch.
    ///
    /// # Errors
    ///
    /// The first CPU that is beyond.
    pub fn validate(&self) -> Result<(), CpuId> {
        let batch = self.batch();
        let beyond = |cpu: &CpuId| self.local(*cpu).load(Ordering::Relaxed).cast_signed().abs() >= batch;
        CpuId::first(self.platform.cpu_count()).find(beyond).map_or(Ok(()), Err)
    }
}

impl<P: Platform> Drop for PercpuCounter<P> {
    fn drop(&mut self) {
        if let Some(word) = self.word.take() {
            self.platform.free_word(word);
        }
    }
}
