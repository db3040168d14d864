//! Puts what was sampled by several clocks on one.
//!
//! A sample carries the time of the clock it was taken by; its arrival here is later by a delay that varies, and more
//! so on a machine that is busy. All clocks run at the same rate, so the sample of the shortest delay tells the offset
//! of its clock best; the others are placed by the same offset. The shortest delay is looked for among neighbours only:
//! a clock that steps, or a guest that was paused, is followed after a few seconds.

/// How far neighbours may be away, by their arrival.
const NEAR_MS: u64 = 5_000;

/// When a sample was taken and when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// By our clock.
    pub(crate) arrived_ms: u64,
    /// By the clock of who took it.
    pub(crate) own_ms: u64,
}

/// The times of all readings by our clock. They never go back, and none is after its arrival. Readings are in the order
/// of their arrival; where the other clock goes back, it is a new one.
pub(crate) fn place(readings: &[Reading]) -> Vec<u64> {
    let mut placed: Vec<u64> = Vec::with_capacity(readings.len());
    for clock in readings.chunk_by(|one, next| one.own_ms <= next.own_ms) {
        let mut first = 0;
        for reading in clock {
            first += clock
                .iter()
                .skip(first)
                .take_while(|other| other.arrived_ms + NEAR_MS < reading.arrived_ms)
                .count();
            let near =
                clock.iter().skip(first).take_while(|other| other.arrived_ms <= reading.arrived_ms + NEAR_MS);
            let offset = near.map(|other| ahead(other.arrived_ms, other.own_ms)).min().unwrap_or_default();
            let at = i128::from(reading.own_ms) + offset;
            let at = u64::try_from(at.max(0)).unwrap_or(u64::MAX);
            placed.push(at.max(placed.last().copied().unwrap_or_default()));
        }
    }
    placed
}

fn ahead(arrived_ms: u64, own_ms: u64) -> i128 {
    i128::from(arrived_ms) - i128::from(own_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_all(readings: &[(u64, u64)]) -> Vec<u64> {
        let readings: Vec<Reading> =
            readings.iter().map(|&(arrived_ms, own_ms)| Reading { arrived_ms, own_ms }).collect();
        place(&readings)
    }

    #[test]
    fn delays_do_not_show() {
        // Taken every 500 ms by a clock that is 2 s behind; the delays are 80, 10, 300 and 10 ms.
        let placed = place_all(&[(2080, 0), (2510, 500), (3300, 1000), (3510, 1500)]);
        assert_eq!(placed, [2010, 2510, 3010, 3510]);
    }

    #[test]
    fn a_clock_ahead_of_ours_is_no_problem() {
        assert_eq!(place_all(&[(10, 1_000_000), (510, 1_000_500)]), [10, 510]);
        assert_eq!(place_all(&[(5, u64::MAX - 1)]), [5]);
    }

    #[test]
    fn a_clock_that_goes_back_is_a_new_one() {
        assert_eq!(
            place_all(&[(5000, 4000), (5500, 4500), (9100, 100), (9600, 600)]),
            [5000, 5500, 9100, 9600]
        );
    }

    #[test]
    fn a_pause_is_followed() {
        // The guest was paused for 60 s after its second sample: its clock stood still.
        let readings: Vec<(u64, u64)> =
            (0..40).map(|n| (n * 500 + if n < 2 { 10 } else { 60_010 }, n * 500)).collect();
        let placed = place_all(&readings);
        assert_eq!(placed[1], 510);
        assert_eq!(placed[2], 61_010);
        assert_eq!(placed[39], 79_510);
        assert!(placed.is_sorted());
    }

    #[test]
    fn nothing_and_one() {
        assert!(place_all(&[]).is_empty());
        assert_eq!(place_all(&[(7, 3)]), [7]);
    }
}
