//! A key-value store that knows what it holds: every read is checked against what was last written.
//!
//! Beside the map of values, the store keeps a ledger: per item its version and length, from which the contents
//! follow. A value that came from an older time, from another item, or with a bit flipped differs from what the
//! ledger says. The ledger lies in the same memory as the values, so a sum over it is kept aside, and
//! [`Store::audit`] compares it.
//!
//! Items are numbers; those below [`Store::items`] are present. Growth appends, deletion takes the last away,
//! and an item that comes back continues its versions, so that its old contents are wrong. Every operation that
//! needs memory gets all of it before it changes anything.

use crate::content::{BLOCK_WORDS, Content, Values};
use crate::fixed::exp2_neg;
use crate::mismatch::{Fault, Mismatch};
use crate::random::{Rng, mix};
use allocator_api2::alloc::{AllocError, Allocator};
use allocator_api2::vec::Vec;
use core::hash::{BuildHasher, Hasher};
use hashbrown::HashMap;

/// The largest value, in words of 8 bytes: 16 KiB.
pub const MAX_VALUE_WORDS: u32 = 2048;

/// Draws the length of a value in words of 8 bytes: 64 bytes to 16 KiB, every doubling equally likely, 2.9 KiB on
/// average.
pub fn draw_words(rng: &mut Rng) -> u32 {
    let point = rng.draw();
    let octave = point >> 61;
    // 2^−fraction is in (½, 1], so the product is in (8·2^octave, 16·2^octave].
    let scale = exp2_neg(point << 3) >> 32;
    (((16 << octave) * scale) >> 32).max(8) as u32
}

/// What an item should hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    version: u32,
    words: u32,
}

/// A store.
#[derive(Debug)]
pub struct Store<A: Allocator + Clone> {
    map: HashMap<u64, Vec<u64, A>, AsIs, A>,
    ledger: Vec<Slot, A>,
    /// The sum of [`Self::term`] over the ledger.
    sum: u64,
    items: u32,
    live_words: u64,
    seed: u64,
    values: Values,
    allocator: A,
}

impl<A: Allocator + Clone> Store<A> {
    /// An empty store, which holds no memory yet; its keys and contents follow from `seed`.
    pub fn new(values: Values, seed: u64, allocator: A) -> Self {
        Self {
            map: HashMap::with_hasher_in(AsIs, allocator.clone()),
            ledger: Vec::new_in(allocator.clone()),
            sum: 0,
            items: 0,
            live_words: 0,
            seed: mix(seed),
            values,
            allocator,
        }
    }

    /// How many items are present.
    #[must_use]
    pub const fn items(&self) -> u32 {
        self.items
    }

