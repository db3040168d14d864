//! Explores a model under loom, and says what came of it. The kernel's own models use this file, too.

use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What came of exploring a model.
pub(crate) struct Explored {
    name: &'static str,
    preemptions: Option<usize>,
    executions: usize,
    held: bool,
}

/// Runs a model in all executions with at most so many preemptions, or in all there are, until one fails.
pub(crate) fn explore(
    name: &'static str,
    preemptions: Option<usize>,
    run: impl Fn() + Send + Sync + 'static,
) -> Explored {
    panic_without_backtrace();
    let executions: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            executions.fetch_add(1, Ordering::Relaxed);
            run();
        });
    }));
    Explored { name, preemptions, executions: executions.load(Ordering::Relaxed), held: outcome.is_ok() }
}

/// Has a panic print its message only, whatever `RUST_BACKTRACE` says: the stacks of a model's threads are too small for
/// a backtrace, and who overflows one there holds the lock that the end of the process waits for.
fn panic_without_backtrace() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
}

impl Explored {
    /// The model held in every execution within the bound.
    pub(crate) fn holds(self) {
        let Self { name, executions, .. } = self;
        let bound = self.preemptions.map_or("any number of".into(), |bound| format!("at most {bound}"));
        println!("loom: {name}: {executions} executions, {bound} preemptions");
        assert!(self.held, "{name} fails after {executions} executions");
        assert!(executions > 1, "{name}: nothing was explored");
    }

    /// With this mistake in it, loom found an execution that fails.
    pub(crate) fn catches(self, mistake: impl Debug) {
        let Self { name, executions, .. } = self;
        println!("loom: {name}: {mistake:?} found in execution {executions}");
        assert!(!self.held, "{name}: {mistake:?} was not noticed in {executions} executions");
    }
}
