//! Attention against the naive meaning, over every cache format, window, cap and cut.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::kv_cache::KvDtype;
use crate::kv_write::kv_write;
use crate::reference::{Random, assert_close, devices, dot};

/// A sequence: its fused q | k | v rows, all of them, and its blocks.
struct Sequence {
    rows: Tensor,
    blocks: Vec<u32>,
}

struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    block_size: usize,
    dtype: KvDtype,
}

impl Shape {
    fn cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    fn k(&self) -> usize {
        self.heads * self.dim
    }

    fn v(&self) -> usize {
        (self.heads + self.kv_heads) * self.dim
    }

    fn rounded(&self, x: &[f32]) -> Vec<f32> {
        match self.dtype {
            KvDtype::F32 => x.to_vec(),
            KvDtype::F16 => x.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        }
    }

    fn expected(&self, sequence: &Sequence, position: usize, params: &AttentionParams) -> Vec<f64> {
        let first = params.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        let mut out = Vec::new();
        for head in 0..self.heads {
            let kv = head / (self.heads / self.kv_heads) * self.dim;
            let query = &sequence.rows.row(position)[head * self.dim..][..self.dim];
            let scores: Vec<f64> = (first..=position)
                .map(|p| {
                    let key = self.rounded(&sequence.rows.row(p)[self.k() + kv..][..self.dim]);
                    let score = dot(query, &key) * f64::from(params.scale);
                    params.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                })
                .collect();
            let greatest = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - greatest).exp()).sum();
            out.extend((0..self.dim).map(|d| {
                let weighted = (first..=position).zip(&scores).map(|(p, s)| {
                    let value = self.rounded(&sequence.rows.row(p)[self.v() + kv..][..self.dim]);
                    (s - greatest).exp() * f64::from(value[d])
                });
                weighted.sum::<f64>() / sum
            }));
        }
        out
    }
}

/// Writes each sequence's rows up to the last of its span, then attends `(sequence, positions)` spans in one call.
fn run(
    dev: &Device,
    shape: &Shape,
    sequences: &[Sequence],
    spans: &[(usize, Range<usize>)],
    params: &AttentionParams,
) -> Tensor {
    let mut cache = KvCache::new(2, 64, shape.block_size, shape.kv_heads, shape.dim, shape.dtype);
    let mut q = Tensor::zeros(0, shape.cols());
    let mut given = Vec::new();
    for (index, positions) in spans {
        let sequence = &sequences[*index];
        let mut written = sequence.rows.clone();
        written.set_rows(positions.end);
        let slot = |p: usize| {
            sequence.blocks[p / shape.block_size] * shape.block_size as u32 + (p % shape.block_size) as u32
        };
        let slots: Vec<u32> = (0..positions.end).map(slot).collect();
        let (k, v) = (shape.k()..shape.v(), shape.v()..shape.cols());
        kv_write(dev, &mut cache, 1, &slots, &written, k, v);
        let start = q.rows();
        q.set_rows(start + positions.len());
        positions
            .clone()
            .enumerate()
            .for_each(|(i, p)| q.row_mut(start + i).copy_from_slice(sequence.rows.row(p)));
        given.push(AttentionSpan {
            rows: start..q.rows(),
            first_position: positions.start as u32,
            blocks: &sequence.blocks,
        });
    }
    let mut out = Tensor::zeros(q.rows(), shape.k());
    paged_attention(dev, &q, 0..shape.k(), (&cache, 1), &given, params, &mut out);
    out
}

fn sequences(random: &mut Random, shape: &Shape, lengths: &[usize]) -> Vec<Sequence> {
    let mut free: Vec<u32> = (0..64).collect();
    lengths
        .iter()
        .map(|&length| Sequence {
            rows: random.tensor(length, shape.cols()),
            blocks: (0..length.div_ceil(shape.block_size))
                .map(|_| free.swap_remove(random.below(free.len())))
                .collect(),
        })
        .collect()
}

