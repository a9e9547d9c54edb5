//! Low-rank updates against the naive meaning.

use proptest::prelude::*;

use super::*;
use crate::reference::{Random, assert_close, devices, dot};

struct Naive {
    columns: Range<usize>,
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f32,
    bias: Option<Vec<f32>>,
    magnitude: Option<Vec<f32>>,
}

impl Naive {
    fn delta(&self, x: &[f32], i: usize) -> f64 {
        let k = x.len();
        let sum: f64 = (0..self.rank)
            .map(|r| dot(x, &self.a[r * k..(r + 1) * k]) * f64::from(self.b[i * self.rank + r]))
            .sum();
        f64::from(self.scale) * (sum + self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i])))
    }

    fn apply(&self, x: &[f32], base_bias: Option<&[f32]>, y: &mut [f64]) {
        for (i, column) in self.columns.clone().enumerate() {
            let base = base_bias.map_or(0.0, |bias| f64::from(bias[column]));
            y[column] = match &self.magnitude {
                None => y[column] + self.delta(x, i),
                Some(g) => base + f64::from(g[i]) * (y[column] - base + self.delta(x, i)),
            };
        }
    }
}

/// Columns, rank, whether B has a bias, whether there is a magnitude.
type Plan = (Range<usize>, usize, bool, bool);

fn update(
    random: &mut Random,
    dtype: Dtype,
    inputs: usize,
    outputs: usize,
    plan: &[Plan],
) -> (LowRank, Vec<Naive>) {
    let mut naive = Vec::new();
    let mut data = Vec::new();
    for (columns, rank, bias, magnitude) in plan.iter().cloned() {
        let (a, a_values) = random.encoded(dtype, rank * inputs);
        let (b, b_values) = random.encoded(dtype, rank * columns.len());
        let bias = bias.then(|| random.units(columns.len()));
        let magnitude = magnitude.then(|| random.units(columns.len()));
        data.push((a, b));
        naive.push(Naive { columns, rank, a: a_values, b: b_values, scale: random.unit(), bias, magnitude });
    }
    let pieces = naive
        .iter()
        .zip(&data)
        .map(|(naive, (a, b))| Piece {
            columns: naive.columns.clone(),
            rank: naive.rank,
            a: Numbers { dtype, bytes: a },
            b: Numbers { dtype, bytes: b },
            scale: naive.scale,
            bias: naive.bias.clone(),
            magnitude: naive.magnitude.clone(),
        })
        .collect();
    (LowRank::new(inputs, outputs, pieces).unwrap(), naive)
}

#[test]
fn mixed_ranks_biases_and_magnitudes_change_their_rows_and_columns_only() {
    let mut random = Random::new(4);
    for dev in devices() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let (inputs, outputs, rows) = (37, 50, 14);
            let one = update(
                &mut random,
                dtype,
                inputs,
                outputs,
                &[(0..20, 8, false, false), (33..50, 3, true, true)],
            );
            let two = update(&mut random, dtype, inputs, outputs, &[(20..37, 17, false, true)]);
            let segments = [(1..2, &one), (2..9, &two), (10..14, &one)];
            let x = random.tensor(rows, inputs);
            let base_bias = random.units(outputs);
            let mut y = random.tensor(rows, outputs);
            let mut expected: Vec<Vec<f64>> =
                (0..rows).map(|r| y.row(r).iter().map(|&y| f64::from(y)).collect()).collect();
            for (rows, (_, pieces)) in &segments {
                for row in rows.clone() {
                    pieces.iter().for_each(|p| p.apply(x.row(row), Some(&base_bias), &mut expected[row]));
                }
            }
            let given: Vec<Segment<'_>> =
                segments.iter().map(|(rows, (update, _))| Segment { rows: rows.clone(), update }).collect();
            low_rank(&dev, &x, Some(&base_bias), &given, &mut y);
            for (row, expected) in expected.iter().enumerate() {
                let tolerance = if row == 0 || row == 9 { 0.0 } else { 1e-5 };
                assert_close(y.row(row), expected, tolerance);
            }
        }
    }
}

