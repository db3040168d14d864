//! Withdrawing translations from every CPU.
//!
//! A processor keeps translations and does not notice when a page table changes. Whoever takes a mapping away
//! changes the table first and calls [`Shootdown::flush`] then; when that returns, no CPU uses the old mapping, and
//! its frame may serve something else.
//!
//! One flush goes on at a time. While a CPU waits, for its turn or for the others, it answers the flush that is
//! under way, so two CPUs that flush with interrupts off do not wait for each other.
//!
//! A CPU that comes online inserts itself into the online set *before* it forgets all its translations. Either the
//! flush sees it in the set, or its forgetting comes after the table has changed.

use super::{CpuId, CpuSet, SharedCpuSet};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use spin::mutex::SpinMutex;

/// What is to be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// The translations of `count` pages of 4 KiB, at least 1, from `start` on.
    Pages {
        /// Virtual address of the first.
        start: u64,
        /// How many.
        count: u64,
    },
    /// All.
    All,
}

impl Flush {
    /// Beyond so many pages, forgetting everything is cheaper than one by one.
    const MOST_PAGES: u64 = 64;

    /// The pages from `start` on; all if they are many.
    #[must_use]
    pub const fn pages(start: u64, count: u64) -> Self {
        if count == 0 || count > Self::MOST_PAGES { Self::All } else { Self::Pages { start, count } }
    }
}

/// CPUs that did not answer a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unanswered(
    /// Those. Empty if the turn did not come.
    pub CpuSet,
);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("another TLB flush does not end");
        }
        write!(f, "no answer to a TLB flush from {}", self.0)
    }
}

impl core::error::Error for Unanswered {}

/// The processors' side.
pub trait Tlb {
    /// The CPUs whose translations matter.
    fn online(&self) -> CpuSet;
    /// Has `cpu` call [`Shootdown::serve`] soon.
    fn ring(&self, cpu: CpuId);
    /// Has this CPU forget.
    fn invalidate(&self, what: Flush);
}

/// The flush that is under way.
#[derive(Debug, Default)]
pub struct Shootdown {
    turn: SpinMutex<()>,
    start: AtomicU64,
    /// 0 is everything.
    count: AtomicU64,
    /// Those that have not answered.
    waiting: SharedCpuSet,
}

