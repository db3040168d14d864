//! The xenstore client against the daemon's model, through the bytes of the ring.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ebb::port::Clock;
use ebb::xen::store::wire::{Header, Kind};
use ebb::xen::store::{ATTEMPTS, Store, StoreError, WatchEvent};
use ebb_tests::dom0::{GUEST, Machine, STORE_PORT};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use xen_abi::Errno;

const HOME: &str = "/local/domain/7";

fn client(machine: &Machine) -> Store<&Machine> {
    Store::new(machine.store_page, STORE_PORT, machine)
}

fn refused<R>(errno: Errno) -> Result<R, StoreError> {
    Err(StoreError::Refused(errno))
}

fn changed(path: &str, token: &str) -> WatchEvent {
    WatchEvent::Changed { path: path.to_string(), token: token.to_string() }
}

/// Everything that has come, without waiting for more than a moment.
fn events(machine: &Machine, store: &mut Store<&Machine>) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    while let Some(event) = store.wait_event(machine.now_ns() + 20_000_000).unwrap() {
        seen.push(event);
    }
    seen
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let machine = Machine::new();
    let mut store = client(&machine);
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    assert_eq!(store.domain_path(GUEST), Ok(HOME.to_string()));
    store.write("data/a/b", b"one").unwrap();
    store.mkdir("data/a/c").unwrap();
    assert_eq!(machine.store.borrow().get("/local/domain/7/data/a/b"), Some("one".to_string()), "no NUL");
    assert_eq!(store.read("/local/domain/7/data/a/b"), Ok(b"one".to_vec()));
    assert_eq!(store.read("data/a/c"), Ok(Vec::new()));
    assert_eq!(store.directory("data/a"), Ok(vec!["b".to_string(), "c".to_string()]));
    assert_eq!(store.directory("data/a/b"), Ok(Vec::new()));
    store.rm("data/a").unwrap();
    store.rm("data/a").unwrap();
    assert_eq!(store.rm("data/a/b"), refused(Errno::ENOENT));
    assert_eq!(store.read("data/a/b"), refused(Errno::ENOENT));
    assert_eq!(store.skipped(), 0);
}

#[test]
fn refusals_are_named() {
    let machine = Machine::new();
    let mut store = client(&machine);
    assert_eq!(store.write("memory/target", b"1"), refused(Errno::EACCES));
    assert_eq!(store.write("control/feature-balloon", b"1"), refused(Errno::EACCES));
    assert_eq!(store.read("no//path"), refused(Errno::EINVAL));
    assert_eq!(store.write("data/x", &[0; 3000]), refused(Errno::ENOSPC));
    assert_eq!(store.write("data/x", &[0; 5000]), Err(StoreError::BadRequest("the payload is too long")));
    assert_eq!(store.read_text("domid"), Ok("7".to_string()), "none of it harmed the connection");
}

#[test]
fn an_error_of_an_unknown_name_is_an_error() {
    let machine = Machine::new();
    let mut store = client(&machine);
    let header = Header { kind: Kind::ERROR.0, req_id: 0, tx_id: 0, len: 6 };
    let bytes = [&header.to_bytes()[..], b"EWHAT\0"].concat();
    machine.store.borrow_mut().inject_answer(GUEST, &bytes);
    assert_eq!(store.read("domid"), Err(StoreError::UnknownError("EWHAT".to_string())));
}

#[test]
fn permissions_go_both_ways() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.write("data/mine", b"").unwrap();
    assert_eq!(store.permissions("data/mine"), Ok(vec!["n7".to_string()]));
    store.set_permissions("data/mine", &["n7", "r3"]).unwrap();
    assert_eq!(store.permissions("data/mine"), Ok(vec!["n7".to_string(), "r3".to_string()]));
    assert_eq!(store.set_permissions("domid", &["n7"]), refused(Errno::EACCES));
    assert_eq!(store.set_permissions("data/mine", &["n0"]), refused(Errno::EPERM));
}

#[test]
fn values_larger_than_the_ring_pass_in_pieces() {
    for chunk in [1, 7, 1000, usize::MAX] {
        let machine = Machine::new();
        machine.store.borrow_mut().behaviour(GUEST).chunk = chunk;
        let mut store = client(&machine);
        let value: Vec<u8> = (0..2048u32).map(|n| (n % 251) as u8).collect();
        store.write("data/big", &value).unwrap();
        assert_eq!(store.read("data/big"), Ok(value));
    }
}

#[test]
fn long_directories_are_read_in_parts() {
    let machine = Machine::new();
    let names: Vec<String> = (0..900).map(|n| format!("node-{n:04}")).collect();
    for name in &names {
        machine.store.borrow_mut().set(&format!("{HOME}/data/{name}"), "");
    }
    assert_eq!(client(&machine).directory("data"), Ok(names));
}

