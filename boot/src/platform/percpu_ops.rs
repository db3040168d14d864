//! What per-CPU references, counters and RCU need of the machine.
#![expect(unsafe_code, reason = "promises on which per-CPU access rests")]

use super::task_ops::preemption_is_on;
use super::{Kernel, REPORTS, SCHEDULER, WORDS, threads, workers};
use crate::cpus::{self, local};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use ebb::arch::local::{self as gs, WORDS_AT};
use percpu::gs as fast_paths;
use percpu::{CpuId, Cpus, Platform, Report, WordIndex, Words};
use x86_64::instructions::interrupts;

// SAFETY: no switch of threads happens while this CPU's preemption count is above 0 or its interrupts are off (the
// scheduler asserts both), the count and the number are reached through GS, and each CPU has its own area and number
// below `CPUS`. Interrupt handlers run with interrupts off, where `may_block` is false.
unsafe impl Cpus for Kernel {
    fn cpu_count(self) -> usize {
        super::CPUS.load(Ordering::Relaxed)
    }

    #[inline]
    fn preempt_disable(self) {
        gs::preempt_disable();
    }

    #[inline]
    unsafe fn preempt_enable(self) {
        // SAFETY: the caller's promise.
        if unsafe { gs::preempt_enable() } {
            preemption_is_on(gs::cpu());
        }
    }

    #[inline]
    fn current_cpu(self) -> CpuId {
        gs::cpu()
    }

    fn irq_save(self) -> usize {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        usize::from(were_on)
    }

    unsafe fn irq_restore(self, state: usize) {
        if state != 0 {
            interrupts::enable();
        }
    }

    fn relax(self, _rounds: u32) {
        cpus::relax();
    }

    fn may_block(self) -> bool {
        SCHEDULER.get().is_some_and(ebb::task::Scheduler::may_block)
    }
}

// SAFETY: the pool hands out a word once until it is freed, with the order of its atomics; the words of the areas are
// in different places and stay there. The fast paths are those of `percpu::gs`, one instruction each at the end, on the
// area that GS points at; `interrupt_exit` sends an interrupted one back before this CPU passes a quiescent state.
unsafe impl Words for Kernel {
    fn alloc_word(self) -> Option<WordIndex> {
        // SAFETY: fresh from the pool.
        WORDS.alloc().map(|number| unsafe { WordIndex::new(number) })
    }

    fn free_word(self, word: WordIndex) {
        WORDS.free(word);
    }

    fn word(self, cpu: CpuId, number: usize) -> &'static AtomicU64 {
        match local::words_of(cpu).and_then(|words| words.get(number)) {
            Some(word) => word,
            None => unreachable!("{cpu} has no per-CPU word {number}"),
        }
    }

    #[inline]
    unsafe fn local_add(self, tagged: &AtomicUsize, delta: u64) -> bool {
        // SAFETY: the caller's promise about `tagged`; GS points at this CPU's area, whose words begin there.
        unsafe { fast_paths::add::<WORDS_AT>(tagged, delta) }
    }

    #[inline]
    unsafe fn local_inc(self, tagged: &AtomicUsize) -> bool {
        // SAFETY: as above.
        unsafe { fast_paths::inc::<WORDS_AT>(tagged) }
    }

    #[inline]
    unsafe fn local_dec(self, tagged: &AtomicUsize) -> bool {
        // SAFETY: as above.
        unsafe { fast_paths::dec::<WORDS_AT>(tagged) }
    }

    #[inline]
    fn local_add_within(self, word: &WordIndex, amount: i64, bound: i64) -> bool {
        // SAFETY: whoever has a `WordIndex` owns the word; GS as above.
        unsafe { fast_paths::add_within::<WORDS_AT>(word.offset(), amount, bound) }
    }
}

impl Platform for Kernel {
    fn now_ns(self) -> u64 {
        cpus::now_ns()
    }

    fn kick(self, cpu: CpuId) {
        threads().kick(cpu);
    }

    fn rcu_work(self) {
        workers::rcu_work();
    }

    fn wait_until(self, key: usize, done: &dyn Fn() -> bool) {
        if Cpus::may_block(self) {
            threads().wait_key(key, done);
            return;
        }
        // Reported already; going on without what was waited for would be worse.
        while !done() {
            cpus::relax();
        }
    }

    fn wake_all(self, key: usize) {
        if let Some(threads) = SCHEDULER.get() {
            threads.wake_key(key);
        }
    }

    fn report(self, report: Report) {
        REPORTS.fetch_add(1, Ordering::Relaxed);
        log::error!("{report}");
    }
}
