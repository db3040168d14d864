//! The page-frame allocator: owns every frame that this guest may ever have, and the table that says what each is.
//!
//! It is a value over metadata that the caller supplies (see [`Layout`]), decides no policy, and never touches the
//! memory that it manages. Three layers, from the outside in:
//!
//! | file | what lives there | guarded by |
//! |---|---|---|
//! | `magazine.rs`, `cached.rs` | single frames for each CPU | a flag that is tried, never waited for |
//! | `buddy.rs` | lists of blocks: which block serves a request | the lock |
//! | `block.rs` | a buddy system inside one 2 MiB block | the lock |
//!
//! Beside them, `entry.rs` holds the frame table (one word for each frame), `token.rs` the [`Extent`] that a
//! holder holds, and `balloon.rs` the way out of the guest and back.
//!
//! **Invariants**, all of which [`FrameAllocator::validate`] re-derives: every frame is exactly one of absent,
//! reserved, free, cached in a magazine, allocated, ballooned; free neighbours are joined; pinned and movable
//! frames share a block only if, at some time, no block was whole; the entries of a block of which nothing is
//! handed out are zero, and are not written.
//!
//! **Context.** No method waits, except as below and for the lock, which is held for a bounded time: constant for
//! everything but [`allocate_run`](FrameAllocator::allocate_run),
//! [`release_reserved`](FrameAllocator::release_reserved),
//! [`emptiest_blocks`](FrameAllocator::emptiest_blocks) and [`validate`](FrameAllocator::validate). Callable from
//! interrupt handlers if the lock kind keeps interrupts off.
//! CPU numbers choose a magazine, unless the lock kind looks them up itself ([`LockKind::pinned`]). With a shared gate
//! they are hints, and a wrong one costs time, nothing else; with a gate for one CPU they must be true.
//! [`drain`](FrameAllocator::drain), [`validate`](FrameAllocator::validate) and an allocation that is about to fail may
//! wait for other CPUs, as far as the lock kind lets their caller wait.

mod balloon;
mod block;
mod buddy;
mod cached;
mod entry;
mod error;
mod init;
mod inspect;
mod lock;
mod magazine;
mod map;
mod primitive;
mod run;
mod stats;
mod token;
mod validate;

#[cfg(test)]
pub(crate) mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::units::{Frames, Gfn, Order, VcpuId};

pub use self::block::Block;
use self::buddy::Buddy;
use self::entry::Head;
pub use self::entry::{Class, Entry, Owner, Use};
pub use self::error::{AllocError, Misuse, Rejected, RejectedRun};
pub use self::init::{Config, Metadata};
pub use self::inspect::{FrameState, Held, SparseBlock};
pub use self::lock::{Exclusive, Gate, LocalGate, LocalLocks, LockKind, SharedGate, TicketLocks};
use self::magazine::Kind;
pub use self::magazine::Magazine;
pub use self::map::{Layout, MapError};
pub use self::stats::{Stats, Watermarks};
use self::token::Table;
pub use self::token::{Ballooned, Contents, Extent, Owned, Run, State};
pub use self::validate::Inconsistency;

/// What is asked of the allocator.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Request {
    usage: Use,
    order: Order,
    contents: Contents,
    owner: Owner,
    emergency: bool,
    cpu: VcpuId,
}

impl Request {
    /// One frame of any contents, for `usage`, through the magazine of `cpu`.
    #[inline]
    pub const fn new(usage: Use, cpu: VcpuId) -> Self {
        let (order, contents, owner) = (Order::FRAME, Contents::Unknown, Owner::NONE);
        Self { usage, order, contents, owner, emergency: false, cpu }
    }

    /// An extent of this order, at most [`Order::BLOCK`].
    #[inline]
    pub const fn order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// Preferably memory that is known to be zero. Whether it is, the extent says.
    #[inline]
    pub const fn prefer_zero(self) -> Self {
        Self { contents: Contents::Zero, ..self }
    }

    /// Leaves a tag in the frame table.
    #[inline]
    pub const fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// The CPU that it was made for.
    #[must_use]
    pub const fn cpu(&self) -> VcpuId {
        self.cpu
    }

    /// May use the reserve below the lowest watermark: for what frees memory, and for what must not fail.
    #[inline]
    pub const fn emergency(self) -> Self {
        Self { emergency: true, ..self }
    }
}

/// The allocator. Shared by reference; `L` is the kind of lock around the buddy system.
pub struct FrameAllocator<'m, L: LockKind = TicketLocks> {
    /// The frame of the first entry.
    base: Gfn,
    /// Tokens carry it, so that they find only their own allocator.
    id: u16,
    /// Both of them, as they are in tokens.
    table: Table,
    /// Most frames in one stack of a magazine.
    limit: usize,
    entries: &'m [Entry],
    magazines: &'m [Magazine<L::Gate>],
    buddy: L::Of<Buddy<'m>>,
    /// The buddy system's known-zero frames, at the end of the last change: a hint for the magazines.
    zero_hint: AtomicU64,
    misuses: AtomicU64,
}

