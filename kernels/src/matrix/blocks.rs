//! Weights `[n, k]` in GGUF's block types, repacked into tiles of 16 outputs x 32 inputs that every instruction set reads.
//!
//! A tile of one block holds the integers of 16 outputs in groups of four inputs: group `j` of output `o` lies at byte
//! `64 j + 4 o`. Four-bit types keep inputs `4j..` in the low and `16 + 4j..` in the high halves of 256 bytes; wider types
//! take a byte each, 512 in all. Scales and minima lie in a plane of their own, 16 of a kind side by side, as f16 or as
//! the factors that the type has, beside the f16 that they multiply. The last tile is filled up with zero scales. This file must not know how a product is computed.

mod decode;
mod encode;
mod pack;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use crate::aligned::Aligned;
use crate::device::Device;

pub(crate) use pack::{Spec, TILE, quant, scale};

/// Inputs of one packed block, whatever the type's own block is.
pub(crate) const BLOCK: usize = 32;

/// The block types of GGUF that a matrix can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, scale and minimum of 4 bits per 16, in blocks of 256.
    Q2K,
    /// 3 bits, scale of 6 bits per 16, in blocks of 256.
    Q3K,
    /// 4 bits, scale and minimum of 6 bits per 32, in blocks of 256.
    Q4K,
    /// 5 bits, scale and minimum of 6 bits per 32, in blocks of 256.
    Q5K,
    /// 6 bits, scale of 8 bits per 16, in blocks of 256.
    Q6K,
}

impl BlockType {
    /// Every type, in the order of GGUF's numbers.
    pub const ALL: [BlockType; 10] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2K,
        BlockType::Q3K,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
    ];

    /// Values in one block of the file.
    pub fn block_len(self) -> usize {
        match self {
            BlockType::Q2K | BlockType::Q3K | BlockType::Q4K | BlockType::Q5K | BlockType::Q6K => 256,
            _ => 32,
        }
    }

    /// Bytes of one block of the file.
    pub fn block_bytes(self) -> usize {
        match self {
            BlockType::Q4_0 => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::Q2K => 84,
            BlockType::Q3K => 110,
            BlockType::Q4K => 144,
            BlockType::Q5K => 176,
            BlockType::Q6K => 210,
        }
    }

    /// GGUF's own name of the type.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2K => "Q2_K",
            BlockType::Q3K => "Q3_K",
            BlockType::Q4K => "Q4_K",
            BlockType::Q5K => "Q5_K",
            BlockType::Q6K => "Q6_K",
        }
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes are not a matrix of blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A row is not a whole number of blocks.
    #[error("{kind}: rows of {k} values are not a whole number of blocks of {block}")]
    Ragged {
        /// The block type.
        kind: BlockType,
        /// Values in a row.
        k: usize,
        /// Values in a block.
        block: usize,
    },
    /// The data is shorter or longer than the shape says.
    #[error("{kind}: a matrix of {n} x {k} takes {expected} bytes, got {got}")]
    Size {
        /// The block type.
        kind: BlockType,
        /// Rows.
        n: usize,
        /// Values in a row.
        k: usize,
        /// Bytes (for `quantize`: values) that the shape takes.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A scale or minimum is infinite or not a number.
    #[error("{kind}: row {row}, values from {column}: a scale, minimum or value is not finite")]
    NotFinite {
        /// The block type.
        kind: BlockType,
        /// The row.
        row: usize,
        /// The first value of the block.
        column: usize,
    },
    /// Only Q8_0 and Q4_K are made here.
    #[error("{kind}: weights are quantized to Q8_0 or Q4_K only")]
    NoEncoder {
        /// The block type.
        kind: BlockType,
    },
    /// The shape does not fit the address space.
    #[error("{kind}: a matrix of {n} x {k} is larger than memory")]
    TooLarge {
        /// The block type.
        kind: BlockType,
        /// Rows.
        n: usize,
        /// Values in a row.
        k: usize,
    },
}

