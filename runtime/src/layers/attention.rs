//! Attention over the paged cache: `o(softmax(s turn(q) turn(k)ᵀ) v)`, with `q | k | v` one fused linear.

use std::ops::Range;
use std::sync::Arc;

use lorikeet_kernels::kv_write::kv_write;
use lorikeet_kernels::paged_attention::{AttentionParams, paged_attention};
use lorikeet_kernels::rope::rope;
use lorikeet_kernels::tensor::Tensor;

use crate::layers::linear::Linear;
use crate::layers::norm::HeadNorm;
use crate::layers::pass::Pass;
use crate::layers::workspace::AttentionWork;
use crate::model::config::ModelConfig;

/// The attention of one layer.
pub(crate) struct Attention {
    layer: usize,
    qkv: Arc<Linear>,
    output: Arc<Linear>,
    head_norms: Option<(HeadNorm, HeadNorm)>,
    head_dim: usize,
    query_width: usize,
    key_width: usize,
    params: AttentionParams,
}

impl Attention {
    /// The attention of `layer`; `head_norms` are those of queries and keys.
    pub(crate) fn new(
        config: &ModelConfig,
        layer: usize,
        qkv: Arc<Linear>,
        output: Arc<Linear>,
        head_norms: Option<(HeadNorm, HeadNorm)>,
    ) -> Self {
        let params = AttentionParams {
            heads: config.heads,
            scale: config.attention_scale,
            window: config.windows[layer],
            soft_cap: config.attention_cap,
        };
        let (head_dim, query_width, key_width) = (config.head_dim, config.query_width(), config.key_width());
        Self { layer, qkv, output, head_norms, head_dim, query_width, key_width, params }
    }

    fn queries(&self) -> Range<usize> {
        0..self.query_width
    }

    fn keys(&self) -> Range<usize> {
        self.query_width..self.query_width + self.key_width
    }

    fn values(&self) -> Range<usize> {
        self.keys().end..self.keys().end + self.key_width
    }

    /// `out[rows, hidden]` of `x[rows, hidden]`. All keys and values of the step are written before any is read.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        x: &Tensor,
        work: &mut AttentionWork,
        out: &mut Tensor,
    ) {
        self.qkv.forward(pass, x, &mut work.qkv);
        if let Some((queries, keys)) = &self.head_norms {
            queries.forward(pass, &mut work.qkv, self.queries());
            keys.forward(pass, &mut work.qkv, self.keys());
        }
        let turned = 0..self.keys().end;
        rope(pass.device, pass.rope, &pass.batch.positions, &mut work.qkv, turned, self.head_dim);
        let (keys, values) = (self.keys(), self.values());
        kv_write(pass.device, pass.cache, self.layer, &pass.batch.slots, &work.qkv, keys, values);
        let place = (&*pass.cache, self.layer);
        let (queries, mixed) = (self.queries(), &mut work.mixed);
        paged_attention(pass.device, &work.qkv, queries, place, &pass.spans, &self.params, mixed);
        self.output.forward(pass, &work.mixed, out);
    }
}
