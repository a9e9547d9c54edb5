//! The packed product with AVX2: eight outputs per register, `maddubs` of unsigned weights with signed inputs.
//!
//! Inputs are at most 127, so `peak` bounds how many 16-bit pair sums fit before they are widened: 8 of four bits
//! (8 * 2 * 15 * 127 = 30480), 4 of five (31496), 2 of six (32004). Eight bits don't fit at all: `|w|` takes the place of
//! the unsigned factor and the input takes the sign of `w` (128 * 127 * 2 = 32512).
#![allow(unsafe_code, reason = "vector instructions on raw rows")]

use std::arch::x86_64::*;

use super::activations::{BlockScale, block_scale, scale_of};
use super::{Form, Job};
use crate::matrix::blocks::{BLOCK, TILE};

/// Rows at a time.
pub(super) const ROWS: usize = 4;

/// Sums of one tile for some rows.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `job` and `sums` belong together.
pub(super) unsafe fn tile<F: Form>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
    // SAFETY: as promised to this function.
    unsafe {
        match sums.len() {
            1 => rows_of::<F, 1>(job, sums),
            2 => rows_of::<F, 2>(job, sums),
            3 => rows_of::<F, 3>(job, sums),
            _ => rows_of::<F, 4>(job, sums),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_of<F: Form, const R: usize>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
    let spec = F::SPEC;
    let blocks = job.quants.len() / spec.quant_bytes();
    let (x, x_scales) = job.x.at_row(job.row);
    assert!(sums.len() == R && job.row + R <= job.x.rows() && blocks * BLOCK == job.x.k());
    for half in 0..2 {
        let mut acc = [_mm256_setzero_ps(); R];
        for b in 0..blocks {
            // SAFETY: block `b` lies inside the tile; rows and blocks inside the inputs, as asserted.
            unsafe {
                let quants = job.quants.as_ptr().add(b * spec.quant_bytes() + 32 * half);
                let scales = job.scales.as_ptr().add(b * spec.scale_bytes() + half * spec.lane_bytes() / 2);
                let weights = weights::<F>(quants);
                let scale: [__m256; 2] = [scale::<F>(scales, 0), scale::<F>(scales, spec.scales() - 1)];
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = x.add((r * blocks + b) * BLOCK);
                    let x_scale = x_scales.add(r * blocks + b);
                    let dots = dots::<F>(&weights, x, x_scale);
                    let by = _mm256_set1_ps((*x_scale).scale);
                    for s in 0..spec.scales() {
                        *acc =
                            _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[s]), _mm256_mul_ps(scale[s], by), *acc);
                    }
                    if spec.affine {
                        for s in 0..spec.scales() {
                            let x_sum = if spec.halves { (*x_scale).half_sum(s) } else { (*x_scale).sum };
                            let minimum = self::scale::<F>(scales, spec.scales() + s);
                            *acc = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sum), *acc);
                        }
                    }
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            // SAFETY: half a row of sums is eight values.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * half), acc) };
        }
    }
}

