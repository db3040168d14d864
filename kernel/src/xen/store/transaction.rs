//! Several requests as one: all of them happen, undisturbed, or none.

use super::client::{Store, into_text};
use super::wire::{self, Kind, Part};
use super::{StoreError, WatchEvent};
use crate::port::{EventOps, Wait};
use alloc::string::String;
use alloc::vec::Vec;
use xen_abi::Errno;

/// How often a transaction is tried before it is called contended.
pub const ATTEMPTS: usize = 16;

impl<P: EventOps + Wait> Store<P> {
    /// Runs `body` in a transaction and commits what it did. If something that it read or wrote was changed
    /// meanwhile, everything is undone and `body` runs again, so that it must do nothing else that lasts.
    ///
    /// # Errors
    ///
    /// What `body` returned, after an abort; [`StoreError::Contended`] after [`ATTEMPTS`]; as every request. If
    /// the commit's answer does not come in time, nobody knows whether it happened.
    pub fn transaction<R>(
        &mut self,
        mut body: impl FnMut(&mut Transaction<'_, P>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        const CONFLICT: StoreError = StoreError::Refused(Errno::EAGAIN);
        for _ in 0..ATTEMPTS {
            let started = self.request(0, Kind::TRANSACTION_START, &[Part::Text("")])?;
            let id = wire::transaction_id(&started)?;
            match body(&mut Transaction { store: self, id }) {
                Ok(result) => match self.done_in(id, Kind::TRANSACTION_END, &[Part::Text("T")]) {
                    Err(CONFLICT) => {}
                    done => return done.map(|()| result),
                },
                Err(StoreError::Timeout) => {
                    self.abort_later(id);
                    return Err(StoreError::Timeout);
                }
                Err(error) => {
                    // If the abort fails, there is nothing left to do about it: the first error is the news.
                    let _ = self.done_in(id, Kind::TRANSACTION_END, &[Part::Text("F")]);
                    if error != CONFLICT {
                        return Err(error);
                    }
                }
            }
        }
        Err(StoreError::Contended)
    }
}

/// A transaction that is open.
#[derive(Debug)]
pub struct Transaction<'s, P> {
    store: &'s mut Store<P>,
    id: u32,
}

impl<P: EventOps + Wait> Transaction<'_, P> {
    /// As [`Store::read`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.store.read_in(self.id, path)
    }

    /// As [`Store::read_text`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_text(&mut self, path: &str) -> Result<String, StoreError> {
        into_text(self.read(path)?)
    }

    /// As [`Store::write`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.store.write_in(self.id, path, value)
    }

    /// As [`Store::mkdir`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn mkdir(&mut self, path: &str) -> Result<(), StoreError> {
        self.store.done_in(self.id, Kind::MKDIR, &[Part::Path(path)])
    }

    /// As [`Store::rm`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn rm(&mut self, path: &str) -> Result<(), StoreError> {
        self.store.done_in(self.id, Kind::RM, &[Part::Path(path)])
    }

    /// As [`Store::directory`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        self.store.directory_in(self.id, path)
    }

    /// The store outside of the transaction. What is changed there and was read or written here makes the commit
    /// fail, and the body run again.
    pub fn outside(&mut self) -> &mut Store<P> {
        self.store
    }

    /// As [`Store::next_event`].
    pub fn next_event(&mut self) -> Option<WatchEvent> {
        self.store.next_event()
    }
}
