//! A machine of arrays: frames with contents, page tables in them, and CPUs with translations that they forget only when
//! they are told. What a CPU does through a translation happens in its frame, whoever has that by then; so a frame that
//! is freed too early shows as a value in the wrong place.

use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

use percpu::host::{Host, Machine};

use super::*;
use crate::mm::frame::AllocError;
use crate::mm::frame::tests::{HostLocks, Memory as FrameBooks};
use crate::units::{FRAME_SHIFT, Gfn, Order};

/// Where the window of the tests begins.
pub(super) const BASE: u64 = 0xFFFF_E000_0000_0000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const ACCESSED: u64 = 1 << 5;

type FrameTable = FrameAllocator<'static, HostLocks>;
type Tlb = Mutex<BTreeMap<u64, Gfn>>;

/// The machine.
pub(super) struct Sim {
    frames: &'static FrameTable,
    memory: Box<[Words]>,
    /// By GiB.
    directories: Mutex<BTreeMap<u64, Gfn>>,
    tlbs: Vec<Tlb>,
    host: Host,
    pub(super) flushes: AtomicUsize,
    /// Directories that can still be made.
    pub(super) directories_left: AtomicUsize,
}

#[expect(unsafe_code, reason = "an implementation of the machine's trait")]
// SAFETY: each frame is an array of its own; directories are frames from the allocator, zeroed, kept for ever; a flush
// takes the translations of all CPUs away, each when it is between two accesses.
unsafe impl Mmu for &'static Sim {
    unsafe fn words(&self, frame: Gfn) -> &Words {
        &self.memory[frame.get() as usize]
    }

    fn directory(&self, address: u64) -> Option<Gfn> {
        let mut directories = self.directories.lock().unwrap();
        if let Some(found) = directories.get(&(address >> 30)) {
            return Some(*found);
        }
        let take = |left: usize| left.checked_sub(1);
        self.directories_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let request = crate::mm::frame::Request::new(crate::mm::frame::Use::Kernel, VcpuId::new(0));
        let frame = self.frames.detach(self.frames.alloc(request).ok()?).unwrap();
        self.memory[frame.get() as usize].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        directories.insert(address >> 30, frame);
        Some(frame)
    }

    fn flush(&self, what: crate::smp::Flush) {
        use crate::smp::Flush;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        for tlb in &self.tlbs {
            let mut tlb = tlb.lock().unwrap();
            match what {
                Flush::All => tlb.clear(),
                Flush::Pages { start, count } => {
                    tlb.retain(|page, _| {
                        !(start >> FRAME_SHIFT..(start >> FRAME_SHIFT) + count).contains(page)
                    });
                }
            }
        }
    }
}

impl Sim {
    /// Fills a frame with zeros behind everybody's back.
    pub(super) fn zero_by_hand(&self, frame: Gfn) {
        self.memory[frame.get() as usize].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// What the tables say, as the processor walks them; marks the access.
    fn walk(&self, address: u64) -> Option<Gfn> {
        let frame = |entry: u64| Gfn::new((entry & 0x000F_FFFF_FFFF_F000) >> FRAME_SHIFT);
        let directory = *self.directories.lock().unwrap().get(&(address >> 30))?;
        let entry = &self.memory[directory.get() as usize][(address >> 21) as usize % 512];
        let table = entry.load(Ordering::Acquire);
        if table & PRESENT == 0 {
            return None;
        }
        let entry = &self.memory[frame(table).get() as usize][(address >> 12) as usize % 512];
        loop {
            let page = entry.load(Ordering::Acquire);
            if page & PRESENT == 0 {
                return None;
            }
            assert!(page & WRITABLE != 0);
            let marked = entry.compare_exchange(page, page | ACCESSED, Ordering::AcqRel, Ordering::Acquire);
            if marked.is_ok() {
                return Some(frame(page));
            }
        }
    }

    /// Accesses the word at `address`, on this CPU, if there is a translation or a mapping.
    fn try_access<R>(&self, address: u64, access: &impl Fn(&AtomicU64) -> R) -> Option<R> {
        let mut tlb = self.tlbs[percpu::Cpus::current_cpu(self.host).get()].lock().unwrap();
        let frame = match tlb.get(&(address >> FRAME_SHIFT)) {
            Some(frame) => *frame,
            None => {
                let frame = self.walk(address)?;
                tlb.insert(address >> FRAME_SHIFT, frame);
                frame
            }
        };
        // With the translations held: a flush waits until this access is over.
        Some(access(&self.memory[frame.get() as usize][(address % 4096 / 8) as usize]))
    }
}

type SimPaged = Paged<HostLocks, &'static Sim, Host>;

/// Paged memory on such a machine. Never freed.
#[derive(Clone, Copy)]
pub(super) struct World {
    pub(super) paged: &'static SimPaged,
    pub(super) sim: &'static Sim,
    pub(super) frames: &'static FrameTable,
    pub(super) host: Host,
}

impl Deref for World {
    type Target = SimPaged;
    fn deref(&self) -> &SimPaged {
        self.paged
    }
}

#[expect(unsafe_code, reason = "what only the owner of memory may say, said where it is arrays")]
impl World {
    /// [`Paged::attach`], for tests that do not touch what they have no token for.
    pub(super) fn attach(&self, address: NonNull<u8>) -> Option<Region> {
        // SAFETY: the memory of this machine is words that are atomics, which no object lives in.
        unsafe { self.paged.attach(address) }
    }

    /// [`Paged::set_swap`], likewise.
    pub(super) fn set_swap(&self, swap: &'static dyn Swap) -> Result<(), AllocError> {
        // SAFETY: as above; what is lost or mixed up there, the tests are to see.
        unsafe { self.paged.set_swap(swap) }
    }

