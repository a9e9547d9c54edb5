//! Sixteen f32 in two AVX2 registers, with FMA and F16C.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one for all: the trait's callers promise AVX2 and valid pointers"
)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::vector::F32x16;

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// `-1` in the first `count` of 8 lanes, read at `8 - count`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn masks(count: usize) -> (__m256i, __m256i) {
    let (low, high) = (count.min(8), count.saturating_sub(8).min(8));
    unsafe {
        let masks = MASKS.as_ptr();
        (_mm256_loadu_si256(masks.add(8 - low).cast()), _mm256_loadu_si256(masks.add(8 - high).cast()))
    }
}

/// 8 bf16 as f32.
#[inline(always)]
unsafe fn widen(x: __m128i) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))) }
}

/// `2^x` for whole `x`.
#[inline(always)]
unsafe fn power(x: __m256) -> __m256 {
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// Applies `f` to both halves.
macro_rules! halves {
    ($f:ident, $x:expr) => {
        unsafe { Avx2($f($x.0), $f($x.1)) }
    };
    ($f:ident, $x:expr, $y:expr) => {
        unsafe { Avx2($f($x.0, $y.0), $f($x.1, $y.1)) }
    };
    ($f:ident, $x:expr, $y:expr, $z:expr) => {
        unsafe { Avx2($f($x.0, $y.0, $z.0), $f($x.1, $y.1, $z.1)) }
    };
}

impl F32x16 for Avx2 {
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        let x = unsafe { _mm256_set1_ps(x) };
        Avx2(x, x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe {
            let (low, high) = masks(count);
            Avx2(_mm256_maskload_ps(from, low), _mm256_maskload_ps(from.wrapping_add(8), high))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        unsafe {
            Avx2(
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe { Avx2(widen(_mm_loadu_si128(from.cast())), widen(_mm_loadu_si128(from.add(8).cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self) {
        unsafe {
            let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(16).cast()));
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let even = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            let odd = (_mm256_and_si256(low, upper), _mm256_and_si256(high, upper));
            (
                Avx2(_mm256_castsi256_ps(even.0), _mm256_castsi256_ps(even.1)),
                Avx2(_mm256_castsi256_ps(odd.0), _mm256_castsi256_ps(odd.1)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe {
            let (low, high) = masks(count);
            _mm256_maskstore_ps(to, low, self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        halves!(_mm256_add_ps, self, other)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        halves!(_mm256_sub_ps, self, other)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        halves!(_mm256_mul_ps, self, other)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        halves!(_mm256_div_ps, self, other)
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        halves!(_mm256_fmadd_ps, self, factor, sum)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        halves!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        halves!(_mm256_min_ps, self, other)
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        let sign = unsafe { Avx2::splat(-0.0) };
        halves!(_mm256_andnot_ps, sign, self)
    }

    #[inline(always)]
    unsafe fn with_sign(self, other: Self) -> Self {
        let sign = unsafe { Avx2::splat(-0.0) };
        let (magnitude, sign) = (halves!(_mm256_andnot_ps, sign, self), halves!(_mm256_and_ps, sign, other));
        halves!(_mm256_or_ps, magnitude, sign)
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { Avx2(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }

    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe { Avx2(power(self.0), power(self.1)) }
    }

    #[inline(always)]
    unsafe fn where_less(self, a: Self, b: Self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_blendv_ps(other.0, self.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(other.1, self.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
