//! What a run comes to in numbers.

use super::agree::{self, Agreement};
use super::timeline::{Free, GuestSample, Swap, Timeline, Track};
use serde::Serialize;
use std::ops::RangeInclusive;

/// The figures of one guest, or of all. What could not be taken is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// The least that Xen said it had, while it ran.
    pub(crate) host_min_kib: Option<u64>,
    /// The most, at any time.
    pub(crate) host_max_kib: Option<u64>,
    /// The least that the guest said it had.
    pub(crate) guest_min_kib: Option<u64>,
    /// The most.
    pub(crate) guest_max_kib: Option<u64>,
    /// Samples that guest and host could be compared by.
    pub(crate) compared: Option<u64>,
    /// Those where they differ by more than one step of the balloon.
    pub(crate) disagreements: Option<u64>,
    /// What went to swap and came back, where there is swap.
    pub(crate) swap: Option<Swapped>,
}

/// What went to swap, and came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Swapped {
    /// The most that was out at one time.
    #[serde(rename = "max_kib")]
    pub(crate) most_kib: u64,
    /// What was out in the last sample.
    pub(crate) last_kib: u64,
    /// The most memory that the compressed pool took.
    #[serde(rename = "pool_frames_max_kib")]
    pub(crate) frames_most_kib: Option<u64>,
    /// Pages that have left.
    pub(crate) outs: Option<u64>,
    /// Pages that came back.
    pub(crate) ins: Option<u64>,
    /// Those of them that self-shrinking brought home.
    pub(crate) home: Option<u64>,
    /// Times that a page found no frame free.
    pub(crate) stalled: Option<u64>,
}

impl Swapped {
    /// Of these guests together; `None` if none of them swaps.
    fn new(tracks: &[&Track]) -> Option<Self> {
        // A guest without swap says that nothing is out, and nothing of where that would be.
        let swaps = |track: &&&Track| {
            let says = |sample: &GuestSample| sample.swap != Swap::default();
            track.has_swapped() || track.samples.iter().any(says)
        };
        let tracks: Vec<&Track> = tracks.iter().filter(swaps).copied().collect();
        let out = said(&tracks, |sample| sample.swapped_kib);
        let frames = said(&tracks, |sample| sample.swap.frames_kib);
        // Counters only grow: the last of each guest.
        let count = |of: fn(&Swap) -> Option<u64>| {
            let last = |track: &&Track| track.samples.iter().rev().find_map(|sample| of(&sample.swap));
            tracks.iter().filter_map(last).reduce(|sum, one| sum + one)
        };
        Some(Self {
            most_kib: out.iter().map(|(_, kib)| *kib).max()?,
            last_kib: out.last()?.1,
            frames_most_kib: frames.iter().map(|(_, kib)| *kib).max(),
            outs: count(|swap| swap.outs),
            ins: count(|swap| swap.ins),
            home: count(|swap| swap.home),
            stalled: count(|swap| swap.stalled),
        })
    }
}

/// The figures of one guest that ran in `window`, from its first word to its end: the least is of this time only, for
/// before it the toolstack fills the guest's memory, and after it takes it apart.
pub(crate) fn of(track: &Track, window: &RangeInclusive<u64>) -> Figures {
    let ran = track.host.iter().filter(|point| window.contains(&point.at_ms)).map(|point| point.kib);
    let guest = track.samples.iter().filter_map(|sample| sample.reservation_kib);
    let Agreement { compared, disagreements } = agree::compare(track);
    Figures {
        host_min_kib: ran.min(),
        host_max_kib: track.host.iter().map(|point| point.kib).max(),
        guest_min_kib: guest.clone().min(),
        guest_max_kib: guest.max(),
        compared: (compared > 0).then_some(compared),
        disagreements: (compared > 0).then_some(disagreements),
        swap: Swapped::new(&[track]),
    }
}

/// The figures of all guests together, each in its window: the memory of all of them at once, as the host sees it and
/// as they say. The least is of the time in which all of them ran, the most of any time.
pub(crate) fn of_all(timeline: &Timeline, windows: &[RangeInclusive<u64>]) -> Figures {
    let begun = windows.iter().map(|window| *window.start()).max();
    let ended = windows.iter().map(|window| *window.end()).min();
    let (Some(begun), Some(ended)) = (begun, ended) else { return Figures::default() };
    let together_ms = begun..=ended;
    let held = |free: &Free| Some((free.at_ms, timeline.held_kib(free.own_ms)?));
    let held: Vec<(u64, u64)> = timeline.free.iter().filter_map(held).collect();
    let together = |&&(at_ms, _): &&(u64, u64)| together_ms.contains(&at_ms);
    let tracks: Vec<&Track> = timeline.guests.iter().collect();
    let said = said(&tracks, |sample| sample.reservation_kib);
    let each = timeline.guests.iter().map(agree::compare);
    let (compared, disagreements) =
        each.fold((0, 0), |sum, one| (sum.0 + one.compared, sum.1 + one.disagreements));
    Figures {
        host_min_kib: held.iter().filter(together).map(|(_, kib)| *kib).min(),
        host_max_kib: held.iter().map(|(_, kib)| *kib).max(),
        guest_min_kib: said.iter().filter(together).map(|(_, kib)| *kib).min(),
        guest_max_kib: said.iter().map(|(_, kib)| *kib).max(),
        compared: (compared > 0).then_some(compared),
        disagreements: (compared > 0).then_some(disagreements),
        swap: Swapped::new(&tracks),
    }
}

