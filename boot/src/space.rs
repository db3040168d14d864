//! The kernel's address space after boot: mappings that are added later, and the direct map, out of which frames are
//! taken when their memory leaves the machine.
//!
//! One view of the tables, under one lock, changes all parts but those that have a view of their own (the window of
//! single pages, paged memory). Nobody waits for other processors with that lock held: a processor that waits for it
//! may hold the heap's lock, for which a third waits with interrupts off. Flushing has a lock of its own, and who
//! waits for that answers flushes meanwhile.
//!
//! Taking a mapping away is two steps, so that many frames cost one flush: [`hide`] changes the tables, and after
//! [`settle`] no processor uses the old translations. Only then may the memory go.
#![expect(unsafe_code, reason = "takes charge of live page tables")]

use crate::cpus;
use crate::frames::KernelFrames;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::interrupts::{self, HandlerError, PageFault, Resolution};
use ebb::arch::layout::{direct_map, direct_mapped};
use ebb::arch::paging::{Access, AddressSpace, MapError, Mapping, OutOfTables};
use ebb::arch::tables::{DirectTables, FrameSource};
use ebb::mm::frame::{Contents, Request, Use};
use ebb::smp::Flush;
use ebb::units::{FRAME_SIZE, FrameRange, Gfn, Order, VcpuId};
use spin::mutex::SpinMutex;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

/// Page tables that are kept for the next need.
const SPARE_TABLES: usize = 64;

/// A few frame numbers.
#[derive(Debug)]
struct Shelf {
    frames: [Gfn; SPARE_TABLES],
    count: usize,
}

impl Shelf {
    const EMPTY: Self = Self { frames: [Gfn::new(0); SPARE_TABLES], count: 0 };

    fn push(&mut self, frame: Gfn) -> Result<(), Gfn> {
        let slot = self.frames.get_mut(self.count).ok_or(frame)?;
        *slot = frame;
        self.count += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Gfn> {
        self.count = self.count.checked_sub(1)?;
        self.frames.get(self.count).copied()
    }

    const fn is_full(&self) -> bool {
        self.count == SPARE_TABLES
    }
}

/// Frames for page tables.
#[derive(Debug)]
struct TableFrames {
    frames: &'static KernelFrames,
    /// Tables that have served, and that no processor can be walking.
    spare: Shelf,
}

// SAFETY: each frame is allocated, and its token is given up, so nobody else has it; a spare one is such a frame, and
// is given again only after everybody has forgotten it as a table.
unsafe impl FrameSource for TableFrames {
    fn frame(&mut self) -> Option<Gfn> {
        if let Some(table) = self.spare.pop() {
            return Some(table);
        }
        // Also from the reserve: the balloon frees more than the table that a block in pieces costs.
        let request = Request::new(Use::Kernel, this_cpu()).emergency();
        self.frames.detach(self.frames.alloc(request).ok()?).ok()
    }
}

impl TableFrames {
    /// Keeps a table for later, or gives its frame back.
    fn keep(&mut self, table: Gfn) {
        let Err(table) = self.spare.push(table) else { return };
        // SAFETY: `frame` detached it to be a table, and `settle` has had all processors forget it as one.
        let attached = unsafe { self.frames.attach(table, Order::FRAME) };
        let given_back = attached.map(|extent| self.frames.free(extent, Contents::Unknown, this_cpu()));
        assert!(matches!(given_back, Ok(Ok(()))), "a page table's frame is not the page tables'");
    }
}

fn this_cpu() -> VcpuId {
    VcpuId::new(ebb::arch::local::cpu().get() as u32)
}

/// The address space, and what processors may still believe of it.
#[derive(Debug)]
struct Space {
    pages: AddressSpace<DirectTables<TableFrames>>,
    /// What was taken away and not yet forgotten.
    stale: Option<Flush>,
    /// Tables that a processor may still be walking.
    retired: Shelf,
}

impl Space {
    /// These pages were taken away.
    fn forget(&mut self, pages: Flush) {
        self.stale = Some(match self.stale {
            None => pages,
            Some(_) => Flush::All,
        });
    }

    fn is_shown(&self, frame: Gfn) -> bool {
        self.pages.look_up(in_direct_map(frame)).is_some()
    }

