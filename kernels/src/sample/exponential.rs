//! `e^x` for `x <= 0`, without branches and without a library, so that the compiler makes it vectors and every machine
//! gives the same bits.

/// Below this it is 0: less than the smallest normal number.
const LEAST: f32 = -87.0;

/// `e^x` for `x <= 0`, to a few units in the last place: `2^n e^r` with `n` the nearest whole number to `x / ln 2`.
#[inline]
pub(super) fn exponential(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few enough bits that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x > LEAST { x } else { LEAST };
    let shifted = bounded * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = bounded - n * LN_2_HIGH - n * LN_2_LOW;
    // Cephes' polynomial for e^r, |r| <= ln 2 / 2.
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let power = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23;
    let value = power * f32::from_bits(exponent);
    if x > LEAST { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_librarys_to_a_few_units_in_the_last_place() {
        for step in 0..87_000 {
            let x = -step as f32 / 1000.0;
            let (got, expected) = (f64::from(exponential(x)), f64::from(x).exp());
            assert!((got - expected).abs() <= 4e-7 * expected, "e^{x}: {got}, not {expected}");
        }
        assert_eq!(exponential(0.0), 1.0);
    }

    #[test]
    fn what_is_far_below_or_no_number_is_nothing() {
        for x in [-88.0, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exponential(x), 0.0);
        }
    }
}