#[test]
fn a_long_directory_that_changes_is_read_again() {
    let machine = Machine::new();
    let names: Vec<String> = (0..900).map(|n| format!("node-{n:04}")).collect();
    for name in &names {
        machine.store.borrow_mut().set(&format!("{HOME}/data/{name}"), "");
    }
    let mut added = false;
    machine.before_steps(move |store, _| {
        // After the refusal of the whole list and the first part.
        if store.requests(GUEST) >= 2 && !added {
            added = true;
            store.set(&format!("{HOME}/data/another"), "");
        }
    });
    let listed = client(&machine).directory("data").unwrap();
    assert_eq!(listed.len(), 901);
    assert!(listed.contains(&"another".to_string()));

    machine.before_steps(|store, step| store.set(&format!("{HOME}/data/x{step}"), ""));
    assert_eq!(client(&machine).directory("data"), Err(StoreError::Contended));
}

#[test]
fn a_watch_fires_at_once_and_at_every_change() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.watch("memory/target", "balloon").unwrap();
    assert_eq!(
        events(&machine, &mut store),
        [changed("memory/target", "balloon")],
        "though there is no node"
    );
    machine.store.borrow_mut().set(&format!("{HOME}/memory/target"), "65536");
    assert_eq!(events(&machine, &mut store), [changed("memory/target", "balloon")]);
    assert_eq!(store.watch("memory/target", "balloon"), refused(Errno::EEXIST));
    store.unwatch("memory/target", "balloon").unwrap();
    assert_eq!(store.unwatch("memory/target", "balloon"), refused(Errno::ENOENT));
    machine.store.borrow_mut().set(&format!("{HOME}/memory/target"), "1");
    assert_eq!(events(&machine, &mut store), []);
}

#[test]
fn watches_see_below_and_removal_above() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.write("data/a/b/c", b"1").unwrap();
    store.watch("data/a/b", "deep").unwrap();
    store.watch(&format!("{HOME}/data"), "full").unwrap();
    events(&machine, &mut store);
    machine.store.borrow_mut().set(&format!("{HOME}/data/a/b/c"), "2");
    assert_eq!(
        events(&machine, &mut store),
        [changed("data/a/b/c", "deep"), changed(&format!("{HOME}/data/a/b/c"), "full")]
    );
    machine.store.borrow_mut().remove(&format!("{HOME}/data/a"));
    let seen = events(&machine, &mut store);
    assert!(seen.contains(&changed("data/a/b", "deep")), "{seen:?}");
    assert!(seen.contains(&changed(&format!("{HOME}/data/a"), "full")), "{seen:?}");
    machine.store.borrow_mut().set(&format!("{HOME}/database"), "");
    assert_eq!(events(&machine, &mut store), [], "a longer name is not below");
}

#[test]
fn events_between_request_and_answer_are_kept() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.watch("data", "t").unwrap();
    events(&machine, &mut store);
    machine.store.borrow_mut().behaviour(GUEST).delay = 4;
    machine.before_steps(|store, step| store.set(&format!("{HOME}/data/{step}"), ""));
    assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    store.poll().unwrap();
    assert!(matches!(store.next_event(), Some(WatchEvent::Changed { .. })));
    assert_eq!(store.skipped(), 0);
}

#[test]
fn a_flood_of_events_is_bounded_and_said_to_be_lost() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.watch("data", "t").unwrap();
    events(&machine, &mut store);
    for round in 0..3 {
        for number in 0..200 {
            machine.store.borrow_mut().set(&format!("{HOME}/data/{number}"), &round.to_string());
        }
        assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    }
    let seen = events(&machine, &mut store);
    assert_eq!(seen[0], WatchEvent::Lost);
    assert!(seen.len() < 200, "{}", seen.len());
    assert_eq!(events(&machine, &mut store), []);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store
        .transaction(|tx| {
            tx.mkdir("data/t")?;
            tx.write("data/t/a", b"1")?;
            tx.write("data/t/b", b"2")?;
            assert_eq!(machine.store.borrow().get("/local/domain/7/data/t/a"), None, "not before the commit");
            assert_eq!(tx.read_text("data/t/a")?, "1");
            assert_eq!(tx.directory("data/t")?.len(), 2);
            tx.rm("data/t/b")
        })
        .unwrap();
    assert_eq!(store.directory("data/t"), Ok(vec!["a".to_string()]));
    let failed = store.transaction(|tx| {
        tx.write("data/t/a", b"undone")?;
        tx.read("data/none")
    });
    assert_eq!(failed, refused(Errno::ENOENT));
    assert_eq!(store.read_text("data/t/a"), Ok("1".to_string()));
    assert_eq!(machine.store.borrow_mut().open_transactions(GUEST), 0);
}

