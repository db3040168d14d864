//! Waiting after a refusal: one second at first, twice as long each time, 32 seconds at most.
//!
//! The times are those of Linux's balloon driver, which toolstacks know. There is no clock here: the caller says
//! what time it is.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The first wait.
pub const SHORTEST_WAIT_NS: u64 = 1_000_000_000;
/// No wait is longer.
pub const LONGEST_WAIT_NS: u64 = 32_000_000_000;

/// Why the balloon does not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reason {
    /// The domain has all that the toolstack allows it (`max_pages`).
    Limit = 1,
    /// The host has no memory, though the domain might have more.
    Host,
    /// The hypervisor does not take memory back.
    Release,
    /// What is free is the guest's own reserve.
    Reserve,
    /// Somebody in the guest has just run out of memory.
    Pressure,
    /// The direct map has no page tables for smaller pieces.
    DirectMap,
    /// The toolstack's target allows no more.
    Ceiling,
    /// Nothing is in the balloon.
    Empty,
    /// What is in the balloon, or was free, is on its way on another CPU: try again.
    InTransit,
}

impl Reason {
    const ALL: [Self; 9] = [
        Self::Limit,
        Self::Host,
        Self::Release,
        Self::Reserve,
        Self::Pressure,
        Self::DirectMap,
        Self::Ceiling,
        Self::Empty,
        Self::InTransit,
    ];

    /// A word for telemetry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Host => "host",
            Self::Release => "release",
            Self::Reserve => "reserve",
            Self::Pressure => "pressure",
            Self::DirectMap => "direct-map",
            Self::Ceiling => "ceiling",
            Self::Empty => "empty",
            Self::InTransit => "in-transit",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One direction's patience. Written by the one step that runs, reset by anybody, read by anybody.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    reason: AtomicU8,
    wait_ns: AtomicU64,
    until_ns: AtomicU64,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { reason: AtomicU8::new(0), wait_ns: AtomicU64::new(0), until_ns: AtomicU64::new(0) }
    }

    /// It was refused: when to try again.
    pub(super) fn refused(&self, now_ns: u64, reason: Reason) -> u64 {
        let wait = (self.wait_ns.load(Ordering::Relaxed) * 2).clamp(SHORTEST_WAIT_NS, LONGEST_WAIT_NS);
        self.wait_ns.store(wait, Ordering::Relaxed);
        self.held(now_ns.saturating_add(wait), reason)
    }

    /// It is not possible now, through nobody's refusal: the next refusal waits as if this had not been.
    pub(super) fn held(&self, until_ns: u64, reason: Reason) -> u64 {
        self.until_ns.store(until_ns, Ordering::Relaxed);
        self.reason.store(reason as u8, Ordering::Relaxed);
        until_ns
    }

    /// It works.
    pub(super) fn reset(&self) {
        self.wait_ns.store(0, Ordering::Relaxed);
        self.until_ns.store(0, Ordering::Relaxed);
        self.reason.store(0, Ordering::Relaxed);
    }

    /// Why nothing moves, and until when.
    pub(super) fn state(&self) -> Option<(Reason, u64)> {
        let code = self.reason.load(Ordering::Relaxed);
        let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == code)?;
        Some((reason, self.until_ns.load(Ordering::Relaxed)))
    }

    /// The same, if a refusal is to be waited out at `now_ns`.
    pub(super) fn waiting(&self, now_ns: u64) -> Option<(Reason, u64)> {
        self.state().filter(|(_, until_ns)| now_ns < *until_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let backoff = Backoff::new();
        assert_eq!(backoff.state(), None);
        let mut now = 5 * S;
        for wait in [1, 2, 4, 8, 16, 32, 32, 32] {
            let until = backoff.refused(now, Reason::Host);
            assert_eq!(until - now, wait * S);
            assert_eq!(backoff.waiting(until - 1), Some((Reason::Host, until)));
            assert_eq!(backoff.waiting(until), None);
            now = until;
        }
        backoff.reset();
        assert_eq!(backoff.refused(now, Reason::Limit) - now, S);
    }

    #[test]
    fn the_end_of_time_is_no_problem() {
        let backoff = Backoff::new();
        assert_eq!(backoff.refused(u64::MAX, Reason::Release), u64::MAX);
        assert_eq!(backoff.waiting(u64::MAX), None);
    }

    #[test]
    fn every_reason_survives_its_number() {
        for reason in Reason::ALL {
            let backoff = Backoff::new();
            backoff.held(7, reason);
            assert_eq!(backoff.state(), Some((reason, 7)));
        }
    }
}
