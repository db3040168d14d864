//! Requests: what may be asked of the store, and what becomes of the answers.

use super::events::Queue;
use super::ring::Ring;
use super::wire::{self, Header, Kind, Part};
use super::{StoreError, WatchEvent};
use crate::port::{EventOps, Wait};
use crate::units::{DomId, EventPort};
use crate::xen::SharedPage;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use xen_abi::Errno;

/// How long a request waits for its answer unless told otherwise. A store that is alive answers in milliseconds,
/// even where everything is emulated.
pub const DEFAULT_TIMEOUT_NS: u64 = 10_000_000_000;

/// How many transactions whose start was not waited for are remembered, to be aborted. The store allows ten.
const ABANDONED: usize = 16;

/// How often a directory that keeps changing is read from its beginning.
const DIRECTORY_ATTEMPTS: usize = 8;

/// The connection to the store.
///
/// May block, so not for interrupt handlers; one user at a time, by `&mut`.
#[derive(Debug)]
pub struct Store<P> {
    pub(super) ring: Ring,
    pub(super) port: EventPort,
    pub(super) platform: P,
    pub(super) timeout_ns: u64,
    /// The number of the last request; 0 belongs to events.
    pub(super) last: u32,
    /// The message being sent, and how much of it the ring has taken.
    pub(super) outgoing: Vec<u8>,
    pub(super) sent: usize,
    /// The message being received: `Header::SIZE` bytes, and then its payload too.
    pub(super) incoming: Vec<u8>,
    pub(super) received: usize,
    pub(super) awaited: Option<u32>,
    pub(super) answer: Option<(Kind, Vec<u8>)>,
    /// Starts of transactions that were not waited for, and transactions to abort.
    pub(super) abandoned: Vec<u32>,
    pub(super) aborts: Vec<u32>,
    pub(super) events: Queue,
    pub(super) failed: Option<StoreError>,
    /// A reconnection is going on.
    pub(super) reconnecting: bool,
    pub(super) skipped: u64,
    pub(super) unannounced: u64,
}

impl<P: EventOps + Wait> Store<P> {
    /// The store behind the ring in `page` and `port`, both from the domain's parameters.
    #[must_use]
    pub fn new(page: SharedPage, port: EventPort, platform: P) -> Self {
        Self {
            ring: Ring::attach(page),
            port,
            platform,
            timeout_ns: DEFAULT_TIMEOUT_NS,
            last: 0,
            outgoing: Vec::new(),
            sent: 0,
            incoming: alloc::vec![0; Header::SIZE],
            received: 0,
            awaited: None,
            answer: None,
            abandoned: Vec::new(),
            aborts: Vec::new(),
            events: Queue::default(),
            failed: None,
            reconnecting: false,
            skipped: 0,
            unannounced: 0,
        }
    }

    /// Sets how long each request may take.
    pub fn set_timeout_ns(&mut self, timeout_ns: u64) {
        self.timeout_ns = timeout_ns;
    }

    /// The port on which the store tells of answers and events.
    #[must_use]
    pub const fn port(&self) -> EventPort {
        self.port
    }

    /// Answers that came after their request was given up, or that nobody asked for.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Answers that were found only because a request's time was over: their event was lost, on either side, or
    /// came in that very moment.
    #[must_use]
    pub const fn unannounced(&self) -> u64 {
        self.unannounced
    }

