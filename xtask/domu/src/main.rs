//! The Linux side of `cargo xtask bench swap`: touches the same pages in the same order as the guest of Ebb does, in
//! anonymous memory, while swap is what the script that calls it has set up.
//!
//! It answers by one line that begins with '@', as that script does. It is linked statically, so that the initramfs
//! needs no library.

mod kernel;
mod memory;

use anyhow::{Context, Result, bail, ensure};
use kernel::{Zram, free_pages, vmstat};
use memory::Memory;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;
use workload::pages::{Pages, check_page, write_page};
use workload::spread::Spread;

/// How to call it.
const USAGE: &str = "usage: ebb-swap-peer latency fresh|same|compressed PAGES | \
                     work PAGES FREE_PAGES WARM_OPERATIONS OPERATIONS SEED";
/// Free memory is brought this near to what it should be, in pages.
const NEAR: u64 = 32;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-swap-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let number = |word: &str| word.parse::<u64>().with_context(|| format!("{word:?} is no number; {USAGE}"));
    match *words {
        ["latency", kind, pages] => latency(kind, number(pages)? as usize),
        ["work", pages, free, warm, operations, seed] => work(&Work {
            pages: number(pages)? as usize,
            free: number(free)?,
            warm: number(warm)?,
            operations: number(operations)?,
            seed: number(seed)?,
        }),
        _ => bail!(USAGE),
    }
}

/// Says something to whoever reads the console.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).and_then(|()| out.flush()).context("nobody reads")
}

/// Measures how long each of many pages takes to come: back from swap, or for the first time.
fn latency(kind: &str, count: usize) -> Result<()> {
    let mut memory = Memory::map(count)?;
    let before = vmstat()?;
    match kind {
        "fresh" => {}
        "same" => memory.pages().iter_mut().enumerate().for_each(|(page, words)| words.fill(page as u64 + 1)),
        "compressed" => {
            memory.pages().iter_mut().enumerate().for_each(|(page, words)| write_page(page, words))
        }
        _ => bail!(USAGE),
    }
    if kind != "fresh" {
        memory.page_out()?;
    }
    let mut times_ns = Vec::with_capacity(count);
    for page in 0..count {
        let begun = Instant::now();
        let first = memory.touch(page);
        times_ns.push(begun.elapsed().as_nanos() as u64);
        match kind {
            "fresh" => ensure!(first == 0, "page {page}: {first:#x}"),
            "same" => ensure!(first == page as u64 + 1, "page {page}: {first:#x}"),
            _ => check_page(page, 0, &memory.pages()[page])?,
        }
    }
    let after = vmstat()?;
    let (ins, outs) = (after.swapped_in - before.swapped_in, after.swapped_out - before.swapped_out);
    let Spread { count, p50_ns, p90_ns, p99_ns, max_ns } = Spread::of(&mut times_ns).context("no pages")?;
    say(&format!(
        "latency count={count} p50_ns={p50_ns} p90_ns={p90_ns} p99_ns={p99_ns} max_ns={max_ns} ins={ins} outs={outs}"
    ))
}

/// What is to be done.
struct Work {
    /// Pages that are used.
    pages: usize,
    /// Pages that are free when it begins.
    free: u64,
    /// Operations before the clock starts.
    warm: u64,
    operations: u64,
    seed: u64,
}

fn work(what: &Work) -> Result<()> {
    let mut versions = vec![0; what.pages];
    memory::keep_what_is_there()?;
    let mut memory = Memory::map(what.pages)?;
    let ballast = leave_free(what.free)?;
    let free = free_pages()?;
    let at_first = Instant::now();
    let mut pages = Pages::fill(memory.pages(), &mut versions, what.seed);
    let fill_ns = at_first.elapsed().as_nanos();
    pages.operate(what.warm)?;
    say("begin")?;
    let before = vmstat()?;
    let begun = Instant::now();
    pages.operate(what.operations)?;
    let ns = begun.elapsed().as_nanos();
    let after = vmstat()?;
    let Zram { stored_kib, used_kib, same } = kernel::zram()?;
    say(&format!(
        "worked ns={ns} fill_ns={fill_ns} sum={} free={free} ins={} outs={} direct={} stored_kib={stored_kib} \
         used_kib={used_kib} same={same}",
        pages.sum(),
        after.swapped_in - before.swapped_in,
        after.swapped_out - before.swapped_out,
        after.direct - before.direct,
    ))?;
    drop(ballast);
    Ok(())
}

/// Takes memory until `free` pages are left.
fn leave_free(free: u64) -> Result<Vec<Memory>> {
    let mut ballast = Vec::new();
    kernel::drop_caches()?;
    for _ in 0..100 {
        let now = free_pages()?;
        if now <= free + NEAR {
            ensure!(now + NEAR >= free, "only {now} pages are free, and not {free}");
            return Ok(ballast);
        }
        // Page tables come on top: nearer with each turn.
        let surplus = now - free;
        let part = if surplus > 8 * NEAR { surplus - surplus / 256 - NEAR / 2 } else { NEAR.min(surplus) };
        ballast.push(Memory::locked(part as usize)?);
    }
    bail!("memory does not stay taken")
}
