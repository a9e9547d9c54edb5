//! Weights of a linear, `[n, k]`: `n` outputs of `k` inputs. Packed once, at load, the way the kernels read them.
//!
//! [`plain`](self) holds f32, f16 and bf16 in their own width, [`blocks`](self) the quantized types of GGUF.

pub(crate) mod blocks;
pub(crate) mod plain;

use blocks::BlockMatrix;
pub use blocks::{BlockError, BlockType};
use plain::Plain;

use crate::device::Device;

/// The number format of plain weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }
}

/// Why file data cannot become weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// The data's length is not that of the shape.
    #[error("weights [{n}, {k}] take {expected} bytes, not {found}")]
    Length {
        /// Outputs.
        n: usize,
        /// Inputs.
        k: usize,
        /// Bytes of the shape; the greatest number where it overflows.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A dimension is zero.
    #[error("weights [{n}, {k}] have no elements")]
    Empty {
        /// Outputs.
        n: usize,
        /// Inputs.
        k: usize,
    },
    /// Quantized blocks are at fault.
    #[error(transparent)]
    Blocks(#[from] BlockError),
}

/// Weights `[n, k]` of a linear or of an embedding table, packed for the kernels.
pub struct Matrix {
    n: usize,
    k: usize,
    pub(crate) storage: Storage,
}

/// The packed forms, one a kind of kernel.
pub(crate) enum Storage {
    /// f32, f16 or bf16 tiles.
    Plain(Plain),
    /// Quantized tiles.
    Blocks(BlockMatrix),
}

impl Matrix {
    /// Packs little-endian row-major numbers `[n, k]`.
    ///
    /// # Errors
    /// When `bytes` is not as long as the shape says, or the shape is empty.
    pub fn from_plain(dtype: Dtype, n: usize, k: usize, bytes: &[u8]) -> Result<Matrix, MatrixError> {
        if n == 0 || k == 0 {
            return Err(MatrixError::Empty { n, k });
        }
        let expected = n.checked_mul(k).and_then(|len| len.checked_mul(dtype.bytes())).unwrap_or(usize::MAX);
        if bytes.len() != expected {
            return Err(MatrixError::Length { n, k, expected, found: bytes.len() });
        }
        Ok(Matrix { n, k, storage: Storage::Plain(Plain::pack(dtype, n, k, bytes)) })
    }

    /// Packs rows of a quantized type, laid out as GGUF does.
    ///
    /// # Errors
    /// When `bytes` is not as long as the shape says, a row is not a whole number of blocks, the shape is empty, or a
    /// scale is not finite.
    pub fn from_blocks(kind: BlockType, n: usize, k: usize, bytes: &[u8]) -> Result<Matrix, MatrixError> {
        if n == 0 || k == 0 {
            return Err(MatrixError::Empty { n, k });
        }
        Ok(Matrix { n, k, storage: Storage::Blocks(BlockMatrix::from_blocks(kind, n, k, bytes)?) })
    }

    /// The same weights as Q8_0 or Q4_K, with the quality of llama.cpp's. Q4_K takes rows of any multiple of 32 here.
    ///
    /// # Errors
    /// When `kind` is another type, `k` is no multiple of 32, or a weight is not finite or beyond f16's range.
    pub fn quantize(&self, dev: &Device, kind: BlockType) -> Result<Matrix, MatrixError> {
        let blocks = BlockMatrix::quantize(dev, kind, (self.n, self.k), |i, out| self.row(i, out))?;
        Ok(Matrix { n: self.n, k: self.k, storage: Storage::Blocks(blocks) })
    }

    /// Outputs.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Plain(plain) => plain.bytes(),
            Storage::Blocks(blocks) => blocks.bytes(),
        }
    }

    /// Writes the weights of output `i` to `out`, `[k]`.
    ///
    /// # Panics
    /// When `i` is not below `n`, or `out` is not `k` long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.n, "row {i} of a matrix of {} rows", self.n);
        assert_eq!(out.len(), self.k, "a row of a matrix of {} columns", self.k);
        match &self.storage {
            Storage::Plain(plain) => plain.row(i, out),
            Storage::Blocks(blocks) => blocks.row(i, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_refused_with_both_lengths() {
        let error = Matrix::from_plain(Dtype::F16, 2, 3, &[0; 11]).err();
        assert_eq!(error, Some(MatrixError::Length { n: 2, k: 3, expected: 12, found: 11 }));
    }

    #[test]
    fn an_empty_or_overflowing_shape_is_refused() {
        assert_eq!(Matrix::from_plain(Dtype::F32, 0, 3, &[]).err(), Some(MatrixError::Empty { n: 0, k: 3 }));
        assert!(matches!(
            Matrix::from_plain(Dtype::F32, usize::MAX, 3, &[]).err(),
            Some(MatrixError::Length { expected: usize::MAX, .. })
        ));
    }
}
