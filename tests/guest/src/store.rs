//! The store client, against the real daemon.

use crate::{domain_of, ensure, failed, same};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use ebb::port::Clock;
use ebb::xen::store::{DEFAULT_TIMEOUT_NS, Store, StoreError, WatchEvent};
use ebb_boot::case;
use ebb_boot::cases::Not;
use ebb_boot::domain::Sleeping;
use ebb_boot::{Domain, Machine, StoreService, report};
use xen_abi::Errno;

/// A directory that the toolstack gives every guest for its own use.
const OWN: &str = "data/ebb-test";
/// How long an event may take, on a host that is busy with other things.
const EVENT_NS: u64 = 60_000_000_000;

/// How long a request may take: a host that is busy with other things may put dom0 aside for many seconds.
const PATIENT_NS: u64 = 60_000_000_000;

/// Requests are waited for so long while this lives.
pub(crate) struct Patient(&'static StoreService);

impl Patient {
    pub(crate) fn begin(service: &'static StoreService) -> Result<Self, Not> {
        service.connection().map_err(|error| failed("the connection")(&error))?.set_timeout_ns(PATIENT_NS);
        Ok(Self(service))
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        if let Ok(mut store) = self.0.connection() {
            store.set_timeout_ns(DEFAULT_TIMEOUT_NS);
        }
    }
}

/// Runs `body` with the store, in an empty directory.
fn with_store(
    machine: &'static Machine,
    body: impl FnOnce(&'static Domain, &mut Store<Sleeping>) -> Result<(), Not>,
) -> Result<(), Not> {
    let domain = domain_of(machine)?;
    let service =
        domain.store_service().ok_or_else(|| Not::Failed(String::from("this domain has no store")))?;
    let _patient = Patient::begin(service)?;
    let mut store = service.connection().map_err(|error| failed("the connection")(&error))?;
    let clean = failed("the directory for tests cannot be emptied");
    store.rm(OWN).map_err(|error| clean(&error))?;
    body(domain, &mut store)?;
    store.rm(OWN).map_err(|error| clean(&error))
}

fn at(name: &str) -> String {
    format!("{OWN}/{name}")
}

case!(on Xen: "store.the_domain_knows_its_number", |machine| {
    with_store(machine, |_, store| {
        let number = store.read_text("domid").map_err(|error| failed("domid")(&error))?;
        let cpuid = machine.hypervisor().and_then(|on_xen| on_xen.detected.domain);
        same("domid", number.parse().ok(), cpuid.map(|domain| domain.get()))?;
        let path = store
            .domain_path(ebb::units::DomId::new(number.parse().unwrap_or_default()))
            .map_err(|error| failed("the domain's path")(&error))?;
        same("path", path, format!("/local/domain/{number}"))
    })
});

case!(on Xen: "store.what_is_written_is_read", |machine| {
    with_store(machine, |_, store| {
        for size in [0, 1, 1000, 1024, 1900] {
            let value = vec![b'x'; size];
            store.write(&at("value"), &value).map_err(|error| failed("write")(&error))?;
            let read = store.read(&at("value")).map_err(|error| failed("read")(&error))?;
            ensure(read == value, &format!("{size} bytes were read back as {}", read.len()))?;
        }
        Ok(())
    })
});

case!(on Xen: "store.refusals_are_errors", |machine| {
    with_store(machine, |_, store| {
        same("a missing node", store.read(&at("none")), Err(StoreError::Refused(Errno::ENOENT)))?;
        same("a foreign node", store.write("/tool/ebb", b"x"), Err(StoreError::Refused(Errno::EACCES)))?;
        let large = vec![b'x'; 2100];
        same(
            "a value over the quota",
            store.write(&at("large"), &large),
            Err(StoreError::Refused(Errno::ENOSPC)),
        )?;
        same("the connection still works", store.read_text(&at("none")).is_err(), true)
    })
});

case!(on Xen: "store.a_large_directory_is_listed_whole", |machine| {
    with_store(machine, |_, store| {
        // More than the ring holds at once. A domU's node may not have more: its quota counts the names too.
        let name = |index: usize| format!("{index:0>100}");
        for index in 0..18 {
            store.write(&at(&name(index)), b"").map_err(|error| failed("write")(&error))?;
        }
        let mut names = store.directory(OWN).map_err(|error| failed("directory")(&error))?;
        names.sort();
        same("names", names.len(), 18)?;
        ensure(names.iter().enumerate().all(|(index, found)| *found == name(index)), "a name is wrong")
    })
});

/// Waits for an event of `token`, and answers its path.
fn event(domain: &Domain, store: &mut Store<Sleeping>, token: &str) -> Result<String, Not> {
    let deadline_ns = domain.clock().now_ns() + EVENT_NS;
    while let Some(event) = store.wait_event(deadline_ns).map_err(|error| failed("waiting")(&error))? {
        match event {
            WatchEvent::Changed { path, token: of } if of == token => return Ok(path),
            WatchEvent::Changed { .. } | WatchEvent::Lost => {}
        }
    }
    Err("no watch event came".into())
}

case!(on Xen: "store.a_watch_fires_at_registration_and_on_change", |machine| {
    with_store(machine, |domain, store| {
        store.watch(&at("watched"), "t").map_err(|error| failed("watch")(&error))?;
        same("first event", event(domain, store, "t")?, at("watched"))?;
        store.write(&at("watched/child"), b"1").map_err(|error| failed("write")(&error))?;
        same("event below", event(domain, store, "t")?, at("watched/child"))?;
        same(
            "the same watch again",
            store.watch(&at("watched"), "t"),
            Err(StoreError::Refused(Errno::EEXIST)),
        )?;
        store.unwatch(&at("watched"), "t").map_err(|error| failed("unwatch")(&error))
    })
});

case!(on Xen: "store.a_transaction_in_conflict_is_run_again", |machine| {
    with_store(machine, |_, store| {
        let path = at("counter");
        store.write(&path, b"1").map_err(|error| failed("write")(&error))?;
        let mut runs = 0;
        let result = store.transaction(|transaction| {
            runs += 1;
            let value: u32 = transaction.read_text(&path)?.parse().unwrap_or_default();
            if runs == 1 {
                transaction.outside().write(&path, b"10")?;
            }
            transaction.write(&path, format!("{}", value + 1).as_bytes())
        });
        same("the transaction", result, Ok(()))?;
        same("runs", runs, 2)?;
        same("the value", store.read_text(&path), Ok(String::from("11")))
    })
});

case!(on Xen: "store.an_aborted_transaction_leaves_nothing", |machine| {
    with_store(machine, |_, store| {
        let path = at("aborted");
        let result: Result<(), StoreError> = store.transaction(|transaction| {
            transaction.write(&path, b"x")?;
            Err(StoreError::BadRequest("on purpose"))
        });
        same("the error", result, Err(StoreError::BadRequest("on purpose")))?;
        same("the node", store.read(&path), Err(StoreError::Refused(Errno::ENOENT)))
    })
});

/// How long a request may take here.
const SHORT_NS: u64 = 300_000_000;
/// How long the harness may take to act.
const HELP_NS: u64 = 180_000_000_000;

case!(on Xen, with help: "store.a_store_that_sleeps_times_out_and_recovers", |machine| {
    with_store(machine, |domain, store| {
        store.write(&at("asked"), b"the right answer").map_err(|error| failed("write")(&error))?;
        store.set_timeout_ns(SHORT_NS);
        report("help", &[("with", &"stop-xenstored")]);
        let deadline_ns = domain.clock().now_ns() + HELP_NS;
        let read_until = |store: &mut Store<Sleeping>, wanted: fn(&Result<String, StoreError>) -> bool| {
            while domain.clock().now_ns() < deadline_ns {
                let answer = store.read_text(&at("asked"));
                if wanted(&answer) {
                    return Ok(());
                }
                let right = answer == Ok(String::from("the right answer"));
                ensure(right || answer == Err(StoreError::Timeout), &format!("the answer is {answer:?}"))?;
            }
            Err(Not::from("the harness did not help in time"))
        };
        read_until(store, |answer| *answer == Err(StoreError::Timeout))?;
        report("help", &[("with", &"wake-xenstored")]);
        read_until(store, Result::is_ok)?;
        store.set_timeout_ns(PATIENT_NS);
        // Late answers to what was given up are not taken for answers to this.
        for _ in 0..3 {
            same("a missing node", store.read(&at("none")), Err(StoreError::Refused(Errno::ENOENT)))?;
        }
        ensure(store.skipped() > 0, "no late answer came")
    })
});
