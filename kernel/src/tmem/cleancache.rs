//! Cleancache: clean pages of files go to ephemeral tmem when they leave the page cache, and may be found there again.
//!
//! A hit is never owed, and never wrong: whoever changes the truth of a page invalidates it first, and a put replaces or
//! removes what was there. One pool per file system, private or, under the file system's uuid, shared with other domains
//! (Linux 3.0 to 5.16, `Documentation/vm/cleancache.txt`). Callers serialise the operations on one page, as the lock of
//! a page in a page cache does.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use percpu::{Misuse, Platform, Rcu};

use super::answer::{Get, Put};
use super::client::Tmem;
use super::pool::{Open, Pool, PoolError};
use crate::mm::page::Page;
use crate::port::{PageKey, PoolKind, TmemOps};

/// File systems at a time: a domain has 16 pools, and frontswap wants one.
const MAX_FILE_SYSTEMS: usize = 15;

/// A file of a file system, unique while the file lives: its inode number, or an exported handle.
pub type FileKey = [u64; 3];

/// What has happened so far. The names are the original's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CleanCounters {
    /// Gets that hit.
    pub succ_gets: u64,
    /// Gets that did not, without a pool, too.
    pub failed_gets: u64,
    /// Puts, whatever came of them.
    pub puts: u64,
    /// Pages that were invalidated.
    pub invalidates: u64,
}

/// The front end.
pub struct Cleancache<P: Platform, T> {
    pools: Vec<Pool<P, T>>,
    succ_gets: AtomicU64,
    failed_gets: AtomicU64,
    puts: AtomicU64,
    invalidates: AtomicU64,
}

/// A file system that has a pool, or would have liked one. Dropping it is unmounting it, without waiting for those who
/// are using it; [`invalidate_fs`](Self::invalidate_fs) waits.
#[derive(Debug)]
pub struct FileSystem<'c, P: Platform, T> {
    cache: &'c Cleancache<P, T>,
    open: Option<Open<'c, P, T>>,
}

impl<P: Platform, T: TmemOps + Copy> Cleancache<P, T> {
    /// The front end over tmem, or over nothing: then nothing is ever found.
    ///
    /// # Errors
    ///
    /// [`Misuse::NoMemory`].
    pub fn new(rcu: &'static Rcu<P>, tmem: Option<Tmem<T>>) -> Result<Self, Misuse> {
        let pools = tmem
            .map_or(Ok(Vec::new()), |tmem| (0..MAX_FILE_SYSTEMS).map(|_| Pool::new(rcu, tmem)).collect())?;
        let zero = || AtomicU64::new(0);
        Ok(Self { pools, succ_gets: zero(), failed_gets: zero(), puts: zero(), invalidates: zero() })
    }
}

impl<P: Platform, T: TmemOps> Cleancache<P, T> {
    /// A file system is mounted. Without tmem, or without a pool to be had, it works, and finds nothing.
    pub fn init_fs(&self) -> FileSystem<'_, P, T> {
        self.open(PoolKind::Ephemeral)
    }

    /// A file system is mounted that other domains mount, too.
    pub fn init_shared_fs(&self, uuid: [u8; 16]) -> FileSystem<'_, P, T> {
        let [low, high] =
            [0, 8].map(|from| u64::from_ne_bytes(core::array::from_fn(|byte| uuid[from + byte])));
        self.open(PoolKind::Shared { uuid: [low, high] })
    }

    fn open(&self, kind: PoolKind) -> FileSystem<'_, P, T> {
        for pool in &self.pools {
            match pool.open(kind) {
                Ok(open) => return FileSystem { cache: self, open: Some(open) },
                Err(PoolError::Busy) => {}
                Err(error) => {
                    log::info!("cleancache: a file system without a pool: {error}");
                    break;
                }
            }
        }
        FileSystem { cache: self, open: None }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> CleanCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CleanCounters {
            succ_gets: read(&self.succ_gets),
            failed_gets: read(&self.failed_gets),
            puts: read(&self.puts),
            invalidates: read(&self.invalidates),
        }
    }
}

fn name(object: FileKey, index: u64) -> Option<PageKey> {
    u32::try_from(index).ok().map(|index| PageKey { object, index })
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<P: Platform, T: TmemOps> FileSystem<'_, P, T> {
    /// Whether there is a pool.
    #[must_use]
    pub const fn has_pool(&self) -> bool {
        self.open.is_some()
    }

    fn pool(&self) -> Option<&Pool<P, T>> {
        self.open.as_ref().map(Open::pool)
    }

    /// A clean page leaves the page cache. What comes of it does not matter: at worst it is read from the disk again.
    ///
    /// The exception, an old page that could not be removed, is answered with false: the file must not be cached any
    /// more until [`invalidate_inode`](Self::invalidate_inode) has succeeded.
    pub fn put_page(&self, file: FileKey, index: u64, page: &Page<'_>) -> bool {
        let (Some(pool), Some(key)) = (self.pool(), name(file, index)) else { return true };
        add(&self.cache.puts);
        !matches!(pool.put(key, page), Put::Doubtful { .. })
    }

    /// Looks for a page before it is read from the disk: true if the page was filled. Otherwise it may hold anything.
    #[must_use]
    pub fn get_page(&self, file: FileKey, index: u64, page: &mut Page<'_>) -> bool {
        let got = self.pool().zip(name(file, index)).map(|(pool, key)| pool.get(key, page));
        let hit = got == Some(Get::Hit);
        add(if hit { &self.cache.succ_gets } else { &self.cache.failed_gets });
        hit
    }

    /// The truth of a page changes, or it goes. Answers whether there is certainly no old one.
    #[must_use]
    pub fn invalidate_page(&self, file: FileKey, index: u64) -> bool {
        let (Some(pool), Some(key)) = (self.pool(), name(file, index)) else { return true };
        add(&self.cache.invalidates);
        pool.flush_page(key).done().is_ok()
    }

    /// A file is truncated, or goes. Answers whether there are certainly no old pages.
    #[must_use]
    pub fn invalidate_inode(&self, file: FileKey) -> bool {
        self.pool().is_none_or(|pool| pool.flush_object(file).done().is_ok())
    }

    /// The file system is unmounted: all its pages go. Blocks until nobody uses it.
    ///
    /// # Errors
    ///
    /// [`PoolError`], if the pool could not be destroyed now; it will be before it is used again.
    pub fn invalidate_fs(self) -> Result<(), PoolError> {
        self.open.map_or(Ok(()), Open::close)
    }
}

impl<P: Platform, T> fmt::Debug for Cleancache<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleancache").field("pools", &self.pools.len()).finish_non_exhaustive()
    }
}
