//! A linear layer with its outputs side by side: `out[:, columns of part p] = x Wₚᵀ (+ bias)`.
//!
//! x `[rows, k]`, part p's weights `[nₚ, k]`, bias `[Σ nₚ]`, out `[rows, Σ nₚ]`.

mod plain;
mod quant;

use crate::device::{Device, Disjoint};
use crate::matrix::plain::TILE;
use crate::matrix::{Matrix, Storage};
use crate::tensor::Tensor;

/// The outputs of one linear layer: `[rows, cols]`, written tile by tile.
pub(crate) struct Output<'a> {
    pub(crate) data: Disjoint<'a, f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// `out[:, columns of part p] = x Wₚᵀ (+ bias)`: the parts' outputs lie side by side.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear(dev: &Device, x: &Tensor, parts: &[Matrix], bias: Option<&[f32]>, out: &mut Tensor) {
    check(x, parts, bias, out);
    let (rows, cols) = (out.rows(), out.cols());
    if rows == 0 {
        return;
    }
    let output = Output { data: Disjoint::new(out.as_mut_slice()), rows, cols };
    let tiles: usize = parts.iter().map(|part| part.n().div_ceil(TILE)).sum();
    quant::with_inputs(dev, x, parts, |inputs| {
        dev.parallel(tiles, |task| {
            let (mut tile, mut column) = (task, 0);
            for part in parts {
                let count = part.n().div_ceil(TILE);
                if tile < count {
                    match &part.storage {
                        Storage::Plain(plain) => plain::tile(x, plain, part, tile, column, bias, &output),
                        Storage::Blocks(blocks) => {
                            quant::tiles(dev.isa(), blocks, inputs, tile..tile + 1, column, bias, &output);
                        }
                    }
                    return;
                }
                tile -= count;
                column += part.n();
            }
        })
    });
}

fn check(x: &Tensor, parts: &[Matrix], bias: Option<&[f32]>, out: &Tensor) {
    let n: usize = parts.iter().map(Matrix::n).sum();
    for part in parts {
        assert_eq!(
            part.k(),
            x.cols(),
            "linear: weights [{}, {}] of inputs [_, {}]",
            part.n(),
            part.k(),
            x.cols()
        );
    }
    assert_eq!((out.rows(), out.cols()), (x.rows(), n), "linear: the output's shape");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "linear: the bias's length");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Dtype;
    use crate::reference::{Random, assert_close, devices, dot};

    #[test]
    fn parts_of_every_dtype_lie_side_by_side() {
        let mut random = Random::new(1);
        for dev in devices() {
            for (rows, k, widths) in
                [(1, 1, vec![1]), (3, 7, vec![16, 5]), (13, 33, vec![40, 17, 1]), (0, 4, vec![3])]
            {
                for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                    let x = random.tensor(rows, k);
                    let (parts, values): (Vec<_>, Vec<_>) =
                        widths.iter().map(|&n| random.matrix(dtype, n, k)).unzip();
                    let values = values.concat();
                    let n = values.len() / k;
                    let bias = random.units(n);
                    let mut out = Tensor::zeros(rows, n);
                    linear(&dev, &x, &parts, Some(&bias), &mut out);
                    for row in 0..rows {
                        let expected: Vec<f64> = (0..n)
                            .map(|i| dot(x.row(row), &values[i * k..(i + 1) * k]) + f64::from(bias[i]))
                            .collect();
                        assert_close(out.row(row), &expected, 1e-5);
                    }
                }
            }
        }
    }
}
