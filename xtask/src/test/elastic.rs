//! Memory that follows: what the toolstack and the load do to a guest's reservation, as Xen accounts it.
//!
//! Xen's own count is the judge everywhere; the guest's figures are compared with it.

use super::system::{Ask, BOUND, COMMAND_BOUND, Said, config, ends_as, listen, read_node, set_tunable};
use crate::view::STEP_KIB;
use crate::xen::{Ending, Guest, GuestConfig, Session};
use anyhow::{Context, Result, bail, ensure};
use ebb::report::Record;
use std::time::Instant;

/// All questions.
pub(super) const CASES: &[(&str, Ask)] = &[
    ("elastic.the_target_is_followed_down_and_up", the_target_is_followed),
    ("elastic.the_target_is_a_ceiling_for_selfballooning", the_target_is_a_ceiling),
    ("elastic.an_idle_guest_gives_memory_back", an_idle_guest_gives_back),
    ("elastic.a_guest_with_less_than_its_maximum_survives", a_guest_on_demand),
    ("elastic.hostile_targets_are_survived", hostile_targets),
    ("elastic.a_limit_below_use_holds_growth", a_limit_below_use),
    ("elastic.a_host_without_memory_holds_growth", a_host_without_memory),
    ("elastic.after_a_spike_pages_come_home", after_a_spike),
    ("elastic.memory_taken_away_goes_to_the_tiers", memory_taken_away),
];

const MIB: u64 = 1024;
/// The guest follows the toolstack, and nothing else.
const FOLLOW: &str = "tmem.selfballooning=0 sample_ms=250";

/// Starts a guest with that memory, and waits until it is ready.
fn start<'s>(
    session: &'s Session,
    name: &str,
    (memory_mib, maxmem_mib): (u32, u32),
    cmdline: &str,
) -> Result<(Guest<'s>, Said)> {
    let mut guest = session.create(&GuestConfig { memory_mib, maxmem_mib, ..config(name, cmdline) })?;
    let mut said = Said::default();
    if let Some(ending) = listen(&mut guest, &mut said, |said| said.record("ready").is_some())? {
        bail!("the guest ended ({ending:?}) before it was ready:\n{}", said.text);
    }
    Ok((guest, said))
}

/// What Xen charges the guest, in KiB.
fn charged_kib(session: &Session, guest: &Guest<'_>) -> Result<u64> {
    let sample = session.memory()?;
    Ok(sample.domain(guest.domid()).with_context(|| format!("{sample} lacks the domain"))?.kib)
}

/// Waits until Xen charges the guest what `wanted` accepts, and answers how much that is.
fn until(
    session: &Session,
    guest: &mut Guest<'_>,
    said: &mut Said,
    what: &str,
    wanted: impl Fn(u64) -> bool,
) -> Result<u64> {
    match until_or_end(session, guest, said, what, wanted)? {
        Ok(kib) => Ok(kib),
        Err(ending) => bail!("{what}: it ended as {ending:?}:\n{}", said.text),
    }
}

/// The same for a guest that may end before that.
fn until_or_end(
    session: &Session,
    guest: &mut Guest<'_>,
    said: &mut Said,
    what: &str,
    wanted: impl Fn(u64) -> bool,
) -> Result<Result<u64, Ending>> {
    let deadline = Instant::now() + BOUND;
    loop {
        let kib = charged_kib(session, guest)?;
        if wanted(kib) {
            return Ok(Ok(kib));
        }
        ensure!(Instant::now() < deadline, "{what}: Xen charges {kib} KiB; it said:\n{}", said.text);
        // One more sample of the guest: the wait, and its console is read.
        let seen = said.records.len();
        if let Some(ending) = listen(guest, said, |said| said.records.len() > seen)? {
            return Ok(Err(ending));
        }
    }
}

fn mem_set(session: &Session, guest: &Guest<'_>, mib: u32) -> Result<()> {
    session.exec(&format!("xl mem-set {} {mib}", guest.domid()), COMMAND_BOUND)?.success().map(drop)
}

/// The guest's own figure is Xen's, in the next samples.
fn agrees(guest: &mut Guest<'_>, said: &mut Said, kib: u64) -> Result<()> {
    let seen = said.records.len();
    let agreed = |said: &Said| {
        let new = said.records.get(seen..).unwrap_or_default();
        new.iter().any(|record| record.kind == "sample" && record.number("reservation_kib") == Some(kib))
    };
    match listen(guest, said, agreed)? {
        None => Ok(()),
        Some(ending) => bail!("it ended as {ending:?} and never said {kib} KiB:\n{}", said.text),
    }
}

