//! The tunables of this machine: the command line sets them first, dom0 and the console shell later.
//!
//! Whoever has a mechanism serves its group, `tunables().serve(Group::…)`, and then calls [`publish`].

use crate::platform::Mutex;
use crate::{Kernel, StoreService};
use alloc::sync::Arc;
use ebb::task::SpawnError;
use ebb::tunable::{Mirror, ROOT, Tunables};
use ebb::xen::store::{StoreEvent, WatchId};
use policy::boot::Options;
use spin::once::Once;

static TUNABLES: Tunables = Tunables::new();
/// The switches of the command line.
static SWITCHES: Once<Options> = Once::new();
/// Who shows them in xenstore.
static MIRROR: Once<(&'static StoreService, WatchId)> = Once::new();

/// The tunables. Any context.
#[must_use]
pub fn tunables() -> &'static Tunables {
    &TUNABLES
}

/// The switches of the command line, `tmem` and its kin. Any context.
#[must_use]
pub fn switches() -> Options {
    SWITCHES.get().copied().unwrap_or_default()
}

/// The command line has been read.
pub(crate) fn set_switches(options: Options) {
    SWITCHES.call_once(|| options);
}

/// Shows the tunables in xenstore from now on, and sets what dom0 writes there. To be called once.
///
/// # Errors
///
/// As [`StoreService::watch`].
pub fn mirror_in(service: &'static StoreService) -> Result<(), SpawnError> {
    let mirror = Mutex::new(Kernel, "tunables in xenstore", Mirror::new());
    let consumer =
        move |event: &StoreEvent<'_>| mirror.lock().on_event(&mut *service.connection()?, tunables(), event);
    let watch = service.watch(ROOT, Arc::new(consumer))?;
    MIRROR.call_once(|| (service, watch));
    Ok(())
}

/// Has xenstore show what was changed here, or is served since. Does not wait for it. For threads.
pub fn publish() {
    if let Some((service, watch)) = MIRROR.get() {
        service.repeat(*watch);
    }
}
