//! Quantizes f32 rows to Q8_0 and Q4_K, as well as llama.cpp does.
//!
//! Q4_K keeps its 6-bit factors per 256 values here too, but the last 256 of a row may be fewer (a multiple of 32).

#[cfg(test)]
mod tests;

use half::f16;

use super::decode::Decoded;
use super::{BLOCK, BlockType};

/// Quantizes one row, `x` of whole blocks of 32; what is not finite gets scales that are not.
pub(super) fn row(kind: BlockType, x: &[f32], out: &mut [Decoded]) {
    let x = x.as_chunks::<BLOCK>().0;
    match kind {
        BlockType::Q4K => x.chunks(8).zip(out.chunks_mut(8)).for_each(|(x, out)| q4_k(x, out)),
        _ => x.iter().zip(out).for_each(|(x, out)| *out = q8_0(x)),
    }
}

/// `d = max |x| / 127`, `q = x / d` rounded half away from zero, kept with 128 added.
fn q8_0(x: &[f32; BLOCK]) -> Decoded {
    let largest = x.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
    let d = if x.iter().all(|v| v.is_finite()) { largest / 127.0 } else { f32::NAN };
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let quants = x.map(|v| ((v * inverse).round() as i8).cast_unsigned() ^ 0x80);
    Decoded { quants, units: [narrow(d), 0.0], factors: [[0; 2]; 2] }
}

/// `d * factor * q - dmin * factor'`: first each 32 values' best scale and minimum, then their common f16 scales.
fn q4_k(x: &[[f32; BLOCK]], out: &mut [Decoded]) {
    if !x.iter().flatten().all(|v| v.is_finite()) {
        out[0].units[0] = f32::NAN;
        return;
    }
    let mut fits = [(0.0_f32, 0.0_f32); 8];
    for (fit, x) in fits.iter_mut().zip(x) {
        *fit = scale_and_minimum(x);
    }
    let largest = fits.iter().fold((0.0_f32, 0.0_f32), |(d, m), fit| (d.max(fit.0), m.max(fit.1)));
    let (d, dmin) = (narrow(largest.0 / 63.0), narrow(largest.1 / 63.0));
    let factor =
        |value: f32, largest: f32| if largest > 0.0 { (63.0 / largest * value).round() } else { 0.0 };
    for ((x, out), fit) in x.iter().zip(out).zip(fits) {
        let factors = [factor(fit.0, largest.0), factor(fit.1, largest.1)];
        let (scale, minimum) = (d * factors[0], dmin * factors[1]);
        let quants = if scale > 0.0 { levels(x, minimum, 1.0 / scale).map(|q| q as u8) } else { [0; BLOCK] };
        *out = Decoded { quants, units: [d, -dmin], factors: factors.map(|factor| [factor as i8, 0]) };
    }
}

/// The scale and (positive) minimum with the least error over 21 widths of the range, values weighted by their size.
///
/// For each width the levels are fixed first, then scale and minimum are the weighted least squares for these levels.
fn scale_and_minimum(x: &[f32; BLOCK]) -> (f32, f32) {
    let (low, high) = x.iter().fold((0.0_f32, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    if high <= low {
        return (0.0, -low);
    }
    let size = (sum(&x.map(|v| v * v)) / BLOCK as f32).sqrt();
    let weights = x.map(|v| size + v.abs());
    let error = |scale: f32, minimum: f32, levels: &[f32; BLOCK]| {
        sum(&std::array::from_fn(|i| {
            let off = scale * levels[i] - minimum - x[i];
            weights[i] * off * off
        }))
    };
    let weighted = std::array::from_fn(|i| weights[i] * x[i]);
    let (sum_w, sum_x) = (sum(&weights), sum(&weighted));
    let mut best = ((high - low) / 15.0, -low);
    let mut least = error(best.0, best.1, &levels(x, -low, 15.0 / (high - low)));
    for step in 0..=20 {
        let levels = levels(x, -low, (14.0 + 0.1 * step as f32) / (high - low));
        let sum_l = sum(&std::array::from_fn(|i| weights[i] * levels[i]));
        let sum_l2 = sum(&std::array::from_fn(|i| weights[i] * levels[i] * levels[i]));
        let sum_xl = sum(&std::array::from_fn(|i| weighted[i] * levels[i]));
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut minimum = (sum_l * sum_xl - sum_l2 * sum_x) / determinant;
        if minimum < 0.0 {
            (scale, minimum) = (sum_xl / sum_l2, 0.0);
        }
        let found = error(scale, minimum, &levels);
        if found < least {
            (best, least) = ((scale, minimum), found);
        }
    }
    best
}

/// The nearest of the levels 0 to 15 for each value.
fn levels(x: &[f32; BLOCK], minimum: f32, inverse: f32) -> [f32; BLOCK] {
    /// Adding and taking it off again rounds to whole numbers.
    const ROUND: f32 = 12_582_912.0;
    x.map(|v| ((v + minimum) * inverse).clamp(0.0, 15.0) + ROUND - ROUND)
}

/// In eight lanes, so that it is computed in vectors.
fn sum(x: &[f32; BLOCK]) -> f32 {
    let lanes: [f32; 8] = std::array::from_fn(|i| (x[i] + x[i + 8]) + (x[i + 16] + x[i + 24]));
    lanes.iter().sum()
}

/// As the f16 that a file would hold.
fn narrow(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}
