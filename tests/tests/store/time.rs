//! A store that is slow, silent or full: what a request costs then, and what becomes of it.

use super::*;

#[test]
fn a_silent_store_costs_the_timeout_and_no_more() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(50_000_000);
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    for _ in 0..3 {
        let before = machine.now_ns();
        assert_eq!(store.read("domid"), Err(StoreError::Timeout));
        assert_eq!(machine.now_ns() - before, 50_000_000);
    }
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(store.skipped(), 3, "answers that came late");
}

#[test]
fn an_answer_without_an_event_is_found_at_the_deadline_and_counted() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(50_000_000);
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(store.unannounced(), 0);
    machine.store.borrow_mut().behaviour(GUEST).mute = true;
    let before = machine.now_ns();
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(machine.now_ns() - before, 50_000_000);
    assert_eq!(store.unannounced(), 1);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.write("data/a", b"a").unwrap();
    store.write("data/b", b"b").unwrap();
    store.set_timeout_ns(5_000_000);
    machine.store.borrow_mut().behaviour(GUEST).delay = 10;
    assert_eq!(store.read("data/a"), Err(StoreError::Timeout));
    machine.store.borrow_mut().behaviour(GUEST).delay = 0;
    store.set_timeout_ns(1_000_000_000);
    assert_eq!(store.read_text("data/b"), Ok("b".to_string()));
    assert_eq!(store.skipped(), 1);
}

#[test]
fn a_request_that_is_half_sent_is_finished_before_the_next() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(5_000_000);
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    // More than the ring takes: it ends in the middle.
    assert_eq!(store.write("data/big", &[b'x'; 2000]), Err(StoreError::Timeout));
    // The ring is full: this one cannot even begin.
    assert_eq!(store.write("data/never", b"1"), Err(StoreError::Timeout));
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(store.read("data/big"), Ok(vec![b'x'; 2000]));
    assert_eq!(store.read("data/never"), refused(Errno::ENOENT), "withdrawn");
}

#[test]
fn a_request_that_did_not_begin_is_withdrawn() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(5_000_000);
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    // Header, path and value fill the ring exactly.
    assert_eq!(store.write("data/full", &[b'x'; 1024 - 16 - 10]), Err(StoreError::Timeout));
    assert_eq!(store.write("data/never", b"1"), Err(StoreError::Timeout));
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    assert_eq!(store.directory("data"), Ok(vec!["full".to_string()]));
}

#[test]
fn a_store_that_waits_for_room_is_told_of_it() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.watch("data", "t").unwrap();
    events(&machine, &mut store);
    for number in 0..50 {
        machine.store.borrow_mut().set(&format!("{HOME}/data/a-name-of-some-length-{number}"), "");
    }
    // The ring is full, and the store asleep.
    machine.settle(5);
    assert_eq!(events(&machine, &mut store).len(), 50);
}

#[test]
fn a_transaction_whose_start_was_late_is_aborted() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(5_000_000);
    for _ in 0..30 {
        machine.store.borrow_mut().behaviour(GUEST).delay = 10;
        assert_eq!(store.transaction(|_| Ok(())), Err(StoreError::Timeout));
        machine.store.borrow_mut().behaviour(GUEST).delay = 0;
        machine.settle(12);
        store.poll().unwrap();
        machine.settle(2);
    }
    assert_eq!(machine.store.borrow_mut().open_transactions(GUEST), 0, "the store would allow ten");
}

#[test]
fn a_transaction_that_times_out_inside_is_aborted() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.set_timeout_ns(5_000_000);
    let result = store.transaction(|tx| {
        machine.store.borrow_mut().behaviour(GUEST).delay = 10;
        tx.read("domid")
    });
    assert_eq!(result, Err(StoreError::Timeout));
    machine.store.borrow_mut().behaviour(GUEST).delay = 0;
    machine.settle(12);
    store.poll().unwrap();
    machine.settle(2);
    assert_eq!(machine.store.borrow_mut().open_transactions(GUEST), 0);
}
