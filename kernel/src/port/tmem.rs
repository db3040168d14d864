//! Transcendent memory, as the hypervisor offers it: pools, and pages in them by name.
//!
//! The port says what was answered and draws no conclusions; what a client has to do about an answer is
//! the client's side (the `tmem` module). Whether there is tmem at all is asked by
//! [`Xen::probe_tmem`](crate::xen::Xen::probe_tmem).

use crate::units::Gfn;
use core::fmt;
use xen_abi::{Errno, tmem};

/// A pool of this domain. 0 is an ordinary one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId(i32);

impl PoolId {
    /// The pool with this number, as the hypervisor gave it.
    #[must_use]
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.0)
    }
}

/// What kind of pool is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PoolKind {
    /// Pages stay until they are flushed, and count against the domain's maximum.
    Persistent,
    /// Pages may go at any time, and go when they are fetched.
    Ephemeral,
    /// Ephemeral, under a name that other domains know too. Fetching leaves the page. A domain that is not authorised
    /// for the name gets a private pool, without a word.
    Shared {
        /// The name: low half, high half.
        uuid: [u64; 2],
    },
}

impl PoolKind {
    /// The flags of the kind, with the version.
    #[must_use]
    pub const fn flags(self) -> u32 {
        let kind = match self {
            Self::Persistent => tmem::POOL_PERSISTENT,
            Self::Ephemeral => 0,
            Self::Shared { .. } => tmem::POOL_SHARED,
        };
        kind | tmem::VERSION << tmem::POOL_VERSION_SHIFT
    }
}

/// The name of a page in its pool. All 224 bits count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageKey {
    /// The object.
    pub object: [u64; 3],
    /// The page of the object.
    pub index: u32,
}

/// The operations of `tmem_op`. Interrupt-safe as far as the hypervisor is concerned, never block; [`flush_object`]
/// and [`destroy_pool`] take time in the number of pages.
///
/// Every `Ok` is the number in `rax`: success is 1, except of [`new_pool`]. What the errors mean for the data is told
/// by the fact that counts: after *any* other answer to a put, an older page of the same name may be there or not.
///
/// [`new_pool`]: Self::new_pool
/// [`destroy_pool`]: Self::destroy_pool
/// [`flush_object`]: Self::flush_object
///
/// # Safety
///
/// Implementations copy whole pages, when a call succeeds, and touch no memory but the frame that they are given.
pub unsafe trait TmemOps {
    /// Makes a pool.
    ///
    /// # Errors
    ///
    /// `EPERM` if 16 pools exist, or the host has no room for a shared one; `ENOMEM`; `ENODEV` and `ENOSYS` where
    /// there is no tmem.
    fn new_pool(&self, kind: PoolKind) -> Result<PoolId, Errno>;

    /// Destroys a pool and all its pages: 1, or 0 if there is no such pool. Nothing else may go on in the pool.
    ///
    /// # Errors
    ///
    /// `ENODEV` and `ENOSYS` where there is no tmem.
    fn destroy_pool(&self, pool: PoolId) -> Result<u64, Errno>;

    /// Copies the frame to the page.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC`, `EFAULT`, `EFROZEN`, `ENODEV`: see the trait for what is left.
    ///
    /// # Safety
    ///
    /// The frame is ordinary memory of this guest, and nobody writes to it during the call.
    unsafe fn put(&self, pool: PoolId, key: PageKey, from: Gfn) -> Result<u64, Errno>;

    /// Copies the page to the frame: 1, or 0 if it is not there and the frame was not touched.
    ///
    /// # Errors
    ///
    /// `EEMPTY` (the frame was not touched), `EFAULT`, `ENODEV`.
    ///
    /// # Safety
    ///
    /// The frame is ordinary, writable memory of this guest, for the duration of the call nobody else uses it, and
    /// no reference to its contents lives through the call.
    unsafe fn get(&self, pool: PoolId, key: PageKey, into: Gfn) -> Result<u64, Errno>;

    /// Forgets the page: 1, whether it was there or not.
    ///
    /// # Errors
    ///
    /// `EFROZEN`, although it was done; `ENODEV`.
    fn flush_page(&self, pool: PoolId, key: PageKey) -> Result<u64, Errno>;

    /// Forgets all pages of an object: 1, whether there were any or not.
    ///
    /// # Errors
    ///
    /// As [`flush_page`](Self::flush_page).
    fn flush_object(&self, pool: PoolId, object: [u64; 3]) -> Result<u64, Errno>;
}

// SAFETY: forwards to an implementation that promises the same.
unsafe impl<T: TmemOps + ?Sized> TmemOps for &T {
    fn new_pool(&self, kind: PoolKind) -> Result<PoolId, Errno> {
        (**self).new_pool(kind)
    }
    fn destroy_pool(&self, pool: PoolId) -> Result<u64, Errno> {
        (**self).destroy_pool(pool)
    }
    unsafe fn put(&self, pool: PoolId, key: PageKey, from: Gfn) -> Result<u64, Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).put(pool, key, from) }
    }
    unsafe fn get(&self, pool: PoolId, key: PageKey, into: Gfn) -> Result<u64, Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).get(pool, key, into) }
    }
    fn flush_page(&self, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        (**self).flush_page(pool, key)
    }
    fn flush_object(&self, pool: PoolId, object: [u64; 3]) -> Result<u64, Errno> {
        (**self).flush_object(pool, object)
    }
}
