//! Reclaim of the image: pages leave when memory is short, and come back as they were.
#![expect(unsafe_code, reason = "loads and stores that fault")]

use crate::paged::{consistent, no_evicting, promise_always};
use crate::threads::{Thread, everywhere, figure, spawn, spawn_on};
use crate::{ensure, failed, same};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, string::String};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::mm::paged::{Charge, FaultError, PopulateError, Region, Stats};
use ebb::smp::CpuId;
use ebb::units::{BLOCK_FRAMES, FRAME_SIZE, Frames, Order, VcpuId};
use ebb_boot::cases::Not;
use ebb_boot::reclaim::reclaim;
use ebb_boot::{Machine, case, elastic, heap, swap, threads};

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

/// These cases are asked where there is swap, which is everywhere but with `tmem.frontswap=0`.
fn swaps(machine: &Machine) -> Result<(), Not> {
    if machine.paged().has_swap() { Ok(()) } else { Err(Not::Skipped("swap is off".into())) }
}

/// What is counted, while the machine's own threads have no page on its way.
fn counted(machine: &'static Machine) -> Stats {
    let _held = elastic::hold();
    machine.paged().stats()
}

/// The books agree, swap's included. While the case itself does nothing.
fn settled(machine: &'static Machine) -> Result<(), Not> {
    let _held = elastic::hold();
    consistent(machine)?;
    swap::validate(machine).map_err(Not::Failed)
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
    let _always = promise_always()?;
    let region = paged.reserve(Frames::new(pages), Charge::Whole);
    region.map_err(|error| failed("a region beyond memory")(&error))
}

/// Memory that is taken away, so that a case needs to fill what is left only.
struct Ballast {
    machine: &'static Machine,
    held: Vec<Extent>,
}

impl Ballast {
    /// Leaves `left` frames or so.
    fn leave(machine: &'static Machine, left: u64) -> Self {
        let mut ballast = Self { machine, held: Vec::with_capacity(256) };
        let frames = machine.frames();
        let order = |order| Request::new(Use::Special, cpu(machine)).order(order);
        while ballast.held.len() < 256 && frames.stats().available().get() >= left + BLOCK_FRAMES {
            match frames.alloc(order(Order::BLOCK)) {
                Ok(extent) => ballast.held.push(extent),
                Err(_) => break,
            }
        }
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        for extent in self.held.drain(..) {
            let freed = self.machine.frames().free(extent, Contents::Unknown, cpu(self.machine));
            assert!(freed.is_ok(), "the allocator refuses its own extent");
        }
    }
}

fn cpu(machine: &Machine) -> VcpuId {
    VcpuId::new(machine.cpus().this().get() as u32)
}

/// Frames that a case of exhaustion has: 12 MiB.
const LEFT: u64 = 12 * 256;

case!("reclaim.pages_leave_and_come_back", |machine| {
    const PAGES: u64 = 1000;
    // The machine's own threads would have pages leave and come, too, or take the place of who has them leave here.
    let _held = elastic::hold();
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
    let outcome = reclaim(Frames::new(u64::MAX));
    let out = paged.stats().swapped - before.swapped;
    ensure(out >= Frames::new(PAGES), &format!("{out} are out: {outcome:?}"))?;
    let tiers = swap::figures().ok_or("there is no swap")?;
    let elsewhere = tiers.pool.stored + tiers.tmem.unwrap_or(0);
    ensure(tiers.same >= PAGES / 10 && elsewhere >= PAGES * 9 / 10, &format!("{tiers:?}"))?;
    ensure(tiers.pool.frames() < Frames::new(PAGES / 2), &format!("nothing was saved: {tiers:?}"))?;
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
    let outcome = reclaim(Frames::new(PAGES / 2));
    let out = paged.stats().swapped - before.swapped;
    ensure(out >= Frames::new(PAGES / 2), &format!("{out} are out: {outcome:?}"))?;
    paged.release(region);
    same("lost pages", paged.stats().swap_lost, 0)?;
    consistent(machine)
});

case!("reclaim.twice_the_memory_fits_if_it_compresses", |machine| {
    swaps(machine)?;
    let _ballast = Ballast::leave(machine, LEFT);
    let paged = machine.paged();
    let pages = machine.frames().stats().available().get() * 2;
    let before = counted(machine);
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
    same("pages in swap in the end", counted(machine).swapped, before.swapped)?;
    same("lost pages", stats.swap_lost, 0)?;
    consistent(machine)
});

case!("reclaim.without_eviction_exhaustion_is_a_value", |machine| {
    swaps(machine)?;
    let _held = elastic::hold();
    let _ballast = Ballast::leave(machine, LEFT);
    let paged = machine.paged();
    let pages = machine.frames().stats().available().get() * 2;
    let region = beyond_memory(machine, pages)?;
    let staying = no_evicting()?;
    let filled = paged.populate(&region, 0..pages);
    drop(staying);
    let refused = matches!(filled, Err(PopulateError::Page(_, FaultError::NoFrame(_))));
    ensure(refused, &format!("more than there is: {filled:?}"))?;
    paged.release(region);
    consistent(machine)
});

