//! What the tests of whole runs share: an allocator that counts and refuses, and an environment that looks at it
//! whenever a phase begins.
#![expect(unsafe_code, reason = "the trait of allocators is unsafe to implement")]

use allocator_api2::alloc::{AllocError, Allocator, Global};
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use workload::random::Rng;
use workload::virtual_time::Clock;
use workload::{Environment, Phase};

/// How memory is refused.
pub(crate) enum Refuse {
    /// Beyond so many bytes.
    Beyond(usize),
    /// The allocation of this number, from 0.
    Nth(u64),
    /// So many in 1000, by chance.
    Often(u64),
}

/// An allocator's books.
pub(crate) struct Books {
    /// Bytes held now.
    pub(crate) held: Cell<usize>,
    /// The most that was held.
    pub(crate) peak: Cell<usize>,
    /// Allocations asked for.
    pub(crate) asked: Cell<u64>,
    /// Allocations refused.
    pub(crate) refused: Cell<u64>,
    /// What is refused.
    pub(crate) refuse: Cell<Refuse>,
    chance: RefCell<Rng>,
}

/// The global allocator, counted.
#[derive(Clone)]
pub(crate) struct Meter(pub(crate) Rc<Books>);

impl Meter {
    /// Refusing as told.
    pub(crate) fn new(refuse: Refuse) -> Self {
        Self(Rc::new(Books {
            held: Cell::new(0),
            peak: Cell::new(0),
            asked: Cell::new(0),
            refused: Cell::new(0),
            refuse: Cell::new(refuse),
            chance: RefCell::new(Rng::new(4)),
        }))
    }

    /// Never refusing.
    pub(crate) fn generous() -> Self {
        Self::new(Refuse::Beyond(usize::MAX))
    }

    fn refuses(&self, layout: Layout) -> bool {
        let number = self.0.asked.replace(self.0.asked.get() + 1);
        let refuse = self.0.refuse.replace(Refuse::Beyond(usize::MAX));
        let refuses = match &refuse {
            Refuse::Beyond(bytes) => self.0.held.get().saturating_add(layout.size()) > *bytes,
            Refuse::Nth(nth) => number == *nth,
            Refuse::Often(often) => self.0.chance.borrow_mut().below(1000) < *often,
        };
        self.0.refuse.set(refuse);
        refuses
    }
}

// SAFETY: every block comes from `Global` and goes back to it with the layout it came with; clones share nothing
// but the books, and `Global` takes back what any copy of it gave.
unsafe impl Allocator for Meter {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if self.refuses(layout) {
            self.0.refused.set(self.0.refused.get() + 1);
            return Err(AllocError);
        }
        let held = self.0.held.get() + layout.size();
        self.0.held.set(held);
        self.0.peak.set(self.0.peak.get().max(held));
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        self.0.held.set(self.0.held.get() - layout.size());
        // SAFETY: the caller passes a block of this allocator, which is one of `Global`, and its layout.
        unsafe { Global.deallocate(block, layout) }
    }
}

/// A virtual clock that writes down what is held when a phase begins.
pub(crate) struct Watched {
    /// The clock.
    pub(crate) clock: Clock,
    /// Phases, with what was held at their beginning.
    pub(crate) held: Vec<(Phase, usize)>,
    /// Told at every batch: the time.
    pub(crate) at_batch: Box<dyn FnMut(u64)>,
    meter: Meter,
}

impl Watched {
    /// Watching `meter`, with operations of `operation_ns`.
    pub(crate) fn new(meter: &Meter, operation_ns: u64) -> Self {
        Self {
            clock: Clock::new(operation_ns),
            held: Vec::new(),
            at_batch: Box::new(|_| ()),
            meter: meter.clone(),
        }
    }
}

impl Environment for Watched {
    fn now_ns(&mut self) -> u64 {
        self.clock.now_ns()
    }

    fn sleep_until_ns(&mut self, deadline_ns: u64) {
        self.clock.sleep_until_ns(deadline_ns);
    }

    fn should_stop(&mut self) -> bool {
        self.clock.should_stop()
    }

    fn batch_done(&mut self, operations: u64) {
        self.clock.batch_done(operations);
        (self.at_batch)(self.clock.time_ns());
    }

    fn phase_begins(&mut self, phase: Phase) {
        self.clock.phase_begins(phase);
        self.held.push((phase, self.meter.0.held.get()));
    }
}
