//! DoRA's factors, once at load: `g = m / ‖W + s B A‖`, the norm over each output's row. Pure.

use crate::adapters::build::{Update, numbers};
use crate::adapters::tensors::Tensor;
use crate::model::modules::BaseRows;

/// `[outputs]` what each output of `update` is multiplied by. Needs one row of W at a time, never W whole.
pub(super) fn factors(
    update: &Update<'_>,
    magnitude: Tensor<'_>,
    weights: &[u8],
    base: &dyn BaseRows,
) -> Vec<f32> {
    let a: Vec<f32> = numbers(update.a, weights).collect();
    let b: Vec<f32> = numbers(update.b, weights).collect();
    let inputs = update.module.inputs;
    let mut row = vec![0.0_f32; inputs];
    let factor = |(output, magnitude): (usize, f32)| {
        base.row(update.module, output, &mut row);
        for (rank, of_rank) in a.chunks_exact(inputs).enumerate() {
            let weight = update.scale * b[output * update.rank + rank];
            row.iter_mut().zip(of_rank).for_each(|(value, a)| *value += weight * a);
        }
        let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        (f64::from(magnitude) / norm) as f32
    };
    numbers(magnitude, weights).enumerate().map(factor).collect()
}
