//! Exploring a model, with a mistake or without.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A model: what happens, and how far it is explored.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// The most preemptions in one execution, or `None` for all executions.
    pub(crate) preemptions: Option<usize>,
    pub(crate) run: fn(),
}

impl Model {
    /// Explores it; how many executions, and whether all held.
    fn explore(self, mistake: Mistake) -> (usize, bool) {
        let executions: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.max_branches = 20_000;
        CHOSEN.set(mistake);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            builder.check(move || {
                executions.fetch_add(1, Ordering::Relaxed);
                (self.run)();
            });
        }));
        CHOSEN.set(Mistake::None);
        (executions.load(Ordering::Relaxed), outcome.is_ok())
    }

    /// The model holds in every execution within the bound.
    pub(crate) fn holds(self) {
        let (executions, held) = self.explore(Mistake::None);
        let bound = self.preemptions.map_or("any number of".into(), |bound| format!("at most {bound}"));
        println!("loom: {}: {executions} executions, {bound} preemptions", self.name);
        assert!(held, "{} fails after {executions} executions", self.name);
        assert!(executions > 1, "{}: nothing was explored", self.name);
    }

    /// With this mistake, loom finds an execution that fails.
    pub(crate) fn catches(self, mistake: Mistake) {
        let (executions, held) = self.explore(mistake);
        println!("loom: {}: {mistake:?} found in execution {executions}", self.name);
        assert!(!held, "{}: {mistake:?} was not noticed in {executions} executions", self.name);
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
