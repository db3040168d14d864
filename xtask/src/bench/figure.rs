//! One figure beside its peer's: how many times better, and whether that is as good as it should be.

use super::round;
use serde_json::{Value, json};

/// Which of two numbers is the better one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Better {
    /// Times, hypercalls.
    Less,
    /// Rates.
    More,
}

/// A figure. What could not be taken is absent, and the note says why.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Figure {
    pub(super) bench: &'static str,
    pub(super) case: String,
    pub(super) metric: String,
    pub(super) unit: &'static str,
    pub(super) ours: Option<f64>,
    pub(super) peer: Option<f64>,
    pub(super) peer_name: Option<String>,
    /// `None` for a fact that is neither good nor bad: no ratio is made of it.
    pub(super) better: Option<Better>,
    /// The ratio that it should have at least.
    pub(super) target: Option<f64>,
    pub(super) note: String,
}

impl Figure {
    /// A figure without a peer.
    pub(super) fn new(
        bench: &'static str,
        case: &str,
        metric: &str,
        unit: &'static str,
        ours: Option<f64>,
    ) -> Self {
        Self {
            bench,
            case: case.to_owned(),
            metric: metric.to_owned(),
            unit,
            ours,
            peer: None,
            peer_name: None,
            better: None,
            target: None,
            note: String::new(),
        }
    }

    /// The same beside a peer's.
    pub(super) fn beside(mut self, name: &str, peer: Option<f64>, better: Option<Better>) -> Self {
        self.peer_name = Some(name.to_owned());
        self.peer = peer;
        self.better = better;
        self
    }

    /// The same with a target for the ratio.
    pub(super) fn target(mut self, ratio: f64) -> Self {
        self.target = Some(ratio);
        self
    }

    /// The same with a note.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// How many times better than the peer; `None` without two numbers above zero.
    fn ratio(&self) -> Option<f64> {
        let (ours, peer) = self.ours.zip(self.peer).filter(|(ours, peer)| *ours > 0.0 && *peer > 0.0)?;
        match self.better? {
            Better::Less => Some(peer / ours),
            Better::More => Some(ours / peer),
        }
    }

    /// As a record.
    pub(super) fn record(&self) -> Value {
        let ratio = self.ratio();
        let met = ratio.zip(self.target).map(|(ratio, target)| ratio >= target);
        json!({
            "bench": self.bench, "case": self.case, "metric": self.metric, "unit": self.unit,
            "ours": self.ours.map(significant), "peer": self.peer.map(significant), "peer_name": self.peer_name,
            "ratio": ratio.map(round), "target": self.target.map(round), "met": met, "note": self.note,
        })
    }
}

/// Four significant digits; whole numbers from a thousand.
fn significant(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let digits = 3 - x.abs().log10().floor() as i32;
    if digits <= 0 {
        return x.round();
    }
    let scale = 10_f64.powi(digits);
    (x * scale).round() / scale
}

/// The middle one, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(middle - 1).map(|lower| (lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(ours: Option<f64>, peer: Option<f64>) -> Figure {
        Figure::new("balloon", "c", "m", "s", ours).beside("Linux", peer, Some(Better::Less))
    }

    #[test]
    fn a_ratio_is_how_many_times_better() {
        assert_eq!(seconds(Some(0.5), Some(4.0)).ratio(), Some(8.0));
        let rate = Figure { better: Some(Better::More), ..seconds(Some(100.0), Some(50.0)) };
        assert_eq!(rate.ratio(), Some(2.0));
        let fact = Figure { better: None, ..rate };
        assert_eq!(fact.ratio(), None);
    }

    #[test]
    fn a_target_is_judged_only_with_a_ratio_and_before_rounding() {
        let met = |figure: Figure| figure.target(12.0).record()["met"].clone();
        assert_eq!(met(seconds(Some(1.0), Some(12.0))), true);
        assert_eq!(met(seconds(Some(1.0), Some(11.999))), false);
        assert_eq!(met(seconds(None, Some(12.0))), Value::Null);
        assert_eq!(met(seconds(Some(1.0), None)), Value::Null);
        assert_eq!(met(seconds(Some(0.0), Some(1.0))), Value::Null, "nothing takes no time");
        assert_eq!(seconds(Some(1.0), Some(2.0)).record()["met"], Value::Null, "no target");
    }

    #[test]
    fn a_record_has_every_field() {
        let record = Figure::new("balloon", "c", "m", "s", None).note("why").record();
        for field in super::super::FIELDS {
            assert!(record.get(field).is_some(), "{field}");
        }
        assert!(record["ours"].is_null() && record["peer_name"].is_null());
        assert_eq!(record["note"], "why");
    }

    #[test]
    fn numbers_are_shown_with_four_digits() {
        for (x, shown) in [(0.012_345_6, 0.012_35), (3.999_96, 4.0), (123_456.7, 123_457.0), (0.0, 0.0)] {
            assert_eq!(significant(x), shown);
        }
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 9.0]), Some(3.5));
    }
}
