//! The processors of a PC, as its ACPI tables list them.
//!
//! Root pointer, root table, and in it the table with signature `APIC` (ACPI specification 6.4, 5.2.5 to 5.2.12).
//! Nothing is trusted: every length is bounded, every table has its checksum, every pointer is read through
//! [`PhysRead`]; what makes no sense is left out. Xen's own tables are not asked: there, hypercalls answer.

use super::{PhysRead, Unreadable};
use crate::units::PhysAddr;

/// Processors that are kept.
pub const MAX_PROCESSORS: usize = 64;
/// Tables that the root table may list, and bytes of a table that are read.
const MAX_TABLES: u64 = 128;
const MAX_TABLE: u64 = 64 << 10;
/// Where a PC's firmware leaves the root pointer, on a 16-byte boundary.
const BIOS: core::ops::Range<u64> = 0xE_0000..0x10_0000;
/// Size of the root pointer's first version, and of the second.
const ROOT_V1: usize = 20;
const ROOT_V2: usize = 36;
/// Size of a table's header.
const HEADER: u64 = 36;

/// The processors that may be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processors {
    ids: [u32; MAX_PROCESSORS],
    count: usize,
    /// How many more there were.
    pub dropped: usize,
}

impl Processors {
    const NONE: Self = Self { ids: [0; MAX_PROCESSORS], count: 0, dropped: 0 };

    /// The numbers of their local APICs, in the order of the table.
    #[must_use]
    pub fn apic_ids(&self) -> &[u32] {
        self.ids.get(..self.count).unwrap_or_default()
    }

    fn add(&mut self, id: u32) {
        if self.apic_ids().contains(&id) {
            return;
        }
        match self.ids.get_mut(self.count) {
            Some(slot) => {
                *slot = id;
                self.count += 1;
            }
            None => self.dropped += 1,
        }
    }
}

/// Finds the enabled processors, from the root pointer at `root` or, without one, from the one that the firmware
/// left below 1 MiB. `None` if there are no sound tables.
#[must_use]
pub fn processors(memory: &impl PhysRead, root: Option<PhysAddr>) -> Option<Processors> {
    let given = root.and_then(|at| root_table(memory, at.get()));
    let (table, entry_size) = given.or_else(|| BIOS.step_by(16).find_map(|at| root_table(memory, at)))?;
    let length = sound_table(memory, table, None)?;
    let entries = ((length - HEADER) / entry_size).min(MAX_TABLES);
    (0..entries).find_map(|index| {
        let at = table + HEADER + index * entry_size;
        let table = if entry_size == 8 { read_u64(memory, at) } else { read_u32(memory, at).map(u64::from) };
        let table = table.ok()?;
        let length = sound_table(memory, table, Some(b"APIC"))?;
        Some(list(memory, table, length))
    })
}

/// The root table that a sound root pointer at `at` names, and the size of its entries.
fn root_table(memory: &impl PhysRead, at: u64) -> Option<(u64, u64)> {
    let mut pointer = [0; ROOT_V2];
    let first = pointer.get_mut(..ROOT_V1)?;
    memory.read(PhysAddr::new(at), first).ok()?;
    if !first.starts_with(b"RSD PTR ") || sum(first) != 0 {
        return None;
    }
    let revision = first[15];
    let short = u32::from_le_bytes(first[16..20].try_into().ok()?);
    if revision >= 2 && memory.read(PhysAddr::new(at), &mut pointer).is_ok() && sum(&pointer) == 0 {
        let long = u64::from_le_bytes(pointer[24..32].try_into().ok()?);
        if long != 0 {
            return Some((long, 8));
        }
    }
    (short != 0).then_some((u64::from(short), 4))
}

/// The length of the table at `at`, if it is sound and has the signature.
fn sound_table(memory: &impl PhysRead, at: u64, signature: Option<&[u8; 4]>) -> Option<u64> {
    let mut found = [0; 4];
    memory.read(PhysAddr::new(at), &mut found).ok()?;
    if signature.is_some_and(|wanted| found != *wanted) {
        return None;
    }
    let length = u64::from(read_u32(memory, at.checked_add(4)?).ok()?);
    if !(HEADER..=MAX_TABLE).contains(&length) {
        return None;
    }
    let end = at.checked_add(length)?;
    let mut total = 0_u8;
    let mut chunk = [0; 64];
    let mut from = at;
    while from < end {
        let count = (end - from).min(chunk.len() as u64) as usize;
        let part = chunk.get_mut(..count)?;
        memory.read(PhysAddr::new(from), part).ok()?;
        total = total.wrapping_add(sum(part));
        from += count as u64;
    }
    (total == 0).then_some(length)
}