#[test]
fn mixed_spans_meet_their_own_positions() {
    let mut random = Random::new(12);
    for dev in devices() {
        for (heads, kv_heads, dim, block_size) in [(4, 2, 20, 16), (9, 3, 64, 32), (5, 1, 7, 5)] {
            for dtype in [KvDtype::F32, KvDtype::F16] {
                let shape = Shape { heads, kv_heads, dim, block_size, dtype };
                let sequences = sequences(&mut random, &shape, &[50, 33, 1, 90]);
                let spans = [(0, 49..50), (1, 10..33), (2, 0..1), (3, 0..90)];
                for (window, soft_cap) in [(None, None), (Some(7), None), (Some(40), Some(5.0))] {
                    let params = AttentionParams { heads, scale: 0.3, window, soft_cap };
                    let out = run(&dev, &shape, &sequences, &spans, &params);
                    let mut row = 0;
                    for (index, positions) in &spans {
                        for position in positions.clone() {
                            let expected = shape.expected(&sequences[*index], position, &params);
                            assert_close(out.row(row), &expected, 1e-5);
                            row += 1;
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_chunk_and_alone() {
    let mut random = Random::new(13);
    for dev in devices() {
        let shape = Shape { heads: 6, kv_heads: 2, dim: 24, block_size: 16, dtype: KvDtype::F32 };
        let sequences = sequences(&mut random, &shape, &[600, 40]);
        for (window, soft_cap) in [(None, None), (Some(100), Some(3.0))] {
            let params = AttentionParams { heads: 6, scale: 0.2, window, soft_cap };
            let whole = run(&dev, &shape, &sequences, &[(0, 0..600), (1, 0..40)], &params);
            for positions in [0..1, 5..6, 255..258, 256..257, 511..513, 599..600, 300..371] {
                let alone = run(&dev, &shape, &sequences, &[(0, positions.clone())], &params);
                for (i, position) in positions.enumerate() {
                    assert_eq!(alone.row(i), whole.row(position), "position {position}");
                }
            }
        }
    }
}

/// A long context with few rows is cut by chunks over the threads; the bits are those of one thread that takes it whole.
#[test]
fn a_long_context_has_the_same_bits_on_any_number_of_threads() {
    let mut random = Random::new(16);
    let shape = Shape { heads: 2, kv_heads: 1, dim: 16, block_size: 32, dtype: KvDtype::F16 };
    let sequences = sequences(&mut random, &shape, &[2000]);
    for window in [None, Some(900)] {
        let params = AttentionParams { heads: 2, scale: 0.5, window, soft_cap: None };
        let mut first: Option<(crate::device::Isa, Tensor)> = None;
        for dev in devices() {
            let out = run(&dev, &shape, &sequences, &[(0, 1999..2000)], &params);
            assert_close(out.row(0), &shape.expected(&sequences[0], 1999, &params), 1e-5);
            if let Some((_, other)) = first.as_ref().filter(|(isa, _)| *isa == dev.isa()) {
                assert_eq!(other.as_slice(), out.as_slice());
            }
            first = Some((dev.isa(), out));
        }
    }
}

/// Blocks hold what an earlier owner left there: numbers that are none must reach nobody else's rows.
#[test]
fn what_lies_beyond_a_sequence_or_before_its_window_is_never_met() {
    let shape = Shape { heads: 2, kv_heads: 2, dim: 9, block_size: 16, dtype: KvDtype::F32 };
    for dev in devices() {
        let mut random = Random::new(17);
        let mut cache = KvCache::new(1, 4, 16, 2, 9, KvDtype::F32);
        let poison = Tensor::from_slice(64, shape.cols(), &vec![f32::NAN; 64 * shape.cols()]);
        let (k, v) = (shape.k()..shape.v(), shape.v()..shape.cols());
        let all: Vec<u32> = (0..64).collect();
        kv_write(&dev, &mut cache, 0, &all, &poison, k.clone(), v.clone());
        // Positions 20..30 of a sequence are there; those before are not its own any more.
        let rows = random.tensor(10, shape.cols());
        let slots: Vec<u32> = (20..30).collect();
        kv_write(&dev, &mut cache, 0, &slots, &rows, k, v);
        let params = AttentionParams { heads: 2, scale: 0.3, window: Some(4), soft_cap: None };
        let mut q = rows.clone();
        q.set_rows(5);
        (0..5).for_each(|i| q.row_mut(i).copy_from_slice(rows.row(i + 5)));
        let span = AttentionSpan { rows: 0..5, first_position: 25, blocks: &[u32::MAX, 1] };
        let mut out = Tensor::zeros(5, shape.k());
        paged_attention(&dev, &q, 0..shape.k(), (&cache, 0), &[span], &params, &mut out);
        assert!(out.as_slice().iter().all(|x| x.is_finite()), "{:?}", dev.isa());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_spans_meet_their_own_positions_with_the_same_bits_as_alone(
        group in 1..8_usize, kv_heads in 1..4_usize, dim in 1..70_usize, block_size in 1..40_usize,
        lengths in prop::collection::vec(1..120_usize, 1..4), window in prop::option::of(1..90_u32),
        half in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let dtype = if half { KvDtype::F16 } else { KvDtype::F32 };
        let shape = Shape { heads: group * kv_heads, kv_heads, dim, block_size, dtype };
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length.min(15 * block_size)).collect();
        let sequences = sequences(&mut random, &shape, &lengths);
        let spans: Vec<(usize, Range<usize>)> =
            lengths.iter().enumerate().map(|(i, &length)| (i, random.below(length)..length)).collect();
        let soft_cap = (random.below(3) == 0).then_some(4.0);
        let params = AttentionParams { heads: shape.heads, scale: 0.25, window, soft_cap };
        for dev in devices() {
            let out = run(&dev, &shape, &sequences, &spans, &params);
            let mut row = 0;
            for (index, positions) in &spans {
                let last = positions.end - 1;
                let alone = run(&dev, &shape, &sequences, &[(*index, last..last + 1)], &params);
                row += positions.len();
                prop_assert_eq!(alone.row(0), out.row(row - 1));
                assert_close(alone.row(0), &shape.expected(&sequences[*index], last, &params), 2e-5);
            }
        }
    }
}
