//! Bytes through the shared page: a ring of 1024 to the store, one of 1024 back.
//!
//! A message may be larger than the ring, so that both directions move what fits and come back for the rest.
//! Our own indices are kept here; the copies in the page are written, never believed.

use super::StoreError;
use crate::xen::SharedPage;
use core::sync::atomic::Ordering;
use xen_abi::ring::store::{
    CONNECTION, ERROR, REQ, REQ_CONS, REQ_PROD, RING_SIZE, RSP, RSP_CONS, RSP_PROD, SERVER_FEATURES,
};

/// Bytes in each ring.
const SIZE: u32 = RING_SIZE as u32;
/// `server_features`: the guest may ask for a reconnection; the error word is used.
const FEATURE_RECONNECTION: u32 = 1 << 0;
const FEATURE_ERROR: u32 = 1 << 1;
/// `connection`: being made anew.
const RECONNECT: u32 = 1;

/// Our end of both rings.
#[derive(Debug)]
pub(super) struct Ring {
    page: SharedPage,
    req_prod: u32,
    rsp_cons: u32,
}

impl Ring {
    /// From the indices that are there. Responses to somebody before us are discarded.
    pub(super) fn attach(page: SharedPage) -> Self {
        let mut ring = Self { page, req_prod: 0, rsp_cons: 0 };
        ring.reattach();
        ring
    }

    /// Takes the indices from the page again: after the store reset them.
    pub(super) fn reattach(&mut self) {
        self.req_prod = self.load(REQ_PROD);
        self.rsp_cons = self.load(RSP_PROD);
        self.page.u32(RSP_CONS).store(self.rsp_cons, Ordering::Release);
    }

    fn load(&self, offset: usize) -> u32 {
        self.page.u32(offset).load(Ordering::Acquire)
    }

    /// Whether the rings are in use; while they are not, nothing in the page but this means anything.
    pub(super) fn is_connected(&self) -> bool {
        self.load(CONNECTION) != RECONNECT
    }

    /// The number that the store left when it gave up on us.
    pub(super) fn closed(&self) -> Option<u32> {
        let error = self.load(ERROR);
        (self.load(SERVER_FEATURES) & FEATURE_ERROR != 0 && error != 0).then_some(error)
    }

    /// Asks for a reconnection. The event is the caller's.
    pub(super) fn reconnect(&self) -> Result<(), StoreError> {
        if self.load(SERVER_FEATURES) & FEATURE_RECONNECTION == 0 {
            return Err(StoreError::NoReconnection);
        }
        self.page.u32(CONNECTION).store(RECONNECT, Ordering::SeqCst);
        Ok(())
    }

    /// Puts as much of `bytes` as there is room for, and answers how much that was.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, StoreError> {
        let used = self.req_prod.wrapping_sub(self.load(REQ_CONS));
        let room = SIZE.checked_sub(used).ok_or(StoreError::Broken("indices of the request ring"))?;
        let count = bytes.len().min(room as usize);
        for byte in &bytes[..count] {
            self.page.u8(REQ + (self.req_prod % SIZE) as usize).store(*byte, Ordering::Relaxed);
            self.req_prod = self.req_prod.wrapping_add(1);
        }
        if count > 0 {
            self.page.u32(REQ_PROD).store(self.req_prod, Ordering::Release);
        }
        Ok(count)
    }

    /// Takes bytes that are there, up to the length of `into`, and answers how many.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Result<usize, StoreError> {
        let there = self.load(RSP_PROD).wrapping_sub(self.rsp_cons);
        if there > SIZE {
            return Err(StoreError::Broken("indices of the response ring"));
        }
        let count = into.len().min(there as usize);
        for byte in &mut into[..count] {
            *byte = self.page.u8(RSP + (self.rsp_cons % SIZE) as usize).load(Ordering::Relaxed);
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
        }
        if count > 0 {
            self.page.u32(RSP_CONS).store(self.rsp_cons, Ordering::Release);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(page: SharedPage, offset: usize, value: u32) {
        page.u32(offset).store(value, Ordering::Release);
    }

    #[test]
    fn indices_start_where_they_are_and_wrap() {
        let page = SharedPage::leaked();
        for offset in [REQ_CONS, REQ_PROD, RSP_CONS] {
            set(page, offset, u32::MAX - 2);
        }
        // Ten stale bytes of response.
        set(page, RSP_PROD, (u32::MAX - 2).wrapping_add(10));
        let mut ring = Ring::attach(page);
        assert_eq!(page.u32(RSP_CONS).load(Ordering::Relaxed), 7, "discarded");
        assert_eq!(ring.receive(&mut [0; 16]), Ok(0));
        assert_eq!(ring.send(b"abcdef"), Ok(6));
        assert_eq!(page.u32(REQ_PROD).load(Ordering::Relaxed), 3);
        let mut bytes = [0; 3];
        page.read(REQ + 1021, &mut bytes);
        assert_eq!(&bytes, b"abc");
        page.read(REQ, &mut bytes);
        assert_eq!(&bytes, b"def");
    }

    #[test]
    fn only_what_fits_is_sent() {
        let mut ring = Ring::attach(SharedPage::leaked());
        assert_eq!(ring.send(&[7; 1000]), Ok(1000));
        assert_eq!(ring.send(&[8; 1000]), Ok(24));
        assert_eq!(ring.send(&[9; 1]), Ok(0));
        set(ring.page, REQ_CONS, 5);
        assert_eq!(ring.send(&[9; 100]), Ok(5));
    }

    #[test]
    fn only_what_is_asked_for_is_received() {
        let page = SharedPage::leaked();
        let mut ring = Ring::attach(page);
        page.write(RSP, b"abcde");
        set(page, RSP_PROD, 5);
        let mut bytes = [0; 3];
        assert_eq!(ring.receive(&mut bytes), Ok(3));
        assert_eq!(&bytes, b"abc");
        assert_eq!(ring.receive(&mut bytes), Ok(2));
        assert_eq!(ring.receive(&mut bytes), Ok(0));
    }

    #[test]
    fn corrupt_indices_are_errors() {
        let page = SharedPage::leaked();
        let mut ring = Ring::attach(page);
        set(page, RSP_PROD, 1025);
        assert_eq!(ring.receive(&mut [0; 1]), Err(StoreError::Broken("indices of the response ring")));
        set(page, RSP_PROD, 0);
        set(page, REQ_CONS, 1);
        assert_eq!(ring.send(b"x"), Err(StoreError::Broken("indices of the request ring")));
    }

    #[test]
    fn the_error_word_counts_only_if_it_is_advertised() {
        let page = SharedPage::leaked();
        let ring = Ring::attach(page);
        set(page, ERROR, 2);
        assert_eq!(ring.closed(), None);
        assert_eq!(ring.reconnect(), Err(StoreError::NoReconnection));
        set(page, SERVER_FEATURES, 3);
        assert_eq!(ring.closed(), Some(2));
        assert_eq!(ring.reconnect(), Ok(()));
        assert!(!ring.is_connected());
    }
}
