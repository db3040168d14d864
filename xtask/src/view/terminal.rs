//! A timeline as rows for a terminal, and as one line of text.

use super::canvas::{Canvas, Colour, PLAIN};
use super::panel;
use super::scale::{Axis, mib, short};
use super::timeline::{GuestSample, Timeline, Track};

/// Room for the numbers at the left.
const MARGIN: usize = 7;
/// Rows of the lower chart.
const WORK_ROWS: usize = 3;
/// Rows besides the two charts: a title, the axis of time, the legend.
const OTHER_ROWS: usize = 3;

/// A line of the chart: its name, colour, and points in MiB.
struct Series {
    name: String,
    colour: Colour,
    points: Vec<(u64, f64)>,
}

/// The chart for a terminal of this size; no row is longer than it is wide. Nothing if it is too small.
pub(crate) fn frame(timeline: &Timeline, columns: usize, rows: usize) -> Vec<String> {
    if columns < 40 || rows < 14 {
        return Vec::new();
    }
    // The guests' text needs some rows too.
    let height = (rows * 2 / 3 - 1).clamp(5 + WORK_ROWS + OTHER_ROWS, 26) - WORK_ROWS - OTHER_ROWS;
    let width = columns - MARGIN - 1;
    let end_ms = timeline.end_ms().max(10_000);
    let series = series(timeline);
    let largest =
        series.iter().flat_map(|series| &series.points).fold(0.0, |most: f64, point| most.max(point.1));
    let axis = Axis::mib(largest, 4);
    let mut lines = vec![fit(&format!("{:>MARGIN$} {}", "MiB", title(timeline)), columns)];
    lines.extend(chart(&series, width, height, end_ms, axis, |value| format!("{value:.0}")));
    let rates = rates(timeline);
    let fastest =
        rates.iter().flat_map(|series| &series.points).fold(0.0, |most: f64, point| most.max(point.1));
    lines.extend(chart(&rates, width, WORK_ROWS, end_ms, Axis::decimal(fastest, 1), short));
    let seconds = format!("{:.0} s", end_ms as f64 / 1000.0);
    let room = columns - MARGIN - 2;
    lines.push(format!("{:>MARGIN$} 0{seconds:>room$}", "work/s"));
    lines.push(legend(&series, columns));
    lines
}

/// The lines of one guest, or of several.
fn series(timeline: &Timeline) -> Vec<Series> {
    let host = |track: &Track| track.host.iter().map(|point| (point.at_ms, mib(point.kib))).collect();
    if let [track] = timeline.guests.as_slice() {
        let of = |name: &str, colour, value: fn(&GuestSample) -> Option<u64>| {
            let point = |sample: &GuestSample| Some((sample.at_ms, mib(value(sample)?)));
            Series { name: name.to_owned(), colour, points: track.samples.iter().filter_map(point).collect() }
        };
        let mut swapped = of("swapped", Colour::Red, |sample| sample.swapped_kib);
        if !track.has_swapped() {
            swapped.points.clear();
        }
        // The last lies above the others.
        vec![
            swapped,
            of("target", Colour::Yellow, |sample| sample.target_kib),
            of("committed", Colour::Green, |sample| sample.committed_kib),
            of("guest", Colour::Magenta, |sample| sample.reservation_kib),
            Series { name: "host".to_owned(), colour: Colour::Blue, points: host(track) },
        ]
    } else {
        let free = timeline.free.iter().map(|free| (free.at_ms, mib(free.kib))).collect();
        let free = Series { name: "free".to_owned(), colour: Colour::Cyan, points: free };
        let guests = coloured(timeline);
        let guests =
            guests.map(|(track, colour)| Series { name: track.name.clone(), colour, points: host(track) });
        [free].into_iter().chain(guests).collect()
    }
}

fn rates(timeline: &Timeline) -> Vec<Series> {
    let only = timeline.guests.len() == 1;
    let of = |(track, colour): (&Track, Colour)| Series {
        name: track.name.clone(),
        colour: if only { Colour::Cyan } else { colour },
        points: track.rates().iter().map(|rate| (rate.at_ms, rate.per_second)).collect(),
    };
    coloured(timeline).map(of).collect()
}

fn coloured(timeline: &Timeline) -> impl Iterator<Item = (&Track, Colour)> {
    timeline.guests.iter().zip(Colour::ALL.into_iter().cycle())
}

