//! The page-frame allocator: owns every frame that this guest may ever have, and the table that says what each is.
//!
//! It is a value over metadata that the caller supplies (see [`Layout`]), decides no policy, and never touches the
//! memory that it manages. Three layers, from the outside in:
//!
//! | file | what lives there | guarded by |
//! |---|---|---|
//! | `magazine.rs` | single frames for each CPU | a flag that is tried, never waited for |
//! | `buddy.rs` | lists of blocks: which block serves a request | the lock |
//! | `block.rs` | a buddy system inside one 2 MiB block | the lock |
//!
//! Beside them, `entry.rs` holds the frame table (one word for each frame), `token.rs` the [`Extent`] that a
//! holder holds, and `balloon.rs` the way out of the guest and back.
//!
//! **Invariants**, all of which [`FrameAllocator::validate`] re-derives: every frame is exactly one of absent,
//! reserved, free, cached in a magazine, allocated, ballooned; free neighbours are joined; pinned and movable
//! frames share a block only if, at some time, no block was whole; the entries of a block of which nothing is
//! handed out are zero, and are not touched.
//!
//! **Context.** No method waits, except for the lock, which is held for a bounded time: constant for everything but
//! [`allocate_run`](FrameAllocator::allocate_run), [`emptiest_blocks`](FrameAllocator::emptiest_blocks) and
//! [`validate`](FrameAllocator::validate). Callable from interrupt handlers if the lock kind keeps interrupts off.
//! CPU numbers choose a magazine. With a shared gate they are hints, and a wrong one costs time, nothing else; with a
//! gate for one CPU the caller keeps the rule of [`Gate::SHARED`].

mod balloon;
mod block;
mod buddy;
mod entry;
mod error;
mod init;
mod inspect;
mod lock;
mod magazine;
mod map;
mod stats;
mod token;
mod validate;

#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::units::{BLOCK_FRAMES, Frames, Gfn, Order, VcpuId};

pub use self::block::Block;
use self::buddy::Buddy;
use self::entry::Head;
pub use self::entry::{Class, Entry, Owner, Use};
pub use self::error::{AllocError, Misuse, Rejected, RejectedRun};
pub use self::init::{Config, Metadata};
pub use self::inspect::{FrameState, Held, SparseBlock};
pub use self::lock::{Exclusive, Gate, LocalGate, LocalLocks, LockKind, SharedGate, TicketLocks};
use self::magazine::Inside;
pub use self::magazine::Magazine;
pub use self::map::{FrameRange, Layout, MapError};
pub use self::stats::{Stats, Watermarks};
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
    /// Most frames in one stack of a magazine.
    limit: usize,
    entries: &'m [Entry],
    magazines: &'m [Magazine<L::Gate>],
    buddy: L::Of<Buddy<'m>>,
    /// The buddy system's known-zero frames, at the end of the last change: a hint for the magazines.
    zero_hint: AtomicU64,
    misuses: AtomicU64,
}

impl<'m, L: LockKind> FrameAllocator<'m, L> {
    /// Allocates. Constant time.
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