    /// Bytes in the values.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.live_words * 8
    }

    /// The version of `item`, or 0 where it never was.
    #[must_use]
    pub fn version(&self, item: u32) -> u32 {
        self.ledger.get(item as usize).map_or(0, |slot| slot.version)
    }

    /// Adds one item of `words` words. Finding something under its key is a mismatch.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where memory is refused; nothing has changed then.
    pub fn insert(&mut self, words: u32) -> Result<Option<Mismatch>, AllocError> {
        let item = self.items;
        if item == u32::MAX {
            return Err(AllocError);
        }
        let old = self.ledger.get(item as usize).copied();
        if old.is_none() {
            self.ledger.try_reserve(1).map_err(|_| AllocError)?;
        }
        let slot = Slot { version: old.map_or(0, |slot| slot.version.wrapping_add(1)), words };
        let key = self.key(item);
        self.map.try_reserve(1).map_err(|_| AllocError)?;
        let value = self.make(item, slot)?;

        let before = self.map.insert(key, value);
        match old {
            Some(_) => self.record(item, slot),
            None => {
                self.ledger.push(slot);
                self.sum = self.sum.wrapping_add(Self::term(item, slot));
            }
        }
        self.items += 1;
        self.live_words += u64::from(words);
        Ok(before.map(|value| Self::mismatch(Fault::Unexpected, item, slot, 0, value.len() as u64)))
    }

    /// Reads `item` and compares all of it; an item that is not present must not be found. What is wrong is
    /// repaired as far as memory allows, so that one corruption is counted once.
    pub fn read(&mut self, item: u32) -> Option<Mismatch> {
        let mismatch = self.check(item)?;
        let key = self.key(item);
        match (mismatch.fault, self.slot(item)) {
            (Fault::Content, Some(slot)) => {
                let content = self.content(item, slot);
                if let Some(value) = self.map.get_mut(&key) {
                    content.fill(value);
                }
            }
            (_, slot) => {
                self.map.remove(&key);
                if let Some(slot) = slot
                    && let Ok(value) = self.make(item, slot)
                    && self.map.try_reserve(1).is_ok()
                {
                    self.map.insert(key, value);
                }
            }
        }
        Some(mismatch)
    }

    /// Writes the next version of a present item in place.
    pub fn rewrite(&mut self, item: u32) {
        let Some(slot) = self.slot(item) else { return };
        let slot = Slot { version: slot.version.wrapping_add(1), ..slot };
        let (key, content) = (self.key(item), self.content(item, slot));
        if let Some(value) = self.map.get_mut(&key) {
            content.fill(value);
            self.record(item, slot);
        }
    }

    /// Writes the next version of a present item into new memory of `words` words, and frees the old.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where memory is refused; the item is as it was.
    pub fn replace(&mut self, item: u32, words: u32) -> Result<(), AllocError> {
        let Some(old) = self.slot(item) else { return Ok(()) };
        let slot = Slot { version: old.version.wrapping_add(1), words };
        let (key, value) = (self.key(item), self.make(item, slot)?);
        if let Some(place) = self.map.get_mut(&key) {
            *place = value;
            self.record(item, slot);
            self.live_words = self.live_words.saturating_sub(old.words.into()) + u64::from(words);
        }
        Ok(())
    }

    /// Checks the last item and frees it. With the last one goes the map's own memory.
    pub fn remove_last(&mut self) -> Option<Mismatch> {
        let item = self.items.checked_sub(1)?;
        let mismatch = self.check(item);
        self.map.remove(&self.key(item));
        let words = self.slot(item).map_or(0, |slot| slot.words);
        self.live_words = self.live_words.saturating_sub(words.into());
        self.items = item;
        if item == 0 {
            self.live_words = 0;
            self.map = HashMap::with_hasher_in(AsIs, self.allocator.clone());
        }
        mismatch
    }

    /// Compares the ledger with the sum over it, and the number of items with the map's.
    pub fn audit(&mut self) -> Option<Mismatch> {
        let mut sum = 0u64;
        for (item, slot) in (0..).zip(self.ledger.iter()) {
            sum = sum.wrapping_add(Self::term(item, *slot));
        }
        let expected = core::mem::replace(&mut self.sum, sum);
        let mismatch = |expected, found| {
            let (item, version, word) = (self.ledger.len() as u64, 0, 0);
            Some(Mismatch { fault: Fault::Ledger, item, version, word, expected, found })
        };
        if sum != expected {
            mismatch(expected, sum)
        } else if self.map.len() != self.items as usize {
            mismatch(self.items.into(), self.map.len() as u64)
        } else {
            None
        }
    }

    /// Flips a bit of a present item: for tests of those who read it.
    #[cfg(test)]
    pub(crate) fn flip(&mut self, item: u32, word: usize) {
        let key = self.key(item);
        self.map.get_mut(&key).unwrap()[word] ^= 1 << 13;
    }

    /// Compares all of `item` with the ledger.
    fn check(&self, item: u32) -> Option<Mismatch> {
        let value = self.map.get(&self.key(item));
        let Some(slot) = self.slot(item) else {
            let slot = Slot { version: self.version(item), words: 0 };
            return value.map(|value| Self::mismatch(Fault::Unexpected, item, slot, 0, value.len() as u64));
        };
        let Some(value) = value else {
            return Some(Self::mismatch(Fault::Missing, item, slot, slot.words.into(), 0));
        };
        if value.len() != slot.words as usize {
            return Some(Self::mismatch(Fault::Length, item, slot, slot.words.into(), value.len() as u64));
        }
        let (word, expected, found) = self.content(item, slot).difference(value)?;
        Some(Mismatch { word: word as u64, ..Self::mismatch(Fault::Content, item, slot, expected, found) })
    }

    fn mismatch(fault: Fault, item: u32, slot: Slot, expected: u64, found: u64) -> Mismatch {
        Mismatch { fault, item: item.into(), version: slot.version, word: 0, expected, found }
    }

    /// What a present item should hold.
    fn slot(&self, item: u32) -> Option<Slot> {
        if item < self.items { self.ledger.get(item as usize).copied() } else { None }
    }

    /// Changes the ledger, and the sum by what changes: a slot that was corrupted keeps the sum wrong.
    fn record(&mut self, item: u32, slot: Slot) {
        if let Some(place) = self.ledger.get_mut(item as usize) {
            let change = Self::term(item, slot).wrapping_sub(Self::term(item, *place));
            self.sum = self.sum.wrapping_add(change);
            *place = slot;
        }
    }

    fn term(item: u32, slot: Slot) -> u64 {
        mix(mix(item.into()) ^ (u64::from(slot.version) << 32 | u64::from(slot.words)))
    }

    fn key(&self, item: u32) -> u64 {
        mix(self.seed.wrapping_add(item.into()))
    }

    fn content(&self, item: u32, slot: Slot) -> Content {
        Content::new(self.values, self.key(item), slot.version)
    }

    /// A new value.
    fn make(&self, item: u32, slot: Slot) -> Result<Vec<u64, A>, AllocError> {
        let mut words = slot.words as usize;
        let mut value = Vec::new_in(self.allocator.clone());
        value.try_reserve_exact(words).map_err(|_| AllocError)?;
        let content = self.content(item, slot);
        for index in 0..words.div_ceil(BLOCK_WORDS) {
            let part = words.min(BLOCK_WORDS);
            value.extend_from_slice(&content.block(index)[..part]);
            words -= part;
        }
        Ok(value)
    }
}

/// Keys are mixed already: their bits are the hash.
#[derive(Clone, Copy, Debug)]
struct AsIs;

/// The hasher of [`AsIs`].
#[derive(Clone, Copy, Debug)]
struct Bits(u64);

impl BuildHasher for AsIs {
    type Hasher = Bits;

    fn build_hasher(&self) -> Bits {
        Bits(0)
    }
}

impl Hasher for Bits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }
}

#[cfg(test)]
mod tests;
