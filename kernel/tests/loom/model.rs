//! Exploring a model, with a mistake or without.

use crate::explore::{Explored, explore};
use core::sync::atomic::Ordering;
use std::cell::Cell;

/// A mistake, made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// None: the real thing.
    None,
    /// A magazine's gate is opened without a release.
    RelaxedLeave,
    /// It is entered without an acquire.
    RelaxedEnter,
    /// It is looked at and then closed, in two steps.
    SplitEnter,
    /// A gate for one CPU is parked, or given back to those who find it parked, without a release.
    RelaxedPark,
    /// A parked gate is entered without an acquire.
    RelaxedWake,
    /// A gate for one CPU is not looked at again after it was closed.
    OneLook,
    /// Who has left a magazine does not look whether anything is asked of him.
    DeafLeave,
    /// It is said that frames were given without a release.
    RelaxedHeed,
    /// What is asked is read, and written back without the frames that were given.
    SplitHeed,
    /// Another CPU enters a gate for one CPU that is not parked.
    DrainedAwake,
    /// It is a gate for one CPU, and two enter.
    OneCpuGate,
    /// A port is added without a release.
    RelaxedInsert,
    /// A word of the set is read, and written back with the port added.
    SplitInsert,
    /// A port is removed without an acquire.
    RelaxedTake,
    /// A word of the set, or of the pending bits, is read, and written back without the port.
    SplitTake,
    /// A slot is looked at and then held, in two steps.
    SplitHold,
    /// It is held without an acquire.
    RelaxedHold,
    /// It is let go without a release.
    RelaxedLetGo,
    /// Who goes through all slots may see what one was before somebody held it.
    StaleLook,
    /// Who ends the use of a swap type does not say so before he looks at its slots.
    UnsaidEnd,
    /// Who drains does not say so.
    UnsaidDrain,
    /// Who waits for a slot says so once, and not again after somebody else was faster.
    OneNote,
    /// A port is unmasked, and nobody looks whether an event came before.
    DeafUnmask,
    /// The selector is read, and then cleared.
    SplitSwap,
    /// A function is put into the mailbox, or its place given back, without a release.
    RelaxedPost,
    /// It is taken, or said to be done, without acquiring or releasing.
    RelaxedChange,
    /// Who gives up finds that it is done, and does not acquire that.
    RelaxedGivingUp,
    /// The mailbox's state is looked at, and then changed.
    SplitChange,
}

thread_local! {
    // All threads of one loom execution run on one real thread, and every test has a real thread of its own.
    static CHOSEN: Cell<Mistake> = const { Cell::new(Mistake::None) };
}

/// Whether this mistake is to be made.
pub(crate) fn made(mistake: Mistake) -> bool {
    CHOSEN.get() == mistake
}

/// The ordering that is asked for, unless the mistake is to be made.
pub(crate) fn weakened(order: Ordering, by: Mistake) -> Ordering {
    if made(by) { Ordering::Relaxed } else { order }
}

/// A model: what happens, and how far it is explored.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// The most preemptions in one execution, or `None` for all executions.
    pub(crate) preemptions: Option<usize>,
    pub(crate) run: fn(),
}

impl Model {
    fn explore(self, mistake: Mistake) -> Explored {
        CHOSEN.set(mistake);
        let explored = explore(self.name, self.preemptions, self.run);
        CHOSEN.set(Mistake::None);
        explored
    }

    /// It holds.
    pub(crate) fn holds(self) {
        self.explore(Mistake::None).holds();
    }

    /// It does not with this mistake, and loom finds that.
    pub(crate) fn catches(self, mistake: Mistake) {
        self.explore(mistake).catches(mistake);
    }
}

/// A test per line: that the model holds, or that it catches a mistake.
macro_rules! tests {
    ($($test:ident: $model:ident $(catches $mistake:ident)?;)+) => {$(
        #[test]
        fn $test() {
            tests!(@ $model $($mistake)?);
        }
    )+};
    (@ $model:ident) => { $model.holds() };
    (@ $model:ident $mistake:ident) => { $model.catches(crate::model::Mistake::$mistake) };
}
pub(crate) use tests;
