//! What the exchange counts. Each counter only grows.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of the counters since boot. Not taken at one instant: while calls are under way, sums may be
        /// off by what these are doing.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct ExchangeStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ExchangeStats {
            /// The counters with their names, in the order of their declaration: for telemetry.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            pub(super) const fn new() -> Self {
                Self { $($name: AtomicU64::new(0),)* }
            }

            pub(super) fn snapshot(&self) -> ExchangeStats {
                ExchangeStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Hypercalls that release.
    release_calls,
    /// Hypercalls that populate.
    populate_calls,
    /// Hypercalls that ask what is behind a frame, after a failure.
    probe_calls,
    /// Blocks released by one extent.
    released_blocks,
    /// Frames released by extents of one frame.
    released_frames,
    /// Blocks populated by one extent.
    populated_blocks,
    /// Frames populated by extents of one frame.
    populated_frames,
    /// Lists that the hypervisor did not finish releasing.
    release_refusals,
    /// Lists that the hypervisor did not finish populating.
    populate_refusals,
    /// Blocks that were finished frame by frame on their way out.
    release_splits,
    /// Blocks that were begun frame by frame on their way back.
    populate_splits,
    /// Blocks of which the hypervisor had taken a part when it failed.
    half_done_blocks,
    /// Frames scrubbed.
    scrubbed_frames,
    /// Frames that left without scrubbing, being known to be zero.
    known_zero_frames,
    /// Extents that stayed because the direct map could not let go of them.
    hide_failures,
    /// Extents that the direct map could not take back at once.
    show_failures,
    /// Extents that were ready to leave when somebody needed memory, and stayed.
    aborted,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
