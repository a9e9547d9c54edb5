//! The products of low-rank updates: `u = s x Aᵀ` a row and piece, then `y += u Bᵀ`, by tasks of some rows of one segment.
//!
//! Where there are too few rows to keep the threads busy, the ranks of A and then the columns of B are cut instead. An element of `u`
//! sums its products in 16 lanes and then those; an element of `y` sums over the ranks in order: cuts change nothing.
#![allow(unsafe_code, reason = "raw pointers of the kernels")]

use std::cell::Cell;
use std::ops::Range;

use crate::aligned::{Aligned, Number};
use crate::device::{Device, Disjoint};
use crate::low_rank::{LowRank, Packed, Segment, Weights};
use crate::tensor::Tensor;
use crate::tile::{Bf16, F16, F32, Format, Operands, even_block, multiply, with_rows};
use crate::vector::{COUNTING, F32x16, Kernel, LANES};

/// Rows of a task.
const HEIGHT: usize = 24;
/// Multiplications of a task that is worth handing out.
const GRAIN: usize = 1 << 15;

thread_local! {
    /// The `u` of the last call, so that the next one finds its memory.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// What all tasks of a call share.
struct Call<'a> {
    dev: &'a Device,
    base_bias: Option<&'a [f32]>,
    y: Disjoint<'a, f32>,
    cols: usize,
    u: Disjoint<'a, f32>,
}

/// Some rows of one segment.
struct Unit<'a> {
    update: &'a LowRank,
    rows: Range<usize>,
    /// Where their `u` starts: `[rows, update.rank]`.
    u: usize,
}

