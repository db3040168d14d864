//! Changes of mode and life: kill, the switch to atomic mode and its fold, and the ways back.
//!
//! All are made under the lock of the block. A switch to atomic mode is pending from the moment the tag is set
//! until the fold is done; while it is, the switch holds a reference of its own (a kill gives it the owner's), so
//! the count cannot reach zero before every per-CPU word has been added.
#![expect(unsafe_code, reason = "the callback of a switch gets its block as a raw head")]

use super::block::{After, Block, BlockPtr, Put, State, bias, put};
use super::{ATOMIC, DEAD, Events, Kind, MAX_REFERENCES, PercpuRef};
use crate::misuse::Misuse;
use crate::mutation::{Mutation, made, ordering};
use crate::platform::{CpuId, CpuPin, Platform};
use crate::primitive::Ordering;
use crate::rcu::Head;
use crate::report::Report;
use core::ptr::NonNull;

impl<P: Platform, E: Events, K: Kind> PercpuRef<P, E, K> {
    /// Gives up the owner's reference. Never blocks.
    pub(super) fn kill(&self, confirm: bool) {
        let Some(block) = self.block else { return self.platform.report(Report::UseAfterExit) };
        let inner = block.get();
        let mut state = inner.lock();
        if state.switching {
            // The fold that is to come makes every CPU see the tag, and confirms.
            self.word.fetch_or(DEAD, Ordering::Release);
            state.confirm |= confirm;
            drop(state);
            block.give_back(1);
        } else if self.word.load(Ordering::Relaxed) & ATOMIC == 0 {
            if made(Mutation::TestAtomicOnly) {
                self.word.fetch_or(DEAD, Ordering::Release);
            }
            // The switch takes over the owner's reference: nothing to count.
            self.word.fetch_or(ATOMIC | DEAD, Ordering::Release);
            state.switching = true;
            state.confirm = confirm;
            drop(state);
            // SAFETY: `switching` keeps the block until `fold`, and makes this the only use of the head.
            unsafe { inner.rcu.call_hurry(block.head(), fold::<P, E>) };
        } else {
            self.word.fetch_or(DEAD, Ordering::Release);
            drop(state);
            if confirm {
                let _pin = CpuPin::new(self.platform);
                inner.events.confirmed();
            }
            block.give_back(1);
        }
    }

    /// Takes the lock once no switch is pending, which blocks if one is.
    fn settled<R>(
        &self,
        what: &'static str,
        then: impl FnOnce(&BlockPtr<P, E>, &mut State) -> R,
    ) -> Result<R, Misuse> {
        let block = self.block.as_ref().ok_or(Misuse::Exited)?;
        loop {
            let mut state = block.get().lock();
            if !state.switching {
                return Ok(then(block, &mut state));
            }
            drop(state);
            block.get().rcu.check_may_block(what)?;
            block.get().rcu.drive_until(block.get().key(), &|| !block.get().lock().switching);
        }
    }

    /// Counts atomically from now on, through kill and reinit. [`Events::switched`] is called when it does.
    pub(super) fn switch_to_atomic(&self) -> Result<(), Misuse> {
        let begun = self.settled("switch_to_atomic", |block, state| {
            state.sticky_atomic = true;
            if self.word.load(Ordering::Relaxed) & ATOMIC != 0 {
                return None;
            }
            // The reference of the switch.
            block.get().count.fetch_add(1, Ordering::Relaxed);
            self.word.fetch_or(ATOMIC, Ordering::Release);
            state.switching = true;
            state.announce = true;
            Some(block.head())
        })?;
        let Some(block) = self.block() else { return Err(Misuse::Exited) };
        if let Some(head) = begun {
            // SAFETY: `switching` keeps the block until `fold`, and makes this the only use of the head.
            unsafe { block.rcu.call_hurry(head, fold::<P, E>) };
        } else {
            let _pin = CpuPin::new(self.platform);
            block.events.switched();
        }
        Ok(())
    }

    /// Waits until no switch is pending.
    pub(super) fn wait_settled(&self, what: &'static str) -> Result<(), Misuse> {
        self.settled(what, |_, _| ())
    }

    /// Counts per CPU again; a dead count does when it lives again.
    pub(super) fn switch_to_percpu(&self) -> Result<(), Misuse> {
        self.settled("switch_to_percpu", |block, state| {
            if block.get().is_poisoned() {
                return Err(Misuse::Poisoned);
            }
            state.sticky_atomic = false;
            if self.word.load(Ordering::Relaxed) & (ATOMIC | DEAD) == ATOMIC {
                self.open_words(block.get(), state);
            }
            Ok(())
        })?
    }

    /// From atomic to per-CPU mode, and alive. The caller holds a reference and the lock; no switch is pending.
    fn open_words(&self, block: &Block<P, E>, state: &mut State) {
        block.count.fetch_add(bias(), Ordering::Relaxed);
        state.biased = true;
        let open = self.word.load(Ordering::Relaxed) & !(ATOMIC | DEAD);
        if made(Mutation::ClearBeforeZero) {
            self.word.store(open, Ordering::Release);
        }
        for cpu in CpuId::first(self.platform.cpu_count()) {
            // Nobody adds to them: the tag is set, and the grace period of the last switch is over.
            self.platform.word(cpu, block.number).store(0, Ordering::Relaxed);
        }
        // Release: who sees no tag sees the zeroed words.
        self.word.store(open, ordering(Ordering::Release, Mutation::RelaxedClear));
    }

