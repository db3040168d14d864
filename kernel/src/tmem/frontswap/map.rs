//! Which slots of a swap type are in a tier, and in which: a byte per slot, which is also the slot's lock.
//!
//! The original has a bit per slot and asks every back end in turn. Here the byte says which tier has the page, so that
//! a load asks one, and a page can be passed on from tier to tier.
//!
//! The bytes of 512 slots come when the first of these slots is stored to, or when they are asked for ahead. Without
//! them the slots are empty, and held by nobody.
//!
//! A slot is *held* for as long as an operation on it runs. A slot whose page is being passed on (`moving.rs`) is not
//! held meanwhile, but *marked*: loads and invalidations go on, stores wait for the end.
//!
//! Whose page it is must not do two things to a slot at a time, if it cannot block. Others, who look at slots or move
//! pages, hold a slot with preemption off and for a moment, so that he may have to wait for them.
//!
//! All atomics come from `tmem/primitive.rs`, so that a model checker can run this: `tests/loom` does.

use percpu::{CpuPin, Platform};

use super::super::primitive::{AtomicU8, Ordering, fence};
use crate::mm::sparse::{NoChunk, Sparse};

/// Somebody works on the slot.
const BUSY: u8 = 0x80;
/// Somebody waits for an end of that, or of the next.
const WAITED: u8 = 0x40;
/// The slot's page is being passed on. Nobody but who set it takes it away.
const MOVING: u8 = 0x20;
/// The page is on the swap device, too.
const THROUGH: u8 = 0x10;
/// A tier that does not have the page may keep an old copy.
const RESIDUE: u8 = 0x08;
/// Who has the page.
const HOLDER: u8 = 0x07;
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

/// Slots whose bytes come together: 2 MiB of pages.
const CHUNK: usize = 512;

/// The bytes of a swap type.
#[derive(Debug)]
pub(super) struct Map(Sparse<AtomicU8, CHUNK>);

/// A slot that is held, and what is to be written there when it is let go.
pub(super) struct Held<'m, P: Platform> {
    slot: &'m AtomicU8,
    platform: P,
    pub(super) content: Content,
    /// The slot's page is being passed on.
    pub(super) moving: bool,
    /// Given up after the slot is let go.
    _pin: Option<CpuPin<P>>,
}

impl Map {
    /// All slots empty.
    pub(super) fn new(slots: u64) -> Result<Self, NoChunk> {
        Sparse::new(slots).map(Self).map_err(|_| NoChunk)
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len()
    }

    fn slot(&self, offset: u64) -> Option<&AtomicU8> {
        self.0.get(offset)
    }

    /// Makes the byte of a slot, and answers whether it has one: not beyond the end.
    ///
    /// Whoever ends the use of all slots says so, passes a fence, and looks at the bytes that are there
    /// ([`look_again`](Self::look_again)). After this a look at what was said is either too late for that, or finds it.
    pub(super) fn make(&self, offset: u64) -> Result<bool, NoChunk> {
        let made = self.0.make_for(offset)?.is_some();
        fence(Ordering::SeqCst);
        Ok(made)
    }

    /// See [`make`](Self::make).
    pub(super) fn look_again() {
        fence(Ordering::SeqCst);
    }

    /// What the slot says at the moment, or `None` beyond the end. A busy one answers what it said before.
    ///
    /// Sequentially consistent, as are the ways to hold a slot: see `Frontswap::drain`.
    pub(super) fn peek(&self, offset: u64) -> Option<Content> {
        let byte = || self.slot(offset).map_or(0, |slot| slot.load(Ordering::SeqCst));
        (offset < self.len()).then(|| Content::of(byte()))
    }

