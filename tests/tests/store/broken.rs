//! A store that says what it should not, and connections that end and are made anew.

use super::*;
use std::sync::atomic::Ordering;

fn message(kind: u32, request: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, req_id: request, tx_id: 0, len: length };
    [&header.to_bytes()[..], payload].concat()
}

#[test]
fn malformed_answers_are_errors_and_the_next_request_works() {
    for (bytes, error) in [
        (message(77, 0, 3, b"abc"), "an answer of another type"),
        (message(16, 0, 2, b"\xFF\0"), "a text that is not UTF-8"),
        (message(16, 0, 4, b"A\0B\0"), "several texts instead of one"),
        (message(1, 0, 3, b"a\0b"), "a list whose last text is not ended"),
    ] {
        let machine = Machine::new();
        let mut store = client(&machine);
        machine.store.borrow_mut().inject_answer(GUEST, &bytes);
        assert_eq!(store.directory("data"), Err(StoreError::BadReply(error)));
        assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    }
}

#[test]
fn answers_to_nobody_are_skipped() {
    let machine = Machine::new();
    let mut store = client(&machine);
    machine.store.borrow_mut().inject(GUEST, &message(2, 4711, 3, b"abc"));
    machine.store.borrow_mut().inject(GUEST, &message(99, 4712, 0, b""));
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(store.skipped(), 2);
}

#[test]
fn an_unreadable_event_means_read_everything() {
    let machine = Machine::new();
    let mut store = client(&machine);
    machine.store.borrow_mut().inject(GUEST, &message(15, 0, 3, b"abc"));
    assert_eq!(events(&machine, &mut store), [WatchEvent::Lost]);
}

#[test]
fn a_message_of_impossible_length_ends_the_connection_until_it_is_made_anew() {
    let machine = Machine::new();
    let mut store = client(&machine);
    let broken = StoreError::Broken("a message longer than the protocol allows");
    for length in [4097, u32::MAX] {
        machine.store.borrow_mut().inject_answer(GUEST, &message(2, 0, length, b""));
        assert_eq!(store.read("domid"), Err(broken.clone()));
        assert_eq!(store.read("domid"), Err(broken.clone()));
        assert!(broken.is_fatal());
        assert_eq!(store.poll(), Err(broken.clone()));
        store.reconnect().unwrap();
        assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    }
    machine.store.borrow_mut().inject_answer(GUEST, &message(2, 0, 4096, &[b'x'; 4096]));
    assert_eq!(store.read("domid"), Ok(vec![b'x'; 4096]), "the longest that is allowed");
}

#[test]
fn corrupt_indices_end_the_connection() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(5_000_000);
    machine.store_page.u32(2060).store(5000, Ordering::Release);
    assert_eq!(store.read("domid"), Err(StoreError::Broken("indices of the response ring")));
    store.reconnect().unwrap();
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
}

#[test]
fn a_store_that_gave_up_is_known_and_can_be_won_back() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.watch("data", "t").unwrap();
    events(&machine, &mut store);
    // Somebody tramples on the ring.
    machine.store_page.u32(2052).store(9000, Ordering::Release);
    machine.store.borrow_mut().signal(GUEST);
    machine.settle(1);
    assert_eq!(store.read("domid"), Err(StoreError::Closed(2)));
    store.reconnect().unwrap();
    assert_eq!(events(&machine, &mut store), [WatchEvent::Lost], "watches are gone");
    assert_eq!(machine.store.borrow_mut().watches(GUEST), 0);
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
}

#[test]
fn reconnection_is_bounded_and_may_not_be_offered() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(5_000_000);
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    assert_eq!(store.reconnect(), Err(StoreError::Timeout));
    assert_eq!(store.read("domid"), Err(StoreError::Timeout), "still going on");
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    machine.store_page.u32(2064).store(0, Ordering::Release);
    assert_eq!(store.reconnect(), Err(StoreError::NoReconnection));
}

#[test]
fn a_connection_that_is_being_made_at_the_start_is_waited_for() {
    let machine = Machine::new();
    machine.store_page.u32(2068).store(1, Ordering::Release);
    for index in [2048, 2052, 2056, 2060] {
        machine.store_page.u32(index).store(0xDEAD_0000 + index as u32, Ordering::Release);
    }
    assert_eq!(client(&machine).read_text("domid"), Ok("7".to_string()));
}

#[test]
fn indices_need_not_start_at_zero() {
    let machine = Machine::new();
    for (offset, index) in [(2048, u32::MAX - 5), (2052, u32::MAX - 5), (2056, 77), (2060, 99)] {
        machine.store_page.u32(offset).store(index, Ordering::Release);
    }
    let mut store = client(&machine);
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
}

#[test]
fn a_port_that_cannot_send_is_an_error() {
    let machine = Machine::new();
    let mut store = client(&machine);
    machine.refuse_sends(Some(Errno::EINVAL));
    assert_eq!(store.read("domid"), Err(StoreError::Notify(Errno::EINVAL)));
}

#[test]
fn resetting_drops_the_watches_of_a_kernel_before() {
    let machine = Machine::new();
    client(&machine).watch("data", "old").unwrap();
    let mut store = client(&machine);
    store.reset_watches().unwrap();
    assert_eq!(machine.store.borrow_mut().watches(GUEST), 0);
    store.watch("data", "old").unwrap();
}
