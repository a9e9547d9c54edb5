//! The soft cap of logits: `x = cap * tanh(x / cap)`. x `[rows, cols]`.

use crate::device::Device;
use crate::tensor::Tensor;

/// `x = cap * tanh(x / cap)`.
pub fn soft_cap(dev: &Device, x: &mut Tensor, cap: f32) {
    let cost = x.cols() * 4;
    dev.each_row(x, cost, |_, row| row.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_close, devices};

    #[test]
    fn small_values_stay_and_great_ones_meet_the_cap() {
        let values: Vec<f32> = (-400..400).map(|i| i as f32 * 0.37).chain([1e-6, -1e-3, 1e9, -1e9]).collect();
        let expected: Vec<f64> = values.iter().map(|&x| 30.0 * (f64::from(x) / 30.0).tanh()).collect();
        for dev in devices() {
            let mut x = Tensor::from_slice(4, values.len() / 4, &values);
            soft_cap(&dev, &mut x, 30.0);
            assert_close(x.as_slice(), &expected, 5e-7);
        }
    }
}