    /// The first slot from `from` on that says something, or is busy, or marked.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        let mut slots = self.0.from(from);
        slots.find(|(_, slot)| slot.load(Ordering::SeqCst) & !WAITED != 0).map(|(offset, _)| offset)
    }

    /// Takes hold of a slot, also of a marked one; waits while somebody else has it. `None` if it has no byte, which it
    /// needs only once it is stored to.
    ///
    /// Context: may block. Who must not block may come, too, as long as nobody who holds the slot can be waiting for it.
    pub(super) fn hold<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        self.wait_for(offset, platform, BUSY, false)
    }

    /// Takes hold of a slot whose page is not being passed on; waits while it is. `None` as there.
    ///
    /// Context: may block.
    pub(super) fn hold_unmarked<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        self.wait_for(offset, platform, BUSY | MOVING, false)
    }

    /// As [`hold`](Self::hold), for a moment and with preemption off.
    pub(super) fn hold_pinned<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        self.wait_for(offset, platform, BUSY, true)
    }

    /// Takes hold of a slot, for a moment and with preemption off, if nobody works on it or passes its page on.
    pub(super) fn try_hold_pinned<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        take(self.slot(offset)?, platform, BUSY | MOVING, true)
    }

    /// What the slot says once nobody works on it or passes its page on; the slot is not held. `None` if it has no byte.
    /// Context: may block.
    pub(super) fn settled<P: Platform>(&self, offset: u64, platform: P) -> Option<Content> {
        let slot = self.slot(offset)?;
        loop {
            let byte = slot.load(Ordering::SeqCst);
            if byte & (BUSY | MOVING) == 0 {
                return Some(Content::of(byte));
            }
            wait(slot, platform, BUSY | MOVING);
        }
    }

    fn wait_for<P: Platform>(
        &self,
        offset: u64,
        platform: P,
        keeps_out: u8,
        pinned: bool,
    ) -> Option<Held<'_, P>> {
        let slot = self.slot(offset)?;
        loop {
            if let Some(held) = take(slot, platform, keeps_out, pinned) {
                return Some(held);
            }
            wait(slot, platform, keeps_out);
        }
    }
}

/// Waits until a slot's byte has none of these bits, or for a moment.
fn wait<P: Platform>(slot: &AtomicU8, platform: P, keeps_out: u8) {
    let is_free = |byte: u8| byte & keeps_out == 0;
    if platform.may_block() {
        // Each time: whoever has let go since took the note away with him. Who lets go after this sees it.
        platform.wait_until(key(slot), &|| {
            is_free(slot.load(Ordering::SeqCst)) || is_free(slot.fetch_or(WAITED, Ordering::SeqCst))
        });
        return;
    }
    let mut rounds = 0;
    while !is_free(slot.load(Ordering::Relaxed)) {
        rounds += 1;
        platform.relax(rounds);
    }
}

/// Takes hold of a slot whose byte has none of these bits.
fn take<P: Platform>(slot: &AtomicU8, platform: P, keeps_out: u8, pinned: bool) -> Option<Held<'_, P>> {
    let pin = pinned.then(|| CpuPin::new(platform));
    let byte = slot.load(Ordering::Relaxed);
    if byte & keeps_out != 0 {
        return None;
    }
    slot.compare_exchange(byte, byte | BUSY, Ordering::SeqCst, Ordering::Relaxed).ok()?;
    Some(Held { slot, platform, content: Content::of(byte), moving: byte & MOVING != 0, _pin: pin })
}

/// What those who wait for a slot have in common with who lets it go.
fn key(slot: &AtomicU8) -> usize {
    core::ptr::from_ref(slot).addr()
}

impl<P: Platform> Drop for Held<'_, P> {
    fn drop(&mut self) {
        let mark = if self.moving { MOVING } else { 0 };
        let before = self.slot.swap(self.content.byte() | mark, Ordering::SeqCst);
        if before & WAITED != 0 {
            self.platform.wake_all(key(self.slot));
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
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
        let map = Map::new(2).expect("memory");
        assert!(map.hold(1, host).is_none() && map.peek(1) == Some(Content::Empty));
        assert_eq!((map.make(1), map.make(2)), (Ok(true), Ok(false)));
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
        let map = Map::new(1).expect("memory");
        assert_eq!(map.make(0), Ok(true));
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
