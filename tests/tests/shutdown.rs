//! The shutdown protocol against the model of dom0.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ebb::port::Clock;
use ebb::xen::shutdown::{Command, NODE, Shutdown};
use ebb::xen::store::{Store, StoreError};
use ebb_tests::dom0::{GUEST, Machine, STORE_PORT};

const PATH: &str = "/local/domain/7/control/shutdown";

/// As the image does: the node is watched, and looked at after every event.
fn start(machine: &Machine) -> (Store<&Machine>, Shutdown) {
    let mut store = Store::new(machine.store_page, STORE_PORT, machine);
    store.watch(NODE, "stop").unwrap();
    (store, Shutdown::new())
}

/// Handles events until none comes for a while, and answers the commands.
fn commands(machine: &Machine, store: &mut Store<&Machine>, shutdown: &mut Shutdown) -> Vec<Command> {
    let mut seen = Vec::new();
    while store.wait_event(machine.now_ns() + 20_000_000).unwrap().is_some() {
        seen.extend(shutdown.look(store).unwrap());
    }
    seen
}

fn value(machine: &Machine) -> Option<String> {
    machine.store.borrow().get(PATH)
}

#[test]
fn features_are_said() {
    let machine = Machine::new();
    let (mut store, mut shutdown) = start(&machine);
    assert_eq!(shutdown.look(&mut store), Ok(None));
    let get = |node: &str| machine.store.borrow().get(&format!("/local/domain/7/control/feature-{node}"));
    assert_eq!(get("poweroff"), Some("1".to_string()));
    assert_eq!(get("reboot"), Some("1".to_string()));
    assert_eq!(get("suspend"), Some(String::new()), "not offered");
}

#[test]
fn features_that_may_not_be_written_are_no_failure() {
    let machine = Machine::new();
    machine.store.borrow_mut().remove("/local/domain/7/control/feature-poweroff");
    let (mut store, mut shutdown) = start(&machine);
    assert_eq!(machine.store.borrow().get("/local/domain/7/control/feature-poweroff"), None);
    machine.store.borrow_mut().set(PATH, "poweroff");
    assert_eq!(commands(&machine, &mut store, &mut shutdown), [Command::Poweroff]);
}

#[test]
fn the_watch_that_fires_at_once_is_no_command() {
    let machine = Machine::new();
    let (mut store, mut shutdown) = start(&machine);
    assert_eq!(commands(&machine, &mut store, &mut shutdown), []);
    machine.store.borrow_mut().remove(PATH);
    assert_eq!(commands(&machine, &mut store, &mut shutdown), [], "nor is a missing node");
}

#[test]
fn commands_are_acknowledged_and_answered_once() {
    for (text, command) in
        [("poweroff", Command::Poweroff), ("reboot", Command::Reboot), ("halt", Command::Halt)]
    {
        let machine = Machine::new();
        let (mut store, mut shutdown) = start(&machine);
        machine.store.borrow_mut().set(PATH, text);
        assert_eq!(commands(&machine, &mut store, &mut shutdown), [command]);
        assert_eq!(value(&machine), Some(String::new()));
    }
}

#[test]
fn a_command_that_was_there_before_us_is_seen() {
    let machine = Machine::new();
    machine.store.borrow_mut().set(PATH, "reboot");
    let (mut store, mut shutdown) = start(&machine);
    assert_eq!(commands(&machine, &mut store, &mut shutdown), [Command::Reboot]);
}

#[test]
fn suspend_is_left_to_the_toolstack() {
    let machine = Machine::new();
    let (mut store, mut shutdown) = start(&machine);
    machine.store.borrow_mut().set(PATH, "suspend");
    assert_eq!(commands(&machine, &mut store, &mut shutdown), []);
    assert_eq!(value(&machine), Some("suspend".to_string()));
    // The toolstack withdraws it, and then wants something else.
    machine.store.borrow_mut().set(PATH, "");
    machine.store.borrow_mut().set(PATH, "poweroff");
    assert_eq!(commands(&machine, &mut store, &mut shutdown), [Command::Poweroff]);
}

#[test]
fn what_is_not_understood_is_cleared() {
    let machine = Machine::new();
    let (mut store, mut shutdown) = start(&machine);
    machine.store.borrow_mut().set(PATH, "dance");
    assert_eq!(commands(&machine, &mut store, &mut shutdown), []);
    assert_eq!(value(&machine), Some(String::new()));
}

#[test]
fn a_command_that_replaces_another_is_not_cleared_unseen() {
    let machine = Machine::new();
    let (mut store, mut shutdown) = start(&machine);
    commands(&machine, &mut store, &mut shutdown);
    machine.store.borrow_mut().set(PATH, "reboot");
    let before = machine.store.borrow_mut().requests(GUEST);
    let mut replaced = false;
    machine.before_steps(move |store, _| {
        // After our transaction has begun and read.
        if store.requests(GUEST) >= before + 2 && !replaced {
            replaced = true;
            store.set(PATH, "poweroff");
        }
    });
    assert_eq!(commands(&machine, &mut store, &mut shutdown), [Command::Poweroff]);
}

#[test]
fn a_command_that_cannot_be_acknowledged_is_done() {
    let machine = Machine::new();
    machine.store.borrow_mut().remove(PATH);
    // Made anew by dom0 below its own directory, the node is not ours.
    machine.store.borrow_mut().set(PATH, "poweroff");
    let (mut store, mut shutdown) = start(&machine);
    assert_eq!(commands(&machine, &mut store, &mut shutdown), [Command::Poweroff]);
    assert_eq!(value(&machine), Some("poweroff".to_string()));
}

#[test]
fn a_store_that_is_silent_is_told_later() {
    let machine = Machine::new();
    let (mut store, mut shutdown) = start(&machine);
    store.set_timeout_ns(20_000_000);
    machine.store.borrow_mut().set(PATH, "halt");
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    assert_eq!(shutdown.look(&mut store), Err(StoreError::Timeout));
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    assert_eq!(shutdown.look(&mut store), Ok(Some(Command::Halt)));
    assert_eq!(machine.store.borrow().get("/local/domain/7/control/feature-poweroff"), Some("1".to_string()));
}
