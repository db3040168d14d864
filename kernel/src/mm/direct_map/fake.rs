//! A direct map for tests: remembers what is hidden and from whom, and holds its callers to the contract.
#![expect(clippy::expect_used, reason = "a test's tool: it is never poisoned")]

use super::{DirectMap, NoTable};
use crate::units::{Frames, Gfn, Order};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::vec::Vec;

/// What the fake is told to write through, frame by frame.
type Wipe<'w> = Box<dyn Fn(Gfn) + Send + Sync + 'w>;

#[derive(Default)]
struct Inside {
    /// Frames that are not in the map.
    hidden: BTreeSet<u64>,
    /// Frames that a CPU may still know: hidden after the last settling.
    unsettled: BTreeSet<u64>,
    /// Blocks whose mapping is split, and so has a page table.
    split: BTreeSet<u64>,
    /// Page tables that are left, or none if there are plenty.
    tables: Option<u64>,
    settles: u64,
    scrubbed: Vec<(Gfn, Order)>,
}

/// A direct map over nothing. It panics where the contract is broken: hiding what is hidden, showing what is not,
/// scrubbing what cannot be reached.
#[derive(Default)]
pub struct FakeMap<'w> {
    inside: Mutex<Inside>,
    wipe: Option<Wipe<'w>>,
}

impl core::fmt::Debug for FakeMap<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FakeMap").field("hidden", &self.hidden()).finish_non_exhaustive()
    }
}

impl<'w> FakeMap<'w> {
    /// Everything is in the map, in blocks, and scrubbing is only noted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, but scrubbing calls `wipe` for each frame.
    #[must_use]
    pub fn wiping(wipe: impl Fn(Gfn) + Send + Sync + 'w) -> Self {
        Self { wipe: Some(Box::new(wipe)), ..Self::default() }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Inside) -> R) -> R {
        work(&mut self.inside.lock().expect("the fake map is whole"))
    }

    /// From now on there are only so many page tables, or any number for `None`.
    pub fn limit_tables(&self, left: Option<u64>) {
        self.with(|inside| inside.tables = left);
    }

    /// How many frames are hidden.
    #[must_use]
    pub fn hidden(&self) -> Frames {
        self.with(|inside| Frames::new(inside.hidden.len() as u64))
    }

    /// Whether a frame is hidden and no CPU knows it any more.
    #[must_use]
    pub fn is_gone(&self, frame: Gfn) -> bool {
        self.with(|inside| inside.hidden.contains(&frame.get()) && !inside.unsettled.contains(&frame.get()))
    }

    /// Whether a frame is hidden.
    #[must_use]
    pub fn is_hidden(&self, frame: Gfn) -> bool {
        self.with(|inside| inside.hidden.contains(&frame.get()))
    }

    /// How often was settled.
    #[must_use]
    pub fn settles(&self) -> u64 {
        self.with(|inside| inside.settles)
    }

    /// What was scrubbed, in order.
    #[must_use]
    pub fn scrubbed(&self) -> Vec<(Gfn, Order)> {
        self.with(|inside| inside.scrubbed.clone())
    }
}

fn frames(first: Gfn, order: Order) -> impl Iterator<Item = u64> {
    assert!(first.is_aligned(order) && order <= Order::BLOCK, "an extent is aligned and at most a block");
    first.get()..first.get() + order.frames().get()
}

impl Inside {
    /// Less than a block needs a page table.
    fn split(&mut self, first: Gfn, order: Order) -> Result<(), NoTable> {
        let block = first.get() / Order::BLOCK.frames().get();
        if order == Order::BLOCK {
            if self.split.remove(&block) {
                self.tables = self.tables.map(|left| left + 1);
            }
        } else if !self.split.contains(&block) {
            self.tables = match self.tables {
                Some(0) => return Err(NoTable),
                left => left.map(|left| left - 1),
            };
            self.split.insert(block);
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "implements a port whose operations want a promise")]
impl DirectMap for FakeMap<'_> {
    unsafe fn hide(&self, first: Gfn, order: Order) -> Result<(), NoTable> {
        self.with(|inside| {
            inside.split(first, order)?;
            for frame in frames(first, order) {
                assert!(inside.hidden.insert(frame), "frame {frame:#x} is hidden twice");
                inside.unsettled.insert(frame);
            }
            Ok(())
        })
    }

    fn settle(&self) {
        self.with(|inside| {
            inside.settles += 1;
            inside.unsettled.clear();
        });
    }

    fn show(&self, first: Gfn, order: Order) -> Result<(), NoTable> {
        self.with(|inside| {
            inside.split(first, order)?;
            for frame in frames(first, order) {
                assert!(inside.hidden.remove(&frame), "frame {frame:#x} is shown, but was not hidden");
                inside.unsettled.remove(&frame);
            }
            Ok(())
        })
    }

    unsafe fn scrub(&self, first: Gfn, order: Order) {
        self.with(|inside| {
            for frame in frames(first, order) {
                assert!(!inside.hidden.contains(&frame), "frame {frame:#x} is scrubbed, but is hidden");
            }
            inside.scrubbed.push((first, order));
        });
        if let Some(wipe) = &self.wipe {
            frames(first, order).for_each(|frame| wipe(Gfn::new(frame)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_block_need_a_table_and_a_whole_one_gives_it_back() {
        let map = FakeMap::new();
        map.limit_tables(Some(1));
        let hide = |frame, order| {
            #[expect(unsafe_code, reason = "nothing is there")]
            // SAFETY: the fake has no memory.
            unsafe {
                map.hide(Gfn::new(frame), order)
            }
        };
        assert_eq!(hide(512, Order::FRAME), Ok(()));
        assert_eq!(hide(0, Order::FRAME), Err(NoTable));
        assert!(!map.is_hidden(Gfn::new(0)) && map.is_hidden(Gfn::new(512)));
        assert!(!map.is_gone(Gfn::new(512)));
        map.settle();
        assert!(map.is_gone(Gfn::new(512)));
        assert_eq!(map.show(Gfn::new(512), Order::FRAME), Ok(()));
        assert_eq!(hide(512, Order::BLOCK), Ok(()));
        assert_eq!(hide(0, Order::FRAME), Ok(()), "the table is free again");
        assert_eq!((map.hidden(), map.settles()), (Frames::new(513), 1));
    }

    #[test]
    #[should_panic(expected = "was not hidden")]
    fn showing_what_is_there_is_a_mistake() {
        let _ = FakeMap::new().show(Gfn::new(3), Order::FRAME);
    }
}
