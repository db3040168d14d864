//! Paged memory: where the application's bulk data lives.
//!
//! A *region* is a range of addresses in one large window. It costs a promise (`commit.rs`) and no memory; a page of it
//! gets a frame, full of zeros, when it is first touched, and gives it back when the region is released or the page is
//! discarded. So the frames in use follow what the application touches, and because every way to such a frame is a
//! mapping of ours, any of them can be moved ([`Paged::evacuate`]) and, by its accessed bit, judged ([`Paged::scan`]).
//!
//! | file | what lives there |
//! |---|---|
//! | `place.rs` | pages and slots of the window |
//! | `entry.rs` | what a page-table entry says |
//! | `slot.rs` | a slot of 2 MiB: one word with its lock, its region, its page table |
//! | `book.rs` | which slots are free |
//! | `region.rs` | reserve, release, discard |
//! | `fault.rs` | the fault path, and filling on request |
//! | `batch.rs` | what was unmapped: forgotten everywhere, then freed |
//! | `migrate.rs` | moving pages to other frames |
//! | `scan.rs` | active and inactive pages |
//! | `swap.rs` | the seam to where pages go that are not in memory |
//! | `evict.rs` | pages leave: reclaim |
//! | `fetch.rs` | and come back |
//! | `commit.rs` | promises and their limit |
//! | `memory.rs` | the seam to page tables and frames: all `unsafe` but the allocator's |
//! | [`heap`] | an allocator for collections over it |
//!
//! **Locks.** A slot's lock is held with interrupts off for at most one look through its table; no other lock is taken
//! under it but the frame allocator's, and nothing waits for other CPUs under it. TLB shootdowns happen with no lock
//! held. A page that is being moved is not locked: its entry says so, and who touches it spins until it has arrived,
//! which takes a flush and a few copies, or one load from swap. While a CPU waits with interrupts off, in any of these ways, it must answer
//! flushes; [`percpu::Cpus::relax`] does that here, and spin locks under which paged memory is touched must, too.
//!
//! **Faults in contexts that must not block** (interrupts off, a spin lock held, a read section of RCU) are served like
//! all others as long as there is a free frame, because taking one does not block. When there is none, a
//! [`Shortage`] is told whether it may block; where it may not, the reserve below the lowest watermark is used. A page
//! that was swapped out is fetched in the same way, for which [`Swap::load`] does not block. Interrupt handlers are the
//! exception: they may have interrupted swap itself, and touch only memory that is not paged.

mod batch;
mod book;
mod commit;
mod entry;
mod error;
mod evict;
mod fault;
mod fetch;
pub mod heap;
mod memory;
mod migrate;
mod place;
mod region;
mod scan;
mod slot;
mod stats;
mod swap;
mod validate;

#[cfg(test)]
mod reclaim_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::AtomicU64;

use percpu::{PercpuCounter, Platform, SpinLock};
use spin::once::Once;

use self::book::{Book, Full};
use self::commit::Commit;
use self::memory::{Directory, Memory};
use self::place::{GIB_SLOTS, Page, Span};
use self::slot::Slot;
use super::frame::{FrameAllocator, LockKind};
use crate::units::{FRAME_SIZE, Frames, VcpuId};

pub use self::commit::Overcommit;
pub use self::entry::SwapEntry;
pub use self::error::{CommitError, FaultError, MigrateError, OutsideRegion, PopulateError, ReserveError};
pub use self::evict::Reclaimed;
pub use self::fault::{Context, Served, Shortage};
pub use self::memory::{Mmu, Words};
pub use self::region::{Charge, Mask, Region};
pub use self::scan::Scanned;
pub use self::stats::Stats;
pub use self::swap::{Lost, Refused, Swap};
pub use self::validate::Inconsistency;

/// Where the window is, and how much may be promised at first.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Where the window begins: a multiple of 1 GiB.
    pub base: u64,
    /// How many GiB of addresses it has. The first 2 MiB stay unused.
    pub gibs: usize,
    /// The commit limit.
    pub limit: Frames,
}

/// A GiB of the window in which something was reserved.
#[derive(Debug)]
struct Gib {
    directory: Directory,
    slots: Box<[Slot]>,
}