fn chart(
    series: &[Series],
    width: usize,
    rows: usize,
    end_ms: u64,
    axis: Axis,
    number: impl Fn(f64) -> String,
) -> Vec<String> {
    let mut canvas = Canvas::new(width, rows);
    let (across, up) = canvas.dots();
    for series in series {
        let mut heights = vec![None; across];
        for piece in panel::pieces(&series.points) {
            // A dot has the value of the last sample at or before it.
            let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
            let column = |at_ms: u64| (at_ms as usize).saturating_mul(across - 1) / end_ms.max(1) as usize;
            for (x, height) in heights.iter_mut().enumerate().take(column(last.0) + 1).skip(column(first.0)) {
                let behind = piece.partition_point(|point| column(point.0) <= x).max(1);
                let value = piece.get(behind - 1).map_or(0.0, |point| point.1);
                *height = Some((value / axis.end * (up - 1) as f64).round() as usize);
            }
        }
        canvas.line(&heights, series.colour);
    }
    let marks: Vec<(usize, String)> = axis
        .marks()
        .map(|value| (rows - 1 - (value / axis.end * (rows - 1) as f64).round() as usize, number(value)))
        .collect();
    canvas
        .rows()
        .enumerate()
        .map(|(row, dots)| {
            let mark = marks.iter().find(|(at, _)| *at == row);
            let (number, edge) = mark.map_or(("", '│'), |(_, number)| (number.as_str(), '┤'));
            format!("{number:>MARGIN$}{edge}{dots}")
        })
        .collect()
}

/// What is shown, with what one guest is doing.
fn title(timeline: &Timeline) -> String {
    match timeline.guests.as_slice() {
        [track] => {
            let last = track.samples.last();
            let phase = last.and_then(|sample| sample.phase.as_deref()).map(harmless);
            let rate = track.rates().last().map(|rate| format!("{} work/s", short(rate.per_second)));
            let errors = last.and_then(|sample| sample.errors).filter(|&errors| errors > 0);
            let errors = errors.map(|errors| format!("{errors} WRONG VALUES"));
            [Some(track.name.clone()), phase, rate, errors]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" · ")
        }
        tracks => {
            let last = timeline.free.last().and_then(|free| timeline.held_kib(free.own_ms));
            let held = last.unwrap_or_default();
            let capacity = timeline.capacity_kib().map(mib).unwrap_or_default();
            format!("{} guests · {:.0} of {capacity:.0} MiB", tracks.len(), mib(held))
        }
    }
}

/// Names with their last values, as many as fit.
fn legend(series: &[Series], columns: usize) -> String {
    let mut line = " ".repeat(MARGIN + 1);
    let mut used = MARGIN + 1;
    for series in series.iter().rev() {
        let Some((_, value)) = series.points.last() else { continue };
        let entry = format!("{} {value:.0}  ", series.name);
        used += entry.chars().count() + 2;
        if used > columns {
            break;
        }
        line.push_str(&format!("{}━{PLAIN} {entry}", series.colour.begin()));
    }
    line
}

/// The newest figures of a guest as text, without colours; `None` before there are any.
pub(crate) fn figures(track: &Track) -> Option<String> {
    let sample = track.samples.last();
    let host = track.host.last().map(|point| point.kib);
    let of = |value: fn(&GuestSample) -> Option<u64>| sample.and_then(value);
    let memory = [
        ("host", host),
        ("guest", of(|sample| sample.reservation_kib)),
        ("target", of(|sample| sample.target_kib)),
        ("committed", of(|sample| sample.committed_kib)),
    ];
    if memory.iter().all(|(_, kib)| kib.is_none()) {
        return None;
    }
    let mut text = String::new();
    for (name, kib) in memory {
        match kib {
            Some(kib) => text.push_str(&format!("{name} {:>7.1}  ", mib(kib))),
            None if sample.is_some() => text.push_str(&format!("{name} {:>7}  ", "-")),
            None => {}
        }
    }
    // From the first page that leaves on.
    if track.has_swapped()
        && let Some(kib) = of(|sample| sample.swapped_kib)
    {
        text.push_str(&format!("swapped {:>7.1}  ", mib(kib)));
        if let Some(kib) = of(|sample| sample.swap.frames_kib) {
            text.push_str(&format!("in {:>6.1}  ", mib(kib)));
        }
    }
    text.push_str("MiB");
    if let Some(rate) = track.rates().last() {
        text.push_str(&format!("  {:>6} work/s", short(rate.per_second)));
    }
    if let Some(phase) = sample.and_then(|sample| sample.phase.as_deref()) {
        text.push_str(&format!("  {}", harmless(phase)));
    }
    if let Some(errors) = of(|sample| sample.errors).filter(|&errors| errors > 0) {
        text.push_str(&format!("  {errors} WRONG VALUES"));
    }
    Some(text)
}

