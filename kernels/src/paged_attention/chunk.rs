//! One chunk of positions against some queries that share a head of keys and values: scores, their greatest and the sum of their
//! exponentials, and the weighted sum of values; and how chunks are merged.
#![allow(unsafe_code, reason = "raw pointers of the kernels")]

use crate::aligned::{Aligned, Number};
use crate::device::Isa;
use crate::kv_cache::{Layout, POSITIONS};
use crate::paged_attention::AttentionParams;
use crate::tile::{Format, Operands, even_block, multiply, with_rows};
use crate::vector::functions::{exp, tanh};
use crate::vector::{COUNTING, F32x16, Kernel, LANES, fold, map, map_with};

/// Blocks of a chunk.
pub(super) fn blocks(layout: &Layout) -> usize {
    (256 / layout.padded()).max(1)
}

/// Places of a chunk's scores: positions, with the padding of their blocks.
fn places(layout: &Layout) -> usize {
    blocks(layout) * layout.padded()
}

/// What [`Job`] needs as `work`.
pub(super) fn scratch_len(queries: usize, layout: &Layout) -> usize {
    queries * (places(layout) + layout.head_dim)
}

/// The softmax of some positions, unfinished, of some queries.
pub(super) struct State<'a> {
    dim: usize,
    /// `[queries]` the greatest score; negative infinity where a query met no position.
    greatest: &'a mut [f32],
    /// `[queries]` `Σ e^(score - greatest)`.
    sums: &'a mut [f32],
    /// `[queries, dim]` `Σ e^(score - greatest) * value`.
    values: &'a mut [f32],
}

impl<'a> State<'a> {
    /// Numbers of a state.
    pub(super) fn len(queries: usize, dim: usize) -> usize {
        queries * (dim + 2)
    }

    /// A view of `data`, [`State::len`] numbers.
    pub(super) fn new(data: &'a mut [f32], queries: usize, dim: usize) -> State<'a> {
        let (greatest, rest) = data.split_at_mut(queries);
        let (sums, values) = rest.split_at_mut(queries);
        State { dim, greatest, sums, values }
    }

    /// Adds what later positions gave.
    pub(super) fn merge(&mut self, isa: Isa, later: &State<'_>) {
        isa.run(Merge { total: self, later });
    }

    /// The outputs of a query.
    pub(super) fn write(&self, query: usize, out: &mut [f32]) {
        let sum = self.sums[query];
        let values = &self.values[query * self.dim..(query + 1) * self.dim];
        out.iter_mut().zip(values).for_each(|(out, value)| *out = value / sum);
    }
}

struct Merge<'a, 'b, 'c> {
    total: &'a mut State<'b>,
    later: &'a State<'c>,
}

impl Kernel for Merge<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let Merge { total, later } = self;
        for query in 0..total.sums.len() {
            let (old, new) = (total.greatest[query], later.greatest[query]);
            if new == f32::NEG_INFINITY {
                continue;
            }
            let most = if new > old { new } else { old };
            let values = query * total.dim..(query + 1) * total.dim;
            // SAFETY: as `Kernel::run`.
            unsafe {
                let (keep, take) = (exp(V::splat(old - most)), exp(V::splat(new - most)));
                let sums = V::splat(total.sums[query]).mul(keep);
                V::splat(later.sums[query]).fma(take, sums).store_first(&raw mut total.sums[query], 1);
                map_with!(V, &mut total.values[values.clone()], &later.values[values], |old, new| {
                    new.fma(take, old.mul(keep))
                });
            }
            total.greatest[query] = most;
        }
    }
}

/// Which positions and queries.
pub(super) struct Chunk<'a> {
    pub(super) layout: &'a Layout,
    /// The first row's first query, `[rows, q_stride]`, each row `[group, head_dim]`.
    pub(super) queries: *const f32,
    pub(super) q_stride: usize,
    pub(super) group: usize,
    pub(super) rows: usize,
    /// The position of the first row.
    pub(super) position: usize,
    /// The chunk's number, by absolute position.
    pub(super) index: usize,
    pub(super) blocks: &'a [u32],
    pub(super) layer: usize,
    pub(super) kv_head: usize,
    pub(super) params: &'a AttentionParams,
}

pub(super) struct Job<'a, 's, F: Format<Number: Number>> {
    pub(super) chunk: Chunk<'a>,
    pub(super) keys: &'a Aligned<F::Number>,
    pub(super) values: &'a Aligned<F::Number>,
    /// Is overwritten.
    pub(super) state: &'a mut State<'s>,
    /// At least [`scratch_len`] numbers.
    pub(super) work: &'a mut [f32],
}

/// The positions of a block that some row meets, as offsets in the block.
struct Piece {
    /// The block's number in the cache.
    block: usize,
    /// The block's place among the chunk's.
    place: usize,
    from: usize,
    to: usize,
}

