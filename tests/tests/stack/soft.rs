//! A processor in software: page tables in the model's RAM, and on each CPU translations that are forgotten only when it
//! is told to. A page is accessed through its translation, in whatever frame that names: if the frame has another owner
//! by then, the contents are wrong.
#![expect(
    unsafe_code,
    reason = "frames of the model as words and bytes, and implementations of the kernel's traits"
)]

use super::guest::Allocator;
use ebb::mm::direct_map::fake::FakeMap;
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::mm::paged::{Mmu, Words};
use ebb::mm::pool_frames::{FrameBytes, PoolFrames};
use ebb::smp::Flush;
use ebb::units::{FRAME_SHIFT, FRAME_SIZE, Gfn, VcpuId};
use ebb_tests::model::Model;
use percpu::host::Host;
use percpu::{Cpus, Pinned};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PRESENT: u64 = 1;
const ACCESSED: u64 = 1 << 5;
const FRAME_BITS: u64 = 0x000F_FFFF_FFFF_F000;
/// Translations that a CPU remembers.
const TRANSLATIONS: usize = 256;

/// The processor, and its memory.
pub(crate) struct Soft {
    model: &'static Model,
    frames: &'static Allocator<'static>,
    map: &'static FakeMap<'static>,
    host: Host,
    /// By GiB.
    directories: Mutex<BTreeMap<u64, Gfn>>,
    tlbs: Vec<Mutex<BTreeMap<u64, Gfn>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Soft {
    pub(crate) fn new(
        model: &'static Model,
        frames: &'static Allocator<'static>,
        map: &'static FakeMap<'static>,
        host: Host,
    ) -> Self {
        let tlbs = (0..host.cpu_count()).map(|_| Mutex::default()).collect();
        Self { model, frames, map, host, directories: Mutex::default(), tlbs }
    }

    /// Where the model keeps a frame.
    fn place(&self, frame: Gfn) -> *mut u8 {
        assert!(frame < Gfn::new(0) + self.model.ram_frames(), "the guest has no {frame}");
        // SAFETY: inside the model's RAM, which is one allocation.
        unsafe { self.model.ram().as_ptr().add(frame.get() as usize * FRAME_SIZE) }
    }

    fn words_of(&self, frame: Gfn) -> &Words {
        // SAFETY: aligned, inside the model's RAM, which is never freed, and seen through atomics.
        unsafe { &*self.place(frame).cast() }
    }

    /// What the tables say, as the processor walks them; marks the access.
    fn walk(&self, address: u64) -> Option<Gfn> {
        let frame = |entry: u64| Gfn::new((entry & FRAME_BITS) >> FRAME_SHIFT);
        let directory = *locked(&self.directories).get(&(address >> 30))?;
        let table = self.words_of(directory)[(address >> 21) as usize % 512].load(Ordering::Acquire);
        if table & PRESENT == 0 {
            return None;
        }
        let entry = &self.words_of(frame(table))[(address >> FRAME_SHIFT) as usize % 512];
        let mark = |page: u64| (page & PRESENT != 0).then_some(page | ACCESSED);
        let page = entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, mark).ok()?;
        Some(frame(page))
    }

    /// Accesses the page at `address` on this CPU, if there is a translation or a mapping.
    pub(crate) fn access<R>(&self, address: u64, access: impl FnOnce(&Words) -> R) -> Option<R> {
        let pin = percpu::CpuPin::new(self.host);
        let mut tlb = locked(&self.tlbs[pin.cpu().get()]);
        let page = address >> FRAME_SHIFT;
        let frame = match tlb.get(&page) {
            Some(frame) => *frame,
            None => {
                let frame = self.walk(address)?;
                if tlb.len() >= TRANSLATIONS {
                    tlb.clear();
                }
                tlb.insert(page, frame);
                frame
            }
        };
        assert!(!self.map.is_hidden(frame), "{frame} is in the balloon, and a page of the application");
        // With the translations held: a flush waits until this access is over.
        Some(access(self.words_of(frame)))
    }
}

// SAFETY: each frame is a part of the model's RAM; directories are frames from the allocator, zeroed and kept for ever; a
// flush takes the translations of all CPUs away, each when it is between two accesses.
unsafe impl Mmu for &'static Soft {
    unsafe fn words(&self, frame: Gfn) -> &Words {
        self.words_of(frame)
    }

    fn directory(&self, address: u64) -> Option<Gfn> {
        let mut directories = locked(&self.directories);
        if let Some(found) = directories.get(&(address >> 30)) {
            return Some(*found);
        }
        let extent = self.frames.alloc(Request::new(Use::Kernel, VcpuId::new(0))).ok()?;
        let frame = self.frames.detach(extent).ok()?;
        self.words_of(frame).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        directories.insert(address >> 30, frame);
        Some(frame)
    }

    fn flush(&self, what: Flush) {
        for tlb in &self.tlbs {
            let mut tlb = locked(tlb);
            match what {
                Flush::All => tlb.clear(),
                Flush::Pages { start, count } => {
                    let first = start >> FRAME_SHIFT;
                    tlb.retain(|page, _| !(first..first + count).contains(page));
                }
            }
        }
    }
}

/// Frames of the guest for the compressed pool, reached where the model keeps them.
pub(crate) struct GuestFrames {
    soft: &'static Soft,
    /// Frames that it has given out.
    pub(crate) out: AtomicU64,
}

impl GuestFrames {
    pub(crate) const fn new(soft: &'static Soft) -> Self {
        Self { soft, out: AtomicU64::new(0) }
    }
}

impl PoolFrames for GuestFrames {
    type Frame = Extent;

    fn allocate(&self) -> Option<Extent> {
        let request = Request::new(Use::Kernel, VcpuId::new(0)).emergency();
        let extent = self.soft.frames.alloc(request).ok()?;
        self.out.fetch_add(1, Ordering::Relaxed);
        Some(extent)
    }

    fn free(&self, frame: Extent) {
        self.out.fetch_sub(1, Ordering::Relaxed);
        if let Err(rejected) = self.soft.frames.free(frame, Contents::Unknown, VcpuId::new(0)) {
            unreachable!("a frame of the pool is refused: {rejected}");
        }
    }

    fn bytes<'f>(&self, frame: &'f Extent) -> &'f FrameBytes {
        // SAFETY: an allocated frame, whose holder alone, shared here, reaches its memory; that is never freed.
        unsafe { &*self.soft.place(frame.first()).cast() }
    }

    fn bytes_mut<'f>(&self, frame: &'f mut Extent) -> &'f mut FrameBytes {
        // SAFETY: as above, and held exclusively.
        unsafe { &mut *self.soft.place(frame.first()).cast() }
    }
}
