//! `out[r, o] = Σ x[r, i] W[o, i]` for packed blocks: integer sums of 32 products, then `f32` in the order of the blocks.
//!
//! `acc = fma(sum of q * x as f32, weight scale * input scale, acc)`, then `acc = fma(minimum, input scale * sum of x, acc)`
//! where a type has minima. Integer sums are exact and the rest is one fixed chain per output, so every instruction set,
//! any number of rows and any split of the tiles over threads give the same bits. Must not know about threads.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use crate::device::{Device, Isa};
use crate::linear::Output;
use crate::matrix::blocks::{BlockMatrix, BlockType, Spec, TILE};
use crate::matrix::{Matrix, Storage};
use crate::tensor::Tensor;

pub(crate) use activations::Activations;

thread_local! {
    /// The inputs of the last call, so that the next one finds its memory.
    static SCRATCH: RefCell<Activations> = RefCell::default();
}

/// Runs `work` with the rows of `x` quantized, where any of the parts needs that.
pub(crate) fn with_inputs(dev: &Device, x: &Tensor, parts: &[Matrix], work: impl FnOnce(&Activations)) {
    let mut inputs = SCRATCH.take();
    if parts.iter().any(|part| matches!(part.storage, Storage::Blocks(_))) {
        inputs.fill(dev, x);
    }
    work(&inputs);
    SCRATCH.set(inputs);
}

/// A packed type at compile time, so that each gets a kernel without branches on its layout.
pub(crate) trait Form {
    /// The layout.
    const SPEC: Spec;
}

/// One tile against some input rows.
#[derive(Clone, Copy)]
struct Job<'a> {
    quants: &'a [u8],
    scales: &'a [u8],
    x: &'a Activations,
    /// The first input row.
    row: usize,
    /// Whether the tile comes from memory: these are the first rows that need it.
    first: bool,
}

/// Where the scales and minima of a block start, and the units of their factors.
struct Scales<F> {
    vectors: *const u8,
    units: *const u8,
    form: PhantomData<F>,
}

impl<F> Clone for Scales<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Scales<F> {}

impl<F: Form> Scales<F> {
    /// Of block `b` in a tile's plane.
    #[inline]
    fn at(plane: &[u8], b: usize) -> Scales<F> {
        let at = |offset: usize| plane.as_ptr().wrapping_add(offset);
        Scales { vectors: at(F::SPEC.scales_at(b)), units: at(F::SPEC.units_at(b)), form: PhantomData }
    }
}

/// The sums of 16 outputs for each of `sums.len()` rows (at most `MAX_ROWS`) from `job.row` on.
type Kernel = unsafe fn(job: Job<'_>, sums: &mut [[f32; TILE]]);

/// Most rows that one call of a kernel takes.
const MAX_ROWS: usize = 8;

/// Writes the outputs of `tiles` for all rows of `x`; the matrix's first output is column `column` of `output`, and
/// `bias` belongs to its columns.
#[allow(unsafe_code, reason = "kernels need the instruction set that the device was checked for")]
pub(crate) fn tiles(
    isa: Isa,
    matrix: &BlockMatrix,
    x: &Activations,
    tiles: Range<usize>,
    column: usize,
    bias: Option<&[f32]>,
    output: &Output<'_>,
) {
    assert!(
        x.k() == matrix.k() && x.rows() == output.rows,
        "{matrix:?}: the quantized inputs are another call's"
    );
    let (kernel, step) = kernel(isa, matrix.kind());
    let mut sums = [[0.0; TILE]; MAX_ROWS];
    for span in spans(x) {
        for tile in tiles.clone() {
            let (quants, scales) = matrix.tile(tile);
            let width = TILE.min(matrix.n() - TILE * tile);
            let left = column + TILE * tile;
            for rows in even(span.clone(), step) {
                let (row, first, sums) = (rows.start, rows.start == span.start, &mut sums[..rows.len()]);
                // SAFETY: a device's instruction set is available; tile and inputs have equally many blocks.
                unsafe { kernel(Job { quants, scales, x, row, first }, sums) };
                for (r, sums) in sums.iter_mut().enumerate() {
                    if let Some(bias) = bias {
                        sums.iter_mut().zip(&bias[left..left + width]).for_each(|(sum, bias)| *sum += bias);
                    }
                    let start = (row + r) * output.cols + left;
                    // SAFETY: a tile's columns are in one task.
                    let to = unsafe { output.data.range(start..start + width) };
                    to.copy_from_slice(&sums[..width]);
                }
            }
        }
    }
}

/// Rows in runs that stay in the second-level cache while the tiles pass by.
fn spans(x: &Activations) -> impl Iterator<Item = Range<usize>> {
    let rows = (160 * 1024 / x.row_bytes()).max(MAX_ROWS).next_multiple_of(24);
    (0..x.rows()).step_by(rows).map(move |start| start..x.rows().min(start + rows))
}

/// Asks for the weights that come a page later: for few rows their way from memory is all that counts, and the processor's
/// own foresight ends with the page.
#[cfg(target_arch = "x86_64")]
#[inline]
fn ahead(from: *const u8, bytes: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    const AHEAD: usize = 4096;
    for line in 0..bytes.div_ceil(64) {
        // SAFETY: a prefetch reads nothing that the program sees, and any address will do.
        #[allow(unsafe_code, reason = "a hint to the processor")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD + 64 * line).cast());
        }
    }
}

/// Cuts rows into as few runs of at most `most` as there can be, all of nearly the same length.
fn even(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let runs = rows.len().div_ceil(most);
    let at = move |run: usize| rows.start + rows.len() * run / runs;
    (0..runs).map(move |run| at(run)..at(run + 1))
}

macro_rules! forms {
    ($($form:ident)*) => {
        $(struct $form;
        impl Form for $form {
            const SPEC: Spec = BlockType::$form.spec();
        })*

        /// The kernel of a type and how many rows it takes at a time.
        fn kernel(isa: Isa, kind: BlockType) -> (Kernel, usize) {
            match (isa, kind) {
                #[cfg(target_arch = "x86_64")]
                $((Isa::Avx2 | Isa::Avx512, BlockType::$form) => (avx2::tile::<$form>, avx2::rows(BlockType::$form.spec())),)*
                #[cfg(target_arch = "x86_64")]
                $((Isa::Avx512Vnni | Isa::Avx512Bf16, BlockType::$form) => (avx512::tile::<$form>, avx512::ROWS),)*
                $((_, BlockType::$form) => (portable::tile::<$form>, 1),)*
            }
        }
    };
}

forms!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K);
