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

/// `x = f(x)` for every number.
///
/// # Safety
/// As [`Kernel::run`].
#[inline(always)]
pub(crate) unsafe fn map<V: F32x16>(x: &mut [f32], f: impl Fn(V) -> V) {
    let (start, len) = (x.as_mut_ptr(), x.len());
    let whole = len - len % LANES;
    // SAFETY: all places are within `x`; the instruction set is the caller's promise.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            f(V::load(start.add(i))).store(start.add(i));
        }
        if whole < len {
            f(V::load_first(start.add(whole), len - whole)).store_first(start.add(whole), len - whole);
        }
    }
}

/// `x = f(x, y)` for every pair of numbers.
///
/// # Safety
/// As [`Kernel::run`].
#[inline(always)]
pub(crate) unsafe fn map_with<V: F32x16>(x: &mut [f32], y: &[f32], f: impl Fn(V, V) -> V) {
    assert_eq!(x.len(), y.len());
    let (to, from, len) = (x.as_mut_ptr(), y.as_ptr(), x.len());
    let whole = len - len % LANES;
    // SAFETY: all places are within `x` and `y`, which are of one length; the instruction set is the caller's promise.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            f(V::load(to.add(i)), V::load(from.add(i))).store(to.add(i));
        }
        if whole < len {
            let (rest, count) = (to.add(whole), len - whole);
            f(V::load_first(rest, count), V::load_first(from.add(whole), count)).store_first(rest, count);
        }
    }
}

/// The sum of `sum = f(x, sum)` lane by lane, in order, then [`F32x16::sum`]. A zero must add nothing: the last vector is filled
/// up with zeros.
///
/// # Safety
/// As [`Kernel::run`].
#[inline(always)]
pub(crate) unsafe fn fold<V: F32x16>(x: &[f32], f: impl Fn(V, V) -> V) -> f32 {
    let (start, len) = (x.as_ptr(), x.len());
    let whole = len - len % LANES;
    // SAFETY: all places are within `x`; the instruction set is the caller's promise.
    unsafe {
        let mut sum = V::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            sum = f(V::load(start.add(i)), sum);
        }
        if whole < len {
            sum = f(V::load_first(start.add(whole), len - whole), sum);
        }
        sum.sum()
    }
}

#[cfg(test)]
mod tests;
