//! A reference count whose get and put are one unlocked add to a word of the own CPU.
//!
//! While the object is alive nobody needs to know whether the count is zero: the owner holds a reference. So gets
//! and puts go to per-CPU words, and only the sum of all words means anything. When the owner gives its reference
//! up ([`Owner::kill`]), the count changes to one shared atomic word: the tag ATOMIC is set, a grace period makes
//! sure that nobody is still between looking at the tag and adding, the sum of the words is folded into the shared
//! count, and from then on the put that reaches zero is noticed, and releases the object.
//!
//! Until the fold, the shared count carries a *bias* of 2^63, so that puts which already go there cannot reach
//! zero while the words still owe something.
//!
//! The rules are in the types:
//!
//! | type | is | may |
//! |---|---|---|
//! | [`PercpuRef`] | the count, embedded in the object | be tried: `tryget`, `tryget_live` |
//! | [`Owner`] | the initial reference of a living count; there is one | get, kill (which consumes it) |
//! | [`Dying`] | what kill leaves | wait for zero; if [`Reusable`], reinit and resurrect |
//! | [`Ref`], [`Refs`] | one reference, or several | be cloned; put themselves back |
//!
//! [`OneShot`] counts give their per-CPU words back after kill and know no way back; [`Reusable`] ones keep them,
//! can change mode while alive, and can begin a new life.
//!
//! What differs from the original (Linux, `lib/percpu-refcount.c`), always on the strict side: kill never blocks,
//! and a second one cannot be written down; `release` and the other callbacks run without any lock, so they may
//! drop the count itself; a release happens at most once per life, even after an underflow; refused operations
//! change nothing; a count that went wrong is reported by name and poisoned, which leaks the object rather than
//! freeing it early; leaving with a switch pending leaves the rest of the work to the switch.
//!
//! Not promised: that a grace period passes between kill and release. Who finds objects by RCU frees their memory
//! by [`Rcu::call`](crate::rcu::Rcu::call) in `release`.

mod block;
mod fast;
mod guard;
mod owner;
mod switch;

pub use guard::{Ref, Refs};
pub use owner::{Dying, Owner, Refused};

use crate::misuse::Misuse;
use crate::platform::{Platform, TAGS};
use crate::primitive::{AtomicUsize, Ordering};
use crate::rcu::{Rcu, ReadGuard};
use crate::report::Report;
use block::{Block, BlockPtr};
use core::fmt;
use core::marker::PhantomData;

/// The tag of the word: references are counted in the shared count.
const ATOMIC: usize = 0b01;
/// The tag of the word: the owner has given up its reference.
const DEAD: usize = 0b10;

/// The most references of one object. Beyond it the count is poisoned and reported.
pub const MAX_REFERENCES: u64 = 1 << 62;

/// The most references that go to or from a per-CPU word at once. A word cannot tell that the sum of all words goes
/// round, and by ones, or by thousands, it does not in a lifetime; what is more goes to the shared count, which can.
const AT_ONCE: u64 = 1 << 10;

/// What a count tells its object. Called without locks, with preemption off: none of these may block.
pub trait Events: Send + Sync + 'static {
    /// The last reference is gone. Exactly once per life.
    ///
    /// Everything that anybody did to the object under a reference happens before this. May drop the object, the
    /// count in it included.
    fn release(&self);

    /// After [`Owner::kill_and_confirm`]: every CPU sees that the object is dying, so no `tryget_live` that begins
    /// from now on succeeds. Exactly once, and before the release.
    fn confirmed(&self) {}

    /// After a `switch_to_atomic`: the count is atomic now.
    fn switched(&self) {}
}

impl<F: Fn() + Send + Sync + 'static> Events for F {
    fn release(&self) {
        self();
    }
}

mod sealed {
    pub trait Sealed {}
}

/// [`OneShot`] or [`Reusable`].
pub trait Kind: sealed::Sealed + Send + Sync + 'static {
    /// Whether the per-CPU words are kept for a way back.
    const REUSABLE: bool;
}

