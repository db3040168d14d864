//! A function for another CPU to run: one place per CPU, taken, filled, run, and given back.
//!
//! ```text
//!           post              post            serve              serve
//!   Free ─────────▶ Claimed ─────────▶ Posted ──────▶ Running ──────────▶ Done ──┐
//!    ▲                                   │               │                       │ finish
//!    ├───────────── finish, too late ◀───┘               │ finish, too late      │
//!    ├────────────────── serve ◀───────── Abandoned ◀────┘                       │
//!    └───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A caller that has waited long enough withdraws what has not begun; what has begun is left to itself. So the
//! answer says whether the function has run, will not run, or is still at it.
//!
//! What it is made of comes from `primitive.rs`, so that a model checker can run this file: `tests/loom` does.

use super::primitive::{AtomicU32, Ordering, SpinMutex};
use core::fmt;

/// A function and its argument.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// What to run.
    pub function: fn(usize),
    /// With what.
    pub argument: usize,
}

/// Why a function was not run to its end on another CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// That CPU is not up.
    Offline,
    /// It did not begin in time, and will not.
    NotBegun,
    /// It began and did not end in time. It may still end.
    NotEnded,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => "the CPU is not up",
            Self::NotBegun => "the CPU did not begin in time",
            Self::NotEnded => "the CPU did not end in time",
        })
    }
}

impl core::error::Error for CallError {}

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const POSTED: u32 = 2;
const RUNNING: u32 = 3;
const DONE: u32 = 4;
const ABANDONED: u32 = 5;

/// The place.
#[derive(Debug)]
pub struct Mailbox {
    state: AtomicU32,
    /// Written by who has claimed, read by who runs: the state keeps the two apart, so the lock is never contended.
    job: SpinMutex<Option<Job>>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Mailbox {
    /// An empty place.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: AtomicU32::new(FREE), job: SpinMutex::new(None) }
    }

    /// Acquires even where it fails: who gives up finds out that way that the function has ended after all.
    fn change(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Puts `job` in, as soon as the place is free. The caller tells the owner, then calls [`Posted::finish`].
    ///
    /// # Errors
    ///
    /// [`CallError::NotBegun`] if the place is taken by others until `wait` answers false.
    pub fn post(&self, job: Job, wait: &mut dyn FnMut() -> bool) -> Result<Posted<'_>, CallError> {
        while !self.change(FREE, CLAIMED) {
            if !wait() {
                return Err(CallError::NotBegun);
            }
        }
        *self.job.lock() = Some(job);
        self.state.store(POSTED, Ordering::Release);
        Ok(Posted(self))
    }

    /// Whether a function waits.
    #[must_use]
    pub fn is_posted(&self) -> bool {
        self.state.load(Ordering::Acquire) == POSTED
    }

    /// Runs the function that waits, and answers whether there was one. For the owner, not from inside such a
    /// function.
    pub fn serve(&self) -> bool {
        if !self.change(POSTED, RUNNING) {
            return false;
        }
        let job = self.job.lock().take();
        if let Some(Job { function, argument }) = job {
            function(argument);
        }
        if !self.change(RUNNING, DONE) {
            // Abandoned: nobody looks any more.
            self.state.store(FREE, Ordering::Release);
        }
        true
    }
}

/// A function that was put in, and whose end is to be waited for. Dropped without that, it is given up.
#[derive(Debug)]
#[must_use = "dropped at once, the function may never run"]
pub struct Posted<'m>(&'m Mailbox);

impl Posted<'_> {
    /// Waits for the end of the function. What it has written is visible then.
    ///
    /// # Errors
    ///
    /// [`CallError::NotBegun`] or [`CallError::NotEnded`] when `wait` answers false.
    pub fn finish(self, wait: &mut dyn FnMut() -> bool) -> Result<(), CallError> {
        let mailbox = self.0;
        core::mem::forget(self);
        while mailbox.state.load(Ordering::Acquire) != DONE {
            if !wait() {
                return give_up(mailbox);
            }
        }
        mailbox.state.store(FREE, Ordering::Release);
        Ok(())
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        // Whatever became of it, nobody wants to know.
        let _ = give_up(self.0);
    }
}

