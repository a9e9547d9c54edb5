//! The norms before linears, and that of the heads of queries and keys.

use std::ops::Range;

use lorikeet_kernels::layer_norm::layer_norm;
use lorikeet_kernels::rms_norm::{rms_norm, rms_norm_heads};
use lorikeet_kernels::tensor::Tensor;

use crate::layers::pass::Pass;

/// A norm over the width of the residual stream.
pub(crate) enum Norm {
    /// `x / rms(x) * w`, or `* (1 + w)`.
    Rms { weight: Vec<f32>, unit_offset: bool, eps: f32 },
    /// `(x - mean) / deviation * w + b`.
    Layer { weight: Vec<f32>, bias: Vec<f32>, eps: f32 },
}

impl Norm {
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Tensor, out: &mut Tensor) {
        match self {
            Self::Rms { weight, unit_offset, eps } => {
                rms_norm(pass.device, x, weight, *unit_offset, *eps, out)
            }
            Self::Layer { weight, bias, eps } => layer_norm(pass.device, x, weight, bias, *eps, out),
        }
    }
}

/// A norm over every head of some columns.
pub(crate) struct HeadNorm {
    pub weight: Vec<f32>,
    pub eps: f32,
}

impl HeadNorm {
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &mut Tensor, columns: Range<usize>) {
        rms_norm_heads(pass.device, x, columns, self.weight.len(), &self.weight, self.eps);
    }
}
