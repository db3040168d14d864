//! One coordinate system in a picture: axes, lines, areas, and labels beside the lines' ends.

use super::scale::Axis;
use super::svg::{Anchor, INK, Stroke, Svg};

/// How wide a letter is, about.
pub(crate) const LETTER: f64 = 6.8;

/// The least distance of two labels' baselines.
const LABEL_DISTANCE: f64 = 14.0;

/// A rectangle of the picture with scales.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// Seconds.
    pub(crate) time: Axis,
    pub(crate) value: Axis,
}

/// A text beside the end of a line.
#[derive(Clone, Debug)]
pub(crate) struct Label<'c> {
    /// The value at which the line ends.
    pub(crate) value: f64,
    pub(crate) colour: &'c str,
    pub(crate) text: String,
}

impl Panel {
    /// The place of a value at a time.
    pub(crate) fn place(&self, at_ms: u64, value: f64) -> (f64, f64) {
        let x = self.left + self.width * (at_ms as f64 / 1000.0 / self.time.end);
        (x, self.top + self.height * (1.0 - value / self.value.end))
    }

    /// The lower edge.
    pub(crate) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// The right edge.
    pub(crate) fn right(&self) -> f64 {
        self.left + self.width
    }

    /// Lines across at the marks, with their values to the left, and what they are above them.
    pub(crate) fn values(&self, svg: &mut Svg, unit: &str, number: impl Fn(f64) -> String) {
        for mark in self.value.marks() {
            let (_, y) = self.place(0, mark);
            let width = if mark == 0.0 { 1.0 } else { 0.35 };
            svg.line(&[(self.left, y), (self.right(), y)], Stroke { colour: INK, width, dashes: "" });
            svg.text((self.left - 6.0, y + 4.0), Anchor::End, INK, &number(mark));
        }
        svg.text((self.left - 6.0, self.top - 9.0), Anchor::End, INK, unit);
    }

    /// The marks of time below.
    pub(crate) fn times(&self, svg: &mut Svg) {
        let bottom = self.bottom();
        for mark in self.time.marks() {
            let x = self.left + self.width * mark / self.time.end;
            svg.line(&[(x, bottom), (x, bottom + 4.0)], Stroke { colour: INK, width: 1.0, dashes: "" });
            svg.text((x, bottom + 18.0), Anchor::Middle, INK, &format!("{mark:.0}"));
        }
        svg.text(
            (self.right(), bottom + 34.0),
            Anchor::End,
            INK,
            "seconds since the first guest was asked for",
        );
    }

    /// A line through samples, which is broken where samples are missing.
    pub(crate) fn series(&self, svg: &mut Svg, points: &[(u64, f64)], stroke: Stroke<'_>) {
        for piece in pieces(points) {
            let places: Vec<_> = piece.iter().map(|&(at_ms, value)| self.place(at_ms, value)).collect();
            svg.line(&places, stroke);
        }
    }

    /// The area between two series with the same times.
    pub(crate) fn band(&self, svg: &mut Svg, points: &[(u64, f64, f64)], colour: &str, opacity: f64) {
        let times: Vec<(u64, f64)> = points.iter().map(|&(at_ms, _, top)| (at_ms, top)).collect();
        let mut rest = points;
        for piece in pieces(&times) {
            let (these, more) = rest.split_at(piece.len());
            rest = more;
            let upper = these.iter().map(|&(at_ms, _, top)| self.place(at_ms, top));
            let lower = these.iter().rev().map(|&(at_ms, base, _)| self.place(at_ms, base));
            svg.area(&upper.chain(lower).collect::<Vec<_>>(), colour, opacity);
        }
    }

    /// Labels to the right, each as near to its line's end as the others allow.
    pub(crate) fn labels(&self, svg: &mut Svg, mut labels: Vec<Label<'_>>) {
        labels.sort_by(|one, other| other.value.total_cmp(&one.value));
        let wanted: Vec<f64> = labels.iter().map(|label| self.place(0, label.value).1).collect();
        for (y, label) in spread(&wanted, self.top, self.bottom()).into_iter().zip(labels) {
            svg.text((self.right() + 8.0, y + 4.0), Anchor::Start, label.colour, &label.text);
        }
    }
}

/// Which line is what, in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Legend {
    x: f64,
    y: f64,
}

impl Legend {
    /// A row that begins here.
    pub(crate) const fn at(x: f64, y: f64) -> Self {
        Self { x, y }
    }

    /// A row close above a panel.
    pub(crate) fn above(panel: &Panel) -> Self {
        Self::at(panel.left + 8.0, panel.top - 9.0)
    }

    /// The next line, and what it is.
    pub(crate) fn entry(&mut self, svg: &mut Svg, stroke: Stroke<'_>, text: &str) {
        let y = self.y - 4.0;
        svg.line(&[(self.x, y), (self.x + 22.0, y)], stroke);
        svg.text((self.x + 28.0, self.y), Anchor::Start, INK, text);
        self.x += 28.0 + LETTER * text.chars().count() as f64 + 14.0;
    }
}

/// Cuts a series where samples are missing: where two are much further apart than usual.
pub(crate) fn pieces(points: &[(u64, f64)]) -> impl Iterator<Item = &[(u64, f64)]> {
    let mut distances: Vec<u64> = points.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).collect();
    distances.sort_unstable();
    let usual = distances.get(distances.len() / 2).copied().unwrap_or_default();
    let most = (usual * 4).max(2_000);
    points.chunk_by(move |one, next| next.0.saturating_sub(one.0) <= most)
}

/// Moves places apart, as little as needed, keeping their order; `wanted` ascends.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::with_capacity(wanted.len());
    for &place in wanted {
        let least = places.last().map_or(top, |last| last + LABEL_DISTANCE);
        places.push(place.max(least));
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LABEL_DISTANCE;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_moved_apart_and_stay_inside() {
        assert_eq!(spread(&[20.0, 100.0], 0.0, 200.0), [20.0, 100.0]);
        assert_eq!(spread(&[20.0, 22.0, 23.0], 0.0, 200.0), [20.0, 34.0, 48.0]);
        assert_eq!(spread(&[190.0, 199.0, 200.0], 0.0, 200.0), [172.0, 186.0, 200.0]);
        assert!(spread(&[], 0.0, 1.0).is_empty());
    }

    #[test]
    fn a_series_is_cut_where_samples_are_missing() {
        let points: Vec<(u64, f64)> = [0, 500, 1000, 6000, 6500].map(|at| (at, 1.0)).into();
        assert_eq!(pieces(&points).map(<[_]>::len).collect::<Vec<_>>(), [3, 2]);
        let slow: Vec<(u64, f64)> = (0..5).map(|at| (at * 60_000, 1.0)).collect();
        assert_eq!(pieces(&slow).count(), 1, "as usual");
        assert_eq!(pieces(&[]).count(), 0);
    }

    #[test]
    fn values_have_places() {
        let axis = |end| Axis { step: end, end };
        let panel =
            Panel { left: 10.0, top: 20.0, width: 100.0, height: 50.0, time: axis(10.0), value: axis(4.0) };
        assert_eq!(panel.place(0, 0.0), (10.0, 70.0));
        assert_eq!(panel.place(10_000, 4.0), (110.0, 20.0));
    }
}
