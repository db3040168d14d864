//! Known mistakes that the model checker must find.
//!
//! A checker that cannot fail proves nothing. Each value here is a mistake that somebody could make in this crate;
//! `tests/loom.rs` makes it and asserts that loom finds a violation. In a normal build [`made`] is constantly
//! false and nothing of this is left.

/// A mistake, made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(loom), expect(unreachable_pub, reason = "public under the model checker"))]
#[cfg_attr(not(loom), expect(dead_code, reason = "chosen by the model checker's tests only"))]
pub enum Mutation {
    /// None: the real thing.
    None,
    /// A reference count without the bias that keeps it from zero while per-CPU counts are owed.
    NoBias,
    /// The bias is taken off first, then the CPUs are added one by one.
    UnbiasFirst,
    /// The fold does not wait for a grace period.
    NoGracePeriod,
    /// A put that orders nothing.
    RelaxedPut,
    /// The put that reaches zero does not acquire what the other puts released.
    NoAcquireAtZero,
    /// DEAD and ATOMIC are set one after the other, and the fast path tests ATOMIC only.
    TestAtomicOnly,
    /// The return to per-CPU mode publishes the zeroed words with a relaxed store.
    RelaxedClear,
    /// The fast path loads the tagged word relaxed.
    RelaxedModeLoad,
    /// The return to per-CPU mode clears the tag before it zeroes the words.
    ClearBeforeZero,
    /// The switch is over for its waiters before the fold has given back its reference.
    PendingClearedEarly,
    /// A CPU reads the grace-period number relaxed when it reports a quiescent state.
    RelaxedQuiescentLoad,
    /// A CPU reports a quiescent state with a relaxed store.
    RelaxedQuiescentStore,
    /// The scan for the end of a grace period reads the reports relaxed.
    RelaxedScan,
    /// A CPU leaves idle without a full fence.
    NoIdleFence,
    /// A grace period starts without a full fence.
    NoStartFence,
    /// A callback joins the grace period that is already running.
    JoinRunning,
    /// A CPU that is idle is waited for.
    WaitForIdle,
    /// The counter folds a local count without the lock that `sum` takes.
    UnlockedFold,
    /// A bounded add reads the global count before it publishes its own.
    LimitWithoutFence,
    /// The bare lock is released relaxed.
    RelaxedUnlock,
    /// The bare lock is taken relaxed.
    RelaxedLock,
}

#[cfg(loom)]
extern crate std;

#[cfg(loom)]
std::thread_local! {
    // All threads of one loom execution run on one real thread, and every test has a real thread of its own.
    static CHOSEN: core::cell::Cell<Mutation> = const { core::cell::Cell::new(Mutation::None) };
}

/// Makes this mistake in everything that runs on this thread from now on.
#[cfg(loom)]
pub fn choose(mutation: Mutation) {
    CHOSEN.set(mutation);
}

/// Whether this mistake is to be made.
#[cfg(loom)]
pub(crate) fn made(mutation: Mutation) -> bool {
    CHOSEN.get() == mutation
}

/// Whether this mistake is to be made: never.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn made(_: Mutation) -> bool {
    false
}

/// The ordering that is right, unless the mistake is to be made.
#[inline(always)]
pub(crate) fn ordering(
    right: crate::primitive::Ordering,
    weakened_by: Mutation,
) -> crate::primitive::Ordering {
    if made(weakened_by) { crate::primitive::Ordering::Relaxed } else { right }
}