impl<L: LockKind> core::fmt::Debug for FrameAllocator<'_, L> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FrameAllocator")
            .field("base", &self.base)
            .field("frames", &self.entries.len())
            .finish()
    }
}

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// Allocates. Constant time, unless memory is short.
    ///
    /// # Errors
    ///
    /// [`AllocError`], after the magazines were drained in vain.
    #[inline]
    pub fn alloc(&self, request: Request) -> Result<Extent, AllocError> {
        match self.alloc_fast(&request) {
            Some(extent) => Ok(extent),
            None => self.alloc_slow(request),
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(&self, request: Request) -> Result<Extent, AllocError> {
        let request = &request;
        if request.order > Order::BLOCK {
            return Err(AllocError::TooLarge(request.order));
        }
        if request.order == Order::FRAME
            && let Some(extent) = self.alloc_filling(request)
        {
            return Ok(extent);
        }
        let refused = match self.alloc_shared(request) {
            Ok(extent) => return Ok(extent),
            Err(refused) => refused,
        };
        let drained = self.drain(request.cpu) > Frames::ZERO;
        let again = if drained { self.alloc_shared(request) } else { Err(refused) };
        if again.is_err() {
            self.locked(|buddy| buddy.events.failures += 1);
        }
        again
    }

    /// Frees an extent. Constant time.
    ///
    /// `contents` is [`Contents::Zero`] if the caller knows that every byte is zero; a later request may then be
    /// told so.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with the token, if it belongs to another allocator.
    #[inline]
    pub fn free(&self, extent: Extent, contents: Contents, cpu: VcpuId) -> Result<(), Rejected> {
        if self.free_fast(&extent, contents, cpu).is_some() {
            extent.consume();
            return Ok(());
        }
        self.free_slow(extent, contents, cpu)
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&self, extent: Extent, contents: Contents, cpu: VcpuId) -> Result<(), Rejected> {
        let (index, usage, _) = match self.check(&extent) {
            Ok(found) => found,
            Err(misuse) => return Err(self.reject(misuse, extent)),
        };
        let order = extent.order();
        if order != Order::FRAME || !self.free_spilling(index, Kind::of(usage.class(), contents), cpu) {
            self.locked(|buddy| self.put(buddy, index, order, usage.class(), contents));
        }
        extent.consume();
        Ok(())
    }

    /// Splits an extent into its lower and its upper half.
    ///
    /// # Errors
    ///
    /// [`Rejected`] for a single frame, or a token of another allocator.
    pub fn split(&self, extent: Extent) -> Result<(Extent, Extent), Rejected> {
        let contents = extent.contents();
        self.split_as(extent, contents)
    }

    /// Changes what an extent is used for and who owns it.
    ///
    /// # Errors
    ///
    /// [`Misuse::Foreign`] for a token of another allocator.
    pub fn assign(&self, extent: &mut Extent, usage: Use, owner: Owner) -> Result<(), Misuse> {
        let (index, before, _) = self.check(extent).inspect_err(|misuse| self.complain(*misuse))?;
        let order = extent.order().get();
        let head = Head::Used { usage, order, detached: false, owner };
        if before.class() == usage.class() {
            self.entry(index).set(head);
        } else {
            self.locked(|buddy| {
                buddy.reclassify(index, usize::from(order), before.class(), usage.class());
                self.entry(index).set(head);
            });
        }
        Ok(())
    }

    /// Gives up the token of an extent that will be known by its number, as from a page-table entry.
    /// [`attach`](Self::attach) makes a token of it again.
    ///
    /// # Errors
    ///
    /// [`Rejected`] for a token of another allocator.
    pub fn detach(&self, extent: Extent) -> Result<Gfn, Rejected> {
        match self.check(&extent) {
            Err(misuse) => Err(self.reject(misuse, extent)),
            Ok((index, usage, owner)) => {
                let (first, order) = (extent.first(), extent.order().get());
                let head = |detached| Head::Used { usage, order, detached, owner };
                assert!(
                    self.entry(index).exchange(head(false), head(true)),
                    "an extent's token is not its only one"
                );
                extent.consume();
                Ok(first)
            }
        }
    }

    /// Makes a token of a detached extent. Of several callers with the same number, one wins.
    ///
    /// # Errors
    ///
    /// [`Misuse`] that names what is wrong with the number or the order. Nothing is changed.
    ///
    /// # Safety
    ///
    /// The extent is the caller's: it, or whoever it acts for, has [detached](Self::detach) it, and none of the uses
    /// that it was detached for goes on once there is a token again. Every table of the processor, every stack and
    /// every page of the heap is a detached extent, and this function cannot tell whose.
    ///
    /// ```compile_fail,E0133
    /// # use ebb::mm::frame::{FrameAllocator, TicketLocks};
    /// # use ebb::units::{Gfn, Order};
    /// fn a_frame_of_somebody(frames: &FrameAllocator<'_, TicketLocks>) {
    ///     let _ = frames.attach(Gfn::new(5), Order::FRAME);
    /// }
    /// ```
    #[expect(unsafe_code, reason = "declares whose an extent must be")]
    pub unsafe fn attach(&self, first: Gfn, order: Order) -> Result<Extent, Misuse> {
        self.try_attach(first, order).inspect_err(|misuse| self.complain(*misuse))
    }

    fn try_attach(&self, first: Gfn, order: Order) -> Result<Extent, Misuse> {
        let index = self.index(first).ok_or(Misuse::NotManaged(first))?;
        match self.entry(index).get() {
            Head::Used { usage, order: held, detached: true, owner } if held == order.get() => {
                let head = |detached| Head::Used { usage, order: held, detached, owner };
                if self.entry(index).exchange(head(true), head(false)) {
                    Ok(Extent::new(first, order, Contents::Unknown, self.id))
                } else {
                    Err(Misuse::HeldByToken(first))
                }
            }
            Head::Used { order: held, .. } if held != order.get() => {
                let held = Order::new(held).unwrap_or(Order::MAX);
                Err(Misuse::WrongOrder { frame: first, given: order, held })
            }
            Head::Used { .. } => Err(Misuse::HeldByToken(first)),
            Head::Hole | Head::Reserved => Err(Misuse::NotManaged(first)),
            Head::Cached(_) => Err(Misuse::NotAllocated(first)),
            Head::Ballooned { .. } => Err(Misuse::InBalloon(first)),
            Head::Nothing => Err(self.locked(|buddy| self.why_nothing(buddy, index))),
        }
    }

    /// The extent that a token stands for, if it is ours and the table agrees.
    fn check(&self, extent: &Extent) -> Result<(u32, Use, Owner), Misuse> {
        let first = extent.first();
        if extent.allocator() != self.id {
            return Err(Misuse::Foreign(first));
        }
        let index = self.index(first).ok_or(Misuse::NotManaged(first))?;
        match self.entry(index).get() {
            Head::Used { usage, order, detached: false, owner } if order == extent.order().get() => {
                Ok((index, usage, owner))
            }
            Head::Used { order, .. } if order != extent.order().get() => {
                let held = Order::new(order).unwrap_or(Order::MAX);
                Err(Misuse::WrongOrder { frame: first, given: extent.order(), held })
            }
            Head::Used { .. } => Err(Misuse::Detached(first)),
            _ => Err(Misuse::NotAllocated(first)),
        }
    }

    fn alloc_shared(&self, request: &Request) -> Result<Extent, AllocError> {
        let order = request.order;
        self.locked(|buddy| {
            let free = Frames::new(buddy.totals.free);
            let spare = Frames::new(spare(buddy, request.emergency));
            let taken = if spare < order.frames() {
                None
            } else {
                let zero = request.contents == Contents::Zero;
                buddy.take(usize::from(order.get()), request.usage.class(), zero)
            };
            match taken {
                Some((index, zero)) => {
                    self.entry(index).set(request.head());
                    Ok(self.extent(index, order, zero))
                }
                None if free < order.frames() || spare >= order.frames() => {
                    Err(AllocError::Exhausted { order, free })
                }
                None => Err(AllocError::Reserve { free, min: Frames::new(buddy.min()) }),
            }
        })
    }

    /// Makes an extent free: in the table, then in the buddy system.
    fn put(&self, buddy: &mut Buddy<'m>, index: u32, order: Order, class: Class, contents: Contents) {
        self.entry(index).set(Head::Nothing);
        buddy.put(index, usize::from(order.get()), class, contents == Contents::Zero);
    }

    #[inline]
    fn locked<R>(&self, work: impl FnOnce(&mut Buddy<'m>) -> R) -> R {
        self.buddy.with(|buddy| {
            let result = work(buddy);
            self.zero_hint.store(buddy.totals.zero, Ordering::Relaxed);
            result
        })
    }

    #[inline]
    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    fn index(&self, frame: Gfn) -> Option<u32> {
        let index = frame.get().checked_sub(self.base.get())?;
        if index < self.entries.len() as u64 { Some(index as u32) } else { None }
    }

    #[inline]
    fn gfn(&self, index: u32) -> Gfn {
        self.base + Frames::new(u64::from(index))
    }

    fn extent(&self, index: u32, order: Order, zero: bool) -> Extent {
        let contents = if zero { Contents::Zero } else { Contents::Unknown };
        Extent::new(self.gfn(index), order, contents, self.id)
    }

    fn reject<S: State>(&self, misuse: Misuse, extent: Extent<S>) -> Rejected<S> {
        self.complain(misuse);
        Rejected { misuse, extent }
    }

    fn complain(&self, misuse: Misuse) {
        self.misuses.fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) {
            log::error!("frame allocator misused: {misuse}");
        }
    }
}

impl Request {
    #[inline]
    const fn head(&self) -> Head {
        Head::Used { usage: self.usage, order: self.order.get(), detached: false, owner: self.owner }
    }
}

/// Free frames that a request may use.
fn spare(buddy: &Buddy<'_>, emergency: bool) -> u64 {
    if emergency { buddy.totals.free } else { buddy.totals.free.saturating_sub(buddy.min()) }
}
