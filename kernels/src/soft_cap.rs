//! The soft cap of logits: `x = cap * tanh(x / cap)`. x `[rows, cols]`.
#![allow(unsafe_code, reason = "vector kernels")]

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::functions::tanh;
use crate::vector::{F32x16, Kernel, map};

/// `x = cap * tanh(x / cap)`.
pub fn soft_cap(dev: &Device, x: &mut Tensor, cap: f32) {
    let cost = x.cols() * 4;
    dev.each_row(x, cost, |_, row| dev.isa().run(Cap { x: row, cap }));
}

struct Cap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Kernel for Cap<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe { map!(V, self.x, |x| tanh(x.div(V::splat(self.cap))).mul(V::splat(self.cap))) }
    }
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