#[test]
fn a_piece_that_does_not_fit_is_refused_with_its_numbers() {
    let zeros = [0_u8; 64];
    let piece = |columns: Range<usize>, rank: usize, a: usize, b: usize| Piece {
        columns,
        rank,
        a: Numbers { dtype: Dtype::F16, bytes: &zeros[..a] },
        b: Numbers { dtype: Dtype::F16, bytes: &zeros[..b] },
        scale: 1.0,
        bias: None,
        magnitude: None,
    };
    let refused = |pieces| LowRank::new(3, 4, pieces).err().unwrap().to_string();
    assert_eq!(refused(vec![piece(2..5, 1, 6, 6)]), "columns 2..5 of a linear of 4 outputs");
    assert_eq!(refused(vec![piece(0..2, 0, 0, 0)]), "a rank of 0");
    assert_eq!(refused(vec![piece(0..2, 2, 10, 8)]), "A: 12 bytes or numbers expected, 10 found");
    assert_eq!(refused(vec![piece(0..2, 2, 12, 6)]), "B: 8 bytes or numbers expected, 6 found");
    assert_eq!(refused(vec![piece(0..2, 2, 12, 8), piece(1..4, 2, 12, 12)]), "columns 0..2 and 1..4 overlap");
    let with_bias = Piece { bias: Some(vec![0.0; 3]), ..piece(0..2, 2, 12, 8) };
    assert_eq!(refused(vec![with_bias]), "bias: 2 bytes or numbers expected, 3 found");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_row_has_the_same_bits_alone_in_a_long_segment_and_on_any_threads(
        rows in 1..60_usize, inputs in 1..700_usize, rank in 1..70_usize, width in 1..200_usize,
        dtype in 0..3_usize, seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][dtype];
        let outputs = width + 5;
        let bias = random.below(2) == 1;
        let plan = [(5..outputs, rank, bias, !bias), (1..3, 2, false, false)];
        let (update, pieces) = update(&mut random, dtype, inputs, outputs, &plan);
        let (x, y) = (random.tensor(rows, inputs), random.tensor(rows, outputs));
        let base_bias = random.units(outputs);
        let mut first: Option<(crate::device::Isa, Tensor)> = None;
        for dev in devices() {
            let mut all = y.clone();
            let segments = [Segment { rows: 0..rows, update: &update }];
            low_rank(&dev, &x, Some(&base_bias), &segments, &mut all);
            let each: Vec<Segment<'_>> = (0..rows).map(|r| Segment { rows: r..r + 1, update: &update }).collect();
            let mut apart = y.clone();
            low_rank(&dev, &x, Some(&base_bias), &each, &mut apart);
            prop_assert_eq!(apart.as_slice(), all.as_slice());
            let mut alone = Tensor::from_slice(1, outputs, y.row(rows / 2));
            let x = Tensor::from_slice(1, inputs, x.row(rows / 2));
            low_rank(&dev, &x, Some(&base_bias), &[Segment { rows: 0..1, update: &update }], &mut alone);
            prop_assert_eq!(alone.as_slice(), all.row(rows / 2));
            let mut expected: Vec<f64> = y.row(rows / 2).iter().map(|&y| f64::from(y)).collect();
            pieces.iter().for_each(|piece| piece.apply(x.row(0), Some(&base_bias), &mut expected));
            assert_close(alone.as_slice(), &expected, 1e-4);
            if let Some((_, other)) = first.as_ref().filter(|(isa, _)| *isa == dev.isa()) {
                prop_assert_eq!(other.as_slice(), all.as_slice());
            }
            first = Some((dev.isa(), all));
        }
    }
}

#[test]
#[should_panic(expected = "segments are ascending and apart")]
fn overlapping_segments_are_a_fault() {
    let (update, _) = update(&mut Random::new(5), Dtype::F32, 3, 2, &[(0..2, 1, false, false)]);
    let segments = [Segment { rows: 0..2, update: &update }, Segment { rows: 1..3, update: &update }];
    let dev = Device::new(std::num::NonZeroUsize::MIN);
    low_rank(&dev, &Tensor::zeros(3, 3), None, &segments, &mut Tensor::zeros(3, 2));
}
