//! The meaning of the packed product, and the kernel where there are no vectors.

use super::{Form, Job};
use crate::matrix::blocks::{TILE, quant, scale};

/// Sums of one tile for some rows.
///
/// # Safety
/// None needed: the signature is shared with the kernels that need a certain processor.
#[allow(unsafe_code, reason = "one signature for all kernels")]
pub(super) unsafe fn tile<F: Form>(job: Job<'_>, sums: &mut [[f32; TILE]]) {
    let spec = F::SPEC;
    for (r, sums) in sums.iter_mut().enumerate() {
        *sums = [0.0; TILE];
        let quants = job.quants.chunks_exact(spec.quant_bytes());
        for (b, quants) in quants.enumerate() {
            let (x, x_scale) = job.x.block(job.row + r, b);
            for (lane, sum) in sums.iter_mut().enumerate() {
                let product = |i: usize| (quant(spec, lane, i, quants) - spec.centre) * i32::from(x[i]);
                let each = x.len() / spec.scales();
                for s in 0..spec.scales() {
                    let whole: i32 = (s * each..(s + 1) * each).map(product).sum();
                    *sum = (whole as f32).mul_add(scale(spec, b, s, lane, job.scales) * x_scale.scale, *sum);
                }
                for s in 0..if spec.affine { spec.scales() } else { 0 } {
                    let x_sum = x_scale.sum_of::<F>(s);
                    *sum = scale(spec, b, spec.scales() + s, lane, job.scales).mul_add(x_sum, *sum);
                }
            }
        }
    }
}
