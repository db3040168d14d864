//! The callbacks that wait for a grace period: caller-given nodes in per-CPU queues.
//!
//! A node is tagged, when it is queued, with the number of the first grace period that starts afterwards; it is due
//! when that period has ended. Tags only grow along a queue, so what is due is a prefix. Each CPU has two queues,
//! hurried and lazy, each first in, first out; a lazy node does not ask for a grace period but rides on the next
//! that somebody wants, so a hurried one never waits for lazy ones to be run.
#![expect(unsafe_code, reason = "intrusive lists")]

use crate::primitive::{PlainBool, PlainOrdering, RawCell};
use core::fmt;
use core::ptr::NonNull;

/// What runs when the grace period is over.
///
/// Called once with the head that was queued, on a thread with preemption off: it must not block, and may queue
/// further callbacks, this head included. The head is its owner's again as soon as the call begins.
pub type CallbackFn = unsafe fn(NonNull<Head>);

/// A place in a callback queue, to embed in what the callback is about.
pub struct Head {
    links: RawCell<Links>,
    /// Whether it is in a queue: only to catch a second call.
    queued: PlainBool,
}

struct Links {
    next: Option<NonNull<Head>>,
    due: u64,
    queued_ns: u64,
    function: Option<CallbackFn>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").field("queued", &self.is_queued()).finish_non_exhaustive()
    }
}

// SAFETY: the links are touched only by whoever owns the head (its holder before it is queued, the queue until it
// runs); ownership moves through a lock.
unsafe impl Send for Head {}
// SAFETY: as above; a shared reference gives access to the flag only.
unsafe impl Sync for Head {}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    crate::const_fn! {
        /// A head in no queue.
        #[must_use]
        pub fn new() -> Self {
            Self {
                links: RawCell::new(Links { next: None, due: 0, queued_ns: 0, function: None }),
                queued: PlainBool::new(false),
            }
        }
    }

    /// Whether it waits for its callback.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.queued.load(PlainOrdering::Relaxed)
    }

    /// Marks it as queued; false if it was already.
    pub(super) fn claim(&self) -> bool {
        !self.queued.swap(true, PlainOrdering::Relaxed)
    }
}

/// A first-in, first-out list of queued heads, with how many have ever come and gone.
#[derive(Debug)]
pub(super) struct Fifo {
    first: Option<NonNull<Head>>,
    last: Option<NonNull<Head>>,
    /// Heads ever queued.
    pub(super) queued: u64,
    /// Heads whose callback has returned.
    pub(super) finished: u64,
    /// Heads in the list.
    pub(super) waiting: usize,
}

// SAFETY: the heads are owned by the list while they are in it, and `Head` may be used from any thread.
unsafe impl Send for Fifo {}

impl Fifo {
    pub(super) const fn new() -> Self {
        Self { first: None, last: None, queued: 0, finished: 0, waiting: 0 }
    }

    /// Appends a head that is due after grace period `due`.
    ///
    /// # Safety
    ///
    /// `head` is valid and nobody else touches it until its callback has begun; it is in no list.
    pub(super) unsafe fn push(
        &mut self,
        head: NonNull<Head>,
        due: u64,
        queued_ns: u64,
        function: CallbackFn,
    ) {
        // SAFETY: valid until its callback, by our contract.
        let node = unsafe { head.as_ref() };
        {
            let mut access = node.links.access();
            // SAFETY: in no list, so nobody else touches the links.
            *unsafe { access.get_mut() } = Links { next: None, due, queued_ns, function: Some(function) };
        }
        match self.last.replace(head) {
            None => self.first = Some(head),
            Some(last) => {
                // SAFETY: heads in the list stay valid, by the contract of the call that pushed them.
                let mut access = unsafe { last.as_ref() }.links.access();
                // SAFETY: the list owns the links of its heads, and is borrowed exclusively.
                unsafe { access.get_mut() }.next = Some(head);
            }
        }
        self.queued += 1;
        self.waiting += 1;
    }

    /// The grace period after which the first head is due, and when that head was queued.
    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.peek(self.first)
    }

    /// The grace period after which all heads are due.
    pub(super) fn last_due(&self) -> Option<u64> {
        self.peek(self.last).map(|(due, _)| due)
    }

    #[expect(clippy::unused_self, reason = "the borrow keeps the heads in the list")]
    fn peek(&self, head: Option<NonNull<Head>>) -> Option<(u64, u64)> {
        // SAFETY: heads in the list stay valid, by the contract of the call that pushed them.
        let access = unsafe { head?.as_ref() }.links.access();
        // SAFETY: the list owns the links of its heads, and is borrowed; the borrow ends with this function.
        let links = unsafe { access.get() };
        Some((links.due, links.queued_ns))
    }

    /// Takes the first head if grace period `done` made it due.
    pub(super) fn pop_due(&mut self, done: u64) -> Option<Due> {
        let head = self.first?;
        // SAFETY: heads in the list stay valid, by the contract of the call that pushed them.
        let node = unsafe { head.as_ref() };
        let function = {
            let mut access = node.links.access();
            // SAFETY: the list owns the links of its heads, and is borrowed exclusively.
            let links = unsafe { access.get_mut() };
            if links.due > done {
                return None;
            }
            self.first = links.next.take();
            links.function.take()?
        };
        if self.first.is_none() {
            self.last = None;
        }
        self.waiting -= 1;
        node.queued.store(false, PlainOrdering::Relaxed);
        Some(Due { head, function })
    }
}

/// A head that is out of its queue and about to run.
#[derive(Debug)]
pub(super) struct Due {
    head: NonNull<Head>,
    function: CallbackFn,
}

impl Due {
    /// Runs the callback.
    pub(super) fn run(self) {
        // SAFETY: the head was queued with this function, its grace period is over, and it runs once: `self` is
        // consumed and came out of the queue.
        unsafe { (self.function)(self.head) };
    }
}
