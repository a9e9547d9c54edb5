//! Layer normalisation of rows: `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, the variance over `cols`.
//!
//! x and out `[rows, cols]`, weight and bias `[cols]`.
#![allow(unsafe_code, reason = "vector kernels")]

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::{F32x16, Kernel, fold, map, map_with};

/// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
///
/// # Panics
/// When the shapes do not fit.
pub fn layer_norm(dev: &Device, x: &Tensor, weight: &[f32], bias: &[f32], eps: f32, out: &mut Tensor) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "layer_norm: the output's shape");
    assert_eq!(
        (weight.len(), bias.len()),
        (x.cols(), x.cols()),
        "layer_norm: the weight's and the bias's length"
    );
    dev.each_row(out, x.cols() * 2, |i, row| {
        row.copy_from_slice(x.row(i));
        dev.isa().run(Normalize { x: row, weight, bias, eps });
    });
}

struct Normalize<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let len = self.x.len() as f32;
        // SAFETY: as `Kernel::run`.
        unsafe {
            let mean = V::splat(fold!(V, self.x, |x, sum| sum.add(x)) / len);
            map!(V, self.x, |x| x.sub(mean));
            let variance = fold!(V, self.x, |x, sum| x.fma(x, sum)) / len;
            let scale = V::splat(1.0 / (variance + self.eps).sqrt());
            map_with!(V, self.x, self.weight, |x, w| x.mul(scale).mul(w));
            map_with!(V, self.x, self.bias, |x, b| x.add(b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Random, assert_close, devices};

    #[test]
    fn rows_have_mean_zero_and_variance_one_before_weight_and_bias() {
        let mut random = Random::new(7);
        for dev in devices() {
            for (rows, cols) in [(0, 4), (1, 1), (3, 60), (21, 333)] {
                let x = random.tensor(rows, cols);
                let (weight, bias) = (random.units(cols), random.units(cols));
                let mut out = Tensor::zeros(rows, cols);
                layer_norm(&dev, &x, &weight, &bias, 1e-5, &mut out);
                for row in 0..rows {
                    let values: Vec<f64> = x.row(row).iter().map(|&x| f64::from(x)).collect();
                    let mean = values.iter().sum::<f64>() / cols as f64;
                    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
                    let expected: Vec<f64> = (0..cols)
                        .map(|j| {
                            (values[j] - mean) / (variance + 1e-5).sqrt() * f64::from(weight[j])
                                + f64::from(bias[j])
                        })
                        .collect();
                    assert_close(out.row(row), &expected, 5e-6);
                }
            }
        }
    }
}
