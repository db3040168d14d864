//! `chart.svg`: memory over time, and below it the work that was done; between them, if pages went to swap, where they
//! were.
//!
//! One guest: what Xen says that it has, what it says itself, what it wants and what its application asked for.
//! Several: what Xen says that each has, one on the other, under the memory that the host has for them.

use super::panel::{LETTER, Label, Legend, Panel};
use super::scale::{Axis, mib, short};
use super::svg::{Anchor, INK, Stroke, Svg};
use super::swap;
use super::timeline::{GuestSample, Timeline, Track};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 168.0;
const MEMORY_TOP: f64 = 96.0;
const MEMORY_HEIGHT: f64 = 300.0;
/// Between two panels: room for a line of words above the lower one.
const BETWEEN: f64 = 44.0;
const SWAP_HEIGHT: f64 = 110.0;
const WORK_HEIGHT: f64 = 90.0;
/// Below all panels, for the axis of time.
const BELOW: f64 = 50.0;
/// Where a line's legend stands.
const LEGEND: f64 = 52.0;

/// The host's view, and the colours of several guests.
const COLOURS: [&str; 8] =
    ["#2f81d6", "#d1700a", "#2c9c5a", "#a65fd0", "#d0506a", "#1697a6", "#a08000", "#7a70e0"];
const HOST: &str = COLOURS[0];
const TARGET: &str = COLOURS[1];
const COMMITTED: &str = COLOURS[2];
const RESERVATION: &str = COLOURS[3];
const WORK: &str = COLOURS[5];

/// One line of the chart of one guest.
struct Series {
    name: &'static str,
    explained: &'static str,
    stroke: Stroke<'static>,
    points: Vec<(u64, f64)>,
}

/// Where the panels lie, one below the other, with one axis of time.
struct Layout {
    time: Axis,
    /// The most that the panel of swap shows, if there is one.
    swapped: Option<f64>,
}

impl Layout {
    fn new(timeline: &Timeline) -> Self {
        let seconds = timeline.end_ms() as f64 / 1000.0;
        Self { time: Axis::decimal(seconds, 12).cut(seconds), swapped: swap::largest(&timeline.guests) }
    }

    fn panel(&self, top: f64, height: f64, value: Axis) -> Panel {
        Panel { left: LEFT, top, width: WIDTH - LEFT - RIGHT, height, time: self.time, value }
    }

    fn memory(&self, value: Axis) -> Panel {
        self.panel(MEMORY_TOP, MEMORY_HEIGHT, value)
    }

    fn swap(&self) -> Option<Panel> {
        let top = MEMORY_TOP + MEMORY_HEIGHT + BETWEEN;
        self.swapped.map(|largest| self.panel(top, SWAP_HEIGHT, Axis::mib(largest, 4)))
    }

    fn work(&self, value: Axis) -> Panel {
        let above = self.swap().map_or(MEMORY_TOP + MEMORY_HEIGHT, |swap| swap.bottom());
        self.panel(above + BETWEEN, WORK_HEIGHT, value)
    }

    /// Of the whole picture.
    fn height(&self) -> f64 {
        self.work(Axis::decimal(0.0, 1)).bottom() + BELOW
    }
}

/// Draws a timeline.
pub(crate) fn draw(timeline: &Timeline) -> String {
    match timeline.guests.as_slice() {
        [] => one(timeline, &Track::default()),
        [track] => one(timeline, track),
        tracks => several(timeline, tracks),
    }
}

