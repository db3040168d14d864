//! Paged memory of the image: pages come when they are touched and go when they are given up, from all CPUs at once, and
//! move under whoever uses them.
#![expect(unsafe_code, reason = "loads and stores that fault")]

use crate::threads::{everywhere, spawn};
use crate::tunables::Setting;
use crate::{ensure, failed, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb::mm::frame::SparseBlock;
use ebb::mm::paged::{Charge, FaultError, Overcommit, PopulateError, Region, ReserveError};
use ebb::tunable::Id;
use ebb::units::{FRAME_SIZE, Frames};
use ebb_boot::cases::{Ends, Not};
use ebb_boot::paged::{AppAlloc, KernelPaged};
use ebb_boot::{Machine, case, check, elastic, threads};

/// The word at the start of a page, counted from the region's first.
fn word(start: usize, page: u64) -> &'static AtomicU64 {
    let address = start + page as usize * FRAME_SIZE;
    // SAFETY: in a region that the case has reserved and does not release before its last use; atomic, because several
    // CPUs use it.
    unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(address)) }
}

fn start(region: &Region) -> usize {
    region.address() as usize
}

/// Pages stay, however short memory is, while what is answered lives.
pub(crate) fn no_evicting() -> Result<Setting, Not> {
    Setting::new(Id::SwapEvict, "0")
}

/// Paged memory promises whatever it is asked for while what is answered lives.
pub(crate) fn promise_always() -> Result<Setting, Not> {
    Setting::new(Id::Overcommit, "always")
}

/// A region, charged as a whole.
fn reserve(paged: &KernelPaged, pages: u64) -> Result<Region, Not> {
    paged.reserve(Frames::new(pages), Charge::Whole).map_err(|error| failed("a region")(&error))
}

/// The books agree, which they can be asked only while the case itself does nothing.
pub(crate) fn consistent(machine: &'static Machine) -> Result<(), Not> {
    let _held = elastic::hold();
    machine.paged().validate().map_err(|error| failed("the books of paged memory")(&error))?;
    let frames = check::validate_frames(machine);
    frames.map_err(|error| failed("the books on frames")(&error))
}

// Most cases count pages, and have those stand still who would have some of them leave, come, move or be judged.

case!("paged.pages_come_and_go", |machine| {
    const PAGES: u64 = 1500;
    let _held = elastic::hold();
    let paged = machine.paged();
    let before = paged.stats();
    let free = machine.frames().stats().available();
    for round in 0..3 {
        let region = reserve(paged, PAGES)?;
        let at = start(&region);
        same("committed", paged.committed_exactly() - before.committed, Frames::new(PAGES))?;
        same("pages before the first touch", paged.stats().resident, before.resident)?;
        for page in (0..PAGES).step_by(3) {
            same("a fresh page", word(at, page).load(Ordering::Relaxed), 0)?;
            word(at, page).store(page ^ round, Ordering::Relaxed);
        }
        same("pages after it", paged.stats().resident - before.resident, Frames::new(PAGES / 3))?;
        let remembers = |page: &u64| word(at, *page).load(Ordering::Relaxed) == page ^ round;
        ensure((0..PAGES).step_by(3).all(|page| remembers(&page)), "a page has forgotten")?;
        consistent(machine)?;
        paged.discard(&region, 300..600).map_err(|error| failed("a discard")(&error))?;
        same(
            "pages after a discard",
            paged.stats().resident - before.resident,
            Frames::new(PAGES / 3 - 100),
        )?;
        same("a discarded page", word(at, 300).load(Ordering::Relaxed), 0)?;
        ensure(remembers(&297) && remembers(&600), "a discard went too far")?;
        paged.release(region);
        same("pages after the release", paged.stats().resident, before.resident)?;
        same("committed after the release", paged.committed_exactly(), before.committed)?;
        consistent(machine)?;
    }
    // What is left is the window's directory, and the books.
    let lost = free.saturating_sub(machine.frames().stats().available());
    ensure(lost <= Frames::new(32), &format!("{lost} are lost"))
});

