//! The decoder. What it is given may be anything.

use super::{GOES_ON, LEAST_MATCH, PIECE, piece, piece_mut};
use crate::swap::Page;

/// These bytes are no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::swap::pool) struct Damaged;

/// Writes the page that was compressed.
///
/// # Errors
///
/// [`Damaged`]: then what is in the page is anything.
pub(in crate::swap::pool) fn unpack(packed: &[u8], page: &mut Page) -> Result<(), Damaged> {
    let (mut from, mut at) = (0, 0);
    loop {
        let token = usize::from(*packed.get(from).ok_or(Damaged)?);
        from += 1;
        let mut literals = token >> 4;
        if literals == GOES_ON {
            literals += go_on(packed, &mut from)?;
        }
        match (piece::<PIECE>(packed, from), piece_mut::<PIECE>(page, at)) {
            (Some(from), Some(to)) if literals <= PIECE => *to = *from,
            _ => {
                let to = page.get_mut(at..at + literals).ok_or(Damaged)?;
                to.copy_from_slice(packed.get(from..from + literals).ok_or(Damaged)?);
            }
        }
        (from, at) = (from + literals, at + literals);
        if from == packed.len() {
            return if at == page.len() { Ok(()) } else { Err(Damaged) };
        }
        let distance = usize::from(u16::from_le_bytes(*piece(packed, from).ok_or(Damaged)?));
        from += 2;
        let mut length = token % (GOES_ON + 1);
        if length == GOES_ON {
            length += go_on(packed, &mut from)?;
        }
        length += LEAST_MATCH;
        if distance == 0 || distance > at || length > page.len() - at {
            return Err(Damaged);
        }
        repeat(page, at, distance, length);
        at += length;
    }
}

/// What did not fit into a token.
fn go_on(packed: &[u8], from: &mut usize) -> Result<usize, Damaged> {
    let mut sum = 0;
    loop {
        let byte = *packed.get(*from).ok_or(Damaged)?;
        *from += 1;
        sum += usize::from(byte);
        if byte != 255 {
            return Ok(sum);
        }
    }
}

/// Copies `length` bytes to `at` from `distance` before, of which the last ones may be those that are written.
#[inline(always)]
fn repeat(page: &mut Page, at: usize, distance: usize, length: usize) {
    let source = at - distance;
    if distance >= PIECE && length <= 2 * PIECE {
        // Two pieces, wanted or not, if they fit.
        if let Some(first) = piece::<PIECE>(page, source).copied()
            && page.len() - at >= 2 * PIECE
        {
            page[at..at + PIECE].copy_from_slice(&first);
            if length > PIECE
                && let Some(second) = piece::<PIECE>(page, source + PIECE).copied()
            {
                page[at + PIECE..at + 2 * PIECE].copy_from_slice(&second);
            }
            return;
        }
    }
    if distance == 1 {
        let byte = page[source];
        page[at..at + length].fill(byte);
        return;
    }
    // What is there may be copied as a whole, and is twice as much after that.
    let mut done = 0;
    while done < length {
        let more = (distance + done).min(length - done);
        page.copy_within(source..source + more, at + done);
        done += more;
    }
}
