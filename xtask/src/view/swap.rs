//! The chart's panel for swap: what is out, in layers by who has it, and the memory that the compressed pool takes for
//! its part. It is there only if some page was ever seen elsewhere.

use super::panel::{Label, Legend, Panel};
use super::scale::mib;
use super::svg::{INK, Stroke, Svg};
use super::timeline::{GuestSample, Track};

const POOL: &str = "#d0506a";
const SAME: &str = "#a08000";
const TMEM: &str = "#7a70e0";

/// A layer of the panel of one guest.
struct Layer {
    name: &'static str,
    explained: &'static str,
    colour: &'static str,
    of: fn(&GuestSample) -> Option<u64>,
}

/// The layers, the lowest first.
const LAYERS: [Layer; 3] = [
    Layer {
        name: "pool",
        explained: "pages in the compressed pool",
        colour: POOL,
        of: |sample| sample.swap.pool_kib,
    },
    Layer {
        name: "same-filled",
        explained: "pages of one word",
        colour: SAME,
        of: |sample| sample.swap.same_kib,
    },
    Layer {
        name: "tmem",
        explained: "pages that the hypervisor has",
        colour: TMEM,
        of: |sample| sample.swap.tmem_kib,
    },
];

/// Where a guest that does not say has its pages.
const SOMEWHERE: Layer =
    Layer { name: "swap", explained: "pages in swap", colour: POOL, of: |sample| sample.swapped_kib };

/// How wide the line on a layer is.
const LINE: f64 = 1.5;
/// What the pool takes.
const FRAMES: Stroke<'static> = Stroke { colour: POOL, width: 2.0, dashes: "5 3" };

/// The most that a panel of these guests shows, in MiB; `None` if there is nothing to show.
pub(crate) fn largest(tracks: &[Track]) -> Option<f64> {
    let swapped = tracks.iter().filter(|track| track.has_swapped()).flat_map(|track| &track.samples);
    // Layers are read one after the other: their sum may be a little more than what is out.
    let most = swapped.map(|sample| {
        let layers: u64 = LAYERS.iter().filter_map(|layer| (layer.of)(sample)).sum();
        let frames = sample.swap.frames_kib.unwrap_or_default();
        layers.max(frames).max(sample.swapped_kib.unwrap_or_default())
    });
    most.max().map(mib)
}

/// Draws one guest's layers into the panel, and what they are into the line above it.
pub(crate) fn one(svg: &mut Svg, panel: &Panel, track: &Track) {
    let peak = |of: fn(&GuestSample) -> Option<u64>| track.samples.iter().filter_map(of).max().unwrap_or(0);
    // One that is nowhere as thick as a line would only hide the line of the one below it.
    let seen = |kib: u64| mib(kib) / panel.value.end * panel.height >= LINE;
    let mut layers: Vec<&Layer> = LAYERS.iter().filter(|layer| seen(peak(layer.of))).collect();
    if layers.is_empty() {
        layers.push(&SOMEWHERE);
    }
    let (mut legend, mut labels) = (Legend::above(panel), Vec::new());
    let mut base: Vec<(u64, f64)> = track.samples.iter().map(|sample| (sample.at_ms, 0.0)).collect();
    for layer in layers {
        let mut band = Vec::new();
        for ((at_ms, below), sample) in base.iter_mut().zip(&track.samples) {
            let top = *below + mib((layer.of)(sample).unwrap_or_default());
            band.push((*at_ms, *below, top));
            *below = top;
        }
        let top: Vec<(u64, f64)> = band.iter().map(|&(at_ms, _, top)| (at_ms, top)).collect();
        panel.band(svg, &band, layer.colour, 0.35);
        panel.series(svg, &top, Stroke { colour: layer.colour, width: LINE, dashes: "" });
        legend.entry(svg, Stroke { colour: layer.colour, width: 8.0, dashes: "" }, layer.explained);
        if let Some(&(_, below, top)) = band.last() {
            let text = told(layer.name, top - below, peak(layer.of));
            labels.push(Label { value: (below + top) / 2.0, colour: layer.colour, text });
        }
    }
    let point = |sample: &GuestSample| Some((sample.at_ms, mib(sample.swap.frames_kib?)));
    let frames: Vec<(u64, f64)> = track.samples.iter().filter_map(point).collect();
    if let Some(&(_, value)) = frames.last() {
        panel.series(svg, &frames, FRAMES);
        legend.entry(svg, FRAMES, "memory that the pool takes");
        let text = told("memory", value, peak(|sample| sample.swap.frames_kib));
        labels.push(Label { value, colour: FRAMES.colour, text });
    }
    panel.labels(svg, labels);
}

/// Draws what each guest has out, as lines.
pub(crate) fn several<'t>(
    svg: &mut Svg,
    panel: &Panel,
    tracks: impl Iterator<Item = (&'t Track, &'static str)>,
) {
    Legend::above(panel).entry(svg, Stroke { colour: INK, width: 1.5, dashes: "" }, "pages in swap");
    let mut labels = Vec::new();
    for (track, colour) in tracks.filter(|(track, _)| track.has_swapped()) {
        let point = |sample: &GuestSample| Some((sample.at_ms, mib(sample.swapped_kib?)));
        let points: Vec<(u64, f64)> = track.samples.iter().filter_map(point).collect();
        panel.series(svg, &points, Stroke { colour, width: 1.5, dashes: "" });
        if let Some(&(_, value)) = points.last() {
            let peak = track.samples.iter().filter_map(|sample| sample.swapped_kib).max().unwrap_or(0);
            labels.push(Label { value, colour, text: told(&track.name, value, peak) });
        }
    }
    panel.labels(svg, labels);
}