    /// This table was taken away. There is room: [`with_room`] has seen to it.
    fn retire(&mut self, table: Option<Gfn>) {
        let Some(table) = table else { return };
        let kept = self.retired.push(table);
        assert!(kept.is_ok(), "no room for a page table that was taken away");
        // A processor may have the way to the table in mind although nothing is mapped there.
        self.stale = Some(Flush::All);
    }
}

static SPACE: SpinMutex<Option<Space>> = SpinMutex::new(None);
/// Held by who flushes for all changes so far.
static SETTLING: SpinMutex<()> = SpinMutex::new(());

/// Uses the address space; `None` before there is one. Any context.
fn with<R>(change: impl FnOnce(&mut Space) -> R) -> Option<R> {
    without_interrupts(|| SPACE.lock().as_mut().map(change))
}

/// As [`with`], with room for a table that is taken away.
fn with_room<R>(change: impl FnOnce(&mut Space) -> R) -> Option<R> {
    let mut change = Some(change);
    loop {
        let done = with(|space| {
            let full = space.retired.is_full();
            if full { None } else { change.take().map(|change| change(space)) }
        })?;
        if done.is_some() {
            return done;
        }
        settle();
    }
}

/// Takes charge of the address space whose root is `root`.
///
/// # Errors
///
/// If page faults have too many handlers.
///
/// # Safety
///
/// `root` is the root of the page tables in use, and the direct map shows all of them. Called once.
pub(crate) unsafe fn start(root: Gfn, frames: &'static KernelFrames) -> Result<(), HandlerError> {
    let source = TableFrames { frames, spare: Shelf::EMPTY };
    // SAFETY: the direct map covers the tables, and goes on to: frames of tables are never hidden. This view changes
    // only parts that no other view does, and is used under the lock, with interrupts off; it is this module's alone,
    // which takes away what `hide` was told to.
    let tables = unsafe { DirectTables::new(source) };
    let pages = AddressSpace::from_root(root, tables);
    let space = Space { pages, stale: None, retired: Shelf::EMPTY };
    without_interrupts(|| *SPACE.lock() = Some(space));
    ROOT.call_once(|| root);
    interrupts::add_page_fault_handler(try_again)
}

/// Resolves a fault on a page of the direct map that is there.
///
/// When a block that was mapped by a table is shown as one again, a processor may still have the way to that table in
/// mind, from a guess that led there, and find nothing in it, although no translation was cached. The fault makes it
/// forget the way (Intel SDM volume 3, 4.10.4.1), so that the second try succeeds; and `show` need not wait for
/// everybody.
pub(crate) fn try_again(fault: &PageFault) -> Resolution {
    let missing = !(fault.code.is_protection() || fault.code.is_reserved_bit());
    if missing && direct_mapped(fault.address).is_some() && look(fault.address).is_some() {
        SPURIOUS.fetch_add(1, Ordering::Relaxed);
        return Resolution::Resolved;
    }
    Resolution::Fatal
}

/// Faults on pages that were there.
static SPURIOUS: AtomicU64 = AtomicU64::new(0);
static ROOT: Once<Gfn> = Once::new();

/// What an address is mapped to, by the tables as they are now. Any context, also with the lock held.
fn look(address: u64) -> Option<Mapping> {
    let root = *ROOT.get()?;
    without_interrupts(|| {
        // SAFETY: looks only, with interrupts off and without answering a flush, so that what is a table when the look
        // comes to it stays one until the look is over: see `settle`.
        let tables = unsafe { DirectTables::new(NoTables) };
        AddressSpace::from_root(root, tables).look_up(address)
    })
}

/// Who only looks needs no table.
struct NoTables;

// SAFETY: a source that never gives a frame gives none that is not free, and none twice.
unsafe impl FrameSource for NoTables {
    fn frame(&mut self) -> Option<Gfn> {
        None
    }
}

/// Maps consecutive frames at `address`, page by page, for reading and writing. Any context; never blocks.
///
/// The part of the address space must be the caller's own, and not one that boot built.
///
/// # Errors
///
/// As [`AddressSpace::map`]; what was mapped until then stays.
pub(crate) fn map(address: u64, frames: FrameRange) -> Result<(), MapError> {
    with(|space| {
        for (page, frame) in frames.iter().enumerate() {
            let at = address + (page * FRAME_SIZE) as u64;
            space.pages.map(at, frame, Order::FRAME, Access::Write)?;
        }
        Ok(())
    })
    .unwrap_or(Err(MapError::OutOfTables))
}

/// Takes consecutive pages at `address` away that [`map`] has mapped, and says which frames they were: they are nobody's
/// when [`settle`] has returned. In a thread; does not wait for other processors, but for the lock.
///
/// # Panics
///
/// If a page is not there.
pub(crate) fn unmap(address: u64, frames: &mut [Gfn]) {
    with(|space| {
        for (page, frame) in frames.iter_mut().enumerate() {
            let at = address + (page * FRAME_SIZE) as u64;
            // A page that was mapped by itself goes without a table.
            let Ok(Some(was)) = space.pages.unmap(at, Order::FRAME) else {
                unreachable!("no page at {at:#x}, which is to be unmapped")
            };
            *frame = was.frame;
        }
        space.forget(Flush::pages(address, frames.len() as u64));
    });
}

/// Takes an extent of RAM, of at most a block, out of the direct map: touching it is a fault once [`settle`] has
/// returned. In a thread; does not wait for other processors, but for the lock.
///
/// # Errors
///
/// A part of a block needs a table for the rest of the block: if there is none, nothing has changed.
///
/// # Panics
///
/// If the extent is larger than a block, or not in the direct map.
pub(crate) fn hide(first: Gfn, order: Order) -> Result<(), OutOfTables> {
    let address = in_direct_map(first);
    with_room(|space| {
        if order == Order::BLOCK {
            let table = space.pages.clear_block(address);
            // One entry, one invalidation, wherever in the block; in pieces, all.
            space.forget(if table.is_some() { Flush::All } else { Flush::pages(address, 1) });
            space.retire(table);
            return Ok(());
        }
        for frame in FrameRange::new(first, first + order.frames()).iter() {
            // If the first makes a table, it serves the others too: only the first can fail.
            let _was = space.pages.unmap(in_direct_map(frame), Order::FRAME)?;
        }
        space.forget(Flush::pages(address, order.frames().get()));
        Ok(())
    })
    .unwrap_or(Err(OutOfTables))
}

/// Puts an extent of RAM back into the direct map, for reading and writing. Any context; waits for nobody but a
/// holder of the lock, so that memory can come back where an allocation needs it. A processor that still believes in a
/// table that is gone finds out by a fault: see [`try_again`].
///
/// # Errors
///
/// If part of it is there, or there is no frame for a table; then nothing has changed.
///
/// # Panics
///
/// As [`hide`].
pub(crate) fn show(first: Gfn, order: Order) -> Result<(), MapError> {
    let address = in_direct_map(first);
    with(|space| {
        if order == Order::BLOCK && !space.retired.is_full() {
            let table = space.pages.set_block(address, first, Access::Write)?;
            space.retire(table);
            return Ok(());
        }
        // A block whose table could not be put aside keeps it.
        let last = first + order.frames();
        if let Some(taken) = FrameRange::new(first, last).iter().find(|frame| space.is_shown(*frame)) {
            return Err(MapError::Occupied(in_direct_map(taken)));
        }
        for (done, frame) in FrameRange::new(first, last).iter().enumerate() {
            let Err(error) = space.pages.map(in_direct_map(frame), frame, Order::FRAME, Access::Write) else {
                continue;
            };
            for frame in FrameRange::new(first, last).iter().take(done) {
                // A frame that has just been mapped by itself goes without a table.
                let _was = space.pages.unmap(in_direct_map(frame), Order::FRAME)?;
            }
            return Err(error);
        }
        Ok(())
    })
    .unwrap_or(Err(MapError::OutOfTables))
}

/// Returns when no processor uses a translation that [`hide`] has taken away. Any context; waits for the other
/// processors, but not for interrupts.
///
/// The caller holds no lock that others wait for with interrupts off.
///
/// # Panics
///
/// If a processor does not answer.
pub(crate) fn settle() {
    without_interrupts(|| {
        let settling = loop {
            if let Some(settling) = SETTLING.try_lock() {
                break settling;
            }
            cpus::answer_flush();
            core::hint::spin_loop();
        };
        let taken = with(|space| (space.stale.take(), core::mem::replace(&mut space.retired, Shelf::EMPTY)));
        let Some((stale, mut retired)) = taken else { return };
        if let Some(pages) = stale {
            cpus::flush(pages);
        }
        while let Some(table) = retired.pop() {
            let _kept = with(|space| space.pages.tables_mut().source_mut().keep(table));
        }
        drop(settling);
    });
}

fn in_direct_map(first: Gfn) -> u64 {
    match direct_map(first.start()) {
        Some(address) => address,
        None => unreachable!("the frame allocator has frames of the direct map only"),
    }
}

/// The page directory on the way to `address`, made if need be; `None` if there is no frame for it. Any context; never
/// blocks. The part of the address space must be the caller's own.
pub(crate) fn directory(address: u64) -> Option<Gfn> {
    with(|space| space.pages.directory(address).ok()).flatten()
}
