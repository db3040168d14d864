//! The checksum of a stored page: 32 bits over its compressed bytes.
//!
//! Not for adversaries: for memory that changed under us, and for books that point to the wrong place (the owner's name
//! goes in). Two lanes take eight bytes each with an exclusive or and a multiplication whose halves are folded together,
//! so that a changed bit changes about half of a lane.

const LEFT: u64 = 0x9E37_79B9_7F4A_7C15;
const RIGHT: u64 = 0xC2B2_AE3D_27D4_EB4F;

/// The checksum of `bytes` as an object of `owner`.
#[must_use]
pub(super) fn checksum(bytes: &[u8], owner: u32) -> u32 {
    let (mut left, mut right) = (LEFT ^ u64::from(owner), RIGHT ^ bytes.len() as u64);
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        let (words, _) = pair.as_chunks::<8>();
        left = step(left, u64::from_le_bytes(words[0]), LEFT);
        right = step(right, u64::from_le_bytes(words[1]), RIGHT);
    }
    let (words, tail) = rest.as_chunks::<8>();
    for word in words {
        left = step(left, u64::from_le_bytes(*word), LEFT);
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    right = step(right, u64::from_le_bytes(last), RIGHT);
    let both = (left ^ right.rotate_left(32)).wrapping_mul(LEFT);
    (both ^ both >> 32) as u32
}

#[inline]
const fn step(state: u64, word: u64, factor: u64) -> u64 {
    let product = (state ^ word) as u128 * factor as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn every_bit_every_length_and_the_owner_count() {
        let bytes: Vec<u8> = (0..100).map(|at: u8| at.wrapping_mul(37)).collect();
        let mut seen = BTreeSet::new();
        for length in 0..bytes.len() {
            assert!(seen.insert(checksum(&bytes[..length], 1)), "length {length}");
        }
        assert!(seen.insert(checksum(&bytes[..99], 2)));
        for at in 0..99 * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(seen.insert(checksum(&changed[..99], 1)), "bit {at}");
        }
    }

    #[test]
    fn zeros_that_are_added_or_swapped_words_count() {
        assert_ne!(checksum(&[0; 8], 0), checksum(&[0; 16], 0));
        assert_ne!(checksum(&[1, 2], 0), checksum(&[1, 2, 0], 0));
        let (mut ab, mut ba) = ([0; 32], [0; 32]);
        (ab[0], ab[16], ba[16], ba[0]) = (1, 2, 1, 2);
        assert_ne!(checksum(&ab, 0), checksum(&ba, 0));
    }
}
