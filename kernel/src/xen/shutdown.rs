//! The toolstack's wish that this domain stop: `control/shutdown`.
//!
//! The toolstack writes a command into the node, the guest clears it as acknowledgement and then does what it
//! was told (Xen: `docs/misc/xenstore-paths.pandoc`, `~/control/shutdown`). A missing or empty node is no
//! command: the watch fires once when it is set, and again at our own acknowledgement.
//!
//! **Suspend is not supported and not acknowledged.** Clearing the node would promise to suspend: the toolstack
//! would then wait for that, in vain, and report a guest that hangs. Left alone, it withdraws the request after
//! its own bound and says that the guest did not acknowledge it, which is the truth. `control/feature-suspend`
//! is not written either.

use super::store::{Store, StoreError};
use crate::port::{EventOps, ShutdownReason, Wait};
use alloc::string::String;
use log::{error, info, warn};
use xen_abi::Errno;

/// The node with the command.
pub const NODE: &str = "control/shutdown";
/// What we say we can do. The toolstack made these nodes for us.
const FEATURES: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];

/// What the domain is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Stop for good.
    Poweroff,
    /// Start anew.
    Reboot,
    /// Stop. Xen has no other way to stop than to power off.
    Halt,
}

impl Command {
    /// What to tell Xen.
    #[must_use]
    pub const fn reason(self) -> ShutdownReason {
        match self {
            Self::Poweroff | Self::Halt => ShutdownReason::Poweroff,
            Self::Reboot => ShutdownReason::Reboot,
        }
    }
}

/// What a value of the node says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'v> {
    /// Nothing.
    Idle,
    /// To be acknowledged and done.
    Do(Command),
    /// To be left to the toolstack.
    Suspend,
    /// Not understood; to be cleared, so that the next one is seen.
    Unknown(&'v str),
}

impl<'v> Request<'v> {
    /// Reads the node's value.
    #[must_use]
    pub fn read(value: &'v str) -> Self {
        match value {
            "" => Self::Idle,
            "poweroff" => Self::Do(Command::Poweroff),
            "reboot" => Self::Do(Command::Reboot),
            "halt" => Self::Do(Command::Halt),
            "suspend" => Self::Suspend,
            other => Self::Unknown(other),
        }
    }

    const fn is_to_be_cleared(self) -> bool {
        matches!(self, Self::Do(_) | Self::Unknown(_))
    }
}

/// The guest's side of the protocol. Its user watches [`NODE`].
#[derive(Debug, Default)]
pub struct Shutdown {
    /// The toolstack knows what we can do.
    announced: bool,
    /// The suspend request that is there was complained about.
    complained: bool,
}

impl Shutdown {
    /// No command yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { announced: false, complained: false }
    }

    /// Looks at the node, whenever it may have changed, and answers the command if there is one, acknowledged already.
    /// The first time, says what we can do.
    ///
    /// The caller writes out what must not be lost and then calls
    /// [`SchedOps::shutdown`](crate::port::SchedOps::shutdown) with [`Command::reason`].
    ///
    /// # Errors
    ///
    /// Those of the store; a command that could not be read is still in the node.
    pub fn look<P: EventOps + Wait>(&mut self, store: &mut Store<P>) -> Result<Option<Command>, StoreError> {
        if !self.announced {
            announce(store)?;
            self.announced = true;
        }
        let (value, refused) = take(store)?;
        if let Some(problem) = refused {
            warn!("{NODE} cannot be acknowledged, the toolstack will report a timeout: {problem}");
        }
        let request = Request::read(&value);
        let repeated = core::mem::replace(&mut self.complained, request == Request::Suspend);
        match request {
            Request::Idle => {}
            Request::Do(command) => {
                info!("the toolstack says {value}");
                return Ok(Some(command));
            }
            Request::Suspend if repeated => {}
            Request::Suspend => {
                error!("the toolstack says suspend, which is not supported: the request is not acknowledged");
            }
            Request::Unknown(command) => warn!("the toolstack says {command:?}, which is not known"),
        }
        Ok(None)
    }
}

/// Says what we can do. Feature nodes that we may not write are left: the toolstack does not ask for them on PVH.
fn announce<P: EventOps + Wait>(store: &mut Store<P>) -> Result<(), StoreError> {
    for node in FEATURES {
        match store.write(node, b"1") {
            Err(refused @ StoreError::Refused(_)) => warn!("{node} is not written: {refused}"),
            result => result?,
        }
    }
    Ok(())
}

/// Reads the node and clears it if that is due, in one transaction, so that a command that replaces another is
/// not cleared unseen. Answers the value, and why it could not be cleared.
fn take<P: EventOps + Wait>(store: &mut Store<P>) -> Result<(String, Option<StoreError>), StoreError> {
    store.transaction(|transaction| {
        let value = match transaction.read(NODE) {
            Err(StoreError::Refused(Errno::ENOENT)) => return Ok((String::new(), None)),
            value => String::from_utf8_lossy(&value?).into_owned(),
        };
        let cleared =
            if Request::read(&value).is_to_be_cleared() { transaction.write(NODE, b"") } else { Ok(()) };
        match cleared {
            Ok(()) => Ok((value, None)),
            // We are still to stop, and do.
            Err(refused @ StoreError::Refused(Errno::EACCES | Errno::EPERM)) => Ok((value, Some(refused))),
            Err(error) => Err(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(Request::read(""), Request::Idle);
        assert_eq!(Request::read("poweroff"), Request::Do(Command::Poweroff));
        assert_eq!(Request::read("reboot"), Request::Do(Command::Reboot));
        assert_eq!(Request::read("halt"), Request::Do(Command::Halt));
        assert_eq!(Request::read("suspend"), Request::Suspend);
        assert_eq!(Request::read("poweroff\n"), Request::Unknown("poweroff\n"));
        assert_eq!(Request::read("s3"), Request::Unknown("s3"));
    }

    #[test]
    fn reasons() {
        assert_eq!(Command::Poweroff.reason(), ShutdownReason::Poweroff);
        assert_eq!(Command::Halt.reason(), ShutdownReason::Poweroff);
        assert_eq!(Command::Reboot.reason(), ShutdownReason::Reboot);
    }

    #[test]
    fn only_what_is_done_or_not_understood_is_cleared() {
        assert!(Request::Do(Command::Halt).is_to_be_cleared());
        assert!(Request::Unknown("x").is_to_be_cleared());
        assert!(!Request::Suspend.is_to_be_cleared(), "that would promise to suspend");
        assert!(!Request::Idle.is_to_be_cleared(), "that would fire our own watch for ever");
    }
}
