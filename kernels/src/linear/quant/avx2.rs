//! The packed product with AVX2: eight outputs per register, `maddubs` of unsigned weights with signed inputs.
//!
//! Inputs are at most 127, so `peak` bounds how many 16-bit pair sums fit before they are widened: 8 of four bits
//! (8 * 2 * 15 * 127 = 30480), 4 of five (31496), 2 of six (32004). Eight bits don't fit at all: `|w|` takes the place of
//! the unsigned factor and the input takes the sign of `w` (128 * 127 * 2 = 32512).
//!
//! No closures here: functions of the standard library that call them are compiled without these instructions.
#![allow(unsafe_code, reason = "vector instructions on raw rows")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::activations::{BlockScale, Quants, block_scale, scale_of};
use super::{Form, Job, Scales, ahead};
use crate::matrix::blocks::{BLOCK, Spec, TILE};

/// Most rows at a time: as many as have their sums in registers, by trial.
pub(super) const fn rows(spec: Spec) -> usize {
    if spec.nibbles { 5 } else { 4 }
}

/// Sums of one tile for some rows.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `job` and `sums` belong together.
pub(super) unsafe fn tile<F: Form>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
    // SAFETY: as promised to this function.
    unsafe {
        match sums.len() {
            1 => rows_1::<F>(job, sums),
            2 => rows_2::<F>(job, sums),
            3 => rows_3::<F>(job, sums),
            4 => rows_4::<F>(job, sums),
            _ => rows_5::<F>(job, sums),
        }
    }
}

/// Has the compiler finish these sums first, in registers. It would rather compute the products of all groups and add them up
/// from the stack, which costs a third of the speed. There is no instruction in it.
macro_rules! stay {
    ($($sum:ident),*) => { asm!(stay!(@ $($sum)*), $(inout(ymm_reg) $sum),*, options(nomem, nostack, preserves_flags)) };
    (@ $a:ident $b:ident) => { "/* {} {} */" };
    (@ $a:ident $b:ident $($rest:ident)+) => { concat!("/* {} {} */", stay!(@ $($rest)+)) };
}

/// Adds the products of one group's weights with four inputs of every row.
macro_rules! add {
    ($weights:expr, $x:expr, $stride:expr; $($r:literal $dot0:ident $dot1:ident),*) => {
        let weights: [__m256i; 2] = $weights;
        $(
            let input = spread($x.add($r * $stride));
            $dot0 = _mm256_add_epi16($dot0, _mm256_maddubs_epi16(weights[0], input));
            $dot1 = _mm256_add_epi16($dot1, _mm256_maddubs_epi16(weights[1], input));
        )*
        stay!($($dot0, $dot1),*);
    };
}

/// Sums of products with nibbles, over the block or its half `s`.
macro_rules! nibble_dots {
    ($form:ident, $quants:expr, $x:expr, $stride:expr, $s:expr; $($r:literal $dot0:ident $dot1:ident),*) => {
        for j in 0..4 {
            let both = bytes($quants, j);
            if !$form::SPEC.halves || $s == 0 {
                add!(low(both), $x.add(4 * j), $stride; $($r $dot0 $dot1),*);
            }
            if !$form::SPEC.halves || $s == 1 {
                add!(high(both), $x.add(16 + 4 * j), $stride; $($r $dot0 $dot1),*);
            }
        }
        $(($dot0, $dot1) = (widen($dot0), widen($dot1));)*
    };
}

/// Sums of products with bytes of at most six bits, over the block or its half `s`.
macro_rules! byte_dots {
    (
        $form:ident, $quants:expr, $x:expr, $stride:expr, $s:expr;
        $($r:literal $dot0:ident $dot1:ident $sum0:ident $sum1:ident),*
    ) => {
        let (groups, run) = (8 / $form::SPEC.scales(), if $form::SPEC.peak <= 31 { 4 } else { 2 });
        for start in 0..groups / run {
            $(let (mut $sum0, mut $sum1) = (_mm256_setzero_si256(), _mm256_setzero_si256());)*
            for step in 0..run {
                let j = $s * groups + start * run + step;
                add!(bytes($quants, j), $x.add(4 * j), $stride; $($r $sum0 $sum1),*);
            }
            $(
                $dot0 = _mm256_add_epi32($dot0, widen($sum0));
                $dot1 = _mm256_add_epi32($dot1, widen($sum1));
            )*
        }
    };
}

