//! Is there tmem? The one place that asks, once, before there is anybody else who could.

use core::fmt;

use crate::port::{PageKey, PoolId, TmemOps};
use xen_abi::Errno;

/// Why there is no tmem here. Neither is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// The hypervisor does not have it (`ENOSYS`): every Xen since 4.13.
    NotThere,
    /// It has it, switched off (`ENODEV`).
    SwitchedOff,
    /// It answered something else, and is left alone.
    Refused(Errno),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere => f.write_str("this hypervisor has no tmem"),
            Self::SwitchedOff => f.write_str("tmem is switched off in this hypervisor"),
            Self::Refused(error) => write!(f, "the hypervisor refuses tmem: {error}"),
        }
    }
}

/// Tmem is there, and knows this domain.
///
/// Two first calls at once make Xen create two clients and lose one. So the first call is made here, where the value
/// that all other calls need does not exist yet.
#[derive(Clone, Copy, Debug)]
pub struct Tmem<T> {
    ops: T,
}

impl<T: TmemOps> Tmem<T> {
    /// Introduces the domain to tmem. `probed` is the answer of [`Xen::probe_tmem`](crate::xen::Xen::probe_tmem).
    /// Called once, while one CPU is up. Says in the log what it found.
    ///
    /// # Errors
    ///
    /// [`Absent`].
    pub fn start(ops: T, probed: Result<(), Errno>) -> Result<Self, Absent> {
        // A flush in a pool that cannot exist: refused, but from now on there is a client.
        let nowhere = PageKey { object: [0; 3], index: 0 };
        let first = probed.and_then(|()| match ops.flush_page(PoolId::new(-1), nowhere) {
            Ok(_) | Err(Errno::ENODEV) => Ok(()),
            Err(error) => Err(error),
        });
        match first {
            Ok(()) => {
                log::info!("tmem: this hypervisor serves it");
                Ok(Self { ops })
            }
            Err(error) => {
                let absent = match error {
                    Errno::ENOSYS => Absent::NotThere,
                    Errno::ENODEV => Absent::SwitchedOff,
                    other => Absent::Refused(other),
                };
                log::info!("tmem: {absent}");
                Err(absent)
            }
        }
    }

    pub(super) const fn ops(&self) -> &T {
        &self.ops
    }
}
