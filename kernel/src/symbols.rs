//! Function names by address, from a compact table that is part of the image.
//!
//! The build appends the table after linking, as the image's last segment, so that a backtrace can be printed by
//! the guest itself. Little-endian:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | number of functions, n |
//! | 12 | 4 | size of the whole table in bytes; 0 in an image without names |
//! | 16 | 12 n | per function, by rising offset: offset from the base, size, place of the name, a `u32` each |
//! | … | | names: length `u16`, UTF-8 bytes |
//!
//! The base is the first address of the image; a place counts from the first byte of the table. A corrupt table
//! answers nothing, and never makes a lookup fail otherwise: it is read from a panic.

/// The first eight bytes of a table.
pub const MAGIC: [u8; 8] = *b"Ebbsym1\0";
/// Bytes before the first function.
pub const HEADER_SIZE: usize = 16;
/// Bytes per function.
pub const ENTRY_SIZE: usize = 12;

/// A table, not checked beyond its header.
#[derive(Clone, Copy, Debug)]
pub struct Symbols<'t> {
    bytes: &'t [u8],
    count: usize,
}

/// A function found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'t> {
    /// Its demangled name.
    pub name: &'t str,
    /// How far into the function the address is, in bytes.
    pub offset: u32,
}

/// The size in bytes of the table that begins with `header`, or `None` if that is no table.
///
/// An image without names has a table of nothing but a header.
#[must_use]
pub fn table_size(header: &[u8; HEADER_SIZE]) -> Option<usize> {
    if header[..8] != MAGIC {
        return None;
    }
    match word(header, 12)? as usize {
        0 => Some(HEADER_SIZE),
        size => Some(size).filter(|size| *size >= HEADER_SIZE),
    }
}

impl<'t> Symbols<'t> {
    /// No names.
    pub const EMPTY: Symbols<'static> = Symbols { bytes: &[], count: 0 };

    /// The table in `bytes`, which may go on beyond its end; `None` if there is none or it does not fit.
    #[must_use]
    pub fn new(bytes: &'t [u8]) -> Option<Self> {
        let header = bytes.first_chunk()?;
        let bytes = bytes.get(..table_size(header)?)?;
        let count = word(header, 8)? as usize;
        let end = count.checked_mul(ENTRY_SIZE)?.checked_add(HEADER_SIZE)?;
        (end <= bytes.len()).then_some(Self { bytes, count })
    }

    /// How many functions have names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no function has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The function whose code is `offset` bytes from the base of the image.
    #[must_use]
    pub fn look_up(&self, offset: u32) -> Option<Symbol<'t>> {
        // The last function that begins at or before it.
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle)?.0 <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let (start, size, place) = self.entry(low.checked_sub(1)?)?;
        let into = offset.checked_sub(start)?;
        if into >= size {
            return None;
        }
        let place = place as usize;
        let length = self.bytes.get(place..)?.first_chunk().copied().map(u16::from_le_bytes)?;
        let name = self.bytes.get(place.checked_add(2)?..)?.get(..usize::from(length))?;
        Some(Symbol { name: str::from_utf8(name).ok()?, offset: into })
    }

    /// Offset, size and place of the name of function `index`.
    fn entry(&self, index: usize) -> Option<(u32, u32, u32)> {
        let at = index.checked_mul(ENTRY_SIZE)?.checked_add(HEADER_SIZE)?;
        Some((word(self.bytes, at)?, word(self.bytes, at + 4)?, word(self.bytes, at + 8)?))
    }
}

/// The little-endian `u32` at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A table as the build makes it.
    fn table(functions: &[(u32, u32, &str)]) -> Vec<u8> {
        let mut names = Vec::new();
        let mut table = Vec::from(MAGIC);
        let names_at = HEADER_SIZE + functions.len() * ENTRY_SIZE;
        let size = names_at + functions.iter().map(|(.., name)| 2 + name.len()).sum::<usize>();
        table.extend(u32::try_from(functions.len()).unwrap().to_le_bytes());
        table.extend(u32::try_from(size).unwrap().to_le_bytes());
        for (offset, length, name) in functions {
            table.extend(offset.to_le_bytes());
            table.extend(length.to_le_bytes());
            table.extend(u32::try_from(names_at + names.len()).unwrap().to_le_bytes());
            names.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            names.extend(name.as_bytes());
        }
        table.extend(names);
        table
    }

    fn sound() -> Vec<u8> {
        table(&[(0x10, 0x10, "first"), (0x20, 8, "second"), (0x100, 0x40, "ebb::third")])
    }

    #[test]
    fn an_address_has_the_name_of_the_function_around_it() {
        let bytes = sound();
        let symbols = Symbols::new(&bytes).unwrap();
        assert_eq!(symbols.len(), 3);
        let found = |offset| symbols.look_up(offset).map(|symbol| (symbol.name, symbol.offset));
        assert_eq!(found(0xF), None);
        assert_eq!(found(0x10), Some(("first", 0)));
        assert_eq!(found(0x1F), Some(("first", 0xF)));
        assert_eq!(found(0x27), Some(("second", 7)));
        assert_eq!(found(0x28), None, "a gap between functions has no name");
        assert_eq!(found(0x13F), Some(("ebb::third", 0x3F)));
        assert_eq!(found(u32::MAX), None);
    }

    #[test]
    fn an_image_without_names_has_an_empty_table() {
        let mut header = [0; HEADER_SIZE];
        header[..8].copy_from_slice(&MAGIC);
        assert_eq!(table_size(&header), Some(HEADER_SIZE));
        let symbols = Symbols::new(&header).unwrap();
        assert!(symbols.is_empty());
        assert_eq!(symbols.look_up(0), None);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert!(Symbols::new(&[]).is_none());
        assert!(Symbols::new(&[0; 64]).is_none());
        let mut bytes = sound();
        bytes.truncate(bytes.len() - 1);
        assert!(Symbols::new(&bytes).is_none(), "shorter than it says");
        let mut bytes = sound();
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Symbols::new(&bytes).is_none(), "more functions than bytes");
        let mut bytes = sound();
        bytes[12..16].copy_from_slice(&8u32.to_le_bytes());
        assert!(Symbols::new(&bytes).is_none(), "smaller than its header");
    }

    proptest! {
        #[test]
        fn a_corrupt_table_answers_something_or_nothing(
            writes in prop::collection::vec((0..80usize, any::<u8>()), 1..30),
            offset in any::<u32>(),
        ) {
            let mut bytes = sound();
            for (at, value) in writes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some(symbols) = Symbols::new(&bytes) {
                let _ = symbols.look_up(offset);
                let _ = symbols.look_up(offset % 0x200);
            }
        }
    }
}
