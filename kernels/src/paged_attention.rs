//! Causal attention over a paged cache: `out[i, h] = Σⱼ softmaxⱼ(cap(scale * q[i, h] · k[j, h / g])) v[j, h / g]`.
//!
//! q `[rows, heads * head_dim]` within `q_columns`, out `[rows, heads * head_dim]`, `g = heads / kv_heads`. Row `i` of a span is
//! at position `p = first_position + i - rows.start` and meets the positions `j <= p`, with a window `w` only `p - w < j`. Any mix of
//! spans: prefill chunks and single rows alike.
//!
//! Positions are taken in chunks of some 256, cut by absolute position. A chunk gives each query its greatest score, the sum of
//! the exponentials and the weighted sum of values; chunks are merged in order. So a row's bits depend on neither the
//! other rows nor on who computes which chunk.
#![allow(unsafe_code, reason = "rows of one output are given to several tasks")]

mod chunk;

use std::cell::Cell;
use std::ops::Range;

use chunk::{Chunk, State};

use crate::device::{Device, Disjoint};
use crate::kv_cache::{KvCache, Layout, Pages, Store};
use crate::tensor::Tensor;
use crate::tile::{F16, F32};

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
    let cols = out.cols();
    let call = Call {
        dev,
        q,
        q_columns,
        cache,
        layer,
        params: *params,
        out: Disjoint::new(out.as_mut_slice()),
        cols,
    };
    let units = call.units(spans);
    if units.len() < 2 * dev.threads() && units.iter().any(|unit| unit.chunks.len() > 2) {
        call.run_by_chunks(&units);
        return;
    }
    let work: usize = units.iter().map(|unit| unit.work(&call)).sum();
    let step =
        units.len().div_ceil(work.div_ceil(GRAIN).max(1)).min(units.len().div_ceil(4 * dev.threads()).max(1));
    dev.parallel(units.len().div_ceil(step.max(1)), |task| {
        for unit in units.iter().skip(task * step).take(step) {
            call.run_unit(unit);
        }
    });
}

/// Queries of a unit: rows times the heads that share keys.
const QUERIES: usize = 32;
/// Multiplications of a task that is worth handing out.
const GRAIN: usize = 1 << 16;

thread_local! {
    /// The scratch of the last unit, so that the next one finds its memory.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// What all tasks of a call share.
struct Call<'a> {
    dev: &'a Device,
    q: &'a Tensor,
    q_columns: Range<usize>,
    cache: &'a KvCache,
    layer: usize,
    params: AttentionParams,
    out: Disjoint<'a, f32>,
    cols: usize,
}

/// Some rows of a span and one head of the cache.
struct Unit<'a> {
    rows: Range<usize>,
    /// The position of the first row.
    position: usize,
    blocks: &'a [u32],
    kv_head: usize,
    /// The chunks that any of its rows meets.
    chunks: Range<usize>,
}

impl Unit<'_> {
    /// Multiplications, about.
    fn work(&self, call: &Call<'_>) -> usize {
        let positions = self.chunks.len() * chunk_positions(&call.cache.layout);
        2 * positions * call.cache.layout.head_dim * self.rows.len() * call.group()
    }
}

impl<'a> Call<'a> {
    /// Query heads that share a head of the cache.
    fn group(&self) -> usize {
        self.params.heads / self.cache.layout.kv_heads
    }

