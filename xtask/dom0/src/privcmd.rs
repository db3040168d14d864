//! Hypercalls from a program in dom0: Linux passes them on for who may open its device.
//!
//! The arguments' memory must be there when Xen looks at it, whatever Linux does meanwhile with the memory of
//! processes; pages of `/dev/xen/hypercall` are the kernel's own and stay. (Linux: include/uapi/xen/privcmd.h.)
#![expect(unsafe_code, reason = "maps a page of the kernel's and gives it to a hypercall")]

use anyhow::{Context, Result};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// Passes one hypercall on: `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`.
const IOCTL_HYPERCALL: libc::c_ulong = ((size_of::<Call>() as libc::c_ulong) << 16) | (0x50 << 8);
/// The size of the page that arguments are in.
const PAGE: usize = 4096;

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Call {
    op: u64,
    arguments: [u64; 5],
}

/// The way to Xen, with one page for arguments.
#[derive(Debug)]
pub(crate) struct Privcmd {
    device: File,
    page: NonNull<u8>,
}

impl Privcmd {
    /// Opens the devices.
    ///
    /// # Errors
    ///
    /// If this is not dom0, or not its administrator.
    pub(crate) fn open() -> Result<Self> {
        let open = |path: &str| {
            File::options().read(true).write(true).open(path).with_context(|| format!("cannot open {path}"))
        };
        let device = open("/dev/xen/privcmd")?;
        let pages = open("/dev/xen/hypercall")?;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: Without an address of ours the mapping replaces no other; the file is open, and the mapping
        // outlives it by definition of mmap.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, kind, pages.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map a page for hypercalls");
        }
        let page = NonNull::new(page.cast()).context("a page for hypercalls at address 0")?;
        Ok(Self { device, page })
    }

    /// The address of a place in the page, as Xen wants it in structures of arguments.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.page.as_ptr() as u64 + offset as u64
    }

    /// Fills the page with `bytes` and, behind them, zeros.
    ///
    /// # Panics
    ///
    /// If there are more than a page has.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= PAGE, "arguments of a hypercall must fit a page");
        // SAFETY: The page is PAGE bytes that only this value knows, writable, and lent to nobody: `self` is
        // borrowed mutably, no reference into it is ever made, and Xen uses it only during `call`.
        unsafe { self.page.write_bytes(0, PAGE) };
        // SAFETY: As above; `bytes` is other memory, because nobody has a reference into the page, and its length
        // was checked.
        unsafe { self.page.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The page's content.
    pub(crate) fn content(&self) -> [u8; PAGE] {
        // SAFETY: The page is PAGE readable bytes; any bytes are an array of them, alignment is 1, and Xen writes
        // to it only during `call`, which needs `self` mutably.
        unsafe { self.page.cast().read() }
    }

    /// Makes a hypercall whose only argument is the page. Every address in it must be of the page too: Xen writes
    /// there.
    ///
    /// # Errors
    ///
    /// What Xen, or Linux, answers.
    pub(crate) fn call(&mut self, op: u64) -> io::Result<u64> {
        let mut call = Call { op, arguments: [self.address(0), 0, 0, 0, 0] };
        // SAFETY: The request takes a pointer to this structure, which lives through the call. What Xen writes
        // goes to the page, or to where the caller said within it, and nobody has a reference into it.
        let result = unsafe { libc::ioctl(self.device.as_raw_fd(), IOCTL_HYPERCALL, &raw mut call) };
        u64::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Privcmd {
    fn drop(&mut self) {
        // SAFETY: The mapping is this value's own, of this size, and nobody has a reference into it.
        let _ = unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}
