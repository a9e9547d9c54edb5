//! Plain weights in tiles of 16 outputs, k-major, in their own width.
//!
//! f32 and f16: `[tile][k][16]`. bf16: `[tile][k / 2][16][2]`, two inputs of an output side by side, so that one 32-bit lane
//! holds both and widening is a shift or a mask. What is beyond `n` and `k` is zero.

use half::{bf16, f16};

use crate::aligned::{Aligned, Number};
use crate::matrix::Dtype;

/// Outputs of a tile.
pub(crate) const TILE: usize = 16;

/// Packed plain weights.
pub(crate) struct Plain {
    pub(crate) n: usize,
    k: usize,
    pub(crate) tiles: Tiles,
}

/// The numbers of [`Plain`].
pub(crate) enum Tiles {
    /// `[tile][k][16]`.
    F32(Aligned<f32>),
    /// `[tile][k][16]`.
    F16(Aligned<f16>),
    /// `[tile][k / 2, rounded up][16][2]`.
    Bf16(Aligned<bf16>),
}

impl Plain {
    /// Packs row-major little-endian `bytes`; their length was checked.
    pub(crate) fn pack(dtype: Dtype, n: usize, k: usize, bytes: &[u8]) -> Plain {
        let outputs = n.next_multiple_of(TILE);
        let tiles = match dtype {
            Dtype::F32 => {
                let numbers = bytes.as_chunks().0;
                Tiles::F32(spread(numbers, k, outputs * k, f32::from_le_bytes, place))
            }
            Dtype::F16 => {
                let numbers = bytes.as_chunks().0;
                Tiles::F16(spread(numbers, k, outputs * k, f16::from_le_bytes, place))
            }
            Dtype::Bf16 => {
                let (numbers, len) = (bytes.as_chunks().0, outputs * k.next_multiple_of(2));
                Tiles::Bf16(spread(numbers, k, len, bf16::from_le_bytes, place_paired))
            }
        };
        Plain { n, k, tiles }
    }

    /// Bytes of memory taken.
    pub(crate) fn bytes(&self) -> usize {
        match &self.tiles {
            Tiles::F32(tiles) => tiles.bytes(),
            Tiles::F16(tiles) => tiles.bytes(),
            Tiles::Bf16(tiles) => tiles.bytes(),
        }
    }

    /// The weights of output `i`, `[k]`.
    pub(crate) fn row(&self, i: usize, out: &mut [f32]) {
        let k = self.k;
        match &self.tiles {
            Tiles::F32(tiles) => out.iter_mut().enumerate().for_each(|(j, x)| *x = tiles[place(i, j, k)]),
            Tiles::F16(tiles) => {
                out.iter_mut().enumerate().for_each(|(j, x)| *x = tiles[place(i, j, k)].to_f32())
            }
            Tiles::Bf16(tiles) => {
                out.iter_mut().enumerate().for_each(|(j, x)| *x = tiles[place_paired(i, j, k)].to_f32());
            }
        }
    }
}

/// Puts rows of `k` numbers to their places among `len`, a few inputs of a tile's rows at a time: both sides stay in the first
/// cache.
fn spread<const B: usize, T: Number>(
    numbers: &[[u8; B]],
    k: usize,
    len: usize,
    read: impl Fn([u8; B]) -> T,
    place: impl Fn(usize, usize, usize) -> usize,
) -> Aligned<T> {
    /// Inputs taken at a time; even, so that pairs stay together.
    const STEP: usize = 32;
    let mut out = Aligned::zeros(len);
    let places: &mut [T] = &mut out;
    for (tile, rows) in numbers.chunks(TILE * k).enumerate() {
        for from in (0..k).step_by(STEP) {
            for (lane, row) in rows.chunks_exact(k).enumerate() {
                for (j, number) in row.iter().enumerate().take(from + STEP).skip(from) {
                    places[place(tile * TILE + lane, j, k)] = read(*number);
                }
            }
        }
    }
    out
}

/// Where the weight of output `i` and input `j` lies in `[tile][k][16]`.
#[inline]
fn place(i: usize, j: usize, k: usize) -> usize {
    (i / TILE * k + j) * TILE + i % TILE
}

/// Where the weight of output `i` and input `j` lies in `[tile][k / 2][16][2]`.
#[inline]
fn place_paired(i: usize, j: usize, k: usize) -> usize {
    ((i / TILE * k.div_ceil(2) + j / 2) * TILE + i % TILE) * 2 + j % 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was_packed_whatever_the_shape() {
        for (n, k) in [(1, 1), (16, 2), (17, 3), (40, 7)] {
            let value = |i: usize| (i % 251) as f32 - 100.0;
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let bytes: Vec<u8> =
                    (0..n * k).flat_map(|i| crate::reference::encode(dtype, value(i))).collect();
                let plain = Plain::pack(dtype, n, k, &bytes);
                let mut row = vec![0.0; k];
                for i in 0..n {
                    plain.row(i, &mut row);
                    assert!(
                        row.iter().enumerate().all(|(j, &x)| x == value(i * k + j)),
                        "{dtype:?} {n} {k} {i}"
                    );
                }
            }
        }
    }
}