/// Applies the segments' updates to `y`; the shapes were checked.
pub(super) fn apply(
    dev: &Device,
    x: &Tensor,
    base_bias: Option<&[f32]>,
    segments: &[Segment<'_>],
    y: &mut Tensor,
) {
    with_units(dev, base_bias, segments, y, |call, units| {
        let work: usize = units.iter().map(Unit::work).sum();
        if units.len() >= 2 * dev.threads() || work < 2 * GRAIN {
            let tasks = units.len().min(work.div_ceil(GRAIN));
            dev.parallel(tasks, |task| {
                let (first, count) = even_block(units.len(), tasks, task);
                call.run(x, &units[first..first + count]);
            });
            return;
        }
        let pieces: Vec<(&Unit<'_>, &Packed)> =
            units.iter().flat_map(|unit| unit.update.pieces.iter().map(move |piece| (unit, piece))).collect();
        let threads = 2 * dev.threads();
        dev.parallel(pieces.len() * threads, |task| {
            let (unit, piece) = pieces[task / threads];
            let (first, count) = even_block(piece.rank.div_ceil(4), threads, task % threads);
            call.shrink(x, unit, piece, 4 * first..piece.rank.min(4 * (first + count)));
        });
        dev.parallel(pieces.len() * threads, |task| {
            let (unit, piece) = pieces[task / threads];
            let n = piece.columns.len();
            let (first, count) = even_block(n.div_ceil(4 * LANES), threads, task % threads);
            call.expand(unit, piece, n.min(4 * LANES * first)..n.min(4 * LANES * (first + count)));
        });
    });
}

/// Applies the segments' updates of an embedding table to `y`, times `scale`; the shapes were checked.
pub(crate) fn apply_columns(dev: &Device, ids: &[u32], scale: f32, segments: &[Segment<'_>], y: &mut Tensor) {
    with_units(dev, None, segments, y, |call, units| {
        dev.parallel(units.len(), |task| {
            let unit = &units[task];
            for piece in &unit.update.pieces {
                call.gather(ids, scale, unit, piece);
                call.expand(unit, piece, 0..piece.columns.len());
            }
        });
    });
}

fn with_units(
    dev: &Device,
    base_bias: Option<&[f32]>,
    segments: &[Segment<'_>],
    y: &mut Tensor,
    work: impl FnOnce(&Call<'_>, &[Unit<'_>]),
) {
    let mut units = Vec::with_capacity(segments.len());
    let mut len = 0;
    for Segment { rows, update } in segments {
        let blocks = rows.len().div_ceil(HEIGHT);
        for i in 0..blocks {
            let (first, count) = even_block(rows.len(), blocks, i);
            let start = rows.start + first;
            units.push(Unit { update, rows: start..start + count, u: len });
            len += count * update.rank;
        }
    }
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let cols = y.cols();
    let call =
        Call { dev, base_bias, y: Disjoint::new(y.as_mut_slice()), cols, u: Disjoint::new(&mut scratch) };
    work(&call, &units);
    SCRATCH.set(scratch);
}

impl Unit<'_> {
    /// Multiplications.
    fn work(&self) -> usize {
        let of = |piece: &Packed| piece.rank * (self.update.inputs + piece.columns.len());
        self.rows.len() * self.update.pieces.iter().map(of).sum::<usize>()
    }
}

impl Call<'_> {
    /// All of some units. Small matrices end before the memory's own look-ahead has begun: the next one is asked for early.
    fn run(&self, x: &Tensor, units: &[Unit<'_>]) {
        let mut pieces = units
            .iter()
            .flat_map(|unit| unit.update.pieces.iter().map(move |piece| (unit, piece)))
            .peekable();
        while let Some((unit, piece)) = pieces.next() {
            piece.b.prefetch();
            self.shrink(x, unit, piece, 0..piece.rank);
            if let Some((_, next)) = pieces.peek() {
                next.a.prefetch();
            }
            self.expand(unit, piece, 0..piece.columns.len());
        }
    }

    /// `u[:, ranks] = s x A[ranks]ᵀ` for the unit's rows.
    fn shrink(&self, x: &Tensor, unit: &Unit<'_>, piece: &Packed, ranks: Range<usize>) {
        let k = x.cols();
        // SAFETY: the unit's `u` is within the scratch, and its ranks of this piece are this task's.
        let to = unsafe { self.u.at(unit.u + piece.before) };
        let job = Shrink {
            x: x.as_slice()[unit.rows.start * k..unit.rows.end * k].as_ptr(),
            rows: unit.rows.len(),
            k,
            ranks,
            scale: piece.scale,
            to,
            to_stride: unit.update.rank,
        };
        match &piece.a {
            Weights::F32(a) => self.dev.isa().run(ShrinkBy::<F32> { job, a }),
            Weights::F16(a) => self.dev.isa().run(ShrinkBy::<F16> { job, a }),
            Weights::Bf16(a) => self.dev.isa().run(ShrinkBy::<Bf16> { job, a }),
        }
    }

    /// `u = scale * s * A[:, id]` for the unit's rows.
    fn gather(&self, ids: &[u32], scale: f32, unit: &Unit<'_>, piece: &Packed) {
        let inputs = unit.update.inputs;
        for (i, row) in unit.rows.clone().enumerate() {
            let id = ids[row] as usize;
            assert!(id < inputs, "embed_low_rank: id {id} of an update of {inputs} inputs");
            let start = unit.u + i * unit.update.rank + piece.before;
            // SAFETY: within the scratch; the unit is this task's.
            let u = unsafe { self.u.range(start..start + piece.rank) };
            for (r, u) in u.iter_mut().enumerate() {
                let a = match &piece.a {
                    Weights::F32(a) => a[r * inputs + id],
                    Weights::F16(a) => a[r * inputs + id].to_f32(),
                    Weights::Bf16(a) => a[r * inputs + id].to_f32(),
                };
                *u = a * piece.scale * scale;
            }
        }
    }

    /// `y[:, columns] += u B[columns]ᵀ` for the unit's rows, with bias and magnitude.
    fn expand(&self, unit: &Unit<'_>, piece: &Packed, columns: Range<usize>) {
        // SAFETY: the unit's `u` is within the scratch, and written by no task now; its rows and the piece's columns are
        // within `y`.
        let (u, y) = unsafe {
            (self.u.at(unit.u + piece.before), self.y.at(unit.rows.start * self.cols + piece.columns.start))
        };
        let job = Expand {
            u,
            u_stride: unit.update.rank,
            rows: unit.rows.len(),
            columns,
            y,
            y_stride: self.cols,
            base_bias: self.base_bias.map(|bias| &bias[piece.columns.clone()]),
            piece,
        };
        match &piece.b {
            Weights::F32(b) => self.dev.isa().run(ExpandBy::<F32> { job, b }),
            Weights::F16(b) => self.dev.isa().run(ExpandBy::<F16> { job, b }),
            Weights::Bf16(b) => self.dev.isa().run(ExpandBy::<Bf16> { job, b }),
        }
    }
}

struct Shrink {
    /// `[rows, k]`.
    x: *const f32,
    rows: usize,
    k: usize,
    ranks: Range<usize>,
    scale: f32,
    /// `[rows, to_stride]`, from rank 0 of the piece.
    to: *mut f32,
    to_stride: usize,
}

struct ShrinkBy<'a, F: Format<Number: Number>> {
    job: Shrink,
    a: &'a Aligned<F::Number>,
}

impl<F: Format<Number: Number>> Kernel for ShrinkBy<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let Range { start, end } = self.job.ranks;
        if start >= end {
            return;
        }
        let pairs = self.job.rows / 2 * 2;
        // SAFETY: as `Kernel::run`; rows and ranks are there.
        unsafe {
            for row in (0..pairs).step_by(2) {
                for rank in (start..end / 2 * 2).step_by(2) {
                    self.dots::<V, 2, 2>(row, rank);
                }
                if end % 2 == 1 {
                    self.dots::<V, 2, 1>(row, end - 1);
                }
            }
            if pairs < self.job.rows {
                let quads = start + (end - start) / 4 * 4;
                for rank in (start..quads).step_by(4) {
                    self.dots::<V, 1, 4>(pairs, rank);
                }
                for rank in quads..end {
                    self.dots::<V, 1, 1>(pairs, rank);
                }
            }
        }
    }
}

