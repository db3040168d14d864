//! Trying again, later and later.

/// The first pause after a failure, and the longest.
const FIRST_NS: u64 = 100_000_000;
const LONGEST_NS: u64 = 30_000_000_000;

/// When to try again. Each failure doubles the pause, up to 30 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Backoff {
    pause_ns: u64,
    at_ns: u64,
}

impl Backoff {
    /// It failed, now.
    pub(super) fn postpone(&mut self, now_ns: u64) {
        self.pause_ns = self.pause_ns.saturating_mul(2).clamp(FIRST_NS, LONGEST_NS);
        self.at_ns = now_ns.saturating_add(self.pause_ns);
    }

    /// It is time.
    pub(super) const fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.at_ns
    }

    /// When it is time; 0 without a failure.
    pub(super) const fn at_ns(&self) -> u64 {
        self.at_ns
    }

    /// Whether the last attempt failed.
    pub(super) const fn is_failing(&self) -> bool {
        self.pause_ns != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_over(0) && !backoff.is_failing());
        let mut now_ns = 5;
        for pause_ms in [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
            backoff.postpone(now_ns);
            assert_eq!(backoff.at_ns(), now_ns + pause_ms * 1_000_000);
            assert!(!backoff.is_over(backoff.at_ns() - 1) && backoff.is_over(backoff.at_ns()));
            now_ns = backoff.at_ns();
        }
        backoff.postpone(u64::MAX);
        assert_eq!(backoff.at_ns(), u64::MAX);
    }
}
