//! Tunables in xenstore, against the daemon's model: dom0 writes, the guest judges.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ebb::port::Clock;
use ebb::tunable::{Group, Id, Mirror, ROOT, STATUS, Tunables};
use ebb::xen::store::{Store, StoreError, StoreEvent, WatchEvent};
use ebb_tests::dom0::{GUEST, Machine, STORE_PORT};

const HOME: &str = "/local/domain/7";
const INTERVAL: &str = "selfballoon/selfballoon_interval";

/// A guest that offers one group, and the daemon's model.
struct Guest<'m> {
    machine: &'m Machine,
    store: Store<&'m Machine>,
    tunables: Tunables,
    mirror: Mirror,
}

impl<'m> Guest<'m> {
    fn new(machine: &'m Machine) -> Self {
        let tunables = Tunables::new();
        tunables.serve(Group::Selfballoon);
        let store = Store::new(machine.store_page, STORE_PORT, machine);
        Self { machine, store, tunables, mirror: Mirror::new() }
    }

    fn started(machine: &'m Machine) -> Self {
        let mut guest = Self::new(machine);
        guest.store.watch(ROOT, "t").unwrap();
        guest.settle();
        guest
    }

    /// Acts on events until none comes for a while.
    fn settle(&mut self) {
        while let Some(event) = self.store.wait_event(self.machine.now_ns() + 50_000_000).unwrap() {
            let event = match &event {
                WatchEvent::Changed { path, .. } => StoreEvent::Changed(path),
                WatchEvent::Lost => StoreEvent::Again,
            };
            self.mirror.on_event(&mut self.store, &self.tunables, &event).unwrap();
        }
    }

    fn again(&mut self) -> Result<(), StoreError> {
        self.mirror.on_event(&mut self.store, &self.tunables, &StoreEvent::Again)
    }

    /// As dom0.
    fn write(&self, name: &str, value: &str) {
        self.machine.store.borrow_mut().set(&format!("{HOME}/{ROOT}/{name}"), value);
    }

    fn node(&self, name: &str) -> Option<String> {
        self.machine.store.borrow().get(&format!("{HOME}/{ROOT}/{name}"))
    }

    fn status(&self) -> Option<String> {
        self.machine.store.borrow().get(&format!("{HOME}/{STATUS}"))
    }
}

#[test]
fn values_in_force_are_published() {
    let machine = Machine::new();
    let guest = Guest::started(&machine);
    assert_eq!(guest.node(INTERVAL), Some("5".into()));
    assert_eq!(guest.node("selfballoon/policy"), Some("committed".into()));
    assert_eq!(guest.node("selfballoon/selfballoon_reserved_mb"), None, "not computed yet");
    assert_eq!(guest.node("balloon/xen_scrub_pages"), None, "not offered");
    assert_eq!(guest.status(), None, "our own writes are no wishes");
}

/// On a slow host each request is felt: the thread that makes them obeys the toolstack too.
#[test]
fn publication_takes_few_requests() {
    let machine = Machine::new();
    let mut guest = Guest::new(&machine);
    let before = machine.store.borrow_mut().requests(GUEST);
    guest.again().unwrap();
    let requests = machine.store.borrow_mut().requests(GUEST) - before;
    let offered = guest.tunables.offered().count() as u64;
    assert!(requests <= offered + 6, "{requests} requests for {offered} tunables");
}

#[test]
fn a_wish_that_comes_during_publication_is_fulfilled() {
    let machine = Machine::new();
    let mut written = false;
    machine.before_steps(move |store, _| {
        // The nodes are being made, and none is to be seen yet.
        if store.requests(GUEST) >= 5 && !written {
            written = true;
            store.set(&format!("{HOME}/{ROOT}/{INTERVAL}"), "9");
        }
    });
    let guest = Guest::started(&machine);
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 9);
    assert_eq!(guest.node(INTERVAL), Some("9".into()));
    assert_eq!(guest.node("selfballoon/policy"), Some("committed".into()));
}

#[test]
fn what_dom0_writes_is_set() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    guest.write(INTERVAL, "3");
    guest.settle();
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 3);
    assert_eq!(guest.status(), Some(format!("{INTERVAL}: ok")));
    guest.write("selfballoon/policy", "pressure\n");
    guest.settle();
    assert_eq!(guest.tunables.word(Id::Policy), "pressure");
    assert_eq!(guest.node("selfballoon/policy"), Some("pressure".into()), "as it is published");
}

