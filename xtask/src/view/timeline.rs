//! The samples of a run on one clock: milliseconds since the first guest was asked for.

/// Everything that was sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeline {
    /// The guests, in the order in which they were asked for.
    pub(crate) guests: Vec<Track>,
    /// The memory of the host that nobody had.
    pub(crate) free: Vec<Free>,
}

/// One guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Track {
    /// Its name.
    pub(crate) name: String,
    /// What it said of itself.
    pub(crate) samples: Vec<GuestSample>,
    /// What Xen said of it.
    pub(crate) host: Vec<HostPoint>,
}

/// What a guest said at one instant. What it left out is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestSample {
    /// When.
    pub(crate) at_ms: u64,
    /// When, by its own clock.
    pub(crate) own_ms: u64,
    /// What its application has asked for.
    pub(crate) committed_kib: Option<u64>,
    /// What it has, as Xen told it.
    pub(crate) reservation_kib: Option<u64>,
    /// What it wants to have.
    pub(crate) target_kib: Option<u64>,
    /// What it has and does not use.
    pub(crate) free_kib: Option<u64>,
    /// What its application has touched and still has in memory.
    pub(crate) resident_kib: Option<u64>,
    /// What it has put elsewhere.
    pub(crate) swapped_kib: Option<u64>,
    /// Where that is.
    pub(crate) swap: Swap,
    /// Work done since its beginning.
    pub(crate) work: Option<u64>,
    /// Values that were wrong when they were read back.
    pub(crate) errors: Option<u64>,
    /// What its workload is doing.
    pub(crate) phase: Option<String>,
}

/// What a guest said of its swap at one instant: nothing, if it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swap {
    /// Pages of one word, which take no memory.
    pub(crate) same_kib: Option<u64>,
    /// Pages in the compressed pool, as large as they were.
    pub(crate) pool_kib: Option<u64>,
    /// The memory that the pool takes for them.
    pub(crate) frames_kib: Option<u64>,
    /// Pages that the hypervisor's tmem has.
    pub(crate) tmem_kib: Option<u64>,
    /// Pages that have left since its beginning.
    pub(crate) outs: Option<u64>,
    /// Pages that have come back.
    pub(crate) ins: Option<u64>,
    /// Those of them that nobody asked for: self-shrinking brought them home.
    pub(crate) home: Option<u64>,
    /// Times that a page found no frame free.
    pub(crate) stalled: Option<u64>,
}

impl Swap {
    /// What the fields are called in a guest's records and in a table, in the order of [`values`](Self::values).
    pub(crate) const NAMES: [&str; 8] = [
        "same_kib",
        "pool_kib",
        "pool_frames_kib",
        "tmem_kib",
        "swap_outs",
        "swap_ins",
        "swap_home",
        "stalled",
    ];

    /// Takes the fields from whatever has numbers by these names.
    ///
    /// # Errors
    ///
    /// The first that `number` answers.
    pub(crate) fn read<E>(mut number: impl FnMut(&str) -> Result<Option<u64>, E>) -> Result<Self, E> {
        let mut values = [None; Self::NAMES.len()];
        for (value, name) in values.iter_mut().zip(Self::NAMES) {
            *value = number(name)?;
        }
        let [same_kib, pool_kib, frames_kib, tmem_kib, outs, ins, home, stalled] = values;
        Ok(Self { same_kib, pool_kib, frames_kib, tmem_kib, outs, ins, home, stalled })
    }

    /// All fields.
    pub(crate) fn values(&self) -> [Option<u64>; Self::NAMES.len()] {
        let Self { same_kib, pool_kib, frames_kib, tmem_kib, outs, ins, home, stalled } = *self;
        [same_kib, pool_kib, frames_kib, tmem_kib, outs, ins, home, stalled]
    }
}

/// What Xen said of a guest at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostPoint {
    /// When.
    pub(crate) at_ms: u64,
    /// When, by dom0's clock.
    pub(crate) own_ms: u64,
    /// What the guest has.
    pub(crate) kib: u64,
    /// What Xen would let it have.
    pub(crate) max_kib: u64,
}

/// What the host had to give at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    /// When.
    pub(crate) at_ms: u64,
    /// When, by dom0's clock.
    pub(crate) own_ms: u64,
    /// Memory that no domain has.
    pub(crate) kib: u64,
}

/// How fast a guest works, between two of its samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// The end of the interval.
    pub(crate) at_ms: u64,
    /// Work per second of the guest's own clock.
    pub(crate) per_second: f64,
}

