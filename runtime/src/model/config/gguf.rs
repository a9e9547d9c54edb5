//! Reads a model's description from the metadata and the tensor list of a GGUF file.

use super::{Biases, ConfigError, MAX_DIMENSION, ModelConfig, NormKind, RopeConfig, RopeScaling};
use crate::gguf::{GgufError, GgufFile, Header, Metadata};
use crate::model::family::{self, Family};

/// The keys of one architecture.
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    family: Family,
    architecture: &'a str,
}

/// Keys that change the results and that no family here has.
const FOREIGN: [&str; 7] = [
    "expert_count",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.max_alibi_bias",
    "attention.clamp_kqv",
    "rope.scaling.attn_factor",
];

/// Checks the metadata of `file` and reads the frequency factors, if it has any.
pub(crate) fn parse(file: &GgufFile) -> Result<ModelConfig, ConfigError> {
    let mut factors = None;
    if let Some(info) = file.header().tensors.get("rope_freqs.weight") {
        let mut bytes = Vec::new();
        file.read_range(info.range.clone(), &mut bytes).map_err(GgufError::from)?;
        factors = Some(
            bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
        );
    }
    parse_header(file.header(), factors)
}

/// The same, with the content of `rope_freqs.weight` already read.
pub(crate) fn parse_header(header: &Header, factors: Option<Vec<f32>>) -> Result<ModelConfig, ConfigError> {
    let architecture = header.metadata.get_str("general.architecture")?;
    let architecture = Metadata::require("general.architecture", architecture)?;
    let family = Family::of_gguf(architecture).ok_or_else(|| ConfigError::UnsupportedArchitecture {
        name: architecture.chars().take(80).collect(),
        supported: family::supported(),
    })?;
    let keys = Keys { metadata: &header.metadata, family, architecture };
    for foreign in FOREIGN {
        keys.refuse(foreign)?;
    }
    for refused in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        if header.tensors.contains_key(refused) {
            return Err(keys.unsupported("rope scaling", "longrope", "none, linear, llama3"));
        }
    }
    let mut config = keys.base(header, factors)?;
    (family.definition().configure_gguf)(&keys, &mut config)?;
    config.checked()
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn unsupported(&self, field: &str, got: &str, supported: &str) -> ConfigError {
        ConfigError::Unsupported {
            field: field.to_owned(),
            got: got.to_owned(),
            family: self.family.definition().name,
            supported: supported.to_owned(),
        }
    }

    fn refuse(&self, name: &str) -> Result<(), ConfigError> {
        let key = self.key(name);
        match self.metadata.get(&key) {
            None | Some(crate::gguf::Value::Unsigned(0) | crate::gguf::Value::Signed(0)) => Ok(()),
            Some(crate::gguf::Value::Float(value)) if *value == 0.0 || *value == 1.0 => Ok(()),
            Some(value) => Err(self.unsupported(&key, &format!("{value:?}"), "none")),
        }
    }

    /// A dimension, where there is one. An array whose entries all agree is its entry.
    pub(crate) fn optional_size(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        let key = self.key(name);
        if let Some(crate::gguf::Value::Array(_)) = self.metadata.get(&key) {
            let all = self.metadata.get_integers(&key)?.unwrap_or_default();
            let first = all.first().copied().and_then(|size| usize::try_from(size).ok());
            if all.iter().any(|size| Some(*size) != all.first().copied()) {
                return Err(self.unsupported(
                    &key,
                    "another number in every layer",
                    "one number for all layers",
                ));
            }
            return Ok(first.filter(|size| (1..=MAX_DIMENSION).contains(size)));
        }
        let Some(size) = self.metadata.get_u32(&key)? else { return Ok(None) };
        let size = size as usize;
        if size > MAX_DIMENSION {
            let expected = "a whole number up to 2^24".to_owned();
            return Err(ConfigError::Invalid { field: key, expected, got: size.to_string() });
        }
        Ok(Some(size).filter(|size| *size > 0))
    }

    fn size(&self, name: &str) -> Result<usize, ConfigError> {
        self.optional_size(name)?.ok_or_else(|| ConfigError::Missing(self.key(name)))
    }

    /// A finite number, where there is one.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f32>, ConfigError> {
        Ok(self.metadata.get_f32(&self.key(name))?)
    }

    fn base(&self, header: &Header, factors: Option<Vec<f32>>) -> Result<ModelConfig, ConfigError> {
        let hidden = self.size("embedding_length")?;
        let heads = self.size("attention.head_count")?;
        let head_dim = self.optional_size("attention.key_length")?.unwrap_or(hidden / heads);
        let value_dim = self.optional_size("attention.value_length")?.unwrap_or(head_dim);
        if value_dim != head_dim {
            let supported = "the attention.key_length";
            return Err(self.unsupported("attention.value_length", &value_dim.to_string(), supported));
        }
        let layers = self.size("block_count")?;
        let definition = self.family.definition();
        let has = |tensor: &str| header.tensors.contains_key(tensor);
        let table = header.tensors.get("token_embd.weight").map(|info| info.shape.as_slice());
        let Some([vocabulary, _]) = table else {
            return Err(ConfigError::Missing("tensor token_embd.weight".into()));
        };
        let eps = match definition.norm {
            NormKind::Rms { .. } => self.number("attention.layer_norm_rms_epsilon")?,
            NormKind::Layer => self.number("attention.layer_norm_epsilon")?,
        };
        Ok(ModelConfig {
            family: self.family,
            hidden,
            layers,
            heads,
            kv_heads: self.optional_size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            intermediate: self.size("feed_forward_length")?,
            vocabulary: *vocabulary,
            max_context: self.size("context_length")?,
            norm: match definition.norm {
                // The converter has added the one.
                NormKind::Rms { .. } => NormKind::Rms { unit_offset: false },
                NormKind::Layer => NormKind::Layer,
            },
            norm_eps: eps
                .ok_or_else(|| ConfigError::Missing(self.key("attention.layer_norm_rms_epsilon")))?,
            rope: self.rope(head_dim, factors)?,
            tied_head: !has("output.weight"),
            biases: Biases {
                qkv: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
                output: has("blk.0.attn_output.bias"),
                mlp: has("blk.0.ffn_down.bias"),
                head: has("output.bias"),
            },
            windows: vec![None; layers],
            attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            attention_cap: None,
            logit_cap: None,
            embedding_scale: 1.0,
            activation: definition.activation,
            query_key_norm: false,
        })
    }

    fn rope(&self, head_dim: usize, factors: Option<Vec<f32>>) -> Result<RopeConfig, ConfigError> {
        let theta = f64::from(self.number("rope.freq_base")?.unwrap_or(10000.0));
        if !(1.0..=1e15).contains(&theta) {
            let expected = "1 to 1e15".to_owned();
            return Err(ConfigError::Invalid {
                field: self.key("rope.freq_base"),
                expected,
                got: theta.to_string(),
            });
        }
        let rotary_dim = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        let factor = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        let kind = self.metadata.get_str(&self.key("rope.scaling.type"))?;
        let scaling = match (kind, factor, factors) {
            (None | Some("none" | "llama3"), _, Some(factors)) => RopeScaling::Factors(factors),
            (Some("none"), _, None) | (None, None, None) => RopeScaling::None,
            (None | Some("linear"), Some(factor), None) => RopeScaling::Linear { factor: f64::from(factor) },
            (kind, ..) => {
                let got = kind.unwrap_or("linear and rope_freqs");
                return Err(self.unsupported(&self.key("rope.scaling.type"), got, "none, linear, llama3"));
            }
        };
        let invalid = match &scaling {
            RopeScaling::Factors(factors) => {
                factors.len() != rotary_dim / 2
                    || factors.iter().any(|factor| !(factor.is_finite() && *factor > 0.0))
            }
            RopeScaling::Linear { factor } => *factor <= 0.0,
            _ => false,
        };
        if invalid {
            let expected = format!("{} positive numbers", rotary_dim / 2);
            return Err(ConfigError::Invalid {
                field: "rope factors".into(),
                expected,
                got: format!("{scaling:?}"),
            });
        }
        Ok(RopeConfig { theta, rotary_dim, scaling })
    }

    /// The window in every layer, where the file has one.
    pub(crate) fn window(&self) -> Result<Option<u32>, ConfigError> {
        Ok(self.optional_size("attention.sliding_window")?.map(|window| window as u32))
    }
}