case!("reclaim.cpus_use_what_others_take_away", |machine| {
    const PAGES: u64 = 600;
    /// Wanted; a slow machine does what it can in the time, and the second number however long that takes.
    const ROUNDS: u64 = 6;
    const FEWEST: u64 = 2;
    const TIME_NS: u64 = 10_000_000_000;
    swaps(machine)?;
    let paged = machine.paged();
    let region = beyond_memory(machine, PAGES)?;
    let start = region.address() as usize;
    let failures = Arc::new(AtomicU64::new(0));
    let wrong = Arc::clone(&failures);
    let enough_ns = machine.cpus().now_ns() + TIME_NS;
    everywhere(machine, "reclaims", move |cpu| {
        let mine = 8 + cpu.get() as u64;
        for round in 0..ROUNDS {
            if round >= FEWEST && machine.cpus().now_ns() >= enough_ns {
                break;
            }
            for page in 0..PAGES {
                if word(start, page, mine).fetch_add(1, Ordering::Relaxed) != round {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                if page % 100 == mine % 100 {
                    let _ = reclaim(Frames::new(150));
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

case!("reclaim.kernel_allocations_have_pages_leave", |machine| {
    swaps(machine)?;
    let _held = elastic::hold();
    let _ballast = Ballast::leave(machine, LEFT);
    let paged = machine.paged();
    let before = paged.stats();
    // More than there is: a shortage has stacks that nobody uses come free, too.
    let pages = machine.frames().stats().available().get() * 2;
    let region = beyond_memory(machine, pages)?;
    let start = region.address() as usize;
    let staying = no_evicting()?;
    let filled = match paged.populate(&region, 0..pages) {
        Err(PopulateError::Page(page, FaultError::NoFrame(_))) => page,
        other => return Err(format!("there is as much as there is: {other:?}").into()),
    };
    // What leaves needs frames of the pool, which are in the reserve.
    (0..filled).for_each(|page| fill(start, page, 5));
    // More than the reserve, beside what the heap has left from others.
    let (used, backed) = heap::usage();
    let bytes = machine.frames().stats().watermarks.min.get() as usize * FRAME_SIZE * 3 / 2 + (backed - used);
    let allocate = || {
        let mut memory = Vec::<u8>::new();
        memory.try_reserve_exact(bytes).map(|()| memory)
    };
    ensure(allocate().is_err(), "there was memory for the heap")?;
    drop(staying);
    let memory = allocate().map_err(|error| failed("memory for the heap")(&error))?;
    ensure(paged.stats().swap_outs > before.swap_outs, "no page has left for it")?;
    drop(memory);
    // Who may not block gets what there is, or nothing, and waits for nobody. Somebody else may be faster to take a piece
    // out of the middle of what was given back, but not every time.
    let unblocking = (0..10).any(|_| {
        without_blocking(allocate) || {
            drop(allocate());
            false
        }
    });
    ensure(unblocking, "what was given back cannot be had again")?;
    for page in (0..filled).step_by(50) {
        check(start, page, 5)?;
    }
    paged.release(region);
    settled(machine)
});

/// Whether an allocation is served with preemption off.
fn without_blocking<T, E>(allocate: impl FnOnce() -> Result<T, E>) -> bool {
    let _pin = percpu::CpuPin::new(ebb_boot::Kernel);
    allocate().is_ok()
}

/// Threads that each do their part again and again, until all are told to stop.
struct Race {
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, Thread<Result<u64, String>>)>,
}

impl Race {
    fn new() -> Self {
        Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() }
    }

    /// One more thread, on `cpu` or anywhere. `step` is told how often it was called before.
    fn join_in(
        &mut self,
        name: &'static str,
        cpu: Option<CpuId>,
        mut step: impl FnMut(u64) -> Result<(), String> + Send + 'static,
    ) -> Result<(), Not> {
        let stop = Arc::clone(&self.stop);
        let part = move || {
            let mut rounds = 0;
            // On a busy host each is at work once in any case.
            while rounds == 0 || !stop.load(Ordering::Relaxed) {
                step(rounds)?;
                rounds += 1;
                threads().yield_now();
            }
            Ok(rounds)
        };
        let thread = match cpu {
            Some(cpu) => spawn_on(cpu, name, part),
            None => spawn(name, part),
        };
        self.threads.push((name, thread?));
        Ok(())
    }

    /// Has all of them stop, and waits for that.
    fn end(mut self) -> Result<(), Not> {
        self.stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = self.threads.drain(..).map(|(name, thread)| (name, thread.join())).collect();
        for (name, result) in ended {
            let rounds = result.map_err(|wrong| Not::Failed(format!("{name}: {wrong}")))?;
            log::info!("{name}: {rounds} rounds");
        }
        Ok(())
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How long the race lasts, and how much longer at most.
const RACE_NS: u64 = 3_000_000_000;
const MOST_NS: u64 = 60_000_000_000;
/// Pages of a region that comes and goes.
const PAGES_OF_ONE: u64 = 120;

case!("reclaim.faults_reclaim_shrink_release_and_swapoff_at_once", |machine| {
    const SHARED: u64 = 300;
    swaps(machine)?;
    let paged = machine.paged();
    let before = counted(machine);
    let shared = beyond_memory(machine, SHARED)?;
    let start = shared.address() as usize;
    let offs = Arc::new(AtomicU64::new(0));
    let mut race = Race::new();
    for cpu in machine.cpus().online().iter() {
        let number = cpu.get() as u64;
        // Each CPU has a word of its own in pages that all use. A write to an old copy is lost.
        race.join_in("faults", Some(cpu), move |round| {
            for page in 0..SHARED {
                let found = word(start, page, 8 + number).fetch_add(1, Ordering::Relaxed);
                if found != round {
                    return Err(format!("cpu {number}, page {page}: {found} in round {round}"));
                }
            }
            Ok(())
        })?;
        // Regions with every word known come and go, with some of their pages out.
        race.join_in("releases", Some(cpu), move |round| rent(machine, number << 32 | round))?;
        race.join_in("reclaims", Some(cpu), move |round| {
            let _ = reclaim(Frames::new(1 + (round * 37 + number) % 200));
            Ok(())
        })?;
    }
    race.join_in("shrinks", None, move |round| {
        paged.bring_home(Frames::new(1 + round * 11 % 90), || true);
        Ok(())
    })?;
    // All come home, frontswap is torn down and set up again.
    let times = Arc::clone(&offs);
    race.join_in("swapoff", None, move |_| {
        if swap::off(machine) {
            times.fetch_add(1, Ordering::Relaxed);
            swap::on();
        }
        // Most of the time it is on.
        threads().sleep_for(20_000_000);
        Ok(())
    })?;
    threads().sleep_for(RACE_NS);
    // On a busy host, until each has happened at all.
    let begun_ns = machine.cpus().now_ns();
    let happened = || {
        let stats = paged.stats();
        let offs = offs.load(Ordering::Relaxed);
        stats.swap_outs > before.swap_outs && stats.swap_ins > before.swap_ins && offs > 0
    };
    while !happened() && machine.cpus().now_ns() - begun_ns < MOST_NS {
        threads().sleep_for(RACE_NS / 10);
    }
    race.end()?;
    // From here on the case alone has pages leave and come.
    let _held = elastic::hold();
    let stats = paged.stats();
    figure("race: pages out", stats.swap_outs - before.swap_outs, "pages");
    figure("race: pages in", stats.swap_ins - before.swap_ins, "pages");
    figure("race: times off", offs.load(Ordering::Relaxed), "times");
    ensure(happened(), "no page moved, or swap was never off")?;
    same("lost pages", stats.swap_lost, before.swap_lost)?;
    settled(machine)?;
    ensure(swap::off(machine), "swap cannot be turned off when all is quiet")?;
    same("pages that are out when swap is off", paged.stats().swapped, Frames::ZERO)?;
    ensure(reclaim(Frames::new(1)).full, "swap that is off takes a page")?;
    swap::on();
    settled(machine)?;
    paged.release(shared);
    let after = paged.stats();
    same("pages in the end", after.resident + after.swapped, before.resident + before.swapped)?;
    same("committed in the end", after.committed, before.committed)?;
    settled(machine)
});

/// A region with every word known, used while others take its pages away, and released with some of them out.
fn rent(machine: &'static Machine, salt: u64) -> Result<(), String> {
    let paged = machine.paged();
    let region = paged
        .reserve(Frames::new(PAGES_OF_ONE), Charge::Whole)
        .map_err(|error| format!("a region: {error}"))?;
    let start = region.address() as usize;
    (0..PAGES_OF_ONE).for_each(|page| fill(start, page, salt));
    threads().yield_now();
    let kept = PAGES_OF_ONE / 2 + salt % (PAGES_OF_ONE / 2);
    paged.discard(&region, kept..PAGES_OF_ONE).map_err(|error| format!("a discard: {error}"))?;
    for page in 0..kept {
        check(start, page, salt).map_err(|wrong| match wrong {
            Not::Failed(why) | Not::Skipped(why) => format!("in a region of its own: {why}"),
        })?;
    }
    for page in kept..PAGES_OF_ONE {
        let found = word(start, page, salt % WORDS).load(Ordering::Relaxed);
        if found != 0 {
            return Err(format!("page {page} was discarded, and holds {found:#x}"));
        }
    }
    let _ = reclaim(Frames::new(PAGES_OF_ONE / 3));
    paged.release(region);
    Ok(())
}
