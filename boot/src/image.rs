//! What the linker knows about the image, as values.
#![expect(
    unsafe_code,
    reason = "symbols of the linker script, and the symbol table that lies at one of them"
)]

use ebb::arch::layout::KERNEL_BASE;
use ebb::arch::paging::Access;
use ebb::arch::paging::space::Segment;
use ebb::boot_info::FrameRange;
use ebb::symbols::{self, Symbols};
use ebb::units::{Gfn, PhysAddr};
use percpu::gs::Section;

unsafe extern "C" {
    safe static image_text_start: u8;
    safe static image_text_end: u8;
    safe static image_rodata_start: u8;
    safe static image_restart_start: u8;
    safe static image_restart_end: u8;
    safe static image_data_start: u8;
    safe static image_data_end: u8;
    safe static image_symbols_start: u8;
}

/// The address of a symbol.
fn address(symbol: &'static u8) -> u64 {
    (&raw const *symbol).addr() as u64
}

/// The first address of the image, from which the symbol table counts.
pub(crate) fn base() -> u64 {
    address(&image_text_start)
}

/// Whether `address` is code.
pub(crate) fn is_text(at: u64) -> bool {
    (base()..address(&image_text_end)).contains(&at)
}

/// Whether `at` is a constant, the symbol table included.
pub(crate) fn is_constant(at: u64) -> bool {
    (address(&image_rodata_start)..address(&image_data_start)).contains(&at)
        || (address(&image_symbols_start)..end()).contains(&at)
}

/// Whether `at` is a variable, or a stack.
pub(crate) fn is_data(at: u64) -> bool {
    (address(&image_data_start)..address(&image_data_end)).contains(&at)
}

/// The first address beyond the image. Only the table itself knows its size, for it was added after linking.
fn end() -> u64 {
    address(&image_symbols_start) + table_size() as u64
}

/// The size in bytes of the symbol table.
fn table_size() -> usize {
    let header: *const [u8; symbols::HEADER_SIZE] = (&raw const image_symbols_start).cast();
    // SAFETY: the linker script puts at least a header there, constant and mapped from the first instruction.
    let header = unsafe { &*header };
    symbols::table_size(header).unwrap_or(symbols::HEADER_SIZE)
}

/// The names of the image's functions; empty if they were not added.
pub(crate) fn symbols() -> Symbols<'static> {
    let table = &raw const image_symbols_start;
    // SAFETY: constant, mapped from the first instruction, and as long as its header says: the build made both.
    let table = unsafe { core::slice::from_raw_parts(table, table_size()) };
    Symbols::new(table).unwrap_or(Symbols::EMPTY)
}

/// The fast paths of per-CPU references: where interrupted code must be sent back.
pub(crate) fn restart_sections() -> &'static [Section] {
    let start = (&raw const image_restart_start).cast::<Section>();
    let bytes = (&raw const image_restart_end).addr() - start.addr();
    // SAFETY: between the marks lie the entries of the fast paths and nothing else, side by side, in their place.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<Section>()) }
}

/// The segments as they were loaded, with the access that each is for.
pub(crate) fn segments() -> [Segment; 4] {
    let segment = |start, end, access| Segment { frames: frames_between(start, end), access };
    [
        segment(base(), address(&image_text_end), Access::Execute),
        segment(address(&image_rodata_start), address(&image_data_start), Access::Read),
        segment(address(&image_data_start), address(&image_data_end), Access::Write),
        segment(address(&image_symbols_start), end(), Access::Read),
    ]
}

/// All frames of the image.
pub(crate) fn frames() -> FrameRange {
    frames_between(base(), end())
}

/// The frames of the image between two virtual addresses.
fn frames_between(start: u64, end: u64) -> FrameRange {
    let frame = |address: u64| Gfn::containing(PhysAddr::new(address - KERNEL_BASE));
    FrameRange::new(frame(start), frame(end.next_multiple_of(ebb::units::FRAME_SIZE as u64)))
}
