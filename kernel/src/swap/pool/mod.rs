//! The compressed pool: pages as LZ4 blocks, in frames of the guest.
//!
//! **Layout.** Compressed pages are laid one after the other, in the order in which they come, into a *log* of frames
//! (`log.rs`). An object has a header of 8 bytes and is padded to 8; where a frame ends, it goes on in the next. So
//! there are no size classes and no holes between objects, but for what dies: that is slid together (`slide.rs`),
//! cheaply and in place, as soon as it is more than a small share, unless a page of the same size comes soon (`hole.rs`).
//! Each object has an entry of one word (`entry.rs`) that says where it is, so that it can move while its handle stays.
//! Beside the data a page costs some 24 bytes.
//!
//! **Age** is for free: the log's order is the order of storing, and sliding keeps it. [`Pool::coldest`] names pages
//! from the old end, by the tag that they were stored under, for whoever moves them elsewhere (`evict.rs`).
//!
//! **Several CPUs.** The pool is made of shards, each a log of its own behind a lock; a CPU stores into its own
//! first. Compression and decompression happen outside of these locks, in memory of the CPU. Preemption is off during
//! both, interrupts are not. No method is for interrupt handlers, which would find locks held.
//!
//! **Memory.** Frames are allocated on the way, through [`PoolFrames`], and for every 128 of them 4 KiB of the heap
//! (`table.rs`), by [`Pool::store`] alone and, to spare a page that was loaded, by [`Pool::coldest`], which does without.
//! Loading, freeing and compacting need none.
//!
//! **Corruption** is an error with a name. Entries carry a check, headers and entries name each other, the data has a
//! checksum, and the decoder checks its bounds. A frame whose headers make no sense is given up: it is not walked any
//! more, and what is stored in it is still there for who has a handle.

mod books;
mod checksum;
mod entry;
mod error;
mod evict;
mod hole;
mod log;
mod scratch;
mod settings;
mod shard;
mod slide;
mod slot;
mod supply;
mod table;
mod validate;

#[cfg(test)]
pub(super) mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use percpu::{CpuPin, Cpus, MAX_CPUS, Pinned};
use spin::mutex::{SpinMutex, SpinMutexGuard};

use self::checksum::checksum;
use self::entry::{EntryId, GENERATIONS, Used};
use self::scratch::{Scratch, unpack};
use self::settings::Dials;
use self::shard::{HEADER, Header, Object, Shard, TAG};
use self::supply::{Short, Supply};
use super::Page;
use crate::mm::pool_frames::PoolFrames;
use crate::units::{FRAME_SIZE, Frames};

pub use self::error::{Corruption, Fault, NoMemory, Refused};
pub use self::settings::{Config, Settings, Stats};
pub use self::validate::Inconsistency;

/// The most shards of a pool.
pub const MOST_SHARDS: usize = MAX_CPUS;

/// Pages that may be spared because they were loaded, before one is named all the same.
const CHANCES: u32 = 64;

/// Frames that are slid before a store gives up for want of one.
const LAST_SLIDES: u64 = 256;

/// A stored page, by name. Valid until it is freed; an old one is told from a new one, mostly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u64);

const GENERATION_SHIFT: u32 = 32;
const SHARD_SHIFT: u32 = GENERATION_SHIFT + GENERATIONS.trailing_zeros();

impl Handle {
    /// Bits that a handle needs.
    pub const BITS: u32 = SHARD_SHIFT + MOST_SHARDS.trailing_zeros();

    const fn new(shard: usize, id: EntryId, generation: u16) -> Self {
        Self((shard as u64) << SHARD_SHIFT | (generation as u64) << GENERATION_SHIFT | id.to_bits() as u64)
    }

    /// As a number, below 2^[`BITS`](Self::BITS).
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The handle with this number, which need not be anybody's.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    const fn shard(self) -> usize {
        (self.0 >> SHARD_SHIFT) as usize
    }

    const fn id(self) -> EntryId {
        EntryId::from_bits(self.0 as u32)
    }

    const fn generation(self) -> u16 {
        (self.0 >> GENERATION_SHIFT) as u16 % GENERATIONS
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool handle {:#x}", self.0)
    }
}

/// The pool. Shared by reference. `F` is where frames come from, `P` the CPUs.
///
/// All methods are for threads, with interrupts on; none blocks, all may spin for as long as another CPU copies some
/// pages.
pub struct Pool<F: PoolFrames, P: Cpus> {
    supply: Supply<F>,
    cpus: P,
    shards: Box<[SpinMutex<Shard<F::Frame>>]>,
    scratch: Box<[SpinMutex<Scratch>]>,
    checked: bool,
    dials: Dials,
    /// Stores so far, around 2^32: what age is told by.
    clock: AtomicU32,
    counts: Counts,
}