impl Chunk<'_> {
    /// The first position that the row of a query meets, and the one after its last.
    fn limits(&self, row: usize) -> (usize, usize) {
        let end = self.position + row + 1;
        (self.params.window.map_or(0, |w| end.saturating_sub(w as usize)), end)
    }

    /// The chunk's blocks, as far as some row meets them.
    fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let (size, count) = (self.layout.block_size, blocks(self.layout));
        let (first, end) = (self.limits(0).0, self.limits(self.rows - 1).1);
        (0..count).filter_map(move |place| {
            let start = (self.index * count + place) * size;
            let (from, to) = (first.saturating_sub(start), size.min(end.saturating_sub(start)));
            (from < to).then(|| Piece { block: self.blocks[start / size] as usize, place, from, to })
        })
    }

    /// Where the chunk's block at `place` starts, in absolute positions.
    fn start(&self, place: usize) -> usize {
        (self.index * blocks(self.layout) + place) * self.layout.block_size
    }
}

impl<F: Format<Number: Number>> Kernel for Job<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let queries = self.chunk.rows * self.chunk.group;
        let dim = self.chunk.layout.head_dim;
        let places = places(self.chunk.layout);
        let (scaled, rest) = self.work.split_at_mut(queries * dim);
        let scores = &mut rest[..queries * places];
        let stage: Stage<'_, F> = Stage { chunk: &self.chunk, queries, keys: self.keys, values: self.values };
        // SAFETY: as `Kernel::run`; the buffers are as long as the stages want them.
        unsafe {
            stage.scale::<V>(scaled);
            scores.fill(f32::NEG_INFINITY);
            stage.score::<V>(scaled, scores);
            for query in 0..queries {
                let scores = &mut scores[query * places..(query + 1) * places];
                let (greatest, sum) = softmax::<V>(scores);
                (self.state.greatest[query], self.state.sums[query]) = (greatest, sum);
            }
            stage.weigh::<V>(scores, self.state.values);
        }
    }
}

/// `e^(score - greatest)` in place; the greatest and the sum. Where all are negative infinity, zeros.
///
/// # Safety
/// As [`Kernel::run`]; the scores are whole vectors.
#[inline(always)]
unsafe fn softmax<V: F32x16>(scores: &mut [f32]) -> (f32, f32) {
    debug_assert!(scores.len().is_multiple_of(LANES));
    // SAFETY: as `Kernel::run`; the places are within the scores.
    unsafe {
        let mut greatest = V::splat(f32::NEG_INFINITY);
        for i in (0..scores.len()).step_by(LANES) {
            greatest = greatest.max(V::load(scores.as_ptr().add(i)));
        }
        let greatest = greatest.greatest();
        if greatest == f32::NEG_INFINITY {
            scores.fill(0.0);
            return (greatest, 0.0);
        }
        let most = V::splat(greatest);
        map!(V, scores, |score| exp(score.sub(most)));
        (greatest, fold!(V, scores, |x, sum| sum.add(x)))
    }
}

struct Stage<'a, F: Format<Number: Number>> {
    chunk: &'a Chunk<'a>,
    queries: usize,
    keys: &'a Aligned<F::Number>,
    values: &'a Aligned<F::Number>,
}