#[test]
fn a_transaction_in_conflict_runs_again() {
    let machine = Machine::new();
    let mut store = client(&machine);
    store.write("data/n", b"1").unwrap();
    let mut runs = 0;
    store
        .transaction(|tx| {
            let number: u32 = tx.read_text("data/n")?.parse().unwrap();
            runs += 1;
            if runs <= 2 {
                machine.store.borrow_mut().set(&format!("{HOME}/data/n"), &(number * 10).to_string());
            }
            tx.write("data/n", (number + 1).to_string().as_bytes())
        })
        .unwrap();
    assert_eq!(runs, 3);
    assert_eq!(store.read_text("data/n"), Ok("101".to_string()));
}

#[test]
fn a_transaction_that_never_succeeds_gives_up() {
    let machine = Machine::new();
    let mut store = client(&machine);
    let mut runs = 0;
    let result = store.transaction(|tx| {
        runs += 1;
        let _ = tx.read("data/n");
        machine.store.borrow_mut().set(&format!("{HOME}/data/n"), &runs.to_string());
        Ok(())
    });
    assert_eq!(result, Err(StoreError::Contended));
    assert_eq!(runs, ATTEMPTS);
    assert_eq!(machine.store.borrow_mut().open_transactions(GUEST), 0);
}

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

#[test]
fn quotas_are_refusals() {
    let machine = Machine::new();
    let mut store = client(&machine);
    for number in 0..128 {
        store.watch("data", &number.to_string()).unwrap();
    }
    assert_eq!(store.watch("data", "one more"), refused(Errno::E2BIG));
}

/// What a guest does to its nodes.
#[derive(Clone, Debug)]
enum Action {
    Write(u8, Vec<u8>),
    Remove(u8),
    Read(u8),
    List,
    Outside(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..5u8, prop::collection::vec(any::<u8>(), 0..1500))
            .prop_map(|(key, value)| Action::Write(key, value)),
        (0..5u8).prop_map(Action::Remove),
        (0..5u8).prop_map(Action::Read),
        Just(Action::List),
        any::<u8>().prop_map(Action::Outside),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_and_delays_carry_the_same(
        actions in prop::collection::vec(action(), 0..20),
        chunk in 1..1500usize,
        delay in 0..4u32,
        start in any::<u32>(),
    ) {
        let machine = Machine::new();
        for offset in [2048, 2052, 2056, 2060] {
            machine.store_page.u32(offset).store(start, Ordering::Release);
        }
        machine.store.borrow_mut().behaviour(GUEST).chunk = chunk;
        machine.store.borrow_mut().behaviour(GUEST).delay = delay;
        let mut store = client(&machine);
        store.watch("memory", "m").unwrap();
        let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Write(key, value) => {
                    store.write(&format!("data/{key}"), &value).unwrap();
                    expected.insert(key.to_string(), value);
                }
                Action::Remove(key) => {
                    store.rm(&format!("data/{key}")).unwrap();
                    expected.remove(&key.to_string());
                }
                Action::Read(key) => {
                    let value = store.read(&format!("data/{key}"));
                    let known = expected.get(&key.to_string()).cloned();
                    prop_assert_eq!(value, known.ok_or(StoreError::Refused(Errno::ENOENT)));
                }
                Action::List => {
                    let names: Vec<String> = expected.keys().cloned().collect();
                    prop_assert_eq!(store.directory("data").unwrap(), names);
                }
                Action::Outside(value) => {
                    machine.store.borrow_mut().set(&format!("{HOME}/memory/target"), &value.to_string());
                }
            }
        }
        prop_assert_eq!(store.skipped(), 0);
    }

    #[test]
    fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), small in any::<bool>()) {
        let machine = Machine::new();
        let mut store = client(&machine);
        store.set_timeout_ns(100_000_000);
        let mut bytes = bytes;
        if small {
            // Lengths that are possible, so that the stream goes on.
            for at in (12..bytes.len().saturating_sub(4)).step_by(16) {
                bytes[at + 1..at + 4].fill(0);
            }
        }
        machine.store.borrow_mut().inject(GUEST, &bytes);
        // Whatever it says, it says within its time, and a new connection works.
        for _ in 0..3 {
            let _ = store.read("domid");
        }
        store.reconnect().unwrap();
        store.set_timeout_ns(1_000_000_000);
        prop_assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    }
}
