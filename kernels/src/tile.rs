//! The heart of all products: `R` rows times `T` tiles of 16 outputs in registers, summed over `k` in order.
//!
//! An output's sum goes through its `k` products one after the other, whatever `R` and `T` are, and may be put down in memory and
//! taken up again without a change: so a row has the same bits in any company.
#![allow(unsafe_code, reason = "raw pointers of the kernels")]

use half::{bf16, f16};

use crate::vector::F32x16;

/// How weights lie in memory.
pub(crate) trait Format {
    type Number: Copy + Send + Sync + 'static;

    /// Inputs of an output that lie side by side: 1, or 2.
    const TOGETHER: usize = 1;

    /// The weights of 16 outputs for `TOGETHER` inputs; the second is unused where that is 1.
    ///
    /// # Safety
    /// `16 * TOGETHER` numbers can be read, and `V`'s instruction set is there.
    unsafe fn load<V: F32x16>(from: *const Self::Number) -> (V, V);
}

/// `[k][16]` in single precision.
pub(crate) struct F32;
/// `[k][16]` in half precision.
pub(crate) struct F16;
/// `[k][16]` in bf16.
pub(crate) struct Bf16;
/// `[k / 2][16][2]` in bf16.
pub(crate) struct Bf16Pairs;

impl Format for F32 {
    type Number = f32;
    #[inline(always)]
    unsafe fn load<V: F32x16>(from: *const f32) -> (V, V) {
        // SAFETY: the caller's promise.
        let weights = unsafe { V::load(from) };
        (weights, weights)
    }
}

impl Format for F16 {
    type Number = f16;
    #[inline(always)]
    unsafe fn load<V: F32x16>(from: *const f16) -> (V, V) {
        // SAFETY: the caller's promise.
        let weights = unsafe { V::load_f16(from) };
        (weights, weights)
    }
}

impl Format for Bf16 {
    type Number = bf16;
    #[inline(always)]
    unsafe fn load<V: F32x16>(from: *const bf16) -> (V, V) {
        // SAFETY: the caller's promise.
        let weights = unsafe { V::load_bf16(from) };
        (weights, weights)
    }
}

impl Format for Bf16Pairs {
    type Number = bf16;
    const TOGETHER: usize = 2;
    #[inline(always)]
    unsafe fn load<V: F32x16>(from: *const bf16) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16_pairs(from) }
    }
}

/// Where the operands of a product start.
pub(crate) struct Operands<F: Format> {
    /// Row 0's input 0.
    pub(crate) x: *const f32,
    /// Numbers from a row to the next.
    pub(crate) x_stride: usize,
    /// Inputs.
    pub(crate) k: usize,
    /// Tile 0's weights of input 0.
    pub(crate) w: *const F::Number,
    /// Numbers from a tile to the next.
    pub(crate) tile_stride: usize,
    /// Numbers from the weights of an input (or of two that lie together) to the next.
    pub(crate) k_stride: usize,
}

/// `sums[r][t] += Σⱼ x[r][j] * w[t][j]`, over `j` in order.
///
/// # Safety
/// `x` is valid for `R` rows of `k`, `w` for `T` tiles of `k`, and `V`'s instruction set is there.
#[inline(always)]
pub(crate) unsafe fn multiply<V: F32x16, F: Format, const R: usize, const T: usize>(
    sums: &mut [[V; T]; R],
    from: &Operands<F>,
) {
    let mut w = from.w;
    let mut x = from.x;
    // SAFETY: the places are within what the caller promises.
    unsafe {
        for _ in 0..from.k / F::TOGETHER {
            for t in 0..T {
                let (first, second) = F::load::<V>(w.add(t * from.tile_stride));
                for (r, sums) in sums.iter_mut().enumerate() {
                    sums[t] = first.fma(V::splat(*x.add(r * from.x_stride)), sums[t]);
                }
                if F::TOGETHER == 2 {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        sums[t] = second.fma(V::splat(*x.add(r * from.x_stride + 1)), sums[t]);
                    }
                }
            }
            w = w.add(from.k_stride);
            x = x.add(F::TOGETHER);
        }
        if F::TOGETHER == 2 && !from.k.is_multiple_of(2) {
            for t in 0..T {
                let (first, _) = F::load::<V>(w.add(t * from.tile_stride));
                for (r, sums) in sums.iter_mut().enumerate() {
                    sums[t] = first.fma(V::splat(*x.add(r * from.x_stride)), sums[t]);
                }
            }
        }
    }
}

/// Calls `$body::<…, ROWS, $tiles>` with the number of rows as a constant.
macro_rules! with_rows {
    ($rows:expr, $macro:ident) => {
        match $rows {
            1 => $macro!(1),
            2 => $macro!(2),
            3 => $macro!(3),
            4 => $macro!(4),
            5 => $macro!(5),
            6 => $macro!(6),
            7 => $macro!(7),
            8 => $macro!(8),
            9 => $macro!(9),
            10 => $macro!(10),
            11 => $macro!(11),
            _ => $macro!(12),
        }
    };
}
pub(crate) use with_rows;

/// Cuts `rows` into the fewest blocks of at most `most` rows, as even as can be: `(first, count)` of block `i` of `blocks`.
#[inline(always)]
pub(crate) fn even_block(rows: usize, blocks: usize, i: usize) -> (usize, usize) {
    let (size, longer) = (rows / blocks, rows % blocks);
    (i * size + i.min(longer), size + usize::from(i < longer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_rows_are_even_and_cover_all() {
        for rows in 1..60_usize {
            let blocks = rows.div_ceil(6);
            let mut next = 0;
            for i in 0..blocks {
                let (first, count) = even_block(rows, blocks, i);
                assert!(first == next && (rows / blocks..=rows.div_ceil(blocks)).contains(&count));
                next = first + count;
            }
            assert_eq!(next, rows);
        }
    }
}