#[test]
fn what_is_refused_is_said_and_replaced() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    for bad in ["0", "", "4294967296", "soon", "\u{fffd}", &"9".repeat(2000)] {
        guest.write(INTERVAL, bad);
        guest.settle();
        assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 5);
        assert_eq!(guest.node(INTERVAL), Some("5".into()), "{bad:?}");
        let status = guest.status().unwrap();
        assert!(status.starts_with(INTERVAL) && status.ends_with("1 to 86400 s"), "{status}");
        machine.store.borrow_mut().set(&format!("{HOME}/{STATUS}"), "");
    }
}

#[test]
fn a_wish_that_was_there_first_is_fulfilled() {
    let machine = Machine::new();
    machine.store.borrow_mut().set(&format!("{HOME}/{ROOT}/{INTERVAL}"), "9");
    let guest = Guest::started(&machine);
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 9);
}

#[test]
fn what_changes_here_is_published() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    guest.tunables.set(Id::SelfballoonInterval, "8").unwrap();
    guest.tunables.resolve(Id::SelfballoonReservedMb, 12);
    guest.again().unwrap();
    guest.settle();
    assert_eq!(guest.node(INTERVAL), Some("8".into()));
    assert_eq!(guest.node("selfballoon/selfballoon_reserved_mb"), Some("12".into()));
    assert_eq!(guest.status(), None);
}

#[test]
fn dom0_wins_over_a_change_here_that_it_has_not_seen() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    guest.tunables.set(Id::SelfballoonInterval, "8").unwrap();
    guest.write(INTERVAL, "6");
    guest.again().unwrap();
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 6);
    assert_eq!(guest.node(INTERVAL), Some("6".into()));
}

#[test]
fn a_removed_node_comes_back() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    guest.write(INTERVAL, "3");
    guest.settle();
    machine.store.borrow_mut().remove(&format!("{HOME}/{ROOT}/{INTERVAL}"));
    guest.settle();
    assert_eq!(guest.node(INTERVAL), Some("3".into()));
    machine.store.borrow_mut().remove(&format!("{HOME}/{ROOT}"));
    guest.settle();
    assert_eq!(guest.node(INTERVAL), Some("3".into()), "even all of them");
    assert_eq!(guest.node("selfballoon/policy"), Some("committed".into()));
}

#[test]
fn unknown_names_are_said_and_harm_nothing() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    let generation = guest.tunables.generation();
    for (name, why) in [
        ("selfballoon/interval", "there is no such tunable"),
        ("a/b/c", "there is no such tunable"),
        ("balloon/xen_scrub_pages", "nothing obeys it in this guest"),
    ] {
        guest.write(name, "1");
        guest.settle();
        assert_eq!(guest.status(), Some(format!("{name}: {why}")));
    }
    machine.store.borrow_mut().remove(&format!("{HOME}/{ROOT}/a"));
    guest.settle();
    guest.write(&format!("x/{}", "y".repeat(900)), "1");
    guest.settle();
    assert!(guest.status().unwrap().len() < 200);
    assert_eq!(guest.tunables.generation(), generation);
}

#[test]
fn a_write_between_our_look_and_our_answer_is_not_lost() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    guest.write(INTERVAL, "0");
    let before = machine.store.borrow_mut().requests(GUEST);
    let mut written = false;
    machine.before_steps(move |store, _| {
        // After the node was read and found bad, and the refusal said: before it is replaced.
        if store.requests(GUEST) >= before + 2 && !written {
            written = true;
            store.set(&format!("{HOME}/{ROOT}/{INTERVAL}"), "4");
        }
    });
    guest.settle();
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 4);
    assert_eq!(guest.node(INTERVAL), Some("4".into()));
}

#[test]
fn a_store_that_is_silent_is_served_later() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    guest.store.set_timeout_ns(20_000_000);
    guest.write(INTERVAL, "3");
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    assert_eq!(guest.again(), Err(StoreError::Timeout));
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 5);
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    guest.again().unwrap();
    assert_eq!(guest.tunables.number(Id::SelfballoonInterval), 3);
}

#[test]
fn dom0_that_writes_all_the_time_ends_nothing() {
    let machine = Machine::new();
    let mut guest = Guest::started(&machine);
    machine.before_steps(|store, step| {
        store.set(&format!("{HOME}/{ROOT}/{INTERVAL}"), if step % 2 == 0 { "junk" } else { "7" });
    });
    let path = format!("{ROOT}/{INTERVAL}");
    for _ in 0..20 {
        // Contended at worst: it comes again.
        let _ = guest.mirror.on_event(&mut guest.store, &guest.tunables, &StoreEvent::Changed(&path));
        assert!([5, 7].contains(&guest.tunables.number(Id::SelfballoonInterval)));
    }
    machine.before_steps(|_, _| ());
    guest.write(INTERVAL, "2");
    guest.settle();
    assert_eq!(guest.node(INTERVAL), Some("2".into()));
}