impl<F: Format<Number: Number>> ShrinkBy<'_, F> {
    /// `J` ranks of `R` rows.
    ///
    /// # Safety
    /// As [`Kernel::run`]; the rows and ranks are there.
    #[inline(always)]
    unsafe fn dots<V: F32x16, const R: usize, const J: usize>(&self, row: usize, rank: usize) {
        let k = self.job.k;
        let whole = k - k % LANES;
        // SAFETY: the places are within the rows and ranks that are there; the last vector of A may reach beyond its row
        // and array (see `Aligned`) and is masked.
        unsafe {
            let x = self.job.x.add(row * k);
            let a = self.a.as_ptr().add(rank * k);
            let mut sums = [[V::splat(0.0); J]; R];
            for at in (0..whole).step_by(LANES) {
                let mut weights = [V::splat(0.0); J];
                for (j, weights) in weights.iter_mut().enumerate() {
                    *weights = F::load::<V>(a.add(j * k + at)).0;
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::load(x.add(r * k + at));
                    for (sum, weights) in sums.iter_mut().zip(&weights) {
                        *sum = weights.fma(x, *sum);
                    }
                }
            }
            if whole < k {
                let (lanes, count) = (V::load(COUNTING.as_ptr()), V::splat((k - whole) as f32));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::load_first(x.add(r * k + whole), k - whole);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let weights = F::load::<V>(a.add(j * k + whole)).0;
                        *sum = weights.where_less(lanes, count, V::splat(0.0)).fma(x, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    *self.job.to.add((row + r) * self.job.to_stride + rank + j) = sum.sum() * self.job.scale;
                }
            }
        }
    }
}

struct Expand<'a> {
    /// `[rows, u_stride]`, from rank 0 of the piece.
    u: *const f32,
    u_stride: usize,
    rows: usize,
    /// Of the piece.
    columns: Range<usize>,
    /// `[rows, y_stride]`, from the piece's first column.
    y: *mut f32,
    y_stride: usize,
    /// Of the piece's columns.
    base_bias: Option<&'a [f32]>,
    piece: &'a Packed,
}