case!("paged.all_cpus_fault_the_same_pages", |machine| {
    const PAGES: u64 = 700;
    const ROUNDS: u64 = 5;
    let _held = elastic::hold();
    let paged = machine.paged();
    let before = paged.stats();
    let cpus = machine.cpus().count() as u64;
    for _ in 0..ROUNDS {
        let region = reserve(paged, PAGES)?;
        let at = start(&region);
        let at_the_gate = Arc::new(AtomicU64::new(0));
        let gate = Arc::clone(&at_the_gate);
        everywhere(machine, "toucher", move |_| {
            gate.fetch_add(1, Ordering::SeqCst);
            while gate.load(Ordering::SeqCst) < cpus {
                core::hint::spin_loop();
            }
            for page in 0..PAGES {
                word(at, page).fetch_add(1, Ordering::Relaxed);
            }
        })?;
        let wrong = (0..PAGES).filter(|page| word(at, *page).load(Ordering::Relaxed) != cpus).count();
        same("pages of which a touch was lost", wrong, 0)?;
        same("pages", paged.stats().resident - before.resident, Frames::new(PAGES))?;
        consistent(machine)?;
        paged.release(region);
    }
    let filled = paged.stats().filled - before.filled;
    same("pages that got a frame", filled, ROUNDS * PAGES)
});

case!("paged.regions_come_and_go_on_all_cpus", |machine| {
    const ROUNDS: u64 = 12;
    let _held = elastic::hold();
    let paged = machine.paged();
    let before = paged.stats();
    let results = everywhere(machine, "renter", move |cpu| {
        let seed = cpu.get() as u64 + 1;
        for round in 0..ROUNDS {
            let pages = 1 + (round * 37 + seed * 101) % 400;
            let region = reserve(paged, pages)?;
            let at = start(&region);
            for page in 0..pages {
                same("a fresh page", word(at, page).swap(seed << 32 | page, Ordering::Relaxed), 0)?;
            }
            let middle = pages / 2;
            paged.discard(&region, middle..pages).map_err(|error| failed("a discard")(&error))?;
            for page in 0..pages {
                let wanted = if page < middle { seed << 32 | page } else { 0 };
                same("a page", word(at, page).load(Ordering::Relaxed), wanted)?;
            }
            paged.release(region);
        }
        Ok(())
    })?;
    results.into_iter().collect::<Result<Vec<()>, Not>>()?;
    same("pages in the end", paged.stats().resident, before.resident)?;
    consistent(machine)
});