/// Withdraws the function, or leaves it to itself; `Ok` if it has ended after all.
fn give_up(mailbox: &Mailbox) -> Result<(), CallError> {
    if mailbox.change(POSTED, FREE) {
        return Err(CallError::NotBegun);
    }
    if mailbox.change(RUNNING, ABANDONED) {
        return Err(CallError::NotEnded);
    }
    // It can only be done now.
    mailbox.state.store(FREE, Ordering::Release);
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicUsize;

    /// Rounds of waiting, `n` of them.
    fn rounds(mut n: u32) -> impl FnMut() -> bool {
        move || {
            std::thread::yield_now();
            n = n.saturating_sub(1);
            n > 0
        }
    }

    #[test]
    fn a_function_runs_once_and_its_writes_are_seen() {
        static SUM: AtomicUsize = AtomicUsize::new(0);
        let mailbox = Mailbox::new();
        let job = Job { function: |n| _ = SUM.fetch_add(n, Ordering::Relaxed), argument: 7 };
        let posted = mailbox.post(job, &mut rounds(1)).unwrap();
        assert!(mailbox.is_posted());
        assert!(mailbox.serve());
        assert!(!mailbox.serve(), "once");
        assert_eq!(posted.finish(&mut rounds(1)), Ok(()));
        assert_eq!(SUM.load(Ordering::Relaxed), 7);
        assert!(mailbox.post(job, &mut rounds(1)).is_ok(), "free again");
    }

    #[test]
    fn what_has_not_begun_is_withdrawn() {
        static RAN: AtomicUsize = AtomicUsize::new(0);
        let mailbox = Mailbox::new();
        let job = Job { function: |_| _ = RAN.fetch_add(1, Ordering::Relaxed), argument: 0 };
        let posted = mailbox.post(job, &mut rounds(1)).unwrap();
        assert_eq!(posted.finish(&mut rounds(3)), Err(CallError::NotBegun));
        assert!(!mailbox.serve());
        drop(mailbox.post(job, &mut rounds(1)).unwrap());
        assert!(!mailbox.serve(), "dropped");
        assert_eq!(RAN.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_has_begun_is_left_to_itself() {
        static GO_ON: AtomicUsize = AtomicUsize::new(0);
        static MAILBOX: Mailbox = Mailbox::new();
        let job = Job {
            function: |_| {
                while GO_ON.load(Ordering::Acquire) == 0 {
                    std::thread::yield_now();
                }
            },
            argument: 0,
        };
        let posted = MAILBOX.post(job, &mut rounds(1)).unwrap();
        let owner = std::thread::spawn(|| MAILBOX.serve());
        while MAILBOX.is_posted() {
            std::thread::yield_now();
        }
        assert_eq!(posted.finish(&mut rounds(3)), Err(CallError::NotEnded));
        assert_eq!(MAILBOX.post(job, &mut rounds(3)).map(drop), Err(CallError::NotBegun), "taken");
        GO_ON.store(1, Ordering::Release);
        assert!(owner.join().unwrap());
        assert!(MAILBOX.post(job, &mut rounds(1)).is_ok(), "free again");
    }

    #[test]
    fn many_callers_take_turns() {
        static SUM: AtomicUsize = AtomicUsize::new(0);
        const CALLERS: usize = 4;
        const CALLS: usize = 2000;
        let (mailbox, callers) = (Mailbox::new(), AtomicUsize::new(CALLERS));
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    for _ in 0..CALLS {
                        let job = Job { function: |n| _ = SUM.fetch_add(n, Ordering::Relaxed), argument: 3 };
                        let posted = mailbox.post(job, &mut rounds(u32::MAX)).unwrap();
                        posted.finish(&mut rounds(u32::MAX)).unwrap();
                    }
                    callers.fetch_sub(1, Ordering::Relaxed);
                });
            }
            while callers.load(Ordering::Relaxed) > 0 {
                if !mailbox.serve() {
                    std::thread::yield_now();
                }
            }
        });
        assert_eq!(SUM.load(Ordering::Relaxed), 3 * CALLERS * CALLS);
    }
}
