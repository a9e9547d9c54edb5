//! Layer normalisation of rows: `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, the variance over `cols`.
//!
//! x and out `[rows, cols]`, weight and bias `[cols]`.

use crate::device::Device;
use crate::tensor::Tensor;

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
        let x = x.row(i);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / x.len() as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (j, out) in row.iter_mut().enumerate() {
            *out = (x[j] - mean) * scale * weight[j] + bias[j];
        }
    });
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
