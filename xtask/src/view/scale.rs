//! Axes: which numbers to write at them, and how.

/// Evenly spaced values from 0, the last at or above the largest value: its count and distance are for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    /// The distance of two marks.
    pub(crate) step: f64,
    /// The end of the axis.
    pub(crate) end: f64,
}

impl Axis {
    /// For MiB: powers of two up to 1024, at most `marks` of them besides 0.
    pub(crate) fn mib(largest: f64, marks: u32) -> Self {
        Self::new(largest, marks, (0..64).map(|power| (1_u64 << power) as f64))
    }

    /// For anything decimal: 1, 2, 5, 10, 20 and so on.
    pub(crate) fn decimal(largest: f64, marks: u32) -> Self {
        let steps = (0..30).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
        Self::new(largest, marks, steps)
    }

    fn new(largest: f64, marks: u32, mut steps: impl Iterator<Item = f64>) -> Self {
        let largest = if largest.is_finite() { largest.max(0.0) } else { 0.0 };
        let wide = |step: &f64| largest / step <= f64::from(marks);
        let step = steps.find(wide).unwrap_or_else(|| largest.max(1.0));
        Self { step, end: step * (largest / step).ceil().max(1.0) }
    }

    /// The same marks on an axis that ends with the largest value.
    pub(crate) fn cut(self, largest: f64) -> Self {
        let end = if largest > 0.0 { largest.min(self.end) } else { self.end };
        Self { end, ..self }
    }

    /// The marks, from 0 to the end.
    pub(crate) fn marks(self) -> impl Iterator<Item = f64> {
        // Rounding must not lose the last.
        let count = (self.end / self.step + 1e-9) as u32;
        (0..=count).map(move |mark| f64::from(mark) * self.step)
    }
}

/// A number with as many digits as a person wants: `950`, `12.3k`, `4.57M`.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 10_000.0 => (v / 1e3, "k"),
        v => return format!("{v:.0}"),
    };
    let digits = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// KiB as MiB.
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_reach_over_the_largest_value_with_few_marks() {
        assert_eq!(Axis::mib(257.0, 6), Axis { step: 64.0, end: 320.0 });
        assert_eq!(Axis::mib(256.0, 4).marks().collect::<Vec<_>>(), [0.0, 64.0, 128.0, 192.0, 256.0]);
        assert_eq!(Axis::decimal(61.0, 7), Axis { step: 10.0, end: 70.0 });
        let cut = Axis::decimal(61.0, 7).cut(61.0);
        assert_eq!((cut.end, cut.marks().last()), (61.0, Some(60.0)));
        assert_eq!(Axis::decimal(0.0, 7).cut(0.0).end, 1.0);
        assert_eq!(Axis::decimal(0.3, 7), Axis { step: 1.0, end: 1.0 });
    }

    #[test]
    fn degenerate_values_have_an_axis_too() {
        for largest in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Axis::mib(largest, 5), Axis { step: 1.0, end: 1.0 }, "{largest}");
        }
        let huge = Axis::mib(f64::MAX, 5);
        assert!(huge.end.is_finite() && huge.marks().count() <= 7);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (950.4, "950"),
            (9999.0, "9999"),
            (12_345.0, "12.3k"),
            (20_000.0, "20k"),
            (4_567_000.0, "4.57M"),
            (3e9, "3G"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