/// A count with one life: per-CPU until it is killed, and gone at zero.
#[derive(Debug)]
pub enum OneShot {}

/// A count that can change mode while alive, and live again.
#[derive(Debug)]
pub enum Reusable {}

impl sealed::Sealed for OneShot {}
impl sealed::Sealed for Reusable {}
impl Kind for OneShot {
    const REUSABLE: bool = false;
}
impl Kind for Reusable {
    const REUSABLE: bool = true;
}

/// How a [`Reusable`] count begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Alive, counting per CPU.
    #[default]
    Percpu,
    /// Alive, counting atomically until [`Owner::switch_to_percpu`], through kill and reinit.
    Atomic,
    /// Dead, at zero; per-CPU after `reinit`.
    Dead,
    /// Dead, at zero; atomic after `reinit`, as [`Start::Atomic`].
    DeadAtomic,
}

/// What [`PercpuRef::inspect`] saw. Exact only while nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// References are counted in the shared count.
    pub atomic: bool,
    /// The owner has given up its reference.
    pub dying: bool,
    /// A switch to atomic mode waits for its grace period.
    pub switching: bool,
    /// The count stays atomic through kill and reinit.
    pub sticky_atomic: bool,
    /// The count has gone wrong, and was reported.
    pub poisoned: bool,
    /// References, of owner, switch and all others.
    pub references: i64,
    /// The number of the per-CPU word, if the count has one.
    pub word: Option<usize>,
}

/// A reference count: 16 bytes, of which the fast path touches 8; the rest is in a block of its own.
///
/// `E` says what happens at zero. Dropping the count is the exit: it frees everything, or leaves that to a switch
/// or release that is still running.
///
/// ```
/// # use percpu::{host::Machine, CpuId, PercpuRef};
/// # use std::sync::{Arc, atomic::{AtomicBool, Ordering::SeqCst}};
/// let machine = Machine::new(2);
/// let _cpu = machine.enter(CpuId::BOOT);
///
/// let gone = Arc::new(AtomicBool::new(false));
/// let release = { let gone = gone.clone(); move || gone.store(true, SeqCst) };
/// let count = PercpuRef::one_shot(machine.rcu(), "example", release)?;
/// let owner = count.owner()?;
///
/// let user = owner.get();              // one add to a word of this CPU
/// let dying = owner.kill();            // consumed: it cannot be killed again
/// machine.rcu().barrier()?;            // the switch to atomic mode waits for a grace period
/// assert!(count.tryget_live().is_none());
/// assert!(!gone.load(SeqCst), "`user` keeps it");
/// drop(user);
/// assert!(gone.load(SeqCst) && dying.is_zero());
/// # Ok::<(), percpu::Misuse>(())
/// ```
///
/// The owner is consumed by the kill, and only reusable counts have a way back:
///
/// ```compile_fail,E0382
/// # use percpu::{host::Host, Owner, OneShot, Events};
/// fn twice<E: Events>(owner: Owner<'_, Host, E, OneShot>) {
///     owner.kill();
///     owner.kill();
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use percpu::{host::Host, Owner, OneShot, Events};
/// fn switch<E: Events>(owner: &Owner<'_, Host, E, OneShot>) {
///     let _ = owner.switch_to_atomic();
/// }
/// ```
#[repr(C)]
pub struct PercpuRef<P: Platform, E: Events, K: Kind = OneShot> {
    /// The offset of the per-CPU word, and the tags [`ATOMIC`] and [`DEAD`]. After the exit: both tags, and above
    /// them 0 if the count was zero, else 1.
    word: AtomicUsize,
    /// The rest; `None` after the exit.
    block: Option<BlockPtr<P, E>>,
    platform: P,
    kind: PhantomData<K>,
}

impl<P: Platform, E: Events> PercpuRef<P, E, OneShot> {
    /// A living count with one reference, which [`owner`](Self::owner) hands out. `name` is for reports.
    ///
    /// # Errors
    ///
    /// [`Misuse::NoMemory`] if there is no per-CPU word or no block; nothing is kept then, and `events` is dropped.
    pub fn one_shot(rcu: &'static Rcu<P>, name: &'static str, events: E) -> Result<Self, Misuse> {
        Self::make(rcu, name, events, Start::Percpu)
    }
}

