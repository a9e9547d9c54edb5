//! A low-rank update of a fused linear, by segments of rows: for each piece `p` of a segment's update,
//! `y[:, p.columns] += s (x Aᵀ Bᵀ + b)`, and with a magnitude `g`: `y = base + g ((y - base) + s (x Aᵀ Bᵀ + b))`.
//!
//! x `[rows, inputs]`, A `[rank, inputs]`, B `[n, rank]` (kept as `[rank, n]`), y `[rows, outputs]`; `n = p.columns.len()`.
//! Ranks are exact: rank 8 costs rank 8. Rows of no segment are never touched.

mod product;

use std::ops::Range;

use half::{bf16, f16};

use crate::aligned::Aligned;
use crate::device::Device;
use crate::matrix::Dtype;
use crate::tensor::Tensor;

pub(crate) use product::apply_columns;

/// Little-endian row-major numbers, as a file has them.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// Their format.
    pub dtype: Dtype,
    /// Their bytes.
    pub bytes: &'a [u8],
}

/// The update of some neighbouring outputs of a fused linear.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// The outputs that it changes.
    pub columns: Range<usize>,
    /// The rank.
    pub rank: usize,
    /// A, `[rank, inputs]`.
    pub a: Numbers<'a>,
    /// B, `[columns.len(), rank]`.
    pub b: Numbers<'a>,
    /// What `B A x + bias` is multiplied by.
    pub scale: f32,
    /// `[columns.len()]` a bias of B, before the scale.
    pub bias: Option<Vec<f32>>,
    /// `[columns.len()]` what each output is multiplied by (the base's bias apart).
    pub magnitude: Option<Vec<f32>>,
}

/// Why pieces do not make an update.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowRankError {
    /// A piece changes no output, or one that the linear does not have.
    #[error("columns {columns:?} of a linear of {outputs} outputs")]
    Columns {
        /// The piece's columns.
        columns: Range<usize>,
        /// The linear's outputs.
        outputs: usize,
    },
    /// Two pieces change one output.
    #[error("columns {0:?} and {1:?} overlap")]
    Overlap(Range<usize>, Range<usize>),
    /// A rank of zero.
    #[error("a rank of 0")]
    NoRank,
    /// A part's length is not that of its shape.
    #[error("{part}: {expected} bytes or numbers expected, {found} found")]
    Length {
        /// `A`, `B`, `bias` or `magnitude`.
        part: &'static str,
        /// What the shape says.
        expected: usize,
        /// What came.
        found: usize,
    },
}

/// The update of one fused linear.
pub struct LowRank {
    inputs: usize,
    outputs: usize,
    /// The ranks of all pieces.
    rank: usize,
    pieces: Vec<Packed>,
}

/// A piece as the kernels read it.
struct Packed {
    columns: Range<usize>,
    rank: usize,
    /// The ranks of the pieces before it.
    before: usize,
    /// `[rank, inputs]`.
    a: Weights,
    /// `[rank, columns.len()]`.
    b: Weights,
    scale: f32,
    /// Times the scale.
    bias: Option<Vec<f32>>,
    magnitude: Option<Vec<f32>>,
}

enum Weights {
    F32(Aligned<f32>),
    F16(Aligned<f16>),
    Bf16(Aligned<bf16>),
}

/// A run of rows that take one update.
pub struct Segment<'a> {
    /// The rows.
    pub rows: Range<usize>,
    /// What they take.
    pub update: &'a LowRank,
}

impl LowRank {
    /// The update of a linear `[outputs, inputs]`.
    ///
    /// # Errors
    /// When a piece does not fit the linear or its own shape, or two pieces overlap.
    pub fn new(inputs: usize, outputs: usize, pieces: Vec<Piece<'_>>) -> Result<LowRank, LowRankError> {
        for (i, piece) in pieces.iter().enumerate() {
            check_piece(inputs, outputs, piece)?;
            let overlaps = |other: &&Piece<'_>| {
                piece.columns.start < other.columns.end && other.columns.start < piece.columns.end
            };
            if let Some(other) = pieces[..i].iter().find(overlaps) {
                return Err(LowRankError::Overlap(other.columns.clone(), piece.columns.clone()));
            }
        }
        let mut rank = 0;
        let pack = |piece: Piece<'_>| {
            let packed = pack(inputs, piece, rank);
            rank += packed.rank;
            packed
        };
        let pieces: Vec<Packed> = pieces.into_iter().map(pack).collect();
        Ok(LowRank { inputs, outputs, rank, pieces })
    }

    /// The length of an input row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The length of an output row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of memory taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let vector = |v: &Option<Vec<f32>>| v.as_ref().map_or(0, |v| v.len() * 4);
        let piece = |p: &Packed| p.a.bytes() + p.b.bytes() + vector(&p.bias) + vector(&p.magnitude);
        size_of::<LowRank>() + self.pieces.iter().map(|p| size_of::<Packed>() + piece(p)).sum::<usize>()
    }
}