/// The enabled processors in the table of APICs at `table`.
fn list(memory: &impl PhysRead, table: u64, length: u64) -> Processors {
    /// Behind the header: the APIC's address and flags, then entries.
    const FIRST: u64 = HEADER + 8;
    const LOCAL_APIC: u8 = 0;
    const LOCAL_X2APIC: u8 = 9;
    const ENABLED: u32 = 1;
    let mut found = Processors::NONE;
    let mut at = FIRST;
    let mut entry = [0; 16];
    while at + 2 <= length {
        let Ok(()) = memory.read(PhysAddr::new(table + at), &mut entry[..2]) else { break };
        let [kind, size, ..] = entry;
        let end = at + u64::from(size);
        if size < 2 || end > length {
            break;
        }
        let whole = usize::from(size).min(entry.len());
        let Ok(()) = memory.read(PhysAddr::new(table + at), &mut entry[..whole]) else { break };
        let word = |from: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| entry[from + byte]));
        match (kind, whole) {
            (LOCAL_APIC, 8..) if word(4) & ENABLED != 0 => found.add(u32::from(entry[3])),
            (LOCAL_X2APIC, 16..) if word(8) & ENABLED != 0 => found.add(word(4)),
            _ => {}
        }
        at = end;
    }
    found
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn read_u32(memory: &impl PhysRead, at: u64) -> Result<u32, Unreadable> {
    let mut bytes = [0; 4];
    memory.read(PhysAddr::new(at), &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_u64(memory: &impl PhysRead, at: u64) -> Result<u64, Unreadable> {
    let mut bytes = [0; 8];
    memory.read(PhysAddr::new(at), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// The first MiB.
    struct Memory(Vec<u8>);

    impl PhysRead for Memory {
        fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
            let start = usize::try_from(at.get()).map_err(|_| Unreadable)?;
            let end = start.checked_add(into.len()).ok_or(Unreadable)?;
            into.copy_from_slice(self.0.get(start..end).ok_or(Unreadable)?);
            Ok(())
        }
    }

    const ROOT: usize = 0xF_5AD0;
    const TABLE: usize = 0x8_0000;
    const APIC: usize = 0x8_1000;

    impl Memory {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        /// Makes the bytes of `range` sum to 0 by the one at `at`.
        fn fix(&mut self, at: usize, range: core::ops::Range<usize>) {
            self.0[at] = 0;
            self.0[at] = 0_u8.wrapping_sub(sum(&self.0[range]));
        }

        fn put_table(&mut self, at: usize, signature: &[u8; 4], body: &[u8]) {
            let length = 36 + body.len();
            self.put(at, signature);
            self.put(at + 4, &(length as u32).to_le_bytes());
            self.put(at + 36, body);
            self.fix(at + 9, at..at + length);
        }

        /// A PC with the entries given, listed by a table of 32-bit pointers behind some other table.
        fn pc(entries: &[&[u8]]) -> Self {
            let mut memory = Self(vec![0; 1 << 20]);
            memory.put(ROOT, b"RSD PTR ");
            memory.put(ROOT + 16, &(TABLE as u32).to_le_bytes());
            memory.fix(ROOT + 8, ROOT..ROOT + 20);
            let mut tables = (APIC as u32 + 0x1000).to_le_bytes().to_vec();
            tables.extend((APIC as u32).to_le_bytes());
            memory.put_table(TABLE, b"RSDT", &tables);
            memory.put_table(APIC + 0x1000, b"FACP", &[]);
            let mut body = vec![0; 8];
            body.extend(entries.concat());
            memory.put_table(APIC, b"APIC", &body);
            memory
        }

        fn ids(&self) -> Option<Vec<u32>> {
            processors(self, None).map(|found| found.apic_ids().to_vec())
        }
    }

    fn local(id: u8, flags: u8) -> [u8; 8] {
        [0, 8, id, id, flags, 0, 0, 0]
    }

    #[test]
    fn enabled_processors_are_found_in_order() {
        let io = [1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0];
        let x2 = [9, 16, 0, 0, 0x2C, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0];
        let memory =
            Memory::pc(&[&local(2, 1), &io, &local(0, 1), &local(5, 0), &local(6, 2), &x2, &local(2, 1)]);
        assert_eq!(memory.ids(), Some(vec![2, 0, 300]), "disabled and repeated ones are left out");
    }

    #[test]
    fn the_root_pointer_may_be_given_and_may_be_of_the_second_version() {
        let mut memory = Memory::pc(&[&local(3, 1)]);
        // An extended table with 64-bit pointers, named by a pointer outside of the firmware's area.
        memory.put_table(TABLE + 0x4000, b"XSDT", &(APIC as u64).to_le_bytes());
        memory.put(0x500, b"RSD PTR ");
        memory.put(0x500 + 15, &[2]);
        memory.put(0x500 + 20, &36_u32.to_le_bytes());
        memory.put(0x500 + 24, &(TABLE as u64 + 0x4000).to_le_bytes());
        memory.fix(0x500 + 8, 0x500..0x514);
        memory.fix(0x500 + 32, 0x500..0x524);
        memory.put(ROOT, b"no root ");
        assert_eq!(memory.ids(), None);
        let found = processors(&memory, Some(PhysAddr::new(0x500))).unwrap();
        assert_eq!(found.apic_ids(), [3]);
        memory.0[0x500 + 33] ^= 1;
        assert_eq!(processors(&memory, Some(PhysAddr::new(0x500))), None, "the second checksum counts");
    }

    #[test]
    fn a_broken_table_is_none() {
        for at in [ROOT + 8, TABLE + 9, APIC + 9] {
            let mut memory = Memory::pc(&[&local(0, 1)]);
            memory.0[at] ^= 0x10;
            assert_eq!(memory.ids(), None, "checksum at {at:#x}");
        }
        for length in [0_u32, 35, 65537, u32::MAX] {
            let mut memory = Memory::pc(&[&local(0, 1)]);
            memory.put(APIC + 4, &length.to_le_bytes());
            assert_eq!(memory.ids(), None, "length {length}");
        }
    }

    #[test]
    fn a_broken_entry_ends_the_list() {
        for size in [0, 1, 200] {
            let memory = Memory::pc(&[&local(4, 1), &[0, size, 9, 9, 1, 0, 0, 0], &local(5, 1)]);
            assert_eq!(memory.ids(), Some(vec![4]), "size {size}");
        }
        let memory = Memory::pc(&[&[0, 4, 9, 9], &local(5, 1)]);
        assert_eq!(memory.ids(), Some(vec![5]), "too short for what it is: left out");
    }

    #[test]
    fn too_many_are_counted() {
        let all: Vec<_> = (0..100).map(|id| local(id, 1)).collect();
        let memory = Memory::pc(&all.iter().map(<[u8; 8]>::as_slice).collect::<Vec<_>>());
        let found = processors(&memory, None).unwrap();
        assert_eq!((found.apic_ids().len(), found.dropped), (MAX_PROCESSORS, 100 - MAX_PROCESSORS));
    }

    proptest! {
        /// Any change to sound tables, even one that keeps the checksum, is survived.
        #[test]
        fn no_input_panics(
            changes in prop::collection::vec((0_usize..0x80, any::<u8>()), 0..8),
            which in prop::sample::select(vec![ROOT, TABLE, APIC]),
            keep_sum in any::<bool>(),
        ) {
            let mut memory = Memory::pc(&[&local(0, 1), &local(1, 1)]);
            for (offset, value) in changes {
                memory.0[which + offset] = value;
            }
            if keep_sum && which != ROOT {
                let length = u32::from_le_bytes(memory.0[which + 4..which + 8].try_into().unwrap()) as usize;
                if (36..0x1000).contains(&length) {
                    memory.fix(which + 9, which..which + length);
                }
            }
            let _ = memory.ids();
        }
    }
}
