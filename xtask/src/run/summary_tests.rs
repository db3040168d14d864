use super::*;
use crate::view::timeline::{Free, GuestSample, HostPoint, Track};

fn plan(guests: usize) -> Plan {
    Plan {
        on: Platform::Xen,
        workload: Workload::Kv,
        fixed: false,
        host_memory_mib: 900,
        memory_mib: 64,
        maxmem_mib: 256,
        vcpus: 1,
        sample_ms: 500,
        module: None,
        guests: (1..=guests)
            .map(|number| super::super::args::GuestPlan::named(&format!("ebb-{number}")))
            .collect(),
    }
}

fn summary(guests: usize) -> Summary {
    Summary::new(&plan(guests), &std::env::current_exe().unwrap()).unwrap()
}

fn track(name: &str, kib: u64, work: u64) -> Track {
    let host = (0..4).map(|n| HostPoint { at_ms: n * 500, own_ms: n * 500, kib, max_kib: kib });
    let sample = |at_ms| GuestSample {
        at_ms,
        own_ms: at_ms,
        reservation_kib: Some(kib),
        work: Some(work),
        errors: Some(0),
        ..GuestSample::default()
    };
    Track { name: name.into(), samples: vec![sample(600), sample(1100)], host: host.collect() }
}

fn timeline(guests: Vec<Track>) -> Timeline {
    let free = (0..4).map(|n| Free { at_ms: n * 500, own_ms: n * 500, kib: 1000 });
    Timeline { guests, free: free.collect() }
}

fn end(name: &str, outcome: &str) -> End {
    End {
        name: name.into(),
        outcome: outcome.into(),
        boot: Some(Duration::from_millis(400)),
        window: Some(400..=1500),
        records: 2,
        ..End::default()
    }
}

#[test]
fn one_guest_is_the_whole_run() {
    let mut summary = summary(1);
    let done = Done { work: Some(99), errors: Some(0), outcome: Some("pass".into()) };
    summary.add(
        &timeline(vec![track("ebb-1", 5000, 70)]),
        &[End { done: Some(done), ..end("ebb-1", POWEROFF) }],
    );
    let json = serde_json::to_value(&summary).unwrap();
    for whole in [&json, &json["guests"][0]] {
        assert_eq!(whole["outcome"], "poweroff");
        assert_eq!(whole["ok"], true);
        assert_eq!(whole["boot_ms"], 400);
        assert_eq!((&whole["host_min_kib"], &whole["host_max_kib"]), (&5000.into(), &5000.into()));
        assert_eq!((&whole["guest_min_kib"], &whole["guest_max_kib"]), (&5000.into(), &5000.into()));
        assert_eq!((&whole["disagreements"], &whole["compared"]), (&0.into(), &2.into()));
        assert_eq!((&whole["work_total"], &whole["verify_errors"]), (&99.into(), &0.into()));
        assert_eq!(whole["shutdown_ms"], serde_json::Value::Null);
    }
    assert_eq!(json["host_for_guests_kib"], 6000);
    assert_eq!(json["static"], false);
    assert!(summary.told(Path::new("out")).contains("disagree in 0 of 2 samples"));
}

#[test]
fn what_was_not_taken_is_null() {
    let mut summary = summary(1);
    let quiet = Track { name: "ebb-1".into(), ..Track::default() };
    summary.add(&timeline(vec![quiet]), &[End { window: None, boot: None, ..end("ebb-1", "hung") }]);
    let json = serde_json::to_value(&summary).unwrap();
    let keys = [
        "boot_ms",
        "host_min_kib",
        "host_max_kib",
        "guest_min_kib",
        "guest_max_kib",
        "disagreements",
        "work_total",
        "verify_errors",
        "swap",
    ];
    for key in keys {
        assert_eq!(json.get(key), Some(&serde_json::Value::Null), "{key}");
        assert_eq!(json["guests"][0].get(key), Some(&serde_json::Value::Null), "{key}");
    }
    assert_eq!((&json["outcome"], &json["ok"]), (&"hung".into(), &false.into()));
}

#[test]
fn what_went_to_swap_is_told() {
    let mut swapping = track("ebb-1", 5000, 70);
    for (sample, kib) in swapping.samples.iter_mut().zip([900, 0]) {
        sample.swapped_kib = Some(kib);
        sample.swap.frames_kib = Some(kib / 3);
    }
    let mut summary = summary(1);
    summary.add(&timeline(vec![swapping]), &[end("ebb-1", POWEROFF)]);
    let json = serde_json::to_value(&summary).unwrap();
    for whole in [&json, &json["guests"][0]] {
        let swap = &whole["swap"];
        assert_eq!((&swap["max_kib"], &swap["last_kib"]), (&900.into(), &0.into()));
        assert_eq!((&swap["pool_frames_max_kib"], &swap["outs"]), (&300.into(), &serde_json::Value::Null));
    }
    let told = summary.told(Path::new("out"));
    assert!(
        told.contains("swapped at the most: 900 KiB, in 300 KiB of the pool's; at the end: 0 KiB"),
        "{told}"
    );
}

#[test]
fn several_guests_are_summed() {
    let mut summary = summary(2);
    let tracks = vec![track("ebb-1", 5000, 70), track("ebb-2", 3000, 30)];
    summary.add(&timeline(tracks), &[end("ebb-1", POWEROFF), end("ebb-2", POWEROFF)]);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!((&json["host_min_kib"], &json["host_max_kib"]), (&8000.into(), &8000.into()));
    assert_eq!((&json["work_total"], &json["records"]), (&100.into(), &4.into()));
    assert_eq!((&json["outcome"], &json["ok"]), (&"poweroff".into(), &true.into()));
    assert_eq!(json["guests"][1]["host_max_kib"], 3000);
}

#[test]
fn one_bad_guest_is_a_bad_run() {
    let mut late = summary(2);
    let tracks = vec![track("ebb-1", 5000, 70)];
    let refused = End { window: None, why: Some("no memory\n".into()), ..end("ebb-2", "not started") };
    late.add(&timeline(tracks), &[end("ebb-1", POWEROFF), refused]);
    assert_eq!((late.outcome.as_str(), late.ok), ("ebb-1: poweroff, ebb-2: not started", false));
    assert!(late.told(Path::new("out")).contains("ebb-2 did not end well (not started): no memory\n"));

    let mut wrong = summary(1);
    let mut lies = track("ebb-1", 5000, 70);
    lies.samples[1].errors = Some(1);
    wrong.add(&timeline(vec![lies]), &[end("ebb-1", POWEROFF)]);
    assert!(!wrong.ok, "a wrong value");
    assert_eq!(wrong.measured.verify_errors, Some(1));

    let mut none = summary(1);
    none.add(&Timeline::default(), &[]);
    assert!(!none.ok);
}
