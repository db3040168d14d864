//! Start infos, sound and corrupt.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// Guest memory from `base`; nothing else can be read.
struct Memory {
    base: u64,
    bytes: Vec<u8>,
}

impl PhysRead for Memory {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let start =
            usize::try_from(at.get().checked_sub(self.base).ok_or(Unreadable)?).map_err(|_| Unreadable)?;
        let end = start.checked_add(into.len()).ok_or(Unreadable)?;
        into.copy_from_slice(self.bytes.get(start..end).ok_or(Unreadable)?);
        Ok(())
    }
}

const BASE: u64 = 0x20_0000;
const COMMAND_LINE: u64 = 0x100;
const MODULES: u64 = 0x2000;
const MAP: u64 = 0x3000;

impl Memory {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, at: u64, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_entry(&mut self, index: u64, start: u64, size: u64, kind: u32) {
        self.put_u64(MAP + index * 24, start);
        self.put_u64(MAP + index * 24 + 8, size);
        self.put_u32(MAP + index * 24 + 16, kind);
    }

    /// What libxl writes for a guest of 256 MiB with one module.
    fn sound() -> Self {
        let mut memory = Self { base: BASE, bytes: vec![0; 0x8000] };
        memory.put_u32(0, MAGIC);
        memory.put_u32(4, 1);
        memory.put_u32(12, 1);
        memory.put_u64(16, BASE + MODULES);
        memory.put_u64(24, BASE + COMMAND_LINE);
        memory.put_u64(32, 0xFC00_5000);
        memory.put_u64(40, BASE + MAP);
        memory.put_u32(48, 3);
        memory.put(COMMAND_LINE, b"tmem loglevel=info\0");
        memory.put_u64(MODULES, 0x18_0000);
        memory.put_u64(MODULES + 8, 0x1001);
        memory.put_entry(0, 0, 0x1000_0000, 1);
        memory.put_entry(1, 0xFEFF_8000, 0x8000, 2);
        memory.put_entry(2, 0xFC00_0000, 0x6000, 3);
        memory
    }

    fn boot_info(&self) -> Result<BootInfo, BootInfoError> {
        BootInfo::read(self, PhysAddr::new(BASE), |_| None)
    }
}

fn range(start: u64, end: u64) -> FrameRange {
    FrameRange::new(Gfn::new(start), Gfn::new(end))
}

#[test]
fn a_sound_start_info_is_copied_out() {
    let info = Memory::sound().boot_info().unwrap();
    assert_eq!(info.command_line(), "tmem loglevel=info");
    assert_eq!(info.rsdp(), Some(PhysAddr::new(0xFC00_5000)));
    assert_eq!(info.ram().ranges(), [range(0, 0x10000)]);
    assert_eq!(info.warnings(), Warnings::default());
    let modules: Vec<_> = info.modules().copied().collect();
    assert_eq!(
        modules,
        [Module { start: PhysAddr::new(0x18_0000), size: 0x1001, frames: range(0x180, 0x182) }]
    );
    let usable = info.usable(range(0x100, 0x140)).unwrap();
    assert_eq!(usable.ranges(), [range(1, 0x100), range(0x140, 0x180), range(0x182, 0x10000)]);
}

#[test]
fn version_0_ends_before_the_map_and_asks_the_hypervisor() {
    let mut memory = Memory::sound();
    memory.put_u32(4, 0);
    assert_eq!(memory.boot_info().unwrap_err(), BootInfoError::NoMemoryMap);
    // The structure may be the last thing in memory.
    memory.bytes.truncate(SIZE_V0);
    memory.put_u32(12, 0);
    memory.put_u64(24, 0);
    let ram = MapEntry { start: 0, size: 0x10_0000, kind: MemoryKind::Ram };
    let info = BootInfo::read(&memory, PhysAddr::new(BASE), |entries| {
        entries[0] = ram;
        Some(1)
    });
    assert_eq!(info.unwrap().ram().ranges(), [range(0, 0x100)]);
}

#[test]
fn a_hypervisor_that_counts_wrong_gives_no_map() {
    let mut memory = Memory::sound();
    memory.put_u32(48, 0);
    let info = BootInfo::read(&memory, PhysAddr::new(BASE), |_| Some(MAX_ENTRIES + 1));
    assert_eq!(info.unwrap_err(), BootInfoError::NoMemoryMap);
}

#[test]
fn absent_things_are_absent() {
    let mut memory = Memory::sound();
    memory.put_u32(12, 0);
    memory.put_u64(24, 0);
    memory.put_u64(32, 0);
    let info = memory.boot_info().unwrap();
    assert_eq!(info.command_line(), "");
    assert_eq!(info.rsdp(), None);
    assert_eq!(info.modules().count(), 0);
}

