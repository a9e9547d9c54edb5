//! A fused linear and the low-rank updates of its rows: `y = x Wᵀ + b`, then `y += s (x Aᵀ) Bᵀ` by runs of rows.

use std::slice;
use std::sync::Arc;

use lorikeet_kernels::linear::linear;
use lorikeet_kernels::low_rank::low_rank;
use lorikeet_kernels::matrix::Matrix;
use lorikeet_kernels::tensor::Tensor;

use crate::layers::pass::Pass;
use crate::model::modules::Site;

/// One fused linear of the model.
pub(crate) struct Linear {
    parts: Parts,
    bias: Option<Vec<f32>>,
    layer: usize,
    site: Site,
}

/// The weights, side by side.
pub(crate) enum Parts {
    Own(Vec<Matrix>),
    /// The head of a tied model: the embedding's table.
    Shared(Arc<Matrix>),
}

impl Parts {
    fn matrices(&self) -> &[Matrix] {
        match self {
            Self::Own(parts) => parts,
            Self::Shared(table) => slice::from_ref(table),
        }
    }
}

impl Linear {
    /// The linear at `site` of `layer` (any number where the site is no layer's). The bias is that of all parts.
    pub(crate) fn new(layer: usize, site: Site, parts: Parts, bias: Option<Vec<f32>>) -> Self {
        Self { parts, bias, layer, site }
    }

    /// `out[rows, outputs]` of `x[rows, inputs]`.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Tensor, out: &mut Tensor) {
        let bias = self.bias.as_deref();
        linear(pass.device, x, self.parts.matrices(), bias, out);
        let segments = pass.segments(self.layer, self.site);
        if !segments.is_empty() {
            low_rank(pass.device, x, bias, &segments, out);
        }
    }

    /// Bytes in memory, shared ones not counted.
    pub(crate) fn bytes(&self) -> u64 {
        let parts = match &self.parts {
            Parts::Own(parts) => parts.iter().map(Matrix::bytes).sum(),
            Parts::Shared(_) => 0,
        };
        (parts + self.bias.as_ref().map_or(0, |bias| bias.len() * 4)) as u64
    }

    /// Writes the weights of output `column` of the fused linear.
    pub(crate) fn row(&self, column: usize, out: &mut [f32]) {
        let mut index = column;
        for part in self.parts.matrices() {
            if index < part.n() {
                return part.row(index, out);
            }
            index -= part.n();
        }
    }

    /// The bias of all parts.
    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}
