//! Anonymous memory, of small pages.
#![expect(unsafe_code, reason = "system calls about memory, and the memory that they make")]

use anyhow::{Result, ensure};
use std::io::Error;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use workload::pages::PAGE_WORDS;

const PAGE_SIZE: usize = PAGE_WORDS * 8;

/// A mapping of its own.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<[u64; PAGE_WORDS]>,
    pages: usize,
}

impl Memory {
    /// Pages that are zero, and not there before they are touched.
    pub(crate) fn map(pages: usize) -> Result<Self> {
        ensure!(pages > 0, "no pages");
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                pages * PAGE_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        ensure!(start != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
        let start = NonNull::new(start.cast());
        let Some(start) = start else { anyhow::bail!("mmap: nothing") };
        let memory = Self { start, pages };
        // A large page would be split as soon as a part of it has to leave.
        memory.advise(libc::MADV_NOHUGEPAGE)?;
        Ok(memory)
    }

    /// Pages that are there, and stay.
    pub(crate) fn locked(pages: usize) -> Result<Self> {
        let memory = Self::map(pages)?;
        // SAFETY: the mapping is ours; this makes its pages and takes none away.
        let answer = unsafe { libc::mlock(memory.start.as_ptr().cast(), pages * PAGE_SIZE) };
        ensure!(answer == 0, "mlock: {}", Error::last_os_error());
        Ok(memory)
    }

    /// Has all of it leave.
    pub(crate) fn page_out(&self) -> Result<()> {
        self.advise(libc::MADV_PAGEOUT)
    }

    /// The pages.
    pub(crate) fn pages(&mut self) -> &mut [[u64; PAGE_WORDS]] {
        // SAFETY: `pages` pages from `start` are mapped until this is dropped, readable and writable, zero at first;
        // any word is a value; and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.pages) }
    }

    /// Reads the first word of a page and writes it again, so that the page is the program's own.
    pub(crate) fn touch(&mut self, page: usize) -> u64 {
        let word = &mut self.pages()[page][0];
        // An access to an atomic word is not left out.
        // SAFETY: a word that the reference has alone.
        let word = unsafe { AtomicU64::from_ptr(ptr::from_mut(word)) };
        word.fetch_or(0, Ordering::Relaxed)
    }

    fn advise(&self, advice: libc::c_int) -> Result<()> {
        // SAFETY: the mapping is ours, and no advice that is given here changes what it holds.
        let answer = unsafe { libc::madvise(self.start.as_ptr().cast(), self.pages * PAGE_SIZE, advice) };
        ensure!(answer == 0, "madvise {advice}: {}", Error::last_os_error());
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.pages * PAGE_SIZE) };
    }
}

/// Keeps the program, its stack and what it has allocated so far in memory.
pub(crate) fn keep_what_is_there() -> Result<()> {
    // SAFETY: takes nothing away.
    let answer = unsafe { libc::mlockall(libc::MCL_CURRENT) };
    ensure!(answer == 0, "mlockall: {}", Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_and_keeps_what_is_written() {
        let mut memory = Memory::map(3).unwrap();
        assert!(memory.pages().iter().flatten().all(|word| *word == 0));
        memory.pages()[2][0] = 5;
        assert_eq!((memory.touch(2), memory.touch(0)), (5, 0));
        assert!(Memory::map(0).is_err());
        assert!(Memory::map(usize::MAX / PAGE_SIZE).is_err(), "more than there are addresses");
    }
}
