//! Takes samples as they arrive, and makes a timeline of them whenever one is wanted.

use super::clock::{self, Reading};
use super::timeline::{Free, GuestSample, HostPoint, Swap, Timeline, Track};
use ebb::report::Record;
use ebb_dom0::Sample;
use std::convert::Infallible;
use std::time::Instant;

/// What has arrived.
#[derive(Debug)]
pub(crate) struct Recorder {
    epoch: Instant,
    guests: Vec<Arrived>,
    host: Vec<(Reading, Sample)>,
}

/// What has arrived of one guest.
#[derive(Debug)]
struct Arrived {
    name: String,
    domid: Option<u32>,
    ended_ms: Option<u64>,
    samples: Vec<(Reading, GuestSample)>,
}

impl Recorder {
    /// Nothing yet, of guests with these names. Time is counted from `epoch`.
    pub(crate) fn new(epoch: Instant, names: impl IntoIterator<Item = String>) -> Self {
        let guests = names
            .into_iter()
            .map(|name| Arrived { name, domid: None, ended_ms: None, samples: Vec::new() })
            .collect();
        Self { epoch, guests, host: Vec::new() }
    }

    /// Tells the number of a guest's domain.
    pub(crate) fn started(&mut self, guest: usize, domid: u32) {
        if let Some(guest) = self.guests.get_mut(guest) {
            guest.domid = Some(domid);
        }
    }

    /// Tells when a guest ended. What the host saw of it later is how it was taken apart, and is left out.
    pub(crate) fn ended(&mut self, guest: usize, at_ms: u64) {
        if let Some(guest) = self.guests.get_mut(guest) {
            guest.ended_ms = Some(at_ms);
        }
    }

    /// Takes a guest's record, if it is a sample with a time.
    pub(crate) fn guest(&mut self, guest: usize, arrived: Instant, record: &Record) {
        let (Some(guest), Some(own_ms)) = (self.guests.get_mut(guest), record.number("t_ms")) else { return };
        if record.kind == "sample" {
            let reading = Reading { arrived_ms: since(self.epoch, arrived), own_ms };
            guest.samples.push((reading, read(own_ms, record)));
        }
    }

    /// Takes a look at the host. Looks from before the epoch are left out.
    pub(crate) fn host(&mut self, arrived: Instant, sample: Sample) {
        if arrived >= self.epoch {
            let own_ms = sample.at_ns / 1_000_000;
            self.host.push((Reading { arrived_ms: since(self.epoch, arrived), own_ms }, sample));
        }
    }

    /// How many samples have arrived.
    pub(crate) fn len(&self) -> usize {
        self.host.len() + self.guests.iter().map(|guest| guest.samples.len()).sum::<usize>()
    }

    /// All of it on one clock.
    pub(crate) fn timeline(&self) -> Timeline {
        let readings: Vec<Reading> = self.host.iter().map(|(reading, _)| *reading).collect();
        let looks: Vec<(u64, u64, &Sample)> = clock::place(&readings)
            .into_iter()
            .zip(&self.host)
            .map(|(at_ms, (reading, sample))| (at_ms, reading.own_ms, sample))
            .collect();
        let free = looks
            .iter()
            .map(|&(at_ms, own_ms, sample)| Free { at_ms, own_ms, kib: sample.free_kib })
            .collect();
        let guests = self.guests.iter().map(|guest| guest.track(&looks)).collect();
        Timeline { guests, free }
    }
}

impl Arrived {
    fn track(&self, looks: &[(u64, u64, &Sample)]) -> Track {
        let readings: Vec<Reading> = self.samples.iter().map(|(reading, _)| *reading).collect();
        let samples = clock::place(&readings)
            .into_iter()
            .zip(&self.samples)
            .map(|(at_ms, (_, sample))| GuestSample { at_ms, ..sample.clone() })
            .collect();
        let point = |&(at_ms, own_ms, sample): &(u64, u64, &Sample)| {
            let domain = sample.domain(self.domid?)?;
            Some(HostPoint { at_ms, own_ms, kib: domain.kib, max_kib: domain.max_kib })
        };
        let alive = |point: &HostPoint| self.ended_ms.is_none_or(|ended| point.at_ms <= ended);
        let host = looks.iter().filter_map(point).filter(alive).collect();
        Track { name: self.name.clone(), samples, host }
    }
}

/// The fields of a sample. A field that is no number counts as left out.
fn read(own_ms: u64, record: &Record) -> GuestSample {
    let Ok(swap) = Swap::read(|name| Ok::<_, Infallible>(record.number(name)));
    GuestSample {
        at_ms: 0,
        own_ms,
        committed_kib: record.number("committed_kib"),
        reservation_kib: record.number("reservation_kib"),
        target_kib: record.number("target_kib"),
        free_kib: record.number("free_kib"),
        resident_kib: record.number("resident_kib"),
        swapped_kib: record.number("swapped_kib"),
        swap,
        work: record.number("work"),
        errors: record.number("errors"),
        phase: record.get("phase").filter(|phase| !phase.is_empty()).map(str::to_owned),
    }
}

fn since(epoch: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebb_dom0::Domain;
    use std::time::Duration;

    fn record(kind: &str, fields: &[(&str, &str)]) -> Record {
        let fields = fields.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        Record { kind: kind.to_owned(), fields }
    }

    #[test]
    fn samples_of_guest_and_host_come_together() {
        let epoch = Instant::now();
        let after = |ms| epoch + Duration::from_millis(ms);
        let mut recorder = Recorder::new(epoch, ["ebb".to_owned()]);
        let look = |seq, at_ns, kib| Sample {
            seq,
            at_ns,
            free_kib: 1000 - kib,
            domains: vec![Domain { domid: 4, kib, max_kib: 900 }],
        };
        recorder.host(after(100), look(0, 7_000_000_000, 300));
        recorder.started(0, 4);
        recorder.host(after(640), look(1, 7_500_000_000, 310));
        recorder.guest(0, after(700), &record("sample", &[("t_ms", "50"), ("reservation_kib", "305")]));
        recorder.guest(0, after(710), &record("ready", &[("t_ms", "60")]));
        recorder.guest(0, after(720), &record("sample", &[("reservation_kib", "305")]));
        recorder.guest(
            0,
            after(1200),
            &record("sample", &[("t_ms", "550"), ("work", "many"), ("phase", "load"), ("new", "1")]),
        );
        recorder.guest(9, after(1), &record("sample", &[("t_ms", "1")]));
        assert_eq!(recorder.len(), 4);
        let timeline = recorder.timeline();
        let track = &timeline.guests[0];
        assert_eq!(track.samples.iter().map(|sample| sample.at_ms).collect::<Vec<_>>(), [700, 1200]);
        assert_eq!(track.samples[0].reservation_kib, Some(305));
        assert_eq!((track.samples[1].work, track.samples[1].phase.as_deref()), (None, Some("load")));
        assert_eq!(
            track.host.iter().map(|point| (point.at_ms, point.kib)).collect::<Vec<_>>(),
            [(100, 300), (600, 310)]
        );
        assert_eq!(timeline.free.iter().map(|free| free.kib).collect::<Vec<_>>(), [700, 690]);
        recorder.ended(0, 599);
        assert_eq!(recorder.timeline().guests[0].host.len(), 1);
        assert_eq!(recorder.timeline().free.len(), 2);
    }

    #[test]
    fn what_was_before_the_epoch_is_left_out() {
        let early = Instant::now();
        let mut recorder = Recorder::new(early + Duration::from_secs(1), []);
        recorder.host(early, Sample::default());
        assert_eq!(recorder.timeline(), Timeline::default());
    }
}
