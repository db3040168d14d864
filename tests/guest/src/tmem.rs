//! The hypervisor's tmem as the image uses it; on a Xen without it, that this is said, and that pages find their way.

use crate::tunables::Setting;
use crate::{ensure, failed, same};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::mm::paged::Charge;
use ebb::tmem::Absent;
use ebb::tunable::Id;
use ebb::units::{FRAME_SIZE, Frames};
use ebb_boot::cases::Not;
use ebb_boot::tmem::{self, Found};
use ebb_boot::{Machine, case};

const PAGES: u64 = 300;

/// What `stats` says of it.
fn told() -> Result<String, Not> {
    let mut text = String::new();
    tmem::write_stats(&mut text).map_err(|_| "the lines of stats cannot be written")?;
    Ok(text)
}

case!("tier.absent_tmem_is_told_and_no_error", |machine| {
    let text = told()?;
    match tmem::found() {
        None => {
            ensure(machine.hypervisor().is_none(), "nobody has asked Xen")?;
            same("pages there", tmem::pages(), None)?;
            ensure(text.contains("no hypervisor"), &text)
        }
        Some(found @ Found::Absent(absent)) => {
            // What it says now is what it said then, and what was told is why.
            let xen = machine.hypervisor().ok_or("an answer without Xen")?.xen;
            let again = xen.probe_tmem();
            let agrees = match absent {
                Absent::NotThere => again == Err(xen_abi::Errno::ENOSYS),
                Absent::SwitchedOff => again == Err(xen_abi::Errno::ENODEV),
                Absent::Refused(error) => again == Err(*error),
            };
            ensure(agrees, &format!("found {absent:?}, and now {again:?}"))?;
            same("pages there", tmem::pages(), None)?;
            same("stats", text, format!("tmem_pages ? {found}\n"))
        }
        Some(Found::NotAsked | Found::Served(_)) => Err(Not::Skipped("this hypervisor serves tmem".into())),
    }
});

#[expect(unsafe_code, reason = "loads and stores that fault")]
fn word(start: usize, page: u64, index: usize) -> &'static AtomicU64 {
    let address = start + page as usize * FRAME_SIZE + index * 8;
    // SAFETY: in a region that the case has reserved and does not release before its last use.
    unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address)) }
}

/// No two words of a page are the same, so that only tmem, or a pool that takes anything, takes the page.
fn contents(page: u64, index: usize) -> u64 {
    (page << 32 | index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn check(start: usize) -> Result<(), Not> {
    for page in 0..PAGES {
        for index in 0..FRAME_SIZE / 8 {
            let found = word(start, page, index).load(Ordering::Relaxed);
            if found != contents(page, index) {
                return Err(format!("page {page}, word {index}: {found:#x}").into());
            }
        }
    }
    Ok(())
}

/// Pages go to the hypervisor, come back as they were, and come back all when it is given up.
fn serves(machine: &'static Machine) -> Result<(), Not> {
    let paged = machine.paged();
    let pages = || tmem::pages().ok_or("the tier is there");
    let region =
        paged.reserve(Frames::new(PAGES), Charge::Whole).map_err(|error| failed("a region")(&error))?;
    let start = region.address() as usize;
    for page in 0..PAGES {
        for index in 0..FRAME_SIZE / 8 {
            word(start, page, index).store(contents(page, index), Ordering::Relaxed);
        }
    }
    let outcome = paged.reclaim(Frames::new(u64::MAX));
    ensure(outcome.freed > Frames::ZERO, &format!("{outcome:?}"))?;
    // How much room it has is the toolstack's affair; that it is tried first is ours.
    let there = pages()?;
    ensure(there > 0, &format!("nothing went there: {outcome:?}"))?;
    let text = told()?;
    let line = format!("tmem_pages {there}");
    ensure(text.lines().collect::<Vec<_>>().contains(&line.as_str()), &text)?;
    check(start)?;
    same("lost pages", paged.stats().swap_lost, 0)?;
    let _ = paged.reclaim(Frames::new(PAGES / 2));
    let without = Setting::new(Id::SwapTmem, "0")?;
    let deadline_ns = machine.cpus().now_ns().saturating_add(60_000_000_000);
    while pages()? > 0 && machine.cpus().now_ns() < deadline_ns {
        ebb_boot::threads().sleep_for(10_000_000);
    }
    let left = pages()?;
    drop(without);
    same("pages that stayed in tmem when it was given up", left, 0)?;
    check(start)?;
    paged.release(region);
    same("lost pages in the end", paged.stats().swap_lost, 0)
}

case!("tier.hypervisor_tmem_keeps_pages", |machine| {
    match tmem::found() {
        Some(Found::Served(_)) if machine.paged().has_swap() => serves(machine),
        Some(found) => Err(Not::Skipped(format!("{found}"))),
        None => Err(Not::Skipped("there is no hypervisor".into())),
    }
});
