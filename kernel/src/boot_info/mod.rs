//! What the loader says: the PVH start info, checked and copied out.
//!
//! Source: Xen `xen/include/public/arch-x86/hvm/start_info.h`. The structure and all that it points at lie in
//! ordinary RAM that nobody reserves, so everything is copied into a [`BootInfo`] before the first frame is
//! handed out; then that RAM is as free as any other. Nothing in it is trusted: every pointer is read through
//! [`PhysRead`], every count is bounded, and what makes no sense is a named error or a named warning.

pub mod acpi;
mod ram;
#[cfg(test)]
mod tests;

pub use crate::units::FrameRange;
pub use ram::{MAX_ENTRIES, RamMap, TooManyRanges};

use crate::port::{MapEntry, MemoryKind};
use crate::units::{Gfn, PhysAddr};
use core::fmt;

/// Bytes of a command line that are kept. Xen's toolstack passes at most 1024.
pub const MAX_COMMAND_LINE: usize = 2048;
/// Modules that are kept. libxl passes at most one.
pub const MAX_MODULES: usize = 8;

/// `start_info.magic`.
const MAGIC: u32 = 0x336E_C578;
/// Size of version 0, which has no memory map.
const SIZE_V0: usize = 40;
/// Size of version 1.
const SIZE_V1: usize = 56;

/// Reads guest-physical memory.
pub trait PhysRead {
    /// Copies `into.len()` bytes from `at`.
    ///
    /// # Errors
    ///
    /// If any of them cannot be read. Never touches memory outside of what the implementation may read.
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable>;
}

/// Memory that a [`PhysRead`] does not reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable;

/// Why the start info cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootInfoError {
    /// Something lies where it cannot be read.
    Unreadable {
        /// What it would be.
        what: &'static str,
        /// Where it would be.
        at: PhysAddr,
    },
    /// The first word is not the magic number.
    BadMagic(u32),
    /// More modules than [`MAX_MODULES`].
    TooManyModules(u32),
    /// A module that leaves the address space.
    BadModule {
        /// Where it would begin.
        start: PhysAddr,
        /// Its size in bytes.
        size: u64,
    },
    /// More memory map entries than [`MAX_ENTRIES`].
    TooManyEntries(u32),
    /// No memory map, neither here nor from the hypervisor.
    NoMemoryMap,
    /// A memory map without one whole frame of RAM.
    NoRam,
}

impl fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { what, at } => write!(f, "the {what} at {at} cannot be read"),
            Self::BadMagic(found) => write!(f, "the start info begins with {found:#010x}, not {MAGIC:#010x}"),
            Self::TooManyModules(count) => write!(f, "{count} modules, of {MAX_MODULES} at most"),
            Self::BadModule { start, size } => {
                write!(f, "a module of {size:#x} bytes at {start} leaves the address space")
            }
            Self::TooManyEntries(count) => write!(f, "{count} memory map entries, of {MAX_ENTRIES} at most"),
            Self::NoMemoryMap => f.write_str("no memory map"),
            Self::NoRam => f.write_str("a memory map without RAM"),
        }
    }
}

impl core::error::Error for BootInfoError {}

/// What was left out on the way, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Warnings {
    /// The command line was cut at [`MAX_COMMAND_LINE`].
    pub command_line_cut: bool,
    /// The command line was cut before its first byte that is not UTF-8.
    pub command_line_not_utf8: bool,
    /// Entries of the memory map that are empty or leave the address space.
    pub entries_dropped: usize,
}

/// The kernel command line.
#[derive(Clone)]
pub struct CommandLine {
    bytes: [u8; MAX_COMMAND_LINE],
    /// Always valid UTF-8 up to here.
    len: usize,
}

