//! The two questions to Xen: which domains there are with how much memory, and how much is free.
//!
//! These calls are for the toolstack of the same version, so Xen refuses any other version than its own; but the
//! fields read here have been at the same places since long before the oldest Xen that we boot, and the version is
//! found by trying. Domains are asked for one at a time, because the size of an answer has changed.
//! (Xen: xen/include/public/sysctl.h, xen/include/public/domctl.h.)

use crate::privcmd::Privcmd;
use anyhow::{Context, Result, bail};
use ebb_dom0::Domain;
use std::io;

/// `__HYPERVISOR_sysctl`.
const SYSCTL: u64 = 35;
/// `XEN_SYSCTL_getdomaininfolist`.
const GET_DOMAIN_INFO_LIST: u32 = 6;
/// `XEN_SYSCTL_availheap`.
const AVAILABLE_HEAP: u32 = 9;
/// `XEN_SYSCTL_INTERFACE_VERSION` of Xen 4.9 and of releases to come; 4.17 has 0x15.
const VERSIONS: std::ops::RangeInclusive<u32> = 0x0F..=0x30;
/// Where in the page Xen writes a domain; the question is before it, and the answer is far shorter than what is
/// left.
const ANSWER: usize = 1024;
/// Where the command's own fields begin.
const FIELDS: usize = 8;
/// KiB in a page of Xen's.
const PAGE_KIB: u64 = 4;

/// Xen, ready to be asked.
#[derive(Debug)]
pub(crate) struct Host {
    xen: Privcmd,
    version: u32,
}

impl Host {
    /// Opens the way to Xen and finds the version of the interface.
    ///
    /// # Errors
    ///
    /// If this is not dom0, or Xen has a version that is not known.
    pub(crate) fn open() -> Result<Self> {
        let mut xen = Privcmd::open()?;
        for version in VERSIONS {
            xen.fill(&heap_question(version));
            match xen.call(SYSCTL) {
                Ok(_) => return Ok(Self { xen, version }),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
                Err(error) => return Err(error).context("Xen does not say how much memory is free"),
            }
        }
        bail!("Xen has none of the interface versions {:#x} to {:#x}", VERSIONS.start(), VERSIONS.end())
    }

    /// The memory that nobody has.
    ///
    /// # Errors
    ///
    /// What Xen answers.
    pub(crate) fn free_kib(&mut self) -> Result<u64> {
        self.ask(&heap_question(self.version)).context("Xen does not say how much memory is free")?;
        Ok(number(&self.xen.content(), FIELDS + 16) / 1024)
    }

    /// The domains but dom0.
    ///
    /// # Errors
    ///
    /// What Xen answers.
    pub(crate) fn domains(&mut self) -> Result<Vec<Domain>> {
        let mut domains = Vec::new();
        let mut next = 1;
        loop {
            let question = list_question(self.version, next, self.xen.address(ANSWER));
            self.ask(&question).context("Xen does not list its domains")?;
            let Some(domain) = listed(&self.xen.content()) else { return Ok(domains) };
            next = u16::try_from(domain.domid + 1).context("a domain's number of more than 16 bits")?;
            domains.push(domain);
        }
    }

    fn ask(&mut self, question: &[u8]) -> io::Result<u64> {
        self.xen.fill(question);
        self.xen.call(SYSCTL)
    }
}

/// How much memory is free, of any width, on all nodes: `min_bitwidth`, `max_bitwidth`, `node`; the answer,
/// `avail_bytes`, comes behind them.
fn heap_question(version: u32) -> Vec<u8> {
    let any_width = [0; 8];
    let all_nodes = (-1_i32).to_le_bytes();
    [&AVAILABLE_HEAP.to_le_bytes()[..], &version.to_le_bytes(), &any_width, &all_nodes].concat()
}

/// The first domain from number `first` on: `first_domain`, `max_domains`, `buffer`; the answer, `num_domains`, comes
/// behind them.
fn list_question(version: u32, first: u16, buffer: u64) -> Vec<u8> {
    let at_most: u32 = 1;
    [
        &GET_DOMAIN_INFO_LIST.to_le_bytes()[..],
        &version.to_le_bytes(),
        &u32::from(first).to_le_bytes(),
        &at_most.to_le_bytes(),
        &buffer.to_le_bytes(),
    ]
    .concat()
}

/// The domain in the page after a question for one, if there was one: `domain` is the first word's low half, then come
/// `flags`, `tot_pages` and `max_pages`.
fn listed(page: &[u8]) -> Option<Domain> {
    let count = number(page, FIELDS + 16) as u32;
    let domid = u32::from(number(page, ANSWER) as u16);
    let kib = number(page, ANSWER + 8).saturating_mul(PAGE_KIB);
    let max_kib = number(page, ANSWER + 16).saturating_mul(PAGE_KIB);
    (count > 0).then_some(Domain { domid, kib, max_kib })
}

/// The 64-bit number at a place of the page.
fn number(page: &[u8], at: usize) -> u64 {
    let bytes = page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_their_fields_in_place() {
        let question = list_question(0x15, 0x0203, 0x0102_0304_0506_0708);
        assert_eq!(question, [6, 0, 0, 0, 0x15, 0, 0, 0, 3, 2, 0, 0, 1, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        let heap = heap_question(0x15);
        assert_eq!(heap[8..], [0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    }

    #[test]
    fn an_answer_is_read_where_xen_puts_it() {
        let mut page = [0; 4096];
        assert_eq!(listed(&page), None, "no domain");
        page[FIELDS + 16] = 1;
        // Domain 3, with other flags beside it, which has 0x10001 pages of at most 0x20000.
        page[ANSWER..ANSWER + 8].copy_from_slice(&[3, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        page[ANSWER + 8..ANSWER + 11].copy_from_slice(&[1, 0, 1]);
        page[ANSWER + 16..ANSWER + 19].copy_from_slice(&[0, 0, 2]);
        assert_eq!(listed(&page), Some(Domain { domid: 3, kib: 0x40004, max_kib: 0x80000 }));
    }
}