/// A matrix `[n, k]` in one block type, packed.
#[derive(Clone)]
pub(crate) struct BlockMatrix {
    kind: BlockType,
    n: usize,
    k: usize,
    quants: Aligned<u8>,
    scales: Aligned<u8>,
}

impl BlockMatrix {
    /// Packs `n` rows of `k` values from a file's bytes, row by row as GGUF stores them.
    ///
    /// # Errors
    /// `k` is no whole number of blocks, the size is not exactly that of the shape, or a scale is not finite.
    pub(crate) fn from_blocks(
        kind: BlockType,
        n: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<BlockMatrix, BlockError> {
        let block = kind.block_len();
        if !k.is_multiple_of(block) || k == 0 {
            return Err(BlockError::Ragged { kind, k, block });
        }
        let row_bytes = k / block * kind.block_bytes();
        let expected = n.checked_mul(row_bytes).ok_or(BlockError::TooLarge { kind, n, k })?;
        if bytes.len() != expected {
            return Err(BlockError::Size { kind, n, k, expected, got: bytes.len() });
        }
        let mut matrix = BlockMatrix::zeros(kind, n, k)?;
        let mut decoded = vec![decode::Decoded::default(); k / BLOCK];
        for (tile, (bytes, (quants, scales))) in
            bytes.chunks(TILE * row_bytes).zip(matrix.tiles_mut()).enumerate()
        {
            for (lane, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                decode::row(kind, bytes, &mut decoded);
                pack::put(kind, TILE * tile + lane, &decoded, (quants, scales))?;
            }
        }
        Ok(matrix)
    }

    /// Quantizes `n` rows of `k` values, a multiple of 32, to Q8_0 or Q4_K; `read` writes a row.
    ///
    /// # Errors
    /// Another type, a `k` that is no multiple of 32, a row whose values are not finite or whose scale is beyond f16.
    pub(crate) fn quantize(
        dev: &Device,
        kind: BlockType,
        (n, k): (usize, usize),
        read: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<BlockMatrix, BlockError> {
        if !matches!(kind, BlockType::Q8_0 | BlockType::Q4K) {
            return Err(BlockError::NoEncoder { kind });
        }
        if !k.is_multiple_of(BLOCK) || k == 0 {
            return Err(BlockError::Ragged { kind, k, block: BLOCK });
        }
        let mut matrix = BlockMatrix::zeros(kind, n, k)?;
        let tiles: Vec<_> = matrix.tiles_mut().map(Mutex::new).collect();
        let failed = Mutex::new(None);
        dev.parallel(tiles.len(), |tile| {
            let mut bytes = tiles[tile].lock().unwrap_or_else(PoisonError::into_inner);
            let (quants, scales) = &mut *bytes;
            let (mut x, mut decoded) = (vec![0.0; k], vec![decode::Decoded::default(); k / BLOCK]);
            for row in TILE * tile..n.min(TILE * (tile + 1)) {
                read(row, &mut x);
                encode::row(kind, &x, &mut decoded);
                if let Err(error) = pack::put(kind, row, &decoded, (quants, scales)) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        });
        drop(tiles);
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(matrix),
        }
    }

    /// The block type.
    pub(crate) fn kind(&self) -> BlockType {
        self.kind
    }

    /// Outputs.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory that the packed form takes.
    pub(crate) fn bytes(&self) -> usize {
        self.quants.bytes() + self.scales.bytes()
    }

    /// Packed blocks in a row.
    pub(crate) fn blocks(&self) -> usize {
        self.k / BLOCK
    }

    /// The integers of one tile, `blocks()` times `Spec::quant_bytes`, and its plane of scales, see `Spec::scales_at`.
    pub(crate) fn tile(&self, tile: usize) -> (&[u8], &[u8]) {
        let spec = self.kind.spec();
        let (quants, scales) = (self.blocks() * spec.quant_bytes(), spec.plane_bytes(self.blocks()));
        (&self.quants[tile * quants..][..quants], &self.scales[tile * scales..][..scales])
    }
}

impl std::fmt::Debug for BlockMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockMatrix({} {}x{})", self.kind, self.n, self.k)
    }
}
