//! Token embedding: `out[i] = scale * table[ids[i]]`; and its low-rank update `y[i] += scale * s * B A[:, ids[i]]`.
//!
//! table `[vocabulary, cols]`, out and y `[rows, cols]`, ids `[rows]`.

use crate::device::Device;
use crate::low_rank::{self, Segment};
use crate::matrix::Matrix;
use crate::tensor::Tensor;

/// `out[i] = scale * table[ids[i]]`.
///
/// # Panics
/// When the shapes do not fit, or an id is not below `table.n()`.
pub fn embed(dev: &Device, table: &Matrix, ids: &[u32], scale: f32, out: &mut Tensor) {
    assert_eq!((out.rows(), out.cols()), (ids.len(), table.k()), "embed: the output's shape");
    dev.each_row(out, table.k() * 4, |i, row| {
        table.row(ids[i] as usize, row);
        row.iter_mut().for_each(|x| *x *= scale);
    });
}

/// `y[i] += scale * s * B A[:, ids[i]]` for the rows of each segment: an update of the embedding table, whose inputs are
/// token ids. `scale` is that of [`embed`].
///
/// # Panics
/// When the shapes do not fit, segments overlap, or an id is not below the update's inputs.
pub fn embed_low_rank(dev: &Device, ids: &[u32], segments: &[Segment<'_>], scale: f32, y: &mut Tensor) {
    assert_eq!(y.rows(), ids.len(), "embed_low_rank: one id a row");
    low_rank::check_segments(segments, y);
    low_rank::apply_columns(dev, ids, scale, segments, y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::low_rank::{LowRank, Numbers, Piece};
    use crate::matrix::Dtype;
    use crate::reference::{Random, assert_close, devices};

    #[test]
    fn rows_of_the_table_are_taken_by_id_and_scaled() {
        let mut random = Random::new(2);
        for dev in devices() {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let (table, values) = random.matrix(dtype, 37, 19);
                let ids = [36, 0, 5, 5];
                let mut out = Tensor::zeros(4, 19);
                embed(&dev, &table, &ids, 2.5, &mut out);
                for (i, &id) in ids.iter().enumerate() {
                    let expected: Vec<f64> =
                        values[id as usize * 19..][..19].iter().map(|&x| f64::from(x * 2.5)).collect();
                    assert_close(out.row(i), &expected, 0.0);
                }
            }
        }
    }

    #[test]
    fn an_update_of_the_table_adds_its_column() {
        let mut random = Random::new(3);
        let (vocabulary, cols, rank) = (11, 10, 3);
        for dev in devices() {
            let (a, a_values) = random.encoded(Dtype::F16, rank * vocabulary);
            let (b, b_values) = random.encoded(Dtype::F32, cols * rank);
            let update = LowRank::new(
                vocabulary,
                cols,
                vec![Piece {
                    columns: 0..cols,
                    rank,
                    a: Numbers { dtype: Dtype::F16, bytes: &a },
                    b: Numbers { dtype: Dtype::F32, bytes: &b },
                    scale: 0.5,
                    bias: None,
                    magnitude: None,
                }],
            )
            .unwrap();
            let mut y = random.tensor(4, cols);
            let before = y.clone();
            let ids = [1, 10, 4, 0];
            embed_low_rank(&dev, &ids, &[Segment { rows: 1..3, update: &update }], 3.0, &mut y);
            assert!(y.row(0) == before.row(0) && y.row(3) == before.row(3));
            for row in 1..3 {
                let expected: Vec<f64> = (0..cols)
                    .map(|c| {
                        let sum: f64 = (0..rank)
                            .map(|r| {
                                let a = a_values[r * vocabulary + ids[row] as usize];
                                f64::from(b_values[c * rank + r]) * f64::from(a)
                            })
                            .sum();
                        f64::from(before.row(row)[c]) + 1.5 * sum
                    })
                    .collect();
                assert_close(y.row(row), &expected, 1e-6);
            }
        }
    }
}
