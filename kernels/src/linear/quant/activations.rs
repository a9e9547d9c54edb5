//! Inputs as 8-bit integers: each row in blocks of 32, `x ≈ scale * q`, `scale = max |x| / 127`, `q` rounded to even.
//!
//! A block that holds an infinity or a NaN gets the scale NaN, which reaches every output of its row.
#![allow(unsafe_code, reason = "rows of one buffer are given to several tasks")]

use super::Form;
use crate::device::{Device, Disjoint, Isa};
use crate::matrix::blocks::BLOCK;
use crate::tensor::Tensor;

/// Below this the largest input of a block counts as zero: its reciprocal would not be finite.
const TINY: f32 = 1e-35;

/// What a block's integers stand for. `total8` and `high8` are -8 times the sum of all 32 and of the last 16 integers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(16))]
pub(super) struct BlockScale {
    pub(super) scale: f32,
    /// `scale` times the sum of the integers.
    pub(super) sum: f32,
    pub(super) total8: i32,
    pub(super) high8: i32,
}

impl BlockScale {
    fn new(scale: f32, low: i32, high: i32) -> BlockScale {
        BlockScale { scale, sum: scale * (low + high) as f32, total8: -8 * (low + high), high8: -8 * high }
    }

    /// What a minimum is multiplied with: the sum over the block or, of a type that scales by halves, over half `s`.
    #[inline]
    pub(super) fn sum_of<F: Form>(&self, s: usize) -> f32 {
        if !F::SPEC.halves {
            return self.sum;
        }
        let sum8 = if s == 0 { self.total8 - self.high8 } else { self.high8 };
        (sum8 as f32 * -0.125) * self.scale
    }
}

/// Input rows, quantized. Keeps its memory from one use to the next.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    rows: usize,
    k: usize,
    quants: Vec<Quants>,
    scales: Vec<BlockScale>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Quants(pub(super) [i8; BLOCK]);

impl Activations {
    /// Quantizes the rows of `x`, `[rows, k]` with `k` a multiple of 32.
    pub(super) fn fill(&mut self, dev: &Device, x: &Tensor) {
        let (rows, k, blocks) = (x.rows(), x.cols(), x.cols() / BLOCK);
        assert!(k.is_multiple_of(BLOCK), "inputs in blocks of {BLOCK}, got {k}");
        (self.rows, self.k) = (rows, k);
        self.quants.resize(rows * blocks, Quants([0; BLOCK]));
        self.scales.resize(rows * blocks, BlockScale::default());
        let (quants, scales) = (Disjoint::new(&mut self.quants), Disjoint::new(&mut self.scales));
        let chunk = dev.chunk(rows, k);
        dev.parallel(rows.div_ceil(chunk), |task| {
            for row in task * chunk..rows.min((task + 1) * chunk) {
                let to = row * blocks..(row + 1) * blocks;
                // SAFETY: each row is in one task.
                let (quants, scales) = unsafe { (quants.range(to.clone()), scales.range(to)) };
                quantize_row(dev.isa(), x.row(row), quants, scales);
            }
        });
    }

    /// Rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.k / BLOCK * (size_of::<Quants>() + size_of::<BlockScale>())
    }

    /// Block `block` of row `row`.
    pub(super) fn block(&self, row: usize, block: usize) -> (&[i8; BLOCK], &BlockScale) {
        let at = row * (self.k / BLOCK) + block;
        (&self.quants[at].0, &self.scales[at])
    }

    /// The integers and scales from row `row` on, rows one after the other.
    pub(super) fn at_row(&self, row: usize) -> (*const i8, *const BlockScale) {
        let at = row * (self.k / BLOCK);
        (self.quants[at..].as_ptr().cast(), self.scales[at..].as_ptr())
    }
}

/// The scale of a block and what to multiply its values with, from the largest magnitude; `None` if all count as zero.
pub(super) fn scale_of(largest: f32) -> Option<(f32, f32)> {
    if !largest.is_finite() {
        Some((f32::NAN, 0.0))
    } else if largest < TINY {
        None
    } else {
        Some((largest / 127.0, 127.0 / largest))
    }
}

#[allow(unsafe_code, reason = "the device's instruction set was checked")]
fn quantize_row(isa: Isa, x: &[f32], quants: &mut [Quants], scales: &mut [BlockScale]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: a device's instruction set is available, and all of these include AVX2.
        return unsafe { super::avx2::quantize(x, quants, scales) };
    }
    let _ = isa;
    for ((x, quants), scale) in x.as_chunks::<BLOCK>().0.iter().zip(quants).zip(scales) {
        (quants.0, *scale) = quantize(x);
    }
}

/// Ends a block of which the integers are known.
pub(super) fn block_scale(scale: f32, low: i32, high: i32) -> BlockScale {
    BlockScale::new(scale, low, high)
}

fn quantize(x: &[f32; BLOCK]) -> ([i8; BLOCK], BlockScale) {
    // Magnitudes order as their bits do, NaN above all.
    let largest = x.iter().fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff_ffff));
    match scale_of(f32::from_bits(largest)) {
        None => ([0; BLOCK], BlockScale::default()),
        Some((scale, _)) if scale.is_nan() => ([0; BLOCK], BlockScale::new(scale, 0, 0)),
        Some((scale, inverse)) => {
            let quants = x.map(|v| (v * inverse).round_ties_even() as i8);
            let sum = |half: &[i8]| half.iter().map(|q| i32::from(*q)).sum();
            (quants, BlockScale::new(scale, sum(&quants[..16]), sum(&quants[16..])))
        }
    }
}
