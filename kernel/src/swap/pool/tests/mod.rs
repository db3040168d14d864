//! The pool against a model, short of memory, with damage, and on several CPUs.

mod corpora;
pub(in crate::swap) mod damage;
mod evict;
mod exhaustion;
mod holes;
mod model;
mod parallel;
mod round_trip;

use std::boxed::Box;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::vec::Vec;

use percpu::CpuId;
use percpu::host::{Host, Machine, OnCpu};
use workload::random::Rng;

use super::{Config, Corruption, Fault, Handle, Pool, Settings};
use crate::mm::pool_frames::{FrameBytes, PoolFrames};
use crate::swap::Page;
use crate::units::{FRAME_SIZE, Frames};

/// Frames from the host's heap, counted, and refused when the test says so.
#[derive(Debug)]
pub(in crate::swap) struct HostFrames {
    held: AtomicU64,
    /// How many more are given out; negative for any number.
    left: AtomicI64,
    allocations: AtomicU64,
}

impl HostFrames {
    pub(in crate::swap) fn new() -> Self {
        Self { held: AtomicU64::new(0), left: AtomicI64::new(-1), allocations: AtomicU64::new(0) }
    }

    /// Gives out so many more, and those that come back.
    pub(in crate::swap) fn limit(&self, left: Option<u32>) {
        self.left.store(left.map_or(-1, i64::from), Ordering::SeqCst);
    }

    pub(in crate::swap) fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    pub(in crate::swap) fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::SeqCst)
    }
}

impl PoolFrames for HostFrames {
    type Frame = Box<FrameBytes>;

    fn allocate(&self) -> Option<Self::Frame> {
        self.allocations.fetch_add(1, Ordering::SeqCst);
        let one_less = |left: i64| (left != 0).then_some(if left > 0 { left - 1 } else { left });
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).ok()?;
        self.held.fetch_add(1, Ordering::SeqCst);
        // Never zeros by accident.
        Some(Box::new([0xDB; FRAME_SIZE]))
    }

    fn free(&self, frame: Self::Frame) {
        drop(frame);
        self.held.fetch_sub(1, Ordering::SeqCst);
        let one_more = |left: i64| (left >= 0).then_some(left + 1);
        let _ = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
    }

    fn bytes<'f>(&self, frame: &'f Self::Frame) -> &'f FrameBytes {
        frame
    }

    fn bytes_mut<'f>(&self, frame: &'f mut Self::Frame) -> &'f mut FrameBytes {
        frame
    }
}

pub(in crate::swap) type TestPool<'f> = Pool<&'f HostFrames, Host>;

/// A machine of which this thread is the first CPU.
pub(in crate::swap) fn machine(cpus: usize) -> (Host, OnCpu) {
    let host = Machine::new(cpus);
    (host, host.enter(CpuId::BOOT))
}

pub(in crate::swap) fn config(capacity: u64) -> Config {
    let capacity = Frames::new(capacity);
    Config { capacity, shards: 1, checksum: true, settings: Settings::new(capacity) }
}

/// What becomes of a page that is offered to somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Taken,
    Keep,
}

/// What became of an eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Evicted {
    Taken(Handle),
    Kept(Handle),
    Corrupt(Handle, Corruption),
    Nothing,
}

/// Offers the coldest page to `take`, as whoever moves pages elsewhere does.
pub(super) fn evict(
    pool: &TestPool<'_>,
    buffer: &mut Page,
    take: impl FnOnce(Handle, &Page) -> Verdict,
) -> Evicted {
    let Some((handle, _)) = pool.coldest() else { return Evicted::Nothing };
    match pool.load(handle, buffer) {
        Ok(()) => {}
        Err(Fault::Corrupt(corruption)) => return Evicted::Corrupt(handle, corruption),
        // Somebody was faster.
        Err(Fault::NotStored) => return Evicted::Kept(handle),
    }
    match take(handle, buffer) {
        Verdict::Taken => {
            let _ = pool.free(handle);
            Evicted::Taken(handle)
        }
        Verdict::Keep => {
            pool.spare(handle);
            Evicted::Kept(handle)
        }
    }
}

/// A page that becomes about `bytes` bytes, and depends on `seed`.
pub(in crate::swap) fn page(bytes: usize, seed: u64) -> Page {
    let mut page = [0; FRAME_SIZE];
    let mut random = Rng::new(seed);
    for part in page[..bytes].chunks_mut(8) {
        part.copy_from_slice(&random.draw().to_le_bytes()[..part.len()]);
    }
    page
}