    /// [`Paged::discard_masked`], likewise.
    pub(super) fn discard_masked(&self, address: u64, mask: &Mask) {
        // SAFETY: as above.
        unsafe { self.paged.discard_masked(address, mask) }
    }
}

impl World {
    /// A machine with whole blocks of frames, and everything promised that they are worth.
    pub(super) fn new(blocks: u64, cpus: usize) -> Self {
        let books = Box::leak(Box::new(FrameBooks::of_blocks(blocks, cpus)));
        // Frame 0 is nobody's, as in a real machine.
        let reserved = [crate::mm::frame::tests::range(0, 1)];
        let frames: &FrameTable = Box::leak(Box::new(books.build(&reserved, 3)));
        let host = Machine::new(cpus);
        let words = || [const { AtomicU64::new(0) }; 512];
        let memory: Vec<Words> = (0..blocks * 512).map(|_| words()).collect();
        // Memory of a guest does not come zeroed.
        memory.iter().flatten().for_each(|word| word.store(0xDEAD_BEEF, Ordering::Relaxed));
        let sim: &Sim = Box::leak(Box::new(Sim {
            frames,
            memory: memory.into_boxed_slice(),
            directories: Mutex::default(),
            tlbs: (0..cpus).map(|_| Mutex::default()).collect(),
            host,
            flushes: AtomicUsize::new(0),
            directories_left: AtomicUsize::new(usize::MAX),
        }));
        let config = Config { base: BASE, gibs: 8, limit: Frames::new(blocks * 512) };
        let paged = Box::leak(Box::new(Paged::new(frames, sim, host, config).unwrap()));
        Self { paged, sim, frames, host }
    }

    /// An access, with the faults that it takes.
    pub(super) fn access<R>(&self, address: u64, access: impl Fn(&AtomicU64) -> R) -> Result<R, FaultError> {
        loop {
            if let Some(result) = self.sim.try_access(address, &access) {
                return Ok(result);
            }
            self.paged.fault(address, Context::MayBlock)?;
        }
    }

    pub(super) fn load(&self, address: u64) -> Result<u64, FaultError> {
        self.access(address, |word| word.load(Ordering::Relaxed))
    }

    pub(super) fn store(&self, address: u64, value: u64) -> Result<(), FaultError> {
        self.access(address, |word| word.store(value, Ordering::Relaxed))
    }

    /// The frame that `address` is mapped to, if it is, by the tables.
    pub(super) fn frame_of(&self, address: u64) -> Option<Gfn> {
        self.sim.walk(address)
    }

    /// Has pages go to a swap of the tests. Never freed.
    pub(super) fn attach_swap(&self) -> &'static Shelf {
        let _cpu = self.host.enter(percpu::CpuId::BOOT);
        let shelf = Box::leak(Box::new(Shelf::default()));
        self.set_swap(shelf).unwrap();
        shelf
    }

    /// All books agree.
    pub(super) fn validate(&self) {
        self.paged.validate().unwrap();
        self.frames.validate().unwrap();
    }

    /// The block of a frame, as one that is to be emptied.
    pub(super) fn block_of(&self, frame: Gfn) -> crate::mm::frame::SparseBlock {
        let first = Gfn::new(frame.get() >> Order::BLOCK.get() << Order::BLOCK.get());
        crate::mm::frame::SparseBlock { first, movable: Frames::ZERO }
    }
}

/// A swap that keeps copies in a map, holds paged memory to the rules of [`Swap`], and fails when it is told to.
#[derive(Default)]
pub(super) struct Shelf {
    pages: Mutex<BTreeMap<u64, Vec<u64>>>,
    next: AtomicU64,
    /// Every so many stores are refused as unsuitable; 0 for none.
    pub(super) refuse_each: AtomicU64,
    /// It is full.
    pub(super) full: AtomicBool,
    /// Loads fail.
    pub(super) losing: AtomicBool,
    pub(super) stores: AtomicU64,
    pub(super) loads: AtomicU64,
    /// Runs once in a store, before it answers.
    pub(super) in_store: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Shelf {
    pub(super) fn len(&self) -> usize {
        self.pages.lock().unwrap().len()
    }
}

impl Swap for Shelf {
    fn store(&self, _: u64, page: &crate::mm::page::Page<'_>) -> Result<SwapEntry, Refused> {
        if let Some(work) = self.in_store.lock().unwrap().take() {
            work();
        }
        let number = self.stores.fetch_add(1, Ordering::Relaxed) + 1;
        let each = self.refuse_each.load(Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) {
            return Err(Refused::Full);
        }
        if each != 0 && number.is_multiple_of(each) {
            return Err(Refused::Unsuitable);
        }
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        let words = page.bytes().as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        self.pages.lock().unwrap().insert(slot, words);
        Ok(SwapEntry::new((slot % 32) as u8, slot).unwrap())
    }

    fn load(&self, entry: SwapEntry, page: &mut crate::mm::page::Page<'_>) -> Result<(), Lost> {
        assert_eq!(u64::from(entry.kind()), entry.slot() % 32);
        self.loads.fetch_add(1, Ordering::Relaxed);
        if self.losing.load(Ordering::Relaxed) {
            page.fill(0);
            return Err(Lost { holder: "the shelf", why: "it was told to" });
        }
        let pages = self.pages.lock().unwrap();
        let words = pages.get(&entry.slot()).expect("a page that was freed is loaded");
        for (word, value) in page.words_mut().iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn free(&self, entry: SwapEntry) {
        self.pages.lock().unwrap().remove(&entry.slot()).expect("a page is freed twice");
    }
}
