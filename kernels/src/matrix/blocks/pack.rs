//! Where each value of a row lies in its tile, and the way back.

use half::f16;

use crate::aligned::Aligned;

use super::decode::Decoded;
use super::{BLOCK, BlockError, BlockMatrix, BlockType};

/// Blocks that share the units of their factors.
const UNIT: usize = 8;

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
    /// Scales and minima are 8-bit factors of an f16 scale and minimum for eight blocks, rather than f16 themselves.
    pub(crate) factors: bool,
    /// What is taken from every integer; 0 where there are minima.
    pub(crate) centre: i32,
    /// The largest integer.
    pub(crate) peak: i32,
}

impl Spec {
    const NARROW: Spec =
        Spec { nibbles: true, halves: false, affine: false, factors: false, centre: 0, peak: 15 };

    /// Bytes of integers in a tile's block.
    pub(crate) const fn quant_bytes(self) -> usize {
        if self.nibbles { TILE * BLOCK / 2 } else { TILE * BLOCK }
    }

    /// Scales per block and output: one, or one for each half.
    pub(crate) const fn scales(self) -> usize {
        1 + self.halves as usize
    }

    /// Bytes of one vector of 16 scales or minima.
    pub(crate) const fn vector_bytes(self) -> usize {
        if self.factors { TILE } else { 2 * TILE }
    }

    /// Bytes of scales, then minima, of a tile's block.
    pub(crate) const fn scale_bytes(self) -> usize {
        self.scales() * (1 + self.affine as usize) * self.vector_bytes()
    }

    /// Bytes of what factors are multiplied with: a vector of f16 for the scales, one for the minima.
    const fn unit_bytes(self) -> usize {
        if self.factors { (1 + self.affine as usize) * 2 * TILE } else { 0 }
    }

    /// Where in a tile's plane of scales the units of block `b` start.
    #[inline]
    pub(crate) const fn units_at(self, b: usize) -> usize {
        b / UNIT * (self.unit_bytes() + UNIT * self.scale_bytes())
    }

    /// Where in a tile's plane of scales those of block `b` start.
    #[inline]
    pub(crate) const fn scales_at(self, b: usize) -> usize {
        if self.factors {
            self.units_at(b) + self.unit_bytes() + b % UNIT * self.scale_bytes()
        } else {
            b * self.scale_bytes()
        }
    }

    /// Bytes of a tile's plane of scales.
    pub(crate) const fn plane_bytes(self, blocks: usize) -> usize {
        self.scales_at(if self.factors { blocks.next_multiple_of(UNIT) } else { blocks })
            - if self.factors { self.unit_bytes() } else { 0 }
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
            BlockType::Q2K => Spec { halves: true, affine: true, factors: true, ..narrow },
            BlockType::Q3K => Spec { halves: true, factors: true, centre: 4, ..narrow },
            BlockType::Q4K => Spec { affine: true, factors: true, ..narrow },
            BlockType::Q5K => Spec { nibbles: false, affine: true, factors: true, peak: 31, ..narrow },
            BlockType::Q6K => {
                Spec { nibbles: false, halves: true, factors: true, centre: 32, peak: 63, ..narrow }
            }
        }
    }
}

impl BlockMatrix {
    /// A matrix of zeros; `k` is a multiple of 32.
    pub(super) fn zeros(kind: BlockType, n: usize, k: usize) -> Result<BlockMatrix, BlockError> {
        let (spec, blocks) = (kind.spec(), k / BLOCK);
        // A row's bytes fit in memory; all of them together may not.
        let bytes = |tile: Option<usize>| {
            tile.and_then(|tile| n.div_ceil(TILE).checked_mul(tile)).filter(|b| *b <= isize::MAX as usize)
        };
        let quants = bytes(blocks.checked_mul(spec.quant_bytes()));
        let scales = bytes((k < isize::MAX as usize / TILE).then(|| spec.plane_bytes(blocks)));
        let (Some(quants), Some(scales)) = (quants, scales) else {
            return Err(BlockError::TooLarge { kind, n, k });
        };
        Ok(BlockMatrix { kind, n, k, quants: Aligned::zeros(quants), scales: Aligned::zeros(scales) })
    }

    /// Cuts the matrix into its tiles, to be filled with [`put`]: the integers and the scales of each.
    pub(super) fn tiles_mut(&mut self) -> impl Iterator<Item = (&mut [u8], &mut [u8])> {
        let (spec, blocks) = (self.kind.spec(), self.blocks());
        let quants = self.quants.chunks_exact_mut(blocks * spec.quant_bytes());
        quants.zip(self.scales.chunks_exact_mut(spec.plane_bytes(blocks)))
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
        for (b, (out, quants)) in out.chunks_exact_mut(BLOCK).zip(quants).enumerate() {
            let scale = |vector: usize| scale(spec, b, vector, lane, scales);
            for (i, out) in out.iter_mut().enumerate() {
                let s = if spec.halves { i / 16 } else { 0 };
                let value = scale(s) * (quant(spec, lane, i, quants) - spec.centre) as f32;
                *out = if spec.affine { value + scale(spec.scales() + s) } else { value };
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
    let quants = quants.chunks_exact_mut(spec.quant_bytes());
    for (b, (block, quants)) in decoded.iter().zip(quants).enumerate() {
        if !block.units.iter().all(|v| v.is_finite()) {
            return Err(BlockError::NotFinite { kind, row, column: b * BLOCK });
        }
        put_quants(spec, lane, &block.quants, quants);
        for (u, unit) in block.units.iter().enumerate().take(1 + spec.affine as usize) {
            if !spec.factors {
                put_f16(&mut scales[spec.scales_at(b) + u * spec.vector_bytes()..], lane, *unit);
                continue;
            }
            put_f16(&mut scales[spec.units_at(b) + u * 2 * TILE..], lane, *unit);
            for (s, factor) in block.factors[u].iter().enumerate().take(spec.scales()) {
                let vector = u * spec.scales() + s;
                scales[spec.scales_at(b) + vector * TILE + lane] = factor.cast_unsigned();
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

fn put_f16(plane: &mut [u8], lane: usize, value: f32) {
    plane[2 * lane..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn f16_at(plane: &[u8], lane: usize) -> f32 {
    f16::from_le_bytes([plane[2 * lane], plane[2 * lane + 1]]).to_f32()
}

/// Scale or minimum of output `lane` in block `b`: `vector` counts the block's scales, then its minima.
pub(crate) fn scale(spec: Spec, b: usize, vector: usize, lane: usize, plane: &[u8]) -> f32 {
    let at = spec.scales_at(b) + vector * spec.vector_bytes();
    if !spec.factors {
        return f16_at(&plane[at..], lane);
    }
    let unit = f16_at(&plane[spec.units_at(b) + vector / spec.scales() * 2 * TILE..], lane);
    unit * f32::from(plane[at + lane].cast_signed())
}
