//! Which slots of a swap type are in a tier, and in which: a byte per slot, which is also the slot's lock.
//!
//! The original has a bit per slot and asks every back end in turn. Here the byte says which tier has the page, so that
//! a load asks one, and a page can be passed on from tier to tier.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, Ordering};

use percpu::{CpuPin, Platform};

/// Somebody works on the slot.
const BUSY: u8 = 0x80;
/// Somebody waits for that to end.
const WAITED: u8 = 0x40;
/// The page is on the swap device, too.
const THROUGH: u8 = 0x20;
/// A tier that does not have the page may keep an old copy.
const RESIDUE: u8 = 0x10;
/// Who has the page.
const HOLDER: u8 = 0x0F;
/// Nobody knows whether some tier has an old page of this slot.
const DOUBTFUL: u8 = HOLDER;

/// Tiers that there can be.
pub const MAX_TIERS: usize = DOUBTFUL as usize - 1;

/// What a slot's byte says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Content {
    /// No tier has it.
    #[default]
    Empty,
    /// This tier has it; and so has the swap device, if so said. Of a page that was passed on, or should have been,
    /// another tier may keep a copy that nobody will ask for: a residue.
    In { tier: usize, through: bool, residue: bool },
    /// A tier may have an old page that could not be removed.
    Doubtful,
}

impl Content {
    const fn of(byte: u8) -> Self {
        match byte & HOLDER {
            0 => Self::Empty,
            DOUBTFUL => Self::Doubtful,
            holder => Self::In {
                tier: holder as usize - 1,
                through: byte & THROUGH != 0,
                residue: byte & RESIDUE != 0,
            },
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Doubtful => DOUBTFUL,
            Self::In { tier, through, residue } => {
                assert!(tier < MAX_TIERS, "frontswap has {MAX_TIERS} tiers at most");
                let through = if through { THROUGH } else { 0 };
                (tier as u8 + 1) | through | if residue { RESIDUE } else { 0 }
            }
        }
    }
}

/// The bytes of a swap type.
#[derive(Debug)]
pub(super) struct Map(Box<[AtomicU8]>);

/// A slot that is held, and what is to be written there when it is let go.
pub(super) struct Held<'m, P: Platform> {
    slot: &'m AtomicU8,
    platform: P,
    pub(super) content: Content,
    /// Keeps the holder from being preempted, if it asked for that. Dropped after the slot was let go.
    _pin: Option<CpuPin<P>>,
}

impl Map {
    pub(super) fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| AtomicU8::new(0)).collect())
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn slot(&self, offset: u64) -> Option<&AtomicU8> {
        self.0.get(usize::try_from(offset).ok()?)
    }

    /// What the slot says at the moment, or `None` beyond the end. A busy one answers what it said before.
    ///
    /// Sequentially consistent, as are the ways to hold a slot: see `Frontswap::drain`.
    pub(super) fn peek(&self, offset: u64) -> Option<Content> {
        self.slot(offset).map(|slot| Content::of(slot.load(Ordering::SeqCst)))
    }

    /// The first slot from `from` on that says something, or is busy.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        let first = usize::try_from(from).ok()?;
        let rest = self.0.get(first..)?;
        let found = rest.iter().position(|slot| slot.load(Ordering::SeqCst) & !WAITED != 0)?;
        Some(from + found as u64)
    }

    /// Takes hold of a slot; waits while somebody else has it. `None` beyond the end.
    ///
    /// Context: may block. Who must not block may come, too, as long as nobody who holds the slot can be waiting for it.
    pub(super) fn hold<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        let slot = self.slot(offset)?;
        loop {
            if let Some(byte) = take(slot) {
                return Some(Held { slot, platform, content: Content::of(byte), _pin: None });
            }
            wait(slot, platform);
        }
    }

    /// The same, for a slot that others may want in contexts that must not block: the holder is not preempted, so they
    /// wait for another CPU at most.
    pub(super) fn hold_pinned<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        let slot = self.slot(offset)?;
        loop {
            let pin = CpuPin::new(platform);
            if let Some(byte) = take(slot) {
                return Some(Held { slot, platform, content: Content::of(byte), _pin: Some(pin) });
            }
            drop(pin);
            wait(slot, platform);
        }
    }

    /// What the slot says once nobody works on it; the slot is not held. `None` beyond the end. Context as for
    /// [`hold`](Self::hold).
    pub(super) fn settled<P: Platform>(&self, offset: u64, platform: P) -> Option<Content> {
        let slot = self.slot(offset)?;
        loop {
            let byte = slot.load(Ordering::SeqCst);
            if byte & BUSY == 0 {
                return Some(Content::of(byte));
            }
            wait(slot, platform);
        }
    }
}