/// Paged memory. Shared by reference; `L` is the frame allocator's kind of lock, `M` the machine's page tables, `P` the
/// CPUs. All methods are for any context unless they say otherwise.
pub struct Paged<L: LockKind + 'static, M: Mmu, P: Platform> {
    frames: &'static FrameAllocator<'static, L>,
    memory: Memory<M>,
    platform: P,
    span: Span,
    gibs: Box<[Once<Gib>]>,
    book: SpinLock<Book>,
    commit: Commit<P>,
    counts: Counts<P>,
    shortage: Once<&'static dyn Shortage>,
    hand: scan::Hand,
    swap: Once<swap::Attached>,
    evict_hand: evict::Hand,
    /// Pages evicted so far: the clock that tells how long one was away.
    evictions: AtomicU64,
}

/// What is counted where it is hot: on the CPU.
#[derive(Debug)]
struct Counts<P: Platform> {
    /// Pages with a frame.
    resident: PercpuCounter<P>,
    /// Those of them on the active list.
    active: PercpuCounter<P>,
    /// Frames for page tables.
    tables: PercpuCounter<P>,
    /// Pages that got a frame.
    filled: PercpuCounter<P>,
    /// Frames that had to be zeroed for it.
    zeroed: PercpuCounter<P>,
    /// Faults that found the page there: somebody else was faster.
    raced: PercpuCounter<P>,
    /// Pages moved to another frame.
    migrated: PercpuCounter<P>,
    /// Frames given back.
    freed: PercpuCounter<P>,
    /// Times that a shortage was told.
    shortages: PercpuCounter<P>,
    /// Pages that are in swap.
    swapped: PercpuCounter<P>,
    /// Pages that were evicted.
    swap_outs: PercpuCounter<P>,
    /// Pages that came back.
    swap_ins: PercpuCounter<P>,
    /// Those that were missed soon.
    refaulted: PercpuCounter<P>,
    /// Pages that were touched on their way out.
    kept: PercpuCounter<P>,
    /// Pages that swap did not take.
    swap_refused: PercpuCounter<P>,
    /// Loads that found the page lost.
    swap_lost: PercpuCounter<P>,
}

impl<L: LockKind, M: Mmu, P: Platform> fmt::Debug for Paged<L, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paged").field("span", &self.span).finish_non_exhaustive()
    }
}

impl<L: LockKind, M: Mmu, P: Platform> Paged<L, M, P> {
    /// Paged memory with nothing reserved.
    ///
    /// # Errors
    ///
    /// [`ReserveError::NoBooks`] if there is no kernel memory for the books or for the counters.
    ///
    /// # Panics
    ///
    /// If the window does not begin at a multiple of 1 GiB.
    pub fn new(
        frames: &'static FrameAllocator<'static, L>,
        mmu: M,
        platform: P,
        config: Config,
    ) -> Result<Self, ReserveError> {
        assert!(config.base.is_multiple_of(1 << 30), "the window for paged memory is crooked");
        let span = Span { base: config.base, gibs: config.gibs };
        let mut gibs = Vec::new();
        gibs.try_reserve_exact(config.gibs).map_err(|_| ReserveError::NoBooks)?;
        gibs.extend((0..config.gibs).map(|_| Once::new()));
        // Running off below a region's start faults, even for the first; and no page has the number 0.
        let book = Book::new(1, span.slots()).map_err(|_| ReserveError::NoBooks)?;
        let counter = |batch| PercpuCounter::new(platform, batch).map_err(|_| ReserveError::NoBooks);
        let batch = PercpuCounter::default_batch(platform);
        let counts = Counts {
            resident: counter(batch)?,
            active: counter(batch)?,
            tables: counter(batch)?,
            filled: counter(batch)?,
            zeroed: counter(batch)?,
            raced: counter(batch)?,
            migrated: counter(batch)?,
            freed: counter(batch)?,
            shortages: counter(batch)?,
            swapped: counter(batch)?,
            swap_outs: counter(batch)?,
            swap_ins: counter(batch)?,
            refaulted: counter(batch)?,
            kept: counter(batch)?,
            swap_refused: counter(batch)?,
            swap_lost: counter(batch)?,
        };
        Ok(Self {
            frames,
            memory: Memory::new(mmu),
            platform,
            span,
            gibs: gibs.into_boxed_slice(),
            book: SpinLock::new("paged memory's book", book),
            commit: Commit::new(counter(batch)?, config.limit),
            counts,
            shortage: Once::new(),
            hand: scan::Hand::new(),
            swap: Once::new(),
            evict_hand: evict::Hand::new(),
            evictions: AtomicU64::new(0),
        })
    }

