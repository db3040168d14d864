//! Whether guest and host tell the same of the guest's memory.
//!
//! They never look at quite the same instant, and between two looks memory may move. So a guest's `reservation_kib` is
//! held against all that the host saw around it: from the last look at or before the guest's sample to the first at or
//! after it, each moved out by [`SLACK_MS`], for that is how well the two clocks are known to agree. It agrees if it
//! lies between the least and the most of these looks, give or take [`STEP_KIB`]: one step of the balloon. A sample that
//! the host's looks do not enclose is not compared.

use super::timeline::Track;

/// The largest step in which the balloon moves memory: a block.
pub(crate) const STEP_KIB: u64 = 2048;
/// How well an instant of the guest is known by dom0's clock.
const SLACK_MS: u64 = 100;

/// How often guest and host were compared, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Samples that could be compared.
    pub(crate) compared: u64,
    /// Those of them that differ by more than a step.
    pub(crate) disagreements: u64,
}

/// Compares all samples of a guest.
pub(crate) fn compare(track: &Track) -> Agreement {
    let mut agreement = Agreement::default();
    for sample in &track.samples {
        let Some(guest_kib) = sample.reservation_kib else { continue };
        let Some((least, most)) = around(track, sample.at_ms) else { continue };
        agreement.compared += 1;
        let agrees = (least.saturating_sub(STEP_KIB)..=most.saturating_add(STEP_KIB)).contains(&guest_kib);
        agreement.disagreements += u64::from(!agrees);
    }
    agreement
}

/// The least and the most that the host saw around an instant.
fn around(track: &Track, at_ms: u64) -> Option<(u64, u64)> {
    let host = &track.host;
    let first = host.partition_point(|point| point.at_ms <= at_ms.saturating_sub(SLACK_MS)).checked_sub(1)?;
    let last = host.partition_point(|point| point.at_ms < at_ms.saturating_add(SLACK_MS));
    let looks = host.get(first..=last)?.iter().map(|point| point.kib);
    Some((looks.clone().min()?, looks.max()?))
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{GuestSample, HostPoint};
    use super::*;

    /// A guest that says one thing at 1000 ms, and what the host saw.
    fn compared(guest_kib: u64, host: &[(u64, u64)]) -> Agreement {
        let sample = GuestSample { at_ms: 1000, reservation_kib: Some(guest_kib), ..GuestSample::default() };
        let host =
            host.iter().map(|&(at_ms, kib)| HostPoint { at_ms, kib, ..HostPoint::default() }).collect();
        compare(&Track { samples: vec![sample], host, ..Track::default() })
    }

    const AGREES: Agreement = Agreement { compared: 1, disagreements: 0 };
    const DIFFERS: Agreement = Agreement { compared: 1, disagreements: 1 };

    #[test]
    fn the_same_agrees_and_a_step_more_or_less() {
        let steady = [(600, 50_000), (1100, 50_000)];
        for kib in [50_000, 50_000 - STEP_KIB, 50_000 + STEP_KIB] {
            assert_eq!(compared(kib, &steady), AGREES, "{kib}");
        }
        for kib in [50_000 - STEP_KIB - 1, 50_000 + STEP_KIB + 1] {
            assert_eq!(compared(kib, &steady), DIFFERS, "{kib}");
        }
    }

    #[test]
    fn while_memory_moves_anything_between_agrees() {
        let falling = [(500, 200_000), (900, 150_000), (1100, 100_000), (1500, 10_000)];
        assert_eq!(compared(120_000, &falling), AGREES);
        assert_eq!(compared(180_000, &falling), DIFFERS, "that was before");
        // These looks may be on either side of the sample.
        assert_eq!(compared(180_000, &[(500, 200_000), (950, 100_000), (1200, 100_000)]), AGREES);
    }

    #[test]
    fn what_the_host_did_not_see_is_not_compared() {
        for host in [&[][..], &[(600, 1)], &[(1300, 1)], &[(950, 1), (1300, 1)], &[(600, 1), (1050, 1)]] {
            assert_eq!(compared(1, host), Agreement::default(), "{host:?}");
        }
        let silent = Track { samples: vec![GuestSample::default()], ..Track::default() };
        assert_eq!(compare(&silent), Agreement::default());
    }
}
