//! The token embedding and the low-rank updates of its rows: `x = s (E[token] + s' B A[:, token])`.

use std::sync::Arc;

use lorikeet_kernels::embed::{embed, embed_low_rank};
use lorikeet_kernels::matrix::Matrix;
use lorikeet_kernels::tensor::Tensor;

use crate::layers::pass::Pass;
use crate::model::modules::Site;

/// The table `[vocabulary, hidden]` and what its rows are multiplied by.
pub(crate) struct Embedding {
    table: Arc<Matrix>,
    scale: f32,
}

impl Embedding {
    pub(crate) fn new(table: Arc<Matrix>, scale: f32) -> Self {
        Self { table, scale }
    }

    /// `out[rows, hidden]` of the batch's tokens.
    pub(crate) fn forward(&self, pass: &Pass<'_>, out: &mut Tensor) {
        embed(pass.device, &self.table, &pass.batch.tokens, self.scale, out);
        let segments = pass.segments(0, Site::Embedding);
        if !segments.is_empty() {
            embed_low_rank(pass.device, &pass.batch.tokens, &segments, self.scale, out);
        }
    }
}
