//! Which slots of a swap type are in a tier, and in which: a byte per slot, which is also the slot's lock.
//!
//! The original has a bit per slot and asks every back end in turn. Here the byte says which tier has the page, so that
//! a load asks one, and a page can be passed on from tier to tier.
//!
//! The bytes of 512 slots come when the first of these slots is stored to, or when they are asked for ahead. Without
//! them the slots are empty, and held by nobody.

use core::sync::atomic::{AtomicU8, Ordering, fence};

use percpu::Platform;

use crate::mm::sparse::{NoChunk, Sparse};

/// Somebody works on the slot.
const BUSY: u8 = 0x80;
/// Somebody waits for that to end.
const WAITED: u8 = 0x40;
/// The page is on the swap device, too.
const THROUGH: u8 = 0x20;
/// Who has the page.
const HOLDER: u8 = 0x1F;
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
    /// This tier has it; and so has the swap device, if so said.
    In { tier: usize, through: bool },
    /// A tier may have an old page that could not be removed.
    Doubtful,
}

impl Content {
    const fn of(byte: u8) -> Self {
        match byte & HOLDER {
            0 => Self::Empty,
            DOUBTFUL => Self::Doubtful,
            holder => Self::In { tier: holder as usize - 1, through: byte & THROUGH != 0 },
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Doubtful => DOUBTFUL,
            Self::In { tier, through } => {
                assert!(tier < MAX_TIERS, "frontswap has {MAX_TIERS} tiers at most");
                (tier as u8 + 1) | if through { THROUGH } else { 0 }
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

    /// The first slot from `from` on that says something, or is busy.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        let mut slots = self.0.from(from);
        slots.find(|(_, slot)| slot.load(Ordering::SeqCst) & !WAITED != 0).map(|(offset, _)| offset)
    }

    /// Takes hold of a slot; waits while somebody else has it. `None` if it has no byte, which it needs only once it is
    /// stored to.
    ///
    /// Context: may block. Who must not block may come, too, as long as nobody who holds the slot can be waiting for it.
    pub(super) fn hold<P: Platform>(&self, offset: u64, platform: P) -> Option<Held<'_, P>> {
        let slot = self.slot(offset)?;
        let mut rounds = 0;
        loop {
            let byte = slot.load(Ordering::Relaxed);
            if byte & BUSY == 0 {
                let taken =
                    slot.compare_exchange(byte, byte | BUSY, Ordering::SeqCst, Ordering::Relaxed).is_ok();
                if taken {
                    return Some(Held { slot, platform, content: Content::of(byte) });
                }
            } else if platform.may_block() {
                // Whoever lets go sees this, or has let go before the question is asked.
                slot.fetch_or(WAITED, Ordering::SeqCst);
                platform.wait_until(key(slot), &|| slot.load(Ordering::SeqCst) & BUSY == 0);
            } else {
                rounds += 1;
                platform.relax(rounds);
            }
        }
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
    use percpu::CpuId;
    use percpu::host::Machine;
    use std::thread;
    use std::vec::Vec;

    #[test]
    fn contents_are_kept() {
        for content in [
            Content::Empty,
            Content::Doubtful,
            Content::In { tier: 0, through: false },
            Content::In { tier: MAX_TIERS - 1, through: true },
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
                            held.content = Content::In { tier: cpu, through: false };
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
}
