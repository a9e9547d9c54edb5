//! A constant factor: `x *= factor`. x `[rows, cols]`.
#![allow(unsafe_code, reason = "vector kernels")]

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::{F32x16, Kernel, map};

/// `x *= factor`.
pub fn scale(dev: &Device, x: &mut Tensor, factor: f32) {
    let cost = x.cols() / 4;
    dev.each_row(x, cost, |_, row| dev.isa().run(Times { x: row, factor }));
}

struct Times<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl Kernel for Times<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe { map!(V, self.x, |x| x.mul(V::splat(self.factor))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Random, devices};

    #[test]
    fn every_element_is_multiplied_once() {
        let mut random = Random::new(9);
        for dev in devices() {
            let mut x = random.tensor(70, 333);
            let products: Vec<f32> = x.as_slice().iter().map(|x| x * 1.7).collect();
            scale(&dev, &mut x, 1.7);
            assert_eq!(x.as_slice(), products);
        }
    }
}
