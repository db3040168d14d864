//! What the processor says when something goes wrong: the exceptions, their error codes, the saved registers.

use core::fmt;

/// Registers at the moment of an interrupt or exception, in the order in which the entry stub pushes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the processor's own names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Which interrupt or exception.
    pub vector: u64,
    /// What the processor pushed, or 0 for an exception that has none.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8);

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            [("rax", self.rax), ("rbx", self.rbx), ("rcx", self.rcx), ("rdx", self.rdx)],
            [("rsi", self.rsi), ("rdi", self.rdi), ("rbp", self.rbp), ("rsp", self.rsp)],
            [("r8", self.r8), ("r9", self.r9), ("r10", self.r10), ("r11", self.r11)],
            [("r12", self.r12), ("r13", self.r13), ("r14", self.r14), ("r15", self.r15)],
            [("rip", self.rip), ("flags", self.rflags), ("cs", self.cs), ("ss", self.ss)],
        ];
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            for (name, value) in row {
                write!(f, "  {name:>5} {value:016x}")?;
            }
        }
        Ok(())
    }
}

/// An exception: the interrupt vectors below 32.
///
/// Source: Intel SDM volume 3, table 6-1; AMD APM volume 2, table 8-1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception(u8);

impl Exception {
    /// Exceptions that there can be.
    pub const COUNT: usize = 32;
    /// Division by zero, or a quotient that does not fit.
    pub const DIVIDE_ERROR: Self = Self(0);
    /// The interrupt that nothing masks.
    pub const NMI: Self = Self(2);
    /// `int3`.
    pub const BREAKPOINT: Self = Self(3);
    /// `ud2`, or bytes that are no instruction.
    pub const INVALID_OPCODE: Self = Self(6);
    /// An exception during the delivery of another.
    pub const DOUBLE_FAULT: Self = Self(8);
    /// A broken rule that has no exception of its own.
    pub const GENERAL_PROTECTION: Self = Self(13);
    /// An address without a mapping that allows the access.
    pub const PAGE_FAULT: Self = Self(14);
    /// An error of the machine itself.
    pub const MACHINE_CHECK: Self = Self(18);

    /// The exception of `vector`; `None` from 32 on.
    #[must_use]
    pub const fn new(vector: u8) -> Option<Self> {
        if (vector as usize) < Self::COUNT { Some(Self(vector)) } else { None }
    }

    /// Its vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0
    }

    /// Whether the processor pushes an error code.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        matches!(self.0, 8 | 10..=14 | 17 | 21 | 29 | 30)
    }

    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "divide error",
            1 => "debug exception",
            2 => "non-maskable interrupt",
            3 => "breakpoint",
            4 => "overflow",
            5 => "bound range exceeded",
            6 => "invalid opcode",
            7 => "device not available",
            8 => "double fault",
            9 => "coprocessor segment overrun",
            10 => "invalid TSS",
            11 => "segment not present",
            12 => "stack segment fault",
            13 => "general protection fault",
            14 => "page fault",
            16 => "x87 floating-point exception",
            17 => "alignment check",
            18 => "machine check",
            19 => "SIMD floating-point exception",
            20 => "virtualisation exception",
            21 => "control protection exception",
            28 => "hypervisor injection exception",
            29 => "VMM communication exception",
            30 => "security exception",
            _ => "reserved exception",
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error code of a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFaultCode(u64);

impl PageFaultCode {
    /// Decodes what the processor pushed.
    #[must_use]
    pub const fn new(code: u64) -> Self {
        Self(code)
    }

    /// Whether a page was there and forbade the access; otherwise none was there.
    #[must_use]
    pub const fn is_protection(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the access was a write.
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether a page-table entry had a reserved bit set.
    #[must_use]
    pub const fn is_reserved_bit(self) -> bool {
        self.0 & 8 != 0
    }

    /// Whether the access was the fetch of an instruction.
    #[must_use]
    pub const fn is_fetch(self) -> bool {
        self.0 & 16 != 0
    }
}

impl fmt::Display for PageFaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.is_fetch() {
            "execute"
        } else if self.is_write() {
            "write"
        } else {
            "read"
        };
        let why = if self.is_reserved_bit() {
            "a corrupt page-table entry"
        } else if self.is_protection() {
            "a page that forbids it"
        } else {
            "an unmapped page"
        };
        write!(f, "{access} of {why}")
    }
}

/// An error code that names a segment, as for exceptions 10 to 13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SelectorCode(pub u64);

impl fmt::Display for SelectorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.0 >> 3 & 0x1FFF;
        match self.0 & 6 {
            _ if self.0 == 0 => f.write_str("no selector"),
            0 => write!(f, "GDT entry {index}"),
            4 => write!(f, "LDT entry {index}"),
            _ => write!(f, "interrupt vector {index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn the_processor_pushes_an_error_code_for_these() {
        let with: std::vec::Vec<_> =
            (0..32).filter(|v| Exception::new(*v).is_some_and(Exception::has_error_code)).collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17, 21, 29, 30]);
        assert_eq!(Exception::new(32), None);
    }

    #[test]
    fn error_codes_read_as_sentences() {
        let text = |code| format!("{}", PageFaultCode::new(code));
        assert_eq!(text(0), "read of an unmapped page");
        assert_eq!(text(3), "write of a page that forbids it");
        assert_eq!(text(0x11), "execute of a page that forbids it");
        assert_eq!(text(0xB), "write of a corrupt page-table entry");
        assert_eq!(format!("{}", SelectorCode(0)), "no selector");
        assert_eq!(format!("{}", SelectorCode(0x10)), "GDT entry 2");
        assert_eq!(format!("{}", SelectorCode(0x102)), "interrupt vector 32");
    }

    #[test]
    fn every_register_is_printed_once() {
        let frame = TrapFrame { rax: 0xA, r15: 0xF15, rip: 0x1234, ..TrapFrame::default() };
        let text = format!("{frame}");
        for name in ["rax", "rbx", "rbp", "rsp", "r8 ", "r15", "rip", "flags", "cs", "ss"] {
            assert_eq!(text.matches(&format!(" {name}")).count(), 1, "{name}");
        }
        assert!(text.contains("rax 000000000000000a") && text.contains("r15 0000000000000f15"));
    }
}
