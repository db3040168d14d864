//! Simulated contexts: threads of the host that run when they have the baton.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Locks, whatever happened to others that held the lock: a failing test must still be able to say how it failed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The permission to run, for one context.
#[derive(Debug, Default)]
pub(super) struct Baton {
    here: Mutex<bool>,
    came: Condvar,
}

impl Baton {
    /// Lets the context run.
    pub(super) fn pass(&self) {
        *lock(&self.here) = true;
        self.came.notify_one();
    }

    /// Waits until the context may run.
    pub(super) fn await_it(&self) {
        let mut here = lock(&self.here);
        while !*here {
            here = self.came.wait(here).unwrap_or_else(PoisonError::into_inner);
        }
        *here = false;
    }
}

/// A stack, which is only counted: the host has the real one.
#[derive(Debug)]
pub struct SimStack {
    pub(super) number: usize,
}

/// A context of the simulated machine.
#[derive(Debug, Default)]
pub struct SimContext {
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) phase: Phase,
    pub(super) baton: Arc<Baton>,
    pub(super) stack: Option<SimStack>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Empty,
    /// Will run this thread.
    Prepared(u32),
    Running,
    Suspended,
    Finished,
}

impl SimContext {
    /// Goes from one phase to another, and says what was wrong if it was in neither of `from`.
    pub(super) fn change(&self, from: &[Phase], to: Phase) -> Arc<Baton> {
        let mut inner = lock(&self.inner);
        assert!(from.contains(&inner.phase), "a context that is {:?} cannot become {to:?}", inner.phase);
        inner.phase = to;
        Arc::clone(&inner.baton)
    }
}

impl Phase {
    /// The thread that a prepared context will run; for others, none that exists.
    pub(super) const fn thread(self) -> u32 {
        match self {
            Self::Prepared(thread) => thread,
            _ => u32::MAX,
        }
    }
}
