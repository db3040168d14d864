//! The capability of the owner: alive as [`Owner`], given up as [`Dying`].

use super::{Events, Kind, PercpuRef, Ref, Refs, Reusable};
use crate::misuse::Misuse;
use crate::platform::Platform;
use core::fmt;
use core::mem::forget;

/// The initial reference of a living count, and the right to give it up. There is one at a time.
///
/// Dropping it kills the count, without a confirmation; [`PercpuRef::dying`] gives the remains back.
#[must_use = "dropping the owner kills the count"]
pub struct Owner<'a, P: Platform, E: Events, K: Kind> {
    count: &'a PercpuRef<P, E, K>,
}

/// The right to see a count that was killed to its end, and back to life.
///
/// Dropping it gives it up; [`PercpuRef::dying`] hands it out again.
#[must_use = "says when the count is zero"]
pub struct Dying<'a, P: Platform, E: Events, K: Kind> {
    count: &'a PercpuRef<P, E, K>,
}

/// A request that was refused, and the capability it was made with, unchanged.
#[derive(Debug)]
pub struct Refused<T> {
    /// Why.
    pub why: Misuse,
    /// What the request had consumed.
    pub token: T,
}

impl<'a, P: Platform, E: Events, K: Kind> Owner<'a, P, E, K> {
    pub(super) fn new(count: &'a PercpuRef<P, E, K>) -> Self {
        Self { count }
    }

    /// A reference: the owner holds one, so there is nothing to check.
    #[inline]
    pub fn get(&self) -> Ref<'a, P, E, K> {
        self.count.get(1);
        Ref::new(self.count)
    }

    /// `n` references at once.
    #[inline]
    pub fn get_many(&self, n: u64) -> Refs<'a, P, E, K> {
        self.count.get(n);
        Refs::new(self.count, n)
    }

    /// The count.
    #[must_use]
    pub fn count(&self) -> &'a PercpuRef<P, E, K> {
        self.count
    }

    /// Gives up the initial reference: the object dies when the others are gone. Never blocks; any context. The
    /// release may run inside this call, if the count is atomic and no other reference exists.
    pub fn kill(self) -> Dying<'a, P, E, K> {
        self.give_up(false)
    }

    /// As [`kill`](Self::kill), and [`Events::confirmed`] is called once every CPU sees that the object is dying:
    /// after a grace period, or inside this call if the count is atomic.
    pub fn kill_and_confirm(self) -> Dying<'a, P, E, K> {
        self.give_up(true)
    }

    fn give_up(self, confirm: bool) -> Dying<'a, P, E, K> {
        let count = self.count;
        forget(self);
        // Before the kill: its release may look for the capability.
        let dying = Dying { count };
        count.kill(confirm);
        dying
    }
}

impl<P: Platform, E: Events, K: Kind> Drop for Owner<'_, P, E, K> {
    fn drop(&mut self) {
        drop(Dying { count: self.count });
        self.count.kill(false);
    }
}

impl<P: Platform, E: Events, K: Kind> Drop for Dying<'_, P, E, K> {
    fn drop(&mut self) {
        if let Some(block) = self.count.block() {
            block.lock().claimed = false;
        }
    }
}

impl<'a, P: Platform, E: Events, K: Kind> Dying<'a, P, E, K> {
    pub(super) fn new(count: &'a PercpuRef<P, E, K>) -> Self {
        Self { count }
    }

    /// The count.
    #[must_use]
    pub fn count(&self) -> &'a PercpuRef<P, E, K> {
        self.count
    }

    /// Whether the last reference is gone. The release may still be running; see [`wait_zero`](Self::wait_zero).
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.count.is_zero()
    }

    /// Waits until the last reference is gone and the release has returned. Blocks.
    ///
    /// # Errors
    ///
    /// [`Misuse::MayNotBlock`] where it would have to and must not, [`Misuse::Poisoned`] if it can never happen.
    pub fn wait_zero(&self) -> Result<(), Misuse> {
        let block = self.count.block().ok_or(Misuse::Exited)?;
        if block.lock().released {
            return Ok(());
        }
        block.rcu.check_may_block("wait_zero")?;
        block.rcu.drive_until(block.key(), &|| block.lock().released || block.is_poisoned());
        if block.lock().released { Ok(()) } else { Err(Misuse::Poisoned) }
    }
}

