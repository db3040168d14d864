use super::super::svg::tests::check_well_formed;
use super::super::timeline::{Free, HostPoint};
use super::*;

/// A guest whose memory rises and falls, sampled every 500 ms.
fn track(name: &str, shift: u64) -> Track {
    let wave = |at: u64| 60_000 + 40_000 * (((at + shift) / 10_000) % 2) + (at + shift) % 10_000;
    let host = (0..120).map(|n| n * 500).map(|at_ms| HostPoint {
        at_ms,
        own_ms: at_ms,
        kib: wave(at_ms),
        max_kib: 200_000,
    });
    let samples = (0..118).map(|n| n * 500 + 700).map(|at_ms| GuestSample {
        at_ms,
        own_ms: at_ms - 600,
        committed_kib: Some(wave(at_ms) - 20_000),
        reservation_kib: Some(wave(at_ms)),
        target_kib: Some(wave(at_ms + 500)),
        work: Some(at_ms * at_ms / 1000),
        phase: Some(if (at_ms / 10_000) % 2 == 0 { "load" } else { "se<rve" }.to_owned()),
        ..GuestSample::default()
    });
    Track { name: name.to_owned(), samples: samples.collect(), host: host.collect() }
}

fn timeline(guests: Vec<Track>) -> Timeline {
    let free = (0..120).map(|n| Free { at_ms: n * 500, own_ms: n * 500, kib: 50_000 });
    Timeline { guests, free: free.collect() }
}

#[test]
fn one_guest_has_every_line_and_its_end() {
    let svg = draw(&timeline(vec![track("ebb & co", 0)]));
    check_well_formed(&svg);
    for wanted in [
        "Memory of the guest ebb &amp; co",
        "host (what Xen counts)",
        ">committed ",
        ">MiB<",
        ">work/s<",
        "se&lt;rve",
        " in all<",
    ] {
        assert!(svg.contains(wanted), "{wanted:?} is missing");
    }
    assert_eq!(svg.matches("<polygon").count(), 1);
    assert!(!svg.contains("reports no work"));
}

#[test]
fn several_guests_are_stacked_under_the_capacity() {
    let tracks = (0..10).map(|n| track(&format!("ebb-{n}"), n * 5000)).collect();
    let svg = draw(&timeline(tracks));
    check_well_formed(&svg);
    assert_eq!(svg.matches("<polygon").count(), 10);
    for wanted in [" MiB for guests<", ": sum of peaks<", ">ebb-9<", "Memory of 10 guests"] {
        assert!(svg.contains(wanted), "{wanted:?} is missing");
    }
}

#[test]
fn the_layers_add_up() {
    let flat = |name: &str, kib| Track {
        host: (0..3).map(|n| HostPoint { at_ms: n * 500, own_ms: n * 500, kib, max_kib: kib }).collect(),
        ..track(name, 0)
    };
    let svg = draw(&timeline(vec![flat("a", 64 * 1024), flat("b", 32 * 1024)]));
    // The first polygon lies on the ground, the second on the first.
    let outlines: Vec<Vec<f64>> = svg
        .lines()
        .filter_map(|line| line.strip_prefix("<polygon points=\"")?.split('"').next())
        .map(|points| {
            points.split(' ').map(|point| point.split_once(',').unwrap().1.parse().unwrap()).collect()
        })
        .collect();
    let (ground, first, second) = (MEMORY_TOP + MEMORY_HEIGHT, outlines[0][0], outlines[1][0]);
    assert_eq!(outlines[0], [first, first, first, ground, ground, ground]);
    assert_eq!(outlines[1], [second, second, second, first, first, first]);
    assert!(((ground - first) / (first - second) - 2.0).abs() < 0.01);
}

#[test]
fn little_or_nothing_can_be_drawn() {
    let empty = Timeline::default();
    let nobody = timeline(vec![Track { name: "quiet".into(), ..Track::default() }]);
    let mut single = track("single", 0);
    single.samples.truncate(1);
    single.host.truncate(1);
    let mut host_only = track("host-only", 0);
    host_only.samples.clear();
    let silent = vec![Track::default(), Track::default()];
    for timeline in [
        empty,
        nobody,
        timeline(vec![single]),
        timeline(vec![host_only]),
        Timeline { guests: silent, free: vec![] },
    ] {
        let svg = draw(&timeline);
        check_well_formed(&svg);
        assert!(svg.contains("seconds"), "{svg}");
    }
}

#[test]
fn a_gap_breaks_the_lines() {
    let mut gap = track("gap", 0);
    let whole = draw(&timeline(vec![gap.clone()])).matches("<polyline").count();
    gap.host.retain(|point| !(20_000..30_000).contains(&point.at_ms));
    assert_eq!(draw(&timeline(vec![gap])).matches("<polyline").count(), whole + 1);
}
