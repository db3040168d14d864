//! The loadable parts of an ELF file: read, checked, written.
//!
//! The checks are those that Xen's loader and QEMU make, and those that keep the image's promises: no segment is
//! both writable and executable, and the note names an entry inside the code. Sources: Xen
//! `xen/common/libelf`, `tools/libs/guest/xg_dom_elfloader.c`; QEMU `hw/i386/x86.c`.

use super::Sizes;
use anyhow::{Context, Result, bail, ensure};
use ebb::arch::layout::KERNEL_BASE;
use object::Endianness;
use object::elf::{FileHeader64, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use std::ops::Range;

/// What the program headers of a file describe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    entry: u64,
    /// In the order of the file.
    segments: Vec<Segment>,
    note: Note,
}

/// A part of memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    flags: u32,
    pub(super) virtual_address: u64,
    physical_address: u64,
    /// What the file gives.
    pub(super) bytes: Vec<u8>,
    /// What it takes in memory; the rest begins as zero.
    pub(super) memory_size: u64,
}

/// Where the notes are.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Note {
    virtual_address: u64,
    align: u64,
    bytes: Vec<u8>,
}

/// Addresses are multiples of this in both spaces.
const PAGE: u64 = 4096;

impl Segment {
    pub(super) fn virtual_range(&self) -> Range<u64> {
        self.virtual_address..self.virtual_address + self.memory_size
    }

    fn physical_range(&self) -> Range<u64> {
        self.physical_address..self.physical_address + self.memory_size
    }
}

impl Parts {
    /// The code.
    pub(super) fn text(&self) -> Result<&Segment> {
        self.segments.iter().find(|segment| segment.flags & PF_X != 0).context("no executable segment")
    }

    /// The symbol table: the last segment.
    pub(super) fn symbols(&self) -> Result<&Segment> {
        self.segments.last().filter(|segment| segment.flags == PF_R).context("no segment for symbols")
    }

    /// Replaces the contents of the last segment.
    pub(super) fn set_symbols(&mut self, table: Vec<u8>) -> Result<()> {
        let begins = self.symbols()?.bytes.starts_with(&ebb::symbols::MAGIC);
        ensure!(begins, "the last segment is not a symbol table");
        if let Some(segment) = self.segments.last_mut() {
            segment.memory_size = table.len() as u64;
            segment.bytes = table;
        }
        Ok(())
    }

    /// How large everything is.
    pub(super) fn sizes(&self, file: u64, symbols: u64) -> Sizes {
        let mut sizes = Sizes { file, symbols, ..Sizes::default() };
        let mut range: Option<Range<u64>> = None;
        for (number, segment) in self.segments.iter().enumerate() {
            let bytes = segment.bytes.len() as u64;
            if segment.flags & PF_X != 0 {
                sizes.text += bytes;
            } else if segment.flags & PF_W != 0 {
                sizes.data += bytes;
                sizes.bss += segment.memory_size - bytes;
            } else if number + 1 < self.segments.len() {
                sizes.rodata += bytes;
            }
            let here = segment.physical_range();
            let so_far = range.unwrap_or(here.clone());
            range = Some(so_far.start.min(here.start)..so_far.end.max(here.end));
        }
        sizes.memory = range.map_or(0, |range| (range.end - range.start).next_multiple_of(PAGE));
        sizes
    }

    /// Whether a loader will take the file `bytes`, whose parts these are.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<()> {
        for (number, segment) in self.segments.iter().enumerate() {
            let at = segment.physical_address;
            let both = PF_W | PF_X;
            ensure!(segment.flags & both != both, "the segment at {at:#x} is writable and executable");
            ensure!(at.is_multiple_of(PAGE), "the segment at {at:#x} does not begin a page");
            ensure!(
                segment.virtual_address.wrapping_sub(at) == KERNEL_BASE,
                "the segment at {at:#x} is not linked where the kernel expects it"
            );
            for other in &self.segments[number + 1..] {
                let (one, other) = (segment.physical_range(), other.physical_range());
                let apart = one.end.next_multiple_of(PAGE) <= other.start || other.end <= one.start;
                ensure!(apart, "the segments at {at:#x} and {:#x} share a page", other.start);
            }
        }
        let notes = parse_notes(&self.note.bytes)?;
        ensure!(self.note.align == 4, "the notes are aligned to {}, not 4", self.note.align);
        let entries: Vec<_> = notes.iter().filter(|note| note.0 == b"Xen\0" && note.1 == 18).collect();
        let [(_, _, entry)] = entries[..] else { bail!("{} PVH entry notes, not 1", entries.len()) };
        let entry: [u8; 8] = (*entry)
            .try_into()
            .map_err(|_| anyhow::anyhow!("a PVH entry of {} bytes, not 8", entry.len()))?;
        let entry = u64::from_le_bytes(entry);
        ensure!(
            self.text()?.physical_range().contains(&entry),
            "the PVH entry {entry:#x} is not in the code"
        );
        let linux = notes.iter().any(|note| note.1 == 6 && note.2.starts_with(b"linux"));
        ensure!(!linux, "a guest called linux finds the ACPI root pointer in low RAM");
        let head = &bytes[..bytes.len().min(8192)];
        let multiboot = head.chunks_exact(4).any(|word| word == 0x1BAD_B002_u32.to_le_bytes());
        ensure!(!multiboot, "a multiboot header, which QEMU would prefer to the PVH note");
        Ok(())
    }
}

