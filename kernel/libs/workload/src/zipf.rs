//! Zipfian popularity: rank r of n is chosen with a probability proportional to 1 / r^θ, as YCSB's requests are.
//!
//! YCSB sums n powers before it starts and approximates after. Here ranks are grouped by octaves (1, 2–3, 4–7,
//! …), an octave is drawn by the weight it would have if all of it were as popular as its first rank, a rank in
//! it evenly, and the pair is accepted with the ratio of the true weight to that envelope. The result is exact
//! up to the 2⁻²⁸ of the arithmetic, the set-up takes one power per octave (so that n may change at any time),
//! and a draw takes 1.4 attempts on average, at most 2. The ratio itself is hardly ever computed: with m = r / 2ᵏ
//! in [1, 2), m^−θ lies between 1 / m and 2^(1−θ) / m, and with YCSB's exponent these are 0.7 % apart.

use crate::fixed::{exp2_neg, log2, times};
use crate::random::{Rng, mix};

/// YCSB's exponent 0.99, as a fraction.
pub const THETA: u64 = 18_262_276_632_972_456_099;

/// Attempts after which a draw takes what it has: reached once in 2⁶⁴ draws at the worst.
const ATTEMPTS: u32 = 64;

/// The popularity of `n` ranks, and their scattering over `n` items.
#[derive(Clone, Debug)]
pub struct Zipf {
    items: u32,
    theta: u64,
    octaves: usize,
    /// 2^−θ, which is 2^(1−θ) in units of 2⁻⁶³.
    surely_not: u64,
    /// The cumulative probability of the octaves under the envelope, as fractions.
    upto: [u64; 32],
}

impl Zipf {
    /// Ranks of `items` items (none counts as one) with the exponent `theta`, a fraction in [0, 1).
    #[must_use]
    pub fn new(items: u32, theta: u64) -> Self {
        let items = items.max(1);
        let octaves = items.ilog2() as usize + 1;
        let mut sums = [0u64; 32];
        let mut sum = 0u64;
        for (octave, slot) in sums.iter_mut().enumerate().take(octaves) {
            // The first rank of the octave is 2^octave, its weight 2^(−θ·octave).
            let exponent = u128::from(theta) * octave as u128;
            let weight = exp2_neg(exponent as u64) >> (exponent >> 64);
            // In units of 2⁻³²: below 2⁶⁴ for all 2³² ranks together, even with θ = 0.
            sum += ((u128::from(weight) * u128::from(Self::count(items, octave))) >> 32) as u64;
            *slot = sum;
        }
        let upto = sums.map(|part| ((u128::from(part) << 64) / u128::from(sum)).min(u64::MAX.into()) as u64);
        Self { items, theta, octaves, surely_not: exp2_neg(theta), upto }
    }

    /// How many ranks there are.
    #[must_use]
    pub const fn items(&self) -> u32 {
        self.items
    }

    /// Ranks in an octave: all of it, or what there is of the last.
    fn count(items: u32, octave: usize) -> u32 {
        (items - (1 << octave) + 1).min(1 << octave)
    }

    /// Draws a rank: 0 is the most popular.
    pub fn rank(&self, rng: &mut Rng) -> u32 {
        let mut rank = 1;
        for _ in 0..ATTEMPTS {
            let point = rng.draw();
            let octave = self.upto[..self.octaves - 1].iter().position(|upto| point < *upto);
            let octave = octave.unwrap_or(self.octaves - 1);
            let draw = rng.draw();
            let offset = ((draw >> 32) * u64::from(Self::count(self.items, octave))) >> 32;
            rank = (1 << octave) + offset as u32;
            let ratio = u64::from(rank) << (63 - octave); // rank / 2^octave, in [1, 2)
            if self.accepts(draw << 32, ratio) {
                break;
            }
        }
        rank - 1
    }

    /// Whether `point` ≤ `ratio`^−θ, for a fraction and a number in [1, 2) in units of 2⁻⁶³.
    const fn accepts(&self, point: u64, ratio: u64) -> bool {
        // In units of 2⁻⁶³: at most 1 is below the power for sure, and more than 2^(1−θ) above.
        let product = times(point, ratio);
        if product <= 1 << 63 {
            true
        } else if product > self.surely_not {
            false
        } else {
            point <= exp2_neg(times(self.theta, log2(ratio)))
        }
    }

    /// Draws an item: a rank, scattered, so that popular items are not neighbours in memory.
    pub fn item(&self, rng: &mut Rng) -> u32 {
        scatter(self.rank(rng), self.items)
    }
}

