//! The tiles of a linear with plain weights: 16 outputs of every row, each summed over `k` in order, the bias last.
//!
//! Blocked so that a piece of a tile's weights stays in the first cache while rows pass by, and the rows' piece in the second;
//! between pieces of `k` the sums rest in the output itself.
//!
//! The bf16 products of AVX-512 BF16 are not used: they would round the inputs to 8 bits, and inputs in two such halves cost as
//! many products as the fused multiplications here, whose weights are exact.
#![allow(unsafe_code, reason = "raw pointers of the kernels")]

use std::ops::Range;

use crate::aligned::{Aligned, Number};
use crate::device::Isa;
use crate::linear::Output;
use crate::matrix::plain::{Plain, TILE, Tiles};
use crate::tensor::Tensor;
use crate::tile::{Bf16Pairs, F16, F32, Format, Operands, even_block, multiply, with_rows};
use crate::vector::{F32x16, Kernel};

/// Inputs of a piece of `k`: 16 KiB of f32 weights of a tile. Even, as bf16 pairs need.
const DEPTH: usize = 256;
/// Rows of a piece: 96 KiB of inputs.
const HEIGHT: usize = 96;

/// Writes the outputs of `tiles` for all rows of `x`; the part's first output is column `column` of `output`, and `bias` belongs
/// to its columns.
pub(crate) fn tiles(
    isa: Isa,
    x: &Tensor,
    plain: &Plain,
    tiles: Range<usize>,
    column: usize,
    bias: Option<&[f32]>,
    output: &Output<'_>,
) {
    let job = Job { x, n: plain.n, tiles, column, bias, output };
    match &plain.tiles {
        Tiles::F32(weights) => isa.run(Product::<F32> { job, weights }),
        Tiles::F16(weights) => isa.run(Product::<F16> { job, weights }),
        Tiles::Bf16(weights) => isa.run(Product::<Bf16Pairs> { job, weights }),
    }
}

struct Job<'a> {
    x: &'a Tensor,
    /// Outputs of the part.
    n: usize,
    tiles: Range<usize>,
    column: usize,
    bias: Option<&'a [f32]>,
    output: &'a Output<'a>,
}

struct Product<'a, F: Format<Number: Number>> {
    job: Job<'a>,
    weights: &'a Aligned<F::Number>,
}

/// The first row, some inputs and the first of some tiles: what one pass through the registers takes.
#[derive(Clone)]
struct Pass {
    row: usize,
    inputs: Range<usize>,
    tile: usize,
}

impl<F: Format<Number: Number>> Kernel for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let (rows, k) = (self.job.output.rows, self.job.x.cols());
        // SAFETY: as `Kernel::run`; the passes cover rows, tiles and inputs that are there.
        unsafe {
            if rows <= V::ROWS {
                return self.few::<V>(rows, k);
            }
            for start in (0..rows).step_by(HEIGHT) {
                let height = HEIGHT.min(rows - start);
                let blocks = height.div_ceil(V::ROWS);
                for from in (0..k).step_by(DEPTH) {
                    let inputs = from..k.min(from + DEPTH);
                    for tile in self.job.tiles.clone() {
                        for block in 0..blocks {
                            let (first, rows) = even_block(height, blocks, block);
                            let pass = Pass { row: start + first, inputs: inputs.clone(), tile };
                            macro_rules! pass {
                                ($rows:literal) => {
                                    self.pass::<V, $rows, 1>(pass)
                                };
                            }
                            with_rows!(rows, pass);
                        }
                    }
                }
            }
        }
    }
}

impl<F: Format<Number: Number>> Product<'_, F> {
    /// All rows in one block: weights are read once, so several tiles at a time keep the multipliers busy.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn few<V: F32x16>(&self, rows: usize, k: usize) {
        let Range { start: mut tile, end } = self.job.tiles;
        let together = match rows {
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        // SAFETY: as `Kernel::run`; the passes cover rows, tiles and inputs that are there.
        unsafe {
            while tile < end {
                let pass = Pass { row: 0, inputs: 0..k, tile };
                let whole = tile + together <= end;
                match rows {
                    1 if whole => self.pass::<V, 1, 4>(pass),
                    2 if whole => self.pass::<V, 2, 2>(pass),
                    3 if whole => self.pass::<V, 3, 2>(pass),
                    _ => {
                        macro_rules! pass {
                            ($rows:literal) => {
                                self.pass::<V, $rows, 1>(pass)
                            };
                        }
                        with_rows!(rows, pass);
                    }
                }
                tile += if whole { together } else { 1 };
            }
        }
    }

    /// Adds the products of some inputs to the outputs of `R` rows and `T` tiles.
    ///
    /// # Safety
    /// As [`Kernel::run`]; the rows, inputs and tiles are there.
    #[inline(always)]
    unsafe fn pass<V: F32x16, const R: usize, const T: usize>(&self, pass: Pass) {
        if R > V::ROWS {
            return;
        }
        let (k, job) = (self.job.x.cols(), &self.job);
        let tile_stride = k.next_multiple_of(F::TOGETHER) * TILE;
        // SAFETY: the places are within `x`, the weights and the output, as the caller promises; no other task writes
        // these tiles' columns.
        unsafe {
            let operands = Operands::<F> {
                x: job.x.as_slice().as_ptr().add(pass.row * k + pass.inputs.start),
                x_stride: k,
                k: pass.inputs.len(),
                w: self.weights.as_ptr().add(pass.tile * tile_stride + pass.inputs.start * TILE),
                tile_stride,
                k_stride: TILE * F::TOGETHER,
            };
            let mut sums = [[V::splat(0.0); T]; R];
            if pass.inputs.start > 0 {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let (to, width) = self.place(pass.row + r, pass.tile + t);
                        *sum = if width == TILE { V::load(to) } else { V::load_first(to, width) };
                    }
                }
            }
            multiply(&mut sums, &operands);
            let last = pass.inputs.end == k;
            for (r, sums) in sums.iter().enumerate() {
                for (t, &sum) in sums.iter().enumerate() {
                    let (to, width) = self.place(pass.row + r, pass.tile + t);
                    let sum = match job.bias {
                        Some(bias) if last => {
                            let first = job.column + (pass.tile + t) * TILE;
                            sum.add(V::load_first(bias[first..first + width].as_ptr(), width))
                        }
                        _ => sum,
                    };
                    if width == TILE { sum.store(to) } else { sum.store_first(to, width) }
                }
            }
        }
    }

    /// Where a row's outputs of a tile go, and how many there are.
    ///
    /// # Safety
    /// Row and tile are there.
    #[inline(always)]
    unsafe fn place(&self, row: usize, tile: usize) -> (*mut f32, usize) {
        let width = TILE.min(self.job.n - tile * TILE);
        // SAFETY: the caller's promise.
        let to =
            unsafe { self.job.output.data.at(row * self.job.output.cols + self.job.column + tile * TILE) };
        (to, width)
    }
}