impl Shootdown {
    /// None under way.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            turn: SpinMutex::new(()),
            start: AtomicU64::new(0),
            count: AtomicU64::new(0),
            waiting: SharedCpuSet::new(),
        }
    }

    /// Has all CPUs forget `what`, this one (`me`) included, and waits until they have.
    ///
    /// With interrupts off, so that nothing on this CPU begins another meanwhile.
    ///
    /// # Errors
    ///
    /// The CPUs that have not answered when `wait` answers false. They may still use the old translations, so that
    /// the frames behind them must not be used again. No flush with others succeeds after that.
    pub fn flush(
        &self,
        what: Flush,
        me: CpuId,
        tlb: &impl Tlb,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), Unanswered> {
        // The page table was changed; only then may we look who is online.
        fence(Ordering::SeqCst);
        tlb.invalidate(what);
        if tlb.online().without(me).is_empty() {
            return Ok(());
        }
        let turn = loop {
            if let Some(turn) = self.turn.try_lock() {
                break turn;
            }
            self.serve(me, tlb);
            if !wait() {
                return Err(Unanswered(CpuSet::EMPTY));
            }
        };
        let (start, count) = match what {
            Flush::Pages { start, count } => (start, count),
            Flush::All => (0, 0),
        };
        self.start.store(start, Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
        let others = tlb.online().without(me);
        self.waiting.set(others);
        for cpu in others.iter() {
            tlb.ring(cpu);
        }
        while !self.waiting.get().is_empty() {
            if !wait() {
                let silent = self.waiting.get();
                if silent.is_empty() {
                    break;
                }
                // For good: a late answer would pass for one to the next flush.
                core::mem::forget(turn);
                return Err(Unanswered(silent));
            }
        }
        Ok(())
    }

    /// Answers the flush under way, if it waits for `me`, the calling CPU. Interrupt-safe, never blocks.
    pub fn serve(&self, me: CpuId, tlb: &impl Tlb) {
        if !self.waiting.get().contains(me) {
            return;
        }
        // Until we answer, the flusher changes neither.
        let (start, count) = (self.start.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed));
        tlb.invalidate(if count == 0 { Flush::All } else { Flush::Pages { start, count } });
        self.waiting.remove(me);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    /// CPUs whose translation is one word each; the page table is one word too.
    struct Machine<'m> {
        me: CpuId,
        shared: &'m Shared,
    }

    struct Shared {
        table: AtomicU64,
        cached: [AtomicU64; 4],
        online: SharedCpuSet,
        rung: SharedCpuSet,
        flushes: AtomicUsize,
    }

    impl Shared {
        fn new(cpus: usize) -> Self {
            let online = SharedCpuSet::new();
            online.set(CpuId::first(cpus).collect());
            Self {
                table: AtomicU64::new(0),
                cached: Default::default(),
                online,
                rung: SharedCpuSet::new(),
                flushes: AtomicUsize::new(0),
            }
        }
    }

    impl Tlb for Machine<'_> {
        fn online(&self) -> CpuSet {
            self.shared.online.get()
        }
        fn ring(&self, cpu: CpuId) {
            self.shared.rung.insert(cpu);
        }
        fn invalidate(&self, _: Flush) {
            self.shared.flushes.fetch_add(1, Ordering::Relaxed);
            let now = self.shared.table.load(Ordering::SeqCst);
            self.shared.cached[self.me.get()].store(now, Ordering::SeqCst);
        }
    }

    fn cpu(number: usize) -> CpuId {
        CpuId::new(number).unwrap()
    }

    #[test]
    fn alone_there_is_nobody_to_wait_for() {
        let shared = Shared::new(1);
        let machine = Machine { me: cpu(0), shared: &shared };
        Shootdown::new().flush(Flush::All, cpu(0), &machine, &mut || panic!("waits")).unwrap();
        assert_eq!(shared.flushes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_silent_cpu_is_named_and_ends_all_flushing() {
        let shared = Shared::new(3);
        let (shootdown, machine) = (Shootdown::new(), Machine { me: cpu(0), shared: &shared });
        let serve = |number| shootdown.serve(cpu(number), &Machine { me: cpu(number), shared: &shared });
        let mut rounds = 0;
        let answer = shootdown.flush(Flush::pages(0x1000, 1), cpu(0), &machine, &mut || {
            rounds += 1;
            if rounds == 1 {
                serve(1);
            }
            rounds < 3
        });
        assert_eq!(answer, Err(Unanswered(CpuSet::only(cpu(2)))));
        assert_eq!(shared.rung.get(), CpuSet::only(cpu(1)).with(cpu(2)));
        serve(2);
        let answer = shootdown.flush(Flush::All, cpu(0), &machine, &mut || false);
        assert_eq!(answer, Err(Unanswered(CpuSet::EMPTY)), "the late answer counts for nothing");
    }

    #[test]
    fn an_answer_in_the_last_round_counts() {
        let shared = Shared::new(2);
        let (shootdown, machine) = (Shootdown::new(), Machine { me: cpu(0), shared: &shared });
        for _ in 0..2 {
            let answer = shootdown.flush(Flush::All, cpu(0), &machine, &mut || {
                shootdown.serve(cpu(1), &Machine { me: cpu(1), shared: &shared });
                false
            });
            assert_eq!(answer, Ok(()));
        }
    }

    #[test]
    fn many_pages_are_all_pages() {
        assert_eq!(Flush::pages(0x1000, 65), Flush::All);
        assert_eq!(Flush::pages(0x1000, 64), Flush::Pages { start: 0x1000, count: 64 });
        assert_eq!(Flush::pages(0x1000, 0), Flush::All);
    }

    /// All CPUs flush at once, none takes interrupts: each must answer while it waits. After each flush nobody has
    /// a translation older than it.
    #[test]
    fn flushes_from_all_sides_do_not_wait_for_each_other() {
        const CPUS: usize = 4;
        let (shared, shootdown) = (Shared::new(CPUS), Shootdown::new());
        let (busy, stale) = (AtomicUsize::new(CPUS), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for me in CpuId::first(CPUS) {
                let (shared, shootdown, busy, stale) = (&shared, &shootdown, &busy, &stale);
                scope.spawn(move || {
                    let machine = Machine { me, shared };
                    for _ in 0..500 {
                        let changed = shared.table.fetch_add(1, Ordering::SeqCst) + 1;
                        let mut wait = || {
                            std::thread::yield_now();
                            true
                        };
                        shootdown.flush(Flush::All, me, &machine, &mut wait).unwrap();
                        let old = shared.cached.iter().any(|at| at.load(Ordering::SeqCst) < changed);
                        stale.fetch_or(old, Ordering::Relaxed);
                    }
                    busy.fetch_sub(1, Ordering::SeqCst);
                    while busy.load(Ordering::SeqCst) > 0 {
                        shootdown.serve(me, &machine);
                        std::thread::yield_now();
                    }
                });
            }
        });
        assert!(!stale.load(Ordering::Relaxed));
    }
}