/// Takes a slot if nobody has it, and answers what it says.
fn take(slot: &AtomicU8) -> Option<u8> {
    let byte = slot.load(Ordering::Relaxed);
    let free = byte & BUSY == 0;
    let taken = free && slot.compare_exchange(byte, byte | BUSY, Ordering::SeqCst, Ordering::Relaxed).is_ok();
    taken.then_some(byte)
}

/// Waits until nobody has the slot, or for a moment.
fn wait<P: Platform>(slot: &AtomicU8, platform: P) {
    if platform.may_block() {
        // Whoever lets go sees this, or has let go before the question is asked.
        let before = slot.fetch_or(WAITED, Ordering::SeqCst);
        if before & BUSY != 0 {
            platform.wait_until(key(slot), &|| slot.load(Ordering::SeqCst) & BUSY == 0);
        }
        return;
    }
    let mut rounds = 0;
    while slot.load(Ordering::Relaxed) & BUSY != 0 {
        rounds += 1;
        platform.relax(rounds);
    }
}

/// What those who wait for a slot have in common with who lets it go.
fn key(slot: &AtomicU8) -> usize {
    core::ptr::from_ref(slot).addr()
}

impl<P: Platform> Drop for Held<'_, P> {
    fn drop(&mut self) {
        let before = self.slot.swap(self.content.byte(), Ordering::SeqCst);
        if before & WAITED != 0 {
            self.platform.wake_all(key(self.slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percpu::host::Machine;
    use percpu::{CpuId, Cpus};
    use std::thread;
    use std::vec::Vec;

    #[test]
    fn contents_are_kept() {
        for content in [
            Content::Empty,
            Content::Doubtful,
            Content::In { tier: 0, through: false, residue: false },
            Content::In { tier: MAX_TIERS - 1, through: true, residue: false },
            Content::In { tier: MAX_TIERS - 1, through: false, residue: true },
        ] {
            assert_eq!(Content::of(content.byte()), content);
            assert_eq!(Content::of(content.byte() | BUSY | WAITED), content);
        }
    }

    #[test]
    fn a_slot_is_held_by_one_at_a_time_and_waited_for() {
        let host = Machine::new(4);
        let map = Map::new(2);
        let inside = AtomicU8::new(0);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|cpu| {
                    let (map, inside) = (&map, &inside);
                    scope.spawn(move || {
                        let _cpu = host.enter(CpuId::new(cpu).expect("a CPU"));
                        for _ in 0..200 {
                            let mut held = map.hold(1, host).expect("a slot");
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            held.content = Content::In { tier: cpu, through: false, residue: false };
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().expect("no failure"));
        });
        assert_eq!((map.next(0), map.next(2)), (Some(1), None));
        assert!(map.hold(2, host).is_none());
    }

    #[test]
    fn who_holds_a_slot_pinned_keeps_the_cpu_and_is_waited_for() {
        let host = Machine::new(2);
        let map = Map::new(1);
        let _cpu = host.enter(CpuId::BOOT);
        let mut held = map.hold_pinned(0, host).expect("a slot");
        assert!(!host.may_block(), "nobody else runs here until the slot is let go");
        let asked = AtomicU8::new(0);
        let seen = thread::scope(|scope| {
            let other = scope.spawn(|| {
                let _cpu = host.enter(CpuId::new(1).expect("a CPU"));
                assert_eq!(map.peek(0), Some(Content::Empty));
                asked.store(1, Ordering::SeqCst);
                map.settled(0, host)
            });
            while asked.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            held.content = Content::Doubtful;
            drop(held);
            other.join().expect("no failure")
        });
        assert!(host.may_block());
        assert_eq!(seen, Some(Content::Doubtful), "what the slot said before is not asked for");
        assert!(map.hold_pinned(1, host).is_none() && map.settled(1, host).is_none());
    }
}
