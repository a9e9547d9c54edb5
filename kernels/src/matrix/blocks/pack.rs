//! Where each value of a row lies in its tile, and the way back.

use half::f16;

use crate::aligned::Aligned;

use super::decode::Decoded;
use super::{BLOCK, BlockError, BlockMatrix, BlockType};

/// Outputs of one tile.
pub(crate) const TILE: usize = 16;

/// What a kernel has to know about a packed type. A value is `scale * (q - centre)` or `scale * q + minimum`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Two values per byte.
    pub(crate) nibbles: bool,
    /// A scale (and minimum) per 16 inputs rather than 32.
    pub(crate) halves: bool,
    /// There are minima.
    pub(crate) affine: bool,
    /// Scales and minima are f32 rather than f16.
    pub(crate) wide: bool,
    /// What is taken from every integer; 0 where there are minima.
    pub(crate) centre: i32,
    /// The largest integer.
    pub(crate) peak: i32,
}

impl Spec {
    const NARROW: Spec =
        Spec { nibbles: true, halves: false, affine: false, wide: false, centre: 0, peak: 15 };

    /// Bytes of integers in a tile's block.
    pub(crate) const fn quant_bytes(self) -> usize {
        if self.nibbles { TILE * BLOCK / 2 } else { TILE * BLOCK }
    }

    /// Scales per block and output: one, or one for each half.
    pub(crate) const fn scales(self) -> usize {
        1 + self.halves as usize
    }

    /// Bytes of one vector of 16 scales or minima.
    pub(crate) const fn lane_bytes(self) -> usize {
        if self.wide { 4 * TILE } else { 2 * TILE }
    }

    /// Bytes of scales, then minima, in a tile's block.
    pub(crate) const fn scale_bytes(self) -> usize {
        self.scales() * (1 + self.affine as usize) * self.lane_bytes()
    }
}

impl BlockType {
    /// How the type is packed.
    pub(crate) const fn spec(self) -> Spec {
        let narrow = Spec::NARROW;
        match self {
            BlockType::Q4_0 => Spec { centre: 8, ..narrow },
            BlockType::Q4_1 => Spec { affine: true, ..narrow },
            BlockType::Q5_0 => Spec { nibbles: false, centre: 16, peak: 31, ..narrow },
            BlockType::Q5_1 => Spec { nibbles: false, affine: true, peak: 31, ..narrow },
            BlockType::Q8_0 => Spec { nibbles: false, centre: 128, peak: 255, ..narrow },
            BlockType::Q2K => Spec { halves: true, affine: true, wide: true, ..narrow },
            BlockType::Q3K => Spec { halves: true, wide: true, centre: 4, ..narrow },
            BlockType::Q4K => Spec { affine: true, wide: true, ..narrow },
            BlockType::Q5K => Spec { nibbles: false, affine: true, wide: true, peak: 31, ..narrow },
            BlockType::Q6K => {
                Spec { nibbles: false, halves: true, wide: true, centre: 32, peak: 63, ..narrow }
            }
        }
    }
}

impl BlockMatrix {
    /// A matrix of zeros; `k` is a multiple of 32.
    pub(super) fn zeros(kind: BlockType, n: usize, k: usize) -> Result<BlockMatrix, BlockError> {
        let (spec, blocks) = (kind.spec(), n.div_ceil(TILE).checked_mul(k / BLOCK));
        let bytes = |each: usize| {
            blocks.and_then(|blocks| blocks.checked_mul(each)).filter(|b| *b <= isize::MAX as usize)
        };
        let (Some(quants), Some(scales)) = (bytes(spec.quant_bytes()), bytes(spec.scale_bytes())) else {
            return Err(BlockError::TooLarge { kind, n, k });
        };
        Ok(BlockMatrix { kind, n, k, quants: Aligned::zeros(quants), scales: Aligned::zeros(scales) })
    }