fn one(timeline: &Timeline, track: &Track) -> String {
    let of = |value: fn(&GuestSample) -> Option<u64>| -> Vec<(u64, f64)> {
        let point = |sample: &GuestSample| Some((sample.at_ms, mib(value(sample)?)));
        track.samples.iter().filter_map(point).collect()
    };
    let host: Vec<(u64, f64)> = track.host.iter().map(|point| (point.at_ms, mib(point.kib))).collect();
    let stroke = |colour, width, dashes| Stroke { colour, width, dashes };
    let series = [
        Series {
            name: "host",
            explained: "what Xen counts",
            stroke: stroke(HOST, 2.5, ""),
            points: host.clone(),
        },
        Series {
            name: "guest",
            explained: "what it counts",
            stroke: stroke(RESERVATION, 1.5, "6 3"),
            points: of(|sample| sample.reservation_kib),
        },
        Series {
            name: "target",
            explained: "what it wants",
            stroke: stroke(TARGET, 1.5, "2 2"),
            points: of(|sample| sample.target_kib),
        },
        Series {
            name: "committed",
            explained: "what its application asked for",
            stroke: stroke(COMMITTED, 2.0, ""),
            points: of(|sample| sample.committed_kib),
        },
    ];
    let largest =
        series.iter().flat_map(|series| &series.points).fold(0.0, |most: f64, point| most.max(point.1));
    let layout = Layout::new(timeline);
    let panel = layout.memory(Axis::mib(largest, 6));
    let mut svg = Svg::new(WIDTH, layout.height(), &format!("Memory of the guest {} over time", track.name));
    svg.heading((LEFT, 24.0), &format!("Memory of the guest {}", track.name));
    let mut legend = Legend::at(LEFT, LEGEND);
    for series in series.iter().filter(|series| !series.points.is_empty()) {
        legend.entry(&mut svg, series.stroke, &format!("{} ({})", series.name, series.explained));
    }
    panel.values(&mut svg, "MiB", |value| format!("{value:.0}"));
    phases(&mut svg, &panel, track);
    let band: Vec<(u64, f64, f64)> = host.iter().map(|&(at_ms, value)| (at_ms, 0.0, value)).collect();
    panel.band(&mut svg, &band, HOST, 0.16);
    let mut labels = Vec::new();
    // The host's line is the widest and lies below the others.
    for series in &series {
        panel.series(&mut svg, &series.points, series.stroke);
        if let Some(&(_, value)) = series.points.last() {
            let text = format!("{} {value:.0} MiB", series.name);
            labels.push(Label { value, colour: series.stroke.colour, text });
        }
    }
    panel.labels(&mut svg, labels);
    if let Some(panel) = layout.swap() {
        panel.values(&mut svg, "MiB", |value| format!("{value:.0}"));
        swap::one(&mut svg, &panel, track);
    }
    work(&mut svg, &layout, &[(track, WORK)]);
    svg.finish()
}

