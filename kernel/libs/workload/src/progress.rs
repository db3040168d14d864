//! What other threads see while an application runs.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What an application is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Phase {
    /// Nothing; also before the start.
    #[default]
    Idle,
    /// Storing more, at a steady pace, while serving.
    Load,
    /// Reading and updating.
    Serve,
    /// Checking and freeing.
    Delete,
    /// Storing more as fast as possible.
    Burst,
    /// A hog's pages are held and touched.
    Touch,
    /// The run has ended.
    Done,
}

impl Phase {
    /// All phases, by their number.
    const ALL: [Self; 7] =
        [Self::Idle, Self::Load, Self::Serve, Self::Delete, Self::Burst, Self::Touch, Self::Done];

    /// Its name in records: a word of `[a-z]`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Load => "load",
            Self::Serve => "serve",
            Self::Delete => "delete",
            Self::Burst => "burst",
            Self::Touch => "touch",
            Self::Done => "done",
        }
    }
}

/// Figures of a running application, readable from any thread and in any context. The application writes them
/// every few milliseconds; each is right by itself, and together they are of about the same time.
#[derive(Debug, Default)]
pub struct Progress {
    work: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
    live_kib: AtomicU64,
    phase: AtomicU8,
}

/// The figures of a [`Progress`] at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Operations done since the start.
    pub work: u64,
    /// Times that data came back wrong.
    pub errors: u64,
    /// Allocations that were refused.
    pub refused: u64,
    /// Data held now, KiB, without what the allocator adds.
    pub live_kib: u64,
    /// What it is doing.
    pub phase: Phase,
}

impl Progress {
    /// Of an application that has not begun.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            work: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            live_kib: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Idle as u8),
        }
    }

    /// The figures now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            work: self.work.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            live_kib: self.live_kib.load(Ordering::Relaxed),
            phase: Phase::ALL
                .get(usize::from(self.phase.load(Ordering::Relaxed)))
                .copied()
                .unwrap_or_default(),
        }
    }

    /// Publishes figures. There is one writer.
    pub(crate) fn publish(&self, figures: Snapshot) {
        self.work.store(figures.work, Ordering::Relaxed);
        self.errors.store(figures.errors, Ordering::Relaxed);
        self.refused.store(figures.refused, Ordering::Relaxed);
        self.live_kib.store(figures.live_kib, Ordering::Relaxed);
        self.phase.store(figures.phase as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let progress = Progress::new();
        assert_eq!(progress.snapshot(), Snapshot::default());
        for (number, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, number);
            let figures = Snapshot { work: 1, errors: 2, refused: 3, live_kib: 4, phase };
            progress.publish(figures);
            assert_eq!(progress.snapshot(), figures);
        }
    }
}
