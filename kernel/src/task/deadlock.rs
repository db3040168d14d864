//! Deadlocks, found when they happen and named. Debug builds only.
//!
//! Every thread that blocks without a limit on somebody else notes for whom it waits ([`WaitsFor`]). One who is
//! about to block follows the notes from holder to holder; if they lead back, these threads wait for ever.
//!
//! The notes are read one after the other, while threads run. A note on the way may be gone when the next is read,
//! so that the circle never existed at any one time. Therefore the way is walked again, once for each note on it:
//! the last note leads to the thread that looks, which gives nothing away meanwhile, so from the first walk on
//! that note stays; from the second on the one before stays, because its holder is known to be stuck; and so on.
//! And no deadlock is missed: each thread writes its note before it reads the others', so the last one to write
//! sees the whole circle.

use super::id::ThreadId;
use super::lock::SpinLock;
use super::platform::Platform;
use super::scheduler::Scheduler;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The longest circle that is looked for.
const LONGEST: usize = 16;

/// What a thread waits for somebody to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// To let go of the mutex of this name.
    Mutex(&'static str),
    /// To end.
    Join,
}

/// The note of one thread.
pub(super) struct WaitsFor<P> {
    /// The other's [`ThreadId::to_bits`], or 0.
    other: AtomicU64,
    reason: SpinLock<Reason, P>,
}

impl<P: Platform> WaitsFor<P> {
    pub(super) const fn new(platform: P) -> Self {
        Self { other: AtomicU64::new(0), reason: SpinLock::new(platform, Reason::Join) }
    }

    /// Notes that the thread waits for `other`.
    pub(super) fn set(&self, other: ThreadId, reason: Reason) {
        if cfg!(debug_assertions) {
            *self.reason.lock() = reason;
            self.other.store(other.to_bits(), Ordering::SeqCst);
        }
    }

    /// What it waits for, if anything, has gone from one thread to `other`.
    pub(super) fn renew(&self, other: ThreadId) {
        if cfg!(debug_assertions) && self.other.load(Ordering::SeqCst) != 0 {
            self.other.store(other.to_bits(), Ordering::SeqCst);
        }
    }

    /// It does not wait any more.
    pub(super) fn clear(&self) {
        if cfg!(debug_assertions) {
            self.other.store(0, Ordering::SeqCst);
        }
    }

    fn get(&self) -> Option<(ThreadId, Reason)> {
        let other = ThreadId::from_bits(self.other.load(Ordering::SeqCst))?;
        Some((other, *self.reason.lock()))
    }
}

/// Threads each of which waits for the next, and the last for the first.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Circle {
    members: [Option<(ThreadId, Reason)>; LONGEST],
    len: usize,
}

impl<P: Platform> Scheduler<P> {
    /// Stops if the running thread, whose note is written, closes a circle.
    ///
    /// # Panics
    ///
    /// Then, with the names of the threads and of what they hold and want.
    pub(super) fn check_deadlock(&self) {
        if cfg!(debug_assertions)
            && let Some(circle) = self.circle_of(self.current())
            && (0..circle.len).all(|_| self.circle_of(self.current()) == Some(circle))
        {
            self.report_deadlock(&circle);
        }
    }

    fn circle_of(&self, me: ThreadId) -> Option<Circle> {
        let mut circle = Circle { members: [None; LONGEST], len: 0 };
        let mut at = me;
        for slot in &mut circle.members {
            let thread = self.table.get(at.index());
            let (other, reason) = thread.waits_for.get()?;
            if thread.id() != at {
                return None;
            }
            *slot = Some((at, reason));
            circle.len += 1;
            if other == me {
                return Some(circle);
            }
            at = other;
        }
        None
    }

    #[expect(clippy::panic, reason = "these threads will never go on, whatever anybody does")]
    fn report_deadlock(&self, circle: &Circle) -> ! {
        panic!("deadlock: {}", Story { scheduler: self, circle });
    }

    /// Who `id` is, for a message.
    pub(super) fn describe(&self, id: ThreadId) -> impl fmt::Display {
        fmt::from_fn(move |f| match self.name(id) {
            Some(name) => write!(f, "{id} {name:?}"),
            None => write!(f, "{id}, which has ended"),
        })
    }
}

/// A circle, told.
struct Story<'s, P: Platform> {
    scheduler: &'s Scheduler<P>,
    circle: &'s Circle,
}

impl<P: Platform> fmt::Display for Story<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = &self.circle.members[..self.circle.len];
        let others = members.iter().cycle().skip(1);
        for (number, (member, other)) in members.iter().zip(others).enumerate() {
            let (Some((id, reason)), Some((other, _))) = (member, other) else { continue };
            let joint = if number == 0 { "" } else { "; " };
            let (id, other) = (self.scheduler.describe(*id), self.scheduler.describe(*other));
            match reason {
                Reason::Mutex(name) => write!(f, "{joint}{id} waits for mutex {name:?}, held by {other}")?,
                Reason::Join => write!(f, "{joint}{id} waits for the end of {other}")?,
            }
        }
        Ok(())
    }
}
