//! A linear layer with its outputs side by side: `out[:, columns of part p] = x Wₚᵀ (+ bias)`.
//!
//! x `[rows, k]`, part p's weights `[nₚ, k]`, bias `[Σ nₚ]`, out `[rows, Σ nₚ]`.

mod plain;
mod quant;

use std::ops::Range;

use crate::device::{Device, Disjoint};
use crate::matrix::plain::TILE;
use crate::matrix::{Matrix, Storage};
use crate::tensor::Tensor;

/// The outputs of one linear layer: `[rows, cols]`, written tile by tile.
pub(crate) struct Output<'a> {
    pub(crate) data: Disjoint<'a, f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// `out[:, columns of part p] = x Wₚᵀ (+ bias)`: the parts' outputs lie side by side.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear(dev: &Device, x: &Tensor, parts: &[Matrix], bias: Option<&[f32]>, out: &mut Tensor) {
    check(x, parts, bias, out);
    let (rows, cols) = (out.rows(), out.cols());
    if rows == 0 {
        return;
    }
    let output = Output { data: Disjoint::new(out.as_mut_slice()), rows, cols };
    let cuts = Cuts::new(dev, parts);
    quant::with_inputs(dev, x, parts, |inputs| {
        dev.parallel(cuts.tasks, |task| {
            let (part, tiles, column) = cuts.of(parts, task);
            match &part.storage {
                Storage::Plain(plain) => plain::tiles(dev.isa(), x, plain, tiles, column, bias, &output),
                Storage::Blocks(blocks) => {
                    quant::tiles(dev.isa(), blocks, inputs, tiles, column, bias, &output);
                }
            }
        });
    });
}

/// How the tiles of all parts are cut into tasks: some neighbouring tiles of one part each.
struct Cuts {
    /// Tiles of a task.
    step: usize,
    tasks: usize,
}

impl Cuts {
    fn new(dev: &Device, parts: &[Matrix]) -> Cuts {
        /// Neighbouring tiles that a plain kernel takes at once for a single row.
        const TOGETHER: usize = 4;
        let tiles: usize = parts.iter().map(|part| part.n().div_ceil(TILE)).sum();
        let step = tiles.div_ceil(6 * dev.threads()).next_multiple_of(TOGETHER).min(64);
        Cuts { step, tasks: parts.iter().map(|part| part.n().div_ceil(TILE).div_ceil(step)).sum() }
    }

    /// The part of a task, its tiles of that part, and the part's first column.
    fn of<'a>(&self, parts: &'a [Matrix], task: usize) -> (&'a Matrix, Range<usize>, usize) {
        let (mut task, mut column) = (task, 0);
        for part in parts {
            let tiles = part.n().div_ceil(TILE);
            let tasks = tiles.div_ceil(self.step);
            if task < tasks {
                return (part, task * self.step..tiles.min((task + 1) * self.step), column);
            }
            task -= tasks;
            column += part.n();
        }
        unreachable!("a task beyond the parts")
    }
}

fn check(x: &Tensor, parts: &[Matrix], bias: Option<&[f32]>, out: &Tensor) {
    let n: usize = parts.iter().map(Matrix::n).sum();
    for part in parts {
        assert_eq!(
            part.k(),
            x.cols(),
            "linear: weights [{}, {}] of inputs [_, {}]",
            part.n(),
            part.k(),
            x.cols()
        );
    }
    assert_eq!((out.rows(), out.cols()), (x.rows(), n), "linear: the output's shape");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "linear: the bias's length");
    }
}

#[cfg(test)]
mod tests;