impl Weights {
    /// See [`Aligned::prefetch`].
    fn prefetch(&self) {
        match self {
            Weights::F32(w) => w.prefetch(),
            Weights::F16(w) => w.prefetch(),
            Weights::Bf16(w) => w.prefetch(),
        }
    }

    fn read(numbers: Numbers<'_>) -> Weights {
        let count = numbers.bytes.len() / numbers.dtype.bytes();
        let (pairs, quads) = (numbers.bytes.as_chunks::<2>().0, numbers.bytes.as_chunks::<4>().0);
        match numbers.dtype {
            Dtype::F32 => {
                let mut out = Aligned::zeros(count);
                out.iter_mut().zip(quads).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
                Weights::F32(out)
            }
            Dtype::F16 => {
                let mut out = Aligned::zeros(count);
                out.iter_mut().zip(pairs).for_each(|(x, b)| *x = f16::from_le_bytes(*b));
                Weights::F16(out)
            }
            Dtype::Bf16 => {
                let mut out = Aligned::zeros(count);
                out.iter_mut().zip(pairs).for_each(|(x, b)| *x = bf16::from_le_bytes(*b));
                Weights::Bf16(out)
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Weights::F32(w) => w.bytes(),
            Weights::F16(w) => w.bytes(),
            Weights::Bf16(w) => w.bytes(),
        }
    }
}

fn check_piece(inputs: usize, outputs: usize, piece: &Piece<'_>) -> Result<(), LowRankError> {
    let columns = piece.columns.clone();
    if columns.is_empty() || columns.end > outputs {
        return Err(LowRankError::Columns { columns, outputs });
    }
    if piece.rank == 0 {
        return Err(LowRankError::NoRank);
    }
    let bytes = |n: usize, dtype: Dtype| {
        n.checked_mul(piece.rank).and_then(|len| len.checked_mul(dtype.bytes())).unwrap_or(usize::MAX)
    };
    let n = columns.len();
    let vector = |v: &Option<Vec<f32>>| v.as_ref().map_or(n, Vec::len);
    for (part, expected, found) in [
        ("A", bytes(inputs, piece.a.dtype), piece.a.bytes.len()),
        ("B", bytes(n, piece.b.dtype), piece.b.bytes.len()),
        ("bias", n, vector(&piece.bias)),
        ("magnitude", n, vector(&piece.magnitude)),
    ] {
        if expected != found {
            return Err(LowRankError::Length { part, expected, found });
        }
    }
    Ok(())
}

fn pack(inputs: usize, piece: Piece<'_>, before: usize) -> Packed {
    debug_assert_eq!(piece.a.bytes.len(), inputs * piece.rank * piece.a.dtype.bytes());
    let (n, rank, width) = (piece.columns.len(), piece.rank, piece.b.dtype.bytes());
    let mut transposed = vec![0_u8; piece.b.bytes.len()];
    for i in 0..n {
        for r in 0..rank {
            let (from, to) = ((i * rank + r) * width, (r * n + i) * width);
            transposed[to..to + width].copy_from_slice(&piece.b.bytes[from..from + width]);
        }
    }
    Packed {
        columns: piece.columns,
        rank,
        before,
        a: Weights::read(piece.a),
        b: Weights::read(Numbers { dtype: piece.b.dtype, bytes: &transposed }),
        scale: piece.scale,
        bias: piece.bias.map(|bias| bias.into_iter().map(|b| b * piece.scale).collect()),
        magnitude: piece.magnitude,
    }
}

/// Panics unless the segments are apart and fit `y`.
pub(crate) fn check_segments(segments: &[Segment<'_>], y: &Tensor) {
    let mut end = 0;
    for Segment { rows, update } in segments {
        assert!(
            rows.start >= end && rows.start <= rows.end && rows.end <= y.rows(),
            "low_rank: segment {rows:?} after row {end} of {}: segments are ascending and apart",
            y.rows()
        );
        assert_eq!(update.outputs, y.cols(), "low_rank: an update's outputs and the output's columns");
        end = rows.end;
    }
}

/// Applies each segment's update to its rows of `y`, which hold the base linear's outputs. `base_bias` `[outputs]` is the
/// bias that they include.
///
/// # Panics
/// When the shapes do not fit, or segments are not ascending and apart.
pub fn low_rank(
    dev: &Device,
    x: &Tensor,
    base_bias: Option<&[f32]>,
    segments: &[Segment<'_>],
    y: &mut Tensor,
) {
    check_segments(segments, y);
    assert_eq!(x.rows(), y.rows(), "low_rank: the rows of x and y");
    if let Some(bias) = base_bias {
        assert_eq!(bias.len(), y.cols(), "low_rank: the base bias's length");
    }
    for Segment { update, .. } in segments {
        assert_eq!(update.inputs, x.cols(), "low_rank: an update's inputs and the input's columns");
    }
    product::apply(dev, x, base_bias, segments, y);
}

#[cfg(test)]
mod tests;