    fn units<'s>(&self, spans: &'s [AttentionSpan<'s>]) -> Vec<Unit<'s>> {
        let layout = &self.cache.layout;
        let height = (QUERIES / self.group()).max(1);
        let positions = chunk_positions(layout);
        let mut units = Vec::new();
        for span in spans {
            for start in span.rows.clone().step_by(height) {
                let rows = start..span.rows.end.min(start + height);
                let position = span.first_position as usize + start - span.rows.start;
                let first = self.params.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
                let chunks = first / positions..(position + rows.len() - 1) / positions + 1;
                units.extend((0..layout.kv_heads).map(|kv_head| Unit {
                    rows: rows.clone(),
                    position,
                    blocks: span.blocks,
                    kv_head,
                    chunks: chunks.clone(),
                }));
            }
        }
        units
    }

    /// All chunks of a unit, one after the other.
    fn run_unit(&self, unit: &Unit<'_>) {
        let queries = unit.rows.len() * self.group();
        let (dim, len) = (self.cache.layout.head_dim, State::len(queries, self.cache.layout.head_dim));
        let mut scratch = SCRATCH.take();
        scratch.resize(scratch.len().max(2 * len + chunk::scratch_len(queries, &self.cache.layout)), 0.0);
        let (total, rest) = scratch.split_at_mut(len);
        let (partial, work) = rest.split_at_mut(len);
        let mut total = State::new(total, queries, dim);
        for (i, index) in unit.chunks.clone().enumerate() {
            if i == 0 {
                self.chunk(unit, index, &mut total, work);
            } else {
                let mut partial = State::new(partial, queries, dim);
                self.chunk(unit, index, &mut partial, work);
                total.merge(self.dev.isa(), &partial);
            }
        }
        self.finish(unit, &mut total);
        SCRATCH.set(scratch);
    }

    /// For few units over many positions: first every chunk of every unit, then the merges.
    fn run_by_chunks(&self, units: &[Unit<'_>]) {
        let layout = &self.cache.layout;
        let (dim, group) = (layout.head_dim, self.group());
        let state = |unit: &Unit<'_>| State::len(unit.rows.len() * group, dim);
        let mut len = 0;
        let mut jobs = Vec::new();
        let mut starts = Vec::new();
        for unit in units {
            starts.push(len);
            for index in unit.chunks.clone() {
                jobs.push((unit, index, len));
                len += state(unit);
            }
        }
        let mut states = vec![0.0; len];
        let states = Disjoint::new(&mut states);
        self.dev.parallel(jobs.len(), |task| {
            let (unit, index, start) = jobs[task];
            let queries = unit.rows.len() * group;
            let mut scratch = SCRATCH.take();
            scratch.resize(scratch.len().max(chunk::scratch_len(queries, layout)), 0.0);
            // SAFETY: each chunk's state is one task's.
            let data = unsafe { states.range(start..start + state(unit)) };
            self.chunk(unit, index, &mut State::new(data, queries, dim), &mut scratch);
            SCRATCH.set(scratch);
        });
        self.dev.parallel(units.len(), |task| {
            let (unit, start) = (&units[task], starts[task]);
            let (queries, size) = (unit.rows.len() * group, state(unit));
            // SAFETY: each unit's states are one task's.
            let data = unsafe { states.range(start..start + size * unit.chunks.len()) };
            let (total, rest) = data.split_at_mut(size);
            let mut total = State::new(total, queries, dim);
            for partial in rest.chunks_exact_mut(size) {
                total.merge(self.dev.isa(), &State::new(partial, queries, dim));
            }
            self.finish(unit, &mut total);
        });
    }

    /// Computes the state of one chunk.
    fn chunk(&self, unit: &Unit<'_>, index: usize, state: &mut State<'_>, work: &mut [f32]) {
        let (layout, group) = (&self.cache.layout, self.group());
        let first = self.q_columns.start + unit.kv_head * group * layout.head_dim;
        let chunk = Chunk {
            layout,
            queries: self.q.as_slice()[unit.rows.start * self.q.cols() + first..].as_ptr(),
            q_stride: self.q.cols(),
            group,
            rows: unit.rows.len(),
            position: unit.position,
            index,
            blocks: unit.blocks,
            layer: self.layer,
            kv_head: unit.kv_head,
            params: &self.params,
        };
        match &self.cache.store {
            Store::F32(Pages { keys, values }) => {
                self.dev.isa().run(chunk::Job::<F32> { chunk, keys, values, state, work });
            }
            Store::F16(Pages { keys, values }) => {
                self.dev.isa().run(chunk::Job::<F16> { chunk, keys, values, state, work });
            }
        }
    }

    /// Writes the unit's outputs.
    fn finish(&self, unit: &Unit<'_>, state: &mut State<'_>) {
        let (group, dim) = (self.group(), self.cache.layout.head_dim);
        for (i, row) in unit.rows.clone().enumerate() {
            for head in 0..group {
                let start = row * self.cols + (unit.kv_head * group + head) * dim;
                // SAFETY: each row and head is in one unit.
                state.write(i * group + head, unsafe { self.out.range(start..start + dim) });
            }
        }
    }
}

/// Positions of a chunk: whole blocks, about 256.
fn chunk_positions(layout: &Layout) -> usize {
    chunk::blocks(layout) * layout.block_size
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
