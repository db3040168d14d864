//! What the kernel says of its memory.
#![expect(unsafe_code, reason = "sysinfo")]

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Error;

const PAGE_SIZE: u64 = 4096;

/// Pages that are free, by sysinfo(2).
pub(crate) fn free_pages() -> Result<u64> {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: the kernel writes one such structure there.
    let answer = unsafe { libc::sysinfo(info.as_mut_ptr()) };
    ensure!(answer == 0, "sysinfo: {}", Error::last_os_error());
    // SAFETY: all zero is a value of it, and the kernel has filled it.
    let info = unsafe { info.assume_init() };
    Ok(info.freeram * u64::from(info.mem_unit) / PAGE_SIZE)
}

/// Has the kernel give up what it only keeps to save time.
pub(crate) fn drop_caches() -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3\n").context("drop_caches")
}

/// Counters since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counters {
    /// Pages that came from swap.
    pub(crate) swapped_in: u64,
    /// Pages that went there.
    pub(crate) swapped_out: u64,
    /// Times that somebody who needed memory had to reclaim it.
    pub(crate) direct: u64,
}

/// The kernel's counters.
pub(crate) fn vmstat() -> Result<Counters> {
    Counters::parse(&fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?)
}

impl Counters {
    fn parse(text: &str) -> Result<Self> {
        let one = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse().ok()).with_context(|| format!("no {name} in vmstat"))
        };
        // Which zone it was for is not asked.
        let stalls = ["allocstall_dma", "allocstall_dma32", "allocstall_normal", "allocstall_movable"];
        Ok(Self {
            swapped_in: one("pswpin")?,
            swapped_out: one("pswpout")?,
            direct: stalls.iter().filter_map(|name| one(name).ok()).sum(),
        })
    }
}

/// What the compressed block device holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zram {
    /// Uncompressed.
    pub(crate) stored_kib: u64,
    /// What it takes for that, with its own losses.
    pub(crate) used_kib: u64,
    /// Pages that are one word.
    pub(crate) same: u64,
}

/// Asks zram.
pub(crate) fn zram() -> Result<Zram> {
    Zram::parse(&fs::read_to_string("/sys/block/zram0/mm_stat").context("zram")?)
}

impl Zram {
    /// The columns of `mm_stat` (Documentation/admin-guide/blockdev/zram.rst).
    fn parse(text: &str) -> Result<Self> {
        let columns: Vec<u64> = text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        match columns[..] {
            [original, _compressed, used, _limit, _most, same, ..] => {
                Ok(Self { stored_kib: original / 1024, used_kib: used / 1024, same })
            }
            _ => anyhow::bail!("mm_stat is {text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "pswpin 12\npswpout 34\nallocstall_dma32 1\nallocstall_normal 2\npgmajfault 9\n";
        assert_eq!(Counters::parse(text).unwrap(), Counters { swapped_in: 12, swapped_out: 34, direct: 3 });
        assert!(Counters::parse("pswpin_x 12\npswpout 34\n").is_err());
    }

    #[test]
    fn zram_is_read_by_columns() {
        let text = " 41943040  9000000  9437184        0  9437184     17        0        0        0\n";
        assert_eq!(Zram::parse(text).unwrap(), Zram { stored_kib: 40960, used_kib: 9216, same: 17 });
        assert!(Zram::parse("1 2 x").is_err());
    }

    #[test]
    fn this_kernel_answers() {
        assert!(free_pages().unwrap() > 0);
        vmstat().unwrap();
    }
}
