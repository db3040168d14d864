//! Tunables: through the real store, and set for as long as a case wants them so.

use crate::{domain_of, ensure, failed, same};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use ebb::port::Clock;
use ebb::tunable::{Group, Id, STATUS};
use ebb::xen::store::StoreEvent;
use ebb_boot::cases::Not;
use ebb_boot::platform::WaitQueue;
use ebb_boot::{Kernel, case, report, tunables};

/// A tunable that has another value while this lives: a case that fails half-way leaves it as it was.
#[must_use = "the tunable is as it was when this is dropped"]
pub(crate) struct Setting {
    id: Id,
    /// The value before, as text since there was memory for one.
    before: String,
}

impl Setting {
    /// Sets it.
    pub(crate) fn new(id: Id, value: &str) -> Result<Self, Not> {
        let path = id.declaration().path;
        let before =
            tunables().text(id).ok_or_else(|| alloc::format!("{path} has no value yet"))?.to_string();
        tunables().set(id, value).map_err(|error| failed(path)(&error))?;
        Ok(Self { id, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let set = tunables().set(self.id, &self.before);
        assert!(set.is_ok(), "a tunable refuses the value that it had: {set:?}");
    }
}

/// How long the harness may take to act.
const HELP_NS: u64 = 180_000_000_000;

/// dom0 was told something, which is said after every write that the guest has judged.
static CHANGED: WaitQueue = WaitQueue::new(Kernel);

case!(on Xen, with help: "tunables.dom0_sets_them_and_is_refused", |machine| {
    let domain = domain_of(machine)?;
    let service = domain.store_service().ok_or("this domain has no store")?;
    let deadline_ns = domain.clock().now_ns() + HELP_NS;
    ensure(tunables().is_served(Group::Selfballoon), "this guest has no selfballooning")?;
    tunables::mirror_in(service).map_err(|error| failed("mirror")(&error))?;
    // What dom0 is told, heard as dom0 hears it. The condition below takes no lock but a spin lock.
    static TOLD: spin::mutex::SpinMutex<String> = spin::mutex::SpinMutex::new(String::new());
    let hear = move |_: &StoreEvent<'_>| {
        let status = match service.read_text(STATUS) {
            Err(ebb::xen::store::StoreError::Refused(_)) => String::new(),
            status => status?,
        };
        *TOLD.lock() = status;
        CHANGED.wake_all();
        Ok(())
    };
    service.watch(STATUS, Arc::new(hear)).map_err(|error| failed("watch")(&error))?;
    let interval_is = |wanted: u64| {
        CHANGED.wait_until_deadline(deadline_ns, || tunables().number(Id::SelfballoonInterval) == wanted)
    };
    let told = |what: &str| CHANGED.wait_until_deadline(deadline_ns, || TOLD.lock().contains(what));

    report("help", &[("with", &"set-interval-3")]);
    ensure(interval_is(3), "dom0's 3 did not come in time")?;
    ensure(told(": ok"), "dom0 was not told that 3 is in force")?;
    report("help", &[("with", &"set-interval-0")]);
    ensure(told("not accepted"), "dom0's 0 did not come in time, or was not refused")?;
    same("the interval", tunables().number(Id::SelfballoonInterval), 3)?;
    // One thread serves both watches: when dom0 is told, the node shows the value in force again.
    let path = alloc::format!("{}/{}", ebb::tunable::ROOT, Id::SelfballoonInterval.declaration().path);
    same("the node", service.read_text(&path), Ok(String::from("3")))?;
    report("help", &[("with", &"look")]);
    ensure(interval_is(4), "dom0 did not look in time")
});
