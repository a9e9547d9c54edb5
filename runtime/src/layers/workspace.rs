//! The buffers of a step, made once for the largest: a step allocates nothing that grows with the model.

use lorikeet_kernels::tensor::Tensor;

use crate::model::config::ModelConfig;

/// All buffers. Every tensor has one row a row of the batch, `logits` one a row that is wanted.
pub(crate) struct Workspace {
    /// `[rows, hidden]` the residual stream.
    pub hidden: Tensor,
    /// `[rows, hidden]` what a linear reads.
    pub normed: Tensor,
    /// `[rows, hidden]` what is added to the stream.
    pub update: Tensor,
    pub attention: AttentionWork,
    pub mlp: MlpWork,
    /// `[wanted, vocabulary]`.
    pub logits: Tensor,
}

/// The buffers of an attention.
pub(crate) struct AttentionWork {
    /// `[rows, q | k | v]`.
    pub qkv: Tensor,
    /// `[rows, q]` what the heads mix.
    pub mixed: Tensor,
}

/// The buffers of an MLP.
pub(crate) struct MlpWork {
    /// `[rows, gate | up]`, or `[rows, f]` of a plain one.
    pub first: Tensor,
    /// `[rows, f]`.
    pub gated: Tensor,
}

impl Workspace {
    /// Buffers for steps of up to `rows` rows and as many logits. Pages of memory are taken when they are first used.
    pub(crate) fn new(config: &ModelConfig, rows: usize) -> Self {
        let gated = config.family.definition().modules.gated;
        let first = if gated { 2 * config.intermediate } else { config.intermediate };
        Self {
            hidden: Tensor::zeros(rows, config.hidden),
            normed: Tensor::zeros(rows, config.hidden),
            update: Tensor::zeros(rows, config.hidden),
            attention: AttentionWork {
                qkv: Tensor::zeros(rows, config.query_width() + 2 * config.key_width()),
                mixed: Tensor::zeros(rows, config.query_width()),
            },
            mlp: MlpWork {
                first: Tensor::zeros(rows, first),
                gated: Tensor::zeros(if gated { rows } else { 0 }, config.intermediate),
            },
            logits: Tensor::zeros(rows, config.vocabulary),
        }
    }

    /// Sets all but the logits to `rows` rows.
    pub(crate) fn set_rows(&mut self, rows: usize) {
        let Self { hidden, normed, update, attention, mlp, logits: _ } = self;
        for tensor in [hidden, normed, update, &mut attention.qkv, &mut attention.mixed, &mut mlp.first] {
            tensor.set_rows(rows);
        }
        if mlp.gated.capacity() > 0 {
            mlp.gated.set_rows(rows);
        }
    }
}
