//! An image that a loader takes, and each way in which it would not.

use super::*;

const ENTRY: u64 = 0x10_0010;

fn note(name: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u32, contents.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [name, contents] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn segment(flags: u32, physical_address: u64, bytes: Vec<u8>, memory_size: u64) -> Segment {
    Segment { flags, virtual_address: KERNEL_BASE + physical_address, physical_address, bytes, memory_size }
}

/// Code, constants with the note, variables, symbols.
fn sound_with(notes: Vec<u8>) -> Parts {
    let mut symbols = Vec::from(ebb::symbols::MAGIC);
    symbols.resize(16, 0);
    let mut constants = vec![7; 16];
    constants.extend(&notes);
    let size = constants.len() as u64;
    Parts {
        entry: KERNEL_BASE + ENTRY,
        segments: vec![
            segment(PF_R | PF_X, 0x10_0000, vec![0x90; 0x1000], 0x1000),
            segment(PF_R, 0x10_1000, constants, size),
            segment(PF_R | PF_W, 0x10_2000, vec![1; 8], 0x3000),
            segment(PF_R, 0x10_5000, symbols, 16),
        ],
        note: Note { virtual_address: KERNEL_BASE + 0x10_1010, align: 4, bytes: notes },
    }
}

fn sound() -> Parts {
    sound_with(note(b"Xen\0", 18, &ENTRY.to_le_bytes()))
}

fn refusal(parts: &Parts) -> String {
    parts.check(&write(parts)).unwrap_err().to_string()
}

#[test]
fn what_is_written_reads_the_same_and_is_accepted() {
    let parts = sound();
    let file = write(&parts);
    assert_eq!(read(&file).unwrap(), parts);
    parts.check(&file).unwrap();
    let sizes = parts.sizes(file.len() as u64, 16);
    assert_eq!((sizes.text, sizes.rodata, sizes.data, sizes.bss), (0x1000, 40, 8, 0x3000 - 8));
    assert_eq!((sizes.symbols, sizes.memory), (16, 0x6000));
}

#[test]
fn symbols_grow_the_last_segment_only() {
    let mut parts = sound();
    let mut table = Vec::from(ebb::symbols::MAGIC);
    table.resize(5000, 1);
    parts.set_symbols(table.clone()).unwrap();
    let again = read(&write(&parts)).unwrap();
    assert_eq!(again.symbols().unwrap().bytes, table);
    assert_eq!(again.segments[..3], sound().segments[..3]);

    parts.segments.last_mut().unwrap().bytes = vec![0; 16];
    assert!(parts.set_symbols(vec![]).is_err(), "not a symbol table before");
}

#[test]
fn segments_that_break_a_rule_are_refused() {
    let mut parts = sound();
    parts.segments[0].flags |= PF_W;
    assert!(refusal(&parts).contains("writable and executable"));

    let mut parts = sound();
    parts.segments[1].physical_address += 8;
    assert!(refusal(&parts).contains("does not begin a page"));

    let mut parts = sound();
    parts.segments[1].virtual_address += 0x1000;
    assert!(refusal(&parts).contains("not linked where"));

    let mut parts = sound();
    parts.segments[2].memory_size = 0x3001;
    assert!(refusal(&parts).contains("share a page"));
}

#[test]
fn notes_that_a_loader_would_not_take_are_refused() {
    assert!(refusal(&sound_with(vec![])).contains("0 PVH entry notes"));
    assert!(refusal(&sound_with(note(b"Xen\0", 17, &ENTRY.to_le_bytes()))).contains("0 PVH entry notes"));
    assert!(refusal(&sound_with(note(b"GNU\0", 18, &ENTRY.to_le_bytes()))).contains("0 PVH entry notes"));
    assert!(refusal(&sound_with(note(b"Xen\0", 18, &[0; 4]))).contains("4 bytes, not 8"));
    assert!(
        refusal(&sound_with(note(b"Xen\0", 18, &0x10_2000_u64.to_le_bytes()))).contains("not in the code")
    );
    let twice = [note(b"Xen\0", 18, &ENTRY.to_le_bytes()), note(b"Xen\0", 18, &ENTRY.to_le_bytes())].concat();
    assert!(refusal(&sound_with(twice)).contains("2 PVH entry notes"));
    let linux = [note(b"Xen\0", 18, &ENTRY.to_le_bytes()), note(b"Xen\0", 6, b"linux\0")].concat();
    assert!(refusal(&sound_with(linux)).contains("linux"));
    let mut cut = note(b"Xen\0", 18, &ENTRY.to_le_bytes());
    cut.truncate(20);
    assert!(refusal(&sound_with(cut)).contains("cut short"));
    let mut parts = sound();
    parts.note.align = 8;
    assert!(refusal(&parts).contains("aligned to 8"));
}

#[test]
fn a_multiboot_header_is_refused() {
    let mut parts = sound();
    parts.segments[0].bytes[64..68].copy_from_slice(&0x1BAD_B002_u32.to_le_bytes());
    assert!(refusal(&parts).contains("multiboot"));
}

#[test]
fn what_is_no_elf_file_is_an_error() {
    assert!(read(b"").is_err());
    assert!(read(&[0; 100]).is_err());
    let mut file = write(&sound());
    file.truncate(0x1800);
    assert!(read(&file).is_err());
}