    /// Cuts the matrix into its tiles, to be filled with [`put`]: the integers and the scales of each.
    pub(super) fn tiles_mut(&mut self) -> impl Iterator<Item = (&mut [u8], &mut [u8])> {
        let (spec, blocks) = (self.kind.spec(), self.blocks());
        let quants = self.quants.chunks_exact_mut(blocks * spec.quant_bytes());
        quants.zip(self.scales.chunks_exact_mut(blocks * spec.scale_bytes()))
    }

    /// Row `row` as f32, exactly as the type defines its values.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `k` long.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k, "row {row} of {self:?} into {} values", out.len());
        let (spec, lane) = (self.kind.spec(), row % TILE);
        let (quants, scales) = self.tile(row / TILE);
        let quants = quants.chunks_exact(spec.quant_bytes());
        let scales = scales.chunks_exact(spec.scale_bytes());
        for ((out, quants), scales) in out.chunks_exact_mut(BLOCK).zip(quants).zip(scales) {
            for (i, out) in out.iter_mut().enumerate() {
                let s = if spec.halves { i / 16 } else { 0 };
                let value =
                    scale(spec, s, lane, scales) * (quant(spec, lane, i, quants) - spec.centre) as f32;
                *out = if spec.affine { value + scale(spec, spec.scales() + s, lane, scales) } else { value };
            }
        }
    }
}

/// Packs the decoded blocks of row `row` into its tile.
///
/// # Errors
/// A scale or minimum is not finite.
pub(super) fn put(
    kind: BlockType,
    row: usize,
    decoded: &[Decoded],
    (quants, scales): (&mut [u8], &mut [u8]),
) -> Result<(), BlockError> {
    let (spec, lane) = (kind.spec(), row % TILE);
    let used = spec.scales();
    let quants = quants.chunks_exact_mut(spec.quant_bytes());
    let scales = scales.chunks_exact_mut(spec.scale_bytes());
    for (b, ((block, quants), scales)) in decoded.iter().zip(quants).zip(scales).enumerate() {
        if !block.scales[..used].iter().chain(&block.minima[..used]).all(|v| v.is_finite()) {
            return Err(BlockError::NotFinite { kind, row, column: b * BLOCK });
        }
        put_quants(spec, lane, &block.quants, quants);
        for s in 0..used {
            put_scale(spec, s, lane, block.scales[s], scales);
            if spec.affine {
                put_scale(spec, used + s, lane, block.minima[s], scales);
            }
        }
    }
    Ok(())
}

fn put_quants(spec: Spec, lane: usize, values: &[u8; BLOCK], tile: &mut [u8]) {
    for i in 0..if spec.nibbles { BLOCK / 2 } else { BLOCK } {
        let high = if spec.nibbles { values[i + BLOCK / 2] << 4 } else { 0 };
        tile[64 * (i / 4) + 4 * lane + i % 4] = values[i] | high;
    }
}

/// Integer `i` of output `lane` in a tile's block.
pub(crate) fn quant(spec: Spec, lane: usize, i: usize, tile: &[u8]) -> i32 {
    let at = |i: usize| i32::from(tile[64 * (i / 4) + 4 * lane + i % 4]);
    match spec.nibbles {
        true if i >= BLOCK / 2 => at(i - BLOCK / 2) >> 4,
        true => at(i) & 15,
        false => at(i),
    }
}

fn put_scale(spec: Spec, vector: usize, lane: usize, value: f32, plane: &mut [u8]) {
    let plane = &mut plane[vector * spec.lane_bytes()..];
    if spec.wide {
        plane[4 * lane..][..4].copy_from_slice(&value.to_le_bytes());
    } else {
        plane[2 * lane..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    }
}

/// Scale or minimum of output `lane`: `vector` counts the scales of a block, then its minima.
pub(crate) fn scale(spec: Spec, vector: usize, lane: usize, plane: &[u8]) -> f32 {
    let plane = &plane[vector * spec.lane_bytes()..];
    if spec.wide {
        f32::from_le_bytes([plane[4 * lane], plane[4 * lane + 1], plane[4 * lane + 2], plane[4 * lane + 3]])
    } else {
        f16::from_le_bytes([plane[2 * lane], plane[2 * lane + 1]]).to_f32()
    }
}