/// What is counted outside of the shards.
#[derive(Debug, Default)]
struct Counts {
    stores: AtomicU64,
    loads: AtomicU64,
    refused_incompressible: AtomicU64,
    refused_limit: AtomicU64,
    refused_no_frame: AtomicU64,
    evicted: AtomicU64,
    corrupt: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<F: PoolFrames, P: Cpus> fmt::Debug for Pool<F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("frames", &self.supply.taken())
            .field("limit", &self.supply.limit())
            .finish_non_exhaustive()
    }
}

impl<F: PoolFrames, P: Cpus> Pool<F, P> {
    /// An empty pool. Work memory of 21 KiB for each CPU comes from the heap here and never later; its tables, a
    /// hundred and twenty-eighth of what is in the pool, as it takes frames.
    ///
    /// # Errors
    ///
    /// [`NoMemory`], if the heap has none.
    pub fn new(frames: F, cpus: P, config: Config) -> Result<Self, NoMemory> {
        let count = config.shards.clamp(1, MOST_SHARDS);
        let slots = usize::try_from(config.capacity.get()).unwrap_or(usize::MAX).div_ceil(count);
        let mut shards = Vec::new();
        let bytes = count * size_of::<SpinMutex<Shard<F::Frame>>>();
        shards.try_reserve_exact(count).map_err(|_| NoMemory { bytes })?;
        shards.extend((0..count).map(|_| SpinMutex::new(Shard::new(slots))));
        Ok(Self {
            supply: Supply::new(frames, config.settings.limit.get()),
            cpus,
            shards: shards.into_boxed_slice(),
            scratch: Scratch::several(cpus.cpu_count().max(1), SpinMutex::new)?,
            checked: config.checksum,
            dials: Dials::new(&config.settings),
            clock: AtomicU32::new(0),
            counts: Counts::default(),
        })
    }

    /// Changes what can be changed.
    pub fn set(&self, settings: &Settings) {
        self.supply.set_limit(settings.limit.get());
        self.dials.set(settings);
    }

    /// Stores a page under tag 0. See [`store_tagged`](Self::store_tagged).
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed but counts.
    pub fn store(&self, page: &Page) -> Result<Handle, Refused> {
        self.store_tagged(page, 0)
    }

    /// Stores a page. The tag is what [`coldest`](Self::coldest) will call it, and means nothing else.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed but counts.
    pub fn store_tagged(&self, page: &Page, tag: u32) -> Result<Handle, Refused> {
        let pin = CpuPin::new(self.cpus);
        let mut scratch = self.scratch(&pin);
        let length = scratch.pack(page, tag, self.dials.most_bytes()).map_err(|bytes| {
            count(&self.counts.refused_incompressible);
            Refused::Incompressible { bytes }
        })?;
        let Scratch { object, spare, .. } = &mut *scratch;
        let stamp = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut short = None;
        let cpu = pin.cpu().get();
        for index in (0..self.shards.len()).map(|at| (cpu + at) % self.shards.len()) {
            let mut tries = 0;
            while tries < 2 {
                let mut shard = self.hold(&self.shards[index]);
                match shard.insert(&self.supply, object, length, self.sum(), stamp) {
                    Ok((id, generation)) => {
                        let is_untidy = shard.dead() > shard.dead_allowed(self.dials.overhead_percent());
                        drop(shard);
                        if is_untidy {
                            self.tidy(index, spare);
                        }
                        count(&self.counts.stores);
                        return Ok(Handle::new(index, id, generation));
                    }
                    Err(why) => {
                        short.get_or_insert(why);
                        drop(shard);
                        tries += if self.squeeze(index, spare) { 1 } else { 2 };
                    }
                }
            }
        }
        if short == Some(Short::Frame) {
            count(&self.counts.refused_no_frame);
            Err(Refused::NoFrame)
        } else {
            count(&self.counts.refused_limit);
            Err(Refused::Limit)
        }
    }