/// Eight outputs' integers: register `j` holds inputs `4j..4j + 4` of each.
#[target_feature(enable = "avx2")]
unsafe fn weights<F: Form>(quants: *const u8) -> [__m256i; 8] {
    let mut weights = [_mm256_setzero_si256(); 8];
    // SAFETY: the caller's block has 64 bytes per group.
    unsafe {
        if F::SPEC.nibbles {
            let low = _mm256_set1_epi8(15);
            for j in 0..4 {
                let both = _mm256_load_si256(quants.add(64 * j).cast());
                weights[j] = _mm256_and_si256(both, low);
                weights[4 + j] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
        } else {
            for (j, weights) in weights.iter_mut().enumerate() {
                *weights = _mm256_load_si256(quants.add(64 * j).cast());
            }
        }
    }
    weights
}

/// Scale or minimum `vector` of eight outputs.
#[target_feature(enable = "avx2,f16c")]
unsafe fn scale<F: Form>(scales: *const u8, vector: usize) -> __m256 {
    // SAFETY: the caller's block has this vector.
    unsafe {
        let at = scales.add(vector * F::SPEC.lane_bytes());
        if F::SPEC.wide { _mm256_loadu_ps(at.cast()) } else { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

/// Exact sums of `(q - centre) * x`: over the block, or over each half of it.
#[target_feature(enable = "avx2")]
unsafe fn dots<F: Form>(weights: &[__m256i; 8], x: *const i8, x_scale: *const BlockScale) -> [__m256i; 2] {
    let spec = F::SPEC;
    // SAFETY: the block has 32 integers and a scale.
    unsafe {
        let x = |j: usize| _mm256_set1_epi32(x.cast::<i32>().add(j).read());
        let total8 = _mm256_set1_epi32((*x_scale).total8);
        if spec.peak > 63 {
            return [signed(weights, x), total8];
        }
        let sum = |from: usize, to: usize| unsigned::<F>(weights, x, from, to);
        match (spec.halves, spec.centre) {
            (false, 0) => [sum(0, 8), total8],
            (false, centre) => [_mm256_add_epi32(sum(0, 8), times8(total8, centre)), total8],
            (true, 0) => [sum(0, 4), sum(4, 8)],
            (true, centre) => {
                let high8 = _mm256_set1_epi32((*x_scale).high8);
                let low8 = _mm256_sub_epi32(total8, high8);
                [
                    _mm256_add_epi32(sum(0, 4), times8(low8, centre)),
                    _mm256_add_epi32(sum(4, 8), times8(high8, centre)),
                ]
            }
        }
    }
}

/// `centre / 8` times `v`.
#[target_feature(enable = "avx2")]
fn times8(v: __m256i, centre: i32) -> __m256i {
    match centre {
        4 => _mm256_srai_epi32(v, 1),
        8 => v,
        16 => _mm256_slli_epi32(v, 1),
        _ => _mm256_slli_epi32(v, 2),
    }
}

/// Sum over groups `from..to` of unsigned weights of at most six bits.
#[target_feature(enable = "avx2")]
fn unsigned<F: Form>(
    weights: &[__m256i; 8],
    x: impl Fn(usize) -> __m256i,
    from: usize,
    to: usize,
) -> __m256i {
    let run = match F::SPEC.peak {
        ..=15 => 8,
        16..=31 => 4,
        _ => 2,
    };
    let ones = _mm256_set1_epi16(1);
    let mut total = _mm256_setzero_si256();
    for start in (from..to).step_by(run) {
        let mut pairs = _mm256_maddubs_epi16(weights[start], x(start));
        for (j, weights) in weights.iter().enumerate().take(to.min(start + run)).skip(start + 1) {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*weights, x(j)));
        }
        let sums = _mm256_madd_epi16(pairs, ones);
        total = if start == from { sums } else { _mm256_add_epi32(total, sums) };
    }
    total
}

/// Sum over all groups of weights that are stored with 128 added.
#[target_feature(enable = "avx2")]
fn signed(weights: &[__m256i; 8], x: impl Fn(usize) -> __m256i) -> __m256i {
    let (ones, centre) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    let mut total = _mm256_setzero_si256();
    for (j, weights) in weights.iter().enumerate() {
        let w = _mm256_xor_si256(*weights, centre);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x(j), w));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, ones));
    }
    total
}

/// Quantizes one block of inputs, bit for bit as the portable version does.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize(x: &[f32; BLOCK]) -> ([i8; BLOCK], BlockScale) {
    // SAFETY: 32 values are four vectors.
    let x: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
    let magnitude = |v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
    let largest = _mm256_max_epi32(
        _mm256_max_epi32(magnitude(x[0]), magnitude(x[1])),
        _mm256_max_epi32(magnitude(x[2]), magnitude(x[3])),
    );
    let largest = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0b01_00_11_10));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0b10_11_00_01));
    let Some((scale, inverse)) = scale_of(f32::from_bits(_mm_cvtsi128_si32(largest) as u32)) else {
        return ([0; BLOCK], BlockScale::default());
    };
    if scale.is_nan() {
        return ([0; BLOCK], block_scale(scale, 0, 0));
    }
    let q = x.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(inverse))));
    let (low, high) = (_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    // Packing works within 128-bit lanes: the dwords come out as 0 4 | 1 5 of each pair.
    let packed =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let mut quants = [0; BLOCK];
    // SAFETY: 32 bytes take one vector.
    unsafe { _mm256_storeu_si256(quants.as_mut_ptr().cast(), packed) };
    (quants, block_scale(scale, total(low), total(high)))
}

/// Sum of sixteen 16-bit integers.
#[target_feature(enable = "avx2")]
fn total(v: __m256i) -> i32 {
    let v = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0b01_00_11_10));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0b10_11_00_01)))
}
