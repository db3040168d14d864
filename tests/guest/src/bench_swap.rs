//! What `cargo xtask bench swap` measures in this guest: pages that come back from swap, and work that goes on without
//! the memory that it would like, by order of lines that are typed on the console. Not a test: it runs only when named.
//!
//! | line | what happens | answer |
//! |---|---|---|
//! | `latency KIND PAGES` | pages that are `same`-filled or `compressed` leave, and are touched one by one; or `fresh` ones are touched | `latency`: `count`, `p50_ns`, `p90_ns`, `p99_ns`, `max_ns`, `ins`, `outs` |
//! | `work PAGES FREE WARM OPERATIONS SEED` | so many pages are written while so many are free, and then touched, checked and rewritten, first WARM times unmeasured | `begin`, then `worked`: see [`work`] |
//! | `off` | the case ends | – |
//!
//! `xtask/domu` is the same for Linux.
#![expect(unsafe_code, reason = "paged memory as a slice")]

use crate::keyboard::Keyboard;
use crate::paged::promise_always;
use crate::{domain_of, ensure, failed, same};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::mm::paged::{Charge, Region};
use ebb::units::{Frames, Order, VcpuId};
use ebb_boot::cases::Not;
use ebb_boot::{Machine, case, check, elastic, report, swap};
use workload::pages::{PAGE_WORDS, Pages, check_page, write_page};
use workload::spread::Spread;

const BOOT: VcpuId = VcpuId::new(0);
/// Free memory is brought this near to what it should be, in frames.
const NEAR: u64 = 32;

case!(on Xen, with help: "bench.swap", |machine| {
    ensure(machine.paged().has_swap(), "swap is off")?;
    let mut keyboard = Keyboard::new(domain_of(machine)?)?;
    // What is reserved here is more than is free.
    let _always = promise_always()?;
    report("ready", &[("version", &env!("CARGO_PKG_VERSION")), ("free", &free(machine))]);
    loop {
        let line = keyboard.line()?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["latency", kind, pages] => latency(machine, kind, number(pages)?)?,
            ["work", pages, free, warm, operations, seed] => {
                let what = Work {
                    pages: number(pages)?,
                    free: number(free)?,
                    warm: number(warm)?,
                    operations: number(operations)?,
                    seed: number(seed)?,
                };
                work(machine, &what)?;
            }
            ["off"] => break,
            _ => return Err(format!("the line {line:?} makes no sense").into()),
        }
    }
    same("lost pages", machine.paged().stats().swap_lost, 0)?;
    let _held = elastic::hold();
    machine.paged().validate().map_err(|error| failed("the books of paged memory")(&error))?;
    check::validate_frames(machine).map_err(|error| failed("the books on frames")(&error))
});

fn number(word: &str) -> Result<u64, Not> {
    word.parse().map_err(|error| failed("a number")(&error))
}

/// Frames that are free.
fn free(machine: &Machine) -> u64 {
    machine.frames().stats().available().get()
}

/// Paged memory of the case's own.
struct Memory {
    machine: &'static Machine,
    region: Option<Region>,
    pages: usize,
}

impl Memory {
    fn reserve(machine: &'static Machine, pages: u64) -> Result<Self, Not> {
        let region = machine.paged().reserve(Frames::new(pages), Charge::Whole);
        let region = region.map_err(|error| failed("a region")(&error))?;
        Ok(Self { machine, region: Some(region), pages: pages as usize })
    }

    fn pages(&mut self) -> &mut [[u64; PAGE_WORDS]] {
        let address = self.region.as_ref().map_or(0, Region::address) as usize;
        // SAFETY: `pages` pages from there belong to the region until this is dropped, zero at first and never changed
        // by those who evict them; any word is a value; and nobody else has the region.
        unsafe {
            core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(address), self.pages)
        }
    }

    /// Reads the first word of a page and writes it again, so that the page is there.
    fn touch(&mut self, page: usize) -> u64 {
        let word = &mut self.pages()[page][0];
        // SAFETY: a word that the reference has alone. Atomic, because such an access is not left out.
        let word = unsafe { AtomicU64::from_ptr(core::ptr::from_mut(word)) };
        word.fetch_or(0, Ordering::Relaxed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            self.machine.paged().release(region);
        }
    }
}

