//! A pool that can be torn down under load.
//!
//! Xen looks a pool up, lets go of its lock and takes it again; a pool that is destroyed in between is freed under its
//! user. So nobody may be inside when it is destroyed. Users hold a reference of a reusable per-CPU count, which costs
//! them two unlocked adds; [`Open::close`] kills the count, waits until the last of them has left, and only then
//! destroys. The count then starts a new life with the next [`Pool::open`].

use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use percpu::{Dying, Events, Misuse, Owner, PercpuRef, Platform, Rcu, Reusable, Start};

use super::answer::{self, Flush, Get, Put, Refused};
use super::client::Tmem;
use crate::mm::page::Page;
use crate::port::{PageKey, PoolId, PoolKind, TmemOps};
use xen_abi::Errno;

/// No pool of the hypervisor's.
const NONE: i32 = -1;

/// Nothing happens by itself when the last user has left: whoever closes the pool waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Events for Quiet {
    fn release(&self) {}
}

/// A pool, open or not. Operations are for any context in which nobody waits for them; they do not block.
pub struct Pool<P: Platform, T> {
    tmem: Tmem<T>,
    /// The hypervisor's name for it, or [`NONE`]. Changes only while the count of users is dead.
    id: AtomicI32,
    users: PercpuRef<P, Quiet, Reusable>,
    /// Flushes after a failed put that failed themselves.
    doubtful: AtomicU64,
}

/// Why a pool could not be opened or closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// It is open, or being opened, or being closed.
    Busy,
    /// The hypervisor makes no more pools (`EPERM`: 16 exist, or the shared one may not be had).
    NoMore,
    /// The hypervisor refused.
    Refused(Errno),
    /// The caller may not wait, and somebody is still inside.
    MayNotWait,
    /// The count of users is broken, which was reported.
    Broken(Misuse),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the pool is open already, or being closed"),
            Self::NoMore => f.write_str("there are no more pools"),
            Self::Refused(error) => write!(f, "the hypervisor refused: {error}"),
            Self::MayNotWait => f.write_str("somebody is using the pool, and the caller may not wait"),
            Self::Broken(misuse) => write!(f, "the count of users is broken: {misuse}"),
        }
    }
}

impl core::error::Error for PoolError {}

impl From<Misuse> for PoolError {
    fn from(misuse: Misuse) -> Self {
        match misuse {
            Misuse::MayNotBlock => Self::MayNotWait,
            Misuse::Claimed | Misuse::NotDying => Self::Busy,
            other => Self::Broken(other),
        }
    }
}

impl<P: Platform, T: TmemOps> Pool<P, T> {
    /// A pool that is not open yet.
    ///
    /// # Errors
    ///
    /// [`Misuse::NoMemory`].
    pub fn new(rcu: &'static Rcu<P>, tmem: Tmem<T>) -> Result<Self, Misuse> {
        let users = PercpuRef::reusable(rcu, "tmem pool", Quiet, Start::Dead)?;
        Ok(Self { tmem, id: AtomicI32::new(NONE), users, doubtful: AtomicU64::new(0) })
    }