struct ExpandBy<'a, F: Format<Number: Number>> {
    job: Expand<'a>,
    b: &'a Aligned<F::Number>,
}

impl<F: Format<Number: Number>> Kernel for ExpandBy<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let Range { start, end } = self.job.columns;
        let blocks = self.job.rows.div_ceil(V::ROWS);
        for block in 0..blocks {
            let (row, rows) = even_block(self.job.rows, blocks, block);
            let together = if rows <= 3 { 4 * LANES / rows.next_power_of_two() } else { LANES };
            let mut column = start;
            while column < end {
                let whole = column + together <= end;
                // SAFETY: as `Kernel::run`; rows and columns are there.
                unsafe {
                    match rows {
                        1 if whole => self.columns::<V, 1, 4>(row, column),
                        2 if whole => self.columns::<V, 2, 2>(row, column),
                        3 if whole => self.columns::<V, 3, 1>(row, column),
                        _ => {
                            macro_rules! columns {
                                ($rows:literal) => {
                                    self.columns::<V, $rows, 1>(row, column)
                                };
                            }
                            with_rows!(rows, columns);
                        }
                    }
                }
                column += if whole { together } else { LANES };
            }
        }
    }
}

impl<F: Format<Number: Number>> ExpandBy<'_, F> {
    /// `T` times 16 columns of `R` rows; the last may be fewer.
    ///
    /// # Safety
    /// As [`Kernel::run`]; the rows are there, and the columns up to `T * 16` or the end.
    #[inline(always)]
    unsafe fn columns<V: F32x16, const R: usize, const T: usize>(&self, row: usize, column: usize) {
        if R > V::ROWS {
            return;
        }
        let (job, n) = (&self.job, self.job.piece.columns.len());
        // SAFETY: the places are within what the caller promises; the last vector of B may reach beyond its row and array
        // (see `Aligned`): those lanes are not stored.
        unsafe {
            let operands = Operands::<F> {
                x: job.u.add(row * job.u_stride),
                x_stride: job.u_stride,
                k: job.piece.rank,
                w: self.b.as_ptr().add(column),
                tile_stride: LANES,
                k_stride: n,
            };
            let mut sums = [[V::splat(0.0); T]; R];
            multiply(&mut sums, &operands);
            for t in 0..T {
                let at = column + t * LANES;
                let width = LANES.min(job.columns.end - at);
                let bias = first_of::<V>(job.piece.bias.as_deref(), at, width);
                let magnitude = first_of::<V>(job.piece.magnitude.as_deref(), at, width);
                let base = match first_of::<V>(job.base_bias, at, width) {
                    Some(base) => base,
                    None => V::splat(0.0),
                };
                for (r, sums) in sums.iter().enumerate() {
                    let y = job.y.add((row + r) * job.y_stride + at);
                    let delta = match bias {
                        None => sums[t],
                        Some(bias) => sums[t].add(bias),
                    };
                    let old = if width == LANES { V::load(y) } else { V::load_first(y, width) };
                    let new = match magnitude {
                        None => old.add(delta),
                        Some(magnitude) => old.sub(base).add(delta).fma(magnitude, base),
                    };
                    if width == LANES { new.store(y) } else { new.store_first(y, width) }
                }
            }
        }
    }
}

/// `width` numbers of `of` from `at` on.
///
/// # Safety
/// As [`Kernel::run`]; they are there.
#[inline(always)]
#[allow(clippy::manual_map, reason = "a closure would be compiled without the vectors' instruction set")]
unsafe fn first_of<V: F32x16>(of: Option<&[f32]>, at: usize, width: usize) -> Option<V> {
    match of {
        None => None,
        // SAFETY: the caller's promise.
        Some(of) => Some(unsafe { V::load_first(of.as_ptr().add(at), width) }),
    }
}