impl<F: Format<Number: Number>> Stage<'_, F> {
    /// The queries, one after the other, times the scale.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn scale<V: F32x16>(&self, scaled: &mut [f32]) {
        let row_len = self.chunk.group * self.chunk.layout.head_dim;
        for (row, to) in scaled.chunks_exact_mut(row_len).enumerate() {
            // SAFETY: the chunk's rows are there, each of `row_len` numbers.
            unsafe {
                let from =
                    std::slice::from_raw_parts(self.chunk.queries.add(row * self.chunk.q_stride), row_len);
                map_with!(V, to, from, |_, q| q.mul(V::splat(self.chunk.params.scale)));
            }
        }
    }

    /// Scores of all queries and the positions that some row meets; negative infinity where its own row does not.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn score<V: F32x16>(&self, scaled: &[f32], scores: &mut [f32]) {
        let layout = self.chunk.layout;
        for piece in self.chunk.pieces() {
            let start = layout.start(self.chunk.layer, piece.block, self.chunk.kv_head);
            for tile in piece.from / POSITIONS..piece.to.div_ceil(POSITIONS) {
                let keys = self.keys[start + layout.key(tile * POSITIONS)..].as_ptr();
                let blocks = self.queries.div_ceil(V::ROWS);
                for block in 0..blocks {
                    let (query, count) = even_block(self.queries, blocks, block);
                    macro_rules! tile {
                        ($rows:literal) => {
                            self.score_tile::<V, $rows>(scaled, query, keys, &piece, tile, scores)
                        };
                    }
                    // SAFETY: as `Kernel::run`; queries and tile are there.
                    unsafe { with_rows!(count, tile) }
                }
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `R` queries from `query` on and the tile of `keys` are there.
    #[inline(always)]
    unsafe fn score_tile<V: F32x16, const R: usize>(
        &self,
        scaled: &[f32],
        query: usize,
        keys: *const F::Number,
        piece: &Piece,
        tile: usize,
        scores: &mut [f32],
    ) {
        if R > V::ROWS {
            return;
        }
        let (dim, places) = (self.chunk.layout.head_dim, places(self.chunk.layout));
        let operands = Operands::<F> {
            x: scaled[query * dim..(query + R) * dim].as_ptr(),
            x_stride: dim,
            k: dim,
            w: keys,
            tile_stride: 0,
            k_stride: POSITIONS,
        };
        let at = piece.place * self.chunk.layout.padded() + tile * POSITIONS;
        let start = self.chunk.start(piece.place);
        // SAFETY: as `Kernel::run`; the scores of `R` queries are whole vectors.
        unsafe {
            let mut sums = [[V::splat(0.0); 1]; R];
            multiply(&mut sums, &operands);
            let offsets = V::load(COUNTING.as_ptr()).add(V::splat((tile * POSITIONS) as f32));
            for (r, [sum]) in sums.iter().enumerate() {
                let score = match self.chunk.params.soft_cap {
                    None => *sum,
                    Some(cap) => tanh(sum.div(V::splat(cap))).mul(V::splat(cap)),
                };
                let (first, end) = self.chunk.limits((query + r) / self.chunk.group);
                let end = end.saturating_sub(start).min(self.chunk.layout.block_size);
                let nothing = V::splat(f32::NEG_INFINITY);
                let score = score.where_less(offsets, V::splat(end as f32), nothing);
                let score = nothing.where_less(offsets, V::splat(first.saturating_sub(start) as f32), score);
                score.store(scores[(query + r) * places + at..][..POSITIONS].as_mut_ptr());
            }
        }
    }

    /// `values[query] = Σ weight * value` over the positions, in order.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn weigh<V: F32x16>(&self, weights: &[f32], values: &mut [f32]) {
        let dim = self.chunk.layout.head_dim;
        let blocks = self.queries.div_ceil(V::ROWS);
        for block in 0..blocks {
            let (query, count) = even_block(self.queries, blocks, block);
            let together = match count {
                1 => 4,
                2 | 3 => 2,
                _ => 1,
            };
            let mut d = 0;
            while d < dim {
                let whole = d + together * LANES <= dim;
                // SAFETY: as `Kernel::run`; queries and components are there.
                unsafe {
                    match count {
                        1 if whole => self.weigh_tile::<V, 1, 4>(weights, query, d, values),
                        2 if whole => self.weigh_tile::<V, 2, 2>(weights, query, d, values),
                        3 if whole => self.weigh_tile::<V, 3, 2>(weights, query, d, values),
                        _ => {
                            macro_rules! tile {
                                ($rows:literal) => {
                                    self.weigh_tile::<V, $rows, 1>(weights, query, d, values)
                                };
                            }
                            with_rows!(count, tile);
                        }
                    }
                }
                d += if whole { together * LANES } else { LANES };
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `R` queries from `query` on and `T` times 16 components from `d` on, or the last fewer, are there.
    #[inline(always)]
    unsafe fn weigh_tile<V: F32x16, const R: usize, const T: usize>(
        &self,
        weights: &[f32],
        query: usize,
        d: usize,
        values: &mut [f32],
    ) {
        if R > V::ROWS {
            return;
        }
        let layout = self.chunk.layout;
        let (dim, places) = (layout.head_dim, places(layout));
        // SAFETY: as `Kernel::run`; the last vector of a value may reach into the next or beyond the array (see
        // `Aligned`): those lanes are not stored.
        unsafe {
            let mut sums = [[V::splat(0.0); T]; R];
            for piece in self.chunk.pieces() {
                let start = layout.start(self.chunk.layer, piece.block, self.chunk.kv_head);
                let at = query * places + piece.place * layout.padded() + piece.from;
                multiply(
                    &mut sums,
                    &Operands::<F> {
                        x: weights[at..].as_ptr(),
                        x_stride: places,
                        k: piece.to - piece.from,
                        w: self.values[start + piece.from * dim + d..].as_ptr(),
                        tile_stride: LANES,
                        k_stride: dim,
                    },
                );
            }
            for (r, sums) in sums.iter().enumerate() {
                for (t, sum) in sums.iter().enumerate() {
                    let at = d + t * LANES;
                    let to = values[(query + r) * dim + at..(query + r + 1) * dim].as_mut_ptr();
                    if at + LANES <= dim { sum.store(to) } else { sum.store_first(to, dim - at) }
                }
            }
        }
    }
}
