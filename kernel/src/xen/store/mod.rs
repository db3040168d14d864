//! The xenstore client: a small tree of names and values that the toolstack and this domain share.
//!
//! [`wire`] is the message format, pure; `ring` moves bytes through the shared page; [`Store`] makes requests
//! and queues watch events; [`Transaction`] is several requests as one. That is for one user. Where several threads
//! use the store, [`Watches`] says who is to hear of what, and [`Link`] is the work of the thread that serves them.
//!
//! Watch events are hints that something changed: whoever gets one reads again. That is what allows the queue to
//! be bounded. Every request has a deadline, and after one that ran out, whatever comes late is recognised by its
//! number and skipped.
//!
//! Protocol: Xen, `docs/misc/xenstore.txt`, `docs/misc/xenstore-ring.txt`, `xen/include/public/io/xs_wire.h`.

mod backoff;
mod client;
mod events;
mod exchange;
mod link;
mod ring;
mod transaction;
mod watches;
pub mod wire;

pub use client::{DEFAULT_TIMEOUT_NS, Store};
pub use events::WatchEvent;
pub use link::{Link, Shared};
pub use transaction::{ATTEMPTS, Transaction};
pub use watches::{Consumer, StoreEvent, WatchId, WatchState, Watches};

use alloc::string::String;
use core::fmt;
use xen_abi::Errno;

/// Why a request did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// The toolstack gave this domain no store.
    Absent,
    /// The store answered with an error.
    Refused(Errno),
    /// The store answered with an error whose name nobody knows.
    UnknownError(String),
    /// No answer came in time. The request may still be carried out.
    Timeout,
    /// The request cannot be sent as it is: an empty path, a NUL inside a text, or too long.
    BadRequest(&'static str),
    /// The answer does not have the form that the protocol says. The connection is still good.
    BadReply(&'static str),
    /// A transaction met a conflict at every attempt.
    Contended,
    /// The stream of messages or the ring makes no sense any more. Only a reconnection helps.
    Broken(&'static str),
    /// The store closed the connection and left this number. Only a reconnection helps.
    Closed(u32),
    /// The event channel cannot send.
    Notify(Errno),
    /// The store does not offer reconnection.
    NoReconnection,
}

impl StoreError {
    /// Whether the connection is unusable until it is made anew.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Closed(_) | Self::Notify(_))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is none"),
            Self::Refused(error) => write!(f, "xenstore answered {error}"),
            Self::UnknownError(name) => write!(f, "xenstore answered an unknown error {name:?}"),
            Self::Timeout => f.write_str("xenstore did not answer in time"),
            Self::BadRequest(what) => write!(f, "not a xenstore request: {what}"),
            Self::BadReply(what) => write!(f, "malformed xenstore reply: {what}"),
            Self::Contended => write!(f, "xenstore transaction met a conflict {ATTEMPTS} times"),
            Self::Broken(what) => write!(f, "xenstore connection is broken: {what}"),
            Self::Closed(code) => write!(f, "xenstore closed the connection, error {code}"),
            Self::Notify(error) => write!(f, "xenstore port cannot send: {error}"),
            Self::NoReconnection => f.write_str("xenstore offers no reconnection"),
        }
    }
}

impl core::error::Error for StoreError {}