    /// Makes the hypervisor's pool, empty, and lets users in. Blocks if an earlier life was given up without
    /// [`Open::close`] and somebody is still inside.
    ///
    /// # Errors
    ///
    /// [`PoolError`]; it is not open then.
    pub fn open(&self, kind: PoolKind) -> Result<Open<'_, P, T>, PoolError> {
        let dying = self.users.dying()?;
        dying.wait_zero()?;
        self.destroy()?;
        let id = self.tmem.ops().new_pool(kind).map_err(|error| match error {
            Errno::EPERM => PoolError::NoMore,
            other => PoolError::Refused(other),
        })?;
        self.id.store(id.get(), Ordering::Relaxed);
        // Release: who gets in sees the id.
        let owner = match dying.reinit() {
            Ok(owner) => owner,
            Err(refused) => {
                self.destroy()?;
                return Err(refused.why.into());
            }
        };
        Ok(Open { pool: self, owner })
    }

    /// Destroys the hypervisor's pool, if there is one. Nobody is inside.
    fn destroy(&self) -> Result<(), PoolError> {
        let id = self.id.swap(NONE, Ordering::Relaxed);
        if id == NONE {
            return Ok(());
        }
        match self.tmem.ops().destroy_pool(PoolId::new(id)) {
            // 0: it is gone already, by a restart of the service for instance.
            Ok(0 | 1) | Err(Errno::ENODEV | Errno::ENOSYS) => Ok(()),
            answer => {
                self.id.store(id, Ordering::Relaxed);
                Err(PoolError::Refused(answer.err().unwrap_or(Errno::EIO)))
            }
        }
    }

    /// Whether users get in at the moment. A hint.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.users.is_dying()
    }

    /// How often an old page could not be flushed after a failed put.
    #[must_use]
    pub fn doubtful(&self) -> u64 {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// Runs `operation` inside the pool, which is not torn down meanwhile; `None` if it is closed.
    fn inside<R>(&self, operation: impl FnOnce(&T, PoolId) -> R) -> Option<R> {
        let _user = self.users.tryget_live()?;
        Some(operation(self.tmem.ops(), PoolId::new(self.id.load(Ordering::Relaxed))))
    }

    /// Forgets a page.
    pub fn flush_page(&self, key: PageKey) -> Flush {
        let flushed = self.inside(|ops, pool| answer::of_flush(ops.flush_page(pool, key)));
        // A closed pool has no pages.
        flushed.unwrap_or(Flush::Gone)
    }

    /// Forgets all pages of an object. Takes time in their number.
    pub fn flush_object(&self, object: [u64; 3]) -> Flush {
        let flushed = self.inside(|ops, pool| answer::of_flush(ops.flush_object(pool, object)));
        flushed.unwrap_or(Flush::Gone)
    }

    /// Stores a page. If that fails, flushes what may be under its name.
    pub fn put(&self, key: PageKey, page: &Page<'_>) -> Put {
        let put = self.inside(|ops, pool| {
            let flush = || answer::of_flush(ops.flush_page(pool, key));
            answer::of_put(page.copy_out(ops, pool, key), flush)
        });
        let put = put.unwrap_or(Put::Refused(Refused::Closed));
        if let Put::Doubtful { .. } = put {
            self.doubtful.fetch_add(1, Ordering::Relaxed);
        }
        put
    }

    /// Fetches a page.
    pub fn get(&self, key: PageKey, page: &mut Page<'_>) -> Get {
        let got = self.inside(|ops, pool| answer::of_get(page.copy_in(ops, pool, key)));
        got.unwrap_or(Get::Refused(Refused::Closed))
    }
}

/// The right to close an open pool. Dropping it closes the pool to users and leaves the rest to the next
/// [`Pool::open`], or to [`Pool::tear_down`].
#[must_use = "the pool is closed as soon as this is dropped"]
pub struct Open<'p, P: Platform, T> {
    pool: &'p Pool<P, T>,
    owner: Owner<'p, P, Quiet, Reusable>,
}

impl<'p, P: Platform, T: TmemOps> Open<'p, P, T> {
    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &'p Pool<P, T> {
        self.pool
    }

    /// Lets nobody in any more, waits until the last user has left, and destroys the hypervisor's pool with all its
    /// pages. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::MayNotWait`], [`PoolError::Refused`] and [`PoolError::Broken`]; the pool is closed to users all
    /// the same, and [`Pool::tear_down`] finishes the work.
    pub fn close(self) -> Result<(), PoolError> {
        let Self { pool, owner } = self;
        pool.finish(&owner.kill())
    }
}

impl<P: Platform, T: TmemOps> Pool<P, T> {
    fn finish(&self, dying: &Dying<'_, P, Quiet, Reusable>) -> Result<(), PoolError> {
        dying.wait_zero()?;
        self.destroy()
    }

    /// Finishes what a [`close`](Open::close) that failed, or a dropped [`Open`], left undone. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError`]; [`PoolError::Busy`] if it is open.
    pub fn tear_down(&self) -> Result<(), PoolError> {
        self.finish(&self.users.dying()?)
    }
}

impl<P: Platform, T> fmt::Debug for Pool<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.load(Ordering::Relaxed);
        f.debug_struct("Pool").field("id", &id).finish_non_exhaustive()
    }
}

impl<P: Platform, T> fmt::Debug for Open<'_, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(self.pool).finish()
    }
}
