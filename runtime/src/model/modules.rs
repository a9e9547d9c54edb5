//! Which named modules a base model has and where each lands in the fused linear layers. Pure: shapes, no weights.

use std::ops::Range;

/// The places of a decoder layer, and of the model, where a low-rank update can be added.
///
/// One site is one fused linear: the columns of `q`, `k` and `v` (and of `gate` and `up`) lie side by side, so that
/// an adapter costs two kernels a site, not two a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// `q | k | v` of the attention.
    Qkv,
    /// The attention's output projection.
    Output,
    /// `gate | up` of the MLP (a plain MLP: its first linear).
    GateUp,
    /// The MLP's last linear.
    Down,
    /// The token embedding.
    Embedding,
    /// The head that makes logits.
    Head,
}

/// One module of the Hugging Face checkpoint that an adapter can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its full path, as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Its layer; `None` for [`Site::Embedding`] and [`Site::Head`].
    pub layer: Option<usize>,
    /// The fused linear that it is part of.
    pub site: Site,
    /// Its columns in the fused linear's output: `0..outputs` where it is alone.
    pub columns: Range<usize>,
    /// The width of its input (of an embedding: the vocabulary).
    pub inputs: usize,
    /// It has a bias of its own.
    pub has_bias: bool,
}

impl Module {
    /// The width of its output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.columns.len()
    }

    /// The last part of its path: the name that `target_modules` uses.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// The shape of a base model, as far as anything outside the model needs to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// The architecture, as `llama`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// Rows of the head: the length of a logits row.
    pub vocabulary: usize,
    /// The longest context that the model was made for.
    pub max_context: usize,
    /// Bytes of one token's keys and values over all layers.
    pub kv_bytes_per_token: usize,
    /// Every linear module that the checkpoint has, ordered by layer and place.
    pub modules: Vec<Module>,
}

/// What the checkpoint holds, for what must be computed from the base weights (DoRA's norms).
pub trait BaseRows: Send + Sync {
    /// Writes row `output` of `module`'s weight, dequantized, into `row` (`module.inputs` values).
    fn row(&self, module: &Module, output: usize, row: &mut [f32]);
    /// The module's bias, where it has one: `module.outputs()` values.
    fn bias(&self, module: &Module) -> Option<Vec<f32>>;
}