    /// Whether an address lies in the window, reserved or not.
    #[must_use]
    pub fn covers(&self, address: u64) -> bool {
        self.span.page(address).is_some()
    }

    /// Whether a region is at an address. Takes no lock, so it may be old news.
    #[must_use]
    pub fn is_reserved(&self, address: u64) -> bool {
        self.span.page(address).is_some_and(|page| {
            self.slot(page).is_some_and(|(_, slot)| (page.index() as u64) < slot.peek().pages())
        })
    }

    /// What is promised, in frames: within `cpus * (batch - 1)` of [`committed_exactly`](Self::committed_exactly), by one
    /// load. The original's `vm_committed_as`.
    #[must_use]
    pub fn committed(&self) -> Frames {
        self.commit.roughly()
    }

    /// What is promised, in frames. Visits every CPU's part.
    #[must_use]
    pub fn committed_exactly(&self) -> Frames {
        self.commit.sum()
    }

    /// The most that may be promised.
    #[must_use]
    pub fn commit_limit(&self) -> Frames {
        self.commit.limit()
    }

    /// Sets the most that may be promised: what the domain may have at most, and swap, less what the kernel needs.
    /// Below what is promised already, nothing more is promised.
    pub fn set_commit_limit(&self, limit: Frames) {
        self.commit.set_limit(limit);
    }

    /// When promises are refused.
    #[must_use]
    pub fn overcommit(&self) -> Overcommit {
        self.commit.policy()
    }

    /// Sets when promises are refused.
    pub fn set_overcommit(&self, policy: Overcommit) {
        self.commit.set_policy(policy);
    }

    /// Promises `more` frames, for pages of regions reserved with [`Charge::ByCaller`].
    ///
    /// # Errors
    ///
    /// If the policy refuses.
    pub fn charge(&self, more: Frames) -> Result<(), CommitError> {
        self.commit.charge(more)
    }

    /// Takes back what [`charge`](Self::charge) promised.
    pub fn uncharge(&self, less: Frames) {
        self.commit.uncharge(less);
    }

    /// Has `shortage` asked when there is no frame for a page. Only the first call counts.
    pub fn set_shortage(&self, shortage: &'static dyn Shortage) {
        self.shortage.call_once(|| shortage);
    }

    /// The CPU through whose magazine frames go: a hint.
    fn cpu(&self) -> VcpuId {
        VcpuId::new(self.platform.current_cpu().get() as u32)
    }

    /// The slot of a page, if something was ever reserved near it.
    fn slot(&self, page: Page) -> Option<(&Gib, &Slot)> {
        let gib = self.gibs.get(page.slot() / GIB_SLOTS)?.get()?;
        Some((gib, gib.slots.get(page.index_in_directory())?))
    }

    /// The slot of a page of a region, which has one.
    fn slot_of_region(&self, page: Page) -> (&Gib, &Slot) {
        match self.slot(page) {
            Some(found) => found,
            None => unreachable!("a region reaches where nothing was reserved"),
        }
    }

    /// Makes the books and the tables of the GiB around a page, if they are not there.
    fn make_gib(&self, page: Page) -> Result<(), Full> {
        let place = self.gibs.get(page.slot() / GIB_SLOTS).ok_or(Full::NoRun)?;
        // Interrupts off: whoever else comes here spins until it is done.
        let _irq = percpu::IrqOff::new(self.platform);
        place.try_call_once(|| {
            let mut slots = Vec::new();
            slots.try_reserve_exact(GIB_SLOTS).map_err(|_| Full::NoMemory)?;
            slots.extend((0..GIB_SLOTS).map(|_| Slot::new()));
            let directory = self.memory.directory(self.span.address(page)).ok_or(Full::NoMemory)?;
            Ok(Gib { directory, slots: slots.into_boxed_slice() })
        })?;
        Ok(())
    }

    /// All slots of GiBs in which something was reserved, each with its number.
    fn slots(&self) -> impl Iterator<Item = (usize, &Gib, &Slot)> {
        self.gibs.iter().enumerate().filter_map(|(number, gib)| Some((number, gib.get()?))).flat_map(
            |(number, gib)| {
                let first = number * GIB_SLOTS;
                gib.slots.iter().enumerate().map(move |(index, slot)| (first + index, gib, slot))
            },
        )
    }
}

/// Pages that hold `bytes`.
#[must_use]
pub const fn pages_for(bytes: usize) -> u64 {
    bytes.div_ceil(FRAME_SIZE) as u64
}
