//! What a base model is: one checked description, whichever file and spelling it came in.
//!
//! Must not read files or hold weights. A value that would change the results and is not understood is refused.

use crate::gguf::GgufError;
use crate::model::family::Family;

pub(crate) mod gguf;
pub(crate) mod hugging_face;
pub(crate) mod rope;

pub use lorikeet_kernels::gate::Activation;
pub use rope::{RopeConfig, RopeScaling};

/// A base model's description. Everything that the forward pass depends on, apart from the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Its family.
    pub family: Family,
    /// The width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; they divide the query heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// The width of the MLP.
    pub intermediate: usize,
    /// Rows of the embedding and of the head.
    pub vocabulary: usize,
    /// The longest context that the model was made for.
    pub max_context: usize,
    /// What stands before the linears.
    pub norm: NormKind,
    /// Added to the variance.
    pub norm_eps: f32,
    /// How positions turn queries and keys.
    pub rope: RopeConfig,
    /// The head is the embedding's table.
    pub tied_head: bool,
    /// Which linears have a bias.
    pub biases: Biases,
    /// Per layer: how far back a row attends, itself included; `None` is all the way.
    pub windows: Vec<Option<u32>>,
    /// Multiplies the attention scores.
    pub attention_scale: f32,
    /// `cap * tanh(score / cap)` on attention scores.
    pub attention_cap: Option<f32>,
    /// The same on logits.
    pub logit_cap: Option<f32>,
    /// Multiplies the embedding.
    pub embedding_scale: f32,
    /// The MLP's function.
    pub activation: Activation,
    /// Every head of queries and keys is normed before it is turned.
    pub query_key_norm: bool,
}

/// A norm before a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms {
        /// The weight is stored without its one: `x * (1 + w)`.
        unit_offset: bool,
    },
    /// Mean and variance, with a bias.
    Layer,
}

/// Which linears have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Biases {
    pub qkv: bool,
    pub output: bool,
    pub mlp: bool,
    pub head: bool,
}

/// Why a description is refused. Names the field, what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("config.json: not a JSON object: {0}")]
    NotAnObject(String),
    /// An architecture that we do not have.
    #[error("architecture {name:?} is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// What came.
        name: String,
        /// The list of those that are.
        supported: String,
    },
    /// A field that has no default.
    #[error("{0}: missing")]
    Missing(String),
    /// A field of the wrong type or range.
    #[error("{field}: expected {expected}, got {got}")]
    Invalid {
        /// Its name.
        field: String,
        /// What would be right.
        expected: String,
        /// What came.
        got: String,
    },
    /// A feature that would change the results.
    #[error("{field}: {got} is not supported for {family}; supported: {supported}")]
    Unsupported {
        /// Its name.
        field: String,
        /// What came.
        got: String,
        /// The model's family.
        family: &'static str,
        /// What is.
        supported: String,
    },
    /// The metadata of a GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// No dimension of a model is larger: products of three stay far from overflow.
pub(crate) const MAX_DIMENSION: usize = 1 << 24;

impl ModelConfig {
    /// The width of the queries of all heads.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The width of the keys of all heads; that of the values is the same.
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Checks what its fields must be to each other.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        let invalid = |field: &str, expected: &str, got: String| {
            Err(ConfigError::Invalid { field: field.to_owned(), expected: expected.to_owned(), got })
        };
        if !self.heads.is_multiple_of(self.kv_heads) {
            let got = format!("{} of {}", self.kv_heads, self.heads);
            return invalid("num_key_value_heads", "a divisor of num_attention_heads", got);
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim > 1024 {
            return invalid("head_dim", "an even number up to 1024", self.head_dim.to_string());
        }
        let rotary = self.rope.rotary_dim;
        if !rotary.is_multiple_of(2) || rotary > self.head_dim {
            return invalid("rotary dimension", "an even number up to head_dim", rotary.to_string());
        }
        if self.query_width() > MAX_DIMENSION || self.layers > 4096 {
            return invalid("heads x head_dim, layers", "at most 2^24 and 4096", format!("{self:?}"));
        }
        for (field, value) in [
            ("norm eps", Some(self.norm_eps)),
            ("attention scale", Some(self.attention_scale)),
            ("attn_logit_softcapping", self.attention_cap),
            ("final_logit_softcapping", self.logit_cap),
        ] {
            if value.is_some_and(|value| !(value.is_finite() && value > 0.0)) {
                return invalid(field, "a positive number", format!("{value:?}"));
            }
        }
        if self.windows.iter().flatten().any(|window| *window == 0) {
            return invalid("sliding_window", "a positive number", "0".to_owned());
        }
        Ok(self)
    }
}
