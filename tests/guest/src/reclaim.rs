//! Reclaim of the image: pages leave when memory is short, and come back as they were.
#![expect(unsafe_code, reason = "loads and stores that fault")]

use crate::paged::{promise, set_evicting};
use crate::threads::everywhere;
use crate::{ensure, failed, same};
use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::mm::paged::{Charge, FaultError, PopulateError, Region};
use ebb::units::{FRAME_SIZE, Frames};
use ebb_boot::cases::Not;
use ebb_boot::{Machine, case};

const WORDS: u64 = (FRAME_SIZE / 8) as u64;

/// A word of a page, both counted from the first.
fn word(start: usize, page: u64, index: u64) -> &'static AtomicU64 {
    let address = start + page as usize * FRAME_SIZE + index as usize * 8;
    // SAFETY: in a region that the case has reserved and does not release before its last use; atomic, because several
    // CPUs use it.
    unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address)) }
}

/// What a word of a page holds: the first eighth of a page is as good as random, the rest repeats.
fn contents(page: u64, index: u64, salt: u64) -> u64 {
    let seed = (page ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    if index < WORDS / 8 { (seed ^ index).wrapping_mul(0xD134_2543_DE82_EF95) } else { seed ^ (index / 16) }
}

/// These cases are asked where the command line has asked for swap.
fn swaps(machine: &Machine) -> Result<(), Not> {
    if machine.paged().has_swap() { Ok(()) } else { Err(Not::Skipped("swap was not asked for".into())) }
}

fn fill(start: usize, page: u64, salt: u64) {
    (0..WORDS)
        .for_each(|index| word(start, page, index).store(contents(page, index, salt), Ordering::Relaxed));
}

fn check(start: usize, page: u64, salt: u64) -> Result<(), Not> {
    for index in 0..WORDS {
        let found = word(start, page, index).load(Ordering::Relaxed);
        if found != contents(page, index, salt) {
            return Err(format!("page {page}, word {index}: {found:#x}").into());
        }
    }
    Ok(())
}

/// A region that no strict promise covers.
fn beyond_memory(machine: &'static Machine, pages: u64) -> Result<Region, Not> {
    let paged = machine.paged();
    promise("always")?;
    let region = paged.reserve(Frames::new(pages), Charge::Whole);
    promise("strict")?;
    region.map_err(|error| failed("a region beyond memory")(&error))
}

fn consistent(machine: &'static Machine) -> Result<(), Not> {
    machine.paged().validate().map_err(|error| failed("the books of paged memory")(&error))?;
    machine.frames().validate().map_err(|error| format!("the books on frames: {error:?}").into())
}

case!("reclaim.pages_leave_and_come_back", |machine| {
    const PAGES: u64 = 1000;
    let paged = machine.paged();
    swaps(machine)?;
    let before = paged.stats();
    let region = beyond_memory(machine, PAGES)?;
    let start = region.address() as usize;
    (0..PAGES).for_each(|page| fill(start, page, 1));
    // Pages of zeros, too.
    (0..PAGES)
        .step_by(10)
        .for_each(|page| (0..WORDS).for_each(|index| word(start, page, index).store(0, Ordering::Relaxed)));
    let outcome = paged.reclaim(Frames::new(u64::MAX));
    ensure(outcome.freed >= Frames::new(PAGES), &format!("{outcome:?}"))?;
    let swap = ebb_boot::swap::figures().ok_or("there is no swap")?;
    ensure(swap.same >= PAGES / 10 && swap.pool.stored >= PAGES * 9 / 10, &format!("{swap:?}"))?;
    ensure(swap.pool.frames() < Frames::new(PAGES / 2), &format!("nothing was saved: {swap:?}"))?;
    consistent(machine)?;
    for page in 0..PAGES {
        if page % 10 == 0 {
            same("a page of zeros", word(start, page, page % WORDS).load(Ordering::Relaxed), 0)?;
        } else {
            check(start, page, 1)?;
        }
    }
    let stats = paged.stats();
    ensure(stats.swap_ins - before.swap_ins >= PAGES, &format!("{stats:?}"))?;
    consistent(machine)?;
    // And released while they are out.
    ensure(paged.reclaim(Frames::new(PAGES / 2)).freed >= Frames::new(PAGES / 2), "nothing leaves")?;
    paged.release(region);
    same("lost pages", paged.stats().swap_lost, 0)?;
    consistent(machine)
});

case!("reclaim.twice_the_memory_fits_if_it_compresses", |machine| {
    swaps(machine)?;
    let paged = machine.paged();
    let pages = machine.frames().stats().available().get() * 2;
    let before = paged.stats();
    let region = beyond_memory(machine, pages)?;
    let start = region.address() as usize;
    (0..pages).for_each(|page| fill(start, page, 2));
    ensure(paged.stats().swap_outs > before.swap_outs, "nothing had to leave")?;
    for page in 0..pages {
        check(start, page, 2)?;
    }
    // Backwards: what came last is still there.
    for page in (0..pages).rev() {
        check(start, page, 2)?;
    }
    let stats = paged.stats();
    log::info!(
        "reclaim: {} pages out, {} in, {} soon, {} kept, {} refused",
        stats.swap_outs - before.swap_outs,
        stats.swap_ins - before.swap_ins,
        stats.refaulted - before.refaulted,
        stats.kept - before.kept,
        stats.swap_refused - before.swap_refused
    );
    consistent(machine)?;
    paged.release(region);
    same("pages in swap in the end", paged.stats().swapped, before.swapped)?;
    same("lost pages", stats.swap_lost, 0)?;
    consistent(machine)
});

case!("reclaim.without_eviction_exhaustion_is_a_value", |machine| {
    swaps(machine)?;
    let paged = machine.paged();
    let pages = machine.frames().stats().available().get() * 2;
    let region = beyond_memory(machine, pages)?;
    set_evicting(false)?;
    let filled = paged.populate(&region, 0..pages);
    set_evicting(true)?;
    let refused = matches!(filled, Err(PopulateError::Page(_, FaultError::NoFrame(_))));
    ensure(refused, &format!("more than there is: {filled:?}"))?;
    paged.release(region);
    consistent(machine)
});

case!("reclaim.cpus_use_what_others_take_away", |machine| {
    const PAGES: u64 = 600;
    const ROUNDS: u64 = 12;
    swaps(machine)?;
    let paged = machine.paged();
    let region = beyond_memory(machine, PAGES)?;
    let start = region.address() as usize;
    let failures = alloc::sync::Arc::new(AtomicU64::new(0));
    let wrong = alloc::sync::Arc::clone(&failures);
    everywhere(machine, "reclaims", move |cpu| {
        let mine = 8 + cpu.get() as u64;
        for round in 0..ROUNDS {
            for page in 0..PAGES {
                if word(start, page, mine).fetch_add(1, Ordering::Relaxed) != round {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                if page % 100 == mine % 100 {
                    let _ = paged.reclaim(Frames::new(150));
                }
            }
            paged.bring_home(Frames::new(50), || true);
        }
    })?;
    same("words that lost a write", failures.load(Ordering::Relaxed), 0)?;
    consistent(machine)?;
    paged.release(region);
    consistent(machine)
});
