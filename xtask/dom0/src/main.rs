//! Tells, from dom0, how much memory each domain has, as Xen accounts it.
//!
//! `xl list` says the same in a second or more under emulation, and holds locks of the toolstack meanwhile; this asks
//! Xen itself, through the device that the toolstack's own libraries use, in less than a millisecond. It is linked
//! statically, so that it needs nothing of dom0's libraries.

mod privcmd;
mod sysctl;

use anyhow::{Context, Result, bail};
use ebb_dom0::Sample;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sysctl::Host;

/// How to call it.
const USAGE: &str = "usage: ebb-host-memory once | every MILLISECONDS";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-host-memory: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let period = match words {
        ["once"] => None,
        ["every", millis] => Some(Duration::from_millis(millis.parse::<u64>().context(USAGE)?.max(1))),
        _ => bail!(USAGE),
    };
    let mut host = Host::open()?;
    let begun = Instant::now();
    let mut seq = 0;
    loop {
        let at = begun.elapsed();
        let (free_kib, domains) = (host.free_kib()?, host.domains()?);
        let at_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        // One write: the line is never cut by a reader's end.
        let line = format!("{}\n", Sample { seq, at_ns, free_kib, domains });
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).context("nobody reads")?;
        let Some(period) = period else { return Ok(()) };
        seq += 1;
        // The instants are multiples of the period, so that delays do not add up; missed ones are left out.
        std::thread::sleep(until_next(begun.elapsed(), period));
    }
}

/// How long it is until the next multiple of the period.
fn until_next(now: Duration, period: Duration) -> Duration {
    let over = now.as_nanos() % period.as_nanos();
    period - Duration::from_nanos(u64::try_from(over).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_multiples_of_the_period() {
        let ms = Duration::from_millis;
        assert_eq!(until_next(ms(0), ms(500)), ms(500));
        assert_eq!(until_next(ms(3), ms(500)), ms(497));
        assert_eq!(until_next(ms(1720), ms(500)), ms(280), "three were missed or done");
    }

    #[test]
    fn misuse_is_an_error() {
        for words in [&[][..], &["often"], &["every"], &["every", "x"], &["once", "more"]] {
            let error = run(words).unwrap_err();
            assert!(error.to_string().starts_with("usage: "), "{error}");
        }
    }
}