fn several(timeline: &Timeline, tracks: &[Track]) -> String {
    let capacity = timeline.capacity_kib().map(mib);
    let peaks: u64 = tracks.iter().filter_map(|track| track.host.iter().map(|point| point.kib).max()).sum();
    let peaks = mib(peaks);
    let layout = Layout::new(timeline);
    let panel = layout.memory(Axis::mib(capacity.unwrap_or_default().max(peaks) * 1.02, 7));
    let title = format!("Memory of {} guests as the host sees it", tracks.len());
    let mut svg = Svg::new(WIDTH, layout.height(), &title);
    svg.heading((LEFT, 24.0), &title);
    let mut legend = Legend::at(LEFT, LEGEND);
    let solid = |colour| Stroke { colour, width: 2.0, dashes: "" };
    for (track, colour) in coloured(tracks).take(6) {
        legend.entry(&mut svg, Stroke { width: 8.0, ..solid(colour) }, &track.name);
    }
    panel.values(&mut svg, "MiB", |value| format!("{value:.0}"));
    // All looks have the same instants for all guests, so that the layers fit.
    let mut base: Vec<(u64, u64, f64)> =
        timeline.free.iter().map(|free| (free.at_ms, free.own_ms, 0.0)).collect();
    let mut labels = Vec::new();
    for (track, colour) in coloured(tracks) {
        let mut layer = Vec::new();
        for (at_ms, own_ms, below) in &mut base {
            let here = track.host.binary_search_by_key(own_ms, |point| point.own_ms);
            let Some(point) = here.ok().and_then(|at| track.host.get(at)) else { continue };
            let above = *below + mib(point.kib);
            layer.push((*at_ms, *below, above));
            *below = above;
        }
        panel.band(&mut svg, &layer, colour, 0.45);
        let top: Vec<(u64, f64)> = layer.iter().map(|&(at_ms, _, above)| (at_ms, above)).collect();
        panel.series(&mut svg, &top, Stroke { width: 1.2, ..solid(colour) });
        if let Some(&(_, below, above)) = layer.last() {
            labels.push(Label { value: (below + above) / 2.0, colour, text: track.name.clone() });
        }
    }
    let mut across = |value: f64, dashes, text: String| {
        let ends = [panel.place(0, value), (panel.right(), panel.place(0, value).1)];
        svg.line(&ends, Stroke { colour: INK, width: 1.8, dashes });
        labels.push(Label { value, colour: INK, text });
    };
    if let Some(capacity) = capacity {
        across(capacity, "", format!("{capacity:.0} MiB for guests"));
    }
    across(peaks, "3 3", format!("{peaks:.0} MiB: sum of peaks"));
    panel.labels(&mut svg, labels);
    if let Some(panel) = layout.swap() {
        panel.values(&mut svg, "MiB", |value| format!("{value:.0}"));
        swap::several(&mut svg, &panel, coloured(tracks));
    }
    work(&mut svg, &layout, &coloured(tracks).collect::<Vec<_>>());
    svg.finish()
}

fn coloured(tracks: &[Track]) -> impl Iterator<Item = (&Track, &'static str)> {
    tracks.iter().zip(COLOURS.into_iter().cycle())
}

/// The lower panel: how fast each guest worked.
fn work(svg: &mut Svg, layout: &Layout, tracks: &[(&Track, &'static str)]) {
    let rates: Vec<Vec<(u64, f64)>> = tracks
        .iter()
        .map(|(track, _)| track.rates().iter().map(|rate| (rate.at_ms, rate.per_second)).collect())
        .collect();
    let largest = rates.iter().flatten().fold(0.0, |most: f64, point| most.max(point.1));
    let panel = layout.work(Axis::decimal(largest, 3));
    panel.values(svg, "work/s", short);
    panel.times(svg);
    let mut labels = Vec::new();
    for (points, &(track, colour)) in rates.iter().zip(tracks) {
        panel.series(svg, points, Stroke { colour, width: 1.5, dashes: "" });
        let done = track.samples.iter().rev().find_map(|sample| sample.work);
        if let (Some(&(_, value)), Some(done)) = (points.last(), done) {
            let who = if tracks.len() > 1 { &track.name } else { "work" };
            labels.push(Label { value, colour, text: format!("{who} {} in all", short(done as f64)) });
        }
    }
    if labels.is_empty() {
        svg.text(
            (LEFT + 8.0, panel.top + WORK_HEIGHT / 2.0),
            Anchor::Start,
            INK,
            "the guest reports no work",
        );
    }
    panel.labels(svg, labels);
}

/// What the guest's application was doing, above the lines.
fn phases(svg: &mut Svg, panel: &Panel, track: &Track) {
    // Where the text of each row ends; the upper one is for what does not fit into the lower.
    let mut rows = [(6.0, 0.0), (19.0, 0.0)];
    for (at_ms, phase) in track.phases() {
        let (x, _) = panel.place(at_ms, 0.0);
        let stroke = Stroke { colour: INK, width: 0.7, dashes: "1 3" };
        svg.line(&[(x, panel.top - 14.0), (x, panel.bottom())], stroke);
        if let Some((above, free_from)) = rows.iter_mut().find(|(_, free_from)| x >= *free_from) {
            svg.text((x + 3.0, panel.top - *above), Anchor::Start, INK, phase);
            *free_from = x + 3.0 + LETTER * phase.chars().count() as f64;
        }
    }
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