    /// A new life, from zero only.
    pub(super) fn reinit(&self) -> Result<(), Misuse> {
        self.live_again("reinit", true)
    }

    /// Back to life, with whatever references there are.
    pub(super) fn resurrect(&self) -> Result<(), Misuse> {
        loop {
            match self.live_again("resurrect", false) {
                Err(Misuse::Releasing) => {
                    let block = self.block().ok_or(Misuse::Exited)?;
                    block.rcu.check_may_block("resurrect")?;
                    self.wait_released();
                }
                result => return result,
            }
        }
    }

    /// Blocks until the release of this life has returned.
    pub(super) fn wait_released(&self) {
        if let Some(block) = self.block() {
            block.rcu.drive_until(block.key(), &|| block.lock().released);
        }
    }

    fn live_again(&self, what: &'static str, from_zero: bool) -> Result<(), Misuse> {
        if from_zero {
            // Not worth waiting for a pending switch: whoever is in one is not at zero.
            let state = self.block().ok_or(Misuse::Exited)?.lock();
            if state.switching {
                return Err(Misuse::Pending);
            }
        }
        self.settled(what, |block, state| {
            let block = block.get();
            let mut count = block.count.load(Ordering::Acquire);
            loop {
                if block.is_poisoned() {
                    return Err(Misuse::Poisoned);
                }
                if count == 0 && !state.released {
                    return Err(Misuse::Releasing);
                }
                if count != 0 && from_zero {
                    return Err(Misuse::NotZero);
                }
                // The owner's reference. A put may be on its way to zero: then the exchange fails.
                match block.count.compare_exchange(count, count + 1, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(now) => count = now,
                }
            }
            state.released = false;
            if state.sticky_atomic {
                // Release: who sees the object alive sees its new state.
                self.word.fetch_and(!DEAD, Ordering::Release);
            } else {
                self.open_words(block, state);
            }
            Ok(())
        })?
    }
}

/// The callback of a switch: the grace period is over, nobody adds to the per-CPU words any more.
///
/// # Safety
///
/// `head` is the head of a block with `switching` set, queued once for this switch.
unsafe fn fold<P: Platform, E: Events>(head: NonNull<Head>) {
    // SAFETY: our contract; the block is not used after the last unlock below but at zero, or as an orphan.
    let pointer = unsafe { BlockPtr::<P, E>::of_switch(head) };
    let block = pointer.get();
    let (rcu, key, name) = (block.rcu, block.key(), block.name);
    let folded = add_words(block);
    if let After::Wrong(report) = folded {
        rcu.platform().report(report);
    }
    let (last, orphan) = loop {
        let mut state = block.lock();
        state.biased = false;
        if made(Mutation::PendingClearedEarly) {
            state.switching = false;
        }
        let confirm = core::mem::take(&mut state.confirm);
        let announce = core::mem::take(&mut state.announce);
        if !confirm && !announce {
            if !block.reusable
                && let Some(word) = state.word.take()
            {
                rcu.platform().free_word(word);
            }
            // The reference of the switch goes together with the switch: a waiter that sees neither may free.
            let last = put(&block.count, 1);
            if last == Put::TooMany {
                // Said below, without the lock.
                let _ = block.poison(Report::Underflow { name });
            }
            state.switching = false;
            break (last, state.is_orphan());
        }
        drop(state);
        if announce {
            block.events.switched();
        }
        if confirm {
            block.events.confirmed();
        }
    };
    rcu.platform().wake_all(key);
    match last {
        Put::Fine => {}
        // Nobody frees the block before: the release of this life is still to come.
        Put::Zero => pointer.release(),
        Put::TooMany => rcu.platform().report(Report::Underflow { name }),
    }
    if orphan && last != Put::Zero {
        // SAFETY: read under the lock that ended the switch; at zero it is the release that frees.
        unsafe { pointer.free() };
    }
}

/// Adds the per-CPU words to the shared count and takes off the bias, in one step: a concurrent put sees the count
/// either huge or true, never in between.
fn add_words<P: Platform, E: Events>(block: &Block<P, E>) -> After {
    if block.is_poisoned() {
        // Said already. It stays as far from zero as it is.
        return After::Nothing;
    }
    let sum = block.sum();
    let owed = sum.wrapping_sub(bias());
    if made(Mutation::UnbiasFirst) {
        block.count.fetch_sub(bias(), Ordering::AcqRel);
        let platform = block.rcu.platform();
        for cpu in CpuId::first(platform.cpu_count()) {
            let word = platform.word(cpu, block.number).load(Ordering::Relaxed);
            block.count.fetch_add(word, Ordering::AcqRel);
        }
        return After::Nothing;
    }
    let count = block.count.fetch_add(owed, Ordering::AcqRel).wrapping_add(owed);
    // The switch holds one, so the true count is at least 1.
    if count.cast_signed() <= 0 {
        block.poison(Report::FoldUnderflow { name: block.name, count: count.cast_signed() })
    } else if count > MAX_REFERENCES {
        block.poison(Report::Overflow { name: block.name })
    } else {
        After::Nothing
    }
}
