//! A constant factor: `x *= factor`. x `[rows, cols]`.

use crate::device::Device;
use crate::tensor::Tensor;

/// `x *= factor`.
pub fn scale(dev: &Device, x: &mut Tensor, factor: f32) {
    let cost = x.cols() / 4;
    dev.each_row(x, cost, |_, row| row.iter_mut().for_each(|x| *x *= factor));
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
