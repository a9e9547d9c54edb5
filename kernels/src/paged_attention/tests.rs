//! Attention against the naive meaning, over every cache format, window, cap and cut.

use half::f16;

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