fn stop(guest: Guest<'_>, said: Said) -> Result<()> {
    guest.ask_to_shut_down()?;
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

fn the_target_is_followed(session: &Session) -> Result<()> {
    let (mut guest, mut said) = start(session, "target", (128, 128), FOLLOW)?;
    let full = charged_kib(session, &guest)?;
    // What the domain is charged for beside its memory stays the same: the offset is constant.
    for mib in [64, 96, 33, 128] {
        mem_set(session, &guest, mib)?;
        let wanted = full - (128 - u64::from(mib)) * MIB;
        let what = format!("mem-set {mib}, {wanted} KiB");
        let kib = until(session, &mut guest, &mut said, &what, |kib| kib == wanted)?;
        agrees(&mut guest, &mut said, kib)?;
    }
    stop(guest, said)
}

fn the_target_is_a_ceiling(session: &Session) -> Result<()> {
    // A floor of 40 MiB or so, so that the policy has an opinion.
    let cmdline = "selfballoon.selfballoon_min_usable_mb=40 selfballoon.selfballoon_interval=1 sample_ms=250";
    let (mut guest, mut said) = start(session, "ceiling", (128, 128), cmdline)?;
    let idle = until(session, &mut guest, &mut said, "shrinks", |kib| kib < 60 * MIB)?;
    ensure!(idle > 40 * MIB, "it went below its floor: {idle} KiB");
    // Below the floor: the toolstack is obeyed.
    mem_set(session, &guest, 32)?;
    until(session, &mut guest, &mut said, "below the floor", |kib| kib <= 33 * MIB)?;
    mem_set(session, &guest, 128)?;
    let back = until(session, &mut guest, &mut said, "back at the floor", |kib| kib > 40 * MIB)?;
    ensure!(back < 128 * MIB, "the target is no ceiling but a wish: {back} KiB");
    // Off: the target is followed. On again: it is not.
    set_tunable(session, &guest, "selfballoon/selfballooning", "0")?;
    until(session, &mut guest, &mut said, "selfballooning off", |kib| kib >= 128 * MIB)?;
    set_tunable(session, &guest, "selfballoon/selfballooning", "1")?;
    until(session, &mut guest, &mut said, "selfballooning on", |kib| kib < 60 * MIB)?;
    stop(guest, said)
}

fn an_idle_guest_gives_back(session: &Session) -> Result<()> {
    let cmdline = "selfballoon.selfballoon_interval=1 selfballoon.selfballoon_downhysteresis=2 sample_ms=250";
    let (mut guest, mut said) = start(session, "idle", (256, 256), cmdline)?;
    let kib = until(session, &mut guest, &mut said, "shrinks", |kib| kib < 80 * MIB)?;
    agrees(&mut guest, &mut said, kib).or_else(|_| {
        // It may have gone on a little.
        until(session, &mut guest, &mut said, "goes on", |kib| kib < 80 * MIB).map(drop)
    })?;
    let deadline = Instant::now() + BOUND;
    let floor = loop {
        // Published every two seconds.
        if let Ok(floor) = read_node(session, &guest, "data/ebb/state/floor-kib") {
            break floor.parse::<u64>()?;
        }
        ensure!(Instant::now() < deadline, "it publishes no floor:\n{}", said.text);
        let seen = said.records.len();
        let _ended = listen(&mut guest, &mut said, |said| said.records.len() > seen)?;
    };
    let lowest = charged_kib(session, &guest)?;
    ensure!(lowest + 2 * MIB >= floor, "{lowest} KiB is below the floor of {floor} KiB");
    stop(guest, said)
}

fn a_guest_on_demand(session: &Session) -> Result<()> {
    let (mut guest, mut said) = start(session, "demand", (64, 1024), FOLLOW)?;
    ensure!(said.text.contains("populated on demand"), "it did not notice:\n{}", said.text);
    let small = until(session, &mut guest, &mut said, "small", |kib| kib <= 66 * MIB)?;
    agrees(&mut guest, &mut said, small)?;
    mem_set(session, &guest, 512)?;
    let large = until(session, &mut guest, &mut said, "grows", |kib| kib >= 512 * MIB)?;
    ensure!(large <= 514 * MIB, "more than it may have: {large} KiB");
    mem_set(session, &guest, 64)?;
    until(session, &mut guest, &mut said, "shrinks", |kib| kib == small)?;
    stop(guest, said)
}

fn hostile_targets(session: &Session) -> Result<()> {
    let (mut guest, mut said) = start(session, "hostile", (64, 64), FOLLOW)?;
    let full = charged_kib(session, &guest)?;
    let node = format!("/local/domain/{}/memory/target", guest.domid());
    let write = |value: &str| {
        session.exec(&format!("xenstore-write -- {node} '{value}'"), COMMAND_BOUND)?.success().map(drop)
    };
    for (value, word) in [
        ("", "refused: the size is empty"),
        ("lots", "refused: the size is not a decimal number"),
        ("-4096", "refused: the size is not a decimal number"),
        ("99999999999999999999999", "refused: the size is larger than any memory"),
        ("4194304", "clamped: 4194304 KiB is above static-max"),
    ] {
        write(value)?;
        if let Some(ending) = listen(&mut guest, &mut said, |said| said.text.contains(word))? {
            bail!("it ended as {ending:?} at {value:?}:\n{}", said.text);
        }
        ensure!(charged_kib(session, &guest)? == full, "{value:?} has moved it");
    }
    for value in ["1", "0"] {
        said.text.clear();
        write(value)?;
        if let Some(ending) = listen(&mut guest, &mut said, |said| said.text.contains("can live on"))? {
            bail!("it ended as {ending:?} at {value:?}:\n{}", said.text);
        }
    }
    until(session, &mut guest, &mut said, "as small as it can live", |kib| kib < 32 * MIB)?;
    // As fast as the store takes them; the last is what counts.
    let storm = format!("for n in $(seq 1 100); do xenstore-write {node} $((32768 + n * 256)); done");
    session.exec(&storm, COMMAND_BOUND)?.success()?;
    let wanted = full - (64 * MIB - 32768 - 100 * 256);
    until(session, &mut guest, &mut said, "after the storm", |kib| kib == wanted)?;
    stop(guest, said)
}

/// `xl mem-max` below what the guest has, and then growth: refused, with the reason, until the limit is raised.
fn a_limit_below_use(session: &Session) -> Result<()> {
    let (mut guest, mut said) = start(session, "limit", (128, 128), FOLLOW)?;
    let full = charged_kib(session, &guest)?;
    mem_set(session, &guest, 64)?;
    until(session, &mut guest, &mut said, "shrinks", |kib| kib == full - 64 * MIB)?;
    session.exec(&format!("xl mem-max {} 80", guest.domid()), COMMAND_BOUND)?.success()?;
    let node = format!("/local/domain/{}/memory/target", guest.domid());
    session.exec(&format!("xenstore-write {node} {}", 128 * MIB), COMMAND_BOUND)?.success()?;
    until(session, &mut guest, &mut said, "grows to the limit", |kib| kib > 76 * MIB)?;
    let deadline = Instant::now() + BOUND;
    while read_node(session, &guest, "data/ebb/state/held-up").unwrap_or_default() != "limit" {
        ensure!(Instant::now() < deadline, "it does not say that the limit holds it:\n{}", said.text);
        let seen = said.records.len();
        let _ended = listen(&mut guest, &mut said, |said| said.records.len() > seen)?;
    }
    let held = charged_kib(session, &guest)?;
    ensure!(held <= 82 * MIB, "above its limit: {held} KiB");
    session.exec(&format!("xl mem-max {} 129", guest.domid()), COMMAND_BOUND)?.success()?;
    until(session, &mut guest, &mut said, "goes on when it may", |kib| kib == full)?;
    stop(guest, said)
}

/// A guest that wants more than the host has gets what there is, and says so.
fn a_host_without_memory(session: &Session) -> Result<()> {
    // Another guest has nearly all of the host.
    let free_mib = u32::try_from(session.memory()?.free_kib / MIB)?;
    ensure!(free_mib > 600, "the host has only {free_mib} MiB to begin with");
    let (ballast, ballast_said) = start(session, "ballast", (free_mib - 400, free_mib - 400), FOLLOW)?;
    let (mut guest, mut said) = start(session, "greedy", (64, 512), FOLLOW)?;
    let small = charged_kib(session, &guest)?;
    mem_set(session, &guest, 512)?;
    let deadline = Instant::now() + BOUND;
    while read_node(session, &guest, "data/ebb/state/held-up").unwrap_or_default() != "host" {
        ensure!(Instant::now() < deadline, "it does not say that the host is out of memory:\n{}", said.text);
        let seen = said.records.len();
        if let Some(ending) = listen(&mut guest, &mut said, |said| said.records.len() > seen)? {
            bail!("it ended as {ending:?}:\n{}", said.text);
        }
    }
    let left = session.memory()?.free_kib;
    ensure!(left < 32 * MIB, "it stopped although {left} KiB are free");
    // The other one goes: now it is served.
    stop(ballast, ballast_said)?;
    let what = "grows when there is memory";
    until(session, &mut guest, &mut said, what, |kib| kib == small + 448 * MIB)?;
    mem_set(session, &guest, 64)?;
    until(session, &mut guest, &mut said, "gives it all back", |kib| kib == small)?;
    stop(guest, said)
}

/// The guest's samples, from one on.
fn samples(said: &Said, from: usize) -> impl Iterator<Item = &Record> {
    said.records.iter().skip(from).filter(|record| record.kind == "sample")
}

/// A load beyond the memory that the guest may have, and then idleness: pages go out, and come home although nobody
/// touches them, and the host has its memory back.
fn after_a_spike(session: &Session) -> Result<()> {
    // How long a spike lasts, in seconds. One that was too short for a machine that is busy with other things says nothing.
    let mut too_short = String::new();
    for seconds in [6, 18, 36] {
        match spike(session, seconds)? {
            Spike::Shown => return Ok(()),
            Spike::TooShort(why) => too_short += &format!("\n{seconds} s are too short: {why}"),
        }
    }
    bail!("no spike was long enough:{too_short}")
}

/// What came of a spike.
enum Spike {
    /// All of it.
    Shown,
    /// It was over, or the idleness after it was, before all had happened; what was missing.
    TooShort(String),
}

/// One such load, for so many seconds, after idleness for two thirds of that, and before idleness for four times that.
fn spike(session: &Session, seconds: u64) -> Result<Spike> {
    const TRACE: &str = "/guests/spike";
    /// Pages out at the height of the spike, and pages that nobody would have brought home, at least.
    const OUT_KIB: u64 = 32 * MIB;
    const HOME: u64 = 500;
    /// What it uses before and after.
    const IDLE_KIB: u64 = 24 * MIB;
    // Seconds, MiB, touches per second. The guest may have 64 MiB; it is idle before and after.
    let (begin, end) = (seconds * 2 / 3, seconds * 2 / 3 + seconds);
    let trace = format!("0 24 0\\n{begin} 104 4000\\n{end} 24 0\\n{} 24 0\\n", end + 4 * seconds);
    session.exec(&format!("printf '{trace}' >{TRACE}"), COMMAND_BOUND)?.success()?;
    let cmdline = "swap.commit_percent=150 workload=trace sample_ms=250 \
                   selfballoon.selfballoon_interval=1 selfballoon.selfballoon_downhysteresis=1 \
                   selfballoon.frontswap_hysteresis=2 selfballoon.frontswap_inertia=1";
    let mut guest = session.create(&GuestConfig {
        memory_mib: 64,
        maxmem_mib: 64,
        ramdisk: Some(TRACE.to_owned()),
        ..config("spike", cmdline)
    })?;
    let mut said = Said::default();
    let number = |record: &Record, name| record.number(name).unwrap_or_default();
    let out = |said: &Said| samples(said, 0).any(|sample| number(sample, "swapped_kib") > OUT_KIB);
    let over = |said: &Said| {
        let mut live =
            samples(said, 0).map(|sample| number(sample, "live_kib")).skip_while(|kib| *kib <= IDLE_KIB);
        live.next().is_some() && live.last().is_some_and(|kib| kib <= IDLE_KIB)
    };
    if let Some(ending) = listen(&mut guest, &mut said, |said| out(said) || over(said))? {
        bail!("it ended as {ending:?} before enough was out:\n{}", said.text);
    }
    if !out(&said) {
        stop(guest, said)?;
        return Ok(Spike::TooShort(format!("less than {OUT_KIB} KiB were out")));
    }
    // Xen's count, which the guest has told: whoever runs this may come late to look for himself.
    let before = samples(&said, 0).take_while(|sample| number(sample, "live_kib") <= IDLE_KIB);
    let floor = before.map(|sample| number(sample, "reservation_kib")).min();
    let floor = floor.context("it said nothing before the spike")?;
    let seen = said.records.len();
    let is_empty =
        |sample: &Record| number(sample, "swapped_kib") == 0 && number(sample, "live_kib") <= IDLE_KIB;
    let empty = |said: &Said| samples(said, seen).any(is_empty);
    if let Some(ending) = listen(&mut guest, &mut said, empty)? {
        return ended_well(guest, &said, ending, "not all were home");
    }
    let sample = samples(&said, seen).find(|sample| is_empty(sample)).context("there is a sample")?;
    if number(sample, "live_kib") < IDLE_KIB {
        // It has begun to check what it has, and to give it back.
        let ending = listen(&mut guest, &mut said, |_| false)?.context("nothing else ends this")?;
        return ended_well(guest, &said, ending, "not all were home");
    }
    let home = number(sample, "swap_home");
    ensure!(home > HOME, "of the pages that came home {home} were brought: {sample:?}");
    for tier in ["same_kib", "pool_kib"] {
        ensure!(number(sample, tier) == 0, "frontswap is not empty: {sample:?}");
    }
    let back = |kib: u64| kib.abs_diff(floor) <= STEP_KIB;
    let what = format!("back at {floor} KiB");
    match until_or_end(session, &mut guest, &mut said, &what, back)? {
        Ok(_) => {}
        Err(ending) => return ended_well(guest, &said, ending, "the host did not have its memory back"),
    }
    let said = ends_as(guest, said, Ending::Poweroff)?;
    did_its_work(&said)?;
    Ok(Spike::Shown)
}

/// A spike that was too short, if that is all that was wrong with it.
fn ended_well(guest: Guest<'_>, said: &Said, ending: Ending, missing: &str) -> Result<Spike> {
    ensure!(ending == Ending::Poweroff, "it ended as {ending:?}, and {missing}:\n{}", said.text);
    did_its_work(said)?;
    guest.destroy()?;
    Ok(Spike::TooShort(missing.to_owned()))
}

/// The application came to its end, and all of its data was right.
fn did_its_work(said: &Said) -> Result<()> {
    let done = said.record("done").context("the application did not end")?;
    ensure!(done.get("outcome") == Some("done") && done.number("errors") == Some(0), "{done:?}");
    Ok(())
}

/// The operator takes away memory that is in use, and later gives it back.
fn memory_taken_away(session: &Session) -> Result<()> {
    let cmdline = "workload=hog workload.size_mib=80 workload.rate=1000 workload.seconds=0 \
                   sample_ms=250 selfballoon.selfballoon_interval=1 selfballoon.frontswap_hysteresis=2 \
                   selfballoon.frontswap_inertia=1";
    let (mut guest, mut said) = start(session, "taken", (128, 128), cmdline)?;
    let live = |said: &Said| samples(said, 0).any(|sample| sample.number("live_kib") == Some(80 * MIB));
    if let Some(ending) = listen(&mut guest, &mut said, live)? {
        bail!("it ended as {ending:?} before it had its memory:\n{}", said.text);
    }
    mem_set(session, &guest, 64)?;
    until(session, &mut guest, &mut said, "at its new ceiling", |kib| kib <= 65 * MIB)?;
    let seen = said.records.len();
    let out = |said: &Said| {
        samples(said, seen).any(|sample| sample.number("swapped_kib").is_some_and(|kib| kib > 16 * MIB))
    };
    if let Some(ending) = listen(&mut guest, &mut said, out)? {
        bail!("it ended as {ending:?} where pages were to go out:\n{}", said.text);
    }
    mem_set(session, &guest, 128)?;
    let seen = said.records.len();
    let home = |said: &Said| samples(said, seen).any(|sample| sample.number("swapped_kib") == Some(0));
    if let Some(ending) = listen(&mut guest, &mut said, home)? {
        bail!("it ended as {ending:?} before all were home:\n{}", said.text);
    }
    let last = samples(&said, seen).last().context("there is a sample")?;
    ensure!(last.number("errors") == Some(0), "{last:?}");
    // Operators see it, too: published every two seconds, and on the console.
    let deadline = Instant::now() + BOUND;
    for (node, wanted) in [("swapped-kib", "0"), ("pool-kib", "0")] {
        while read_node(session, &guest, &format!("data/ebb/state/{node}")).ok().as_deref() != Some(wanted) {
            ensure!(Instant::now() < deadline, "it does not publish {node} {wanted}:\n{}", said.text);
            let seen = said.records.len();
            let _ended = listen(&mut guest, &mut said, |said| said.records.len() > seen)?;
        }
    }
    let tty = format!("$(xenstore-read /local/domain/{}/console/tty)", guest.domid());
    session.exec(&format!("printf 'stats\\n' >{tty}"), COMMAND_BOUND)?.success()?;
    let told = |said: &Said| said.text.contains("swapped_kib 0\n") && said.text.contains("swap_home ");
    if let Some(ending) = listen(&mut guest, &mut said, told)? {
        bail!("it ended as {ending:?} and told no figures:\n{}", said.text);
    }
    stop(guest, said)
}
