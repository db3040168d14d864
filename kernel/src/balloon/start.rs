//! What a guest has to give back at boot: arithmetic on what it is told, and nothing else.
//!
//! A guest that was started with `memory` < `maxmem` sees all of `maxmem` in its map, but has been given `memory`:
//! the rest is populated on demand, at the first touch, for as long as that lasts. Touch more, and Xen crashes the
//! domain. So the difference has to be given back before anything else is done with memory. The frames need not have
//! been touched for it, and must not be: a release of what was never touched is one cheap operation a block. Source:
//! Xen `xen/arch/x86/mm/p2m-pod.c`, `docs/misc/xen-command-line.pandoc`, `tools/libs/light/libxl_mem.c`.

use crate::units::{Frames, Kib};

/// What the toolstack adds to a target when it sets `max_pages`: 1 MiB.
const TOOLSTACK_SLACK: u64 = 256;

/// Frames charged beside RAM (special pages, ACPI tables) on any domain that a toolstack builds today, at most.
const PLAUSIBLE_EXTRA: u64 = 64;

/// What is known at boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartFacts {
    /// Frames of RAM in the memory map.
    pub ram: Frames,
    /// Frames of the other entries of the map that are memory all the same: reserved (special pages) and ACPI.
    pub extra: Frames,
    /// `XENMEM_current_reservation`.
    pub reservation: Frames,
    /// `XENMEM_maximum_reservation`.
    pub limit: Frames,
    /// `memory/static-max`, if it could be read.
    pub static_max: Option<Kib>,
    /// `memory/target`, if it could be read.
    pub target: Option<Kib>,
}

/// What follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartPlan {
    /// What would be charged if all RAM were there: the number that the balloon reckons from.
    pub base: Frames,
    /// How much of it was never paid for. At most this; if it is not zero, releasing
    /// [`give_back`](Self::give_back) is urgent, and nothing that is free may be touched before.
    pub debt: Frames,
    /// How much the guest is to hold out of use.
    pub give_back: Frames,
}

impl StartPlan {
    /// The plan for these facts. Contradictory facts make a cautious plan, never a panic: it gives back no more than
    /// RAM.
    #[must_use]
    pub fn new(facts: &StartFacts) -> Self {
        let ram = facts.ram.get();
        let charged = facts.reservation.get();
        let target = facts.target.map(|kib| Frames::from_kib_floor(kib).get());
        let static_max = facts.static_max.map(|kib| Frames::from_kib_floor(kib).get());
        // A domain that was built with all its RAM is charged for that and more. One that was not is charged for its
        // first target, and the same more: how much that is, the target tells if it has not changed since.
        let (base, debt) = if charged >= ram {
            (charged, 0)
        } else {
            let beside = target.and_then(|target| charged.checked_sub(target));
            let extra = beside.filter(|extra| *extra <= PLAUSIBLE_EXTRA).unwrap_or(facts.extra.get());
            let base = ram.saturating_add(extra);
            (base, base - charged)
        };
        let give_back = match (static_max, target) {
            (Some(most), Some(target)) => most.saturating_sub(target),
            (None, Some(target)) => ram.saturating_sub(target),
            // Without the store there is the limit, which follows the target at a distance.
            (_, None) => ram.saturating_sub(facts.limit.get().saturating_sub(TOOLSTACK_SLACK)),
        };
        let give_back = give_back.max(debt).min(ram);
        Self { base: Frames::new(base), debt: Frames::new(debt), give_back: Frames::new(give_back) }
    }

    /// Whether memory is populated on demand, and the guest lives on credit.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.debt > Frames::ZERO
    }

    /// The reservation to move to.
    #[must_use]
    pub fn target(&self) -> Frames {
        self.base.saturating_sub(self.give_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 256;

    fn facts(memory_mib: u64, maximum_mib: u64) -> StartFacts {
        StartFacts {
            ram: Frames::new(maximum_mib * MIB),
            extra: Frames::new(12),
            reservation: Frames::new(memory_mib * MIB + 12),
            limit: Frames::new(memory_mib * MIB + 256),
            static_max: Some(Kib::new(maximum_mib * 1024)),
            target: Some(Kib::new(memory_mib * 1024)),
        }
    }

    #[test]
    fn a_guest_with_all_its_memory_owes_nothing() {
        let plan = StartPlan::new(&facts(256, 256));
        assert_eq!((plan.base.get(), plan.debt.get(), plan.give_back.get()), (65548, 0, 0));
        assert!(!plan.is_urgent());
        assert_eq!(plan.target(), plan.base);
    }

    #[test]
    fn sixty_four_of_a_thousand_mebibytes() {
        let plan = StartPlan::new(&facts(64, 1024));
        assert_eq!((plan.base.get(), plan.debt.get()), (1024 * MIB + 12, 960 * MIB));
        assert_eq!((plan.give_back.get(), plan.target().get()), (960 * MIB, 64 * MIB + 12));
        assert!(plan.is_urgent());
    }

    #[test]
    fn without_the_store_the_limit_tells() {
        let mut facts = facts(64, 1024);
        (facts.target, facts.static_max) = (None, None);
        let plan = StartPlan::new(&facts);
        assert_eq!((plan.give_back.get(), plan.debt.get()), (960 * MIB, 960 * MIB));
        facts.reservation = Frames::new(1024 * MIB + 12);
        facts.limit = Frames::new(1024 * MIB + 256);
        assert_eq!(StartPlan::new(&facts).give_back, Frames::ZERO);
    }

    #[test]
    fn a_target_that_moved_before_boot_is_followed() {
        // Built with all of 256 MiB, then set to 128.
        let mut early = facts(256, 256);
        (early.target, early.limit) = (Some(Kib::new(128 << 10)), Frames::new(128 * MIB + 256));
        let plan = StartPlan::new(&early);
        assert_eq!((plan.debt.get(), plan.give_back.get()), (0, 128 * MIB));
        assert!(!plan.is_urgent(), "all of it is there");
        // Built with 128 of 256, then set to 64: the difference to the target is no page of the toolstack's.
        let mut lowered = facts(128, 256);
        lowered.target = Some(Kib::new(64 << 10));
        let plan = StartPlan::new(&lowered);
        assert_eq!((plan.base.get(), plan.debt.get()), (256 * MIB + 12, 128 * MIB));
        assert_eq!(plan.give_back.get(), 192 * MIB);
    }

    #[test]
    fn nonsense_is_survived() {
        for number in [0, 1, 255, 1 << 20, u64::MAX / 8] {
            for target in [None, Some(Kib::new(0)), Some(Kib::new(1)), Some(Kib::new(u64::MAX))] {
                let mut odd = facts(64, 128);
                (odd.reservation, odd.limit) = (Frames::new(number), Frames::new(number));
                (odd.target, odd.static_max) = (target, target);
                let plan = StartPlan::new(&odd);
                assert!(plan.give_back <= odd.ram && plan.debt <= plan.base);
                assert!(plan.give_back >= plan.debt.min(odd.ram));
            }
        }
    }
}