    /// A frame of the wanted contents from the CPU's magazine, if one is there.
    #[inline]
    fn alloc_fast(&self, request: &Request) -> Option<Extent> {
        if request.order != Order::FRAME {
            return None;
        }
        let inside = self.magazines.get(request.cpu.get() as usize)?.try_enter()?;
        let index = inside.pop(request.usage.class(), request.contents)?;
        self.entry(index).set(request.head());
        Some(Extent::new(self.gfn(index), Order::FRAME, request.contents, self.id))
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

    /// Puts a frame into the CPU's magazine, if all is as it should be and there is room.
    #[inline]
    fn free_fast(&self, extent: &Extent, contents: Contents, cpu: VcpuId) -> Option<()> {
        if !extent.is_frame_of(self.id) {
            return None;
        }
        let index = extent.first().get().wrapping_sub(self.base.get());
        let entry = self.entries.get(index as usize)?;
        let class = entry.single_in_use()?;
        let inside = self.magazines.get(cpu.get() as usize)?.try_enter()?;
        if inside.is_asked() || !inside.push(class, contents, index as u32, self.limit) {
            return None;
        }
        entry.set(Head::Cached { class, contents });
        Some(())
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&self, extent: Extent, contents: Contents, cpu: VcpuId) -> Result<(), Rejected> {
        let (index, usage, _) = match self.check(&extent) {
            Ok(found) => found,
            Err(misuse) => return Err(self.reject(misuse, extent)),
        };
        let order = extent.order();
        if order != Order::FRAME || !self.free_spilling(index, usage.class(), contents, cpu) {
            self.locked(|buddy| self.put(buddy, index, order, usage.class(), contents));
        }
        extent.consume();
        Ok(())
    }

    /// Takes `blocks` consecutive whole blocks, the first frame a multiple of `align` blocks. Looks at every
    /// block: time grows with the size of the table.
    ///
    /// # Errors
    ///
    /// [`AllocError::NoRun`] if there is no such run, also for none or a zero alignment.
    pub fn allocate_run(
        &self,
        blocks: u64,
        align: u64,
        usage: Use,
        owner: Owner,
        cpu: VcpuId,
    ) -> Result<Run, AllocError> {
        let none = |whole| AllocError::NoRun { blocks, whole };
        let (Ok(count), Ok(align)) = (usize::try_from(blocks), usize::try_from(align)) else {
            return Err(none(0));
        };
        let attempt = |buddy: &mut Buddy<'m>| {
            let wrong = count == 0 || align == 0;
            let start = if wrong { None } else { buddy.find_run(count, align, self.base.get() / BLOCK_FRAMES) };
            let Some(start) = start else { return Err(none(buddy.totals.whole)) };
            let mut contents = Contents::Zero;
            for block in start..start + count as u32 {
                let Some((index, zero)) = buddy.take_whole(block, usage.class()) else {
                    unreachable!("a run of whole blocks has a block that is not whole");
                };
                if !zero {
                    contents = Contents::Unknown;
                }
                self.entry(index).set(Head::Used {
                    usage,
                    order: Order::BLOCK.get(),
                    detached: false,
                    owner,
                });
            }
            Ok(Run::new(self.gfn(start * BLOCK_FRAMES as u32), blocks, contents, self.id))
        };
        let first = self.locked(attempt);
        let again = if first.is_err() && self.drain(cpu) > Frames::ZERO { self.locked(attempt) } else { first };
        if again.is_err() {
            self.locked(|buddy| buddy.events.failures += 1);
        }
        again
    }

    /// Frees every block of a run.
    ///
    /// # Errors
    ///
    /// [`RejectedRun`] with the token, if it belongs to another allocator.
    pub fn free_run(&self, run: Run, contents: Contents) -> Result<(), RejectedRun> {
        let class = match self.check_run(&run) {
            Ok(usage) => usage.class(),
            Err(misuse) => {
                self.complain(misuse);
                return Err(RejectedRun { misuse, run });
            }
        };
        self.locked(|buddy| {
            for block in run.into_blocks() {
                if let Some(index) = self.index(block.first()) {
                    self.put(buddy, index, Order::BLOCK, class, contents);
                }
                block.consume();
            }
        });
        Ok(())
    }

    /// Checks every block before the first is freed, so that a run is freed whole or not at all.
    fn check_run(&self, run: &Run) -> Result<Use, Misuse> {
        let mut usage = Err(Misuse::NotAllocated(run.first()));
        for block in run.heads() {
            let checked = self.check(&block).map(|(_, usage, _)| usage);
            block.consume();
            usage = Ok(checked?);
        }
        usage
    }

    /// Moves the frames of every magazine that nobody is using back to the buddy system, and says how many.
    /// `cpu` is the caller's.
    ///
    /// Where a magazine admits its own CPU only ([`Gate::SHARED`] is false), the others are asked instead: each is
    /// emptied when its CPU next allocates or frees a frame, or calls [`drain_cpu`](Self::drain_cpu), for which the
    /// kernel may interrupt it.
    pub fn drain(&self, cpu: VcpuId) -> Frames {
        let mut moved = Frames::ZERO;
        for (i, magazine) in self.magazines.iter().enumerate() {
            if L::Gate::SHARED || i == cpu.get() as usize {
                moved += self.drain_one(magazine);
            } else {
                magazine.ask();
            }
        }
        moved
    }