#[test]
fn each_corruption_has_a_name() {
    let corrupt = |change: &dyn Fn(&mut Memory)| {
        let mut memory = Memory::sound();
        change(&mut memory);
        memory.boot_info().unwrap_err()
    };
    assert_eq!(corrupt(&|m| m.put_u32(0, 0x1234)), BootInfoError::BadMagic(0x1234));
    assert_eq!(corrupt(&|m| m.put_u32(12, u32::MAX)), BootInfoError::TooManyModules(u32::MAX));
    assert_eq!(corrupt(&|m| m.put_u32(48, 129)), BootInfoError::TooManyEntries(129));
    assert_eq!(corrupt(&|m| m.put_entry(0, 0, 0x10000, 2)), BootInfoError::NoRam);
    let wild = PhysAddr::new(u64::MAX - 1);
    let unreadable = |what| BootInfoError::Unreadable { what, at: wild };
    assert_eq!(corrupt(&|m| m.put_u64(16, wild.get())), unreadable("module list"));
    assert_eq!(corrupt(&|m| m.put_u64(24, wild.get())), unreadable("command line"));
    assert_eq!(corrupt(&|m| m.put_u64(40, wild.get())), unreadable("memory map"));
    let error = corrupt(&|m| m.put_u64(MODULES + 8, u64::MAX));
    assert_eq!(error, BootInfoError::BadModule { start: PhysAddr::new(0x18_0000), size: u64::MAX });
    let nowhere = BootInfo::read(&Memory::sound(), PhysAddr::new(0), |_| None).unwrap_err();
    assert_eq!(nowhere, BootInfoError::Unreadable { what: "start info", at: PhysAddr::new(0) });
}

#[test]
fn a_long_command_line_is_cut_with_a_warning() {
    let mut memory = Memory::sound();
    memory.put(COMMAND_LINE, &[b'x'; MAX_COMMAND_LINE]);
    let info = memory.boot_info().unwrap();
    assert_eq!((info.command_line().len(), info.warnings().command_line_cut), (MAX_COMMAND_LINE, false));

    memory.put(COMMAND_LINE, &[b'x'; MAX_COMMAND_LINE + 1]);
    let info = memory.boot_info().unwrap();
    assert_eq!((info.command_line().len(), info.warnings().command_line_cut), (MAX_COMMAND_LINE, true));

    // Cut through the middle of a character: that is not a second mistake.
    memory.put(COMMAND_LINE + MAX_COMMAND_LINE as u64 - 1, "é".as_bytes());
    let info = memory.boot_info().unwrap();
    assert_eq!(info.command_line().len(), MAX_COMMAND_LINE - 1);
    assert!(info.warnings().command_line_cut && !info.warnings().command_line_not_utf8);
}

#[test]
fn of_a_command_line_that_is_not_utf8_the_valid_part_is_kept() {
    let mut memory = Memory::sound();
    memory.put(COMMAND_LINE, b"tmem \xFF rest\0");
    let info = memory.boot_info().unwrap();
    assert_eq!(info.command_line(), "tmem ");
    assert!(info.warnings().command_line_not_utf8);
}

#[test]
fn a_command_line_without_an_end_is_an_error() {
    let mut memory = Memory::sound();
    memory.put_u64(24, BASE + 0x7FFE);
    memory.put(0x7FFE, b"xx");
    let at = PhysAddr::new(BASE + 0x7FFE);
    assert_eq!(memory.boot_info().unwrap_err(), BootInfoError::Unreadable { what: "command line", at });
}

#[test]
fn senseless_entries_are_counted() {
    let mut memory = Memory::sound();
    memory.put_entry(1, u64::MAX, 2, 1);
    assert_eq!(memory.boot_info().unwrap().warnings().entries_dropped, 1);
}

proptest! {
    /// Whatever is written over a sound start info, reading ends with a value.
    #[test]
    fn corruption_never_panics(writes in prop::collection::vec((0..0x3100u64, any::<u64>()), 1..20)) {
        let mut memory = Memory::sound();
        for (at, value) in writes {
            // Spare the magic, to get beyond it.
            memory.put_u64(at.max(4), value);
        }
        if let Ok(info) = memory.boot_info() {
            prop_assert!(!info.ram().ranges().is_empty());
            prop_assert!(info.usable(range(0x100, 0x200)).is_ok());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut memory = Memory { base: BASE, bytes };
        if memory.bytes.len() >= 4 {
            memory.put_u32(0, MAGIC);
        }
        let _ = memory.boot_info();
    }
}
