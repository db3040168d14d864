//! Populate-on-demand: a guest with less memory than its map shows.
//!
//! The cache holds frames that the domain is charged for and that are mapped nowhere; they are zero. An entry is
//! a frame that will be taken from the cache when it is touched. When there are more entries than cache, Xen
//! keeps what the guest releases for the cache, and a guest that touches too much is crashed.

use super::p2m::{BLOCK, Slot};
use super::state::{Crash, State};
use ebb::units::Gfn;
use std::vec::Vec;

/// Cache and debt.
#[derive(Default)]
pub(super) struct Pod {
    pub(super) cache: Vec<super::host::Mfn>,
    pub(super) entries: u64,
}

impl State {
    /// What an access to `frame` does: nothing, unless it is populated on demand.
    pub(super) fn touch(&mut self, frame: Gfn) {
        if self.p2m.get(frame) != Slot::PopulateOnDemand || self.crash.is_some() {
            return;
        }
        let first = Gfn::new(frame.get() / BLOCK * BLOCK);
        if self.p2m.is_large(frame) && self.take_large_from_cache(first) {
            return;
        }
        if self.pod.cache.is_empty() {
            self.sweep();
        }
        let Some(mfn) = self.pod.cache.pop() else {
            self.crash(Crash::OutOfPodMemory(frame));
            return;
        };
        if self.p2m.set(frame, Slot::Ram(mfn)).is_err() {
            self.crash(Crash::PagingPoolEmpty(frame));
            self.pod.cache.push(mfn);
            return;
        }
        self.pod.entries -= 1;
        self.pages.fill(frame, 0);
    }

    /// Populates a whole untouched block at once, if the cache has a whole 2 MiB chunk.
    fn take_large_from_cache(&mut self, first: Gfn) -> bool {
        self.pod.cache.sort_unstable();
        let run = self.pod.cache.windows(BLOCK as usize).position(|run| {
            u64::from(run[0]).is_multiple_of(BLOCK)
                && u64::from(run[BLOCK as usize - 1] - run[0]) == BLOCK - 1
        });
        let Some(start) = run else { return false };
        let mfns: Vec<_> = self.pod.cache.drain(start..start + BLOCK as usize).collect();
        self.p2m.set_large(first, |index| Slot::Ram(mfns[index as usize]));
        self.pod.entries -= BLOCK;
        (0..BLOCK).for_each(|index| self.pages.fill(Gfn::new(first.get() + index), 0));
        true
    }

    /// The cache is dry: takes one frame of zeros back from the guest, if there is any.
    fn sweep(&mut self) {
        let ram: Vec<_> = self
            .p2m
            .mapped()
            .filter_map(|(frame, slot)| if let Slot::Ram(mfn) = slot { Some((frame, mfn)) } else { None })
            .filter(|(frame, _)| frame.get() < self.ram_frames)
            .collect();
        for (frame, mfn) in ram.into_iter().rev() {
            if self.pages.is_zero(frame) && self.p2m.set(frame, Slot::PopulateOnDemand).is_ok() {
                self.pod.entries += 1;
                self.pod.cache.push(mfn);
                return;
            }
        }
    }

    /// What populate-on-demand does about the release of an extent: how many of its frames it has dealt with.
    pub(super) fn pod_release(&mut self, first: Gfn, order: u32) -> u64 {
        if self.pod.entries == 0 {
            return 0;
        }
        let frames = 1 << order;
        let extent = || (0..frames).map(|index| Gfn::new(first.get().wrapping_add(index)));
        let mut entries =
            extent().filter(|frame| self.p2m.get(*frame) == Slot::PopulateOnDemand).count() as u64;
        let ram = extent().filter(|frame| self.p2m.get(*frame).charged().is_some()).count();
        let mut steal = self.pod.entries > self.pod.cache.len() as u64;
        if entries == 0 && !steal {
            return 0;
        }
        let mut done = 0;
        if ram == 0 && entries == frames && order == 9 && first.get().is_multiple_of(BLOCK) {
            self.p2m.set_large(first, |_| Slot::Hole);
            (self.pod.entries, done) = (self.pod.entries - frames, frames);
        } else {
            for frame in extent() {
                let slot = self.p2m.get(frame);
                let entry = slot == Slot::PopulateOnDemand;
                let Some(mfn) = slot.charged().filter(|_| steal).map(Some).or(entry.then_some(None)) else {
                    continue;
                };
                if self.p2m.set(frame, Slot::Hole).is_err() {
                    if order > 0 {
                        self.crash(Crash::PagingPoolEmpty(frame));
                    }
                    break;
                }
                self.pages.fill(frame, super::ALL_ONES);
                match mfn {
                    Some(mfn) => self.pod.cache.push(mfn),
                    None => {
                        self.pod.entries -= 1;
                        entries -= 1;
                    }
                }
                done += 1;
                steal = self.pod.entries > self.pod.cache.len() as u64;
                if entries == 0 && !steal {
                    break;
                }
            }
        }
        self.trim_cache();
        done
    }

    /// Frees what the cache has beyond the debt.
    fn trim_cache(&mut self) {
        while self.pod.cache.len() as u64 > self.pod.entries {
            let Some(mfn) = self.pod.cache.pop() else { break };
            self.host.free(mfn);
            self.charged -= 1;
        }
    }
}