    /// Moves the frames of the magazine of `cpu`, which is the caller's, back to the buddy system, unless it is in
    /// use.
    pub fn drain_cpu(&self, cpu: VcpuId) -> Frames {
        self.magazines.get(cpu.get() as usize).map_or(Frames::ZERO, |magazine| self.drain_one(magazine))
    }

    fn drain_one(&self, magazine: &Magazine<L::Gate>) -> Frames {
        magazine.try_enter().map_or(Frames::ZERO, |inside| self.empty(&inside))
    }

    #[cold]
    fn empty(&self, inside: &Inside<'_, L::Gate>) -> Frames {
        let mut moved = Frames::ZERO;
        for class in Class::ALL {
            for contents in [Contents::Unknown, Contents::Zero] {
                moved += self.spill(inside, class, contents, usize::MAX);
            }
        }
        moved
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
                assert!(self.entry(index).exchange(head(false), head(true)), "an extent's token is not its only one");
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
    pub fn attach(&self, first: Gfn, order: Order) -> Result<Extent, Misuse> {
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
            Head::Cached { .. } => Err(Misuse::NotAllocated(first)),
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

    /// Takes a frame from the CPU's magazine, filling it from the buddy system if need be.
    fn alloc_filling(&self, request: &Request) -> Option<Extent> {
        let inside = self.magazines.get(request.cpu.get() as usize)?.try_enter()?;
        if inside.heed() {
            self.empty(&inside);
        }
        let class = request.usage.class();
        let want = request.contents;
        let other = match want {
            Contents::Unknown => Contents::Zero,
            Contents::Zero => Contents::Unknown,
        };
        // Zero frames serve other requests too, once there are enough of them here; others serve a request for zero
        // where no zero frame is left.
        let enough = match want {
            Contents::Unknown => self.batch(),
            Contents::Zero if self.zero_hint.load(Ordering::Relaxed) == 0 => 1,
            Contents::Zero => usize::MAX,
        };
        if inside.len(class, want) == 0 && inside.len(class, other) < enough {
            self.refill(&inside, class, want, request.emergency);
        }
        let (index, contents) = match inside.pop(class, want) {
            Some(index) => (index, want),
            None => (inside.pop(class, other)?, other),
        };
        self.entry(index).set(request.head());
        Some(Extent::new(self.gfn(index), Order::FRAME, contents, self.id))
    }

    fn refill(&self, inside: &Inside<'_, L::Gate>, class: Class, want: Contents, emergency: bool) {
        self.locked(|buddy| {
            // Either stack may get all of them.
            let room = |kind| self.limit.saturating_sub(inside.len(class, kind));
            let batch = self.batch().min(room(Contents::Unknown)).min(room(Contents::Zero)) as u64;
            let batch = batch.min(spare(buddy, emergency)) as usize;
            buddy.take_frames(batch, class, want == Contents::Zero, |index, zero| {
                let contents = if zero { Contents::Zero } else { Contents::Unknown };
                self.entry(index).set(Head::Cached { class, contents });
                let kept = inside.push(class, contents, index, self.limit);
                assert!(kept, "a magazine that had room is full");
            });
        });
    }

    /// Puts a frame into the CPU's magazine, making room if need be; `false` if it has none, or is in use.
    fn free_spilling(&self, index: u32, class: Class, contents: Contents, cpu: VcpuId) -> bool {
        let inside = self.magazines.get(cpu.get() as usize).and_then(Magazine::try_enter);
        let Some(inside) = inside else { return false };
        if inside.heed() {
            self.empty(&inside);
        }
        if inside.len(class, contents) >= self.limit {
            self.spill(&inside, class, contents, self.batch());
        }
        self.entry(index).set(Head::Cached { class, contents });
        let kept = inside.push(class, contents, index, self.limit);
        assert!(kept, "a magazine that was spilled is full");
        true
    }

    fn spill(&self, inside: &Inside<'_, L::Gate>, class: Class, contents: Contents, most: usize) -> Frames {
        let count = inside.len(class, contents).min(most);
        if count > 0 {
            let frames = (0..count).map_while(|_| inside.pop(class, contents)).inspect(|&index| {
                self.entry(index).set(Head::Nothing);
            });
            self.locked(|buddy| buddy.put_frames(frames, class, contents == Contents::Zero));
        }
        Frames::new(count as u64)
    }

    fn batch(&self) -> usize {
        self.limit / 2
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