/// A permutation of the numbers below `items`; numbers beyond stay in range too.
#[must_use]
pub fn scatter(number: u32, items: u32) -> u32 {
    if items <= 1 {
        return 0;
    }
    // A bijection of the smallest power of two that holds them, repeated until it lands inside: at most one in
    // two steps leads outside, and a cycle that began inside returns inside.
    let bits = u32::BITS - (items - 1).leading_zeros();
    let mask = u64::MAX >> (64 - bits);
    let half = bits.div_ceil(2);
    let mut value = u64::from(number % items);
    loop {
        value = value.wrapping_mul(mix(1) | 1).wrapping_add(mix(2)) & mask;
        value ^= value >> half;
        value = value.wrapping_mul(mix(3) | 1).wrapping_add(mix(4)) & mask;
        value ^= value >> half;
        if value < u64::from(items) {
            return value as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    /// Pearson's statistic of the drawn ranks against the exact distribution, ranks pooled so that each class
    /// expects at least 50; and the number of classes.
    fn chi_square(items: u32, theta: f64, draws: u32) -> (f64, usize) {
        let zipf = Zipf::new(items, (theta * 18_446_744_073_709_551_616.0) as u64);
        let mut rng = Rng::new(99);
        let mut counts = vec![0u32; items as usize];
        for _ in 0..draws {
            counts[zipf.rank(&mut rng) as usize] += 1;
        }
        let weights: Vec<f64> = (1..=items).map(|rank| f64::from(rank).powf(-theta)).collect();
        let total: f64 = weights.iter().sum();
        let (mut statistic, mut classes, mut seen, mut expected) = (0.0, 0, 0.0, 0.0);
        for (count, weight) in counts.iter().zip(&weights) {
            seen += f64::from(*count);
            expected += weight / total * f64::from(draws);
            if expected >= 50.0 {
                statistic += (seen - expected) * (seen - expected) / expected;
                (seen, expected) = (0.0, 0.0);
                classes += 1;
            }
        }
        (statistic, classes)
    }

    #[test]
    fn draws_follow_the_exact_distribution() {
        for (items, theta) in
            [(1, 0.99), (2, 0.99), (3, 0.5), (1000, 0.99), (1023, 0.99), (1025, 0.7), (5000, 0.0)]
        {
            let (statistic, classes) = chi_square(items, theta, 200_000);
            // Mean: classes − 1; deviation: √(2·classes). Five deviations.
            let bound = classes as f64 + 5.0 * (2.0 * classes as f64).sqrt();
            assert!(statistic < bound, "{items} items, θ {theta}: {statistic} over {classes} classes");
        }
    }

    #[test]
    fn a_wrong_exponent_is_noticed() {
        let zipf = Zipf::new(1000, THETA);
        let flat = Zipf::new(1000, THETA / 2);
        let top = |zipf: &Zipf| {
            let mut rng = Rng::new(5);
            (0..50_000).filter(|_| zipf.rank(&mut rng) == 0).count()
        };
        // 1 / H(1000, 0.99) is 12.95 %, and 1 / H(1000, 0.495) 1.7 %.
        assert!((6_200..6_760).contains(&top(&zipf)), "{}", top(&zipf));
        assert!((600..1_100).contains(&top(&flat)), "{}", top(&flat));
    }

    #[test]
    fn the_bounds_decide_as_the_power_does() {
        let mut rng = Rng::new(8);
        for theta in [0, THETA / 2, THETA, u64::MAX] {
            let zipf = Zipf::new(10, theta);
            for _ in 0..50_000 {
                let (point, ratio) = (rng.draw(), rng.draw() | 1 << 63);
                let power = exp2_neg(times(theta, log2(ratio)));
                // Within the precision of the power, either is right.
                if point.abs_diff(power) > 1 << 40 {
                    assert_eq!(zipf.accepts(point, ratio), point <= power, "{point} {ratio} {theta}");
                }
            }
        }
    }

    #[test]
    fn any_number_of_items() {
        let mut rng = Rng::new(1);
        for items in [0, 1, 2, 3, 1 << 16, (1 << 31) - 1, 1 << 31, u32::MAX] {
            for theta in [0, THETA, u64::MAX] {
                let zipf = Zipf::new(items, theta);
                for _ in 0..200 {
                    assert!(zipf.rank(&mut rng) < items.max(1));
                    assert!(zipf.item(&mut rng) < items.max(1));
                }
            }
        }
    }

    #[test]
    fn scattering_is_a_permutation_that_parts_neighbours() {
        for items in [1u32, 2, 3, 7, 8, 1000, 4097] {
            let images: BTreeSet<u32> = (0..items).map(|number| scatter(number, items)).collect();
            assert_eq!(images.len(), items as usize);
            assert!(images.iter().all(|image| *image < items));
        }
        let close = (0..4096).filter(|at| scatter(*at, 4097).abs_diff(scatter(at + 1, 4097)) < 8).count();
        assert!(close < 100, "{close} of 4096 neighbours stay within 8");
    }
}