/// What stands beside the end of a line: a panel whose lines end at 0, as they should, says nothing without the peak.
fn told(name: &str, last: f64, peak_kib: u64) -> String {
    let short =
        |value: f64| if value > 0.0 && value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{name} {}, peak {}", short(last), short(mib(peak_kib)))
}

#[cfg(test)]
mod tests {
    use super::super::chart::draw;
    use super::super::svg::tests::check_well_formed;
    use super::super::timeline::{Swap, Timeline};
    use super::*;

    /// A guest with so many MiB in the pool, of one word, and in tmem, sampled every 500 ms.
    fn track(name: &str, out: &[(u64, u64, Option<u64>)]) -> Track {
        let sample = |(number, &(pool, same, tmem)): (usize, &(u64, u64, Option<u64>))| GuestSample {
            at_ms: number as u64 * 500,
            swapped_kib: Some((pool + same + tmem.unwrap_or(0)) << 10),
            swap: Swap {
                pool_kib: Some(pool << 10),
                same_kib: Some(same << 10),
                tmem_kib: tmem.map(|mib| mib << 10),
                frames_kib: Some(pool << 8),
                ..Swap::default()
            },
            ..GuestSample::default()
        };
        let samples = out.iter().enumerate().map(sample).collect();
        Track { name: name.to_owned(), samples, host: Vec::new() }
    }

    fn drawn(guests: Vec<Track>) -> String {
        let svg = draw(&Timeline { guests, free: Vec::new() });
        check_well_formed(&svg);
        svg
    }

    /// The heights of the areas' corners above the lowest.
    fn areas(svg: &str) -> Vec<Vec<f64>> {
        let of = |points: &str| {
            points.split(' ').map(|point| point.split_once(',').unwrap().1.parse().unwrap()).collect()
        };
        svg.lines()
            .filter_map(|line| line.strip_prefix("<polygon points=\"")?.split('"').next())
            .map(of)
            .collect()
    }

    #[test]
    fn a_guest_that_never_swapped_has_no_panel() {
        let idle = drawn(vec![track("idle", &[(0, 0, None); 4])]);
        let mut old = track("old", &[(0, 0, None); 4]);
        for sample in &mut old.samples {
            sample.swap = Swap::default();
        }
        assert_eq!(idle.replace("idle", "old"), drawn(vec![old]));
        for word in ["pool", "same-filled", "tmem", "in swap"] {
            assert!(!idle.contains(word), "{word}");
        }
    }

    #[test]
    fn tiers_lie_one_on_the_other_and_unused_ones_are_left_out() {
        let svg = drawn(vec![track("ebb", &[(0, 0, None), (12, 6, None), (8, 4, None), (0, 0, None)])]);
        let [pool, same] = areas(&svg).try_into().unwrap();
        let ground = pool[7];
        let height = |y: f64| (ground - y).round();
        let twelve = height(pool[1]);
        assert!(twelve > 0.0);
        assert_eq!(height(same[1]), (twelve * 1.5).round());
        // The second begins where the first ends.
        assert_eq!((same[5], same[6]), (pool[2], pool[1]));
        for wanted in ["pages in the compressed pool", "pages of one word", "memory that the pool takes"] {
            assert!(svg.contains(wanted), "{wanted}");
        }
        assert!(svg.contains(">pool 0, peak 12<") && svg.contains(">memory 0, peak 3.0<"), "{svg}");
        assert!(!svg.contains("hypervisor has"));
        let thin = drawn(vec![track("ebb", &[(500, 0, None), (500, 1, None)])]);
        assert!(!thin.contains("pages of one word"), "it would hide the pool's line");
        let three = drawn(vec![track("ebb", &[(1, 1, Some(1)), (1, 1, Some(2))])]);
        assert_eq!(areas(&three).len(), 3);
        assert!(three.contains("pages that the hypervisor has"));
    }

    #[test]
    fn a_guest_that_does_not_say_where_its_pages_are_has_one_area() {
        let mut old = track("old", &[(0, 0, None), (12, 6, None)]);
        for sample in &mut old.samples {
            sample.swap = Swap::default();
        }
        let svg = drawn(vec![old]);
        assert_eq!(areas(&svg).len(), 1);
        assert!(svg.contains(">pages in swap<") && svg.contains(">swap 18, peak 18<"), "{svg}");
        assert!(!svg.contains("pool"));
    }

    #[test]
    fn several_guests_have_a_line_each_if_they_swapped() {
        let idle = track("idle", &[(0, 0, None), (0, 0, None)]);
        let svg = drawn(vec![track("busy", &[(20, 0, None), (12, 6, None)]), idle.clone()]);
        assert!(svg.contains(">busy 18, peak 20<"), "{svg}");
        assert!(!svg.contains("idle 0, peak"));
        assert!(!drawn(vec![idle.clone(), idle]).contains("in swap"));
    }
}