impl CommandLine {
    const fn empty() -> Self {
        Self { bytes: [0; MAX_COMMAND_LINE], len: 0 }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A file that the loader put into RAM, such as an initial ramdisk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module {
    /// First byte.
    pub start: PhysAddr,
    /// Size in bytes.
    pub size: u64,
    /// Every frame that the module touches.
    pub frames: FrameRange,
}

/// The loader's word, checked and owned.
#[derive(Clone, Debug)]
pub struct BootInfo {
    command_line: CommandLine,
    modules: [Option<Module>; MAX_MODULES],
    rsdp: Option<PhysAddr>,
    ram: RamMap,
    warnings: Warnings,
}

impl BootInfo {
    /// Reads the start info at `at`.
    ///
    /// If it has no memory map, `ask_hypervisor` fills a list and answers how many entries it has; `None` where
    /// there is nobody to ask.
    ///
    /// # Errors
    ///
    /// The first thing found that makes the machine unusable.
    pub fn read(
        memory: &impl PhysRead,
        at: PhysAddr,
        ask_hypervisor: impl FnOnce(&mut [MapEntry]) -> Option<usize>,
    ) -> Result<Self, BootInfoError> {
        let start_info = StartInfo::read(memory, at)?;
        let mut warnings = Warnings::default();
        let command_line = read_command_line(memory, start_info.command_line, &mut warnings)?;
        let modules = read_modules(memory, &start_info)?;

        let mut entries = [MapEntry { start: 0, size: 0, kind: MemoryKind::Reserved }; MAX_ENTRIES];
        let mut count = read_entries(memory, &start_info, &mut entries)?;
        if count == 0 {
            count = ask_hypervisor(&mut entries).ok_or(BootInfoError::NoMemoryMap)?;
        }
        let entries = entries.get(..count).ok_or(BootInfoError::NoMemoryMap)?;
        let (ram, dropped) = RamMap::from_entries(entries);
        warnings.entries_dropped = dropped;
        if ram.ranges().is_empty() {
            return Err(BootInfoError::NoRam);
        }
        Ok(Self { command_line, modules, rsdp: start_info.rsdp, ram, warnings })
    }

    /// The kernel command line.
    #[must_use]
    pub fn command_line(&self) -> &str {
        self.command_line.as_str()
    }

    /// The modules, in the loader's order. Their own command lines are not kept.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().flatten()
    }

    /// Where the ACPI root pointer lies, if the loader said.
    #[must_use]
    pub fn rsdp(&self) -> Option<PhysAddr> {
        self.rsdp
    }

    /// All RAM. With `memory` below `maxmem` this includes frames that are not populated yet: do not touch RAM
    /// for no reason.
    #[must_use]
    pub fn ram(&self) -> &RamMap {
        &self.ram
    }

    /// What was left out on the way.
    #[must_use]
    pub fn warnings(&self) -> Warnings {
        self.warnings
    }

    /// The RAM that is free to use: without `image`, the modules, and frame 0, which is left alone so that no
    /// valid thing has physical address 0.
    ///
    /// The start info is not left out: it was copied.
    ///
    /// # Errors
    ///
    /// If the holes make more ranges than a map can have.
    pub fn usable(&self, image: FrameRange) -> Result<RamMap, TooManyRanges> {
        let mut usable = self.ram.clone();
        usable.remove(FrameRange::new(Gfn::new(0), Gfn::new(1)))?;
        usable.remove(image)?;
        for module in self.modules() {
            usable.remove(module.frames)?;
        }
        Ok(usable)
    }
}

/// The fixed part, decoded.
struct StartInfo {
    module_count: u32,
    modules: PhysAddr,
    command_line: Option<PhysAddr>,
    rsdp: Option<PhysAddr>,
    /// Where the memory map lies and its number of entries.
    map: Option<(PhysAddr, u32)>,
}

impl StartInfo {
    fn read(memory: &impl PhysRead, at: PhysAddr) -> Result<Self, BootInfoError> {
        let unreadable = |Unreadable| BootInfoError::Unreadable { what: "start info", at };
        let mut bytes = [0; SIZE_V1];
        memory.read(at, &mut bytes[..SIZE_V0]).map_err(unreadable)?;
        if word(&bytes, 0) != MAGIC {
            return Err(BootInfoError::BadMagic(word(&bytes, 0)));
        }
        // Later versions only append.
        let has_map = word(&bytes, 4) >= 1;
        if has_map {
            memory.read(at, &mut bytes).map_err(unreadable)?;
        }
        let pointer = |offset| Some(PhysAddr::new(long(&bytes, offset))).filter(|at| at.get() != 0);
        Ok(Self {
            module_count: word(&bytes, 12),
            modules: PhysAddr::new(long(&bytes, 16)),
            command_line: pointer(24),
            rsdp: pointer(32),
            map: pointer(40).filter(|_| has_map).map(|at| (at, word(&bytes, 48))),
        })
    }
}

fn read_command_line(
    memory: &impl PhysRead,
    at: Option<PhysAddr>,
    warnings: &mut Warnings,
) -> Result<CommandLine, BootInfoError> {
    let mut line = CommandLine::empty();
    let Some(at) = at else { return Ok(line) };
    let unreadable = BootInfoError::Unreadable { what: "command line", at };
    let mut len = 0;
    // Byte by byte: how far one may read is known only from what was read.
    loop {
        let mut byte = [0];
        let here = at.checked_add(len as u64).ok_or(unreadable)?;
        memory.read(here, &mut byte).map_err(|Unreadable| unreadable)?;
        if byte == [0] {
            break;
        }
        if len == MAX_COMMAND_LINE {
            warnings.command_line_cut = true;
            break;
        }
        line.bytes[len] = byte[0];
        len += 1;
    }
    line.len = match str::from_utf8(&line.bytes[..len]) {
        Ok(_) => len,
        Err(error) => {
            // A character that the cut went through is not the sender's mistake.
            warnings.command_line_not_utf8 = !(warnings.command_line_cut && error.error_len().is_none());
            error.valid_up_to()
        }
    };
    Ok(line)
}

fn read_modules(
    memory: &impl PhysRead,
    start_info: &StartInfo,
) -> Result<[Option<Module>; MAX_MODULES], BootInfoError> {
    let mut modules = [None; MAX_MODULES];
    let count = start_info.module_count as usize;
    let slots = modules.get_mut(..count).ok_or(BootInfoError::TooManyModules(start_info.module_count))?;
    for (index, slot) in slots.iter_mut().enumerate() {
        let bytes: [u8; 32] = read_item(memory, "module list", start_info.modules, index)?;
        let (start, size) = (PhysAddr::new(long(&bytes, 0)), long(&bytes, 8));
        let frames = FrameRange::touching(start, size).ok_or(BootInfoError::BadModule { start, size })?;
        *slot = Some(Module { start, size, frames });
    }
    Ok(modules)
}

fn read_entries(
    memory: &impl PhysRead,
    start_info: &StartInfo,
    entries: &mut [MapEntry; MAX_ENTRIES],
) -> Result<usize, BootInfoError> {
    let Some((at, count)) = start_info.map else { return Ok(0) };
    let slots = entries.get_mut(..count as usize).ok_or(BootInfoError::TooManyEntries(count))?;
    for (index, slot) in slots.iter_mut().enumerate() {
        let bytes: [u8; 24] = read_item(memory, "memory map", at, index)?;
        let kind = match word(&bytes, 16) {
            1 => MemoryKind::Ram,
            2 => MemoryKind::Reserved,
            3 => MemoryKind::Acpi,
            4 => MemoryKind::Nvs,
            5 => MemoryKind::Unusable,
            other => MemoryKind::Other(other),
        };
        *slot = MapEntry { start: long(&bytes, 0), size: long(&bytes, 8), kind };
    }
    Ok(count as usize)
}

/// Item `index` of a list of `N`-byte items at `list`.
fn read_item<const N: usize>(
    memory: &impl PhysRead,
    what: &'static str,
    list: PhysAddr,
    index: usize,
) -> Result<[u8; N], BootInfoError> {
    let unreadable = BootInfoError::Unreadable { what, at: list };
    let at = list.checked_add((index * N) as u64).ok_or(unreadable)?;
    let mut bytes = [0; N];
    memory.read(at, &mut bytes).map_err(|Unreadable| unreadable)?;
    Ok(bytes)
}

/// The little-endian `u32` at `offset`, a constant of the format.
fn word(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

/// The little-endian `u64` at `offset`, a constant of the format.
fn long(bytes: &[u8], offset: usize) -> u64 {
    u64::from(word(bytes, offset)) | u64::from(word(bytes, offset + 4)) << 32
}
