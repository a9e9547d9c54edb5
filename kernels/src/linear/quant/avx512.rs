//! The packed product with AVX-512 VNNI: sixteen outputs per register, `dpbusd` of unsigned weights with signed inputs.
//!
//! Where AVX2 takes the centre off after the sum, the sum starts from it here; the integers are the same.
#![allow(unsafe_code, reason = "vector instructions on raw rows")]

use std::arch::x86_64::*;

use super::activations::BlockScale;
use super::{Form, Job, Scales, ahead};
use crate::matrix::blocks::{BLOCK, TILE};

/// Rows at a time.
pub(super) const ROWS: usize = 6;

/// Sums of one tile for some rows.
///
/// # Safety
/// The processor has AVX-512 F and VNNI; `job` and `sums` belong together.
pub(super) unsafe fn tile<F: Form>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
    // SAFETY: as promised to this function.
    unsafe {
        match sums.len() {
            1 => rows_of::<F, 1>(job, sums),
            2 => rows_of::<F, 2>(job, sums),
            3 => rows_of::<F, 3>(job, sums),
            4 => rows_of::<F, 4>(job, sums),
            5 => rows_of::<F, 5>(job, sums),
            _ => rows_of::<F, 6>(job, sums),
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn rows_of<F: Form, const R: usize>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
    let spec = F::SPEC;
    let blocks = job.quants.len() / spec.quant_bytes();
    let (x, x_scales) = job.x.at_row(job.row);
    assert!(sums.len() == R && job.row + R <= job.x.rows() && blocks * BLOCK == job.x.k());
    let mut acc = [_mm512_setzero_ps(); R];
    for b in 0..blocks {
        // SAFETY: block `b` lies inside the tile; rows and blocks inside the inputs, as asserted.
        unsafe {
            let scales = Scales::<F>::at(job.scales, b);
            if job.first {
                ahead(job.quants.as_ptr().add(b * spec.quant_bytes()), spec.quant_bytes());
                ahead(scales.vectors, spec.scale_bytes());
            }
            let weights = weights::<F>(job.quants.as_ptr().add(b * spec.quant_bytes()));
            let scale: [__m512; 2] = [scale(scales, 0), scale(scales, spec.scales() - 1)];
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = x.add((r * blocks + b) * BLOCK);
                let x_scale = x_scales.add(r * blocks + b);
                let dots = dots::<F>(&weights, x, x_scale);
                let by = _mm512_set1_ps((*x_scale).scale);
                for s in 0..spec.scales() {
                    *acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[s]), _mm512_mul_ps(scale[s], by), *acc);
                }
                if spec.affine {
                    for s in 0..spec.scales() {
                        let x_sum = (*x_scale).sum_of::<F>(s);
                        let minimum = self::scale(scales, spec.scales() + s);
                        *acc = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x_sum), *acc);
                    }
                }
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        // SAFETY: a row of sums is sixteen values.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), acc) };
    }
}

/// Sixteen outputs' integers: register `j` holds inputs `4j..4j + 4` of each.
#[target_feature(enable = "avx512f")]
unsafe fn weights<F: Form>(quants: *const u8) -> [__m512i; 8] {
    let mut weights = [_mm512_setzero_si512(); 8];
    // SAFETY: the caller's block has 64 bytes per group.
    unsafe {
        if F::SPEC.nibbles {
            let low = _mm512_set1_epi32(0x0f0f_0f0f);
            for j in 0..4 {
                let both = _mm512_load_si512(quants.add(64 * j).cast());
                weights[j] = _mm512_and_si512(both, low);
                weights[4 + j] = _mm512_and_si512(_mm512_srli_epi32(both, 4), low);
            }
        } else {
            for (j, weights) in weights.iter_mut().enumerate() {
                *weights = _mm512_load_si512(quants.add(64 * j).cast());
            }
        }
    }
    weights
}

/// Scale or minimum `vector` of sixteen outputs.
#[target_feature(enable = "avx512f")]
unsafe fn scale<F: Form>(scales: Scales<F>, vector: usize) -> __m512 {
    // SAFETY: the caller's block has this vector.
    unsafe {
        let at = scales.vectors.add(vector * F::SPEC.vector_bytes());
        if !F::SPEC.factors {
            return _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        }
        let unit = scales.units.add(vector / F::SPEC.scales() * 2 * TILE);
        let factor = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast())));
        _mm512_mul_ps(factor, _mm512_cvtph_ps(_mm256_loadu_si256(unit.cast())))
    }
}

/// Exact sums of `(q - centre) * x`: over the block, or over each half of it.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dots<F: Form>(weights: &[__m512i; 8], x: *const i8, x_scale: *const BlockScale) -> [__m512i; 2] {
    let spec = F::SPEC;
    // SAFETY: the block has 32 integers and a scale.
    unsafe {
        let x = |j: usize| _mm512_set1_epi32(x.cast::<i32>().add(j).read());
        let (total8, high8) = ((*x_scale).total8, (*x_scale).high8);
        let start = |sum8: i32| {
            _mm512_set1_epi32(if spec.centre == 4 { sum8 >> 1 } else { sum8 * (spec.centre / 8) })
        };
        let first = if spec.halves { total8 - high8 } else { total8 };
        let mut sums = [start(first), start(if spec.halves { high8 } else { 0 })];
        // Two chains hide the latency; without halves they are added up.
        for j in 0..4 {
            sums[0] = _mm512_dpbusd_epi32(sums[0], weights[j], x(j));
            sums[1] = _mm512_dpbusd_epi32(sums[1], weights[4 + j], x(4 + j));
        }
        if spec.halves { sums } else { [_mm512_add_epi32(sums[0], sums[1]), sums[1]] }
    }
}
