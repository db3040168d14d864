//! The part of a reference count that the fast path does not touch: the shared count, its zones, and its end.
//!
//! A block is owned by the [`PercpuRef`](super::PercpuRef) it belongs to. When that is dropped while a switch or a
//! release is running, the block becomes an orphan, and the switch or release frees it.
#![expect(unsafe_code, reason = "a block outlives its count if a switch or release is running")]

use super::{AT_ONCE, ATOMIC, DEAD, Events, MAX_REFERENCES, Start};
use crate::lock::{SpinGuard, SpinLock};
use crate::misuse::Misuse;
use crate::mutation::{Mutation, made, ordering};
use crate::platform::{CpuId, CpuPin, Platform, WordIndex};
use crate::primitive::{AtomicU64, Ordering, fence};
use crate::rcu::{Head, Rcu};
use crate::report::Report;
use alloc::alloc::{Layout, alloc};
use alloc::boxed::Box;
use core::ptr::NonNull;

/// What the shared count carries while the per-CPU words may owe something.
pub(super) const BIAS: u64 = 1 << 63;

/// What a count is set to when it has gone wrong: far from zero, from the bias and from the limit.
const POISON: u64 = MAX_REFERENCES + (1 << 60);
/// From here to the biased values the count is poisoned.
const POISON_END: u64 = BIAS - (1 << 61);

/// Whether a value of the shared count says that it has gone wrong.
const fn poisoned(count: u64) -> bool {
    count > MAX_REFERENCES && count < POISON_END
}

/// Whether `n` more than `count` are too many. Of a biased count the per-CPU words are not known, so that the limit is
/// one that it can pass without going round; the fold sees the rest.
const fn too_many(count: u64, n: u64) -> bool {
    n > MAX_REFERENCES
        || (count <= MAX_REFERENCES && count + n > MAX_REFERENCES)
        || count >= BIAS + MAX_REFERENCES
}

/// The bias, unless the mistake is to do without.
pub(super) fn bias() -> u64 {
    if made(Mutation::NoBias) { 0 } else { BIAS }
}

/// What the lock protects.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own life")]
pub(super) struct State {
    /// A switch to atomic mode has begun and not ended.
    pub(super) switching: bool,
    /// The shared count carries the bias.
    pub(super) biased: bool,
    /// Whoever ends the switch calls [`Events::confirmed`].
    pub(super) confirm: bool,
    /// Whoever ends the switch calls [`Events::switched`].
    pub(super) announce: bool,
    /// The count stays atomic through kill and reinit.
    pub(super) sticky_atomic: bool,
    /// Zero was reached in this life, and the release called.
    pub(super) releasing: bool,
    /// The release of this life has returned, or there was no life yet.
    pub(super) released: bool,
    /// The capability of the owner is out.
    pub(super) claimed: bool,
    /// The count is gone; whoever comes last frees the block.
    orphan: bool,
    /// The per-CPU word.
    pub(super) word: Option<WordIndex>,
}

/// See the module.
#[repr(C)]
pub(super) struct Block<P: Platform, E: Events> {
    /// First, so that a pointer to it is a pointer to the block.
    pub(super) head: Head,
    pub(super) count: AtomicU64,
    pub(super) state: SpinLock<State>,
    pub(super) rcu: &'static Rcu<P>,
    pub(super) events: E,
    pub(super) name: &'static str,
    /// The number of the per-CPU word, which stays when the word is given back.
    pub(super) number: usize,
    /// Whether the per-CPU word is kept after a kill.
    pub(super) reusable: bool,
}

/// A block, by pointer: a put may lead to its end, and to that of the count that held the pointer, so what puts
/// works on a copy of the pointer and borrows no more than it needs.
pub(super) struct BlockPtr<P: Platform, E: Events>(NonNull<Block<P, E>>);

impl<P: Platform, E: Events> Clone for BlockPtr<P, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform, E: Events> Copy for BlockPtr<P, E> {}

