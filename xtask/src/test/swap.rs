//! More data than memory: what swap makes possible, and what becomes of the same without it.
//!
//! The guest has 64 MiB, and a key-value store of 160 MiB of compressible values that checks every byte. Xen's own count
//! says that the guest never has more than it may.

use super::system::{Ask, Said, config, ends_as, listen};
use crate::xen::{Ending, Guest, GuestConfig, Session};
use anyhow::{Context, Result, bail, ensure};

/// All questions.
pub(super) const CASES: &[(&str, Ask)] = &[
    ("swap.more_data_than_memory_is_served_where_it_compresses", more_than_memory),
    ("swap.without_it_the_same_is_refused_by_a_value", refused_without_swap),
];

const MIB: u64 = 1024;
const MEMORY_MIB: u32 = 64;
/// What Xen charges a guest beside its memory: special pages and tables, some tens of KiB.
const BESIDE_KIB: u64 = 256;
/// What `xl` lets a domain have beyond its `maxmem`. The hypervisor's tmem fills it.
const SLACK_KIB: u64 = 1024;
const WORKLOAD: &str = "workload=kv workload.size_mib=160 workload.values=compressible workload.seconds=12 \
                        swap.commit_percent=300 sample_ms=500";

fn start<'s>(session: &'s Session, name: &str, cmdline: &str) -> Result<(Guest<'s>, Said)> {
    let small = config(name, cmdline);
    let guest = session.create(&GuestConfig { memory_mib: MEMORY_MIB, maxmem_mib: MEMORY_MIB, ..small })?;
    Ok((guest, Said::default()))
}

/// Listens until `enough`, and looks at every record what Xen charges. That is never more than
/// the guest may have.
fn watch(
    session: &Session,
    guest: &mut Guest<'_>,
    said: &mut Said,
    enough: impl Fn(&Said) -> bool,
) -> Result<()> {
    let mut most_kib = 0;
    while !enough(said) {
        let seen = said.records.len();
        if let Some(ending) = listen(guest, said, |said| said.records.len() > seen)? {
            bail!("it ended as {ending:?} too soon:\n{}", said.text);
        }
        // Once the application is done, it may be gone any moment.
        if said.record("done").is_none() {
            let sample = session.memory()?;
            let kib = sample.domain(guest.domid()).with_context(|| format!("{sample} lacks the domain"))?.kib;
            most_kib = most_kib.max(kib);
        }
    }
    let with_tmem = session.guest_words().split(' ').any(|word| word == "tmem");
    let limit_kib = u64::from(MEMORY_MIB) * MIB + if with_tmem { SLACK_KIB } else { BESIDE_KIB };
    ensure!(most_kib > 0 && most_kib <= limit_kib, "Xen charged {most_kib} KiB");
    Ok(())
}

/// The numbers of this name that samples told.
fn told<'s>(said: &'s Said, field: &'s str) -> impl Iterator<Item = u64> + 's {
    said.records
        .iter()
        .filter(|record| record.kind == "sample")
        .filter_map(move |record| record.number(field))
}

/// A field of what the application says at its end.
fn done(said: &Said, field: &str) -> Result<u64> {
    let record = said.record("done").context("it did not say how it ended")?;
    record.number(field).with_context(|| format!("it does not say its {field}:\n{}", said.text))
}

/// How the application says that it ended.
fn outcome(said: &Said) -> &str {
    said.record("done").and_then(|record| record.get("outcome")).unwrap_or_default()
}

fn more_than_memory(session: &Session) -> Result<()> {
    let (mut guest, mut said) = start(session, "swaps", WORKLOAD)?;
    watch(session, &mut guest, &mut said, |said| said.record("done").is_some())?;
    ensure!(outcome(&said) == "done", "it ended as {:?}:\n{}", outcome(&said), said.text);
    ensure!(done(&said, "errors")? == 0, "data came back wrong:\n{}", said.text);
    ensure!(done(&said, "refused")? == 0, "memory was refused that swap promises:\n{}", said.text);
    ensure!(done(&said, "work")? > 0, "it did nothing:\n{}", said.text);
    let out_kib = told(&said, "swapped_kib").max().unwrap_or_default();
    ensure!(out_kib > 80 * MIB, "only {out_kib} KiB were out at any time: the data did not need swap");
    ends_as(guest, said, Ending::Poweroff).map(drop)
}

fn refused_without_swap(session: &Session) -> Result<()> {
    let (mut guest, mut said) = start(session, "swapless", &format!("{WORKLOAD} tmem.frontswap=0"))?;
    let refused =
        |said: &Said| said.record("ready").is_some() && told(said, "refused").any(|times| times > 0);
    watch(session, &mut guest, &mut said, refused)?;
    // It goes on trying. Whoever runs it may have it end.
    guest.ask_to_shut_down()?;
    let said = ends_as(guest, said, Ending::Poweroff)?;
    ensure!(
        said.text.contains("tmem.frontswap=0 on the command line"),
        "it does not say why:\n{}",
        said.text
    );
    ensure!(outcome(&said) == "stopped", "it ended as {:?}:\n{}", outcome(&said), said.text);
    ensure!(done(&said, "refused")? > 0, "160 MiB were found in 64:\n{}", said.text);
    ensure!(done(&said, "errors")? == 0, "data came back wrong:\n{}", said.text);
    ensure!(told(&said, "swapped_kib").all(|kib| kib == 0), "something was out:\n{}", said.text);
    Ok(())
}