/// Sums of products with bytes that are stored with 128 added, over the block.
macro_rules! signed_dots {
    ($quants:expr, $x:expr, $stride:expr; $($r:literal $dot0:ident $dot1:ident),*) => {
        for j in 0..8 {
            let weights = bytes($quants, j);
            $(
                let input = spread($x.add($r * $stride + 4 * j));
                $dot0 = _mm256_add_epi32($dot0, widen(signed(weights[0], input)));
                $dot1 = _mm256_add_epi32($dot1, widen(signed(weights[1], input)));
            )*
            stay!($($dot0, $dot1),*);
        }
    };
}

/// Makes a kernel for so many rows: each row's two registers of eight outputs are variables of their own, because arrays of
/// vectors end up on the stack.
macro_rules! rows_of {
    ($name:ident, $rows:literal: $($r:literal $acc0:ident $acc1:ident $dot0:ident $dot1:ident $sum0:ident $sum1:ident),*) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name<F: Form>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
            let spec = F::SPEC;
            let blocks = job.quants.len() / spec.quant_bytes();
            let (x, x_scales) = job.x.at_row(job.row);
            assert_eq!((sums.len(), blocks * BLOCK), ($rows, job.x.k()));
            assert!(job.x.rows() - job.row >= $rows);
            let (zero, stride) = (_mm256_setzero_si256(), blocks * BLOCK);
            $(let (mut $acc0, mut $acc1) = (_mm256_setzero_ps(), _mm256_setzero_ps());)*
            for b in 0..blocks {
                // SAFETY: block `b` lies inside the tile; rows and blocks inside the inputs, as asserted.
                unsafe {
                    let quants = job.quants.as_ptr().add(b * spec.quant_bytes());
                    let scales = Scales::<F>::at(job.scales, b);
                    let (x, x_scales) = (x.add(b * BLOCK), x_scales.add(b));
                    if job.first {
                        ahead(quants, spec.quant_bytes());
                        ahead(scales.vectors, spec.scale_bytes());
                    }
                    for s in 0..spec.scales() {
                        $(let (mut $dot0, mut $dot1) = (zero, zero);)*
                        if spec.nibbles {
                            nibble_dots!(F, quants, x, stride, s; $($r $dot0 $dot1),*);
                        } else if spec.peak <= 63 {
                            byte_dots!(F, quants, x, stride, s; $($r $dot0 $dot1 $sum0 $sum1),*);
                        } else {
                            signed_dots!(quants, x, stride; $($r $dot0 $dot1),*);
                        }
                        let scale = [scale(scales, s, 0), scale(scales, s, 1)];
                        $(
                            let x_scale = &*x_scales.add($r * blocks);
                            let by = _mm256_set1_ps(x_scale.scale);
                            let dot = centred::<F>($dot0, $dot1, x_scale, s);
                            $acc0 = _mm256_fmadd_ps(dot[0], _mm256_mul_ps(scale[0], by), $acc0);
                            $acc1 = _mm256_fmadd_ps(dot[1], _mm256_mul_ps(scale[1], by), $acc1);
                        )*
                    }
                    for s in 0..if spec.affine { spec.scales() } else { 0 } {
                        let vector = spec.scales() + s;
                        let minimum = [scale(scales, vector, 0), scale(scales, vector, 1)];
                        $(
                            let x_sum = _mm256_set1_ps((*x_scales.add($r * blocks)).sum_of::<F>(s));
                            $acc0 = _mm256_fmadd_ps(minimum[0], x_sum, $acc0);
                            $acc1 = _mm256_fmadd_ps(minimum[1], x_sum, $acc1);
                        )*
                    }
                }
            }
            // SAFETY: a row of sums is sixteen values.
            $(unsafe {
                _mm256_storeu_ps(sums[$r].as_mut_ptr(), $acc0);
                _mm256_storeu_ps(sums[$r].as_mut_ptr().add(8), $acc1);
            })*
        }
    };
}

rows_of!(rows_1, 1: 0 a0 a1 d0 d1 s0 s1);
rows_of!(rows_2, 2: 0 a0 a1 d0 d1 s0 s1, 1 b0 b1 e0 e1 t0 t1);
rows_of!(rows_3, 3: 0 a0 a1 d0 d1 s0 s1, 1 b0 b1 e0 e1 t0 t1, 2 g0 g1 h0 h1 u0 u1);
rows_of!(rows_4, 4: 0 a0 a1 d0 d1 s0 s1, 1 b0 b1 e0 e1 t0 t1, 2 g0 g1 h0 h1 u0 u1, 3 k0 k1 l0 l1 v0 v1);
rows_of!(rows_5, 5: 0 a0 a1 d0 d1 s0 s1, 1 b0 b1 e0 e1 t0 t1, 2 g0 g1 h0 h1 u0 u1, 3 k0 k1 l0 l1 v0 v1, 4 m0 m1 n0 n1 w0 w1);
/// Sums of neighbouring 16-bit sums.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Four inputs for every output.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn spread(x: *const i8) -> __m256i {
    // SAFETY: the caller's inputs come in fours.
    _mm256_set1_epi32(unsafe { x.cast::<i32>().read() })
}