/// Measures how long each of many pages takes to come: back from swap, or for the first time.
fn latency(machine: &'static Machine, kind: &str, count: u64) -> Result<(), Not> {
    let paged = machine.paged();
    let mut memory = Memory::reserve(machine, count)?;
    let before = paged.stats();
    match kind {
        "fresh" => {}
        "same" => memory.pages().iter_mut().enumerate().for_each(|(page, words)| words.fill(page as u64 + 1)),
        "compressed" => {
            memory.pages().iter_mut().enumerate().for_each(|(page, words)| write_page(page, words))
        }
        _ => return Err(format!("no pages are {kind:?}").into()),
    }
    if kind != "fresh" {
        let _ = paged.reclaim(Frames::new(u64::MAX));
    }
    let mut times_ns = Vec::with_capacity(memory.pages);
    for page in 0..memory.pages {
        let begun_ns = machine.cpus().now_ns();
        let first = memory.touch(page);
        times_ns.push(machine.cpus().now_ns() - begun_ns);
        match kind {
            "fresh" => same("a page", first, 0)?,
            "same" => same("a page", first, page as u64 + 1)?,
            _ => check_page(page, 0, &memory.pages()[page]).map_err(|wrong| failed("a page")(&wrong))?,
        }
    }
    let after = paged.stats();
    let spread = Spread::of(&mut times_ns).ok_or("no pages")?;
    report(
        "latency",
        &[
            ("count", &spread.count),
            ("p50_ns", &spread.p50_ns),
            ("p90_ns", &spread.p90_ns),
            ("p99_ns", &spread.p99_ns),
            ("max_ns", &spread.max_ns),
            ("ins", &(after.swap_ins - before.swap_ins)),
            ("outs", &(after.swap_outs - before.swap_outs)),
        ],
    );
    Ok(())
}

/// What is to be done.
struct Work {
    /// Pages that are used.
    pages: u64,
    /// Frames that are free when it begins.
    free: u64,
    /// Operations before the clock starts.
    warm: u64,
    operations: u64,
    seed: u64,
}

/// The record is `ns` (for the measured operations), `fill_ns` (for the first writes), `sum` (of all operations),
/// `free` (frames, before the first write), `ins`, `outs` and `direct` (pages from and to swap, and reclaims by who needed
/// a frame, while it was measured), `soon` (pages that were missed soon), `kept` (touched on their way out), `stored_kib`,
/// `used_kib` and `same` (what the compressed pool held then and took for it, and pages of one word).
fn work(machine: &'static Machine, what: &Work) -> Result<(), Not> {
    let paged = machine.paged();
    let mut versions = vec![0; what.pages as usize];
    let mut memory = Memory::reserve(machine, what.pages)?;
    let ballast = Ballast::leave(machine, what.free)?;
    let free = free(machine);
    let wrong = |wrong| failed("a page")(&wrong);
    let at_first_ns = machine.cpus().now_ns();
    let mut pages = Pages::fill(memory.pages(), &mut versions, what.seed);
    let fill_ns = machine.cpus().now_ns() - at_first_ns;
    pages.operate(what.warm).map_err(wrong)?;
    report("begin", &[]);
    let (before, stalls_before) = (paged.stats(), elastic::stalls().0);
    let begun_ns = machine.cpus().now_ns();
    pages.operate(what.operations).map_err(wrong)?;
    let ns = machine.cpus().now_ns() - begun_ns;
    let (after, stalls_after) = (paged.stats(), elastic::stalls().0);
    let held = swap::figures().ok_or("there is no swap")?;
    report(
        "worked",
        &[
            ("ns", &ns),
            ("fill_ns", &fill_ns),
            ("sum", &pages.sum()),
            ("free", &free),
            ("ins", &(after.swap_ins - before.swap_ins)),
            ("outs", &(after.swap_outs - before.swap_outs)),
            ("direct", &(stalls_after - stalls_before)),
            ("soon", &(after.refaulted - before.refaulted)),
            ("kept", &(after.kept - before.kept)),
            ("stored_kib", &Frames::new(held.pool.stored).to_kib().get()),
            ("used_kib", &held.pool.frames().to_kib().get()),
            ("same", &held.same),
        ],
    );
    drop(ballast);
    Ok(())
}

/// Memory that nobody can use meanwhile.
struct Ballast {
    machine: &'static Machine,
    taken: Vec<Extent>,
}

impl Ballast {
    /// Takes frames until `goal` are left.
    fn leave(machine: &'static Machine, goal: u64) -> Result<Self, Not> {
        let mut ballast = Self { machine, taken: Vec::new() };
        while let surplus @ NEAR.. = free(machine).saturating_sub(goal) {
            // The books about what is taken come on top: nearer with each turn.
            let order = if surplus > 2 * Order::BLOCK.frames().get() { Order::BLOCK } else { Order::FRAME };
            let request = Request::new(Use::Special, BOOT).order(order);
            let taken = machine
                .frames()
                .alloc(request)
                .or_else(|_| machine.frames().alloc(Request::new(Use::Special, BOOT)));
            ballast.taken.push(taken.map_err(|error| failed("ballast")(&error))?);
        }
        let left = free(machine);
        if left + NEAR < goal {
            return Err(format!("only {left} frames are free, and not {goal}").into());
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        for extent in self.taken.drain(..) {
            if let Err(rejected) = self.machine.frames().free(extent, Contents::Unknown, BOOT) {
                log::error!("ballast is lost: {rejected}");
            }
        }
    }
}
