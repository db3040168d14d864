//! One look at the host's memory, written and read.

use std::fmt;
use std::str::FromStr;

/// How a line begins: what it is, and the version of the format.
const HEAD: &str = "host-memory 1";
/// How it ends, so that a line that was cut anywhere is no line.
const TAIL: &str = "end";

/// What Xen said of the host's memory at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Counts the samples of one run of the program, from 0.
    pub seq: u64,
    /// When, by dom0's monotonic clock, since the program began.
    pub at_ns: u64,
    /// Memory of the host that no domain has, nor Xen itself.
    pub free_kib: u64,
    /// The domains but dom0, by ascending number.
    pub domains: Vec<Domain>,
}

impl Sample {
    /// What a domain has.
    #[must_use]
    pub fn domain(&self, domid: u32) -> Option<&Domain> {
        self.domains.iter().find(|domain| domain.domid == domid)
    }
}

/// One domain as Xen accounts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its number.
    pub domid: u32,
    /// The memory that it has: Xen's `tot_pages`, which is what `XENMEM_current_reservation` tells the domain.
    pub kib: u64,
    /// The memory that Xen would let it have: `max_pages`.
    pub max_kib: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, at_ns, free_kib, domains } = self;
        write!(f, "{HEAD} seq={seq} at_ns={at_ns} free_kib={free_kib} domains=")?;
        for (number, Domain { domid, kib, max_kib }) in domains.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{domid}:{kib}/{max_kib}")?;
        }
        write!(f, " {TAIL}")
    }
}

/// A line that is not a whole sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError;

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a whole sample of the host's memory")
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Sample {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        parse(line).ok_or(ParseError)
    }
}

fn parse(line: &str) -> Option<Sample> {
    let mut words = line.strip_prefix(HEAD)?.strip_prefix(' ')?.split(' ');
    let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
    let seq = value("seq")?.parse().ok()?;
    let at_ns = value("at_ns")?.parse().ok()?;
    let free_kib = value("free_kib")?.parse().ok()?;
    let list = value("domains")?;
    let domains = list.split(',').filter(|_| !list.is_empty()).map(domain).collect::<Option<_>>()?;
    (words.next() == Some(TAIL) && words.next().is_none()).then_some(Sample { seq, at_ns, free_kib, domains })
}

fn domain(word: &str) -> Option<Domain> {
    let (domid, rest) = word.split_once(':')?;
    let (kib, max_kib) = rest.split_once('/')?;
    Some(Domain { domid: domid.parse().ok()?, kib: kib.parse().ok()?, max_kib: max_kib.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        let domains = vec![
            Domain { domid: 1, kib: 262_212, max_kib: 263_168 },
            Domain { domid: 12, kib: 0, max_kib: u64::MAX >> 2 },
        ];
        Sample { seq: 7, at_ns: 3_500_120_000, free_kib: 81_920, domains }
    }

    #[test]
    fn what_is_written_is_read() {
        for written in [sample(), Sample::default()] {
            let line = written.to_string();
            assert!(!line.contains('\n'));
            assert_eq!(line.parse(), Ok(written), "{line}");
        }
        assert_eq!(sample().domain(12).map(|domain| domain.kib), Some(0));
        assert_eq!(sample().domain(2), None);
    }

    #[test]
    fn a_line_that_lost_anything_is_an_error() {
        let line = sample().to_string();
        for end in 0..line.len() {
            assert!(line[..end].parse::<Sample>().is_err(), "{:?}", &line[..end]);
        }
        for bad in [
            "",
            "host-memory 2 seq=0 at_ns=0 free_kib=0 domains= end",
            "host-memory 1 seq=-1 at_ns=0 free_kib=0 domains= end",
            "host-memory 1 seq=0 at_ns=0 free_kib=0 domains=1:2 end",
            "host-memory 1 seq=0 at_ns=0 free_kib=0 domains=1:2/3, end",
            "host-memory 1 seq=0 at_ns=0 free_kib=0 domains= end more",
            "host-memory 1 seq=0 free_kib=0 at_ns=0 domains= end",
        ] {
            assert!(bad.parse::<Sample>().is_err(), "{bad:?}");
        }
    }
}
