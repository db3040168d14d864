//! The compressor.

use alloc::boxed::Box;

use super::{GOES_ON, LEAST_MATCH, PIECE, piece, piece_mut};
use crate::swap::Page;
use crate::units::FRAME_SIZE;

/// log2 of the places that are remembered.
const HASH_BITS: u32 = 12;
/// Bits of a place in a page.
const PLACE_BITS: u32 = FRAME_SIZE.trailing_zeros();
/// A page is remembered with one of these numbers, from 1 on. When they are used up, all is forgotten.
const NUMBERS: u16 = 1 << (u16::BITS - PLACE_BITS);

/// The last place where a match may begin.
const LAST_BEGIN: usize = FRAME_SIZE - 12;
/// Where matches end at the latest.
const LAST_END: usize = FRAME_SIZE - 5;
/// Where nothing was found for so many bytes, as a power of two, the next place is one further on, and so forth: what does
/// not repeat in some hundred bytes will hardly do so in the next hundred.
const PATIENCE_SHIFT: u32 = 6;

/// Where the last of the words was seen that have the same hash: the number of the page, and the place in it.
pub(in crate::swap::pool) type Places = [u16; 1 << HASH_BITS];

/// What compression works with.
pub(in crate::swap::pool) struct Packer {
    places: Box<Places>,
    number: u16,
}

impl Packer {
    /// Takes memory for it, which holds zeros.
    pub(in crate::swap::pool) const fn new(places: Box<Places>) -> Self {
        Self { places, number: 0 }
    }

    /// Compresses the page into the beginning of `out`, and answers how many bytes that makes; `None` if they would be more
    /// than there are.
    pub(in crate::swap::pool) fn pack(&mut self, page: &Page, out: &mut [u8]) -> Option<usize> {
        self.number += 1;
        if self.number == NUMBERS {
            self.places.fill(0);
            self.number = 1;
        }
        let mark = self.number << PLACE_BITS;
        let places = &mut *self.places;
        let (mut at, mut begin, mut end) = (1, 0, 0);
        places[hash(word(page, 0)?)] = mark;
        'sequences: loop {
            let before = loop {
                if at > LAST_BEGIN {
                    break 'sequences;
                }
                let here = word(page, at)?;
                let place = &mut places[hash(here)];
                // Another page's, or nobody's, is beyond the page.
                let before = usize::from(*place ^ mark);
                *place = mark | at as u16;
                if word(page, before) == Some(here) {
                    break before;
                }
                at += 1 + ((at - begin) >> PATIENCE_SHIFT);
            };
            let (mut first, mut source) = (at, before);
            while first > begin && source > 0 && page[first - 1] == page[source - 1] {
                (first, source) = (first - 1, source - 1);
            }
            let next = at + LEAST_MATCH + same(page, before + LEAST_MATCH, at + LEAST_MATCH);
            end = sequence(out, end, page, begin..first, Some((first - source, next - first)))?;
            (begin, at) = (next, next);
            // What is inside of the match is not remembered, but for one place near its end.
            if let Some(inside) = word(page, next - 2) {
                places[hash(inside)] = mark | (next - 2) as u16;
            }
        }
        sequence(out, end, page, begin..FRAME_SIZE, None)
    }
}

/// Four bytes of a page.
#[inline(always)]
fn word(page: &Page, at: usize) -> Option<u32> {
    piece(page, at).map(|bytes| u32::from_le_bytes(*bytes))
}

#[inline(always)]
fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9E37_79B1) >> (u32::BITS - HASH_BITS)) as usize
}

/// How many bytes from `source` on are the same as from `at` on, until where matches end.
#[inline(always)]
fn same(page: &Page, source: usize, at: usize) -> usize {
    let (Some(ahead), Some(behind)) = (page.get(at..LAST_END), page.get(source..)) else { return 0 };
    let (words, rest) = ahead.as_chunks::<8>();
    let mut count = 0;
    for (left, right) in words.iter().zip(behind.as_chunks::<8>().0) {
        let differ = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if differ != 0 {
            return count + differ.trailing_zeros() as usize / 8;
        }
        count += 8;
    }
    count + rest.iter().zip(&behind[count..]).take_while(|(left, right)| left == right).count()
}

/// Writes a sequence: literals, and a match by distance and length but for the last one. Answers where it ends; `None` if
/// there is no room.
#[inline(always)]
fn sequence(
    out: &mut [u8],
    mut end: usize,
    page: &Page,
    literals: core::ops::Range<usize>,
    found: Option<(usize, usize)>,
) -> Option<usize> {
    let (from, count) = (literals.start, literals.len());
    let (distance, length) = found.map_or((0, 0), |(distance, length)| (distance, length - LEAST_MATCH));
    let token = out.get_mut(end)?;
    *token = (count.min(GOES_ON) << 4 | length.min(GOES_ON)) as u8;
    end += 1;
    if count >= GOES_ON {
        end = go_on(out, end, count - GOES_ON)?;
    }
    match (piece::<PIECE>(page, from), piece_mut::<PIECE>(out, end)) {
        (Some(from), Some(to)) if count <= PIECE => *to = *from,
        _ => out.get_mut(end..end + count)?.copy_from_slice(&page[literals]),
    }
    end += count;
    if found.is_some() {
        *piece_mut(out, end)? = (distance as u16).to_le_bytes();
        end += 2;
        if length >= GOES_ON {
            end = go_on(out, end, length - GOES_ON)?;
        }
    }
    Some(end)
}

/// Writes what did not fit into a token.
fn go_on(out: &mut [u8], mut end: usize, mut rest: usize) -> Option<usize> {
    while rest >= 255 {
        *out.get_mut(end)? = 255;
        (end, rest) = (end + 1, rest - 255);
    }
    *out.get_mut(end)? = rest as u8;
    Some(end + 1)
}
