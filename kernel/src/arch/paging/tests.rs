//! Page tables on the host: the same code over a map of arrays.

use super::space::{Plan, Segment, build};
use super::window::{Window, WindowFull};
use super::*;
use crate::arch::layout::{DIRECT_MAP, KERNEL_BASE, WINDOW};
use crate::boot_info::FrameRange;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Tables in host memory, at most `left` more of them.
#[derive(Debug)]
struct Fake {
    tables: BTreeMap<u64, [u64; 512]>,
    left: usize,
}

impl Fake {
    fn new(left: usize) -> Self {
        Self { tables: BTreeMap::new(), left }
    }
}

impl Tables for Fake {
    fn allocate(&mut self) -> Result<Gfn, OutOfTables> {
        self.left = self.left.checked_sub(1).ok_or(OutOfTables)?;
        let frame = 0x9000 + self.tables.len() as u64;
        self.tables.insert(frame, [0; 512]);
        Ok(Gfn::new(frame))
    }

    fn get(&self, table: Gfn, index: usize) -> u64 {
        self.tables[&table.get()][index]
    }

    fn set(&mut self, table: Gfn, index: usize, entry: u64) {
        self.tables.get_mut(&table.get()).unwrap()[index] = entry;
    }
}

/// Every mapping of an address space, found by walking the raw entries.
fn all<T: Tables>(space: &AddressSpace<T>) -> Vec<(u64, Mapping)> {
    fn walk<T: Tables>(tables: &T, table: Gfn, level: u32, base: u64, found: &mut Vec<(u64, Mapping)>) {
        for slot in 0..512 {
            let entry = Entry(tables.get(table, slot));
            let mut address = base | (slot as u64) << (12 + 9 * (level - 1));
            if level == 4 && slot >= 256 {
                address |= 0xFFFF << 48;
            }
            if !entry.is_present() {
                assert_eq!(entry, Entry::ABSENT);
            } else if level == 1 || (level == 2 && entry.is_large()) {
                let writable_and_executable =
                    entry.0 & (Entry::WRITABLE | Entry::NO_EXECUTE) == Entry::WRITABLE;
                assert!(!writable_and_executable, "{address:#x}");
                let size = if level == 1 { Order::FRAME } else { Order::BLOCK };
                found.push((address, Mapping { frame: entry.frame(), access: entry.access(), size }));
            } else {
                walk(tables, entry.frame(), level - 1, address, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&space.tables, space.root, 4, 0, &mut found);
    found
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

fn range(start: u64, end: u64) -> FrameRange {
    FrameRange::new(Gfn::new(start), Gfn::new(end))
}

fn image() -> [Segment; 4] {
    [
        Segment { frames: range(0x100, 0x120), access: Access::Execute },
        Segment { frames: range(0x120, 0x128), access: Access::Read },
        Segment { frames: range(0x128, 0x150), access: Access::Write },
        Segment { frames: range(0x150, 0x152), access: Access::Read },
    ]
}

const GUARD: u64 = KERNEL_BASE + (0x130 << 12);

fn kernel(ram: &[FrameRange], tables: usize) -> Result<AddressSpace<Fake>, MapError> {
    build(&Plan { ram, image: &image(), guards: &[GUARD] }, Fake::new(tables))
}

#[test]
fn the_kernel_space_shows_ram_once_and_the_image_with_its_accesses() {
    // QEMU's hole, a ragged end, and memory above 4 GiB: 6 GiB in all.
    let ram = [range(0, 0x9F), range(0x100, 0xBFFE0), range(0x10_0000, 0x1C_0000)];
    let space = kernel(&ram, 100).unwrap();
    let mut direct = BTreeMap::new();
    for (address, mapping) in all(&space) {
        assert!(address >= DIRECT_MAP, "{address:#x} is in the low half");
        if address < KERNEL_BASE {
            let first = (address - DIRECT_MAP) >> 12;
            assert_eq!(mapping.frame, Gfn::new(first));
            assert_ne!(mapping.access, Access::Execute);
            for frame in first..first + mapping.size.frames().get() {
                assert!(direct.insert(frame, mapping.access).is_none());
            }
        } else {
            let frame = (address - KERNEL_BASE) >> 12;
            assert_eq!(mapping.frame, Gfn::new(frame));
            let segment = image().into_iter().find(|s| s.frames.contains(Gfn::new(frame))).unwrap();
            assert_eq!(mapping.access, segment.access);
        }
    }
    let ram_frames: u64 = ram.iter().map(|r| r.count().get()).sum();
    assert_eq!(direct.len() as u64, ram_frames);
    for (frame, access) in direct {
        assert!(ram.iter().any(|r| r.contains(Gfn::new(frame))));
        let constant = (0x100..0x128).contains(&frame) || (0x150..0x152).contains(&frame);
        assert_eq!(access == Access::Read, constant, "{frame:#x}");
    }
    assert_eq!(space.look_up(GUARD), None);
    assert_eq!(space.look_up(GUARD - 1).unwrap().access, Access::Write);
    assert_eq!(space.look_up(0), None);
    assert_eq!(space.look_up(KERNEL_BASE + 0x100_000).unwrap().access, Access::Execute);
    // 1 root; 1 + 6 + 2 ragged ends for the direct map; 3 for the image; 2 for the window.
    assert_eq!(space.tables.tables.len(), 15);
}

#[test]
fn a_tiny_guest_takes_few_tables() {
    let space = kernel(&[range(0, 0x9F), range(0x100, 0x7E0)], 100).unwrap();
    assert_eq!(space.tables.tables.len(), 10);
}

#[test]
fn running_out_of_tables_is_an_error_at_every_point() {
    let ram = [range(0, 0x800)];
    let needed = kernel(&ram, 100).unwrap().tables.tables.len();
    for tables in 0..needed {
        assert_eq!(kernel(&ram, tables).err(), Some(MapError::OutOfTables));
    }
    assert!(kernel(&ram, needed).is_ok());
}

#[test]
fn overlapping_ram_is_refused() {
    let error = kernel(&[range(0, 0x800), range(0x7FF, 0x900)], 100).unwrap_err();
    assert_eq!(error, MapError::Occupied(DIRECT_MAP + (0x7FF << 12)));
}

#[test]
fn the_window_needs_no_memory_and_ends_with_an_error() {
    let mut space = kernel(&[range(0, 0x800)], 100).unwrap();
    space.tables.left = 0;
    let mut window = Window::new(space);
    let first = window.map(Gfn::new(0xF_EFF8)).unwrap();
    let second = window.map(Gfn::new(0xF_EFFF)).unwrap();
    assert!(first > WINDOW && second > first);
    assert_eq!(window.unmap(first), Some(Gfn::new(0xF_EFF8)));
    assert_eq!(window.unmap(first), None, "twice");
    assert_eq!(window.unmap(second + 8), None, "inside of a page");
    assert_eq!(window.unmap(KERNEL_BASE + 0x10_0000), None, "not of the window");
    assert_eq!(window.map(Gfn::new(5)), Ok(first), "room is used again");
    for _ in 3..512 {
        window.map(Gfn::new(5)).unwrap();
    }
    assert_eq!(window.map(Gfn::new(5)), Err(WindowFull));
}

#[test]
fn a_frame_out_of_a_block_splits_it() {
    let mut space = AddressSpace::new(Fake::new(5)).unwrap();
    space.map(DIRECT_MAP, Gfn::new(0x200), Order::BLOCK, Access::Write).unwrap();
    let was = space.unmap(DIRECT_MAP + 0x5000, Order::FRAME).unwrap();
    assert_eq!(was, Some(Mapping { frame: Gfn::new(0x205), access: Access::Write, size: Order::FRAME }));
    assert_eq!(all(&space).len(), 511);
    assert_eq!(space.look_up(DIRECT_MAP + 0x5000), None);
    assert_eq!(space.look_up(DIRECT_MAP + 0x6000).unwrap().frame, Gfn::new(0x206));
    // It is a table of frames now.
    assert_eq!(space.unmap(DIRECT_MAP, Order::BLOCK).unwrap(), None);
    assert_eq!(
        space.map(DIRECT_MAP, Gfn::new(0), Order::BLOCK, Access::Write),
        Err(MapError::Occupied(DIRECT_MAP))
    );
}

#[test]
fn a_split_without_memory_changes_nothing() {
    let mut space = AddressSpace::new(Fake::new(3)).unwrap();
    space.map(DIRECT_MAP, Gfn::new(0x200), Order::BLOCK, Access::Write).unwrap();
    let before = all(&space);
    assert_eq!(space.unmap(DIRECT_MAP, Order::FRAME), Err(OutOfTables));
    assert_eq!(all(&space), before);
}

#[test]
fn protecting_keeps_frame_and_size() {
    let mut space = AddressSpace::new(Fake::new(3)).unwrap();
    space.map(DIRECT_MAP, Gfn::new(0x200), Order::BLOCK, Access::Write).unwrap();
    let was = space.protect(DIRECT_MAP, Order::BLOCK, Access::Read).unwrap().unwrap();
    assert_eq!(was.access, Access::Write);
    let now = Mapping { frame: Gfn::new(0x200), access: Access::Read, size: Order::BLOCK };
    assert_eq!(space.look_up(DIRECT_MAP), Some(now));
    assert_eq!(space.protect(0x1000, Order::FRAME, Access::Read).unwrap(), None);
}

#[test]
#[should_panic(expected = "can be mapped at")]
fn an_address_that_is_not_canonical_is_refused() {
    let mut space = AddressSpace::new(Fake::new(5)).unwrap();
    let _ = space.map(1 << 47, Gfn::new(0), Order::FRAME, Access::Read);
}

#[test]
#[should_panic(expected = "does not begin an extent")]
fn a_block_of_a_misaligned_frame_is_refused() {
    let mut space = AddressSpace::new(Fake::new(5)).unwrap();
    let _ = space.map(0, Gfn::new(1), Order::BLOCK, Access::Read);
}

proptest! {
    /// Against a plain map from page to frame.
    #[test]
    fn maps_and_unmaps_like_a_dictionary(
        actions in prop::collection::vec((0..3u8, 0..4u64, 0..512u64, 0..64u64), 0..60)
    ) {
        let mut space = AddressSpace::new(Fake::new(1000)).unwrap();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        for (action, block, page, frame) in actions {
            let page = block * 512 + page;
            match action {
                0 => {
                    let mapped = space.map(page << 12, Gfn::new(frame), Order::FRAME, Access::Write).is_ok();
                    prop_assert_eq!(mapped, !model.contains_key(&page));
                    model.entry(page).or_insert(frame);
                }
                1 => {
                    let was = space.unmap(page << 12, Order::FRAME).unwrap();
                    prop_assert_eq!(was.map(|m| m.frame.get()), model.remove(&page));
                }
                _ => {
                    let first = block * 512;
                    let at = Gfn::new(frame * 512);
                    if space.map(first << 12, at, Order::BLOCK, Access::Write).is_ok() {
                        for n in 0..512 {
                            prop_assert!(model.insert(first + n, frame * 512 + n).is_none());
                        }
                    }
                }
            }
        }
        for page in 0..5 * 512 {
            let found = space.look_up(page << 12).map(|m| m.frame.get());
            prop_assert_eq!(found, model.get(&page).copied());
        }
    }
}

#[test]
fn a_block_goes_whole_or_in_pieces_and_comes_back_whole() {
    let (address, frame) = (DIRECT_MAP + (6 << 21), Gfn::new(6 << 9));
    let mut space = AddressSpace::new(Fake::new(8)).unwrap();
    assert_eq!(space.clear_block(address), None, "no directory");
    assert_eq!(space.set_block(address, frame, Access::Write), Ok(None));
    let whole = space.look_up(address);
    assert_eq!(whole.map(|mapping| mapping.size), Some(Order::BLOCK));
    assert_eq!(space.set_block(address, frame, Access::Write), Err(MapError::Occupied(address)));

    assert_eq!(space.clear_block(address), None, "one entry, no table");
    assert_eq!(space.look_up(address), None);
    assert_eq!(space.set_block(address, frame, Access::Write), Ok(None));

    // One frame goes: a table. The rest goes one by one; as long as one is left, the block cannot be one entry.
    for page in 0..512 {
        assert_eq!(space.set_block(address, frame, Access::Write), Err(MapError::Occupied(address)));
        let was = space.unmap(address + page * 4096, Order::FRAME).unwrap();
        assert_eq!(was.map(|mapping| mapping.frame), Some(Gfn::new(frame.get() + page)));
    }
    let table = space.set_block(address, frame, Access::Write).unwrap();
    assert!(table.is_some(), "the table is handed back");
    assert_eq!(space.look_up(address), whole);

    // A block in pieces that goes at once.
    let _was = space.unmap(address + 4096, Order::FRAME).unwrap();
    assert!(space.clear_block(address).is_some());
    assert_eq!(all(&space), []);
    assert_eq!(space.set_block(address, frame, Access::Write), Ok(None));
}

#[test]
fn a_block_without_memory_for_tables_is_refused() {
    let mut space = AddressSpace::new(Fake::new(1)).unwrap();
    let answer = space.set_block(DIRECT_MAP, Gfn::new(0), Access::Write);
    assert_eq!(answer, Err(MapError::OutOfTables));
    assert_eq!(all(&space), []);
}