// SAFETY: the block is `Sync` (atomics, a lock, `E: Sync`) and may be freed by any thread (`E: Send`).
unsafe impl<P: Platform, E: Events> Send for BlockPtr<P, E> {}
// SAFETY: as above.
unsafe impl<P: Platform, E: Events> Sync for BlockPtr<P, E> {}

impl<P: Platform, E: Events> Block<P, E> {
    /// A block, and the tagged word that belongs to it.
    pub(super) fn allocate(
        rcu: &'static Rcu<P>,
        name: &'static str,
        events: E,
        start: Start,
        reusable: bool,
    ) -> Result<(BlockPtr<P, E>, usize), Misuse> {
        let platform = rcu.platform();
        let word = platform.alloc_word().ok_or(Misuse::NoMemory)?;
        // SAFETY: the layout is not empty: a block has fields.
        let Some(memory) = NonNull::new(unsafe { alloc(Layout::new::<Self>()) }) else {
            platform.free_word(word);
            return Err(Misuse::NoMemory);
        };
        for cpu in CpuId::first(platform.cpu_count()) {
            platform.word(cpu, word.get()).store(0, Ordering::Relaxed);
        }
        let (count, tags) = match start {
            Start::Percpu => (bias() + 1, 0),
            Start::Atomic => (1, ATOMIC),
            Start::Dead | Start::DeadAtomic => (0, ATOMIC | DEAD),
        };
        let tagged = word.offset() | tags;
        let block = Self {
            head: Head::new(),
            count: AtomicU64::new(count),
            rcu,
            events,
            name,
            number: word.get(),
            reusable,
            state: SpinLock::new(
                "percpu reference",
                State {
                    switching: false,
                    biased: tags == 0,
                    confirm: false,
                    announce: false,
                    sticky_atomic: matches!(start, Start::Atomic | Start::DeadAtomic),
                    releasing: false,
                    released: tags & DEAD != 0,
                    claimed: false,
                    orphan: false,
                    word: Some(word),
                },
            ),
        };
        let memory = memory.cast::<Self>();
        // SAFETY: fresh memory of this layout.
        unsafe { memory.write(block) };
        Ok((BlockPtr(memory), tagged))
    }