/// Changes of mode, and the ways back to life.
impl<'a, P: Platform, E: Events> Owner<'a, P, E, Reusable> {
    /// Counts atomically, through kill and reinit, until [`switch_to_percpu`](Self::switch_to_percpu).
    /// [`Events::switched`] is called when it does: after a grace period, or inside this call if it does already.
    /// Blocks if another switch is pending.
    ///
    /// # Errors
    ///
    /// [`Misuse::MayNotBlock`] if it would have to block and must not; nothing has changed then.
    pub fn switch_to_atomic(&self) -> Result<(), Misuse> {
        self.count.switch_to_atomic()
    }

    /// As [`switch_to_atomic`](Self::switch_to_atomic), and waits until it is done. Blocks.
    ///
    /// # Errors
    ///
    /// [`Misuse::MayNotBlock`]; if another switch was not pending, this one is under way.
    pub fn switch_to_atomic_sync(&self) -> Result<(), Misuse> {
        self.count.switch_to_atomic()?;
        self.count.wait_settled("switch_to_atomic_sync")
    }

    /// Counts per CPU again. Blocks if a switch is pending.
    ///
    /// # Errors
    ///
    /// [`Misuse::MayNotBlock`] if it would have to block and must not, [`Misuse::Poisoned`]; nothing has changed
    /// then.
    pub fn switch_to_percpu(&self) -> Result<(), Misuse> {
        self.count.switch_to_percpu()
    }
}

/// Changes of mode, and the ways back to life.
impl<'a, P: Platform, E: Events> Dying<'a, P, E, Reusable> {
    /// Makes the next life atomic. See [`Owner::switch_to_atomic`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn switch_to_atomic(&self) -> Result<(), Misuse> {
        self.count.switch_to_atomic()
    }

    /// Makes the next life per-CPU. See [`Owner::switch_to_percpu`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn switch_to_percpu(&self) -> Result<(), Misuse> {
        self.count.switch_to_percpu()
    }

    /// A new life with one reference, from zero. Does not block.
    ///
    /// # Errors
    ///
    /// With the capability back and nothing changed: [`Misuse::NotZero`], [`Misuse::Pending`] (a kill whose grace
    /// period is not over), [`Misuse::Releasing`], [`Misuse::Poisoned`].
    pub fn reinit(self) -> Result<Owner<'a, P, E, Reusable>, Refused<Self>> {
        let outcome = self.count.reinit();
        self.lives(outcome)
    }

    /// Back to life, with the references that are still out. Blocks if a switch is pending or a release is running.
    ///
    /// Whoever frees the object in `release` must not let that run meanwhile.
    ///
    /// # Errors
    ///
    /// With the capability back and nothing changed: [`Misuse::MayNotBlock`], [`Misuse::Poisoned`].
    pub fn resurrect(self) -> Result<Owner<'a, P, E, Reusable>, Refused<Self>> {
        let outcome = self.count.resurrect();
        self.lives(outcome)
    }

    fn lives(self, outcome: Result<(), Misuse>) -> Result<Owner<'a, P, E, Reusable>, Refused<Self>> {
        match outcome {
            Ok(()) => {
                let count = self.count;
                forget(self);
                Ok(Owner { count })
            }
            Err(why) => Err(Refused { why, token: self }),
        }
    }
}

impl<P: Platform, E: Events, K: Kind> fmt::Debug for Owner<'_, P, E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(self.count).finish()
    }
}

impl<P: Platform, E: Events, K: Kind> fmt::Debug for Dying<'_, P, E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dying").field(self.count).finish()
    }
}
