//! Counts what it takes to have a page leave memory, and to have it back. Not a test: it runs only when it is named, by
//! `test.solo=bench.evict`, and on bare QEMU with `-icount shift=0`, where ticks of the time stamp counter are instructions.
//!
//! Each figure is a record `figure` with `what`, `value` and `unit`.
#![expect(unsafe_code, reason = "paged memory as a slice")]

use crate::threads::{figure, spawn_on};
use crate::{ensure, failed, same};
use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::cpu;
use ebb::mm::paged::Charge;
use ebb::smp::CpuId;
use ebb::units::Frames;
use ebb_boot::cases::{Ends, Needs, Not};
use ebb_boot::{Machine, case};
use workload::content::{Content, Values};
use workload::pages::PAGE_WORDS;

case!("bench.evict", Needs::Nothing, evict, Ends::WithHelp);

/// Pages of each kind: a part of a small guest's memory.
const PAGES: u64 = 1024;

/// Ticks of the time stamp counter for a page that leaves and for one that comes back, by what is in it; a few of a timer's
/// interrupts are in them.
fn evict(machine: &'static Machine) -> Result<(), Not> {
    ensure(machine.paged().has_swap(), "swap is off")?;
    spawn_on(CpuId::BOOT, "evict", move || {
        pages(machine, "one word", |page, words| words.fill(page + 1))?;
        for (name, values) in
            [("text", Values::Compressible), ("zero-heavy", Values::ZeroHeavy), ("random", Values::Random)]
        {
            pages(machine, name, |page, words| Content::new(values, page, 0).fill(words))?;
        }
        Ok(())
    })?
    .join()
}

fn pages(machine: &Machine, kind: &str, fill: impl Fn(u64, &mut [u64; PAGE_WORDS])) -> Result<(), Not> {
    let paged = machine.paged();
    let region =
        paged.reserve(Frames::new(PAGES), Charge::Whole).map_err(|error| failed("a region")(&error))?;
    let start = region.address() as usize;
    {
        // SAFETY: `PAGES` pages from there belong to the region, zero at first, and nobody else has it; any word is a
        // value. The slice ends before pages leave.
        let pages: &mut [[u64; PAGE_WORDS]] = unsafe {
            core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(start), PAGES as usize)
        };
        pages.iter_mut().zip(0..).for_each(|(words, page)| fill(page, words));
    }
    let word = |page: usize, index: usize| {
        let address = start + (page * PAGE_WORDS + index) * 8;
        // SAFETY: a word of the region, which is not released before the last use.
        unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address)) }
    };
    let before = paged.stats();
    let begun = cpu::time_stamp();
    let outcome = paged.reclaim(Frames::new(PAGES));
    let left = cpu::time_stamp().wrapping_sub(begun);
    let out = paged.stats();
    let offered = out.swap_outs - before.swap_outs + outcome.refused;
    figure(&format!("{kind}: offered"), offered, "pages");
    figure(&format!("{kind}: refused"), outcome.refused, "pages");
    figure(&format!("{kind}: leaves"), left / offered.max(1), "ticks");
    let begun = cpu::time_stamp();
    for page in 0..PAGES as usize {
        word(page, 0).load(Ordering::Relaxed);
    }
    let came = cpu::time_stamp().wrapping_sub(begun);
    let ins = paged.stats().swap_ins - out.swap_ins;
    if let Some(each) = came.checked_div(ins) {
        figure(&format!("{kind}: comes back"), each, "ticks");
    }
    let mut expected = [0; PAGE_WORDS];
    for page in 0..PAGES as usize {
        fill(page as u64, &mut expected);
        for (index, expected) in expected.iter().enumerate() {
            same("a word", word(page, index).load(Ordering::Relaxed), *expected)?;
        }
    }
    paged.release(region);
    Ok(())
}