    pub(super) fn lock(&self) -> SpinGuard<'_, State, P> {
        self.state.lock(self.rcu.platform())
    }

    /// What those wait for who wait for this block. Only compared, so it may outlive the block.
    pub(super) fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    pub(super) fn is_zero(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn is_poisoned(&self) -> bool {
        poisoned(self.count.load(Ordering::Relaxed))
    }

    /// Makes sure that the count never reaches zero again.
    #[cold]
    pub(super) fn poison(&self, report: Report) -> After {
        self.count.store(POISON, Ordering::Relaxed);
        After::Wrong(report)
    }

    /// The sum of the per-CPU words.
    pub(super) fn sum(&self) -> u64 {
        let platform = self.rcu.platform();
        CpuId::first(platform.cpu_count())
            .map(|cpu| platform.word(cpu, self.number).load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// The true count; exact if nothing changes.
    pub(super) fn references(&self, biased: bool) -> i64 {
        let count = self.count.load(Ordering::Acquire);
        let owed = if biased { self.sum().wrapping_sub(bias()) } else { 0 };
        count.wrapping_add(owed).cast_signed()
    }

    /// Takes `n` references in the shared count.
    pub(super) fn get(&self, n: u64) -> After {
        if n == 0 {
            return After::Nothing;
        }
        // Relaxed: who takes a reference has one, or knows of one, as with any clone.
        let old = if n <= AT_ONCE {
            self.count.fetch_add(n, Ordering::Relaxed)
        } else {
            // Step by step: two of these could take the count round before either had looked.
            let more = |old| (!too_many(old, n)).then(|| old.wrapping_add(n));
            match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
                Ok(old) => old,
                Err(_) => return self.poison(Report::Overflow { name: self.name }),
            }
        };
        if old == 0 {
            return self.poison(Report::GetAfterZero { name: self.name });
        }
        if too_many(old, n) {
            return self.poison(Report::Overflow { name: self.name });
        }
        if poisoned(old) {
            self.count.store(POISON, Ordering::Relaxed);
        }
        After::Nothing
    }

    /// Takes `n` references in the shared count unless it is zero; whether it did.
    pub(super) fn try_get(&self, n: u64) -> (bool, After) {
        let mut old = self.count.load(Ordering::Relaxed);
        loop {
            if old == 0 {
                return (false, After::Nothing);
            }
            if poisoned(old) {
                // The object will never be released, so the reference is as good as any.
                return (true, After::Nothing);
            }
            if too_many(old, n) {
                return (true, self.poison(Report::Overflow { name: self.name }));
            }
            // Acquire on success: the caller may go on to read the object.
            match self.count.compare_exchange_weak(
                old,
                old.wrapping_add(n),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return (true, After::Nothing),
                Err(now) => old = now,
            }
        }
    }
}

/// Takes `n` off a shared count. Only the count is borrowed: unless it was the last reference, or one too many,
/// the block may be gone when this returns.
pub(super) fn put(count: &AtomicU64, n: u64) -> Put {
    if n == 0 {
        return Put::Fine;
    }
    if n > MAX_REFERENCES {
        return Put::TooMany;
    }
    // Release: what was done under the reference happens before the release of the object.
    let old = count.fetch_sub(n, ordering(Ordering::Release, Mutation::RelaxedPut));
    if old == n {
        if !made(Mutation::NoAcquireAtZero) {
            // Acquire what all the other puts released.
            fence(Ordering::Acquire);
        }
        return Put::Zero;
    }
    if old < n {
        return Put::TooMany;
    }
    if poisoned(old) {
        count.store(POISON, Ordering::Relaxed);
    }
    Put::Fine
}

/// What a put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Put {
    Fine,
    Zero,
    TooMany,
}

/// What remains to be done after a change of the shared count, without locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum After {
    Nothing,
    /// The count has gone wrong and is poisoned: say so.
    Wrong(Report),
}

impl<P: Platform, E: Events> BlockPtr<P, E> {
    /// The block, for the holder of the count.
    pub(super) fn get(&self) -> &Block<P, E> {
        // SAFETY: the value is held by a `PercpuRef` (or by the switch), and a block is freed only when that is gone.
        unsafe { self.0.as_ref() }
    }

    /// The shared count alone.
    fn count(&self) -> &AtomicU64 {
        // SAFETY: as for `get`; the borrow covers nothing but the atomic.
        unsafe { &(*self.0.as_ptr()).count }
    }

    /// The block of a switch that is pending.
    ///
    /// # Safety
    ///
    /// `head` is the head of a block whose `switching` is true, and the value is not used after that has become
    /// false and the lock been released, but by [`release`](Self::release) at zero.
    pub(super) unsafe fn of_switch(head: NonNull<Head>) -> Self {
        Self(head.cast())
    }

    /// The head, to queue for a switch.
    pub(super) fn head(self) -> NonNull<Head> {
        self.0.cast()
    }

    /// Takes `n` references.
    pub(super) fn take(self, n: u64) {
        self.settle(self.get().get(n));
    }

    /// Takes `n` references unless the count is zero; whether it did.
    pub(super) fn try_take(self, n: u64) -> bool {
        let (taken, after) = self.get().try_get(n);
        self.settle(after);
        taken
    }

    /// Gives `n` references back, and releases the object if they were the last.
    pub(super) fn give_back(self, n: u64) {
        match put(self.count(), n) {
            Put::Fine => {}
            Put::Zero => self.release(),
            Put::TooMany => self.settle(self.get().poison(Report::Underflow { name: self.get().name })),
        }
    }

    /// Does what remains after a change of the shared count. Without locks.
    pub(super) fn settle(self, after: After) {
        match after {
            After::Nothing => {}
            After::Wrong(report) => {
                let platform = self.get().rcu.platform();
                platform.report(report);
                // Who waits for zero waits in vain.
                platform.wake_all(self.get().key());
            }
        }
    }

