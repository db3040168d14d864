//! The mailbox for functions: each is run once or not at all, its caller knows which, and nobody else has it meanwhile.

use crate::model::{Model, tests};
use loom::cell::UnsafeCell;
use loom::thread;
use source::{CallError, Job, Mailbox};
use std::sync::Arc;

#[allow(dead_code, unreachable_pub, reason = "the kernel's source; the models do not need all of it")]
#[path = "../../src/smp/mailbox.rs"]
mod source;

/// In the place of the kernel's `primitive.rs`.
mod primitive {
    pub(super) use crate::atomic::AtomicU32;
    pub(super) use core::sync::atomic::Ordering;
    use loom::cell::{MutPtr, UnsafeCell};

    /// In the place of a lock: reports two that are inside at once, because by the mailbox's state there is only one.
    pub(super) struct SpinMutex<T> {
        first: std::cell::Cell<Option<T>>,
        real: std::sync::OnceLock<UnsafeCell<T>>,
    }

    impl<T> core::fmt::Debug for SpinMutex<T> {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("SpinMutex")
        }
    }

    // SAFETY: loom reports an access that is not ordered behind the one before.
    unsafe impl<T: Send> Sync for SpinMutex<T> {}

    impl<T> SpinMutex<T> {
        pub(super) const fn new(value: T) -> Self {
            Self { first: std::cell::Cell::new(Some(value)), real: std::sync::OnceLock::new() }
        }

        pub(super) fn lock(&self) -> Guard<T> {
            let real = self.real.get_or_init(|| UnsafeCell::new(self.first.take().unwrap()));
            Guard(real.get_mut())
        }
    }

    pub(super) struct Guard<T>(MutPtr<T>);

    impl<T> core::ops::Deref for Guard<T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: loom watches that nobody else is inside while the pointer lives.
            unsafe { self.0.deref() }
        }
    }

    impl<T> core::ops::DerefMut for Guard<T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: as above.
            unsafe { self.0.deref() }
        }
    }
}

/// A mailbox, and how often each of two functions has run.
struct Place {
    mailbox: Mailbox,
    ran: [UnsafeCell<u32>; 2],
}

// SAFETY: what is counted belongs to the owner of the mailbox until its caller has been told; loom reports otherwise.
unsafe impl Sync for Place {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Place {}

impl Place {
    fn new() -> Arc<Self> {
        let place = Self { mailbox: Mailbox::new(), ran: [UnsafeCell::new(0), UnsafeCell::new(0)] };
        // Makes the state.
        assert!(!place.mailbox.is_posted());
        Arc::new(place)
    }

    /// How often the function of `caller` has run.
    fn ran(&self, caller: usize) -> u32 {
        // SAFETY: read by who knows that it has ended, or will not begin.
        self.ran[caller].with(|ran| unsafe { *ran })
    }

    /// Has the owner run the function of `caller`, and says what became of it. Waits as often as `patience` says.
    fn call(&self, caller: usize, patience: u32) -> Result<(), CallError> {
        let mut left = patience;
        let mut wait = || {
            thread::yield_now();
            left = left.saturating_sub(1);
            left > 0
        };
        // The function's argument is one word.
        let function = |ran: usize| {
            let ran = std::ptr::with_exposed_provenance::<UnsafeCell<u32>>(ran);
            // SAFETY: the place lives until both threads are joined.
            let ran = unsafe { &*ran };
            // SAFETY: the mailbox has one owner, who runs one function after the other; loom watches.
            ran.with_mut(|ran| unsafe { *ran += 1 });
        };
        let argument = std::ptr::from_ref(&self.ran[caller]).expose_provenance();
        self.mailbox.post(Job { function, argument }, &mut wait)?.finish(&mut wait)
    }

    /// Calls, and looks at what the answer promises. A function that may still be at work is not looked at.
    fn call_and_look(&self, caller: usize, patience: u32) -> Result<(), CallError> {
        let told = self.call(caller, patience);
        match told {
            Ok(()) => assert_eq!(self.ran(caller), 1, "it has run"),
            Err(CallError::NotBegun | CallError::Offline) => {
                assert_eq!(self.ran(caller), 0, "it will not run")
            }
            Err(CallError::NotEnded) => {}
        }
        told
    }
}

/// A caller who waits too short a time or long enough, and the owner.
fn caller_and_owner() {
    let place = Place::new();
    let owner = {
        let place = Arc::clone(&place);
        thread::spawn(move || u32::from(place.mailbox.serve()) + u32::from(place.mailbox.serve()))
    };
    let told = place.call_and_look(0, 2);
    let served = owner.join().unwrap();
    assert_eq!(place.ran(0), served, "run as often as it was served");
    assert_eq!(served > 0, told != Err(CallError::NotBegun), "{told:?}");
    // Whatever became of it, the place is free.
    let next = place.mailbox.post(Job { function: |_| {}, argument: 0 }, &mut || false);
    assert!(next.is_ok_and(|posted| place.mailbox.serve() && posted.finish(&mut || false) == Ok(())));
}

/// Two callers and the owner.
fn two_callers() {
    let place = Place::new();
    let others = [0, 1].map(|caller| {
        let place = Arc::clone(&place);
        thread::spawn(move || place.call_and_look(caller, 2))
    });
    let mut served = u32::from(place.mailbox.serve());
    let told = others.map(|other| other.join().unwrap());
    served += u32::from(place.mailbox.serve());
    let ran = [place.ran(0), place.ran(1)];
    assert_eq!(ran[0] + ran[1], served, "run as often as it was served");
    for (ran, told) in ran.into_iter().zip(told) {
        assert!(ran <= 1 && (ran == 1) == (told != Err(CallError::NotBegun)), "run {ran} times, {told:?}");
    }
}

const ONE: Model =
    Model { name: "mailbox: a caller and the owner", preemptions: None, run: caller_and_owner };
const TWO: Model =
    Model { name: "mailbox: two callers and the owner", preemptions: Some(3), run: two_callers };

tests! {
    a_function_runs_once_or_not_at_all: ONE;
    two_callers_do_not_meet: TWO;
    mutant_relaxed_post: ONE catches RelaxedPost;
    mutant_relaxed_change: ONE catches RelaxedChange;
    mutant_relaxed_giving_up: ONE catches RelaxedGivingUp;
    mutant_split_change: TWO catches SplitChange;
}
