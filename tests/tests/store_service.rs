//! Watches served over a connection that may be slow, silent or gone, against the daemon's model.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ebb::port::Clock;
use ebb::xen::store::{
    Consumer, Link, Shared, Store, StoreError, StoreEvent, WatchEvent, WatchId, WatchState, Watches,
};
use ebb_tests::dom0::{GUEST, Machine, STORE_PORT};
use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use xen_abi::Errno;

const HOME: &str = "/local/domain/7";
const SECOND_NS: u64 = 1_000_000_000;

/// The service's surroundings: borrows in place of locks, so that one that is held too long is found out.
struct Service<'m> {
    machine: &'m Machine,
    store: RefCell<Store<&'m Machine>>,
    watches: RefCell<Watches>,
    link: RefCell<Link>,
}

impl<'m> Shared<&'m Machine> for Service<'m> {
    fn with_store<R>(&self, f: impl FnOnce(&mut Store<&'m Machine>) -> R) -> Option<R> {
        Some(f(&mut *self.store.try_borrow_mut().ok()?))
    }
    fn with_watches<R>(&self, f: impl FnOnce(&mut Watches) -> R) -> R {
        f(&mut self.watches.borrow_mut())
    }
    fn now_ns(&self) -> u64 {
        self.machine.now_ns()
    }
}

impl<'m> Service<'m> {
    fn new(machine: &'m Machine) -> Self {
        let mut store = Store::new(machine.store_page, STORE_PORT, machine);
        store.set_timeout_ns(SECOND_NS / 10);
        let (watches, link) = (RefCell::default(), RefCell::default());
        Self { machine, store: RefCell::new(store), watches, link }
    }

    /// Serves for so long.
    fn run(&self, seconds: u64) {
        let end_ns = self.now_ns() + seconds * SECOND_NS;
        while self.now_ns() < end_ns {
            let until_ns = self.link.borrow_mut().step(self).min(end_ns);
            ebb::port::Wait::wait(self.machine, STORE_PORT, until_ns);
        }
    }

    fn watch(&self, path: &str, heard: &Heard) -> WatchId {
        self.watches.borrow_mut().add(path, heard.consumer())
    }

    fn state(&self, id: WatchId) -> Option<WatchState> {
        self.watches.borrow().state(id).cloned()
    }
}

/// What a consumer was told, and what it is to answer next.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<(Vec<String>, Vec<StoreError>)>>);

impl Heard {
    fn consumer(&self) -> Consumer {
        let heard = self.clone();
        Arc::new(move |event: &StoreEvent<'_>| {
            let mut inner = heard.0.lock().unwrap();
            inner.0.push(match event {
                StoreEvent::Changed(path) => (*path).to_string(),
                StoreEvent::Again => "again".to_string(),
            });
            inner.1.pop().map_or(Ok(()), Err)
        })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }

    fn fail_next(&self, times: usize) {
        self.0.lock().unwrap().1 = vec![StoreError::Timeout; times];
    }
}

#[test]
fn each_consumer_hears_of_its_own_path() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let (target, data) = (Heard::default(), Heard::default());
    service.watch("memory/target", &target);
    service.watch("data", &data);
    service.run(1);
    assert_eq!((target.take(), data.take()), (vec!["memory/target".into()], vec!["data".into()]));
    machine.store.borrow_mut().set(&format!("{HOME}/data/x"), "1");
    service.run(1);
    assert_eq!((target.take(), data.take()), (vec![], vec!["data/x".into()]));
}

#[test]
fn events_that_a_request_finds_are_not_lost() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    service.watch("memory/target", &heard);
    service.run(1);
    heard.take();
    machine.store.borrow_mut().set(&format!("{HOME}/memory/target"), "1");
    machine.settle(10);
    // Another thread's request takes the port's event and everything in the ring.
    assert_eq!(service.store.borrow_mut().read_text("domid"), Ok("7".to_string()));
    assert!(service.store.borrow().has_events());
    service.link.borrow_mut().step(&service);
    assert_eq!(heard.take(), ["memory/target"]);
    assert!(!service.store.borrow().has_events());
}

#[test]
fn consumers_are_called_with_nothing_locked() {
    let machine = Box::leak(Box::new(Machine::new()));
    let service: &'static Service<'static> = Box::leak(Box::new(Service::new(machine)));
    let later = Heard::default();
    // A consumer must be `Send`, and the model is not: it may as well go by its address, on this one thread.
    struct Here(&'static Service<'static>);
    let seen = Arc::new(Mutex::new(Vec::new()));
    thread_local! { static HERE: RefCell<Option<Here>> = const { RefCell::new(None) }; }
    HERE.with(|here| *here.borrow_mut() = Some(Here(service)));
    let (values, also) = (Arc::clone(&seen), later.clone());
    let consumer: Consumer = Arc::new(move |_: &StoreEvent<'_>| {
        HERE.with(|here| {
            let here = here.borrow();
            let service = here.as_ref().unwrap().0;
            values.lock().unwrap().push(service.store.borrow_mut().read_text("domid")?);
            service.watch("data", &also);
            Ok(())
        })
    });
    service.watches.borrow_mut().add("control", consumer);
    service.run(1);
    assert_eq!(*seen.lock().unwrap(), ["7"]);
    assert_eq!(later.take(), ["data"], "a watch that a consumer added is set at once");
}

