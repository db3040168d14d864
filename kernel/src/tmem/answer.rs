//! What the hypervisor's numbers mean for the data.
//!
//! Success is exactly 1. Every other number, whatever it is, means "not done", and for a put it leaves open whether an
//! older page of the same name is still there; so [`Pool::put`](super::Pool::put) flushes after each of them, and what
//! it answers says how that ended.

use core::fmt;

use xen_abi::{Errno, tmem};

/// Why an operation was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no room: of the domain below its maximum, or of the host (`ENOMEM`).
    NoRoom,
    /// There was no room for new data, and the old data of this name is gone (`ENOSPC`).
    LostOld,
    /// The client is frozen: no new names (`EFROZEN`).
    Frozen,
    /// The frame cannot be used (`EFAULT`). Also while the domain is being migrated live.
    BadFrame,
    /// The hypervisor has no such pool (`ENODEV`), or no tmem any more (`ENOSYS`).
    NoPool,
    /// This side has closed the pool.
    Closed,
    /// Something that makes no sense here.
    Other(Errno),
}

impl Refused {
    pub(super) fn of(error: Errno) -> Self {
        match error {
            Errno::ENOMEM => Self::NoRoom,
            Errno::ENOSPC => Self::LostOld,
            Errno::EFAULT => Self::BadFrame,
            Errno::ENODEV | Errno::ENOSYS => Self::NoPool,
            tmem::EFROZEN => Self::Frozen,
            other => Self::Other(other),
        }
    }

    /// A number that is neither success nor an error that has a meaning.
    pub(super) const fn nonsense() -> Self {
        Self::Other(Errno::EIO)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => f.write_str("there is no room"),
            Self::LostOld => f.write_str("there is no room, and the old data is gone"),
            Self::Frozen => f.write_str("the client is frozen"),
            Self::BadFrame => f.write_str("the frame cannot be used"),
            Self::NoPool => f.write_str("there is no such pool"),
            Self::Closed => f.write_str("the pool is closed"),
            Self::Other(error) => write!(f, "an answer that makes no sense: {error}"),
        }
    }
}

/// What a put ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not stored is still only in memory"]
pub enum Put {
    /// The page is stored.
    Stored,
    /// It is not, and nothing is under its name now: an older page, if there was one, was lost or flushed.
    Refused(Refused),
    /// It is not, and the flush that followed failed, too: an older page may be under its name. Nobody may read it, or
    /// use the name again, until a flush succeeds.
    Doubtful {
        /// Why the put was refused.
        put: Refused,
        /// Why the flush was.
        flush: Errno,
    },
}

/// What a get ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a page that was not fetched holds something else"]
pub enum Get {
    /// The page was copied. A private ephemeral pool has it no more.
    Hit,
    /// There is none of this name. The frame was not touched.
    Miss,
    /// The pool has no pages at all. The frame was not touched.
    Empty,
    /// It could not be fetched. The frame may hold anything.
    Refused(Refused),
}

/// What a flush ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an old page may still be there"]
pub enum Flush {
    /// There is no page of this name now.
    Gone,
    /// There is none now, and the client is frozen.
    GoneFrozen,
    /// Pages may still be there.
    Failed(Errno),
}

impl Flush {
    /// Whether there is certainly nothing left.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn done(self) -> Result<(), Errno> {
        match self {
            Self::Gone | Self::GoneFrozen => Ok(()),
            Self::Failed(error) => Err(error),
        }
    }
}

pub(super) fn of_get(answer: Result<u64, Errno>) -> Get {
    match answer {
        Ok(1) => Get::Hit,
        Ok(0) => Get::Miss,
        Err(tmem::EEMPTY) => Get::Empty,
        Ok(_) => Get::Refused(Refused::nonsense()),
        Err(error) => Get::Refused(Refused::of(error)),
    }
}

pub(super) fn of_flush(answer: Result<u64, Errno>) -> Flush {
    match answer {
        Ok(1) => Flush::Gone,
        // Xen answers this although it has carried the flush out.
        Err(tmem::EFROZEN) => Flush::GoneFrozen,
        // Without a pool there are no pages.
        Err(Errno::ENODEV | Errno::ENOSYS) => Flush::Gone,
        Ok(_) => Flush::Failed(Errno::EIO),
        Err(error) => Flush::Failed(error),
    }
}

/// What a put ended with; `flush` removes an older page.
pub(super) fn of_put(answer: Result<u64, Errno>, flush: impl FnOnce() -> Flush) -> Put {
    let why = match answer {
        Ok(1) => return Put::Stored,
        Ok(_) => Refused::nonsense(),
        Err(error) => Refused::of(error),
    };
    match flush().done() {
        Ok(()) => Put::Refused(why),
        Err(flush) => Put::Doubtful { put: why, flush },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_success() {
        assert_eq!(of_put(Ok(1), || unreachable!("nothing to flush after success")), Put::Stored);
        assert_eq!((of_get(Ok(1)), of_flush(Ok(1))), (Get::Hit, Flush::Gone));
        for number in [0, 2, u64::MAX >> 1] {
            let put = of_put(Ok(number), || Flush::Gone);
            assert_eq!(put, Put::Refused(Refused::nonsense()), "{number}");
            assert_eq!(of_flush(Ok(number)), Flush::Failed(Errno::EIO), "{number}");
        }
        assert_eq!(of_get(Ok(2)), Get::Refused(Refused::nonsense()));
    }

    #[test]
    fn a_failed_put_is_followed_by_a_flush_and_says_how_that_ended() {
        for (error, why) in [
            (Errno::ENOMEM, Refused::NoRoom),
            (Errno::ENOSPC, Refused::LostOld),
            (Errno::EFAULT, Refused::BadFrame),
            (Errno::ENODEV, Refused::NoPool),
            (tmem::EFROZEN, Refused::Frozen),
            (Errno::EPERM, Refused::Other(Errno::EPERM)),
        ] {
            let mut flushed = 0;
            let put = of_put(Err(error), || {
                flushed += 1;
                Flush::GoneFrozen
            });
            assert_eq!((put, flushed), (Put::Refused(why), 1));
            let put = of_put(Err(error), || Flush::Failed(Errno::EFAULT));
            assert_eq!(put, Put::Doubtful { put: why, flush: Errno::EFAULT });
        }
    }

    #[test]
    fn misses_differ_from_failures() {
        assert_eq!((of_get(Ok(0)), of_get(Err(tmem::EEMPTY))), (Get::Miss, Get::Empty));
        assert_eq!(of_get(Err(Errno::EFAULT)), Get::Refused(Refused::BadFrame));
        assert_eq!(of_get(Err(Errno::ENODEV)), Get::Refused(Refused::NoPool));
        assert_eq!(of_flush(Err(Errno::ENODEV)), Flush::Gone, "no pool has no pages");
        assert_eq!(of_flush(Err(Errno::EFAULT)), Flush::Failed(Errno::EFAULT));
    }
}
