//! From a stored tensor's bytes to what a layer holds: rows picked and put in order, packed, quantized.

use std::borrow::Cow;

use half::{bf16, f16};
use lorikeet_kernels::device::Device;
use lorikeet_kernels::matrix::{Dtype, Matrix};

use crate::model::checkpoint::{Encoding, Stored};
use crate::model::load::LoadError;
use crate::model::names::{Place, interleaved};
use crate::model::options::Quantize;
use crate::model::plan::{Role, Wanted};

/// A loaded tensor.
pub(crate) enum Loaded {
    Matrix(Matrix),
    Vector(Vec<f32>),
}

/// Rows of a multiple of this are quantized; others stay as they are.
const QUANTIZED: usize = 32;

/// Whether and on what plain matrices are quantized.
#[derive(Clone, Copy)]
pub(crate) struct Quantizing<'a> {
    pub quantize: Option<Quantize>,
    pub device: &'a Device,
}

/// Converts what `place` picks of a stored tensor.
pub(crate) fn convert(
    wanted: &Wanted,
    place: &Place,
    stored: &Stored,
    bytes: &[u8],
    head_dim: usize,
    how: &Quantizing<'_>,
) -> Result<Loaded, LoadError> {
    // A vector's elements are its rows.
    let inputs = wanted.shape.get(1).copied().unwrap_or(1);
    let outputs = wanted.shape[0];
    let row_bytes = stored.encoding.row_bytes(inputs);
    let bytes = pick(place, bytes, row_bytes, head_dim);
    let loaded = match (wanted.role, stored.encoding) {
        (Role::Vector, Encoding::Plain(dtype)) => return Ok(Loaded::Vector(widen(dtype, &bytes))),
        (_, Encoding::Plain(dtype)) => Matrix::from_plain(dtype, outputs, inputs, &bytes),
        (_, Encoding::Blocks(kind)) => Matrix::from_blocks(kind, outputs, inputs, &bytes),
    };
    let in_tensor = |error| LoadError::Matrix { tensor: place.tensor.clone(), error };
    let matrix = loaded.map_err(in_tensor)?;
    let plain = matches!(stored.encoding, Encoding::Plain(_));
    match how.quantize.filter(|_| plain && inputs.is_multiple_of(QUANTIZED)) {
        Some(quantize) => matrix.quantize(how.device, quantize.block_type()).map_err(in_tensor),
        None => Ok(matrix),
    }
    .map(Loaded::Matrix)
}

/// The bytes of the rows that `place` picks, in the order of the Hugging Face form. Rows move whole: blocks stay valid.
fn pick<'a>(place: &Place, bytes: &'a [u8], row_bytes: usize, head_dim: usize) -> Cow<'a, [u8]> {
    let bytes = match &place.rows {
        Some(rows) => &bytes[rows.start * row_bytes..rows.end * row_bytes],
        None => bytes,
    };
    if place.interleaved_heads.is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut ordered = Vec::with_capacity(bytes.len());
    for row in 0..bytes.len() / row_bytes {
        let from = interleaved(row, head_dim) * row_bytes;
        ordered.extend_from_slice(&bytes[from..from + row_bytes]);
    }
    Cow::Owned(ordered)
}

/// Little-endian numbers as f32.
fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let pair = |two: &[u8]| [two[0], two[1]];
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(pair(b)).to_f32()).collect(),
        Dtype::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(pair(b)).to_f32()).collect(),
    }
}