#[test]
fn a_silent_store_delays_watches_and_loses_none() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    let id = service.watch("memory/target", &heard);
    service.run(20);
    assert_eq!(service.state(id), Some(WatchState::Due));
    assert!(heard.take().is_empty());
    machine.store.borrow_mut().behaviour(GUEST).silent = false;
    service.run(40);
    assert_eq!(service.state(id), Some(WatchState::Set));
    assert!(heard.take().contains(&"memory/target".to_string()));
    assert_eq!(
        machine.store.borrow_mut().watches(GUEST),
        1,
        "attempts whose answer did not come left none more"
    );
}

#[test]
fn attempts_on_a_silent_store_become_rare() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    service.watch("memory/target", &Heard::default());
    machine.store.borrow_mut().behaviour(GUEST).silent = true;
    let mut steps = 0;
    let end_ns = 600 * SECOND_NS;
    while service.now_ns() < end_ns {
        let until_ns = service.link.borrow_mut().step(&service).min(end_ns);
        ebb::port::Wait::wait(&machine, STORE_PORT, until_ns);
        steps += 1;
    }
    assert!((10..60).contains(&steps), "{steps} attempts in ten minutes");
}

#[test]
fn a_refused_watch_is_said_and_left() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    let (bad, good) = (service.watch("no//path", &heard), service.watch("data", &heard));
    service.run(5);
    assert_eq!(service.state(bad), Some(WatchState::Refused(StoreError::Refused(Errno::EINVAL))));
    assert_eq!(service.state(good), Some(WatchState::Set));
    assert_eq!(heard.take(), ["data"]);
}

#[test]
fn a_consumer_that_fails_is_called_until_it_does_not() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    heard.fail_next(3);
    service.watch("data", &heard);
    service.run(10);
    assert_eq!(heard.take(), ["data", "again", "again", "again"]);
}

#[test]
fn an_ended_watch_hears_nothing_more() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    let id = service.watch("data", &heard);
    service.run(1);
    heard.take();
    assert!(service.watches.borrow_mut().remove(id));
    machine.store.borrow_mut().set(&format!("{HOME}/data/x"), "1");
    service.run(1);
    assert!(heard.take().is_empty());
    assert_eq!(machine.store.borrow_mut().watches(GUEST), 0);
}

#[test]
fn a_broken_connection_is_made_anew_with_all_watches() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let (target, data) = (Heard::default(), Heard::default());
    service.watch("memory/target", &target);
    service.watch("data", &data);
    service.run(1);
    target.take();
    data.take();
    // A header that promises more than the protocol allows.
    machine.store.borrow_mut().inject(GUEST, &[0xFF; 64]);
    machine.settle(10);
    assert!(
        matches!(service.store.borrow_mut().read("domid"), Err(StoreError::Broken(_))),
        "said to who asks"
    );
    service.run(5);
    assert!(service.store.borrow().failure().is_none());
    assert_eq!(machine.store.borrow_mut().watches(GUEST), 2);
    assert!(target.take().contains(&"again".to_string()) && data.take().contains(&"again".to_string()));
    machine.store.borrow_mut().set(&format!("{HOME}/memory/target"), "5");
    service.run(1);
    assert_eq!(target.take(), ["memory/target"]);
}

#[test]
fn floods_end_in_a_look_at_everything() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    service.watch("data", &heard);
    service.run(1);
    heard.take();
    for number in 0..500 {
        machine.store.borrow_mut().set(&format!("{HOME}/data/n{number}"), "1");
    }
    machine.settle(20);
    service.run(5);
    let told = heard.take();
    let all = (0..500).all(|number| told.contains(&format!("data/n{number}")));
    assert!(all || told.contains(&"again".to_string()), "{} events", told.len());
}

#[test]
fn foreign_tokens_are_nobodys() {
    let machine = Machine::new();
    let service = Service::new(&machine);
    let heard = Heard::default();
    service.watch("data", &heard);
    service.run(1);
    heard.take();
    service.store.borrow_mut().watch("data", "somebody else's").unwrap();
    service.run(1);
    assert!(heard.take().is_empty());
    assert_eq!(service.store.borrow_mut().next_event(), None::<WatchEvent>);
}
