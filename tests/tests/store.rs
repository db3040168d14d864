//! The xenstore client against the daemon's model, through the bytes of the ring.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "store/broken.rs"]
mod broken;
#[path = "store/random.rs"]
mod random;
#[path = "store/time.rs"]
mod time;

use ebb::port::Clock;
use ebb::xen::store::wire::{Header, Kind};
use ebb::xen::store::{ATTEMPTS, Store, StoreError, WatchEvent};
use ebb_tests::dom0::{GUEST, Machine, STORE_PORT};
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
