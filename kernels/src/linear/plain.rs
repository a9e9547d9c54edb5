//! The tile of a linear with plain weights: 16 outputs of every row, each summed over `k` in order.

use crate::linear::Output;
use crate::matrix::Matrix;
use crate::matrix::plain::{Plain, TILE, Tiles};
use crate::tensor::Tensor;

/// Writes the 16 outputs of `tile` for all rows; the part's first output is column `column`.
pub(crate) fn tile(
    x: &Tensor,
    plain: &Plain,
    part: &Matrix,
    tile: usize,
    column: usize,
    bias: Option<&[f32]>,
    output: &Output<'_>,
) {
    let k = part.k();
    let width = TILE.min(part.n() - tile * TILE);
    let first = column + tile * TILE;
    for row in 0..output.rows {
        let mut sums = [0.0_f32; TILE];
        for (j, &x) in x.row(row).iter().enumerate() {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let weight = match &plain.tiles {
                    Tiles::F32(w) => w[(tile * k + j) * TILE + lane],
                    Tiles::F16(w) => w[(tile * k + j) * TILE + lane].to_f32(),
                    Tiles::Bf16(w) => w[((tile * k.div_ceil(2) + j / 2) * TILE + lane) * 2 + j % 2].to_f32(),
                };
                *sum += weight * x;
            }
        }
        let start = row * output.cols + first;
        for (lane, out) in output.data.range(start..start + width).iter_mut().enumerate() {
            *out = sums[lane] + bias.map_or(0.0, |bias| bias[first + lane]);
        }
    }
}
