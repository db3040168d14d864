//! The set of ports between interrupt handlers and waiters: nothing that happened is forgotten, or told twice.

use crate::channels::events::PortSet;
use crate::model::{Model, tests};
use crate::units::EventPort;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use std::sync::Arc;

/// Two ports of one word.
const PORTS: [EventPort; 2] = [EventPort::new(5), EventPort::new(6)];

fn set() -> Arc<PortSet> {
    let set = PortSet::new();
    // Makes the word.
    assert!(!set.contains(PORTS[0]));
    Arc::new(set)
}

/// A handler notes two events; a waiter takes the port and looks at what there is to do. What it has not seen when
/// all is over is still in the set.
fn events() {
    let (set, done) = (set(), Arc::new(AtomicU32::new(0)));
    let handler = {
        let (set, done) = (Arc::clone(&set), Arc::clone(&done));
        thread::spawn(move || {
            for event in [1, 2] {
                done.store(event, Ordering::Relaxed);
                set.insert(PORTS[0]);
            }
        })
    };
    let (mut told, mut seen) = (0, 0);
    for _ in 0..2 {
        if set.take(PORTS[0]) {
            told += 1;
            seen = done.load(Ordering::Relaxed);
            assert!(seen >= told, "told {told} times, and saw {seen}");
        }
    }
    handler.join().unwrap();
    assert!(seen == 2 || set.contains(PORTS[0]), "an event is forgotten: {seen} seen");
}

/// Two handlers add neighbours, while the first of them is looked for.
fn neighbours() {
    let set = set();
    let handlers = PORTS.map(|port| {
        let set = Arc::clone(&set);
        thread::spawn(move || set.insert(port))
    });
    let taken = set.take(PORTS[0]);
    handlers.into_iter().for_each(|handler| handler.join().unwrap());
    assert_eq!(set.contains(PORTS[0]), !taken, "the port is there, or it was taken");
    assert!(set.contains(PORTS[1]), "its neighbour is forgotten");
}

/// Two waiters want one port: one of them is told.
fn waiters() {
    let set = set();
    set.insert(PORTS[0]);
    let other = {
        let set = Arc::clone(&set);
        thread::spawn(move || u32::from(set.take(PORTS[0])))
    };
    let told = u32::from(set.take(PORTS[0])) + other.join().unwrap();
    assert_eq!(told, 1, "{told} were told of one event");
    assert!(!set.contains(PORTS[0]));
}

const EVENTS: Model = Model { name: "ports: two events and a waiter", preemptions: None, run: events };
const NEIGHBOURS: Model =
    Model { name: "ports: two handlers and a waiter", preemptions: None, run: neighbours };
const WAITERS: Model = Model { name: "ports: two waiters", preemptions: None, run: waiters };

tests! {
    no_event_is_forgotten: EVENTS;
    neighbours_do_not_disturb_each_other: NEIGHBOURS;
    one_waiter_is_told: WAITERS;
    mutant_relaxed_insert: EVENTS catches RelaxedInsert;
    mutant_relaxed_take: EVENTS catches RelaxedTake;
    mutant_split_insert: NEIGHBOURS catches SplitInsert;
    mutant_split_take: NEIGHBOURS catches SplitTake;
    mutant_split_take_told_twice: WAITERS catches SplitTake;
}