    /// Loads a page, which stays.
    ///
    /// # Errors
    ///
    /// [`Fault`]. What `into` holds then is no page.
    pub fn load(&self, handle: Handle, into: &mut Page) -> Result<(), Fault> {
        let pin = CpuPin::new(self.cpus);
        let mut scratch = self.scratch(&pin);
        let object = &mut scratch.object;
        let loaded = self.fetch(handle, object).and_then(|used| self.open(handle, &used, object, into));
        match loaded {
            Ok(()) => count(&self.counts.loads),
            Err(Fault::Corrupt(_)) => count(&self.counts.corrupt),
            Err(Fault::NotStored) => {}
        }
        loaded
    }

    /// Forgets a page. Also of a corrupt page this is right, and gives its memory back as far as it is known.
    ///
    /// # Errors
    ///
    /// [`Fault`]: nothing has changed. Where the page's entry is corrupt, its bytes are lost to the pool.
    pub fn free(&self, handle: Handle) -> Result<(), Fault> {
        let _pin = CpuPin::new(self.cpus);
        let shard = self.shards.get(handle.shard()).ok_or(Fault::NotStored)?;
        let used = self.hold(shard).remove(&self.supply, handle.id(), handle.generation())?;
        if used.kept {
            count(&self.counts.evicted);
        }
        Ok(())
    }

    /// Names the page that has been here for the longest time without being loaded, and its tag, and does not name it
    /// again unless it is [spared](Self::spare). `None` if there is no other. Others may load the page, and free it.
    ///
    /// The tag is what is found where it was stored; that nobody changed it meanwhile only a load can say.
    pub fn coldest(&self) -> Option<(Handle, u32)> {
        let now = self.clock.load(Ordering::Relaxed);
        let frames = self.supply.frames();
        let mut tried = [false; MOST_SHARDS];
        loop {
            let pin = CpuPin::new(self.cpus);
            let age = |index: usize| {
                let stamp = self.hold(&self.shards[index]).oldest_stamp()?;
                Some((now.wrapping_sub(stamp), index))
            };
            let (_, index) = (0..self.shards.len())
                .filter(|index| !tried[*index])
                .filter_map(age)
                .max_by_key(|(age, _)| *age)?;
            tried[index] = true;
            let mut scratch = self.scratch(&pin);
            let mut shard = self.hold(&self.shards[index]);
            let Some((id, used)) = shard.coldest(&self.supply, &mut scratch.spare, CHANCES, now) else {
                continue;
            };
            // A page without a tag is read beyond the end of the log; a load will say what that is.
            let tag = shard.tag(frames, &used).unwrap_or_default();
            shard.mark(frames, id, Used { kept: true, ..used });
            return Some((Handle::new(index, id, used.generation), tag));
        }
    }

    /// The page that [`coldest`](Self::coldest) named stays: as if it had just been loaded, and it may be named again.
    pub fn spare(&self, handle: Handle) {
        let _pin = CpuPin::new(self.cpus);
        let Some(shard) = self.shards.get(handle.shard()) else { return };
        let mut shard = self.hold(shard);
        let (frames, id) = (self.supply.frames(), handle.id());
        if let Ok(used) = shard.find(frames, id, handle.generation()) {
            shard.mark(frames, id, Used { kept: false, referenced: true, ..used });
        }
    }

    /// Slides the pool together, each frame once, and answers how many frames it gave back. For a thread: preemption
    /// is on between frames.
    pub fn compact(&self) -> Frames {
        (0..self.shards.len())
            .map(|index| self.compact_shard(index))
            .fold(Frames::ZERO, |sum, more| sum + more)
    }

    fn compact_shard(&self, index: usize) -> Frames {
        let shard = &self.shards[index];
        let (mut left, before) = {
            let _pin = CpuPin::new(self.cpus);
            let mut shard = self.hold(shard);
            shard.rewind();
            (shard.counts.log_frames, shard.counts.emptied)
        };
        loop {
            let pin = CpuPin::new(self.cpus);
            let mut scratch = self.scratch(&pin);
            let mut shard = self.hold(shard);
            if left == 0 || !shard.slide(&self.supply, &mut scratch.spare) {
                return Frames::new(shard.counts.emptied - before);
            }
            left -= 1;
        }
    }

