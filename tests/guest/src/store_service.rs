//! The store for several threads at once, against the real daemon.

use crate::store::Patient;
use crate::{domain_of, ensure, failed, same};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use ebb::port::Clock;
use ebb::xen::store::{StoreError, StoreEvent};
use ebb_boot::cases::Not;
use ebb_boot::platform::WaitQueue;
use ebb_boot::{Kernel, Machine, StoreService, case, threads};

const OWN: &str = "data/ebb-service";
/// Threads, and requests of each.
const THREADS: usize = 4;
const ROUNDS: usize = 8;
/// How long an event may take, on a host that is busy with other things.
const BOUND_NS: u64 = 60_000_000_000;

fn service_of(machine: &'static Machine) -> Result<&'static StoreService, Not> {
    domain_of(machine)?.store_service().ok_or_else(|| "this domain has no store".into())
}

/// What a thread does: writes a node and reads it back, again and again.
fn write_and_read(service: &StoreService, number: usize) -> Result<(), String> {
    let path = format!("{OWN}/{number}");
    for round in 0..ROUNDS {
        let value = format!("{number} {round}");
        service.write(&path, value.as_bytes()).map_err(|error| format!("write {value}: {error}"))?;
        let read = service.read_text(&path).map_err(|error| format!("read {value}: {error}"))?;
        if read != value {
            return Err(format!("wrote {value:?}, read {read:?}"));
        }
    }
    Ok(())
}

case!(on Xen: "store.threads_share_the_connection", |machine| {
    static LAST: WaitQueue = WaitQueue::new(Kernel);
    let service = service_of(machine)?;
    let _patient = Patient::begin(service)?;
    let unannounced = || service.connection().map(|store| store.unannounced());
    let before = unannounced().map_err(|error| failed("the connection")(&error))?;
    // The consumer reads what changed, and counts threads whose last value it has seen.
    let seen: Arc<[AtomicUsize; THREADS]> = Arc::default();
    let shared = Arc::clone(&seen);
    let watch = service
        .watch(OWN, Arc::new(move |_: &StoreEvent<'_>| {
            for (number, seen) in shared.iter().enumerate() {
                match service.read_text(&format!("{OWN}/{number}")) {
                    Ok(value) if value == format!("{number} {}", ROUNDS - 1) => seen.store(1, Ordering::Release),
                    Ok(_) | Err(StoreError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            LAST.wake_all();
            Ok(())
        }))
        .map_err(|error| failed("watch")(&error))?;
    let workers: Result<Vec<_>, _> = (0..THREADS)
        .map(|number| threads().spawn("store user", move || write_and_read(service, number)))
        .collect();
    for worker in workers.map_err(|error| failed("spawn")(&error))? {
        worker.join().map_err(Not::Failed)?;
    }
    let deadline_ns = domain_of(machine)?.clock().now_ns() + BOUND_NS;
    let all = || seen.iter().all(|seen| seen.load(Ordering::Acquire) == 1);
    ensure(LAST.wait_until_deadline(deadline_ns, all), "the consumer never saw every thread's last value")?;
    ensure(service.unwatch(watch), "the watch is gone")?;
    service.rm(OWN).map_err(|error| failed("rm")(&error))?;
    // A request whose answer was there before its time was over, and was not told of, waited for nothing.
    same("answers that nobody told of", unannounced(), Ok(before))
});

case!(on Xen: "store.a_watch_is_heard_while_nobody_asks", |machine| {
    static HEARD: WaitQueue = WaitQueue::new(Kernel);
    let service = service_of(machine)?;
    let _patient = Patient::begin(service)?;
    let calls = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&calls);
    let watch = service
        .watch(OWN, Arc::new(move |_: &StoreEvent<'_>| {
            shared.fetch_add(1, Ordering::AcqRel);
            HEARD.wake_all();
            Ok(())
        }))
        .map_err(|error| failed("watch")(&error))?;
    let clock = domain_of(machine)?.clock();
    let heard = |wanted: usize| {
        HEARD.wait_until_deadline(clock.now_ns() + BOUND_NS, || calls.load(Ordering::Acquire) >= wanted)
    };
    ensure(heard(1), "no event for setting the watch")?;
    for wanted in 2..5 {
        service.write(OWN, b"x").map_err(|error| failed("write")(&error))?;
        ensure(heard(wanted), "no event for a change")?;
    }
    ensure(service.unwatch(watch), "the watch is gone")?;
    service.rm(OWN).map_err(|error| failed("rm")(&error))
});
