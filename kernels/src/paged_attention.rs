//! Causal attention over a paged cache: `out[i, h] = Σⱼ softmaxⱼ(cap(scale * q[i, h] · k[j, h / g])) v[j, h / g]`.
//!
//! q `[rows, heads * head_dim]` within `q_columns`, out `[rows, heads * head_dim]`, `g = heads / kv_heads`. Row `i` of a span is
//! at position `p = first_position + i - rows.start` and meets the positions `j <= p`, with a window `w` only `p - w < j`. Any mix of
//! spans: prefill chunks and single rows alike.

use std::ops::Range;

use crate::device::Device;
use crate::kv_cache::{KvCache, POSITIONS, Store};
use crate::tensor::Tensor;

/// The rows of one sequence.
#[derive(Clone, Debug)]
pub struct AttentionSpan<'a> {
    /// Its rows; their positions follow one another.
    pub rows: Range<usize>,
    /// The position of its first row.
    pub first_position: u32,
    /// Its blocks, from position 0 on: `blocks[p / block_size]` holds position `p`. Those wholly before every window are never read.
    pub blocks: &'a [u32],
}

/// What is the same for all rows.
#[derive(Clone, Copy, Debug)]
pub struct AttentionParams {
    /// Query heads: a multiple of the cache's heads.
    pub heads: usize,
    /// What a product of query and key is multiplied by.
    pub scale: f32,
    /// How many positions a row meets, its own included; all where there is none.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Attention of every span's rows over what the cache's `layer` holds of their sequence. Rows of no span are left alone.
///
/// # Panics
/// When the shapes do not fit, or a span's blocks do not reach its last position.
pub fn paged_attention(
    dev: &Device,
    q: &Tensor,
    q_columns: Range<usize>,
    (cache, layer): (&KvCache, usize),
    spans: &[AttentionSpan<'_>],
    params: &AttentionParams,
    out: &mut Tensor,
) {
    check(q, &q_columns, cache, layer, spans, params, out);
    let _ = dev;
    let dim = cache.layout.head_dim;
    for span in spans {
        for row in span.rows.clone() {
            let position = span.first_position as usize + row - span.rows.start;
            let first = params.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
            for head in 0..params.heads {
                let query = &q.row(row)[q_columns.clone()][head * dim..(head + 1) * dim];
                let place = Place { cache, layer, head: head / (params.heads / cache.layout.kv_heads) };
                let result = &mut out.row_mut(row)[head * dim..(head + 1) * dim];
                attend(place, query, span.blocks, first..position + 1, params, result);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    cache: &'a KvCache,
    layer: usize,
    head: usize,
}

impl Place<'_> {
    fn key(&self, block: u32, offset: usize, d: usize) -> f32 {
        let layout = &self.cache.layout;
        let at = layout.start(self.layer, block as usize, self.head) + layout.key(offset) + d * POSITIONS;
        match &self.cache.store {
            Store::F32(pages) => pages.keys[at],
            Store::F16(pages) => pages.keys[at].to_f32(),
        }
    }

    fn value(&self, block: u32, offset: usize, d: usize) -> f32 {
        let layout = &self.cache.layout;
        let at = layout.start(self.layer, block as usize, self.head) + offset * layout.head_dim + d;
        match &self.cache.store {
            Store::F32(pages) => pages.values[at],
            Store::F16(pages) => pages.values[at].to_f32(),
        }
    }
}

fn attend(
    place: Place<'_>,
    query: &[f32],
    blocks: &[u32],
    positions: Range<usize>,
    params: &AttentionParams,
    out: &mut [f32],
) {
    let size = place.cache.layout.block_size;
    let mut scores: Vec<f32> = positions
        .clone()
        .map(|p| {
            let dot: f32 =
                query.iter().enumerate().map(|(d, q)| q * place.key(blocks[p / size], p % size, d)).sum();
            let score = dot * params.scale;
            params.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
        })
        .collect();
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - greatest).exp());
    let sum: f32 = scores.iter().sum();
    out.fill(0.0);
    for (p, weight) in positions.zip(&scores) {
        for (d, out) in out.iter_mut().enumerate() {
            *out += weight * place.value(blocks[p / size], p % size, d);
        }
    }
    out.iter_mut().for_each(|x| *x /= sum);
}

fn check(
    q: &Tensor,
    q_columns: &Range<usize>,
    cache: &KvCache,
    layer: usize,
    spans: &[AttentionSpan<'_>],
    params: &AttentionParams,
    out: &Tensor,
) {
    let layout = &cache.layout;
    let width = params.heads * layout.head_dim;
    assert!(layer < layout.layers, "paged_attention: layer {layer} of {}", layout.layers);
    assert!(
        params.heads > 0 && params.heads.is_multiple_of(layout.kv_heads),
        "paged_attention: {} heads over {}",
        params.heads,
        layout.kv_heads
    );
    assert!(
        q_columns.len() == width && q_columns.end <= q.cols(),
        "paged_attention: queries in {q_columns:?}"
    );
    assert_eq!((out.rows(), out.cols()), (q.rows(), width), "paged_attention: the output's shape");
    assert!(params.window != Some(0), "paged_attention: a window of 0");
    let mut end = 0;
    for span in spans {
        assert!(
            span.rows.start >= end && span.rows.start <= span.rows.end && span.rows.end <= q.rows(),
            "paged_attention: span {:?} after row {end} of {}: spans are ascending and apart",
            span.rows,
            q.rows()
        );
        end = span.rows.end;
        let positions = span.first_position as usize + span.rows.len();
        assert!(
            span.rows.is_empty() || span.blocks.len() * layout.block_size >= positions,
            "paged_attention: {} blocks of {} for {positions} positions",
            span.blocks.len(),
            layout.block_size
        );
        let first =
            params.window.map_or(0, |w| (span.first_position as usize + 1).saturating_sub(w as usize));
        let read = first / layout.block_size..positions.div_ceil(layout.block_size);
        assert!(
            span.rows.is_empty() || span.blocks[read].iter().all(|&block| (block as usize) < layout.blocks),
            "paged_attention: a block beyond the cache's {}",
            layout.blocks
        );
    }
}

#[cfg(test)]
mod tests;
