//! What the toolstack and the guest tell each other about memory, through xenstore.

use super::worker::{self, Shared};
use crate::platform::{Kernel, Mutex};
use crate::{Domain, StoreService, swap};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ebb::balloon::Reason;
use ebb::balloon::toolstack::{FEATURE, STATIC_MAX, TARGET, parse_kib};
use ebb::daemon::Verdict;
use ebb::task::{Next, Worker};
use ebb::units::{Frames, Kib};
use ebb::xen::store::{StoreError, StoreEvent};
use spin::once::Once;

/// Where the guest says what it thinks.
const STATE: &str = "data/ebb/state";
/// How often, at most.
const PERIOD_NS: u64 = 2_000_000_000;

/// The sizes that the toolstack wrote, as far as they could be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub(super) static_max: Option<Kib>,
    pub(super) target: Option<Kib>,
}

impl Sizes {
    pub(super) fn read(domain: &Domain) -> Self {
        let Some(service) = domain.store_service() else { return Self::default() };
        let size = |path| match service.read(path).map(|text| parse_kib(&text)) {
            Ok(Ok(size)) => Some(size),
            Ok(Err(error)) => {
                log::warn!("{path}: {error}");
                None
            }
            Err(error) => {
                log::warn!("{path}: {error}");
                None
            }
        };
        Self { static_max: size(STATIC_MAX), target: size(TARGET) }
    }
}

/// What was published, so that only what has changed is written again.
type Published = Vec<(&'static str, String)>;

/// Watches the target, says that there is a balloon, and publishes what the guest thinks from now on.
pub(super) fn start(domain: &'static Domain, shared: &'static Shared) {
    let Some(service) = domain.store_service() else {
        log::warn!("without xenstore the target stays what it is");
        return;
    };
    let verdict = Arc::new(Mutex::new(Kernel, "verdict on the target", None));
    let told = Arc::clone(&verdict);
    let announced = Mutex::new(Kernel, "announcement of the balloon", false);
    let consumer = move |_: &StoreEvent<'_>| {
        let mut announced = announced.lock();
        if !*announced {
            match service.write(FEATURE.0, FEATURE.1.as_bytes()) {
                Ok(()) => {}
                // Not every toolstack gives the guest this node; xl does not, and does not ask for it.
                Err(StoreError::Refused(error)) => log::debug!("{}: {error}", FEATURE.0),
                Err(error) => return Err(error),
            }
            *announced = true;
        }
        obey(service, shared, &told)
    };
    if let Err(error) = service.watch(TARGET, Arc::new(consumer)) {
        log::error!("{TARGET} is not watched: {error}");
    }
    let mut published = Published::new();
    let publish = move || {
        // Whatever could not be written is written the next time.
        if let Err(error) = publish(service, shared, verdict.lock().as_ref(), &mut published) {
            log::debug!("{STATE}: {error}");
        }
        Next::After(PERIOD_NS)
    };
    static PUBLISHER: Once<Worker<Kernel>> = Once::new();
    match Worker::spawn(Kernel, "telemetry", publish) {
        Ok(worker) => PUBLISHER.call_once(|| worker).run_after(PERIOD_NS),
        Err(error) => log::error!("nothing is published: {error}"),
    }
}

/// Follows what is in the target's node now.
fn obey(service: &StoreService, shared: &Shared, told: &Mutex<Option<Verdict>>) -> Result<(), StoreError> {
    let text = service.read(TARGET)?;
    let verdict = shared.toolstack.lock().wish(&text);
    let last = told.lock().replace(verdict);
    if last == Some(verdict) {
        return Ok(());
    }
    match verdict {
        Verdict::Followed { ceiling, clamped, .. } => {
            if clamped.is_some() {
                log::warn!("{TARGET}: {verdict}");
            } else {
                log::info!("{TARGET}: {verdict}");
            }
            shared.obey(ceiling);
            shared.balloon.retry();
            worker::changed();
        }
        Verdict::Refused(_) => log::warn!("{TARGET}: {verdict}"),
    }
    Ok(())
}

fn publish(
    service: &StoreService,
    shared: &Shared,
    verdict: Option<&Verdict>,
    published: &mut Published,
) -> Result<(), StoreError> {
    let status = shared.balloon.status();
    let decision = *shared.decision.lock();
    let kib = |frames: Frames| frames.to_kib().get().to_string();
    let held = |state: Option<(Reason, u64)>| state.map_or("no", |(reason, _)| reason.as_str()).to_string();
    let mut now = alloc::vec![
        ("target-kib", kib(status.target)),
        ("ceiling-kib", kib(status.ceiling)),
        ("reservation-kib", kib(status.reservation)),
        ("committed-kib", kib(shared.machine.paged().committed())),
        ("free-kib", kib(shared.machine.frames().stats().available())),
        ("held-down", held(status.held_down)),
        ("held-up", held(status.held_up)),
    ];
    if let Some(decision) = decision {
        now.push(("goal-kib", kib(Frames::new(decision.goal_frames))));
        now.push(("floor-kib", kib(Frames::new(decision.floor_frames))));
        now.push(("reason", decision.reason.word().to_string()));
    }
    if let Some(swap) = swap::figures() {
        now.push(("swapped-kib", kib(shared.machine.paged().swapped())));
        now.push(("pool-kib", kib(swap.pool.frames())));
    }
    if let Some(verdict) = verdict {
        now.push(("toolstack", verdict.to_string()));
    }
    for (name, value) in now {
        match published.iter_mut().find(|(known, _)| *known == name) {
            Some((_, last)) if *last == value => {}
            Some((_, last)) => {
                write(service, name, &value)?;
                *last = value;
            }
            None => {
                write(service, name, &value)?;
                published.push((name, value));
            }
        }
    }
    Ok(())
}

fn write(service: &StoreService, name: &str, value: &str) -> Result<(), StoreError> {
    service.write(&alloc::format!("{STATE}/{name}"), value.as_bytes())
}
