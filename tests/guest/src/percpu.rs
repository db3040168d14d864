//! Per-CPU references, RCU and counters in the image, under preemption and interrupts: the statements of
//! `docs/percpu-conformance.md` that only a guest can decide, and what they rest on. Here is what their cases share.

mod counter;
mod grace;
mod oracle;
mod references;

use crate::same;
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb_boot::cases::Not;
use ebb_boot::platform::{reports, words_in_use};
use ebb_boot::{Kernel, rcu};
use percpu::{Events, Misuse, PercpuRef, Reusable, Start};

/// How long a case waits for others. Generous: a busy host takes away whole CPUs for a while.
const BOUND_NS: u64 = 60_000_000_000;

/// What a count has told.
#[derive(Default)]
pub(crate) struct Seen {
    released: AtomicU64,
    confirmed: AtomicU64,
    switched: AtomicU64,
}

impl Seen {
    /// How often the last reference was dropped.
    pub(crate) fn released(&self) -> u64 {
        self.all()[0]
    }

    fn all(&self) -> [u64; 3] {
        [&self.released, &self.confirmed, &self.switched].map(|events| events.load(Ordering::SeqCst))
    }
}

/// Counts what it is told.
pub(crate) struct Watch(Arc<Seen>);

impl Events for Watch {
    fn release(&self) {
        self.0.released.fetch_add(1, Ordering::SeqCst);
    }
    fn confirmed(&self) {
        self.0.confirmed.fetch_add(1, Ordering::SeqCst);
    }
    fn switched(&self) {
        self.0.switched.fetch_add(1, Ordering::SeqCst);
    }
}

/// A count of this image.
pub(crate) type Count = PercpuRef<Kernel, Watch, Reusable>;

/// A living count, and what it tells.
pub(crate) fn count(name: &'static str, start: Start) -> Result<(Arc<Count>, Arc<Seen>), Not> {
    let seen = Arc::new(Seen::default());
    let count = PercpuRef::reusable(rcu(), name, Watch(Arc::clone(&seen)), start).map_err(misuse)?;
    Ok((Arc::new(count), seen))
}

/// A refusal that the case did not expect.
pub(crate) fn misuse(error: Misuse) -> Not {
    Not::Failed(format!("refused: {error:?}"))
}

/// References, as the count sees them.
pub(crate) fn references(count: &Count) -> i64 {
    count.inspect().map_or(i64::MIN, |found| found.references)
}

/// Repeatable randomness (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound
    }
}

/// What a case must leave as it was.
pub(crate) struct Clean {
    words: usize,
    reports: u64,
}

impl Clean {
    pub(crate) fn begin() -> Self {
        Self { words: words_in_use(), reports: reports() }
    }

    /// Nothing was reported or is left, and the books are right.
    pub(crate) fn end(&self) -> Result<(), Not> {
        rcu().barrier().map_err(misuse)?;
        same("per-CPU words in use", words_in_use(), self.words)?;
        same("reports of misuse", reports(), self.reports)?;
        rcu().validate().map_err(Not::from)
    }
}
