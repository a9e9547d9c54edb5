//! RMS normalisation of rows or of their heads: `out = x / sqrt(mean(x²) + eps) * w`, with `w = 1 + weight` where asked.
//!
//! x and out `[rows, cols]`, weight `[cols]` or `[head_dim]`.
#![allow(unsafe_code, reason = "vector kernels")]

use std::ops::Range;

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::{F32x16, Kernel, fold, map_with};

/// `out = x / sqrt(mean(x²) + eps) * weight`, or `* (1 + weight)` with `unit_offset`.
///
/// # Panics
/// When the shapes do not fit.
pub fn rms_norm(dev: &Device, x: &Tensor, weight: &[f32], unit_offset: bool, eps: f32, out: &mut Tensor) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "rms_norm: the output's shape");
    assert_eq!(weight.len(), x.cols(), "rms_norm: the weight's length");
    let offset = if unit_offset { 1.0 } else { 0.0 };
    dev.each_row(out, x.cols(), |i, row| {
        row.copy_from_slice(x.row(i));
        dev.isa().run(Normalize { x: row, weight, offset, eps });
    });
}

/// [`rms_norm`] in place, of each head of `head_dim` columns within `columns`.
///
/// # Panics
/// When the shapes do not fit.
pub fn rms_norm_heads(
    dev: &Device,
    x: &mut Tensor,
    columns: Range<usize>,
    head_dim: usize,
    weight: &[f32],
    eps: f32,
) {
    assert!(columns.end <= x.cols(), "rms_norm_heads: columns {columns:?} of {}", x.cols());
    assert!(
        head_dim > 0 && columns.len().is_multiple_of(head_dim),
        "rms_norm_heads: {columns:?} in heads of {head_dim}"
    );
    assert_eq!(weight.len(), head_dim, "rms_norm_heads: the weight's length");
    dev.each_row(x, columns.len(), |_, row| {
        for head in row[columns.clone()].chunks_exact_mut(head_dim) {
            dev.isa().run(Normalize { x: head, weight, offset: 0.0, eps });
        }
    });
}

struct Normalize<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    offset: f32,
    eps: f32,
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe {
            let squares = fold!(V, self.x, |x, sum| x.fma(x, sum));
            let scale = V::splat(1.0 / (squares / self.x.len() as f32 + self.eps).sqrt());
            let offset = V::splat(self.offset);
            map_with!(V, self.x, self.weight, |x, w| x.mul(scale).mul(w.add(offset)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Random, assert_close, devices, dot};

    fn expected(x: &[f32], weight: &[f32], offset: f64, eps: f32) -> Vec<f64> {
        let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
        x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * scale * (offset + f64::from(w))).collect()
    }

    #[test]
    fn rows_have_a_unit_mean_square_times_the_weight() {
        let mut random = Random::new(5);
        for dev in devices() {
            for (rows, cols) in [(0, 8), (1, 1), (3, 60), (40, 337)] {
                for unit_offset in [false, true] {
                    let (x, weight) = (random.tensor(rows, cols), random.units(cols));
                    let mut out = Tensor::zeros(rows, cols);
                    rms_norm(&dev, &x, &weight, unit_offset, 1e-5, &mut out);
                    for row in 0..rows {
                        let offset = f64::from(u8::from(unit_offset));
                        assert_close(out.row(row), &expected(x.row(row), &weight, offset, 1e-5), 2e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn heads_are_normalised_one_by_one_and_the_rest_stays() {
        let mut random = Random::new(6);
        for dev in devices() {
            let (mut x, weight) = (random.tensor(5, 90), random.units(20));
            let before = x.clone();
            rms_norm_heads(&dev, &mut x, 10..70, 20, &weight, 1e-6);
            for row in 0..5 {
                let (now, then) = (x.row(row), before.row(row));
                assert!(now[..10] == then[..10] && now[70..] == then[70..]);
                for head in 0..3 {
                    let range = 10 + head * 20..30 + head * 20;
                    assert_close(&now[range.clone()], &expected(&then[range], &weight, 0.0, 1e-6), 2e-6);
                }
            }
        }
    }
}
