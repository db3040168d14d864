//! The fast paths on x86-64, where each CPU's area is reached through GS.
//!
//! A get or put in per-CPU mode is four instructions: load the tagged word, test its tags, branch, `inc`/`dec`
//! through GS. The last is one instruction, so an interrupt cannot split it and it hits the CPU that executes it.
//!
//! What an interrupt *can* do is come between the test and the add, and switch to another thread. Then a grace
//! period could end with an add still to come. Turning preemption off would cost two more read-modify-writes;
//! instead each fast path records where it begins and ends in the section `percpu_restart`, and the one who takes
//! the CPU away from interrupted code sends it back to the beginning ([`restart`]). Nothing is lost: until the
//! last instruction retires, nothing was written.
//!
//! The same code runs on the host in `tests/gs.rs`, with GS set for threads and signals as interrupts.
#![expect(unsafe_code, reason = "GS-relative instructions")]

use crate::primitive::AtomicUsize;
use core::arch::asm;

/// Where one fast path lies. An entry of the section `percpu_restart`; a linker script must keep that section and
/// lay the entries side by side.
///
/// The addresses are relative to where they are stored, so an entry must stay in its place.
#[derive(Debug)]
#[repr(C)]
pub struct Section {
    begin: i32,
    end: i32,
}

impl Section {
    /// The address of the first instruction.
    #[must_use]
    pub fn begin(&self) -> usize {
        Self::target(&self.begin)
    }

    /// The address behind the last instruction, which is the only one that writes.
    #[must_use]
    pub fn end(&self) -> usize {
        Self::target(&self.end)
    }

    fn target(field: &i32) -> usize {
        core::ptr::from_ref(field).addr().wrapping_add_signed(*field as isize)
    }
}

/// Where interrupted code must continue if its CPU passes a quiescent state, or runs another thread, before it
/// does: at the beginning of the fast path that `ip` is inside of, or `ip` itself.
///
/// The interrupt path calls it for the instruction pointer it is about to leave in a thread that it switches away
/// from, and before it reports a quiescent state over interrupted code. `sections` is the section `percpu_restart`.
/// Linear in their number (a few hundred at most), on a path that switches threads anyway.
#[must_use]
pub fn restart(ip: usize, sections: &[Section]) -> usize {
    sections.iter().find(|section| section.begin() < ip && ip < section.end()).map_or(ip, Section::begin)
}

/// One fast path: `$add` is its last instruction.
macro_rules! fast_path {
    ($tagged:ident, $at:ident, $add:literal $(, $name:ident = in(reg) $value:expr)?) => {{
        // SAFETY: reads the tagged word, which is borrowed, with a plain load (an acquire load on x86-64), and adds
        // to the word at that offset in this CPU's area: the caller promised that GS points at an area with words
        // from `AT` on, and an untagged word is the offset of a word that the reference count owns. No stack is
        // used. The block is a compiler barrier (no `nomem`), and can be restarted: it changes none of its inputs.
        unsafe {
            asm!(
                "2:",
                "mov {word}, qword ptr [{tagged}]",
                "test {word:l}, 3",
                "jnz {slow}",
                $add,
                "3:",
                ".pushsection percpu_restart, \"aR\", @progbits",
                ".long 2b - ., 3b - .",
                ".popsection",
                tagged = in(reg) $tagged.as_ptr(),
                word = out(reg) _,
                at = const $at,
                $($name = in(reg) $value,)?
                slow = label { return false },
                options(nostack),
            );
        }
        true
    }};
}

/// [`Words::local_inc`](crate::Words::local_inc) for a platform whose words begin `AT` bytes into the area that GS
/// points at.
///
/// # Safety
///
/// GS must point at the area of the executing CPU, with the words of the platform from `AT` on; `tagged` must hold
/// a tag or the offset of an allocated word; and the platform must [`restart`] interrupted code.
#[inline(always)]
#[must_use]
pub unsafe fn inc<const AT: i32>(tagged: &AtomicUsize) -> bool {
    fast_path!(tagged, AT, "inc qword ptr gs:[{word} + {at}]")
}

/// [`Words::local_dec`](crate::Words::local_dec), as [`inc`].
///
/// # Safety
///
/// As for [`inc`].
#[inline(always)]
#[must_use]
pub unsafe fn dec<const AT: i32>(tagged: &AtomicUsize) -> bool {
    fast_path!(tagged, AT, "dec qword ptr gs:[{word} + {at}]")
}

/// [`Words::local_add`](crate::Words::local_add), as [`inc`].
///
/// # Safety
///
/// As for [`inc`].
#[inline(always)]
#[must_use]
pub unsafe fn add<const AT: i32>(tagged: &AtomicUsize, delta: u64) -> bool {
    fast_path!(tagged, AT, "add qword ptr gs:[{word} + {at}], {delta}", delta = in(reg) delta)
}

/// [`Words::local_add_within`](crate::Words::local_add_within): decides and adds in one unlocked `cmpxchg`, so
/// neither an interrupt nor a migration can come between. No restart is needed.
///
/// # Safety
///
/// GS must point at the area of the executing CPU, with the words of the platform from `AT` on, and `offset` must
/// be that of an allocated word.
#[inline]
#[must_use]
pub unsafe fn add_within<const AT: i32>(offset: usize, amount: i64, bound: i64) -> bool {
    let mut old: i64;
    // SAFETY: reads a word of this CPU's area, as the caller promised. On another CPU in the next line, it is a
    // guess that the `cmpxchg` checks.
    unsafe {
        asm!("mov {old}, qword ptr gs:[{offset} + {at}]", old = out(reg) old, offset = in(reg) offset,
             at = const AT, options(nostack, preserves_flags, readonly));
    }
    loop {
        let Some(sum) = old.checked_add(amount) else { return false };
        if sum <= -bound || sum >= bound {
            return false;
        }
        let seen: i64;
        // SAFETY: one instruction, to a word of the area of the CPU that executes it, as the caller promised.
        unsafe {
            asm!("cmpxchg qword ptr gs:[{offset} + {at}], {sum}", offset = in(reg) offset, sum = in(reg) sum,
                 inout("rax") old => seen, at = const AT, options(nostack));
        }
        if seen == old {
            return true;
        }
        old = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_inside_of_a_section_goes_back() {
        #[repr(C)]
        struct Image {
            sections: [Section; 2],
            code: [u8; 256],
        }
        // Two sections of 15 bytes, 100 and 200 bytes into the code.
        let entry = |at: i32, begin: i32| Section { begin: begin - at, end: begin + 15 - (at + 4) };
        let image = Image { sections: [entry(0, 116), entry(8, 216)], code: [0; 256] };
        let at = |offset: usize| image.code.as_ptr().addr() + offset;
        let back = |offset: usize| restart(at(offset), &image.sections) - at(0);
        assert_eq!((image.sections[0].begin(), image.sections[0].end()), (at(100), at(115)));
        assert_eq!(back(100), 100, "nothing is done yet");
        assert_eq!(back(101), 100);
        assert_eq!(back(114), 100);
        assert_eq!(back(115), 115, "the add has retired");
        assert_eq!(back(199), 199);
        assert_eq!(back(207), 200);
        assert_eq!(restart(at(101), &[]), at(101));
    }
}