    /// What there is, each figure right for some moment during the call.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut stats = Stats {
            scratch_bytes: (self.scratch.len() * Scratch::BYTES) as u64,
            stores: get(&self.counts.stores),
            loads: get(&self.counts.loads),
            refused_incompressible: get(&self.counts.refused_incompressible),
            refused_limit: get(&self.counts.refused_limit),
            refused_no_frame: get(&self.counts.refused_no_frame),
            evicted: get(&self.counts.evicted),
            corrupt: get(&self.counts.corrupt),
            ..Stats::default()
        };
        for shard in &self.shards {
            let _pin = CpuPin::new(self.cpus);
            let shard = self.hold(shard);
            stats.stored += shard.counts.stored;
            stats.compressed_bytes += shard.counts.compressed;
            stats.live_bytes += shard.counts.live;
            stats.log_frames += shard.counts.log_frames;
            stats.entry_frames += shard.counts.entry_frames;
            stats.table_bytes += shard.slots.bytes();
            stats.damaged_frames += shard.counts.damaged;
            stats.moved += shard.counts.moved;
            stats.emptied += shard.counts.emptied;
        }
        stats
    }

    /// The frames of the pool, and what it may have.
    #[must_use]
    pub fn frames(&self) -> (Frames, Frames) {
        (Frames::new(self.supply.taken()), Frames::new(self.supply.limit()))
    }

    /// The CPU's work memory: nobody else's, as long as the CPU is pinned.
    fn scratch(&self, pin: &CpuPin<P>) -> SpinMutexGuard<'_, Scratch> {
        self.hold(&self.scratch[pin.cpu().get() % self.scratch.len()])
    }

    /// Takes a lock. Not in turn: a virtual CPU that is not running should not be waited for by those that are.
    fn hold<'m, T>(&self, lock: &'m SpinMutex<T>) -> SpinMutexGuard<'m, T> {
        let mut rounds = 0;
        loop {
            if let Some(held) = lock.try_lock() {
                return held;
            }
            self.cpus.relax(rounds);
            rounds = rounds.saturating_add(1);
        }
    }

    /// How checksums are made.
    fn sum(&self) -> impl FnOnce(&[u8], u32) -> u32 {
        let checked = self.checked;
        move |data, owner| if checked { checksum(data, owner) } else { 0 }
    }

    /// Copies an object out, and remembers that it was wanted.
    fn fetch(&self, handle: Handle, object: &mut Object) -> Result<Used, Fault> {
        let (frames, id) = (self.supply.frames(), handle.id());
        let mut shard = self.hold(self.shards.get(handle.shard()).ok_or(Fault::NotStored)?);
        let used = shard.find(frames, id, handle.generation())?;
        shard.fetch(frames, &used, object)?;
        if !used.referenced {
            shard.mark(frames, id, Used { referenced: true, ..used });
        }
        Ok(used)
    }

    /// Checks an object, and makes a page of it.
    fn open(&self, handle: Handle, used: &Used, object: &Object, into: &mut Page) -> Result<(), Fault> {
        let (header, rest) = object.split_first_chunk::<HEADER>().ok_or(Fault::Corrupt(Corruption::Entry))?;
        let data = rest.get(..used.length).ok_or(Fault::Corrupt(Corruption::Entry))?;
        match Header::decode(*header) {
            Header::Live { owner, checksum } if owner == handle.id() => {
                if self.sum()(data, owner.to_bits()) != checksum {
                    return Err(Fault::Corrupt(Corruption::Checksum));
                }
            }
            _ => return Err(Fault::Corrupt(Corruption::Header)),
        }
        let compressed = data.get(TAG..).ok_or(Fault::Corrupt(Corruption::Entry))?;
        unpack(compressed, into).map_err(Fault::Corrupt)
    }

    /// Slides a shard together as far as the settings want.
    fn tidy(&self, index: usize, spare: &mut Object) {
        let (percent, slides) = (self.dials.overhead_percent(), self.dials.slides());
        if percent >= Dials::LEAVE {
            return;
        }
        for _ in 0..slides {
            let mut shard = self.hold(&self.shards[index]);
            if shard.dead() <= shard.dead_allowed(percent) {
                return;
            }
            shard.slide(&self.supply, spare);
        }
    }

    /// Slides a shard together until a frame is empty, or for a while. Whether one is.
    fn squeeze(&self, index: usize, spare: &mut Object) -> bool {
        for _ in 0..LAST_SLIDES {
            let mut shard = self.hold(&self.shards[index]);
            if shard.dead() < FRAME_SIZE as u64 {
                return false;
            }
            let before = shard.counts.emptied;
            shard.slide(&self.supply, spare);
            if shard.counts.emptied > before {
                return true;
            }
        }
        false
    }
}

impl<F: PoolFrames, P: Cpus> Drop for Pool<F, P> {
    fn drop(&mut self) {
        for shard in &mut self.shards {
            shard.get_mut().clear(&self.supply);
        }
    }
}
