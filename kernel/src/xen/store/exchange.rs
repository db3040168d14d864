//! Messages through the ring: sending what fits, receiving piece by piece, and telling answers from events.
//!
//! The store may be silent, slow, or wrong. A message is always sent whole, even if nobody waits for its answer
//! any more; an answer that nobody waits for is skipped; a stream that cannot be followed ends the connection.

use super::StoreError;
use super::client::Store;
use super::wire::{self, Header, Kind, PAYLOAD_MAX, Part};
use crate::port::{EventOps, Wait};
use log::warn;

/// How many messages one look at the ring handles, so that a store that never stops talking cannot keep a
/// request from its deadline.
const MESSAGES_PER_LOOK: usize = 64;

impl<P: EventOps + Wait> Store<P> {
    /// Looks at the ring until `ready` has something, or until `deadline_ns`.
    pub(super) fn until<R>(
        &mut self,
        deadline_ns: u64,
        ready: impl Fn(&mut Self) -> Option<R>,
    ) -> Result<R, StoreError> {
        let mut late_ns = None;
        loop {
            self.look()?;
            if let Some(result) = ready(self) {
                if let Some(late_ns) = late_ns {
                    self.unannounced += 1;
                    // Much later than the deadline: this thread did not run, and there may well have been an event.
                    warn!(
                        "xenstore: an answer was there, and no event had told of it until the deadline (looked {} ms after it)",
                        late_ns / 1_000_000
                    );
                }
                return Ok(result);
            }
            if late_ns.is_some() || self.platform.now_ns() >= deadline_ns {
                return Err(StoreError::Timeout);
            }
            self.platform.wait(self.port, deadline_ns);
            late_ns = self.platform.now_ns().checked_sub(deadline_ns);
        }
    }

    /// Moves bytes both ways until nothing moves, or for a while: what the store adds meanwhile, it signals. After
    /// an error that cannot be mended, that error again, and nothing is touched.
    pub(super) fn look(&mut self) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let moved = self.transfer();
        moved.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn transfer(&mut self) -> Result<(), StoreError> {
        if !self.ring.is_connected() {
            self.reconnecting = true;
            return Ok(());
        }
        if core::mem::take(&mut self.reconnecting) {
            self.start_over();
        }
        if let Some(code) = self.ring.closed() {
            return Err(StoreError::Closed(code));
        }
        let (mut moved, mut messages) = (false, 0);
        let result = loop {
            let sent = self.transmit()?;
            let received = match self.take_some() {
                Ok(received) => received,
                Err(error) => break Err(error),
            };
            moved |= sent || received > 0;
            if self.dispatch_if_whole()? {
                messages += 1;
            }
            if messages == MESSAGES_PER_LOOK || (!sent && received == 0) {
                break Ok(());
            }
        };
        if moved {
            self.notify()?;
        }
        result
    }

    pub(super) fn notify(&self) -> Result<(), StoreError> {
        self.platform.send(self.port).map_err(StoreError::Notify)
    }

    /// The connection was made anew: it begins on a message's boundary, and knows nothing of before.
    fn start_over(&mut self) {
        self.ring.reattach();
        self.received = 0;
        self.incoming.resize(Header::SIZE, 0);
        self.abandoned.clear();
        self.aborts.clear();
        self.events.lose();
        // A request that somebody waits for is sent again; one that nobody waits for is not worth finishing.
        self.sent = 0;
        if self.awaited.is_none() {
            self.outgoing.clear();
        }
    }

    /// Sends what fits. A message that is through makes place for an abort, if one is due.
    fn transmit(&mut self) -> Result<bool, StoreError> {
        if self.outgoing.is_empty() {
            let Some(transaction) = self.aborts.pop() else {
                return Ok(false);
            };
            let number = self.next_number();
            self.outgoing = wire::request(Kind::TRANSACTION_END, number, transaction, &[Part::Text("F")])?;
            self.sent = 0;
        }
        let count = self.ring.send(&self.outgoing[self.sent..])?;
        self.sent += count;
        if self.sent == self.outgoing.len() && self.awaited.is_none() {
            self.outgoing.clear();
        }
        Ok(count > 0)
    }

    /// Takes what the message being received lacks, as far as it is there.
    fn take_some(&mut self) -> Result<usize, StoreError> {
        let count = self.ring.receive(&mut self.incoming[self.received..])?;
        self.received += count;
        if self.received == Header::SIZE && self.incoming.len() == Header::SIZE {
            let length = self.header().len as usize;
            if length > PAYLOAD_MAX {
                return Err(StoreError::Broken("a message longer than the protocol allows"));
            }
            self.incoming.resize(Header::SIZE + length, 0);
        }
        Ok(count)
    }

    fn header(&self) -> Header {
        let mut bytes = [0; Header::SIZE];
        bytes.copy_from_slice(&self.incoming[..Header::SIZE]);
        Header::from_bytes(&bytes)
    }

    /// Handles the message being received if all of it is there, and answers whether.
    fn dispatch_if_whole(&mut self) -> Result<bool, StoreError> {
        if self.received < self.incoming.len() || self.received < Header::SIZE {
            return Ok(false);
        }
        let header = self.header();
        let kind = Kind(header.kind);
        let payload = self.incoming.split_off(Header::SIZE);
        self.received = 0;
        if kind == Kind::WATCH_EVENT {
            match wire::watch_event(&payload) {
                Ok((path, token)) => self.events.push(path, token),
                Err(_) => self.events.lose(),
            }
        } else if self.awaited == Some(header.req_id) && self.answer.is_none() {
            self.answer = Some((kind, payload));
            // Nothing that is still to be sent of a request that is answered makes sense, but the message has to
            // be whole for the next one to be understood.
            self.awaited = None;
            if self.sent == self.outgoing.len() {
                self.outgoing.clear();
            }
        } else {
            self.skipped += 1;
            if let Some(index) = self.abandoned.iter().position(|number| *number == header.req_id) {
                self.abandoned.swap_remove(index);
                if kind == Kind::TRANSACTION_START
                    && let Ok(transaction) = wire::transaction_id(&payload)
                {
                    self.abort_later(transaction);
                }
            }
        }
        Ok(true)
    }
}
