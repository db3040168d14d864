//! A slot: 2 MiB of the window, with a word that says everything about it, its lock included.
//!
//! | bits | what |
//! |---|---|
//! | 0 | locked |
//! | 1–10 | how many of its pages belong to a region, from the first on: 0 to 512 |
//! | 11 | the region goes on in the next slot |
//! | 12–50 | the frame of its page table, 0 if it has none |
//! | 51 | the region that begins here was charged as a whole |
//! | 52–61 | entries of the table that are not zero: 0 to 512 |
//! | 62 | the region begins here |
//! | 63 | the region's token is out |
//!
//! So a fault finds its region, its lock and its table in one word, and faults in different slots do not meet.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use percpu::{IrqOff, Platform};

use super::memory::Table;
use crate::units::{FRAME_SHIFT, Gfn};

const LOCKED: u64 = 1;
const PAGES_SHIFT: u32 = 1;
const GOES_ON: u64 = 1 << 11;
const TABLE: u64 = 0x0007_FFFF_FFFF_F000;
const CHARGED: u64 = 1 << 51;
const USED_SHIFT: u32 = 52;
const COUNT_MASK: u64 = 0x3FF;
const BEGINS: u64 = 1 << 62;
const TOKEN_OUT: u64 = 1 << 63;

/// A slot of the window.
#[derive(Debug)]
pub(super) struct Slot {
    word: AtomicU64,
    /// A word for whoever reserved the region.
    tag: AtomicUsize,
}

impl Slot {
    pub(super) const fn new() -> Self {
        Self { word: AtomicU64::new(0), tag: AtomicUsize::new(0) }
    }

    /// Locks the slot. Any context; spins with interrupts off, for as long as it takes to look through one table.
    /// While it spins, the CPU answers whatever [`relax`](percpu::Cpus::relax) answers.
    pub(super) fn lock<P: Platform>(&self, platform: P) -> Locked<'_, P> {
        let irq = IrqOff::new(platform);
        let mut rounds = 0_u32;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & LOCKED == 0
                && self
                    .word
                    .compare_exchange_weak(word, word | LOCKED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Locked { slot: self, word, _irq: irq };
            }
            rounds = rounds.saturating_add(1);
            platform.relax(rounds);
        }
    }

    /// The region's word.
    pub(super) fn tag(&self) -> usize {
        self.tag.load(Ordering::Acquire)
    }

    /// Sets the region's word.
    pub(super) fn set_tag(&self, tag: usize) {
        self.tag.store(tag, Ordering::Release);
    }

    /// What the word says, old news.
    pub(super) fn peek(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }
}

/// What a slot's word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

impl Word {
    pub(super) const fn pages(self) -> u64 {
        self.0 >> PAGES_SHIFT & COUNT_MASK
    }

    pub(super) const fn table(self) -> Option<Table> {
        if self.0 & TABLE == 0 {
            None
        } else {
            Some(Table::in_frame(Gfn::new((self.0 & TABLE) >> FRAME_SHIFT)))
        }
    }

    pub(super) const fn used(self) -> u64 {
        self.0 >> USED_SHIFT & COUNT_MASK
    }

    pub(super) const fn begins(self) -> bool {
        self.0 & BEGINS != 0
    }

    pub(super) const fn goes_on(self) -> bool {
        self.0 & GOES_ON != 0
    }

    pub(super) const fn is_charged(self) -> bool {
        self.0 & CHARGED != 0
    }

    pub(super) const fn token_is_out(self) -> bool {
        self.0 & TOKEN_OUT != 0
    }
}

/// The slot is the holder's until this is dropped.
#[derive(Debug)]
pub(super) struct Locked<'s, P: Platform> {
    // The lock opens in `drop`, before interrupts come back.
    slot: &'s Slot,
    word: u64,
    _irq: IrqOff<P>,
}

impl<P: Platform> Locked<'_, P> {
    pub(super) fn word(&self) -> Word {
        Word(self.word)
    }

    /// Makes the slot part of a region, or of none: `pages` is 0.
    pub(super) fn set_region(&mut self, pages: u64, begins: bool, goes_on: bool) {
        self.word &= !(COUNT_MASK << PAGES_SHIFT | BEGINS | GOES_ON | TOKEN_OUT | CHARGED);
        self.word |= pages << PAGES_SHIFT;
        self.word |= if begins { BEGINS | TOKEN_OUT } else { 0 };
        self.word |= if goes_on { GOES_ON } else { 0 };
    }

    /// Says whether the token of the region that begins here is out.
    pub(super) fn set_token_out(&mut self, out: bool) {
        self.word = if out { self.word | TOKEN_OUT } else { self.word & !TOKEN_OUT };
    }

    /// Says whether the region that begins here was charged as a whole.
    pub(super) fn set_charged(&mut self, charged: bool) {
        self.word = if charged { self.word | CHARGED } else { self.word & !CHARGED };
    }

    /// Puts a table in.
    pub(super) fn set_table(&mut self, table: Table) {
        let address = table.frame().start().get();
        assert!(address != 0 && address & !TABLE == 0, "{:?} cannot be a table of the window", table.frame());
        self.word = self.word & !TABLE | address;
    }

    /// Takes the table out, with its entries in use: how many, it answers too.
    pub(super) fn take_table(&mut self) -> Option<(Table, u64)> {
        let word = self.word();
        let table = word.table()?;
        self.word &= !(TABLE | COUNT_MASK << USED_SHIFT);
        Some((table, word.used()))
    }

    /// Counts an entry that is not zero any more.
    pub(super) fn count_used(&mut self) {
        self.word += 1 << USED_SHIFT;
    }

    /// Counts an entry that is zero again.
    pub(super) fn count_unused(&mut self) {
        assert!(self.word().used() > 0, "a page table has an entry that was not counted");
        self.word -= 1 << USED_SHIFT;
    }
}

impl<P: Platform> Drop for Locked<'_, P> {
    fn drop(&mut self) {
        self.slot.word.store(self.word & !LOCKED, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percpu::CpuId;
    use percpu::host::Machine;

    #[test]
    fn the_parts_of_a_word_do_not_touch() {
        let host = Machine::new(1);
        let _cpu = host.enter(CpuId::BOOT);
        let slot = Slot::new();
        {
            let mut locked = slot.lock(host);
            locked.set_region(512, true, true);
            locked.set_charged(true);
            locked.set_table(Table::in_frame(Gfn::new((1 << 39) - 1)));
            for _ in 0..512 {
                locked.count_used();
            }
        }
        let word = slot.peek();
        assert_eq!((word.pages(), word.used()), (512, 512));
        assert!(word.begins() && word.goes_on() && word.token_is_out() && word.is_charged());
        assert_eq!(word.table().unwrap().frame(), Gfn::new((1 << 39) - 1));
        let mut locked = slot.lock(host);
        locked.set_token_out(false);
        locked.count_unused();
        let (table, used) = locked.take_table().unwrap();
        assert_eq!((table.frame(), used), (Gfn::new((1 << 39) - 1), 511));
        assert!(locked.take_table().is_none());
        locked.set_region(0, false, false);
        drop(locked);
        assert_eq!(slot.peek(), Word(0));
    }
}
