//! Powers of two with fractional exponents, in integers.
//!
//! The image is built without floating-point registers, and `core` has neither logarithm nor power. A Zipfian
//! choice and a log-uniform size need just two functions on fractions: the binary logarithm of a number in
//! [1, 2), and two to the power of a negative fraction. A *fraction* here is a `u64` in units of 2⁻⁶⁴.

/// How many bits of a logarithm are computed, and how many bits of an exponent count.
const BITS: usize = 28;

/// `ROOTS[i]` is 2 to the power −2⁻⁽ⁱ⁺¹⁾: each the square root of the one before.
const ROOTS: [u64; BITS] = {
    let mut roots = [0; BITS];
    let mut value: u128 = 1 << 63; // one half
    let mut index = 0;
    while index < BITS {
        value = (value << 64).isqrt();
        roots[index] = value as u64;
        index += 1;
    }
    roots
};

/// The product of two fractions.
#[must_use]
pub const fn times(left: u64, right: u64) -> u64 {
    ((left as u128 * right as u128) >> 64) as u64
}

/// The binary logarithm of `number` / 2⁶³, a number in [1, 2), as a fraction, to 28 bits.
///
/// A `number` below 2⁶³ has its top bit set first: there is no logarithm of it in range.
#[must_use]
pub const fn log2(number: u64) -> u64 {
    let mut number = number | 1 << 63;
    let mut log = 0;
    let mut bit = 0;
    while bit < BITS {
        // Squaring doubles the logarithm; its integer part is the next bit.
        let square = (number as u128 * number as u128) >> 63;
        if square >> 64 == 0 {
            number = square as u64;
        } else {
            number = (square >> 1) as u64;
            log |= 1 << (63 - bit);
        }
        bit += 1;
    }
    log
}

/// Two to the power −`exponent`, as a fraction: in (½, 1], where 1 is `u64::MAX`.
#[must_use]
pub const fn exp2_neg(exponent: u64) -> u64 {
    let mut power = u64::MAX;
    let mut bit = 0;
    while bit < BITS {
        if exponent & (1 << (63 - bit)) != 0 {
            power = times(power, ROOTS[bit]);
        }
        bit += 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: f64 = 18_446_744_073_709_551_616.0;

    #[test]
    fn logarithms_agree_with_floating_point() {
        for step in 0..10_000u64 {
            let number = (1 << 63) + step * ((1 << 63) / 10_000);
            let exact = (number as f64 / ONE * 2.0).log2();
            let ours = log2(number) as f64 / ONE;
            assert!((exact - ours).abs() < 1e-8, "log2 of {number}: {ours} for {exact}");
        }
        assert_eq!(log2(1 << 63), 0);
        assert_eq!(log2(0), 0);
    }

    #[test]
    fn powers_agree_with_floating_point() {
        for step in 0..10_000u64 {
            let exponent = step * (u64::MAX / 10_000);
            let exact = (-(exponent as f64) / ONE).exp2();
            let ours = exp2_neg(exponent) as f64 / ONE;
            assert!((exact - ours).abs() < 1e-8, "2^-{exponent}: {ours} for {exact}");
        }
        assert_eq!(exp2_neg(0), u64::MAX);
    }
}