case!("paged.pages_move_under_those_who_write", |machine| {
    const PAGES: u64 = 64;
    /// As many as there can be in the time, and so many however long that takes.
    const FEWEST: u64 = 150;
    const TIME_NS: u64 = 5_000_000_000;
    /// Who comes to no moves at all is stuck.
    const BOUND_NS: u64 = 60_000_000_000;
    let _held = elastic::hold();
    let paged = machine.paged();
    let before = paged.stats();
    let region = reserve(paged, PAGES)?;
    let at = start(&region);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..machine.cpus().count().max(2) as u64)
        .map(|number| {
            let stop = Arc::clone(&stop);
            spawn("writer", move || {
                // Each has a word of its own in every page, and counts in it: a write that went to an old frame is lost.
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    for page in 0..PAGES {
                        let mine = word(at + 8 * (number as usize + 1), page);
                        if mine.fetch_add(1, Ordering::Relaxed) != count {
                            return Err(format!(
                                "writer {number}: page {page} lost a write in round {count}"
                            ));
                        }
                    }
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect::<Result<_, _>>()?;
    let mut moved = 0;
    let begun_ns = machine.cpus().now_ns();
    let passed_ns = || machine.cpus().now_ns() - begun_ns;
    let mut all = false;
    while !all && passed_ns() < BOUND_NS {
        for page in 0..PAGES {
            if moved >= FEWEST && passed_ns() >= TIME_NS {
                break;
            }
            let Some(mapping) = machine.look_up((at + page as usize * FRAME_SIZE) as u64) else { continue };
            moved += u64::from(paged.migrate(mapping.frame).is_ok());
            // Many at a time: all that are in that block now.
            moved += paged.evacuate(&SparseBlock { first: mapping.frame, movable: Frames::ZERO }).get();
        }
        all = moved >= FEWEST;
        threads().yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = writers.into_iter().map(|writer| writer.join()).collect::<Result<Vec<u64>, _>>()?;
    ensure(moved >= FEWEST, &format!("only {moved} moves"))?;
    same("moves counted", paged.stats().migrated - before.migrated, moved)?;
    for (number, rounds) in rounds.into_iter().enumerate() {
        let lost =
            (0..PAGES).filter(|page| word(at + 8 * (number + 1), *page).load(Ordering::Relaxed) != rounds);
        same("words that lost a write", lost.count(), 0)?;
    }
    consistent(machine)?;
    paged.release(region);
    same("pages in the end", paged.stats().resident, before.resident)
});

case!("paged.a_scan_finds_what_is_used", |machine| {
    const PAGES: u64 = 600;
    const USED: u64 = 50;
    let _held = elastic::hold();
    let paged = machine.paged();
    let region = reserve(paged, PAGES)?;
    let at = start(&region);
    (0..PAGES).for_each(|page| word(at, page).store(page, Ordering::Relaxed));
    let all = paged.stats().resident;
    // Once to take away the marks of filling, and once more for what was active before.
    paged.scan(all);
    paged.scan(all);
    (0..USED).for_each(|page| _ = word(at, page).load(Ordering::Relaxed));
    let found = paged.scan(all);
    same("pages looked at", found.pages >= all.get(), true)?;
    // Others may use paged memory too.
    ensure((USED..USED + 20).contains(&found.accessed), &format!("{} accessed", found.accessed))?;
    same("active", paged.stats().active.get(), found.accessed)?;
    same("on a list", paged.stats().active + paged.stats().inactive, paged.stats().resident)?;
    paged.release(region);
    consistent(machine)
});

case!("paged.a_promise_too_many_is_refused", |machine| {
    // The worker sets the limit anew whenever something was set.
    let _held = elastic::hold();
    let paged = machine.paged();
    let policy = paged.overcommit();
    same("the policy", policy, Overcommit::Strict)?;
    let left = paged.commit_limit() - paged.committed_exactly();
    match paged.reserve(left + Frames::new(1), Charge::Whole) {
        Err(ReserveError::Commit(error)) => same("the limit", error.limit, paged.commit_limit())?,
        other => return Err(format!("a region beyond the limit: {other:?}").into()),
    }
    let region = reserve(paged, left.get())?;
    ensure(paged.reserve(Frames::new(1), Charge::Whole).is_err(), "a page beyond the limit")?;
    // All of it can be had: that is what the limit is for.
    paged.populate(&region, 0..left.get()).map_err(|error| failed("all that was promised")(&error))?;
    paged.release(region);
    consistent(machine)
});

case!("paged.exhaustion_is_a_value_when_filling", |machine| {
    let _held = elastic::hold();
    let paged = machine.paged();
    let staying = no_evicting()?;
    let before = paged.stats();
    let always = promise_always()?;
    let pages = machine.frames().stats().available().get() + 1000;
    let region = reserve(paged, pages)?;
    drop(always);
    let at = start(&region);
    let filled = match paged.populate(&region, 0..pages) {
        Err(PopulateError::Page(page, FaultError::NoFrame(_))) => page,
        other => return Err(format!("more than there is: {other:?}").into()),
    };
    // The reserve serves the last few touches, and everybody else.
    word(at, filled).store(1, Ordering::Relaxed);
    same("pages", paged.stats().resident - before.resident, Frames::new(filled + 1))?;
    consistent(machine)?;
    paged.release(region);
    same("pages in the end", paged.stats().resident, before.resident)?;
    same("committed in the end", paged.committed_exactly(), before.committed)?;
    drop(staying);
    consistent(machine)
});

/// Mixes the bits of a number.
fn hash(number: u64) -> u64 {
    let mixed = (number ^ number >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}

/// Hashes numbers for the maps of these cases.
#[derive(Clone, Copy, Default)]
struct Mixer(u64);

impl core::hash::Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = hash(self.0 ^ u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = hash(self.0 ^ number);
    }
}

type Value = allocator_api2::vec::Vec<u8, AppAlloc>;
type Map = hashbrown::HashMap<u64, Value, core::hash::BuildHasherDefault<Mixer>, AppAlloc>;

/// How long the value of a key is in its `version`: from nothing to a few pages.
fn length(key: u64, version: u32) -> usize {
    let random = hash(key ^ u64::from(version) << 40);
    match random % 8 {
        0 => 0,
        1..=5 => (random >> 8) as usize % 600,
        6 => (random >> 8) as usize % 4000,
        _ => (random >> 8) as usize % 20_000,
    }
}

fn fill(key: u64, version: u32, alloc: AppAlloc) -> Result<Value, Not> {
    let length = length(key, version);
    let mut value = Value::new_in(alloc);
    value.try_reserve(length).map_err(|_| "no memory for a value")?;
    let byte = hash(key.wrapping_add(u64::from(version))) as u8;
    value.extend((0..length).map(|at| byte.wrapping_add(at as u8)));
    Ok(value)
}

fn is_right(key: u64, version: u32, value: &Value) -> bool {
    let byte = hash(key.wrapping_add(u64::from(version))) as u8;
    value.len() == length(key, version)
        && value.iter().enumerate().all(|(at, found)| *found == byte.wrapping_add(at as u8))
}

/// A map under random operations, against an array of versions: 0 is a key that is not there.
fn random_operations(seed: u64, keys: u64, steps: u64, alloc: AppAlloc) -> Result<(), Not> {
    let mut map = Map::with_hasher_in(Default::default(), alloc);
    let mut versions = alloc::vec![0_u32; keys as usize];
    for step in 0..steps {
        let random = hash(seed << 32 ^ step);
        let key = random % keys;
        let version = &mut versions[key as usize];
        match (random >> 40) % 4 {
            0 | 1 => {
                *version = 1 + step as u32;
                map.try_reserve(1).map_err(|_| "no memory for the table")?;
                map.insert(key, fill(key, *version, alloc)?);
            }
            2 => {
                let removed = map.remove(&key);
                let right = match &removed {
                    Some(value) => is_right(key, *version, value),
                    None => *version == 0,
                };
                ensure(right, &format!("step {step}: key {key} was not what it should be"))?;
                *version = 0;
            }
            _ => {
                let right = match map.get(&key) {
                    Some(value) => is_right(key, *version, value),
                    None => *version == 0,
                };
                ensure(right, &format!("step {step}: key {key} is not what it should be"))?;
            }
        }
    }
    for (key, version) in (0..keys).zip(&versions) {
        let right = map.get(&key).map_or(*version == 0, |value| is_right(key, *version, value));
        ensure(right, &format!("in the end key {key} is not what it should be"))?;
    }
    Ok(())
}

case!("paged.maps_on_all_cpus_agree_with_a_model", |machine| {
    let _held = elastic::hold();
    let (paged, alloc) = (machine.paged(), machine.paged_alloc());
    alloc.heap().trim();
    let before = (paged.stats(), alloc.heap().stats());
    let results =
        everywhere(machine, "mapper", move |cpu| random_operations(cpu.get() as u64 + 1, 500, 6000, alloc))?;
    results.into_iter().collect::<Result<Vec<()>, Not>>()?;
    // Everything was dropped: nothing is used, and after a trim nothing is kept.
    same("pages in use", alloc.heap().stats().used_pages, before.1.used_pages)?;
    alloc.heap().trim();
    same("pages in memory", paged.stats().resident, before.0.resident)?;
    same("committed", paged.committed_exactly(), before.0.committed)?;
    same("misuses", alloc.heap().stats().misuses, 0)?;
    consistent(machine)
});

case!("paged.a_map_gives_memory_back", |machine| {
    const KEYS: u64 = 3000;
    let _held = elastic::hold();
    let (paged, alloc) = (machine.paged(), machine.paged_alloc());
    let before = paged.stats();
    let mut map = Map::with_hasher_in(Default::default(), alloc);
    for key in 0..KEYS {
        let mut value = Value::new_in(alloc);
        value.resize(4096, key as u8);
        map.insert(key, value);
    }
    let full = paged.stats();
    let held = full.resident - before.resident;
    ensure(held >= Frames::new(KEYS), &format!("{KEYS} pages of values in {held}"))?;
    map.retain(|key, _| hash(*key).is_multiple_of(10));
    alloc.heap().trim();
    let kept = paged.stats().resident.saturating_sub(before.resident);
    ensure(kept.get() < held.get() / 4, &format!("of {held}, {kept} are kept for a tenth of the values"))?;
    let committed = paged.stats().committed.saturating_sub(before.committed);
    ensure(committed.get() < held.get() / 4, &format!("{committed} committed for a tenth of the values"))?;
    ensure(map.iter().all(|(key, value)| value.iter().all(|byte| *byte == *key as u8)), "a value changed")?;
    drop(map);
    alloc.heap().trim();
    consistent(machine)
});

/// Writes to the first page of a region that was released.
#[inline(never)]
fn write_after_release(machine: &'static Machine) -> Result<(), Not> {
    let paged = machine.paged();
    let region = reserve(paged, 3)?;
    let first = word(start(&region), 0);
    first.store(1, Ordering::Relaxed);
    paged.release(region);
    first.store(2, Ordering::Relaxed);
    Err("a write to a region that was released returned".into())
}

case!(
    "paged.an_access_after_release_is_named",
    write_after_release,
    Ends::Epitaph { what: "page fault", through: "paged::write_after_release" }
);

/// Touches more than there is, under the policy that allows it.
#[inline(never)]
fn touch_too_much(machine: &'static Machine) -> Result<(), Not> {
    let paged = machine.paged();
    let _staying = no_evicting()?;
    let _always = promise_always()?;
    let pages = machine.frames().stats().available().get() + 1000;
    let region = reserve(paged, pages)?;
    (0..pages).for_each(|page| word(start(&region), page).store(page, Ordering::Relaxed));
    paged.release(region);
    Err("there is more memory than there is".into())
}

case!(
    "paged.overcommitted_memory_that_is_touched_ends_the_guest",
    touch_too_much,
    Ends::Epitaph { what: "page fault", through: "paged::touch_too_much" }
);