impl<P: Platform, E: Events> PercpuRef<P, E, Reusable> {
    /// A count with one reference, or a dead one with none. `name` is for reports.
    ///
    /// # Errors
    ///
    /// [`Misuse::NoMemory`] if there is no per-CPU word or no block; nothing is kept then, and `events` is dropped.
    pub fn reusable(
        rcu: &'static Rcu<P>,
        name: &'static str,
        events: E,
        start: Start,
    ) -> Result<Self, Misuse> {
        Self::make(rcu, name, events, start)
    }
}

impl<P: Platform, E: Events, K: Kind> PercpuRef<P, E, K> {
    fn make(rcu: &'static Rcu<P>, name: &'static str, events: E, start: Start) -> Result<Self, Misuse> {
        let (block, word) = Block::allocate(rcu, name, events, start, K::REUSABLE)?;
        Ok(Self {
            word: AtomicUsize::new(word),
            block: Some(block),
            platform: rcu.platform(),
            kind: PhantomData,
        })
    }

    fn block(&self) -> Option<&Block<P, E>> {
        self.block.as_ref().map(BlockPtr::get)
    }

    /// The capability of the owner, which is the initial reference of this life.
    ///
    /// # Errors
    ///
    /// [`Misuse::Claimed`] if it is out, [`Misuse::Dying`] if the count is not alive (use [`dying`](Self::dying)),
    /// [`Misuse::Exited`].
    pub fn owner(&self) -> Result<Owner<'_, P, E, K>, Misuse> {
        let mut state = self.block().ok_or(Misuse::Exited)?.lock();
        if self.is_dying() {
            return Err(Misuse::Dying);
        }
        if core::mem::replace(&mut state.claimed, true) {
            return Err(Misuse::Claimed);
        }
        Ok(Owner::new(self))
    }

    /// The capability of the owner of a count that is dying or dead: made dead, or dropped by its last holder.
    ///
    /// # Errors
    ///
    /// [`Misuse::Claimed`] if it is out, [`Misuse::NotDying`] if the count is alive (use [`owner`](Self::owner)),
    /// [`Misuse::Exited`].
    pub fn dying(&self) -> Result<Dying<'_, P, E, K>, Misuse> {
        let mut state = self.block().ok_or(Misuse::Exited)?.lock();
        if !self.is_dying() {
            return Err(Misuse::NotDying);
        }
        if core::mem::replace(&mut state.claimed, true) {
            return Err(Misuse::Claimed);
        }
        Ok(Dying::new(self))
    }

    /// Takes `n` references that the caller knows to be allowed.
    #[inline]
    fn get(&self, n: u64) {
        if !self.get_fast(n) {
            self.get_slow(n);
        }
    }

    #[cold]
    fn get_slow(&self, n: u64) {
        match self.block {
            Some(block) => block.take(n),
            None => self.platform.report(Report::UseAfterExit),
        }
    }

    #[inline]
    fn try_get(&self, n: u64) -> bool {
        self.get_fast(n) || self.try_get_slow(n)
    }

    #[cold]
    fn try_get_slow(&self, n: u64) -> bool {
        self.block.is_some_and(|block| block.try_take(n))
    }

    /// A reference, unless the count has reached zero. Also of a dying object. Any context.
    ///
    /// While the count is per CPU this is one add. The order with accesses to the object is the caller's business,
    /// as for any shared object; the references themselves only say that it is there.
    #[inline]
    #[must_use]
    pub fn tryget(&self) -> Option<Ref<'_, P, E, K>> {
        self.try_get(1).then(|| Ref::new(self))
    }

    /// `n` references at once, unless the count has reached zero.
    #[inline]
    #[must_use]
    pub fn tryget_many(&self, n: u64) -> Option<Refs<'_, P, E, K>> {
        self.try_get(n).then(|| Refs::new(self, n))
    }

    /// A reference, unless the object is seen to be dying. Any context.
    ///
    /// After [`Owner::kill`] it may go on succeeding on other CPUs for up to a grace period; once
    /// [`Events::confirmed`] has been called, no call that begins later succeeds.
    #[inline]
    #[must_use]
    pub fn tryget_live(&self) -> Option<Ref<'_, P, E, K>> {
        let got = self.get_fast(1) || self.try_get_live_slow();
        got.then(|| Ref::new(self))
    }

    /// [`tryget_live`](Self::tryget_live) by someone who is in a read section already, and proves it. It costs the
    /// same here; the proof is for lookups, where the object is valid only inside the section.
    ///
    /// ```compile_fail,E0061
    /// # use percpu::{host::Host, PercpuRef, Events};
    /// fn outside<E: Events>(count: &PercpuRef<Host, E>) {
    ///     let _ = count.tryget_live_rcu(); // no guard, no call
    /// }
    /// ```
    #[inline]
    #[must_use]
    pub fn tryget_live_rcu(&self, _section: &ReadGuard<'_, P>) -> Option<Ref<'_, P, E, K>> {
        self.tryget_live()
    }

    #[cold]
    fn try_get_live_slow(&self) -> bool {
        // Acquire: pairs with the release of `reinit`, so that the state of the new life is seen.
        self.word.load(Ordering::Acquire) & DEAD == 0 && self.try_get_slow(1)
    }

    /// Whether the count has reached zero: never while it is per CPU. After the exit: whether it had. Any context.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self.block() {
            // Acquire: the caller will reuse or free what the references protected. The bias is not zero.
            Some(block) => block.is_zero(),
            None => self.word.load(Ordering::Acquire) & !TAGS == 0,
        }
    }

    /// Whether the owner has given up its reference. Also true after the exit. A hint, unless the caller
    /// synchronises otherwise.
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.word.load(Ordering::Relaxed) & DEAD != 0
    }

    /// The state, for people and tests; `None` after the exit.
    #[must_use]
    pub fn inspect(&self) -> Option<Inspection> {
        let block = self.block()?;
        let state = block.lock();
        let word = self.word.load(Ordering::Relaxed);
        Some(Inspection {
            atomic: word & ATOMIC != 0,
            dying: word & DEAD != 0,
            switching: state.switching,
            sticky_atomic: state.sticky_atomic,
            poisoned: block.is_poisoned(),
            references: block.references(state.biased),
            word: state.word.as_ref().map(crate::WordIndex::get),
        })
    }

    /// Frees everything early: what a drop does, but refused while something is outstanding. Doing it twice is
    /// harmless.
    ///
    /// A living count of which only the owner's reference exists is freed without a release.
    ///
    /// # Errors
    ///
    /// [`Misuse::Pending`] or [`Misuse::Releasing`] while a switch or a release is running, [`Misuse::NotZero`] if
    /// references are outstanding (leaked guards, or raw ones), [`Misuse::Poisoned`].
    pub fn exit(&mut self) -> Result<(), Misuse> {
        self.leave(false)
    }

    fn leave(&mut self, anyhow: bool) -> Result<(), Misuse> {
        let Some(block) = &self.block else { return Ok(()) };
        let word = self.word.load(Ordering::Relaxed);
        let zero = block.get().is_zero();
        block.leave(word & DEAD != 0, anyhow)?;
        self.block = None;
        self.word = AtomicUsize::new(ATOMIC | DEAD | usize::from(!zero) << TAGS.count_ones());
        Ok(())
    }
}

impl<P: Platform, E: Events, K: Kind> Drop for PercpuRef<P, E, K> {
    fn drop(&mut self) {
        let left = self.leave(true);
        debug_assert!(left.is_ok(), "a drop leaves anyway");
    }
}

impl<P: Platform, E: Events, K: Kind> fmt::Debug for PercpuRef<P, E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PercpuRef").field(&self.inspect()).finish()
    }
}
