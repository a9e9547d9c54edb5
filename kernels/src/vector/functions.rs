//! The exponential and what is made of it, over vectors. Polynomials good to about 1e-7 of the value; the same steps everywhere.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one for all: as `Kernel::run`, the instruction set is there"
)]

use crate::vector::F32x16;

/// `e^x`, 0 below -87.3, the greatest powers cut at `e^88`.
///
/// # Safety
/// As [`crate::vector::Kernel::run`].
#[inline(always)]
pub(crate) unsafe fn exp<V: F32x16>(x: V) -> V {
    // e^x = 2^n e^r with n whole and |r| <= ln 2 / 2; ln 2 in two parts, so that n ln 2 is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    unsafe {
        let bounded = V::splat(-87.3).max(V::splat(88.0).min(x));
        let n = bounded.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(V::splat(-LN2_HIGH), bounded);
        let r = n.fma(V::splat(-LN2_LOW), r);
        let mut p = V::splat(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            p = p.fma(r, V::splat(*c));
        }
        let result = p.fma(r.mul(r), r).add(V::splat(1.0)).mul(n.exp2_whole());
        // A NaN passes the bounds and the comparison: it comes out as it went in.
        V::splat(0.0).where_less(x, V::splat(-87.3), result)
    }
}

/// `x / (1 + e^-z)`.
///
/// # Safety
/// As [`crate::vector::Kernel::run`].
#[inline(always)]
pub(crate) unsafe fn times_sigmoid<V: F32x16>(x: V, z: V) -> V {
    unsafe { x.div(V::splat(1.0).add(exp(V::splat(0.0).sub(z)))) }
}

/// `tanh x`.
///
/// # Safety
/// As [`crate::vector::Kernel::run`].
#[inline(always)]
pub(crate) unsafe fn tanh<V: F32x16>(x: V) -> V {
    const POLYNOMIAL: [f32; 5] = [-5.704_989e-3, 2.063_909e-2, -5.373_972e-2, 0.133_314_42, -0.333_332_84];
    unsafe {
        let magnitude = x.abs();
        let square = x.mul(x);
        let mut p = V::splat(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            p = p.fma(square, V::splat(*c));
        }
        let near = p.mul(square).fma(x, x);
        let far = V::splat(2.0).div(exp(magnitude.add(magnitude)).add(V::splat(1.0)));
        let far = V::splat(1.0).sub(far).with_sign(x);
        near.where_less(magnitude, V::splat(0.625), far)
    }
}
