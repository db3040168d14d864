//! LZ4 for pages: its block format, for inputs of exactly a page, in safe code.
//!
//! A page is short, and that is where a compressor for any input loses its time: in clearing what it remembers, which here
//! happens for one page in [`pack`](Packer::pack)'s fifteen; in output that is made in one place, to be copied to another;
//! and in output that will be too long, which here ends at the bound. The decoder writes runs (a page of memory is full
//! of them) by words and not by bytes. Both check every bound, and neither allocates.
//!
//! **The format** (`lz4_Block_format.md` of the reference implementation): sequences of a token, literals, and a match. The
//! token's high half is the number of literals and its low half the length of the match less 4; 15 goes on in bytes, up to
//! the first that is not 255. A match is the distance back, in two bytes, least first. The last sequence has literals only,
//! at least five; the last match begins twelve bytes before the end or earlier.

mod pack;
mod unpack;

#[cfg(test)]
mod tests;

pub(super) use self::pack::{Packer, Places};
pub(super) use self::unpack::{Damaged, unpack};

/// The shortest match.
const LEAST_MATCH: usize = 4;
/// From this on a number of the token goes on behind it.
const GOES_ON: usize = 15;
/// Literals that are copied in one piece, wanted or not, where there is room.
const PIECE: usize = 16;

/// `N` bytes from `at` on, if there are so many.
#[inline(always)]
fn piece<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// The same, to be changed.
#[inline(always)]
fn piece_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}
