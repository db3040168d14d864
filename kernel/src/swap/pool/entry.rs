//! What the pool knows of a stored page: one word, in a frame of 512 such words.
//!
//! | bits | in use | vacant |
//! |---|---|---|
//! | 0 | 1 | 0 |
//! | 1 | loaded since it was stored, or last spared | 0 |
//! | 2 | named to be evicted: not to be named again | 0 |
//! | 3–14 | bytes of data: the tag and the compressed page | the next vacant entry of the frame; 512 is none |
//! | 15–23 | where the object begins in its frame, in units of 8 bytes | 0 |
//! | 24–46 | the slot of that frame | 0 |
//! | 47–55 | generation: an old handle does not fit a new page | the same |
//! | 56–63 | check of the rest |
//!
//! A word that was damaged is told from a sound one by its check, with one chance in 256 of being missed; what such a
//! word then points to has to agree with it, or the page is corrupt by that.

/// Slots of a shard are numbered below this; the last number means none.
pub(super) const MOST_SLOTS: u32 = (1 << 23) - 1;

/// Entries in a frame.
pub(super) const PER_FRAME: u16 = 512;

/// What objects are aligned to, in bytes.
pub(super) const GRAIN: usize = 8;

const USED: u64 = 1;
const REFERENCED: u64 = 1 << 1;
const KEPT: u64 = 1 << 2;
const LENGTH_SHIFT: u32 = 3;
const LENGTH_MASK: u64 = 0xFFF;
const OFFSET_SHIFT: u32 = 15;
const OFFSET_MASK: u64 = 0x1FF;
const SLOT_SHIFT: u32 = 24;
const SLOT_MASK: u64 = (1 << 23) - 1;
const GENERATION_SHIFT: u32 = 47;
const CHECK_SHIFT: u32 = 56;

/// Generations before they repeat.
pub(super) const GENERATIONS: u16 = 1 << 9;

/// Where an object begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The slot of the frame.
    pub(super) slot: u32,
    /// Bytes from the beginning of the frame: a multiple of [`GRAIN`].
    pub(super) offset: usize,
}

/// Which entry: the slot of the frame that it is in, and its number there. 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct EntryId {
    pub(super) slot: u32,
    pub(super) index: u16,
}

impl EntryId {
    pub(super) const fn to_bits(self) -> u32 {
        self.slot << 9 | self.index as u32
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self { slot: bits >> 9, index: (bits & 0x1FF) as u16 }
    }
}

/// An entry, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Nothing is stored under it.
    Vacant {
        /// The next vacant entry of the frame, or [`PER_FRAME`].
        next: u16,
        /// What the next handle's generation will be.
        generation: u16,
    },
    /// A page is.
    Used(Used),
}

/// An entry in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Used {
    pub(super) place: Place,
    /// Bytes of data: at least 1.
    pub(super) length: usize,
    pub(super) generation: u16,
    pub(super) referenced: bool,
    pub(super) kept: bool,
}

/// The word's own check does not fit it, or it says what no entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Damaged;

impl Entry {
    pub(super) const fn encode(self) -> u64 {
        let word = match self {
            Self::Vacant { next, generation } => {
                (next as u64) << LENGTH_SHIFT | (generation as u64) << GENERATION_SHIFT
            }
            Self::Used(used) => {
                USED | if used.referenced { REFERENCED } else { 0 }
                    | if used.kept { KEPT } else { 0 }
                    | (used.length as u64) << LENGTH_SHIFT
                    | ((used.place.offset / GRAIN) as u64) << OFFSET_SHIFT
                    | (used.place.slot as u64) << SLOT_SHIFT
                    | (used.generation as u64) << GENERATION_SHIFT
            }
        };
        word | check(word)
    }

    pub(super) const fn decode(word: u64) -> Result<Self, Damaged> {
        let body = word & ((1 << CHECK_SHIFT) - 1);
        if word != body | check(body) {
            return Err(Damaged);
        }
        let length = body >> LENGTH_SHIFT & LENGTH_MASK;
        let generation = (body >> GENERATION_SHIFT) as u16 % GENERATIONS;
        if body & USED == 0 {
            if length > PER_FRAME as u64 {
                return Err(Damaged);
            }
            return Ok(Self::Vacant { next: length as u16, generation });
        }
        if length == 0 {
            return Err(Damaged);
        }
        let slot = (body >> SLOT_SHIFT & SLOT_MASK) as u32;
        let offset = (body >> OFFSET_SHIFT & OFFSET_MASK) as usize * GRAIN;
        Ok(Self::Used(Used {
            place: Place { slot, offset },
            length: length as usize,
            generation,
            referenced: body & REFERENCED != 0,
            kept: body & KEPT != 0,
        }))
    }
}

/// Eight bits that depend on all of `body`, in their place. Never those that make a word of zeros or ones sound.
const fn check(body: u64) -> u64 {
    let mixed = (body ^ 0xA5A5_5A5A_C3C3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ mixed << 29) >> CHECK_SHIFT) << CHECK_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(slot: u32, offset: usize, length: usize, flags: u16) -> Entry {
        Entry::Used(Used {
            place: Place { slot, offset },
            length,
            generation: flags % GENERATIONS,
            referenced: flags & 1 != 0,
            kept: flags & 2 != 0,
        })
    }

    #[test]
    fn entries_survive_their_encoding() {
        for entry in [
            used(0, 0, 1, 0),
            used(MOST_SLOTS - 1, 4088, 4095, 511),
            used(1 << 20, 8, 600, 2),
            Entry::Vacant { next: 512, generation: 511 },
            Entry::Vacant { next: 0, generation: 0 },
        ] {
            assert_eq!(Entry::decode(entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn a_flipped_bit_or_a_wiped_word_is_noticed() {
        assert_eq!(Entry::decode(0), Err(Damaged));
        assert_eq!(Entry::decode(u64::MAX), Err(Damaged));
        let mut missed = 0;
        for slot in 0..1000 {
            let word = used(slot, 8 * (slot as usize % 512), 100 + slot as usize, slot as u16).encode();
            for bit in 0..64 {
                missed += u32::from(Entry::decode(word ^ 1 << bit).is_ok());
            }
        }
        assert!(missed < 64_000 / 128, "{missed} of 64000 were missed");
    }

    #[test]
    fn names_of_entries_are_32_bits() {
        for id in [EntryId { slot: 0, index: 0 }, EntryId { slot: MOST_SLOTS - 1, index: 511 }] {
            assert_eq!(EntryId::from_bits(id.to_bits()), id);
            assert_ne!(id.to_bits(), u32::MAX, "this one says that an object is dead");
        }
    }
}