    /// The count has reached zero: calls the release, once, and frees the block if it is an orphan by then.
    pub(super) fn release(self) {
        let block = self.get();
        let (rcu, key) = (block.rcu, block.key());
        let mut state = block.lock();
        if state.releasing || state.released {
            drop(state);
            block.rcu.platform().report(Report::SecondZero { name: block.name });
            return;
        }
        state.releasing = true;
        drop(state);
        // The block cannot go away now: `leave` sees that a release is running, and makes it an orphan.
        let pin = CpuPin::new(rcu.platform());
        block.events.release();
        drop(pin);
        let mut state = block.lock();
        state.releasing = false;
        state.released = true;
        let orphan = state.orphan;
        drop(state);
        // Not an orphan: from here on the owner may free the block at any time.
        if orphan {
            // SAFETY: the count is gone, no switch is pending (it holds a reference, and there is none), and this
            // release is over: nobody else knows the block.
            unsafe { self.free() };
        }
        rcu.platform().wake_all(key);
    }

    /// The count goes away. Frees the block, or makes it an orphan if something is running (only `anyhow`).
    pub(super) fn leave(self, dying: bool, anyhow: bool) -> Result<(), Misuse> {
        let block = self.get();
        let mut state = block.lock();
        let releasing = state.releasing || (dying && block.is_zero() && !state.released);
        if state.switching || releasing {
            if !anyhow {
                return Err(if state.switching { Misuse::Pending } else { Misuse::Releasing });
            }
            state.orphan = true;
            return Ok(());
        }
        if block.is_poisoned() && !anyhow {
            return Err(Misuse::Poisoned);
        }
        let own = i64::from(!dying);
        let outstanding = block.references(state.biased) != own;
        if outstanding && !anyhow {
            return Err(Misuse::NotZero);
        }
        drop(state);
        if outstanding && !block.is_poisoned() {
            block.rcu.platform().report(Report::DroppedWithReferences { name: block.name });
        }
        // SAFETY: neither switch nor release is running, and the count is being dropped, so its guards are gone.
        unsafe { self.free() };
        Ok(())
    }

    /// # Safety
    ///
    /// Nobody else uses the block, now or later.
    pub(super) unsafe fn free(self) {
        // SAFETY: allocated with this layout by the global allocator in `allocate`, and freed once.
        let block = unsafe { Box::from_raw(self.0.as_ptr()) };
        let word = block.lock().word.take();
        if let Some(word) = word {
            block.rcu.platform().free_word(word);
        }
    }
}

impl State {
    /// Whether the count is gone.
    pub(super) const fn is_orphan(&self) -> bool {
        self.orphan
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_get_takes_a_count_round() {
        for (count, n) in
            [(1, MAX_REFERENCES), (MAX_REFERENCES, 1), (BIAS + MAX_REFERENCES, 1), (7, u64::MAX)]
        {
            assert!(too_many(count, n));
        }
        for count in [0, 1, BIAS - (1 << 61), BIAS, BIAS + MAX_REFERENCES - 1] {
            let n = if count <= MAX_REFERENCES { MAX_REFERENCES - count } else { MAX_REFERENCES };
            assert!(!too_many(count, n) && count.checked_add(n).is_some());
        }
    }

    #[test]
    fn the_zones_of_the_count_do_not_meet() {
        for plain in [0, 1, MAX_REFERENCES] {
            assert!(!poisoned(plain));
        }
        // During a switch the words may owe, or be owed, up to 2^61 references.
        for biased in [BIAS, BIAS + 1, BIAS - (1 << 61), BIAS + (1 << 61)] {
            assert!(!poisoned(biased));
        }
        for steps in [0, 1, 1 << 59] {
            assert!(!too_many(POISON + steps, 1), "it is poisoned already");
            assert!(poisoned(POISON + steps) && poisoned(POISON - steps));
        }
    }
}
