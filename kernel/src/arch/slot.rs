//! Where each CPU but the first keeps what is its own: its stacks and its area, at addresses that its number gives.
//!
//! | pages of a slot | what |
//! |---|---|
//! | 3 × (1 + 4) | an unmapped page, and an emergency stack above it |
//! | 1 + 8 | an unmapped page, and the stack that the CPU begins with and idles on |
//! | 1 + 2 | an unmapped page, and the area that GS points at |
//! | 5 | unmapped |
//!
//! The first CPU runs before there is memory to map, so its stacks and its area are part of the image.

use super::layout::CPU_SLOTS;
use crate::units::FRAME_SIZE;
use core::ops::Range;
use percpu::{CpuId, MAX_CPUS};

const PAGE: u64 = FRAME_SIZE as u64;
/// Pages of address space for each CPU.
const SLOT_PAGES: u64 = 32;
/// How many emergency stacks there are.
pub const EMERGENCY_STACKS: usize = 3;
const EMERGENCY_PAGES: u64 = 4;
const IDLE_PAGES: u64 = 8;
const AREA_PAGES: u64 = 2;

/// Room for an area, in bytes.
pub const AREA_BYTES: usize = (AREA_PAGES * PAGE) as usize;

/// A part of a slot that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// An emergency stack, below [`EMERGENCY_STACKS`].
    Emergency(usize),
    /// The stack of the idle loop.
    Idle,
    /// What GS points at.
    Area,
}

/// All parts, in the order of their addresses.
const PARTS: [Part; EMERGENCY_STACKS + 2] =
    [Part::Emergency(0), Part::Emergency(1), Part::Emergency(2), Part::Idle, Part::Area];

impl Part {
    const fn pages(self) -> u64 {
        match self {
            Self::Emergency(_) => EMERGENCY_PAGES,
            Self::Idle => IDLE_PAGES,
            Self::Area => AREA_PAGES,
        }
    }
}

/// The slot of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(CpuId);

impl Slot {
    /// Frames that a slot needs.
    pub const FRAMES: u64 = EMERGENCY_STACKS as u64 * EMERGENCY_PAGES + IDLE_PAGES + AREA_PAGES;
    /// Bytes of address space from one slot to the next.
    pub const SIZE: u64 = SLOT_PAGES * PAGE;

    /// The slot of `cpu`.
    #[must_use]
    pub const fn of(cpu: CpuId) -> Self {
        Self(cpu)
    }

    /// Its CPU.
    #[must_use]
    pub const fn cpu(self) -> CpuId {
        self.0
    }

    /// The addresses of a part. The page below it is not mapped.
    #[must_use]
    pub fn part(self, wanted: Part) -> Range<u64> {
        let mut at = CPU_SLOTS + self.0.get() as u64 * Self::SIZE;
        for part in PARTS {
            at += PAGE;
            let end = at + part.pages() * PAGE;
            if part == wanted {
                return at..end;
            }
            at = end;
        }
        unreachable!("a slot has no {wanted:?}")
    }

    /// The addresses of the pages that are to be mapped, [`FRAMES`](Self::FRAMES) of them.
    pub fn pages(self) -> impl Iterator<Item = u64> {
        PARTS.into_iter().flat_map(move |part| self.part(part).step_by(FRAME_SIZE))
    }

    /// The slot and the part that have `address`, in the part itself or in the unmapped page below it.
    #[must_use]
    pub fn find(address: u64) -> Option<(Self, Part)> {
        let number = usize::try_from(address.checked_sub(CPU_SLOTS)? / Self::SIZE).ok()?;
        let slot = Self(CpuId::new(number)?);
        let part = PARTS.into_iter().find(|part| {
            let range = slot.part(*part);
            (range.start - PAGE..range.end).contains(&address)
        })?;
        Some((slot, part))
    }
}

/// Bytes of address space that all slots take.
pub const SLOTS_BYTES: u64 = MAX_CPUS as u64 * Slot::SIZE;

const _: () = assert!(Slot::FRAMES + PARTS.len() as u64 <= SLOT_PAGES, "the parts fit their slot");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{WINDOW, WINDOW_SLOTS};
    use std::collections::BTreeSet;

    #[test]
    fn no_two_pages_are_one_and_every_part_has_a_guard() {
        let mut pages = BTreeSet::new();
        for cpu in CpuId::first(MAX_CPUS) {
            let own: BTreeSet<_> = Slot::of(cpu).pages().collect();
            assert_eq!(own.len() as u64, Slot::FRAMES);
            pages.extend(own);
        }
        assert_eq!(pages.len() as u64, MAX_CPUS as u64 * Slot::FRAMES);
        for cpu in CpuId::first(MAX_CPUS) {
            for part in PARTS {
                assert!(!pages.contains(&(Slot::of(cpu).part(part).start - PAGE)), "{cpu} {part:?}");
            }
        }
        let (first, last) = (*pages.first().unwrap(), *pages.last().unwrap());
        assert!(first > WINDOW + (WINDOW_SLOTS * FRAME_SIZE) as u64 && last < CPU_SLOTS + SLOTS_BYTES);
    }

    #[test]
    fn an_address_is_found_in_its_part() {
        let slot = Slot::of(CpuId::new(5).unwrap());
        for part in PARTS {
            let range = slot.part(part);
            for address in [range.start - PAGE, range.start - 1, range.start, range.end - 1] {
                assert_eq!(Slot::find(address), Some((slot, part)), "{address:#x}");
            }
        }
        assert_eq!(Slot::find(slot.part(Part::Area).end), None);
        assert_eq!(Slot::find(CPU_SLOTS - 1), None);
        assert_eq!(Slot::find(CPU_SLOTS + SLOTS_BYTES), None);
        assert_eq!(Slot::find(0), None);
        assert_eq!(Slot::find(u64::MAX), None);
    }
}