/// The bytes of group `j`: of the first eight outputs, and of the last.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bytes(quants: *const u8, j: usize) -> [__m256i; 2] {
    // SAFETY: the caller's block has 64 bytes per group.
    unsafe {
        [_mm256_load_si256(quants.add(64 * j).cast()), _mm256_load_si256(quants.add(64 * j + 32).cast())]
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn low(both: [__m256i; 2]) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(both[0], mask), _mm256_and_si256(both[1], mask)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn high(both: [__m256i; 2]) -> [__m256i; 2] {
    low([_mm256_srli_epi16(both[0], 4), _mm256_srli_epi16(both[1], 4)])
}

/// Sums of pairs of products with weights that are stored with 128 added.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(weights: __m256i, x: __m256i) -> __m256i {
    let w = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
}

/// The sums less the centre: `centre` times the sum of the inputs, over the block or its half `s`.
#[inline]
#[target_feature(enable = "avx2")]
fn centred<F: Form>(dot0: __m256i, dot1: __m256i, x_scale: &BlockScale, s: usize) -> [__m256; 2] {
    let spec = F::SPEC;
    if spec.centre == 0 || spec.peak > 63 {
        return [_mm256_cvtepi32_ps(dot0), _mm256_cvtepi32_ps(dot1)];
    }
    let sum8 = match (spec.halves, s) {
        (false, _) => x_scale.total8,
        (true, 0) => x_scale.total8 - x_scale.high8,
        (true, _) => x_scale.high8,
    };
    let centre = _mm256_set1_epi32(if spec.centre == 4 { sum8 / 2 } else { sum8 * (spec.centre / 8) });
    [_mm256_cvtepi32_ps(_mm256_add_epi32(dot0, centre)), _mm256_cvtepi32_ps(_mm256_add_epi32(dot1, centre))]
}

/// Scale or minimum `vector` of the first or last eight outputs.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scale<F: Form>(scales: Scales<F>, vector: usize, half: usize) -> __m256 {
    // SAFETY: the caller's block has this vector.
    unsafe {
        let at = scales.vectors.add(vector * F::SPEC.vector_bytes() + half * F::SPEC.vector_bytes() / 2);
        if !F::SPEC.factors {
            return _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
        }
        let unit = scales.units.add(vector / F::SPEC.scales() * 2 * TILE + half * TILE);
        let factor = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())));
        _mm256_mul_ps(factor, _mm256_cvtph_ps(_mm_loadu_si128(unit.cast())))
    }
}

/// Quantizes the blocks of a row, bit for bit as the portable version does.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize(x: &[f32], quants: &mut [Quants], scales: &mut [BlockScale]) {
    for ((x, quants), scale) in x.as_chunks::<BLOCK>().0.iter().zip(quants).zip(scales) {
        // SAFETY: 32 values are four vectors.
        let x = unsafe {
            let at = x.as_ptr();
            [
                _mm256_loadu_ps(at),
                _mm256_loadu_ps(at.add(8)),
                _mm256_loadu_ps(at.add(16)),
                _mm256_loadu_ps(at.add(24)),
            ]
        };
        let (packed, block) = quantize_block(x);
        *scale = block;
        // SAFETY: 32 bytes, aligned as a vector is.
        unsafe { _mm256_store_si256(quants.0.as_mut_ptr().cast(), packed) };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn quantize_block(x: [__m256; 4]) -> (__m256i, BlockScale) {
    let bits = _mm256_set1_epi32(0x7fff_ffff);
    let mut largest = _mm256_setzero_si256();
    for v in x {
        largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v), bits));
    }
    let largest = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0b01_00_11_10));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0b10_11_00_01));
    let Some((scale, inverse)) = scale_of(f32::from_bits(_mm_cvtsi128_si32(largest) as u32)) else {
        return (_mm256_setzero_si256(), BlockScale::default());
    };
    if scale.is_nan() {
        return (_mm256_setzero_si256(), block_scale(scale, 0, 0));
    }
    let mut q = [_mm256_setzero_si256(); 4];
    for (q, v) in q.iter_mut().zip(x) {
        *q = _mm256_cvtps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(inverse)));
    }
    let (low, high) = (_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    // Packing works within 128-bit lanes: the dwords come out as 0 4 | 1 5 of each pair.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    (packed, block_scale(scale, total(low), total(high)))
}

/// Sum of sixteen 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
fn total(v: __m256i) -> i32 {
    let v = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0b01_00_11_10));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0b10_11_00_01)))
}
