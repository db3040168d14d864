//! Tests of the allocator as a whole.

mod balloon;
mod books;
mod fragmentation;
mod grouping;
mod limits;
mod misuse;
mod model;
mod stress;

use std::vec::Vec;

use super::*;
use crate::units::FrameRange;
use books::Books as _;

/// Metadata that lives as long as a test.
pub(crate) struct Memory {
    entries: Vec<Entry>,
    blocks: Vec<Block>,
    magazines: Vec<Magazine>,
    ranges: Vec<FrameRange>,
}

impl Memory {
    pub(super) fn new(ranges: &[FrameRange], cpus: usize) -> Self {
        let layout = Layout::for_map(ranges).unwrap();
        Self {
            entries: (0..layout.entries()).map(|_| Entry::unused()).collect(),
            blocks: (0..layout.blocks()).map(|_| Block::new()).collect(),
            magazines: (0..cpus).map(|_| Magazine::new()).collect(),
            ranges: ranges.to_vec(),
        }
    }

    /// Whole blocks from frame 0.
    pub(crate) fn of_blocks(blocks: u64, cpus: usize) -> Self {
        Self::new(&[range(0, blocks * 512)], cpus)
    }

    pub(super) fn allocator(&mut self) -> FrameAllocator<'_> {
        self.with_reserved(&[], 7)
    }

    pub(super) fn with_reserved(&mut self, reserved: &[FrameRange], id: u16) -> FrameAllocator<'_> {
        self.build(reserved, id)
    }

    pub(crate) fn build<L: LockKind<Gate = SharedGate>>(
        &mut self,
        reserved: &[FrameRange],
        id: u16,
    ) -> FrameAllocator<'_, L> {
        let config = Config { memory: &self.ranges, reserved, id };
        let metadata =
            Metadata { entries: &mut self.entries, blocks: &mut self.blocks, magazines: &mut self.magazines };
        FrameAllocator::new(config, metadata).unwrap()
    }
}

/// The host's own mutex: more threads than processors on a fair spin lock would wait for the scheduler at every turn.
pub(crate) enum HostLocks {}

impl LockKind for HostLocks {
    type Of<T: Send> = std::sync::Mutex<T>;
    type Gate = SharedGate;
}

impl<T> Exclusive<T> for std::sync::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock().unwrap())
    }
}

pub(crate) fn range(first: u64, count: u64) -> FrameRange {
    FrameRange::new(Gfn::new(first), Gfn::new(first + count))
}

pub(super) const CPU: VcpuId = VcpuId::new(0);

pub(super) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(super) fn kernel() -> Request {
    Request::new(Use::Kernel, CPU).emergency()
}

pub(super) fn paged() -> Request {
    Request::new(Use::Paged, CPU).emergency()
}

/// A small generator for traces that must be the same on every run (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }
}