/// What all guests together say of a thing, at each instant when one of them says something.
fn said(tracks: &[&Track], of: fn(&GuestSample) -> Option<u64>) -> Vec<(u64, u64)> {
    let mut words: Vec<(u64, usize, u64)> = Vec::new();
    for (guest, track) in tracks.iter().enumerate() {
        words.extend(track.samples.iter().filter_map(|sample| Some((sample.at_ms, guest, of(sample)?))));
    }
    words.sort_unstable();
    let mut last = vec![0; tracks.len()];
    let mut sums = Vec::with_capacity(words.len());
    for (at_ms, guest, kib) in words {
        if let Some(slot) = last.get_mut(guest) {
            *slot = kib;
        }
        sums.push((at_ms, last.iter().sum()));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::timeline::HostPoint;
    use super::*;

    fn track(host: &[(u64, u64)], guest: &[(u64, u64)]) -> Track {
        let point = |&(at_ms, kib): &(u64, u64)| HostPoint { at_ms, own_ms: at_ms, kib, max_kib: kib };
        let sample = |&(at_ms, kib): &(u64, u64)| GuestSample {
            at_ms,
            reservation_kib: Some(kib),
            ..GuestSample::default()
        };
        Track {
            name: "g".into(),
            host: host.iter().map(point).collect(),
            samples: guest.iter().map(sample).collect(),
        }
    }

    #[test]
    fn the_least_is_of_the_time_in_which_it_ran() {
        let track = track(
            &[(0, 4), (400, 9000), (500, 8500), (1000, 7000), (1500, 8000), (2000, 12)],
            &[(900, 7000), (1100, 7100)],
        );
        let figures = of(&track, &(500..=1500));
        assert_eq!((figures.host_min_kib, figures.host_max_kib), (Some(7000), Some(9000)));
        assert_eq!((figures.guest_min_kib, figures.guest_max_kib), (Some(7000), Some(7100)));
        assert_eq!((figures.compared, figures.disagreements), (Some(2), Some(0)));
    }

    #[test]
    fn what_went_to_swap_is_summed_over_those_who_swap() {
        let swapping = |times: &[(u64, u64)]| {
            let sample = |&(at_ms, kib): &(u64, u64)| GuestSample {
                at_ms,
                swapped_kib: Some(kib),
                swap: Swap { frames_kib: Some(kib / 8), outs: Some(at_ms), home: Some(1), ..Swap::default() },
                ..GuestSample::default()
            };
            Track { samples: times.iter().map(sample).collect(), ..Track::default() }
        };
        let (one, two) = (swapping(&[(10, 80), (20, 160), (40, 0)]), swapping(&[(15, 40), (30, 8)]));
        let without = Track {
            samples: vec![GuestSample { at_ms: 50, swapped_kib: Some(0), ..GuestSample::default() }],
            ..Track::default()
        };
        let both = Swapped {
            most_kib: 200,
            last_kib: 8,
            frames_most_kib: Some(25),
            outs: Some(70),
            ins: None,
            home: Some(2),
            stalled: None,
        };
        assert_eq!(Swapped::new(&[&one, &without, &two]), Some(both));
        assert_eq!(Swapped::new(&[&without]), None);
        assert_eq!(Swapped::new(&[]), None);
        // It has swap and never used it.
        let idle = swapping(&[(10, 0)]);
        assert_eq!(of(&idle, &(0..=10)).swap.unwrap().most_kib, 0);
    }

    #[test]
    fn what_was_not_taken_is_none() {
        assert_eq!(of(&Track::default(), &(0..=10)), Figures::default());
        assert_eq!(of_all(&Timeline::default(), &[]), Figures::default());
        assert_eq!(of_all(&Timeline::default(), &[2..=5, 7..=9]), Figures::default());
        let host_only = of(&track(&[(5, 100)], &[]), &(0..=10));
        assert_eq!(
            host_only,
            Figures { host_min_kib: Some(100), host_max_kib: Some(100), ..Figures::default() }
        );
    }

    #[test]
    fn guests_are_summed_at_the_same_instants() {
        let one = track(&[(0, 100), (500, 60), (1000, 50)], &[(400, 60), (900, 50)]);
        let two = track(&[(500, 30), (1000, 90), (1500, 10)], &[(600, 30), (1100, 90)]);
        let free = [0, 500, 1000, 1500].map(|at_ms| Free { at_ms, own_ms: at_ms, kib: 1000 });
        let timeline = Timeline { guests: vec![one, two], free: free.into() };
        let figures = of_all(&timeline, &[0..=1200, 500..=1500]);
        assert_eq!((figures.host_min_kib, figures.host_max_kib), (Some(90), Some(140)));
        assert_eq!((figures.guest_min_kib, figures.guest_max_kib), (Some(80), Some(140)));
    }
}