    /// The value of a node.
    ///
    /// # Errors
    ///
    /// Like every request: the store's refusal ([`StoreError::Refused`], here `ENOENT` or `EACCES`), a timeout,
    /// or that of a broken connection.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.read_in(0, path)
    }

    /// The value of a node, as text.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); [`StoreError::BadReply`] if it is not UTF-8.
    pub fn read_text(&mut self, path: &str) -> Result<String, StoreError> {
        into_text(self.read(path)?)
    }

    /// Sets the value of a node, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// As every request; `EACCES`, `ENOSPC` above a quota.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.write_in(0, path, value)
    }

    /// Creates a node without a value, if it is missing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn mkdir(&mut self, path: &str) -> Result<(), StoreError> {
        self.done_in(0, Kind::MKDIR, &[Part::Path(path)])
    }

    /// Removes a node and all below it. One that is missing is success.
    ///
    /// # Errors
    ///
    /// As every request; `ENOENT` if its parent is missing too.
    pub fn rm(&mut self, path: &str) -> Result<(), StoreError> {
        self.done_in(0, Kind::RM, &[Part::Path(path)])
    }

    /// The names of a node's children.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); [`StoreError::Contended`] if a long list changes whenever it is read.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        self.directory_in(0, path)
    }

    /// Who may do what: `n5` says domain 5 owns the node and others may do nothing, `r7` that domain 7 may read.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn permissions(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        wire::texts(&self.request(0, Kind::GET_PERMS, &[Part::Path(path)])?)
    }

    /// Sets who may do what, in the form of [`permissions`](Self::permissions).
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); `EPERM` for a node of somebody else.
    pub fn set_permissions(&mut self, path: &str, permissions: &[&str]) -> Result<(), StoreError> {
        let parts: Vec<_> =
            [Part::Path(path)].into_iter().chain(permissions.iter().map(|one| Part::Text(one))).collect();
        self.done_in(0, Kind::SET_PERMS, &parts)
    }

    /// Asks for an event whenever something changes at or below `path`, now or in the future. One comes at once,
    /// whether the node exists or not.
    ///
    /// # Errors
    ///
    /// As every request; `EEXIST` if this path has this token already, `E2BIG` above the quota.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.done_in(0, Kind::WATCH, &[Part::Path(path), Part::Text(token)])
    }

    /// Ends a watch. Events that it caused before may still come.
    ///
    /// # Errors
    ///
    /// As every request; `ENOENT` if there is none.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.done_in(0, Kind::UNWATCH, &[Part::Path(path), Part::Text(token)])
    }

    /// Drops all watches and transactions of this domain, such as those of a kernel that ran here before. Only
    /// where `control/platform-feature-xs_reset_watches` is 1.
    ///
    /// # Errors
    ///
    /// As every request.
    pub fn reset_watches(&mut self) -> Result<(), StoreError> {
        self.done_in(0, Kind::RESET_WATCHES, &[Part::Text("")])
    }

    /// The directory of a domain, such as `/local/domain/3`.
    ///
    /// # Errors
    ///
    /// As every request.
    pub fn domain_path(&mut self, domain: DomId) -> Result<String, StoreError> {
        let number = domain.get().to_string();
        let answer = self.request(0, Kind::GET_DOMAIN_PATH, &[Part::Text(&number)])?;
        wire::text(&answer).map(ToString::to_string)
    }

    /// Looks at the ring: takes what has come, sends what fits. Never waits.
    ///
    /// # Errors
    ///
    /// That of a broken connection.
    pub fn poll(&mut self) -> Result<(), StoreError> {
        self.look()
    }

    /// The next event that has come. Looks at what is queued only: [`poll`](Self::poll) first.
    pub fn next_event(&mut self) -> Option<WatchEvent> {
        self.events.pop()
    }

    /// Whether [`next_event`](Self::next_event) has one.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Why the connection is unusable, if it is.
    #[must_use]
    pub const fn failure(&self) -> Option<&StoreError> {
        self.failed.as_ref()
    }

    /// Waits for an event until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// That of a broken connection.
    pub fn wait_event(&mut self, deadline_ns: u64) -> Result<Option<WatchEvent>, StoreError> {
        loop {
            self.look()?;
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            if self.platform.now_ns() >= deadline_ns {
                return Ok(None);
            }
            self.platform.wait(self.port, deadline_ns);
        }
    }

    /// Has the store make the connection anew, after a fatal error. All watches are gone then, as the event
    /// [`WatchEvent::Lost`] says.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoReconnection`] if the store does not offer it, [`StoreError::Timeout`] if it does not
    /// finish in time; it may yet.
    pub fn reconnect(&mut self) -> Result<(), StoreError> {
        self.ring.reconnect()?;
        self.failed = None;
        self.reconnecting = true;
        self.outgoing.clear();
        self.notify()?;
        let deadline_ns = self.platform.now_ns().saturating_add(self.timeout_ns);
        while !self.ring.is_connected() {
            if self.platform.now_ns() >= deadline_ns {
                return Err(StoreError::Timeout);
            }
            self.platform.wait(self.port, deadline_ns);
        }
        self.poll()
    }

    pub(super) fn read_in(&mut self, transaction: u32, path: &str) -> Result<Vec<u8>, StoreError> {
        self.request(transaction, Kind::READ, &[Part::Path(path)])
    }

    pub(super) fn write_in(&mut self, transaction: u32, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.done_in(transaction, Kind::WRITE, &[Part::Path(path), Part::Value(value)])
    }

    pub(super) fn directory_in(&mut self, transaction: u32, path: &str) -> Result<Vec<String>, StoreError> {
        match self.request(transaction, Kind::DIRECTORY, &[Part::Path(path)]) {
            Err(StoreError::Refused(Errno::E2BIG)) => self.long_directory(transaction, path),
            answer => wire::texts(&answer?),
        }
    }

    /// A list that is too long for one message, part by part, and again if it changes between two parts.
    fn long_directory(&mut self, transaction: u32, path: &str) -> Result<Vec<String>, StoreError> {
        for _ in 0..DIRECTORY_ATTEMPTS {
            let mut names: Vec<u8> = Vec::new();
            let mut generation: Option<Vec<u8>> = None;
            loop {
                let offset = names.len().to_string();
                let parts = [Part::Path(path), Part::Text(&offset)];
                let answer = self.request(transaction, Kind::DIRECTORY_PART, &parts)?;
                let (version, part, last) = wire::directory_part(&answer)?;
                if generation.get_or_insert_with(|| version.to_vec()) != version {
                    break;
                }
                names.extend_from_slice(part);
                if last {
                    return wire::texts(&names);
                }
            }
        }
        Err(StoreError::Contended)
    }

    /// A request whose answer carries nothing but success.
    pub(super) fn done_in(
        &mut self,
        transaction: u32,
        kind: Kind,
        parts: &[Part<'_>],
    ) -> Result<(), StoreError> {
        self.request(transaction, kind, parts).map(|_| ())
    }

    /// Remembers to abort a transaction as soon as the line is free, without waiting for it.
    pub(super) fn abort_later(&mut self, transaction: u32) {
        if self.aborts.len() < ABANDONED {
            self.aborts.push(transaction);
        }
    }

    /// Sends a request and waits for its answer's payload.
    pub(super) fn request(
        &mut self,
        transaction: u32,
        kind: Kind,
        parts: &[Part<'_>],
    ) -> Result<Vec<u8>, StoreError> {
        let deadline_ns = self.platform.now_ns().saturating_add(self.timeout_ns);
        let number = self.next_number();
        let message = wire::request(kind, number, transaction, parts)?;
        // A message that was begun must be finished first, or the store would take ours for its rest.
        self.until(deadline_ns, |store| store.outgoing.is_empty().then_some(()))?;
        self.outgoing = message;
        self.sent = 0;
        self.awaited = Some(number);
        self.answer = None;
        let answer = self.until(deadline_ns, |store| store.answer.take());
        self.awaited = None;
        let (answered, payload) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if self.sent == 0 {
                    self.outgoing.clear();
                } else if kind == Kind::TRANSACTION_START && self.abandoned.len() < ABANDONED {
                    self.abandoned.push(number);
                }
                return Err(error);
            }
        };
        if answered == Kind::ERROR {
            Err(wire::error(&payload))
        } else if answered == kind {
            Ok(payload)
        } else {
            Err(StoreError::BadReply("an answer of another type"))
        }
    }

    pub(super) fn next_number(&mut self) -> u32 {
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }
}

/// A value as text.
pub(super) fn into_text(value: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(value).map_err(|_| StoreError::BadReply("a value that is not UTF-8"))
}
