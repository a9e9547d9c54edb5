//! Sixteen f32 at once, in the registers of whichever instruction set the device has: kernels are written once over [`F32x16`]
//! and compiled for each by [`Isa::run`]. Must not know any operation.
//!
//! Every implementation does the same steps in the same order; only the portable one rounds between multiplying and adding.
#![allow(unsafe_code, reason = "intrinsics and raw pointers of the kernels")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod functions;
mod portable;

use half::{bf16, f16};

use crate::device::Isa;

/// Numbers of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen f32.
///
/// # Safety of its functions
/// The instruction set of the implementation must be there (what [`Isa::run`] sees to), and pointers must be valid for the
/// numbers that are read or written; they need not be aligned.
pub(crate) trait F32x16: Copy {
    /// Rows of the widest [`crate::tile`] that fits the registers.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self;
    /// 16 numbers.
    unsafe fn load(from: *const f32) -> Self;
    /// `count <= 16` numbers, then zeros; reads no further.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// 16 numbers.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// 16 numbers.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// 32 numbers: those at even places and those at odd ones.
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self);
    unsafe fn store(self, to: *mut f32);
    /// The first `count <= 16` lanes; writes no further.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// 16 numbers, rounded to nearest even.
    unsafe fn store_f16(self, to: *mut f16);

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn fma(self, factor: Self, sum: Self) -> Self;
    /// The greater; `other` where one is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// The lesser; `other` where one is not a number.
    unsafe fn min(self, other: Self) -> Self;
    /// Without the sign.
    unsafe fn abs(self) -> Self;
    /// `self`'s magnitude with `other`'s sign.
    unsafe fn with_sign(self, other: Self) -> Self;
    /// The nearest whole number, halves to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for whole numbers in -127..=127 (-127 gives 0).
    unsafe fn exp2_whole(self) -> Self;
    /// Lane by lane `a < b ? self : other`.
    unsafe fn where_less(self, a: Self, b: Self, other: Self) -> Self;

    /// The sum of the lanes: lane `i` with `i + 8`, then with `i + 4`, `i + 2`, `i + 1`.
    unsafe fn sum(self) -> f32;
    /// The greatest lane.
    unsafe fn greatest(self) -> f32;
}

/// 0, 1, …, 15.
pub(crate) const COUNTING: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// A piece of work over vectors, compiled for every instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, as is all generic code that they call.
    ///
    /// # Safety
    /// `V`'s instruction set must be there.
    unsafe fn run<V: F32x16>(self) -> Self::Output;
}

impl Isa {
    /// Runs `kernel` with this instruction set, which is there: a device is not made with another.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: the portable form needs nothing.
            Isa::Portable => unsafe { kernel.run::<portable::Portable>() },
            // SAFETY: `Isa::available` was asked when the device was made.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => unsafe { run_avx512(kernel) },
            // SAFETY: as for the portable form.
            #[cfg(not(target_arch = "x86_64"))]
            _ => unsafe { kernel.run::<portable::Portable>() },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is called where AVX2, FMA and F16C are there.
    unsafe { kernel.run::<avx2::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is called where AVX-512 F, BW, DQ and VL are there.
    unsafe { kernel.run::<avx512::Avx512>() }
}

/// `x = f(x)` for every number of a slice: `map!(V, x, |x| f(x))`. A macro, as a closure would be compiled without the vectors'
/// instruction set where it is not inlined. Within an unsafe block, as all of `V`.
macro_rules! map {
    ($vector:ty, $slice:expr, |$x:ident| $f:expr) => {{
        let slice: &mut [f32] = $slice;
        let (start, len) = (slice.as_mut_ptr(), slice.len());
        let whole = len - len % crate::vector::LANES;
        for i in (0..whole).step_by(crate::vector::LANES) {
            let $x = <$vector>::load(start.add(i));
            ($f).store(start.add(i));
        }
        if whole < len {
            let $x = <$vector>::load_first(start.add(whole), len - whole);
            ($f).store_first(start.add(whole), len - whole);
        }
    }};
}

/// `x = f(x, y)` for every pair of numbers of two slices of one length: `map_with!(V, x, y, |x, y| f(x, y))`; as [`map`].
macro_rules! map_with {
    ($vector:ty, $to:expr, $from:expr, |$x:pat_param, $y:ident| $f:expr) => {{
        let (to, from): (&mut [f32], &[f32]) = ($to, $from);
        assert_eq!(to.len(), from.len());
        let (to, from, len) = (to.as_mut_ptr(), from.as_ptr(), to.len());
        let whole = len - len % crate::vector::LANES;
        for i in (0..whole).step_by(crate::vector::LANES) {
            let ($x, $y) = (<$vector>::load(to.add(i)), <$vector>::load(from.add(i)));
            ($f).store(to.add(i));
        }
        if whole < len {
            let (to, from, count) = (to.add(whole), from.add(whole), len - whole);
            let ($x, $y) = (<$vector>::load_first(to, count), <$vector>::load_first(from, count));
            ($f).store_first(to, count);
        }
    }};
}

/// `sum = f(x, sum)` lane by lane, in order, from 0, then [`F32x16::sum`]: `fold!(V, x, |x, sum| f(x, sum))`; as [`map`]. A zero must add
/// nothing: the last vector is filled up with zeros.
macro_rules! fold {
    ($vector:ty, $slice:expr, |$x:ident, $sum:ident| $f:expr) => {{
        let slice: &[f32] = $slice;
        let (start, len) = (slice.as_ptr(), slice.len());
        let whole = len - len % crate::vector::LANES;
        let mut $sum = <$vector>::splat(0.0);
        for i in (0..whole).step_by(crate::vector::LANES) {
            let $x = <$vector>::load(start.add(i));
            $sum = $f;
        }
        if whole < len {
            let $x = <$vector>::load_first(start.add(whole), len - whole);
            $sum = $f;
        }
        $sum.sum()
    }};
}
pub(crate) use {fold, map, map_with};

#[cfg(test)]
mod tests;