/// A guest's word: short, and nothing that a terminal obeys.
fn harmless(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(24).collect()
}

/// Cuts a text without escape sequences.
fn fit(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{Free, HostPoint};
    use super::*;

    fn point(at_ms: u64, kib: u64) -> HostPoint {
        HostPoint { at_ms, own_ms: at_ms, kib, max_kib: kib }
    }

    /// A guest that falls from 256 to 64 MiB after 10 of 20 s.
    fn falling() -> Timeline {
        let kib = |at: u64| if at < 10_000 { 256 * 1024 } else { 64 * 1024 };
        let host = (0..=40).map(|n| point(n * 500, kib(n * 500))).collect();
        let samples = (0..=40).map(|n| n * 500).map(|at_ms| GuestSample {
            at_ms,
            own_ms: at_ms,
            committed_kib: Some(32 * 1024),
            work: Some(at_ms * 20),
            phase: Some("serve\u{1b}[2J".into()),
            ..GuestSample::default()
        });
        let track = Track { name: "ebb".into(), samples: samples.collect(), host };
        Timeline { guests: vec![track], free: vec![Free { at_ms: 0, own_ms: 0, kib: 1 }] }
    }

    /// Without the escape sequences of colours.
    fn plain(row: &str) -> String {
        let mut parts = row.split("\x1b[");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text.push_str(part.split_once('m').expect("only colours").1);
        }
        text
    }

    #[test]
    fn a_frame_looks_like_this() {
        let frame: Vec<String> =
            frame(&falling(), 60, 20).iter().map(|row| plain(row).trim_end().to_owned()).collect();
        let expected = "    MiB ebb · serve[2J · 20k work/s
    256┤⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⢹
    192┤                         ⢸
    128┤                         ⢸
       │                         ⢸
     64┤                         ⠘⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒
      0┤⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉
    20k┤ ⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉
       │
      0┤
 work/s 0                                               20 s
        ━ host 64  ━ committed 32";
        assert_eq!(frame, expected.lines().collect::<Vec<_>>(), "\n{}", frame.join("\n"));
    }

    #[test]
    fn no_row_is_wider_than_the_terminal() {
        let mut several = falling();
        for number in 0..7 {
            several.guests.push(Track { name: format!("a-long-name-{number}"), ..several.guests[0].clone() });
        }
        let mut wordy = falling();
        wordy.guests[0].name = "n".repeat(300);
        for timeline in [falling(), several, wordy, Timeline::default()] {
            for (columns, rows) in [(40, 14), (80, 24), (200, 60)] {
                let frame = frame(&timeline, columns, rows);
                assert!(!frame.is_empty() && frame.len() <= rows - 2);
                for row in &frame {
                    assert!(plain(row).chars().count() <= columns, "{columns}: {row:?}");
                    assert!(plain(row).chars().all(|c| !c.is_control()), "{row:?}");
                }
            }
        }
        assert!(frame(&falling(), 39, 24).is_empty());
        assert!(frame(&falling(), 80, 13).is_empty());
    }

    #[test]
    fn a_line_of_figures_says_what_is_known() {
        let timeline = falling();
        assert_eq!(
            figures(&timeline.guests[0]).unwrap(),
            "host    64.0  guest       -  target       -  committed    32.0  MiB     20k work/s  serve[2J"
        );
        let mut swapping = timeline.guests[0].clone();
        swapping.samples[0].swapped_kib = Some(4096);
        let last = swapping.samples.last_mut().unwrap();
        (last.swapped_kib, last.swap.frames_kib) = (Some(2048), Some(512));
        let line = figures(&swapping).unwrap();
        assert!(line.contains("committed    32.0  swapped     2.0  in    0.5  MiB"), "{line}");
        let shown = Timeline { guests: vec![swapping.clone()], free: vec![] };
        assert!(plain(frame(&shown, 80, 24).last().unwrap()).contains("━ swapped 2"));
        // It is said that all came back, and not that nothing ever left.
        swapping.samples.last_mut().unwrap().swapped_kib = Some(0);
        assert!(figures(&swapping).unwrap().contains("swapped     0.0"));
        swapping.samples[0].swapped_kib = Some(0);
        assert!(!figures(&swapping).unwrap().contains("swapped"));
        let host_only = Track { samples: vec![], ..timeline.guests[0].clone() };
        assert_eq!(figures(&host_only).unwrap(), "host    64.0  MiB");
        assert_eq!(figures(&Track::default()), None);
        let mut wrong = timeline.guests[0].clone();
        wrong.samples.last_mut().unwrap().errors = Some(3);
        assert!(figures(&wrong).unwrap().ends_with("3 WRONG VALUES"));
    }
}