/// Name, type and contents of an ELF note.
type NoteParts<'b> = (&'b [u8], u32, &'b [u8]);

/// The notes of a segment; all parts of them are rounded to 4 bytes.
fn parse_notes(mut bytes: &[u8]) -> Result<Vec<NoteParts<'_>>> {
    fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Result<&'b [u8]> {
        let (taken, rest) = bytes.split_at_checked(count).context("a note that is cut short")?;
        *bytes = rest.get(count.next_multiple_of(4) - count..).unwrap_or_default();
        Ok(taken)
    }
    let mut notes = Vec::new();
    while !bytes.is_empty() {
        let mut word = || -> Result<u32> { Ok(u32::from_le_bytes(take(&mut bytes, 4)?.try_into()?)) };
        let (name, contents, kind) = (word()?, word()?, word()?);
        let name = take(&mut bytes, name as usize)?;
        notes.push((name, kind, take(&mut bytes, contents as usize)?));
    }
    Ok(notes)
}

/// Reads the program headers of a file and what they point at.
pub(super) fn read(file: &[u8]) -> Result<Parts> {
    let header = FileHeader64::<Endianness>::parse(file).context("no 64-bit ELF file")?;
    let endian = header.endian()?;
    let mut segments = Vec::new();
    let mut notes = Vec::new();
    for program in header.program_headers(endian, file)? {
        let bytes = program.data(endian, file).map_err(|()| anyhow::anyhow!("a segment beyond the file"))?;
        let virtual_address = program.p_vaddr(endian);
        match program.p_type(endian) {
            PT_LOAD => segments.push(Segment {
                flags: program.p_flags(endian) & (PF_R | PF_W | PF_X),
                virtual_address,
                physical_address: program.p_paddr(endian),
                bytes: bytes.to_vec(),
                memory_size: program.p_memsz(endian),
            }),
            PT_NOTE => {
                notes.push(Note { virtual_address, align: program.p_align(endian), bytes: bytes.to_vec() });
            }
            _ => {}
        }
    }
    let count = notes.len();
    let note = notes.pop().filter(|_| count == 1).with_context(|| format!("{count} note segments, not 1"))?;
    Ok(Parts { entry: header.e_entry(endian), segments, note })
}

/// Writes an ELF file of nothing but these parts, each segment at a multiple of a page.
///
/// The note's bytes are those of the segment that contains it.
pub(super) fn write(parts: &Parts) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let count = parts.segments.len() as u64 + 1;
    let mut offset = HEADER + count * PROGRAM_HEADER;
    let mut headers = Vec::new();
    let mut note_offset = 0;
    let mut program_header = |kind: u32, flags: u32, fields: [u64; 6]| {
        headers.extend(kind.to_le_bytes());
        headers.extend(flags.to_le_bytes());
        headers.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    };
    let mut contents: Vec<(u64, &[u8])> = Vec::new();
    for segment in &parts.segments {
        offset = offset.next_multiple_of(PAGE);
        let (at, physical, size) =
            (segment.virtual_address, segment.physical_address, segment.bytes.len() as u64);
        program_header(PT_LOAD, segment.flags, [offset, at, physical, size, segment.memory_size, PAGE]);
        if (at..at + size).contains(&parts.note.virtual_address) {
            note_offset = offset + (parts.note.virtual_address - at);
        }
        contents.push((offset, &segment.bytes));
        offset += size;
    }
    let at = parts.note.virtual_address;
    let size = parts.note.bytes.len() as u64;
    let physical = at.wrapping_sub(KERNEL_BASE);
    program_header(PT_NOTE, PF_R, [note_offset, at, physical, size, size, parts.note.align]);

    // Identification: 64-bit, little-endian, version 1, no particular ABI.
    let mut file = Vec::from(*b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable for x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry, program headers after this header, no sections.
    file.extend([parts.entry, HEADER, 0].iter().flat_map(|field| field.to_le_bytes()));
    // Flags; the sizes of this header and of a program header, their number; no sections.
    file.extend([0; 4]);
    let sizes = [HEADER as u16, PROGRAM_HEADER as u16, count as u16, 64, 0, 0];
    file.extend(sizes.iter().flat_map(|field| field.to_le_bytes()));
    file.extend(headers);
    for (offset, bytes) in contents {
        file.resize(offset as usize, 0);
        file.extend(bytes);
    }
    file
}

#[cfg(test)]
mod tests;
