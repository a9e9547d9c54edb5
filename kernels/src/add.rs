//! The residual: `x += y`. Both `[rows, cols]`.
#![allow(unsafe_code, reason = "vector kernels")]

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::{F32x16, Kernel, map_with};

/// `x += y`.
///
/// # Panics
/// When the shapes differ.
pub fn add(dev: &Device, x: &mut Tensor, y: &Tensor) {
    assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "add: the shapes");
    let cost = x.cols() / 4;
    dev.each_row(x, cost, |i, row| dev.isa().run(Sum { x: row, y: y.row(i) }));
}

struct Sum<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe { map_with!(V, self.x, self.y, |x, y| x.add(y)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Random, devices};

    #[test]
    fn every_element_is_added_once() {
        let mut random = Random::new(8);
        for dev in devices() {
            for (rows, cols) in [(0, 3), (1, 1), (200, 333)] {
                let (mut x, y) = (random.tensor(rows, cols), random.tensor(rows, cols));
                let sums: Vec<f32> = x.as_slice().iter().zip(y.as_slice()).map(|(x, y)| x + y).collect();
                add(&dev, &mut x, &y);
                assert_eq!(x.as_slice(), sums);
            }
        }
    }
}