impl Track {
    /// How fast it worked. An interval in which its clock stood or its count went back (it has booted anew) has no
    /// rate.
    pub(crate) fn rates(&self) -> Vec<Rate> {
        let rate = |pair: &[GuestSample]| {
            let [from, to] = pair else { return None };
            let work = to.work?.checked_sub(from.work?)?;
            let elapsed_ms = to.own_ms.checked_sub(from.own_ms).filter(|&elapsed| elapsed > 0)?;
            Some(Rate { at_ms: to.at_ms, per_second: work as f64 * 1000.0 / elapsed_ms as f64 })
        };
        self.samples.windows(2).filter_map(rate).collect()
    }

    /// Whether any of its pages was ever seen elsewhere.
    pub(crate) fn has_swapped(&self) -> bool {
        self.samples.iter().any(|sample| sample.swapped_kib.is_some_and(|kib| kib > 0))
    }

    /// When its workload began to do something else, and what.
    pub(crate) fn phases(&self) -> Vec<(u64, &str)> {
        let mut phases: Vec<(u64, &str)> = Vec::new();
        for sample in &self.samples {
            if let Some(phase) = sample.phase.as_deref()
                && phases.last().is_none_or(|(_, last)| *last != phase)
            {
                phases.push((sample.at_ms, phase));
            }
        }
        phases
    }
}

impl Timeline {
    /// The last instant of all.
    pub(crate) fn end_ms(&self) -> u64 {
        let guests = self.guests.iter().flat_map(|track| {
            let sample = track.samples.last().map(|sample| sample.at_ms);
            let host = track.host.last().map(|point| point.at_ms);
            [sample, host].into_iter().flatten()
        });
        guests.chain(self.free.last().map(|free| free.at_ms)).max().unwrap_or_default()
    }

    /// What the host has for guests: the most that was free and in guests' hands at one instant.
    pub(crate) fn capacity_kib(&self) -> Option<u64> {
        let all = |free: &Free| free.kib + self.held_kib(free.own_ms).unwrap_or_default();
        self.free.iter().map(all).max()
    }

    /// Whether a guest was not there any more, or not yet, when the host looked last.
    pub(crate) fn is_gone(&self, track: &Track) -> bool {
        let last = self.free.last().map(|free| free.own_ms);
        last.is_some() && track.host.last().map(|point| point.own_ms) != last
    }

    /// What all guests had in one look of the host's, known by dom0's clock; `None` if there was no guest.
    pub(crate) fn held_kib(&self, own_ms: u64) -> Option<u64> {
        let of = |track: &Track| {
            let at = track.host.binary_search_by_key(&own_ms, |point| point.own_ms).ok()?;
            track.host.get(at).map(|point| point.kib)
        };
        self.guests.iter().filter_map(of).reduce(|sum, kib| sum + kib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, work: Option<u64>, phase: &str) -> GuestSample {
        let phase = (!phase.is_empty()).then(|| phase.to_owned());
        GuestSample { at_ms, own_ms: at_ms, work, phase, ..GuestSample::default() }
    }

    #[test]
    fn rates_are_of_intervals_that_make_sense() {
        let samples = vec![
            sample(500, Some(0), "load"),
            sample(1000, Some(100), "load"),
            sample(1000, Some(150), ""),
            sample(3000, Some(550), "serve"),
            sample(3500, Some(10), "load"),
            sample(4000, None, "load"),
        ];
        let track = Track { samples, ..Track::default() };
        let rates: Vec<(u64, f64)> = track.rates().iter().map(|rate| (rate.at_ms, rate.per_second)).collect();
        assert_eq!(rates, [(1000, 200.0), (3000, 200.0)]);
        assert_eq!(track.phases(), [(500, "load"), (3000, "serve"), (3500, "load")]);
        assert!(Track::default().rates().is_empty());
    }

    #[test]
    fn capacity_is_what_is_free_and_what_guests_have() {
        let point = |own_ms, kib| HostPoint { at_ms: own_ms, own_ms, kib, max_kib: kib };
        let free = |own_ms, kib| Free { at_ms: own_ms, own_ms, kib };
        let guest = |host| Track { host, ..Track::default() };
        let timeline = Timeline {
            guests: vec![guest(vec![point(2, 30), point(3, 40)]), guest(vec![point(3, 50)])],
            free: vec![free(1, 100), free(2, 69), free(3, 12)],
        };
        assert_eq!(timeline.held_kib(3), Some(90));
        assert_eq!(timeline.held_kib(1), None);
        assert!(!timeline.is_gone(&timeline.guests[0]));
        assert!(timeline.is_gone(&guest(vec![point(2, 30)])), "it was there before");
        assert!(!Timeline::default().is_gone(&Track::default()), "nobody looked");
        assert_eq!(timeline.capacity_kib(), Some(102));
        assert_eq!(timeline.end_ms(), 3);
        assert_eq!(Timeline::default().capacity_kib(), None);
        assert_eq!(Timeline::default().end_ms(), 0);
    }
}
